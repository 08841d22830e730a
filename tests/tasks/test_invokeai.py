"""InvokeAI's three generations of settings."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safelight.errors import FileError, SafelightError
from safelight.tasks.metadata.invokeai import read_dream, read_invokeai, read_sd_metadata
from safelight.tasks.request import Guidance, Request

# Keys and values as InvokeAI 3 to 5 write them.
MODERN: dict[str, object] = {
    "generation_mode": "txt2img",
    "positive_prompt": "a cat++",
    "negative_prompt": "blurry",
    "width": 680,
    "height": 384,
    "seed": 620742083,
    "rand_device": "cpu",
    "cfg_scale": 7.5,
    "cfg_rescale_multiplier": 0.0,
    "steps": 50,
    "scheduler": "dpmpp_2m_k",
    "clip_skip": 0,
    "model": {"key": "1f", "hash": "blake3:aa", "name": "sd-v1-5", "base": "sd-1", "type": "main"},
    "seamless_x": False,
    "loras": [],
    "app_version": "5.4.0",
}
EXPECTED = Request(
    prompt="a cat++", negative_prompt="blurry", dialect="compel", width=680, height=384,
    seed=620742083, cfg_scale=7.5, steps=50, sampler="DPM++ 2M", schedule="Karras",
    model="sd-v1-5", start="diffusers",
)  # fmt: skip


def modern(**changes: object) -> str:
    """The JSON with changed keys."""
    return json.dumps({**MODERN, **changes})


def test_the_modern_form_is_read_without_notes() -> None:
    reading = read_invokeai(modern())
    assert reading.request == EXPECTED
    assert (reading.notes, reading.model_hash) == ((), "blake3:aa")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"cfg_rescale_multiplier": 0.7}, {"guidance": Guidance(rescale=0.7)}),
        ({"clip_skip": 1}, {"clip_skip": 2}),
        ({"rand_device": "cuda"}, {"noise_source": "nv"}),
        ({"model": {"model_name": "old"}}, {"model": "old"}),
        ({"vae": {"name": "fixed"}}, {"vae": "fixed"}),
        ({"scheduler": "euler_a"}, {"sampler": "Euler a", "schedule": "automatic"}),
        ({"scheduler": "unipc"}, {"sampler": "UniPC", "schedule": "automatic"}),
        ({"scheduler": "kdpm_2"}, {"sampler": "DPM2", "schedule": "automatic"}),
        (
            {"loras": [{"lora": {"model_name": "a", "base_model": "sd-1"}, "weight": 0.7}]},
            {"loras": ({"file": "a", "weight": 0.7},)},
        ),
        (
            {"loras": [{"model": {"key": "1", "name": "b", "type": "lora"}, "weight": -1}]},
            {"loras": ({"file": "b", "weight": -1},)},
        ),
    ],
)
def test_settings_find_their_place(changes: dict[str, object], expected: dict[str, object]) -> None:
    reading = read_invokeai(modern(**changes))
    assert reading.request == EXPECTED.replace(**expected)
    assert reading.notes == ()


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"generation_mode": "img2img"}, "img2img"),
        ({"loras": [{"weight": 1}]}, "loras"),
        ({"seamless_x": True}, "seamless_x"),
        ({"controlnets": [{}]}, "controlnets"),
        ({"positive_style_prompt": "oil"}, "oil"),
        ({"init_image": "x"}, "another picture"),
        ({"scheduler": "magic"}, "magic"),
        ({"width": 681}, "680 and 688"),
        ({"steps": -1}, "steps must be"),
    ],
)
def test_what_is_not_taken_over_is_said(changes: dict[str, object], word: str) -> None:
    reading = read_invokeai(modern(**changes))
    assert reading.request is not None
    assert word in "\n".join(reading.notes)


def test_version_2_is_read() -> None:
    reading = read_sd_metadata(
        json.dumps(
            {
                "model": "stable diffusion",
                "model_weights": "stable-diffusion-1.4",
                "model_hash": "fe4efff1e1",
                "app_version": "v2.1.0",
                "image": {
                    "prompt": [{"prompt": "a cat [blurry, bad] in a hat [ugly]", "weight": 1}],
                    "steps": 50, "cfg_scale": 7.5, "threshold": 0, "perlin": 0, "height": 512,
                    "width": 640, "seed": 42, "type": "txt2img", "sampler": "k_lms",
                    "variations": [], "postprocessing": None,
                },
            }
        )
    )  # fmt: skip
    assert reading.request == Request(
        prompt="a cat in a hat", negative_prompt="blurry, bad, ugly", dialect="compel", steps=50,
        cfg_scale=7.5, width=640, height=512, seed=42, sampler="LMS", model="stable-diffusion-1.4",
    )  # fmt: skip
    assert (reading.notes, reading.model_hash) == ((), "fe4efff1e1")


@pytest.mark.parametrize(
    "text",
    [
        '"a cat [bad]" -s 50 -S 123 -W 512 -H 768 -C 7.5 -A k_euler_a',
        '"a cat [bad]" -s50 -S123 -W512 -H768 -C7.5 -Ak_euler_a',
        "a cat [bad] -s50 -S123 -W512 -H768 -C7.5 -Ak_euler_a",
        '"a cat [bad]" --steps 50 --seed 123 --width 512 --height 768 --cfg_scale 7.5 -A k_euler_a',
    ],
)
def test_dream_texts_are_read(text: str) -> None:
    reading = read_dream(text)
    assert reading.request == Request(
        prompt="a cat", negative_prompt="bad", dialect="compel", steps=50, seed=123, width=512,
        height=768, cfg_scale=7.5, sampler="Euler a",
    )  # fmt: skip
    assert reading.notes == ()


def test_unknown_options_of_a_dream_text_are_said() -> None:
    assert "-G" in "\n".join(read_dream('"a cat" -s 50 -G 0.8').notes)


@pytest.mark.parametrize("text", ["", "[]", "null", "{", "[" * 99_999])
def test_what_is_not_its_json_is_a_file_error(text: str) -> None:
    for reader in (read_invokeai, read_sd_metadata):
        with pytest.raises(FileError):
            reader(text)


@pytest.mark.parametrize("text", ['"a cat', "x" * 60_000])
def test_a_broken_dream_text_is_a_file_error(text: str) -> None:
    with pytest.raises(FileError):
        read_dream(text)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@given(
    st.dictionaries(
        st.sampled_from([*MODERN, "vae", "init_image", "image", "prompt"]) | st.text(), JSON
    )
)
def test_whatever_the_settings_only_our_errors_come_back(given_: dict[str, object]) -> None:
    for reader, text in (
        (read_invokeai, json.dumps(given_)),
        (read_sd_metadata, json.dumps({"image": given_})),
        (read_dream, json.dumps(given_)),
    ):
        try:
            reading = reader(text)
        except SafelightError:
            continue
        assert all("\n" not in note for note in reading.notes)
