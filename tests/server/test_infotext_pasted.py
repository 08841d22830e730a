"""The text of a picture, sent as `infotext`, fills what a call of A1111's API leaves open."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from safelight.server.a1111.fields import image_to_image, text_to_image
from safelight.server.refusals import NotAllowed
from server_fake import FakePainter
from server_lists import lists
from server_live import live

TEXT = (
    "an apple\nNegative prompt: fog\nSteps: 7, Sampler: DPM++ 2M SDE, Schedule type: Karras, "
    "CFG scale: 5, Seed: 9, Size: 64x128, RNG: CPU, Clip skip: 2, Eta: 0.5"
)
HIRES = f"{TEXT}, Denoising strength: 0.4, Hires upscale: 2, Hires steps: 3"


def test_a_text_fills_every_field_that_was_not_sent() -> None:
    settings = text_to_image({"infotext": TEXT}).settings
    expected = {
        "prompt": "an apple",
        "negative_prompt": "fog",
        "steps": 7,
        "sampler": "DPM++ 2M SDE",
        "schedule": "Karras",
        "cfg_scale": 5.0,
        "seed": 9,
        "width": 64,
        "height": 128,
        "clip_skip": 2,
        "noise_source": "cpu",
    }
    assert {name: settings[name] for name in expected} == expected
    assert settings["sampler_options"] == {"eta": 0.5}


def test_a_field_that_was_sent_wins_and_null_is_none() -> None:
    sent = {"infotext": TEXT, "prompt": "a cat", "steps": 3, "seed": None, "eta": 0.25}
    settings = text_to_image(sent).settings
    assert (settings["prompt"], settings["steps"], settings["seed"]) == ("a cat", 3, 9)
    assert settings["sampler_options"] == {"eta": 0.25}
    override = {"infotext": TEXT, "override_settings": {"CLIP_stop_at_last_layers": 1}}
    assert text_to_image(override).settings["clip_skip"] == 1


def test_another_sampler_takes_neither_schedule_nor_options_of_the_text() -> None:
    settings = text_to_image({"infotext": TEXT, "sampler_name": "Heun"}).settings
    assert settings["sampler"] == "Heun"
    assert "schedule" not in settings and "sampler_options" not in settings


def test_a_second_pass_is_of_text_to_image_alone() -> None:
    hires = text_to_image({"infotext": HIRES}).settings["hires"]
    assert isinstance(hires, dict)
    assert (hires["scale"], hires["steps"], hires["strength"]) == (2.0, 3, 0.4)
    assert "hires" not in text_to_image({"infotext": HIRES, "enable_hr": False}).settings
    on_picture = image_to_image({"infotext": HIRES, "init_images": ["x"]}).settings
    assert "hires" not in on_picture
    assert on_picture["source"] == {"picture": "source", "strength": 0.4, "resize": "just"}


def test_fields_of_the_second_pass_win_one_by_one() -> None:
    own = "Hires CFG Scale: 3"
    sent = {"infotext": f"{HIRES}, {own}", "enable_hr": True, "hr_second_pass_steps": 5}
    hires = text_to_image(sent).settings["hires"]
    expected = {"upscaler": "Latent", "scale": 2.0, "steps": 5, "strength": 0.4, "cfg_scale": 3.0}
    assert hires == expected
    resized = f"{HIRES}, Hires resize: 128x192"
    hires = text_to_image({"infotext": resized}).settings["hires"]
    assert isinstance(hires, dict) and list(hires["size"]) == [128, 192] and "scale" not in hires
    hires = text_to_image({"infotext": resized, "hr_scale": 3}).settings["hires"]
    assert isinstance(hires, dict) and hires["scale"] == 3 and "size" not in hires


def test_what_of_a_text_is_not_read_is_told() -> None:
    notes = text_to_image({"infotext": f"{TEXT}, Face restoration: CodeFormer"}).notes
    assert any(note.startswith("infotext: ") and "Face restoration" in note for note in notes)


def test_settings_that_need_a_picture_are_left_out_and_told() -> None:
    own = 'Safelight settings: "{\\"source\\": {\\"picture\\": \\"a.png\\"}, \\"max_chunks\\": 2}"'
    drawing = text_to_image({"infotext": f"{TEXT}, {own}"})
    assert "source" not in drawing.settings and drawing.settings["max_chunks"] == 2
    assert any("source needs a picture" in note for note in drawing.notes)


@pytest.mark.parametrize("text", [5, ["a"], "a" * 100_001])
def test_a_text_that_is_none_is_refused(text: object) -> None:
    with pytest.raises(NotAllowed, match="infotext"):
        text_to_image({"infotext": text})


def test_a_strength_that_is_no_number_is_refused() -> None:
    text = "an apple\nSteps: 3, Sampler: Euler, CFG scale: 5, Denoising strength: much"
    with pytest.raises(NotAllowed, match="denoising strength"):
        image_to_image({"infotext": text, "init_images": ["x"]})


@pytest.fixture
def port(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    lists(monkeypatch, tmp_path)
    with live(tmp_path / "out", FakePainter()) as port:
        yield port


def test_a_picture_is_asked_for_again_by_its_own_text(port: int) -> None:
    def call(body: dict[str, Any]) -> dict[str, Any]:
        answer = httpx.post(f"http://127.0.0.1:{port}/sdapi/v1/txt2img", json=body, timeout=30)
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    first = call({"prompt": "an apple", "seed": 5, "steps": 3, "width": 64, "height": 64})
    text = json.loads(first["info"])["infotexts"][0]
    again = call({"infotext": text})
    assert json.loads(again["info"])["infotexts"][0] == text
    assert again["images"] == first["images"]
    assert again["warnings"] == first["warnings"]
