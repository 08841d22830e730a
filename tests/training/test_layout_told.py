"""Before a kind is taught that not every program opens under kohya's names, that is said."""

import re

import pytest
import torch
from torch import nn

from safelight.adapters.trainable import Size, trainable
from safelight.models.layers import Linear
from safelight.training.recipes.adapting import readers
from safelight.training.taught_layers import TaughtLayers


def learning(kind: str) -> TaughtLayers:
    network, draws = nn.Sequential(Linear(8, 8)), torch.Generator().manual_seed(0)
    deltas = trainable(network, kind, ["0"], size=Size(rank=2), generator=draws)
    return TaughtLayers({"unet": deltas})


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("dora", "this DoRA .* leaves out its magnitudes .* draws something else; for Diffusers"),
        ("lokr", "this LoKr .* Diffusers refuses it; for Diffusers give --layout diffusers"),
        ("loha", "this LoHa .* Diffusers refuses it; for PEFT"),
    ],
)
def test_a_kind_that_diffusers_does_not_draw_is_told_for_kohyas_names_alone(
    kind: str, words: str
) -> None:
    layers = learning(kind)
    (told,) = readers(layers, "kohya")
    assert re.fullmatch(f".*{words}.*", told)
    assert readers(layers, "diffusers") == ()


@pytest.mark.parametrize("kind", ["lora", "ia3", "oft"])
def test_nothing_is_said_of_the_others(kind: str) -> None:
    assert readers(learning(kind), "kohya") == ()
