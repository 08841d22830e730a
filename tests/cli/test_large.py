"""Large pictures on the command line: each draws, and its recipe replays identically."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import save_file

from cli_tiny import SMALL, Cli, pixels
from models_tiny import randomised
from safelight.cli.groups import NAMED_BOXES, region
from safelight.diffusion.guidance import areas
from safelight.errors import RequestError
from safelight.models.super_resolution import CompactConfig


@pytest.fixture
def photo(place: Path) -> Path:
    made = np.random.default_rng(1).integers(0, 256, (40, 56, 3), dtype=np.uint8)
    Image.fromarray(made).save(place / "photo.png")
    return place / "photo.png"


@pytest.fixture
def network(place: Path) -> Path:
    state = dict(randomised(CompactConfig(3, 8, 3, 2).build()).state_dict())
    save_file(state, place / "2x.safetensors")
    return place / "2x.safetensors"


@pytest.fixture
def mask(place: Path) -> Path:
    Image.fromarray(np.repeat(np.arange(0, 256, 4, dtype=np.uint8)[None], 64, 0)).save("mask.png")
    return place / "mask.png"


DRAWINGS = {
    "latent": ("--hires", "2"),
    "network": ("--hires", "1.5", "--hires-upscaler", "2x.safetensors", "--hires-steps", "3"),
    "lanczos": ("--hires-size", "128x64", "--hires-upscaler", "lanczos", "--hires-prompt", "pear"),
    "tiles": ("--size", "160x64", "--tile", "64", "--tile-overlap", "16"),
    "tiled hires": ("--hires", "2", "--tile", "64x96", "--tile-weighting", "uniform"),
    "seamless": ("--size", "128x64", "--seamless", "both"),
    "seamless strip": ("--size", "160x64", "--seamless", "x", "--tile", "64", "--tile-batch", "2"),
    "regions": (
        "--region",
        "left: a pear",
        "--region",
        "mask.png,weight=2: a plum",
        "--hires",
        "2",
    ),
}


@pytest.mark.parametrize("name", DRAWINGS)
def test_a_large_drawing_replays_identically(
    name: str, safelight: Cli, model: Path, network: Path, mask: Path, place: Path
) -> None:
    options = [*SMALL, *DRAWINGS[name]]
    ran = safelight("generate", "a red apple", "-m", model, "-o", "a.png", *options)
    assert ran.code == 0, ran.err
    ran = safelight("replay", "a.png", "-m", model)
    assert (ran.code, ran.out.strip()) == (0, "identical"), ran.err


def test_another_upscaler_of_that_name_is_told(
    safelight: Cli, model: Path, network: Path, place: Path
) -> None:
    options = (*SMALL, "--hires", "2", "--hires-upscaler", network, "--hires-strength", "0")
    assert safelight("generate", "apple", "-m", model, "-o", "a.png", *options).code == 0
    save_file(dict(randomised(CompactConfig(3, 8, 3, 2).build(), 7).state_dict()), network)
    ran = safelight("replay", "a.png", "-m", model)
    assert ran.code == 1 and "the file for upscaler is another" in ran.out


def test_an_edit_makes_the_picture_larger_and_draws_in_windows(
    safelight: Cli, model: Path, photo: Path, network: Path, place: Path
) -> None:
    options = ("--scale", "2", "--upscaler", network, "--tile", "64", "--strength", "0.4")
    ran = safelight(
        "edit", photo, "a red apple", "-m", model, *options, "-s", 4, "--seed", 1, "-o", "b.png"
    )
    assert ran.code == 0, ran.err
    assert pixels("b.png").shape == (80, 112, 3)
    ran = safelight("replay", "b.png", "-m", model)
    assert (ran.code, ran.out.strip()) == (0, "identical"), ran.err


def test_the_same_size_twice_is_no_scale(safelight: Cli, model: Path, photo: Path) -> None:
    given = ("--scale", "2", "--size", "64x64")
    ran = safelight("edit", photo, "apple", "-m", model, *given)
    assert ran.code == 2 and "makes the picture 112 x 80" in ran.error()


# -- without drawing ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "size"),
    [
        (("--with", "2x.safetensors"), (112, 80)),
        (("--with", "2x.safetensors", "--scale", "3.3"), (185, 132)),
        (("--with", "lanczos", "--scale", "1.5"), (84, 60)),
        (("--with", "Nearest", "--size", "128x96"), (128, 96)),
        (("--with", "2x.safetensors", "--scale", "2", "--seamless", "x"), (112, 80)),
    ],
)
def test_a_picture_made_larger_needs_no_model_and_replays(
    given: tuple[str, ...], size: tuple[int, int], safelight: Cli, photo: Path, network: Path
) -> None:
    ran = safelight("upscale", photo, *given)
    assert ran.code == 0 and ran.err == "", ran.err
    path = Path("out") / "{}x{}-photo.png".format(*size)
    assert ran.out.startswith(f"{path}  {size[0]}x{size[1]}  ")
    assert pixels(path).shape == (size[1], size[0], 3)
    ran = safelight("replay", path)
    assert (ran.code, ran.out.strip()) == (0, "identical"), ran.err


def test_another_source_is_the_first_difference(safelight: Cli, photo: Path) -> None:
    assert safelight("upscale", photo, "--with", "Lanczos", "--scale", 2, "-o", "c.png").code == 0
    Image.fromarray(255 - pixels(photo)).save(photo)
    ran = safelight("replay", "c.png")
    assert ran.code == 1 and "the file for source is another" in ran.out


def test_what_was_made_larger_is_inspected(safelight: Cli, photo: Path) -> None:
    assert safelight("upscale", photo, "--with", "Lanczos", "--scale", 2, "-o", "c.png").code == 0
    ran = safelight("inspect", "c.png")
    assert ran.code == 0 and "Lanczos" in ran.out, ran.err
    assert (
        "Postprocess upscale by: 2, Postprocess upscaler: Lanczos"
        in Image.open("c.png").text["parameters"]
    )


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ((), "say what makes it larger"),
        (("--with", "Lanczos"), "say how large"),
        (("--with", "Lanczos", "--scale", "2", "--steps", "3"), "--steps cannot be used with"),
        (("a cat", "--with", "Lanczos", "--scale", "2"), "without words"),
        (("--with", "Lanczos", "--scale", "2", "--size", "64x64"), "both say how large"),
        (("--with", "nowhere.pth", "--scale", "2"), "nowhere.pth"),
        (("--with", "Latent", "--scale", "2"), "works on pixels"),
        (("-m", "MODEL"), "which is no upscaler"),
    ],
)
def test_a_wrong_upscale_is_one_line_and_writes_nothing(
    given: tuple[str, ...], said: str, safelight: Cli, photo: Path, model: Path, place: Path
) -> None:
    ran = safelight("upscale", photo, *[model if arg == "MODEL" else arg for arg in given])
    assert ran.code in (1, 2) and said in ran.error()
    assert not (place / "out").exists()


# -- the options ----------------------------------------------------------------------------------


def test_the_boxes_by_name_are_those_of_the_areas() -> None:
    assert set(NAMED_BOXES) == set(areas._NAMED)


@pytest.mark.parametrize(
    ("text", "group"),
    [
        ("left: a cat", {"box": "left", "prompt": "a cat"}),
        ("0,0,0.5,1: a: b", {"box": "0,0,0.5,1", "prompt": "a: b"}),
        ("0, 0, 50%, 100%: x", {"box": "0, 0, 50%, 100%", "prompt": "x"}),
        ("masks/m.png: x", {"mask": "masks/m.png", "prompt": "x"}),
        (
            "Top,weight=2,negative=red, blue: x",
            {"box": "Top", "weight": "2", "negative_prompt": "red, blue", "prompt": "x"},
        ),
    ],
)
def test_a_region_is_a_place_and_words(text: str, group: dict[str, object]) -> None:
    assert region(text) == group


@pytest.mark.parametrize("text", ["", "left", ": a", "left,scale=2: a"])
def test_another_region_is_refused(text: str) -> None:
    with pytest.raises(RequestError, match="--region"):
        region(text)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("--hires", "0"), "--hires must be"),
        (("--hires-strength", "1.5"), "--hires-strength must be"),
        (("--hires", "2", "--hires-size", "64x64"), "both say how large"),
        (("--hires-upscaler", "nowhere.pth"), "nowhere.pth"),
        (("--tile", "abc"), "--tile must be"),
        (("--tile", "20"), "multiple of 8"),
        (("--tile", "64", "--tile-overlap", "64"), "below the sides"),
        (("--seamless", "z"), "--seamless must be one of"),
        (("--seamless", "x", "--size", "72x64"), "to be seamless"),
        (("--region", "0,0,99,9: x"), "reaches outside"),
        (("--region", "gone.png: x"), "gone.png"),
        (("--feather", "8"), "does nothing without regions"),
        (("--hires-sampler", "Eular"), "Euler"),
    ],
)
def test_a_wrong_setting_is_one_line_and_writes_nothing(
    given: tuple[str, ...], said: str, safelight: Cli, model: Path, place: Path
) -> None:
    ran = safelight("generate", "apple", "-m", model, "--steps", 2, "--size", "64x64", *given)
    assert ran.code in (1, 2) and said in ran.error()
    assert not (place / "out").exists()
