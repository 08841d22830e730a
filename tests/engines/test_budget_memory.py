"""What is said to be alive at once, from a configuration, is near what is."""

import gc
import weakref
from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from cli_tiny import tiny_model
from narrow_unets import NARROW
from safelight.engines.budget_memory import (
    decoder_maps,
    encoder_maps,
    streamed_weights_of,
    unet_maps,
    weights_of,
)
from safelight.engines.offload import blocks_of
from safelight.families import SD15 as SD15_FAMILY
from safelight.models import cpu_attention
from safelight.models.autoencoder import Autoencoder, AutoencoderConfig
from safelight.models.layers import Upsample
from safelight.models.tiling import Bands, by_bands
from safelight.models.unet import UNet
from safelight.models.unet_configs import SD15, SDXL

pytestmark = pytest.mark.slow


class Alive(TorchDispatchMode):
    """The most bytes in storages that were born while it is entered and alive together."""

    def __init__(self, there: Iterable[torch.Tensor]) -> None:
        super().__init__()
        self.now = self.most = 0
        self._seen = {tensor.untyped_storage()._cdata for tensor in there}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, torch.Tensor):
                self._born(tensor)
        return made

    def _born(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._seen:
            return
        size = storage.nbytes()
        self._seen.add(key)
        self.now += size
        self.most = max(self.most, self.now)
        weakref.finalize(storage, self._died, key, size)

    def _died(self, key: int, size: int) -> None:
        self._seen.discard(key)
        self.now -= size


def unfolded(network: nn.Module) -> nn.Module:
    """The network without gradients, but for layers whose kernels would be folded and kept."""
    network.requires_grad_(False)
    for module in network.modules():
        if isinstance(module, Upsample):
            module.conv.weight.requires_grad_(True)
    return network


def alive(network: nn.Module, *given: torch.Tensor, call: Callable[[], object]) -> float:
    """Numbers of the network's type that were alive at once, without its weights and these."""
    gc.collect()
    (dtype,) = {p.dtype for p in network.parameters()}
    with torch.no_grad(), Alive([*network.parameters(), *given]) as seen:
        call()
    return seen.most / dtype.itemsize


@pytest.fixture(autouse=True)
def _nothing_of_constant_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """What kernels take for a moment and what they remember is much beside maps this small."""
    monkeypatch.setattr(cpu_attention, "SCORES", 2**10)
    monkeypatch.setattr(cpu_attention, "FEWEST_ROWS", 8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", [(32, 32), (24, 40)])
@pytest.mark.parametrize("name", ["sd15", "sdxl", "koala", "tiny"])
def test_a_unets_maps_are_nearly_those_that_are_alive(
    name: str, size: tuple[int, int], dtype: torch.dtype
) -> None:
    config = NARROW[name]
    unet = unfolded(UNet(config).to(dtype).eval())
    x = torch.randn(2, 4, *size).to(dtype)
    context, time = torch.randn(2, 4, config.context_width).to(dtype), torch.full((2,), 500.0)
    vector = None
    if config.vector_width is not None:
        vector = torch.randn(2, config.vector_width).to(dtype)
    found = alive(unet, x, context, call=lambda: unet(x, time, context, vector))
    # PyTorch's group norm copies some maps of a half type to float32 for a moment
    near = 0.25 if dtype == torch.float32 else 0.4
    assert unet_maps(config, size, 2) == pytest.approx(found, rel=near)


CODERS = [
    AutoencoderConfig(widths=(32, 64, 64, 64)),
    AutoencoderConfig(widths=(32, 64), layers=1, mid_attention=False),
]


@pytest.mark.parametrize("config", CODERS)
def test_an_autoencoders_maps_are_nearly_those_that_are_alive(config: AutoencoderConfig) -> None:
    coder = Autoencoder(config).eval()
    unfolded(coder)
    latents = torch.randn(1, 4, 16, 24)
    images = torch.randn(1, 3, 16 * config.factor, 24 * config.factor)
    decoding = alive(coder, latents, call=lambda: coder.decode(latents))
    encoding = alive(coder, images, call=lambda: coder.moments(images))
    assert decoder_maps(config, (16, 24), 1) == pytest.approx(decoding, rel=0.25)
    assert encoder_maps(config, (16, 24), 1) == pytest.approx(encoding, rel=0.25)


@pytest.mark.parametrize("config", CODERS)
def test_bands_keep_what_is_said(config: AutoencoderConfig) -> None:
    coder = Autoencoder(config).eval()
    unfolded(coder)
    latents = torch.randn(1, 4, 32, 32)
    whole = alive(coder, latents, call=lambda: coder.decode(latents))
    found = alive(coder, latents, call=lambda: by_bands(coder.decode, latents, Bands(256)))
    assert found < 0.9 * whole
    assert decoder_maps(config, (32, 32), 1, bands=True) == pytest.approx(found, rel=0.25)


def test_weights_are_those_of_the_modules() -> None:
    model = tiny_model()
    unet = model.network.unet
    whole = sum(p.numel() for p in unet.parameters())
    blocks = [sum(p.numel() for p in block.parameters()) for _, block in blocks_of(unet)]
    assert weights_of(unet.config) == whole
    assert streamed_weights_of(unet.config) == whole - sum(blocks) + max(blocks)
    (tower,) = model.text.encoders
    assert weights_of(tower.config) == sum(p.numel() for p in tower.parameters())


def test_the_published_sizes_are_those_that_people_know() -> None:
    assert weights_of(SD15) == pytest.approx(860e6, rel=1e-3)
    assert weights_of(SDXL) == pytest.approx(2567e6, rel=1e-3)
    coder = SD15_FAMILY.codec.autoencoder
    assert isinstance(coder, AutoencoderConfig)
    assert weights_of(coder) == pytest.approx(83.65e6, rel=1e-3)
    assert streamed_weights_of(SD15) < 0.15 * weights_of(SD15)
