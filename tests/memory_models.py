"""A model of many layers of middling size, to see what part of it is in memory at once."""

from dataclasses import replace

import torch

from cli_tiny import tiny_model
from safelight.model import Model
from safelight.models.backbone import Backbone
from safelight.models.unet import UNet


def many_layers(seed: int = 0) -> Model:
    """A model of some 260 MB in float32, whose largest tensor is of 13 MB."""
    torch.manual_seed(seed)
    made = tiny_model(seed)
    unet = replace(
        made.family.backbone,
        channels=(128, 256),
        depths=((6, 6), (6, 6)),
        heads=(2, 4),
        mid_depth=6,
    )
    family = replace(made.family, backbone=unet)
    return replace(made, family=family, network=Backbone(UNet(unet)))
