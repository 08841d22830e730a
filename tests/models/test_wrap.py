"""Pictures that continue at their other side: rolling what goes in rolls what comes out."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from models_tiny import distance, random, randomised
from safelight.errors import RequestError
from safelight.models.autoencoder import AutoencoderConfig, Codec, CodecConfig
from safelight.models.deltas import LowRank
from safelight.models.layers import NO_WRAP, Conv2d, Downsample, Wrap, wrapped
from safelight.models.taesd import TinyAutoencoderConfig
from safelight.models.tiling import Bands, Tiles, by_tiles, tile_spans
from safelight.models.unet import UNet, UNetConfig, heads_of_width

NEAR = 5e-5  # of the deviation, where only rounding may differ
BOTH = [Wrap(x=True), Wrap(y=True), Wrap(x=True, y=True)]


def codec_of(config: AutoencoderConfig | TinyAutoencoderConfig) -> Codec:
    codec = CodecConfig(config, scale=0.18215).build()
    randomised(codec.autoencoder)  # type: ignore[arg-type]
    return codec


@pytest.fixture(scope="module")
def codec() -> Codec:
    return codec_of(AutoencoderConfig(widths=(8, 8, 16, 16), groups=4, layers=1))


@pytest.fixture(scope="module")
def unet() -> UNet:
    config = UNetConfig(
        channels=(32, 64),
        depths=((1, 1), (1, 1)),
        mid_depth=1,
        heads=heads_of_width((32, 64), 32),
        context_width=16,
    )
    return randomised(UNet(config))  # type: ignore[return-value]


def shift(wrap: Wrap, rows: int, columns: int) -> tuple[int, int]:
    return (rows if wrap.y else 0, columns if wrap.x else 0)


def rolled(x: Tensor, by: tuple[int, int], zoom: int = 1) -> Tensor:
    return x.roll((zoom * by[0], zoom * by[1]), (2, 3))


# -- layers ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrap", BOTH)
@pytest.mark.parametrize(
    ("kernel", "stride", "padding"), [(3, 1, 1), (3, 2, 1), (5, 1, 2), (1, 1, 0)]
)
def test_a_convolution_pads_with_the_other_end(
    wrap: Wrap, kernel: int, stride: int, padding: int
) -> None:
    conv = Conv2d(3, 4, kernel, stride=stride, padding=padding)
    x = random(2, 3, 8, 6)
    with wrapped(conv, x=wrap.x, y=wrap.y):
        ours = conv(x)
    around = F.pad(x, (padding,) * 2 + (0, 0), mode="circular" if wrap.x else "constant")
    around = F.pad(around, (0, 0) + (padding,) * 2, mode="circular" if wrap.y else "constant")
    assert torch.allclose(ours, F.conv2d(around, conv.weight, conv.bias, stride), atol=1e-6)


def test_what_was_set_is_restored_whatever_happens() -> None:
    down = Downsample(4)
    x = random(1, 4, 8, 8)
    plain = down(x)
    down.conv.wrap = Wrap(y=True)
    with pytest.raises(RequestError, match="a map 7 wide"), wrapped(down, down.conv, x=True):
        down(random(1, 4, 8, 7))
    assert down.conv.wrap == Wrap(y=True)
    down.conv.wrap = NO_WRAP
    assert torch.equal(down(x), plain)


def test_the_deltas_of_a_convolution_go_round_with_it() -> None:
    conv = Conv2d(3, 3, 3, padding=1)
    conv.deltas["style"] = LowRank(random(3, 2, 1, 1), random(2, 3, 3, 3))
    x = random(1, 3, 8, 8)
    with wrapped(conv, x=True, y=True):
        assert torch.allclose(conv(rolled(x, (3, 5))), rolled(conv(x), (3, 5)), atol=1e-6)


@pytest.mark.parametrize("asymmetric", [False, True])
def test_ends_that_would_not_meet_again_are_refused(asymmetric: bool) -> None:
    down = Downsample(4, asymmetric=asymmetric)
    with wrapped(down, x=True):
        assert down(random(1, 4, 7, 8)).shape[3] == 4  # the other axis is not asked to go round
        with pytest.raises(RequestError, match=r"a map 7 wide .* multiple of 64 pixels"):
            down(random(1, 4, 8, 7))


# -- networks -------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("wrap", BOTH)
def test_rolling_the_latents_rolls_what_the_unet_says(unet: UNet, wrap: Wrap) -> None:
    x, told = random(1, 4, 8, 12), (torch.tensor([300.0]), random(1, 5, 16))
    by = shift(wrap, 2, 6)  # multiples of the strides together
    with wrapped(unet, x=wrap.x, y=wrap.y):
        ours = unet(x, *told)
        assert distance(unet(rolled(x, by), *told), rolled(ours, by)) <= NEAR
    plain = unet(x, *told)
    assert distance(unet(rolled(x, by), *told), rolled(plain, by)) > 0.1


@torch.no_grad()
@pytest.mark.parametrize("wrap", BOTH)
def test_rolling_the_latents_rolls_the_picture_and_back(codec: Codec, wrap: Wrap) -> None:
    latents, by = random(1, 4, 6, 8), shift(wrap, 1, 3)
    picture = codec.decode(latents, wrap=wrap)
    assert distance(codec.decode(rolled(latents, by), wrap=wrap), rolled(picture, by, 8)) <= NEAR
    mean = codec.encode(picture, wrap=wrap).mean
    again = codec.encode(rolled(picture, by, 8), wrap=wrap).mean
    assert distance(again, rolled(mean, by)) <= NEAR
    assert distance(codec.decode(rolled(latents, by)), rolled(codec.decode(latents), by, 8)) > 0.1


@torch.no_grad()
def test_a_tiny_autoencoder_goes_round_too() -> None:
    codec = codec_of(TinyAutoencoderConfig(width=8, blocks=(1, 1, 1, 1)))
    latents, wrap, by = random(1, 4, 6, 8), Wrap(x=True, y=True), (1, 3)
    picture = codec.decode(latents, wrap=wrap)
    assert distance(codec.decode(rolled(latents, by), wrap=wrap), rolled(picture, by, 8)) <= NEAR


@torch.no_grad()
@pytest.mark.parametrize("wrap", BOTH)
@pytest.mark.parametrize("pixels", [1, 50, 10**9])
def test_bands_go_round_as_the_whole_does(codec: Codec, wrap: Wrap, pixels: int) -> None:
    latents, images = random(2, 4, 3, 4), random(2, 3, 24, 32)
    bands = Bands(pixels)
    whole = codec.decode(latents, wrap=wrap)
    assert distance(codec.decode(latents, tile=bands, wrap=wrap), whole) <= 1e-4
    mean = codec.encode(images, wrap=wrap).mean
    assert distance(codec.encode(images, tile=bands, wrap=wrap).mean, mean) <= 1e-4


# -- tiles ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [9, 10, 17, 40])
@pytest.mark.parametrize("overlap", [0, 3, 7])
def test_tiles_that_go_round_cover_every_latent_and_share_both_ends(
    length: int, overlap: int
) -> None:
    spans = tile_spans(length, Tiles(8, overlap), wrap=True)
    covered = {i % length for span in spans for i in range(span.start, span.stop)}
    assert covered == set(range(length))
    assert all(min(span.before, span.after) >= overlap for span in spans)
    assert spans[0].before == spans[-1].after
    assert tile_spans(8, Tiles(8, 0), wrap=True) == tile_spans(8, Tiles(8, 0))


@pytest.mark.parametrize("wrap", [NO_WRAP, *BOTH])
def test_tiles_of_a_local_function_give_what_the_whole_gives(wrap: Wrap) -> None:
    x = random(2, 3, 13, 17)
    doubled = by_tiles(
        lambda t: F.interpolate(t, scale_factor=2.0),
        x,
        Tiles(6, 2),
        zoom_in=1,
        zoom_out=2,
        wrap=wrap,
    )
    assert torch.allclose(doubled, F.interpolate(x, scale_factor=2.0), atol=1e-5)


@torch.no_grad()
def test_one_tile_that_covers_an_axis_goes_round_in_the_network(codec: Codec) -> None:
    latents, wrap = random(1, 4, 6, 8), Wrap(x=True, y=True)
    tiled = codec.decode(latents, tile=Tiles(8, 2), wrap=wrap)
    assert torch.equal(tiled, codec.decode(latents, wrap=wrap))
    # only the width is more than a tile: along the height the network still goes round
    flat = codec.decode(latents, tile=Tiles(6, 2), wrap=wrap)
    up = codec.decode(rolled(latents, (2, 0)), tile=Tiles(6, 2), wrap=wrap)
    assert distance(up, rolled(flat, (2, 0), 8)) <= NEAR


def seam(picture: Tensor) -> float:
    """How steep the picture is where its right end meets its left one, against everywhere."""
    steps = (picture - picture.roll(1, 3)).abs().mean((0, 1, 2))  # (W,): from each column's left
    return float(steps[0] / steps[1:].mean())


@torch.no_grad()
def test_no_seam_is_left_where_the_ends_meet(codec: Codec) -> None:
    """Latents that are smooth around the ends, as a sampler that goes round makes them."""
    waves = torch.arange(24) / 24 * 2 * torch.pi
    latents = torch.stack([torch.sin(k * waves + k) for k in (1, 2, 3, 4)])[None, :, None]
    latents = latents.expand(1, 4, 16, 24).contiguous() + 0.02 * random(1, 4, 16, 24)
    open_ended, round_about = codec.decode(latents), codec.decode(latents, wrap=Wrap(x=True))
    assert seam(open_ended) > 2
    assert seam(round_about) < 1.2
    assert seam(codec.decode(latents, tile=Tiles(8, 4), wrap=Wrap(x=True))) < 1.2
    assert seam(codec.decode(latents, tile=Bands(64), wrap=Wrap(x=True))) < 1.2
