"""The table of families is consistent: widths meet, processes build, names are what they say."""

from dataclasses import replace

import pytest

from safelight import families
from safelight.diffusion.samplers import resolve_sampler
from safelight.diffusion.schedules import resolve_schedule
from safelight.errors import RequestError
from safelight.families import (
    FAMILIES,
    PLAYGROUND_25,
    SD15,
    SD15_INPAINT,
    SDXL,
    X4_UPSCALER,
    Family,
    ProcessConfig,
    closest,
    families_of,
)
from safelight.text.spec import TextRole, TextSpec

EVERY = pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)


@EVERY
def test_the_text_encoders_give_what_the_unet_reads(family: Family) -> None:
    roles = family.text.roles
    assert sum(role.encoder.width for role in roles) == family.backbone.context_width
    pooled = [role.encoder.projection or 0 for role in roles if role.pooled]
    numbers = {"none": 0, "sdxl": 6, "refiner": 5}[family.text.vector]
    if numbers:
        assert pooled[0] + numbers * family.text.size_width == family.backbone.vector_width


@EVERY
def test_extra_channels_are_those_of_the_task(family: Family) -> None:
    expected = {"inpaint": 5, "edit": 4, "depth": 1, "upscale": 3}.get(family.task, 0)
    assert family.extra_channels == expected


@EVERY
def test_the_process_builds_and_the_hint_names_what_exists(family: Family) -> None:
    process = family.process.build()
    assert process.prediction.name == family.process.prediction
    assert resolve_sampler(family.hint.sampler).name == family.hint.sampler
    if family.hint.schedule is not None:
        assert resolve_schedule(family.hint.schedule).name == family.hint.schedule
    assert family.native_size % family.codec.factor == 0


@EVERY
def test_a_family_is_found_again_from_its_shapes_and_process(family: Family) -> None:
    assert family in families_of(family.backbone)
    assert closest(family.backbone, family.text, family.process).name == family.name


def test_names_are_unique_and_lower_case() -> None:
    assert len(FAMILIES) == sum(isinstance(v, Family) for v in vars(families).values())
    assert all(name == name.lower() and " " not in name for name in FAMILIES)


@pytest.mark.parametrize(
    ("family", "lowest", "highest"),
    [
        (SD15, 0.029167, 14.6146),  # formats.md 1.4, training.md 4
        (PLAYGROUND_25, 0.002, 80.0),
    ],
)
def test_noise_levels_are_the_published_ones(family: Family, lowest: float, highest: float) -> None:
    process = family.process.build()
    assert process.sigma_min == pytest.approx(lowest, rel=1e-4)
    assert process.sigma_max == pytest.approx(highest, rel=1e-5)


def test_the_upscaler_has_its_own_betas() -> None:
    process = X4_UPSCALER.process.build()
    # Linear in the square root from 0.0001 to 0.02: its first alpha is 1 - 0.0001.
    assert process.sigma_min == pytest.approx((0.0001 / 0.9999) ** 0.5)
    assert X4_UPSCALER.codec.factor == 4


def test_trained_betas_replace_the_schedule() -> None:
    betas = tuple(0.001 * (i + 1) for i in range(10))
    process = ProcessConfig(trained_betas=betas).build()
    assert len(process.sigmas) == 10
    assert process.sigma_min == pytest.approx((0.001 / 0.999) ** 0.5)


def test_zero_terminal_snr_with_eps_is_refused() -> None:
    with pytest.raises(RequestError, match="eps"):
        ProcessConfig(zero_terminal_snr=True).build()


def test_of_equal_unets_the_process_decides() -> None:
    v = ProcessConfig(prediction="v")
    assert closest(SDXL.backbone, SDXL.text).name == "sdxl"
    assert closest(SDXL.backbone, SDXL.text, v).name == "sdxl-v"
    zero = closest(SDXL.backbone, SDXL.text, replace(v, zero_terminal_snr=True))
    assert zero.name == "sdxl-v"
    assert zero.process.zero_terminal_snr


def test_shapes_of_their_own_make_a_family_in_the_manner_of_another() -> None:
    narrow = replace(SD15.backbone, channels=(64, 128, 256, 256), context_width=256)
    text = TextSpec((TextRole(replace(SD15.text.roles[0].encoder, width=256, heads=4)),))
    family = closest(narrow, text)
    assert families_of(narrow) == ()
    assert family.name == "custom-sd15"
    assert family.backbone == narrow
    assert family.text == text
    assert family.codec == SD15.codec
    inpaint = closest(replace(narrow, in_channels=9), text)
    assert inpaint.task == SD15_INPAINT.task


def test_another_text_encoder_on_a_known_unet_is_a_custom_family() -> None:
    encoder = replace(SD15.text.roles[0].encoder, layers=11)
    assert closest(SD15.backbone, TextSpec((TextRole(encoder),))).name == "custom-sd15"
