"""A1111's second pass and tiling in its text, there and back."""

import pytest

from recipes import recipe
from safelight.tasks.large import Hires
from safelight.tasks.metadata.infotext import ESRGAN_FILES, infotext
from safelight.tasks.metadata.infotext_request import read_infotext
from safelight.tasks.metadata.reading import Reading
from safelight.tasks.request import Request

HEAD = (
    "a cat\nSteps: 20, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 7, Seed: 1, "
    "Size: 512x512, RNG: CPU, "
)


def read(fields: str) -> tuple[Request, Reading]:
    reading = read_infotext(f"{HEAD}{fields}, Version: v1.10.1")
    assert reading.request is not None, reading.notes
    return reading.request, reading


@pytest.mark.parametrize(
    ("fields", "hires"),
    [
        (
            "Denoising strength: 0.7, Hires upscale: 2, Hires upscaler: Latent",
            Hires(strength=0.7, scale=2, upscaler="Latent"),
        ),
        (
            "Denoising strength: 0.3, Hires resize: 1024x0, Hires steps: 10, "
            "Hires upscaler: Latent (nearest-exact)",
            Hires(strength=0.3, size=(1024, 0), steps=10, upscaler="Latent (nearest-exact)"),
        ),
        (
            'Denoising strength: 0.5, Hires prompt: "a dog, big", Hires negative prompt: bad, '
            "Hires sampler: Euler a, Hires schedule type: Automatic, Hires CFG Scale: 5, "
            "Hires upscale: 1.5, Hires upscaler: R-ESRGAN 4x+ Anime6B",
            Hires(
                strength=0.5,
                prompt="a dog, big",
                negative_prompt="bad",
                sampler="Euler a",
                schedule="automatic",
                cfg_scale=5,
                scale=1.5,
                upscaler="RealESRGAN_x4plus_anime_6B",
            ),
        ),
        (
            "Denoising strength: 0.5, Hires upscale: 2, Hires upscaler: 4x-UltraSharp, "
            "Hires sampler: Use same sampler",
            Hires(strength=0.5, scale=2, upscaler="4x-UltraSharp"),
        ),
    ],
)
def test_the_second_pass_is_read(fields: str, hires: Hires) -> None:
    request, reading = read(fields)
    assert request.hires == hires
    named = hires.upscaler.startswith("Latent")
    assert len(reading.notes) == (0 if named else 1)
    assert named or "file is needed" in reading.notes[0]


def test_a_strength_alone_is_that_of_a_picture_to_start_from() -> None:
    request, reading = read("Denoising strength: 0.7")
    assert request.hires is None and "another picture as the start" in reading.notes[0]


def test_what_is_not_known_of_the_second_pass_is_said() -> None:
    request, reading = read("Hires upscale: 2, Hires sampler: Foo, Hires checkpoint: other.ckpt")
    assert request.hires == Hires(scale=2)
    told = "\n".join(reading.notes)
    assert "Hires sampler 'Foo'" in told and "Hires checkpoint 'other.ckpt'" in told


def test_a_second_pass_out_of_range_is_left_out_and_said() -> None:
    request, reading = read("Hires upscale: 99")
    assert request.hires is None and "hires.scale must be" in reading.notes[0]


def test_tiling_is_seamless_in_both_directions() -> None:
    assert read("Tiling: True")[0].seamless == "both"
    assert read("Tiling: False")[0].seamless == "none"
    assert "Tiling" in read("Tiling: maybe")[1].notes[0]


@pytest.mark.parametrize(
    "settings",
    [
        {"hires": Hires()},
        {"hires": Hires(size=(1024, 768), strength=0.25, steps=7, upscaler="Lanczos")},
        {"hires": Hires(scale=1.5, prompt="", negative_prompt="x", sampler="Euler", cfg_scale=3)},
        {"hires": Hires(upscaler="models/RealESRGAN_x2plus.pth", schedule="Karras")},
        {"seamless": "both"},
        {"seamless": "x", "tiles": {"size": (64, 64), "overlap": 8}},
        {"regions": ({"prompt": "a, b: c", "box": "left"},), "feather": 3, "background": 0.5},
    ],
)
def test_large_pictures_survive_the_text(settings: dict[str, object]) -> None:
    written = recipe(**settings).request
    back = read_infotext(infotext(recipe(**settings))).request
    assert back is not None
    hires = written.hires
    if hires is not None:
        scale = hires.scale if hires.size is not None else hires.scale or 2.0
        stem = "RealESRGAN_x2plus" if "/" in hires.upscaler else hires.upscaler
        assert back.hires == hires.replace(scale=scale, upscaler=stem)
    for name in ("seamless", "tiles", "regions", "feather", "background"):
        assert getattr(back, name) == getattr(written, name)


def test_the_fields_are_those_of_a1111() -> None:
    hires = Hires(scale=2, steps=10, strength=0.4, upscaler="x/RealESRGAN_x4plus.pth")
    text = infotext(recipe(hires=hires, seamless="both"))
    assert "Denoising strength: 0.4, RNG: CPU, Tiling: True, Hires upscale: 2, " in text
    assert "Hires steps: 10, Hires upscaler: R-ESRGAN 4x+, Version:" in text
    assert len(set(ESRGAN_FILES.values())) == len(ESRGAN_FILES)


def test_no_picture_chooses_a_path() -> None:
    own = '{"source":{"picture":"/etc/passwd"},"regions":[{"prompt":"x","mask":"../../m.png"}]}'
    quoted = own.replace('"', '\\"')
    request, _ = read("Hires upscaler: ../../x/y.pth")
    assert request.hires is not None and request.hires.upscaler == "y.pth"
    request, _ = read(f'Safelight settings: "{quoted}"')
    assert request.source is not None and request.source.picture == "passwd"
    assert request.regions[0].mask == "m.png"
