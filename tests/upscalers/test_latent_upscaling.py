"""The step between two passes: latents by A1111's names, sizes by its rule."""

import pytest
import torch
from torch.nn import functional as F

from models_tiny import random
from safelight.errors import RequestError
from safelight.upscalers.latent import (
    LATENT_UPSCALERS,
    Growth,
    enlarged_latents,
    growth,
    latent_upscaler,
    second_steps,
)


def test_the_names_are_those_of_a1111() -> None:
    assert list(LATENT_UPSCALERS) == [
        "Latent",
        "Latent (antialiased)",
        "Latent (bicubic)",
        "Latent (bicubic antialiased)",
        "Latent (nearest)",
        "Latent (nearest-exact)",
    ]


@pytest.mark.parametrize("name", LATENT_UPSCALERS)
@pytest.mark.parametrize("size", [(16, 20), (9, 13), (5, 3)])
def test_each_does_what_torch_calls_so(name: str, size: tuple[int, int]) -> None:
    x = random(2, 4, 8, 10)
    inner = name.partition("(")[2].rstrip(")")
    mode = inner.removesuffix("antialiased").strip() or "bilinear"
    expected = F.interpolate(x, size=size, mode=mode, antialias="antialiased" in inner)
    assert torch.equal(enlarged_latents(x, *size, name), expected)


def test_names_are_found_in_any_case_and_others_are_refused() -> None:
    assert latent_upscaler(" latent (Bicubic) ") == "Latent (bicubic)"
    assert latent_upscaler("Lanczos") is None
    with pytest.raises(RequestError, match=r"choose one of Latent, Latent \(antialiased\)"):
        enlarged_latents(random(1, 4, 8, 8), 16, 16, "Lanczos")


@pytest.mark.parametrize(
    ("settings", "size", "frame"),
    [
        ({}, (1024, 1536), (1024, 1536)),
        ({"scale": 1.5}, (768, 1152), (768, 1152)),
        ({"scale": 1.3}, (664, 992), (664, 992)),  # 665.6 x 998.4, down to whole latents
        ({"width": 1024}, (1024, 1536), (1024, 1536)),
        ({"height": 1024}, (680, 1024), (680, 1024)),  # 682.7 wide
        ({"width": 1024, "height": 1024}, (1024, 1536), (1024, 1024)),
        ({"width": 640, "height": 1536}, (1024, 1536), (640, 1536)),
        ({"width": 1024, "height": 1536}, (1024, 1536), (1024, 1536)),
    ],
)
def test_a_picture_grows_by_a_factor_or_to_cover_a_frame(
    settings: dict[str, float], size: tuple[int, int], frame: tuple[int, int]
) -> None:
    assert growth((512, 768), **settings) == Growth(size, frame)  # type: ignore[arg-type]


def test_what_sticks_out_of_the_frame_is_cut_on_both_sides() -> None:
    grown = Growth((104, 64), (80, 64))
    x = torch.arange(13.0).expand(1, 4, 8, 13)
    assert grown.cut(x)[0, 0, 0].tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]
    assert torch.equal(Growth((104, 64), (104, 64)).cut(x), x)


@pytest.mark.parametrize("settings", [{"scale": 0}, {"scale": -1}, {"width": -8}, {"scale": 0.001}])
def test_sizes_that_make_no_picture_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(RequestError, match="second pass"):
        growth((512, 768), **settings)  # type: ignore[arg-type]


def test_no_number_of_second_steps_means_as_many_as_the_first() -> None:
    assert (second_steps(20), second_steps(20, 0), second_steps(20, 7)) == (20, 20, 7)
