"""The same for a LoRA."""

from safelight.benchmarks.peers.serving import neighbour

_peer = neighbour("diffusers_trainer")

LoraTrainer = _peer.LoraTrainer
TARGETS = _peer.TARGETS
