"""The named colours, as `safelight.measures.colours` has them: what draws and what judges agree."""

from safelight.measures.colours import (
    BACKGROUNDS,
    COLOUR_WORDS,
    LAB,
    NAMES,
    RECOLOUR_NAMES,
    RECOLOURS,
    RGB,
    distance,
    hsv_rgb,
    lab,
    nearest_colour,
    nearest_colours,
)

__all__ = [
    "BACKGROUNDS",
    "COLOUR_WORDS",
    "LAB",
    "NAMES",
    "RECOLOURS",
    "RECOLOUR_NAMES",
    "RGB",
    "distance",
    "hsv_rgb",
    "lab",
    "nearest_colour",
    "nearest_colours",
]
