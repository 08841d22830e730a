"""A1111's clients draw, edit, upscale and list as they do with A1111 itself."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from server_fake import FakePainter
from server_lists import lists
from server_live import live

webuiapi = pytest.importorskip("webuiapi", reason="a client that is not installed")


@pytest.fixture(autouse=True)
def listed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    lists(monkeypatch, tmp_path)


@pytest.fixture
def painter() -> FakePainter:
    return FakePainter()


@pytest.fixture
def port(tmp_path: Path, painter: FakePainter) -> Iterator[int]:
    with live(tmp_path / "out", painter) as port:
        yield port


@pytest.fixture
def api(port: int) -> "webuiapi.WebUIApi":
    return webuiapi.WebUIApi(host="127.0.0.1", port=port)


def photo(colour: tuple[int, int, int] = (9, 99, 199)) -> Image.Image:
    return Image.new("RGB", (64, 64), colour)


def test_text_to_image_gives_pictures_seeds_and_infotexts(api: "webuiapi.WebUIApi") -> None:
    result = api.txt2img(
        prompt="an apple", seed=7, batch_size=2, steps=3, width=64, height=64, cfg_scale=5
    )
    assert len(result.images) == 2
    assert result.images[0].getpixel((0, 0)) == (7, 49, 343 % 251)
    assert result.info["all_seeds"] == [7, 8]
    assert result.info["infotexts"][0].startswith("an apple\nSteps: 3")
    assert result.parameters["prompt"] == "an apple"


def test_names_of_samplers_may_carry_their_schedule(
    api: "webuiapi.WebUIApi", painter: FakePainter
) -> None:
    result = api.txt2img(prompt="a", sampler_name="DPM++ 2M Karras", steps=2, width=64, height=64)
    text = result.info["infotexts"][0]
    assert result.info["sampler_name"] == "DPM++ 2M" and "Schedule type: Karras" in text


def test_an_unknown_sampler_is_a_404_with_a1111_s_words(api: "webuiapi.WebUIApi") -> None:
    with pytest.raises(RuntimeError) as caught:
        api.txt2img(prompt="a", sampler_name="Nobody")
    assert "404" in str(caught.value) and "Sampler not found" in str(caught.value)


def test_image_to_image_with_a_mask_draws_on_the_picture(api: "webuiapi.WebUIApi") -> None:
    result = api.img2img(
        images=[photo()],
        mask_image=photo((255, 255, 255)),
        prompt="a hat",
        steps=2,
        width=64,
        height=64,
        denoising_strength=0.4,
        inpainting_fill=2,
    )
    assert len(result.images) == 1
    assert result.info["denoising_strength"] == 0.4
    assert "init_images" not in result.parameters and "mask" not in result.parameters


def test_a_second_pass_is_asked_for_in_a1111_s_fields(api: "webuiapi.WebUIApi") -> None:
    result = api.txt2img(
        prompt="a",
        enable_hr=True,
        hr_scale=2,
        hr_upscaler="Latent",
        steps=2,
        width=64,
        height=64,
        denoising_strength=0.6,
        hr_second_pass_steps=2,
    )
    assert "Hires upscale: 2" in result.info["infotexts"][0]


def test_a_control_unit_follows_its_picture_and_gives_back_its_map(
    api: "webuiapi.WebUIApi",
) -> None:
    unit = webuiapi.ControlNetUnit(image=photo(), module="invert", model="edges", weight=0.7)
    # the client keeps what it is told in its default: a dict of our own spares the next test
    result = api.txt2img(
        prompt="a", steps=2, width=64, height=64, controlnet_units=[unit], alwayson_scripts={}
    )
    assert len(result.images) == 2
    assert result.images[1].getpixel((0, 0)) == (246, 156, 56)


def test_a_picture_tells_how_it_was_made(api: "webuiapi.WebUIApi") -> None:
    made = api.txt2img(prompt="an apple", steps=3, width=64, height=64, seed=5)
    told = api.png_info(made.images[0])
    assert "an apple" in told.info


def test_a_picture_alone_is_made_larger(tmp_path: Path) -> None:
    with live(tmp_path / "real", real=True) as port:
        api = webuiapi.WebUIApi(host="127.0.0.1", port=port)
        result = api.extra_single_image(image=photo(), upscaler_1="Lanczos", upscaling_resize=2)
        assert result.image.size == (128, 128)
        assert result.image.getpixel((64, 64)) == (9, 99, 199)
        several = api.extra_batch_images(images=[photo(), photo((1, 2, 3))], upscaling_resize=3)
        assert [image.size for image in several.images] == [(192, 192)] * 2


def test_models_are_listed_and_changed(api: "webuiapi.WebUIApi", painter: FakePainter) -> None:
    assert api.util_get_model_names() == ["other", "plain"]
    api.util_set_model("other")
    assert api.util_get_current_model() == "other"
    assert api.get_options()["sd_model_checkpoint"] == "other"


def test_all_lists_come_in_the_types_that_clients_read(api: "webuiapi.WebUIApi") -> None:
    assert "Euler a" in [one["name"] for one in api.get_samplers()]
    assert "karras" in [one["name"] for one in api.get_schedulers()]
    assert api.get_upscalers()[0]["name"] == "None"
    assert [one["name"] for one in api.get_loras()] == ["style"]
    assert api.get_embeddings() == {"loaded": {}, "skipped": {}}
    assert api.get_memory()["ram"]["total"] > 0
    assert api.controlnet_version() == 3
    assert api.controlnet_model_list() == ["edges"]
    assert "canny" in api.controlnet_module_list()
    assert api.get_face_restorers() == [] and api.get_prompt_styles() == []
    assert api.refresh_checkpoints() is None
    for latent in api.get_latent_upscale_modes():
        assert latent["name"]


def test_preprocessors_are_detected_alone(api: "webuiapi.WebUIApi") -> None:
    result = api.controlnet_detect(images=[photo()], module="invert")
    assert result.images[0].getpixel((0, 0)) == (246, 156, 56)


def test_idle_progress_is_exactly_zero(api: "webuiapi.WebUIApi") -> None:
    told = api.get_progress()
    assert told["progress"] == 0 and told["state"]["job_count"] == 0
    assert told["current_image"] is None


def test_progress_moves_while_it_draws_and_interrupt_ends_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with live(tmp_path / "slow", FakePainter(step=0.05)) as port:
        api = webuiapi.WebUIApi(host="127.0.0.1", port=port)
        seen: list[float] = []

        def watch() -> None:
            while not any(seen):
                seen.append(api.get_progress()["progress"])
                time.sleep(0.1)
            api.interrupt()

        watcher = threading.Thread(target=watch)
        watcher.start()
        began = time.monotonic()
        result = api.txt2img(prompt="a", steps=150, width=64, height=64)
        watcher.join()
        assert time.monotonic() - began < 6, "150 steps of 50 ms were not all taken"
        assert max(seen) > 0
        assert result.images == []
