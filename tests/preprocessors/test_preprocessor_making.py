"""A making is a preprocessor with its settings, and survives being written down."""

import json

import numpy as np
import pytest

from safelight.errors import CheckpointError, RequestError
from safelight.preprocessors.making import Making, making_from_json
from safelight.preprocessors.maps import control_map

PICTURE = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)


def test_it_makes_the_map_that_its_settings_say() -> None:
    making = Making("blur", {"sigma": 3}, 96)
    wanted = control_map("blur", PICTURE, resolution=96, options={"sigma": 3})
    assert np.array_equal(making.map_of(PICTURE).pixels, wanted.pixels)
    hole = np.ones((48, 64), np.float32)
    assert (Making("inpaint").map_of(PICTURE, hole).values == -1).all()


@pytest.mark.parametrize(
    "making", [Making(), Making("canny", {"low": 50}), Making("soft_edge", {}, 512)]
)
def test_written_down_and_read_it_makes_the_same_map(making: Making) -> None:
    read = making_from_json(json.loads(json.dumps(making.to_json())), "x.json")
    assert np.array_equal(read.map_of(PICTURE).pixels, making.map_of(PICTURE).pixels)
    assert read.to_json() == making.to_json() and str(read) == str(making)


def test_it_says_all_its_settings() -> None:
    assert str(Making("canny", {"low": 50}, 256)) == "canny, low 50, high 200, at 256 pixels"
    assert Making("canny").to_json() == {
        "preprocessor": "canny",
        "options": {"low": 100, "high": 200},
    }


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (("cany",), "unknown preprocessor 'cany'"),
        (("canny", {"lo": 3}), "no option 'lo'"),
        (("invert", {}, 64), "the same at any resolution"),
        (("canny", {}, 3), "resolution must be from 16 to 4096"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: tuple[object, ...], said: str) -> None:
    with pytest.raises(RequestError, match=said):
        Making(*settings)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"preprocessor": 3},
        {"preprocessor": "canny", "options": [1]},
        {"preprocessor": "canny", "run": "rm"},
        {"preprocessor": "canny", "resolution": 1.5},
        {"preprocessor": "canny", "resolution": True},
        {"preprocessor": "canny", "options": {"low": -3}},
        {"preprocessor": "x\ny"},
    ],
)
def test_a_file_that_says_something_else_is_named(values: dict[str, object]) -> None:
    with pytest.raises(CheckpointError, match=r"control\.json: ") as error:
        making_from_json(values, "control.json")
    assert "\n" not in str(error.value)
