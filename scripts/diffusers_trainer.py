"""Diffusers' example of training, as `safelight bench --work train` runs it, for scripts."""

from safelight.benchmarks.peers.serving import neighbour

_peer = neighbour("diffusers_trainer")

Encoded = _peer.Encoded
PictureFiles = _peer.PictureFiles
Row = _peer.Row
Trainer = _peer.Trainer
predicted = _peer.predicted
