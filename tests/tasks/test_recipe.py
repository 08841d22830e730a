"""A recipe is strict about what it reads and exact about what differs."""

import hashlib
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recipes import MODEL, SOFTWARE, recipe
from safelight.errors import FileError, RequestError, SafelightError
from safelight.tasks.recipe import (
    JSON_LIMIT,
    Recipe,
    differences,
    explain,
    pixels_sha256,
)
from safelight.tasks.request import Guidance, Pag, Request


def edited(**changes: object) -> str:
    """A recipe's JSON with top-level fields changed."""
    return json.dumps({**json.loads(recipe().to_json()), **changes})


def test_a_recipe_survives_json_and_is_ascii() -> None:
    made = recipe(prompt='猫 "x"\n', guidance=Guidance(pag=Pag()), seed=2**64 - 2)
    assert made.to_json().isascii() and "\n" not in made.to_json()
    assert Recipe.from_json(made.to_json()) == made


def test_every_setting_is_written_out() -> None:
    """So that a default which changes in a later version does not change old recipes."""
    written = json.loads(recipe().to_json())
    assert set(written["request"]) == set(Request.model_fields)


@pytest.mark.parametrize(
    "request_",
    [
        Request(prompt="", width=64, height=64),
        Request(prompt="", width=64, height=64, seed=1, count=2),
        Request(prompt="", seed=1),
    ],
)
def test_a_recipe_is_of_one_resolved_picture(request_: Request) -> None:
    with pytest.raises(RequestError):
        recipe(request_)


def test_unknown_fields_are_listed_with_their_places() -> None:
    written = json.loads(recipe().to_json())
    written["extra"] = 1
    written["request"]["guidance"]["magic"] = 2
    written["files"][0]["colour"] = 3
    with pytest.raises(FileError) as caught:
        Recipe.from_json(json.dumps(written))
    for place in ("'extra'", "'request.guidance.magic'", "'files.0.colour'"):
        assert place in str(caught.value)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        (edited(version=2), "version 2"),
        (edited(version=True), "version True"),
        (edited(version=None), "version None"),
        (edited(software={}), "software"),
        (edited(seconds=-1), "seconds"),
        ("[]", "object"),
        ("{", "JSON"),
        ('{"version": NaN}', "NaN"),
        ('{"version": 1, "version": 1}', "twice"),
        ("[" * 100_000, "deep"),
        ("1" * 5000, "JSON"),
        (" " * (JSON_LIMIT + 1), str(JSON_LIMIT)),
    ],
)
def test_a_bad_recipe_is_refused_in_one_line(text: str, word: str) -> None:
    with pytest.raises(FileError, match=word) as caught:
        Recipe.from_json(text)
    assert "\n" not in str(caught.value)


def test_equal_recipes_differ_in_nothing_whatever_time_they_took() -> None:
    assert differences(recipe(), recipe(seconds=99.0)) == []
    assert explain(recipe(), recipe(seconds=99.0)) == "identical"


def test_differences_come_in_the_order_of_likely_causes() -> None:
    other = recipe(
        steps=30,
        guidance=Guidance(pag=Pag()),
        files=(MODEL.replace(sha256="ab" * 32),),
        software=SOFTWARE.replace(torch="2.14.0"),
        result=recipe().result.replace(pixels_sha256="1" * 64),
    )
    fields = [difference.field for difference in differences(recipe(), other)]
    assert fields[0] == "files.model"
    assert fields[-2:] == ["software.torch", "result.pixels_sha256"]
    assert {"request.steps", "request.guidance.pag.scale"} <= set(fields)
    told = explain(recipe(), other)
    assert "the setting steps was 20, is 30" in told
    assert "torch was '2.13.0', is '2.14.0'" in told
    assert "the file for model is another" in told


def test_a_renamed_file_with_the_same_content_is_no_difference() -> None:
    assert differences(recipe(), recipe(files=(MODEL.replace(name="other.ckpt"),))) == []


def test_a_missing_and_a_surplus_file_are_told() -> None:
    vae = MODEL.replace(role="vae", name="fix.safetensors")
    assert "a file is used that was not there: vae 'fix.safetensors'" in explain(
        recipe(), recipe(files=(MODEL, vae))
    )
    assert "a file is missing: vae" in explain(recipe(files=(MODEL, vae)), recipe())


def test_two_files_of_one_role_are_compared_in_order() -> None:
    first, second = MODEL.replace(role="lora"), MODEL.replace(role="lora", sha256="1" * 64)
    found = differences(recipe(files=(first, second)), recipe(files=(first, first)))
    assert [difference.field for difference in found] == ["files.lora 2"]


@pytest.mark.parametrize(
    "path", ["/home/ann/models/x.ckpt", "C:\\Users\\ann\\x.ckpt", "models/x.ckpt", "x.ckpt"]
)
def test_a_shared_recipe_does_not_tell_folders(path: str) -> None:
    assert recipe(model=path, vae=path).without_folders().request.model == "x.ckpt"
    assert "ann" not in recipe(model=path, vae=path).without_folders().to_json()


def test_the_pixel_hash_covers_shape_and_bytes() -> None:
    pixels = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    known = hashlib.sha256(b"2x4x3\n" + bytes(range(24))).hexdigest()
    assert pixels_sha256(pixels) == known
    assert pixels_sha256(pixels.reshape(4, 2, 3)) != known
    assert pixels_sha256(pixels[:, ::-1]) != known


@given(st.text() | st.builds(edited, request=st.dictionaries(st.text(), st.integers())))
def test_whatever_the_text_only_our_errors_come_back(text: str) -> None:
    with pytest.raises(SafelightError):
        Recipe.from_json(text)
