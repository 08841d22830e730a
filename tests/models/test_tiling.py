"""Autoencoders in pieces: the same numbers in bands, no visible edge between tiles."""

import weakref
from itertools import pairwise
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from models_tiny import distance, random, randomised
from safelight.errors import RequestError
from safelight.models.autoencoder import AutoencoderConfig, Codec, CodecConfig
from safelight.models.tiling import Bands, Tiles, by_bands, by_tiles, tile_spans


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
        same = F.interpolate(enlarged, scale_factor=1.0, mode="nearest")
        return torch.cat([enlarged / 3.0 + same, torch.tanh(input=same)], dim=1)

    torch.testing.assert_close(by_bands(function, x, Bands(10)), function(x))


@torch.no_grad()
def test_overflow_is_as_visible_in_bands_as_in_the_whole(codec):
    blown = codec.config.build()
    blown.autoencoder.load_state_dict(codec.autoencoder.state_dict())
    blown.autoencoder.decoder.up_blocks[1].resnets[0].conv1.weight.mul_(1e6)
    blown.autoencoder.half()
    assert not blown.decode(random(1, 4, 4, 4), tile=Bands(32)).isfinite().all()


class LiveMemory(TorchDispatchMode):
    """Counts the bytes of tensors alive, and the work of convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = self.peak = self.work = 0
        self.storages: set[int] = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in (leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)):
            self._count(tensor.untyped_storage())
        if function is torch.ops.aten.convolution.default:
            self.work += result.numel() * args[1][0].numel()
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self.storages:
            return
        self.storages.add(key)
        self.bytes += size
        self.peak = max(self.peak, self.bytes)
        weakref.finalize(storage, self._forget, key, size)

    def _forget(self, key: int, size: int) -> None:
        self.storages.discard(key)
        self.bytes -= size


@torch.no_grad()
def spent(codec: Codec, what: str, tile: Bands | Tiles | None) -> LiveMemory:
    latents, images = random(1, 4, 32, 32), random(1, 3, 256, 256)
    memory = LiveMemory()
    memory.storages |= {t.untyped_storage()._cdata for t in (latents, images)}
    with memory:
        if what == "decode":
            codec.decode(latents, tile=tile)
        else:
            codec.encode(images, tile=tile)
    return memory


@pytest.mark.parametrize(("what", "maps"), [("decode", 4.5), ("encode", 3.2)])
def test_bands_take_less_memory_and_hardly_more_work(what, maps):
    """Widths are in the proportions of the published ones. In one piece, decoding peaks at 5 maps
    of the narrowest width (input and norm of twice that width, and what is made of it) and
    encoding at 4; in bands they peak at 4 (input, middle and result of a residual block) and 3.
    Without the middle's attention: its scores, 4 MiB, are nothing beside maps of true width."""
    shape = AutoencoderConfig(widths=(4, 8, 16, 16), groups=4, mid_attention=False)
    codec = built(shape)
    codec.autoencoder.eval()
    whole, bands = spent(codec, what, None), spent(codec, what, Bands(512))
    narrowest = 4 * 256 * 256 * 4  # bytes of a map of 4 channels
    assert bands.peak <= maps * narrowest
    assert bands.peak <= 0.85 * whole.peak
    assert bands.work <= 1.25 * whole.work


def test_tiles_take_memory_for_one_tile(factor_8):
    whole, tiles = spent(factor_8, "decode", None), spent(factor_8, "decode", Tiles(12, 4))
    assert tiles.peak <= 0.3 * whole.peak


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
    halved = by_tiles(lambda y: F.avg_pool2d(y, 2), pixels, Tiles(16, 4), zoom_in=2, zoom_out=1)
    torch.testing.assert_close(halved, x)


@torch.no_grad()
def test_a_picture_no_larger_than_a_tile_is_coded_in_one_piece(codec):
    latents, images = random(1, 4, 8, 6), random(1, 3, 32, 24)
    tiles = Tiles(8, 2)
    torch.testing.assert_close(codec.decode(latents, tile=tiles), codec.decode(latents))
    torch.testing.assert_close(codec.encode(images, tile=tiles).mean, codec.encode(images).mean)


@pytest.fixture(scope="module")
def smooth() -> Codec:
    """Random weights whose kernels are hats, so that pictures are as smooth as trained ones' are.

    The texture of wholly random kernels would drown every edge, even that of tiles side by side.
    """
    codec = built(AutoencoderConfig(widths=(8, 8, 16, 16), groups=4, layers=1))
    hat = torch.tensor([1.0, 2.0, 1.0])
    for module in codec.autoencoder.modules():
        if isinstance(module, nn.Conv2d) and module.kernel_size == (3, 3):
            mixing = module.weight.detach()[:, :, 1:2, 1:2]
            module.weight.data = mixing * (hat[:, None] * hat) * (3 / 16)
    return codec


def structured(channels: int, height: int, width: int) -> Tensor:
    """Latents as of pictures: large smooth shapes, some detail. (8, C, h, w)."""
    shapes = F.interpolate(random(8, channels, 5, 6, seed=5), size=(height, width), mode="bicubic")
    return shapes + 0.15 * random(8, channels, height, width, seed=6)


def jump(picture: Tensor, columns: list[int]) -> float:
    """Mean gradient at the left of the given columns over the mean gradient elsewhere."""
    gradient = (picture[..., 1:] - picture[..., :-1]).abs().mean(dim=(0, 1, 2))
    at = torch.zeros(len(gradient), dtype=torch.bool)
    at[[column - 1 for column in columns]] = True
    return float(gradient[at].mean() / gradient[~at].mean())


def borders_of(length: int, tiles: Tiles, zoom: int) -> list[int]:
    edges = {edge for span in tile_spans(length, tiles) for edge in (span.start, span.stop)}
    return sorted(zoom * edge for edge in edges if 0 < edge < length)


class Seams(NamedTuple):
    visible: float  # gradient on the borders of tiles, over the same in one piece
    difference: float  # largest, in standard deviations


@torch.no_grad()
def seams(codec: Codec, what: str, tiles: Tiles) -> Seams:
    height, width = 24, 84
    if what == "decode":
        latents, zoom = structured(4, height, width), 8
        tiled, whole = codec.decode(latents, tile=tiles), codec.decode(latents)
    else:
        images = F.interpolate(structured(3, height, width), scale_factor=8.0, mode="bilinear")
        tiled, whole = (codec.encode(images, tile=t).mean for t in (tiles, None))
        zoom = 1
    borders = borders_of(width, tiles, zoom)
    return Seams(jump(tiled, borders) / jump(whole, borders), distance(tiled, whole))


@pytest.mark.parametrize("what", ["decode", "encode"])
def test_overlapping_tiles_leave_no_visible_edge(smooth, what):
    found = seams(smooth, what, Tiles(24, 8))
    assert found.visible <= 1.1
    assert found.difference <= 3.0


@pytest.mark.parametrize(("what", "visible"), [("decode", 5.0), ("encode", 1.5)])
def test_tiles_side_by_side_would_leave_visible_edges(smooth, what, visible):
    assert seams(smooth, what, Tiles(28, 0)).visible >= visible


def test_impossible_tiles_and_bands_are_refused():
    for size, overlap in ((16, 16), (16, -1), (0, 0)):
        with pytest.raises(RequestError, match="less than their size"):
            Tiles(size, overlap)
    with pytest.raises(RequestError, match="at least 1 pixel"):
        Bands(0)
