"""Pictures to control maps: edges, lines, tones, holes; `maps.control_map` makes any by name."""
