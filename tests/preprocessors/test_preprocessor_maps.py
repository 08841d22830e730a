"""Maps by name: names, options, sizes, masks, and what looks wrong is said."""

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image, ImageDraw

from safelight.errors import RequestError
from safelight.preprocessors.filters import Pixels, grey
from safelight.preprocessors.given import is_lines
from safelight.preprocessors.kinds import KINDS, kind_of
from safelight.preprocessors.maps import control_map, misfit, resolve_preprocessor
from safelight.preprocessors.option import Option
from safelight.preprocessors.table import PREPROCESSORS

HEIGHT, WIDTH = 40, 56
MASK = np.zeros((HEIGHT, WIDTH), np.float32)
MASK[10:20, 30:50] = 1.0


def photo(height: int = HEIGHT, width: int = WIDTH) -> Pixels:
    """Coloured gradients with grain, as a photograph has."""
    y, x = np.mgrid[:height, :width]
    grain = np.random.default_rng(0).normal(0, 12, (height, width, 3))
    ramps = np.stack([x * 200 / width, y * 200 / height, (x + y) * 200 / (width + height)], 2)
    return np.clip(ramps + 30 + grain, 0, 255).astype(np.uint8)


def shape() -> Pixels:
    image = Image.new("RGB", (WIDTH, HEIGHT), (240, 240, 240))
    ImageDraw.Draw(image).ellipse((10, 8, 40, 34), fill=(20, 20, 60))
    return np.asarray(image)


def any_map(name: str, pixels: Pixels, **settings: object) -> Pixels:
    mask = MASK if PREPROCESSORS[name].masked else None
    return control_map(name, pixels, mask=mask, **settings).pixels  # type: ignore[arg-type]


@pytest.mark.parametrize("name", PREPROCESSORS)
def test_a_map_has_the_size_of_its_picture_and_leaves_that_alone(name: str) -> None:
    for pixels in (shape(), photo(17, 33)):
        before = pixels.copy()
        mask = np.ones(pixels.shape[:2], np.float32) if PREPROCESSORS[name].masked else None
        found = control_map(name, pixels, mask=mask)
        assert found.pixels.shape == pixels.shape and found.pixels.dtype == np.uint8
        assert np.array_equal(pixels, before) and not np.shares_memory(found.pixels, pixels)


@pytest.mark.parametrize("name", PREPROCESSORS)
def test_the_same_picture_gives_the_same_map(name: str) -> None:
    assert np.array_equal(any_map(name, photo()), any_map(name, photo()))


def test_what_the_network_takes_lies_between_zero_and_one() -> None:
    values = control_map("none", photo()).values
    assert values.dtype == np.float32 and values.min() >= 0 and values.max() <= 1
    assert np.array_equal(np.rint(values * 255), photo())


# -- names and options ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "ours"),
    [
        ("Canny", "canny"),
        ("soft-edge", "soft_edge"),
        ("SoftEdge", "soft_edge"),
        ("lineart_standard (from white bg & black line)", "lineart"),
        ("scribble_xdog", "scribble"),
        ("tile_resample", "tile"),
        ("blur_gaussian", "blur"),
        ("t2ia_color_grid", "colour"),
        ("color", "colour"),
        ("inpaint_only", "inpaint"),
        ("invert (from white bg & black line)", "invert"),
    ],
)
def test_names_of_other_programs_are_understood(name: str, ours: str) -> None:
    assert resolve_preprocessor(name).name == ours


def test_a_wrong_name_lists_the_names() -> None:
    with pytest.raises(RequestError) as error:
        control_map("cany", photo())
    assert "unknown preprocessor 'cany'" in str(error.value)
    assert all(name in str(error.value) for name in PREPROCESSORS)
    assert "Did you mean canny?" in str(error.value)
    with pytest.raises(RequestError, match="Give a pose map as a picture, with the preprocessor"):
        resolve_preprocessor("dw_openpose_full")
    for nothing in ("", "()", "-"):
        with pytest.raises(RequestError, match="unknown preprocessor"):
            resolve_preprocessor(nothing)


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("canny", {"low": 0}, "canny: low must be a whole number from 1 to 1000; got 0"),
        ("canny", {"high": 150.5}, "high must be a whole number from 1 to 1000; got 150.5"),
        ("canny", {"low": True}, "low must be a whole number"),
        ("canny", {"treshold": 3}, "has no option 'treshold'; its options: low, high"),
        ("none", {"low": 3}, "has no option 'low'; its options: none"),
        ("blur", {"sigma": float("nan")}, "sigma must be a number from 0.01 to 256; got nan"),
        ("blur", {"sigma": "9"}, "sigma must be a number"),
        ("lineart", {"lines": "grey"}, "lines must be one of dark, light; got 'grey'"),
        ("inpaint", {"hole": 3}, "hole must be one of unknown, black; got 3"),
        ("canny", {"low": 300, "high": 200}, "low must not be above high"),
    ],
)
def test_wrong_options_are_refused(name: str, options: dict[str, object], said: str) -> None:
    mask = MASK if name == "inpaint" else None
    with pytest.raises(RequestError, match=said):
        control_map(name, photo(), mask=mask, options=options)


def test_options_reach_the_map() -> None:
    for name, options in {
        "canny": {"low": 5, "high": 20},
        "soft_edge": {"gain": 0.3},
        "lineart": {"width": 2.0},
        "scribble": {"threshold": 3},
        "threshold": {"level": 60},
        "tile": {"factor": 4},
        "blur": {"sigma": 1},
        "colour": {"cell": 5},
        "shuffle": {"seed": 3},
        "depth": {"nearest": "black"},
    }.items():
        assert not np.array_equal(any_map(name, photo(), options=options), any_map(name, photo()))


def test_every_option_has_a_default_that_it_takes() -> None:
    for how in PREPROCESSORS.values():
        assert how.checked({}) == {o.name: o.default for o in how.options}
        assert set(how.serves) <= set(KINDS) and how.serves
    for kind in KINDS:
        assert any(kind in how.serves for how in PREPROCESSORS.values())


def test_a_switch_takes_true_and_false_only() -> None:
    switch = Option("on", "whether", True)
    assert switch.checked(False, "x") is False
    with pytest.raises(RequestError, match="x: on must be true or false; got 1"):
        switch.checked(1, "x")


@pytest.mark.parametrize(
    "pixels",
    [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4, 3), np.float32)],
)
def test_what_is_no_picture_is_refused(pixels: Pixels) -> None:
    with pytest.raises(RequestError, match="takes pictures"):
        control_map("none", pixels)


# -- resolution ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [n for n, how in PREPROCESSORS.items() if how.scaled])
def test_a_resolution_is_where_a_preprocessor_looks(name: str) -> None:
    picture = shape()
    own = any_map(name, picture)
    assert np.array_equal(any_map(name, picture, resolution=HEIGHT), own)
    other = any_map(name, picture, resolution=4 * HEIGHT)
    assert other.shape == picture.shape and not np.array_equal(other, own)
    if PREPROCESSORS[name].hard and name != "colour":
        assert set(np.unique(other)) <= {0, 255}


@pytest.mark.parametrize("name", [n for n, how in PREPROCESSORS.items() if not how.scaled])
def test_a_resolution_without_effect_is_refused(name: str) -> None:
    with pytest.raises(RequestError, match="the same at any resolution; leave resolution out"):
        any_map(name, shape(), resolution=64)


def test_a_resolution_out_of_range_is_refused() -> None:
    with pytest.raises(RequestError, match="resolution must be from 16 to 4096 pixels; got 8"):
        any_map("canny", shape(), resolution=8)
    with pytest.raises(RequestError, match="would be 40960 pixels long"):
        control_map("blur", np.zeros((2, 20, 3), np.uint8), resolution=4096)


# -- masks ---------------------------------------------------------------------------------------


def test_a_hole_is_minus_one_where_the_mask_is_above_a_half() -> None:
    mask = MASK.copy()
    mask[0, 0] = 0.5
    found = control_map("inpaint", photo(), mask=mask)
    hole = mask > 0.5
    assert (found.values[hole] == -1).all()
    assert np.array_equal(found.values[~hole], photo()[~hole].astype(np.float32) / 255)
    assert not found.pixels[hole].any() and found.notes == ()


def test_a_black_hole_is_zero() -> None:
    found = control_map("inpaint", photo(), mask=MASK, options={"hole": "black"})
    assert found.values.min() == 0 and (found.values[MASK > 0.5] == 0).all()


def test_an_empty_mask_is_said() -> None:
    found = control_map("inpaint", photo(), mask=np.zeros_like(MASK))
    assert "the mask is empty" in found.notes[0] and found.values.min() >= 0


def test_masks_that_do_not_fit_are_refused() -> None:
    with pytest.raises(RequestError, match="inpaint needs a mask"):
        control_map("inpaint", photo())
    with pytest.raises(RequestError, match="canny takes no mask"):
        control_map("canny", photo(), mask=MASK)
    with pytest.raises(RequestError, match="the mask is 56x20 and the picture 56x40"):
        control_map("inpaint", photo(), mask=MASK[:20])


# -- what looks wrong ----------------------------------------------------------------------------


def pose() -> Pixels:
    image = Image.new("RGB", (WIDTH, HEIGHT))
    pen = ImageDraw.Draw(image)
    pen.line((20, 5, 22, 20), fill=(255, 0, 85), width=3)
    pen.line((22, 20, 35, 36), fill=(0, 170, 255), width=3)
    return np.asarray(image)


def normals() -> Pixels:
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    across, down = (x - WIDTH / 2) / WIDTH, (y - HEIGHT / 2) / HEIGHT
    towards = np.sqrt(1 - across**2 - down**2)
    vectors = np.stack([across, -down, towards], 2)
    return np.rint((vectors + 1) * 127.5).astype(np.uint8)


def segments() -> Pixels:
    image = Image.new("RGB", (WIDTH, HEIGHT), (120, 120, 180))
    pen = ImageDraw.Draw(image)
    pen.rectangle((5, 20, 50, 39), fill=(4, 250, 7))
    pen.ellipse((20, 5, 40, 30), fill=(150, 5, 61))
    return np.asarray(image)


def depths() -> Pixels:
    y, _ = np.mgrid[:HEIGHT, :WIDTH]
    return grey(y * 255 / HEIGHT)


GIVEN = {"depth": depths, "normal": normals, "pose": pose, "segmentation": segments}


@pytest.mark.parametrize("name", GIVEN)
def test_a_map_that_is_one_passes_unchanged_and_unwarned(name: str) -> None:
    found = control_map(name, GIVEN[name]())
    assert np.array_equal(found.pixels, GIVEN[name]()) and found.notes == ()
    assert control_map("none", GIVEN[name](), kind=name).notes == ()


@pytest.mark.parametrize("name", GIVEN)
def test_a_photograph_given_as_a_map_passes_with_a_warning(name: str) -> None:
    for found in (control_map(name, photo(96, 128)), control_map("none", photo(), kind=name)):
        assert len(found.notes) == 1 and "look like a" in found.notes[0]


@pytest.mark.parametrize(("name", "given"), [
    ("depth", "normal"), ("depth", "segmentation"), ("normal", "depth"),
    ("normal", "segmentation"), ("pose", "normal"), ("pose", "depth"),
])  # fmt: skip
def test_one_kind_of_map_given_as_another_is_warned_of(name: str, given: str) -> None:
    assert control_map(name, GIVEN[given]()).notes


def test_a_depth_map_may_have_near_as_black() -> None:
    found = control_map("depth", depths(), options={"nearest": "black"})
    assert np.array_equal(found.pixels, 255 - depths())


def test_black_lines_on_white_given_as_a_map_are_warned_of() -> None:
    lines = 255 - control_map("canny", shape()).pixels
    assert "use the preprocessor invert" in control_map("none", lines, kind="canny").notes[0]
    assert control_map("none", 255 - lines, kind="canny").notes == ()
    assert control_map("none", lines).notes == ()


@pytest.mark.parametrize("name", ["canny", "soft_edge", "lineart", "scribble", "threshold"])
def test_a_black_map_says_that_nothing_was_found(name: str) -> None:
    found = control_map(name, np.full((20, 20, 3), 40, np.uint8))
    assert f"{name} found nothing, so the map is black" in found.notes[0]


def test_a_flat_depth_map_says_nothing() -> None:
    assert "says nothing" in control_map("depth", np.full((9, 9, 3), 90, np.uint8)).notes[0]


# -- kinds of control ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("control_v11p_sd15_canny.pth", "canny"),
        ("control_sd15_hed", "soft_edge"),
        ("control_v11p_sd15_softedge", "soft_edge"),
        ("diffusers_xl_depth_mid.safetensors", "depth"),
        ("t2iadapter_color_sd14v1", "colour"),
        ("control_v11e_sd15_ip2p", "instruct"),
        ("control_v11f1e_sd15_tile", "tile"),
        ("control_v11p_sd15_openpose", "pose"),
        ("my-net", None),
        ("canny_and_depth", None),
        ("segment_anything", None),
    ],
)
def test_a_networks_name_tells_what_it_follows(name: str, kind: str | None) -> None:
    assert kind_of(name) == kind


def test_a_map_that_a_network_does_not_know_is_warned_of() -> None:
    warning = misfit("canny", "depth")
    assert warning is not None and "use none, invert, depth" in warning
    assert misfit("canny", "canny") is None
    assert misfit("canny", None) is None
    assert all(misfit("none", kind) is None for kind in KINDS)


def test_the_table_loads_neither_torch_nor_opencv() -> None:
    code = (
        "import sys; import safelight.preprocessors.maps; "
        "assert not {'torch', 'cv2'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_finished_map_of_lines_is_told_from_pictures() -> None:
    lines = np.zeros((64, 64, 3), np.uint8)
    lines[10, 5:60] = lines[20:50, 30] = 255
    noise = np.random.default_rng(0).integers(0, 20, lines.shape, dtype=np.uint8)
    assert is_lines(lines) and is_lines(np.where(lines > 0, lines - noise, noise))
    black, ramp = np.zeros_like(lines), np.repeat(np.arange(64, dtype=np.uint8) * 4, 192)
    red = lines * np.array([1, 0, 0], np.uint8)
    for other in (black, 255 - lines, red, ramp.reshape(lines.shape)):
        assert not is_lines(other)
