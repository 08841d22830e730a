"""Pictures made larger by networks: in tiles as in one piece, to a size, round the ends."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from models_tiny import randomised
from safelight.errors import RequestError
from safelight.models.layers import Wrap
from safelight.models.super_resolution import CompactConfig, RrdbConfig
from safelight.upscalers.network import Upscaler, upscaler_of
from safelight.upscalers.pixels import PixelTiles, resampled, upscaled, upscaled_to


def picture(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def named(network: object, scale: int) -> Upscaler:
    return Upscaler("toy", network, scale, "toy")  # type: ignore[arg-type]


def repeated(scale: int) -> Upscaler:
    """Each pixel repeated: what comes out is known."""
    return named(lambda x: F.interpolate(x, scale_factor=float(scale), mode="nearest"), scale)


@pytest.fixture(scope="module")
def compact() -> Upscaler:
    """It sees 4 pixels far."""
    return upscaler_of(randomised(CompactConfig(3, 8, 2, 2).build()), "compact")  # type: ignore[arg-type]


@pytest.mark.parametrize("overlap", [0, 1, 7, 16])
@pytest.mark.parametrize("shape", [(5, 9), (32, 33), (70, 41), (1, 100)])
def test_tiles_of_repeated_pixels_leave_no_trace(shape: tuple[int, int], overlap: int) -> None:
    pixels = picture(*shape)
    larger = upscaled(pixels, repeated(3), PixelTiles(32, overlap))
    assert np.array_equal(larger, pixels.repeat(3, 0).repeat(3, 1))


@pytest.mark.parametrize("shape", [(40, 90), (77, 33), (64, 64)])
def test_tiles_are_as_one_piece_if_they_share_four_times_what_the_network_sees(
    compact: Upscaler, shape: tuple[int, int]
) -> None:
    pixels = picture(*shape)
    whole = upscaled(pixels, compact, None)
    tiled = upscaled(pixels, compact, PixelTiles(32, 16))
    assert np.abs(tiled.astype(int) - whole.astype(int)).max() <= 1  # of rounding alone
    assert (tiled != whole).mean() < 1e-3
    apart = upscaled(pixels, compact, PixelTiles(32, 0))
    assert np.abs(apart.astype(int) - whole.astype(int)).max() > 1


def test_an_esrgan_network_is_as_one_piece_too() -> None:
    net = randomised(RrdbConfig(3, 4, 4, 1, 2).build())
    net.conv_last.bias = torch.nn.Parameter(torch.full((3,), 0.5))  # type: ignore[union-attr]
    upscaler = upscaler_of(net, "esrgan")  # type: ignore[arg-type]
    pixels = picture(60, 150)
    whole = upscaled(pixels, upscaler, None)
    tiled = upscaled(pixels, upscaler, PixelTiles(100, 50))
    assert whole.shape == (240, 600, 3) and whole.std() > 10
    assert np.abs(tiled.astype(int) - whole.astype(int)).max() <= 1


def test_the_network_sees_no_more_than_a_tile_and_progress_is_told() -> None:
    seen: list[tuple[int, ...]] = []
    told: list[tuple[int, int]] = []

    def network(x: Tensor) -> Tensor:
        seen.append(tuple(x.shape))
        return x.repeat_interleave(2, 2).repeat_interleave(2, 3)

    upscaled(
        picture(50, 70), named(network, 2), PixelTiles(32, 8), watch=lambda *at: told.append(at)
    )
    assert max(max(shape[2:]) for shape in seen) == 32
    assert told == [(i, 6) for i in range(1, 7)] and len(seen) == 6


@pytest.mark.parametrize("tiles", [None, PixelTiles(32, 16)])
def test_a_picture_that_goes_round_stays_so(compact: Upscaler, tiles: PixelTiles | None) -> None:
    pixels = picture(48, 64)
    wrap = Wrap(x=True, y=True)
    larger = upscaled(pixels, compact, tiles, wrap=wrap)
    rolled = upscaled(np.roll(pixels, (11, 25), (0, 1)), compact, tiles, wrap=wrap)
    assert larger.shape == (96, 128, 3)
    difference = np.roll(larger, (22, 50), (0, 1)).astype(int) - rolled.astype(int)
    assert np.abs(difference).max() <= 1
    plain = upscaled(np.roll(pixels, (11, 25), (0, 1)), compact, tiles)
    assert np.abs(plain.astype(int) - rolled.astype(int)).max() > 1


def test_a_network_that_makes_another_size_than_it_says_is_refused() -> None:
    with pytest.raises(RequestError, match="no upscaler of pictures"):
        upscaled(picture(8, 8), named(lambda x: x, 2))


@pytest.mark.parametrize(("size", "overlap"), [(4, 0), (32, 17), (32, -1)])
def test_tiles_that_share_too_much_are_refused(size: int, overlap: int) -> None:
    with pytest.raises(RequestError, match="at most half"):
        PixelTiles(size, overlap)


# -- to a size ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "passes"), [((16, 16), 0), ((20, 20), 1), ((32, 32), 1), ((33, 8), 2), ((640, 8), 3)]
)
def test_the_network_runs_until_the_picture_is_large_enough(
    size: tuple[int, int], passes: int
) -> None:
    runs: list[int] = []
    twice = repeated(2)
    counting = named(lambda x: (runs.append(x.shape[3]), twice.network(x))[1], 2)
    pixels = picture(16, 16)
    larger = upscaled_to(pixels, size, counting)
    assert len(runs) == passes
    expected = Image.fromarray(pixels.repeat(2**passes, 0).repeat(2**passes, 1))
    assert np.array_equal(larger, np.array(expected.resize(size, Image.Resampling.LANCZOS)))


def test_a_network_that_restores_runs_once() -> None:
    runs: list[int] = []
    negative = named(lambda x: (runs.append(1), 1 - x)[1], 1)
    pixels = picture(16, 16)
    assert np.array_equal(upscaled_to(pixels, (16, 16), negative), 255 - pixels)
    assert upscaled_to(pixels, (32, 48), negative).shape == (48, 32, 3)
    assert len(runs) == 2


def test_a_size_without_pixels_is_refused() -> None:
    with pytest.raises(RequestError, match="1 pixel or more"):
        upscaled_to(picture(8, 8), (0, 8), repeated(2))


def test_the_result_is_clamped_rounded_and_in_colour_order() -> None:
    odd = named(lambda x: torch.cat([x[:, :1] - 2, x[:, 1:2] + 2, x[:, 2:]], 1), 1)
    pixels = picture(9, 9)
    larger = upscaled(pixels, odd)
    assert (larger[..., 0] == 0).all() and (larger[..., 1] == 255).all()
    assert np.array_equal(larger[..., 2], pixels[..., 2])


@pytest.mark.parametrize(
    ("name", "filter_"),
    [
        ("Lanczos", Image.Resampling.LANCZOS),
        ("none", Image.Resampling.LANCZOS),
        (" NEAREST", Image.Resampling.NEAREST),
    ],
)
def test_upscalers_without_a_network_resample(name: str, filter_: Image.Resampling) -> None:
    pixels = picture(9, 12)
    expected = np.array(Image.fromarray(pixels).resize((25, 17), filter_))
    assert np.array_equal(resampled(pixels, (25, 17), name), expected)


def test_unknown_upscalers_are_refused_by_name() -> None:
    with pytest.raises(RequestError, match="choose one of None, Lanczos, Nearest"):
        resampled(picture(8, 8), (9, 9), "Latent")
