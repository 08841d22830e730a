"""Settings that pictures carry, in the ways of the programs that wrote them.

`reader.read_settings(path)` is the door. One file per program turns its texts into a `Reading`.
"""
