"""A control network that overflows is named as such, and answered in float32."""

import torch

from cli_tiny import tiny_model
from models_tiny import random, randomised
from safelight.condition import Condition, Control
from safelight.engines.sentinel import finite, watch
from safelight.engines.watched import CONTROLLED, PART, Watched
from safelight.models.backbone import Backbone
from safelight.models.controlnet import controlnet_of


def test_an_overflow_in_a_control_network_is_not_blamed_on_the_unet() -> None:
    unet = tiny_model().network.unet.half()
    net = randomised(controlnet_of(unet.float(), widths=(4, 4, 4, 4)), 3)
    unet.half()
    with torch.no_grad():
        # itself within float16, and beyond it once it has seen the latents
        net.conv_in.weight.mul_(6e4 / net.conv_in.weight.abs().max())
    net.half()
    image = random(1, 3, 64, 64).sigmoid()
    context = random(1, 77, unet.config.context_width)
    controlled = Condition(context, controls=(Control("control_0", image, scale=1e-6),))
    backbone = Backbone(unet, control_networks={"control_0": net})
    x, time = random(1, 4, 8, 8), torch.tensor([500.0])
    with watch() as sentinel, torch.no_grad():
        output = Watched(backbone, sentinel)(x, time, controlled)
    assert finite(output)
    (incident,) = sentinel.incidents
    assert incident.part == CONTROLLED and incident.block.startswith("control_0")
    assert net.conv_in.weight.dtype == unet.dtype == torch.float16
    with watch() as sentinel, torch.no_grad():
        Watched(Backbone(unet), sentinel)(x, time, Condition(context))
    assert not sentinel.incidents and PART in CONTROLLED
