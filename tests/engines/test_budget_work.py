"""What is counted from a configuration is what its network does."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from narrow_unets import NARROW
from safelight.engines.budget_work import (
    Work,
    decoder_work,
    encoder_share,
    encoder_work,
    text_work,
    unet_work,
)
from safelight.families import FAMILIES
from safelight.models.autoencoder import KL_F4, Autoencoder, AutoencoderConfig
from safelight.models.blank import blank
from safelight.models.clip import CLIP_L, OPENCLIP_BIGG, ClipText
from safelight.models.unet import UNet, UNetConfig
from safelight.models.unet_configs import (
    SD15,
)

pytestmark = pytest.mark.slow


def counted(call: object) -> int:
    assert callable(call)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        call()
    return int(counter.get_total_flops())


def asked(config: UNetConfig, size: tuple[int, int], rows: int, tokens: int) -> int:
    with blank():
        unet = UNet(config)
        x = torch.empty(rows, config.in_channels, *size)
        context, time = torch.empty(rows, tokens, config.context_width), torch.empty(rows)
        vector: Tensor | None = None
        if config.vector_width is not None:
            vector = torch.empty(rows, config.vector_width)
        level = None
        if config.noise_levels is not None:
            level = torch.empty(rows, dtype=torch.int64)
    return counted(lambda: unet(x, time, context, vector, level=level))


@pytest.mark.parametrize("size", [(16, 16), (24, 40), (9, 15)])
@pytest.mark.parametrize("name", NARROW)
def test_a_unets_work_is_what_is_counted_of_it(name: str, size: tuple[int, int]) -> None:
    config = NARROW[name]
    assert unet_work(config, size, 2, 21).total == asked(config, size, 2, 21)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sd15", "sdxl", "sd2-v", "sdxl-refiner"])
def test_the_work_of_published_unets_is_what_is_counted_of_them(name: str) -> None:
    config = FAMILIES[name].backbone
    assert unet_work(config, (64, 64), 2).total == asked(config, (64, 64), 2, 77)


def test_sd15_at_512_with_guidance_is_1607_gflop() -> None:
    assert unet_work(SD15, (64, 64), 2).total == pytest.approx(1607e9, rel=1e-3)


@pytest.mark.parametrize("size", [(8, 8), (5, 12)])
@pytest.mark.parametrize(
    "config",
    [
        AutoencoderConfig(widths=(32, 32, 64, 64)),
        AutoencoderConfig(widths=(32, 64), layers=1, mid_attention=False, quant_conv=False),
        AutoencoderConfig(widths=(32, 64, 64), latent_channels=16, post_quant_conv=False),
    ],
)
def test_an_autoencoders_work_is_what_is_counted_of_it(
    config: AutoencoderConfig, size: tuple[int, int]
) -> None:
    with blank():
        coder = Autoencoder(config)
        latents = torch.empty(2, config.latent_channels, *size)
        images = torch.empty(2, 3, *(side * config.factor for side in size))
    assert decoder_work(config, size, 2).total == counted(lambda: coder.decode(latents))
    assert encoder_work(config, size, 2).total == counted(lambda: coder.moments(images))


@pytest.mark.parametrize("config", [CLIP_L, OPENCLIP_BIGG])
def test_a_text_encoders_work_is_what_is_counted_of_it(config: object) -> None:
    small = replace(config, layers=2, width=64, heads=4, mlp_width=160)  # type: ignore[type-var]
    if small.projection is not None:  # type: ignore[attr-defined]
        small = replace(small, projection=32)  # type: ignore[type-var]
    with blank():
        tower = ClipText(small)  # type: ignore[arg-type]
        ids = torch.empty(3, 77, dtype=torch.int64)
    # every matrix and both products of attention; the counter sees attention's own mask, too
    assert text_work(small, 3).total == counted(lambda: tower(ids))  # type: ignore[arg-type]


def test_work_adds_and_multiplies_by_kind() -> None:
    a, b = Work(1, 2, 3, 4), Work(10, 20, 30, 40)
    assert a + b == Work(11, 22, 33, 44) and a * 2 == Work(2, 4, 6, 8)
    assert (a + b).total == a.total + b.total


def test_upsampling_is_a_part_of_the_decoder_that_can_be_saved() -> None:
    coder = KL_F4.autoencoder
    assert isinstance(coder, AutoencoderConfig)
    assert (
        0.1
        < decoder_work(coder, (64, 64), 1).upsampling / decoder_work(coder, (64, 64), 1).total
        < 0.4
    )


def test_the_way_down_and_the_middle_are_less_than_half_of_a_call() -> None:
    assert 0.3 < encoder_share(SD15, (64, 64), 2) < 0.45
