"""`--reference`: self-attention looks at another picture, too."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cli_tiny import Cli, pixels

SMALL = ("--size", "64x64", "--steps", "2", "--seed", "5")


@pytest.fixture
def photo(place: Path) -> str:
    values = np.random.default_rng(1).integers(0, 256, (48, 80, 3), dtype=np.uint8)
    Image.fromarray(values).save(place / "photo.png")
    return "photo.png"


def test_a_reference_changes_the_picture_and_replays(
    safelight: Cli, model: Path, photo: str
) -> None:
    plain = ("generate", "a", "-m", model, *SMALL)
    assert safelight(*plain, "-o", "plain.png").code == 0
    seen = [pixels("plain.png")]
    for name, more in (("a.png", ""), ("b.png", ",fidelity=1"), ("c.png", ",weight=0.3,end=0.5")):
        ran = safelight(*plain, "--reference", f"{photo}{more}", "-o", name)
        assert ran.code == 0, ran.err
        assert all(not np.array_equal(pixels(name), other) for other in seen), name
        seen.append(pixels(name))
        assert safelight("replay", name, "-m", model).out == "identical\n"


def test_weight_0_is_no_reference_bit_for_bit(safelight: Cli, model: Path, photo: str) -> None:
    plain = ("generate", "a", "-m", model, *SMALL)
    assert safelight(*plain, "-o", "plain.png").code == 0
    assert safelight(*plain, "--reference", f"{photo},weight=0", "-o", "a.png").code == 0
    assert np.array_equal(pixels("plain.png"), pixels("a.png"))


def test_pictures_of_a_batch_are_those_made_alone(safelight: Cli, model: Path, photo: str) -> None:
    asked = ("generate", "a", "-m", model, "--size", "64x64", "--steps", "2")
    asked = (*asked, "--reference", photo)
    assert safelight(*asked, "--seed", "5", "--count", "2", "-o", "many").code == 0
    assert safelight(*asked, "--seed", "6", "-o", "alone.png").code == 0
    assert np.array_equal(pixels("many/6-a.png"), pixels("alone.png"))


def test_a_reference_with_windows_is_refused(safelight: Cli, model: Path, photo: str) -> None:
    ran = safelight(
        "generate", "a", "-m", model, *SMALL, "--reference", photo, "--tile", "64", "-o", "out"
    )
    assert "seen by a drawing as a whole" in ran.error()
