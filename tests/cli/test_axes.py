"""The axes of a grid: names, values, ranges and replacements."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safelight.cli.axes import NAMES, Axis, axis
from safelight.errors import RequestError


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("steps=10,20 , 30", ("10", "20", "30")),
        ("steps=1-4", ("1", "2", "3", "4")),
        ("steps=1-9(+2)", ("1", "3", "5", "7", "9")),
        ("steps=1-9 (+ 3)", ("1-9 (+ 3)",)),
        ("steps=9-1(-4)", ("9", "5", "1")),
        ("steps=1-10[4]", ("1", "4", "7", "10")),
        ("steps=1-10[4],50", ("1", "4", "7", "10", "50")),
        ("steps=1-10[1]", ("1",)),
        ("cfg=3-9(+2.5)", ("3", "5.5", "8")),
        ("cfg=0.1-0.5(+0.1)", ("0.1", "0.2", "0.3", "0.4", "0.5")),
        ("cfg=1-2[3]", ("1", "1.5", "2")),
        ("apg-momentum=-1--0.5(+0.25)", ("-1", "-0.75", "-0.5")),
        (
            "seed=18446744073709551610-18446744073709551612",
            tuple(str(18446744073709551610 + k) for k in range(3)),
        ),
        ("sampler=Euler a,DPM++ 2M", ("Euler a", "DPM++ 2M")),
        ("size=64x64,128x64", ("64x64", "128x64")),
        ('prompt="a, b",c', ("a, b", "c")),
        ('prompt=say ""hi"",x', ('say ""hi""', "x")),
        ("prompt=1-3,x", ("1-3", "x")),
        ("negative=,blurry", ("", "blurry")),
        ("--clip_skip=1,2", ("1", "2")),
    ],
)
def test_values_are_listed_and_numbers_may_be_ranges(text: str, values: tuple[str, ...]) -> None:
    assert axis(text).values == values


@given(st.integers(1, 50), st.integers(0, 30), st.integers(1, 7))
def test_a_range_counts_as_python_does(low: int, span: int, step: int) -> None:
    numbers = tuple(map(str, range(low, low + span + 1, step)))
    assert axis(f"steps={low}-{low + span}(+{step})").values == numbers


@given(st.lists(st.text(st.characters(exclude_categories=("Cc", "Cs")), min_size=1), min_size=1))
def test_quoted_values_are_taken_as_they_are(values: list[str]) -> None:
    quoted = ",".join('"' + value.replace('"', '""') + '"' for value in values)
    if any(value.strip() for value in values):
        assert axis(f"prompt={quoted}").values == tuple(value.strip() for value in values)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("steps", "an axis is NAME=VALUE"),
        ("=1,2", "there is no setting '' to vary"),
        ("stpes=1", "Did you mean steps?"),
        ("cfg_scal=1", "cfg"),
        ("count=1,2", "every cell is one picture"),
        ("batch=1,2", "every cell is one picture"),
        ("freeu=1,1,1,1", "quote it: 'freeu=\"1.5,1.6,0.9,0.2\"'"),
        ("steps=", "has no values"),
        ("steps=,", "has no values"),
        ("steps=9-1", "has no values"),
        ("steps=1-9(+0)", "has no values"),
        ("steps=1-99999", "more than 1000"),
        ("cfg=1-2[0]", "has no values"),
        ("cfg=1-2[99999]", "more than 1000"),
        ('prompt="a,b', "quotation marks"),
        ("prompt=a\nb,c", "cannot be read"),
    ],
)
def test_what_cannot_be_read_is_said(text: str, said: str) -> None:
    with pytest.raises(RequestError, match=re.escape(said)):
        axis(text)


def test_a_prompt_axis_replaces_its_first_value_by_each() -> None:
    swap = axis("prompt=cat,dog")
    settings = {"prompt": "a cat and a cat", "steps": 3}
    assert swap.applied(settings, "cat") == settings
    assert swap.applied(settings, "dog") == {"prompt": "a dog and a dog", "steps": 3}
    with pytest.raises(RequestError, match="'bird', which is not in the text 'a cat'"):
        axis("prompt=bird,x").applied({"prompt": "a cat"}, "x")


def test_a_value_is_laid_on_its_group_alone() -> None:
    settings = {"guidance": {"rescale": 0.5, "apg": {"eta": 1.0}}, "steps": 3}
    assert axis("apg=5").applied(settings, "5") == {
        "guidance": {"rescale": 0.5, "apg": {"eta": 1.0, "norm_threshold": "5"}},
        "steps": 3,
    }


def test_labels_are_short_and_say_what_is_varied() -> None:
    assert axis("cfg=1,2").labels == ("cfg 1", "cfg 2")
    assert axis("prompt=cat,dog").labels == ("cat", "dog")
    assert Axis("model", ("/long/path/apple.safetensors",)).labels == ("apple.safetensors",)


@pytest.mark.parametrize("name", sorted(NAMES))
def test_every_option_can_be_an_axis(name: str) -> None:
    setting = NAMES[name]
    values = {int: "1", float: "0.5", bool: "true", str: "text", list[str]: "mid"}
    special = {
        "freeu": "1,1,1,1",
        "crop": "1,2",
        "extend": "left=8",
        "image-prompt": "adapter.safetensors,picture=a.png",
        "reference": "photo.png,fidelity=0.8",
        "region": "left: a cat",
        "tile": "64x64",
    }
    value = special.get(name) or ("8x8" if "size" in name or "from" in name else None)
    laid = axis(f'{name}="{value or values[setting.kind]}"')
    assert laid.applied({}, laid.values[0]) != {}
