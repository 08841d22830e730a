"""Crops told after the fact are those told from the start."""

from dataclasses import replace

import pytest
import torch

from safelight.condition import Condition
from safelight.errors import RequestError
from safelight.families import REFINER_TEXT, SD1_TEXT, SDXL_TEXT
from safelight.models.layers import timestep_embedding
from safelight.text.spec import Size, TextSpec
from safelight.text.told_crop import with_crop


def told(spec: TextSpec, size: Size) -> Condition:
    """A condition of three texts, with the sizes as the conditioner puts them."""
    numbers = torch.tensor(size.numbers(spec.vector))
    sizes = timestep_embedding(numbers, spec.size_width).flatten().expand(3, -1)
    pooled = torch.randn(3, 20, generator=torch.Generator().manual_seed(1))
    return Condition(torch.zeros(3, 5, 4), vector=torch.cat([pooled, sizes], dim=1))


@pytest.mark.parametrize("spec", [SDXL_TEXT, replace(REFINER_TEXT, size_width=32)])
def test_a_crop_told_later_is_the_crop_told_at_once(spec: TextSpec) -> None:
    size = Size(768, 1024, original=(700, 900), crop=(0, 0))
    later = with_crop(told(spec, size), spec, 64, 512)
    at_once = told(spec, replace(size, crop=(64, 512)))
    assert later.vector is not None and at_once.vector is not None
    assert torch.equal(later.vector, at_once.vector)
    assert torch.equal(later.context, at_once.context)


def test_families_that_know_no_crops_are_told_nothing() -> None:
    plain = Condition(torch.zeros(1, 5, 4))
    assert with_crop(plain, SD1_TEXT, 64, 512) is plain


def test_a_condition_without_sizes_is_refused() -> None:
    with pytest.raises(RequestError, match="holds no sizes"):
        with_crop(Condition(torch.zeros(1, 5, 4)), SDXL_TEXT, 0, 0)
    with pytest.raises(RequestError, match="holds no sizes"):
        with_crop(Condition(torch.zeros(1, 5, 4), vector=torch.zeros(1, 9)), SDXL_TEXT, 0, 0)
