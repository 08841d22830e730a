"""Everything that is done to pixels and masks before and after a model paints.

Pixels are uint8 (H, W, 3) RGB; masks are float32 (H, W), 0 keep to 1 paint. Nothing here needs a
model, and nothing changes what it is given: every function returns a new array.
"""
