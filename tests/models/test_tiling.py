"""Autoencoders in pieces: the same numbers in bands, no visible edge between tiles."""

from itertools import pairwise

import pytest
import torch
from models_tiny import distance, random, randomised
from torch import Tensor, nn
from torch.nn import functional as F

from safelight.errors import RequestError
from safelight.models.autoencoder import AutoencoderConfig, Codec, CodecConfig
from safelight.models.tiling import BandedMap, Bands, Tiles, by_bands, by_tiles, tile_spans


def built(config: AutoencoderConfig) -> Codec:
    codec = CodecConfig(config, scale=0.18215).build()
    randomised(codec.autoencoder)
    return codec


@pytest.fixture(scope="module")
def codec() -> Codec:
    return built(AutoencoderConfig(widths=(8, 16, 16), groups=4))


@pytest.fixture(scope="module")
def factor_8() -> Codec:
    return built(AutoencoderConfig(widths=(8, 8, 16, 16), groups=4, layers=1))


# -- bands -----------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("pixels", [1, 50, 333, 10**9])
@pytest.mark.parametrize(("rows", "columns"), [(7, 5), (1, 3), (6, 1)])
def test_bands_give_what_the_whole_gives(codec, pixels, rows, columns):
    bands = Bands(pixels)
    latents = random(2, 4, rows, columns)
    images = random(2, 3, 4 * rows, 4 * columns).clamp(-1, 1)
    assert distance(codec.decode(latents, tile=bands), codec.decode(latents)) <= 1e-4
    ours, whole = codec.encode(images, tile=bands), codec.encode(images)
    assert distance(ours.mean, whole.mean) <= 1e-4
    assert distance(ours.logvar, whole.logvar) <= 1e-4


@torch.no_grad()
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float16, 0.02), (torch.bfloat16, 0.2)])
def test_bands_give_what_the_whole_gives_in_half_precision(codec, dtype, tolerance):
    half = codec.config.build()
    half.autoencoder.load_state_dict(codec.autoencoder.state_dict())
    half.autoencoder.to(dtype)
    latents = random(1, 4, 6, 6)
    ours = half.decode(latents, tile=Bands(64))
    assert ours.dtype == torch.float32
    assert distance(ours, half.decode(latents)) <= tolerance


@torch.no_grad()
def test_bands_with_norms_in_another_type_than_the_convolutions(codec):
    mixed = codec.config.build()
    mixed.autoencoder.load_state_dict(codec.autoencoder.state_dict())
    for module in mixed.autoencoder.modules():
        if isinstance(module, nn.Conv2d):
            module.to(torch.bfloat16)
    latents = random(1, 4, 5, 5)
    assert distance(mixed.decode(latents, tile=Bands(64)), mixed.decode(latents)) <= 0.2


@torch.no_grad()
def test_statistics_survive_a_mean_far_above_the_deviation():
    x = random(2, 8, 30, 7).double() + 1000
    weight, bias = torch.ones(8), torch.zeros(8)
    ours = by_bands(lambda y: F.group_norm(y, 4, weight, bias), x.float(), Bands(14))
    exact = F.group_norm(x, 4, weight.double(), bias.double())
    assert distance(ours, exact) <= 1e-3


@torch.no_grad()
def test_any_other_operation_is_done_on_the_whole_map():
    x = random(2, 3, 9, 5)

    def function(y: Tensor) -> Tensor:
        centred = F.relu(y * 2.0) + torch.softmax(y, dim=2)
        enlarged = F.interpolate(centred, size=(13, 7), mode="nearest")
        return enlarged / 3.0 + F.interpolate(enlarged, scale_factor=1.0, mode="nearest")

    torch.testing.assert_close(by_bands(function, x, Bands(10)), function(x))


@torch.no_grad()
def test_overflow_is_as_visible_in_bands_as_in_the_whole(codec):
    blown = codec.config.build()
    blown.autoencoder.load_state_dict(codec.autoencoder.state_dict())
    blown.autoencoder.decoder.up_blocks[1].resnets[0].conv1.weight.mul_(1e6)
    blown.autoencoder.half()
    assert not blown.decode(random(1, 4, 4, 4), tile=Bands(32)).isfinite().all()


@torch.no_grad()
def test_no_layer_sees_more_rows_than_a_band_and_its_edges(codec):
    seen = []

    def record(module: nn.Module, inputs: tuple[object, ...]) -> None:
        assert isinstance(inputs[0], BandedMap)

    original = F.conv2d

    def watched(x: Tensor, *args: object) -> Tensor:
        seen.append(x.shape[2] * x.shape[3])
        return original(x, *args)

    handles = [
        block.register_forward_pre_hook(record) for block in codec.autoencoder.decoder.up_blocks
    ]
    latents = random(1, 4, 32, 8)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("safelight.models.tiling.F.conv2d", watched)
        # Watching replaces the function that torch announces, so announce the original.
        codec.autoencoder.decode(latents)
        whole = max(seen)
    for handle in handles:
        handle.remove()
    assert whole == 128 * 32


@torch.no_grad()
def test_each_row_is_computed_about_once(codec):
    """Work in bands: at most a quarter more rows than in one piece, for bands of 16 rows."""
    latents = random(1, 4, 32, 16)
    assert _rows_convolved(codec, latents, Bands(16 * 64)) <= 1.25 * _rows_convolved(
        codec, latents, Bands(10**9)
    )


def _rows_convolved(codec: Codec, latents: Tensor, bands: Bands) -> int:
    total = 0

    class Counter(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):
            nonlocal total
            result = function(*args, **(kwargs or {}))
            if function is F.conv2d and isinstance(args[0], Tensor):
                total += result.shape[1] * result.shape[2] * result.shape[3]
            return result

    with Counter():
        codec.decode(latents, tile=bands)
    return total


# -- tiles -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [1, 10, 16, 17, 18, 28, 29, 30, 31, 100])
@pytest.mark.parametrize("tiles", [Tiles(16, 4), Tiles(16, 0), Tiles(16, 15), Tiles(5, 3)])
def test_tiles_cover_the_length_and_overlap_as_asked(length, tiles):
    spans = tile_spans(length, tiles)
    assert spans[0].start == 0 and spans[-1].stop == length
    assert all(span.stop - span.start == min(length, tiles.size) for span in spans)
    for left, right in pairwise(spans):
        shared = left.stop - right.start
        assert shared >= tiles.overlap and left.after == right.before == shared
    assert all((span.weights(3) > 0).all() for span in spans)


@torch.no_grad()
@pytest.mark.parametrize("length", [16, 17, 29, 40])
def test_blending_changes_nothing_that_is_local(length):
    x = random(2, 3, length, 16)
    doubled = by_tiles(
        lambda y: F.interpolate(y, scale_factor=2.0), x, Tiles(16, 4), zoom_in=1, zoom_out=2
    )
    torch.testing.assert_close(doubled, F.interpolate(x, scale_factor=2.0))
    pixels = F.interpolate(x, scale_factor=2.0)
    halved = by_tiles(
        lambda y: F.avg_pool2d(y, 2), pixels, Tiles(16, 4), zoom_in=2, zoom_out=1
    )
    torch.testing.assert_close(halved, x)


@torch.no_grad()
def test_a_picture_no_larger_than_a_tile_is_coded_in_one_piece(codec):
    latents, images = random(1, 4, 8, 6), random(1, 3, 32, 24)
    tiles = Tiles(8, 2)
    torch.testing.assert_close(codec.decode(latents, tile=tiles), codec.decode(latents))
    torch.testing.assert_close(codec.encode(images, tile=tiles).mean, codec.encode(images).mean)


def structured(channels: int, height: int, width: int) -> Tensor:
    """Latents as of a picture: large smooth shapes, some detail. (1, C, h, w)."""
    shapes = F.interpolate(
        random(1, channels, 5, 6, seed=5), size=(height, width), mode="bicubic"
    )
    return shapes + 0.15 * random(1, channels, height, width, seed=6)


def edge_ratio(picture: Tensor, borders: list[int]) -> float:
    """Mean gradient across the given columns over the mean gradient across all others."""
    gradient = (picture[..., 1:] - picture[..., :-1]).abs().mean(dim=(0, 1, 2))
    at = torch.zeros(len(gradient), dtype=torch.bool)
    at[[b - 1 for b in borders]] = True
    return float(gradient[at].mean() / gradient[~at].mean())


def borders_of(length: int, tiles: Tiles, zoom: int) -> list[int]:
    edges = {e for s in tile_spans(length, tiles) for e in (s.start, s.stop)}
    return sorted(zoom * e for e in edges if 0 < e < length)


@torch.no_grad()
def test_tiles_leave_no_visible_edge_in_pictures(factor_8):
    tiles, (height, width) = Tiles(24, 8), (24, 88)
    latents = structured(4, height, width)
    picture = factor_8.decode(latents, tile=tiles)
    assert edge_ratio(picture, borders_of(width, tiles, 8)) <= 1.1


@torch.no_grad()
def test_tiles_leave_no_visible_edge_in_latents(factor_8):
    tiles, (height, width) = Tiles(24, 8), (24, 88)
    images = F.interpolate(structured(3, height, width), scale_factor=8.0, mode="bilinear")
    posterior = factor_8.encode(images.clamp(-1, 1), tile=tiles)
    assert edge_ratio(posterior.mean, borders_of(width, tiles, 1)) <= 1.1


def test_impossible_tiles_and_bands_are_refused():
    for size, overlap in ((16, 16), (16, -1), (0, 0)):
        with pytest.raises(RequestError, match="less than their size"):
            Tiles(size, overlap)
    with pytest.raises(RequestError, match="at least 1 pixel"):
        Bands(0)
