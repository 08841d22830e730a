"""Kinds of control: what a control network was taught to follow, and how its file says so."""

import re
from collections.abc import Mapping
from types import MappingProxyType

KINDS: Mapping[str, str] = MappingProxyType(
    {
        "canny": "thin edges",
        "soft_edge": "soft edges (HED, PiDi)",
        "lineart": "lines of a drawing",
        "scribble": "strokes",
        "mlsd": "straight lines",
        "depth": "depth, white is near",
        "normal": "normals of surfaces",
        "pose": "poses of people",
        "segmentation": "segments in the colours of ADE20K",
        "tile": "a picture without its detail, or blurred",
        "colour": "a grid of colours",
        "shuffle": "colours and textures without layout",
        "inpaint": "a picture with a hole",
        "instruct": "the picture that is to be changed",
        "brightness": "dark and light, as of a QR code",
    }
)
"""What each kind of control shows."""

_WORDS: Mapping[str, str] = MappingProxyType(
    {
        "canny": "canny",
        "softedge": "soft_edge",
        "hed": "soft_edge",
        "pidi": "soft_edge",
        "pidinet": "soft_edge",
        "teed": "soft_edge",
        "lineart": "lineart",
        "sketch": "scribble",
        "scribble": "scribble",
        "mlsd": "mlsd",
        "depth": "depth",
        "midas": "depth",
        "zoe": "depth",
        "normal": "normal",
        "normalbae": "normal",
        "normalmap": "normal",
        "openpose": "pose",
        "densepose": "pose",
        "dwpose": "pose",
        "pose": "pose",
        "seg": "segmentation",
        "segmentation": "segmentation",
        "tile": "tile",
        "blur": "tile",
        "color": "colour",
        "colour": "colour",
        "shuffle": "shuffle",
        "inpaint": "inpaint",
        "inpainting": "inpaint",
        "ip2p": "instruct",
        "brightness": "brightness",
        "qrcode": "brightness",
    }
)


def kind_of(name: str) -> str | None:
    """The kind of control that a network's file name tells of; None if none or several.

    `control_v11p_sd15_canny`, `diffusers_xl_depth_mid`, `t2iadapter_color_sd14v1`; not a union's.
    """
    words = re.findall(r"[a-z0-9]+", name.lower().replace("soft-edge", "softedge"))
    found = {_WORDS[word] for word in words if word in _WORDS}
    return found.pop() if len(found) == 1 else None
