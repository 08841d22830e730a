"""What is compiled for one network, machine or program is not taken for another's."""

import pytest
import torch
from torch import Tensor, nn

from cli_tiny import tiny_model
from models_tiny import random
from safelight.engines import signature as subject
from safelight.engines.signature import signature, structure
from safelight.models.deltas import LowRank
from safelight.models.layers import wrapped
from safelight.models.unet import UNet


@pytest.fixture
def unet() -> UNet:
    return tiny_model().network.unet


def test_weights_are_no_part_of_it(unet: UNet) -> None:
    assert signature(unet, "x") == signature(tiny_model(1).network.unet, "x")


def test_structure_settings_types_and_what_is_asked_are(unet: UNet) -> None:
    known = {signature(unet, "x"), signature(unet, "y")}
    with wrapped(unet, x=True):
        known.add(signature(unet, "x"))
    layer = unet.down_blocks[0].resnets[0].conv1  # type: ignore[index,union-attr]
    for scale in (1.0, 1.0000001):
        layer.deltas["one"] = LowRank(random(16, 2), random(2, 144), scale=scale)  # type: ignore[union-attr,index,operator]
        known.add(signature(unet, "x"))
    del layer.deltas["one"]  # type: ignore[union-attr,operator]
    unet.bfloat16()
    known.add(signature(unet, "x"))
    assert len(known) == 6


def test_threads_versions_and_processors_are(unet: UNet, monkeypatch: pytest.MonkeyPatch) -> None:
    known = {signature(unet)}
    for name, value in (
        ("_processor", lambda: "another"),
        ("__version__", "0.0.0"),
        ("sources", lambda module: "edited"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(subject, name, value)
            known.add(signature(unet))
    with monkeypatch.context() as patch:
        patch.setattr(torch, "get_num_threads", lambda: 99)
        known.add(signature(unet))
    assert len(known) == 5


class Secretive(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.how = lambda x: x

    def forward(self, x: Tensor) -> Tensor:
        return x


def test_a_setting_that_cannot_be_told_is_refused() -> None:
    with pytest.raises(TypeError, match=r"Secretive\.how is a function"):
        list(structure(nn.Sequential(Secretive())))
