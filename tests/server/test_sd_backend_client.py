"""A strictly typed client of A1111's API finds every answer of the type that it declares.

`sd-backend-client` validates what it reads with pydantic, so each call here checks names and types.
"""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from safelight.server.settings import Key
from server_fake import FakePainter
from server_lists import lists
from server_live import live

pytest.importorskip("sd_backend_client", reason="a client that is not installed")

from sd_backend_client.api.a1111_webservice import A1111Webservice, ImageResponse
from sd_backend_client.api.detect import connect_to_backend
from sd_backend_client.api.shared_data.controlnet.controlnet_model import (
    ControlNetModel,
)
from sd_backend_client.api.shared_data.controlnet.controlnet_preprocessor import (
    PreprocessorParams,
)
from sd_backend_client.api.shared_data.controlnet.controlnet_unit import (
    ControlNetUnit,
)
from sd_backend_client.api.shared_data.generation_handle import GenerationStatus
from sd_backend_client.api.webui.diffusion_request_body import DiffusionRequestBody
from sd_backend_client.api.webui.response_formats import GenerationInfoData
from sd_backend_client.errors import AuthError, SDBackendError, ServerError

pytestmark = pytest.mark.slow

SMALL: dict[str, Any] = {"prompt": "an apple", "steps": 3, "width": 64, "height": 64}


@pytest.fixture(autouse=True)
def listed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    lists(monkeypatch, tmp_path)


@pytest.fixture
def painter() -> FakePainter:
    return FakePainter()


@pytest.fixture
def api(tmp_path: Path, painter: FakePainter) -> Iterator[A1111Webservice]:
    with live(tmp_path / "out", painter) as port:
        client = A1111Webservice(f"http://127.0.0.1:{port}", request_timeout=10)
        yield client
        client.disconnect()


def photo(colour: tuple[int, int, int] = (9, 99, 199), side: int = 64) -> Image.Image:
    return Image.new("RGB", (side, side), colour)


def colour_of(image: Image.Image) -> tuple[int, ...]:
    found = image.convert("RGB").getpixel((0, 0))
    assert isinstance(found, tuple)
    return tuple(int(value) for value in found)


def told_of(made: ImageResponse) -> GenerationInfoData:
    """What the answer tells besides its pictures."""
    info = made["info"]
    assert info is not None
    return info


def body(**changes: Any) -> DiffusionRequestBody:
    return DiffusionRequestBody(**(SMALL | changes))


def test_it_takes_us_for_the_server_that_we_speak_like(api: A1111Webservice) -> None:
    found = connect_to_backend(api.server_url)
    assert isinstance(found, A1111Webservice)
    found.disconnect()
    told = api.get_capabilities()
    assert told.controlnet and told.scheduler and told.interrogate
    assert not (told.ultimate_upscale or told.soft_inpainting or told.free_memory)
    assert api.get_soft_inpainting_parameters() == []


def test_text_becomes_pictures_with_what_is_told_of_them(api: A1111Webservice) -> None:
    made = api.txt2img(body(seed=7, batch_size=2, n_iter=2, negative_prompt="fog"))
    assert [colour_of(image)[0] for image in made["images"]] == [7, 8, 9, 10]
    info = told_of(made)
    assert info.all_seeds == [7, 8, 9, 10] and info.negative_prompt == "fog"
    assert info.sampler_name == "Euler a" and info.cfg_scale == 7
    assert info.infotexts[0].startswith("an apple\nNegative prompt: fog\nSteps: 3")


def test_a_second_pass_and_shared_names_are_understood(api: A1111Webservice) -> None:
    made = api.txt2img(
        body(
            sampler="dpmpp_2m",
            scheduler="karras",
            enable_hr=True,
            hr_scale=2.0,
            hr_upscaler="Latent",
            denoising_strength=0.5,
        )
    )
    text = told_of(made).infotexts[0]
    assert "Sampler: DPM++ 2M" in text and "Schedule type: Karras" in text
    assert "Hires upscale: 2" in text


def test_pictures_are_drawn_on_and_painted_in(api: A1111Webservice) -> None:
    made = api.img2img(photo(), None, body(denoising_strength=0.4, seed=5))
    assert made["images"][0].size == (64, 64) and told_of(made).denoising_strength == 0.4
    mask = Image.new("L", (64, 64), 255)
    painted = api.img2img(photo(), mask, body(denoising_strength=0.9, seed=6))
    assert told_of(painted).seed == 6


def test_jobs_are_followed_to_their_end(api: A1111Webservice) -> None:
    job = api.submit_txt2img(body(seed=11))
    done = job.wait(timeout=20, poll_interval=0.05)
    assert done.seeds == [11] and colour_of(done.images[0]) == (11, 77, 539 % 251)
    assert job.poll().status is GenerationStatus.FINISHED
    source = api.submit_img2img(body(init_images=[photo()])).wait(timeout=20, poll_interval=0.05)
    assert len(source.images) == 1
    masked = body(init_images=[photo()], mask=Image.new("L", (64, 64), 255))
    assert len(api.submit_inpaint(masked).wait(timeout=20, poll_interval=0.05).images) == 1


def test_a_job_that_runs_is_cancelled(tmp_path: Path) -> None:
    painter = FakePainter(step=0.05)
    with live(tmp_path / "slow", painter) as port:
        api = A1111Webservice(f"http://127.0.0.1:{port}", request_timeout=10)
        job = api.submit_txt2img(body(steps=150))
        assert painter.begun.wait(10)
        told = api.progress_check()
        assert told.state.job_count == 1 and 0 <= told.progress < 1
        assert job.cancel()
        with pytest.raises(Exception, match=r"(?i)cancel|interrupt"):
            job.wait(timeout=8, poll_interval=0.05)
        assert api.progress_check().progress == 0
        assert sum(sum(turn.values()) for turn in painter.turns) == 1
        api.disconnect()


def test_a_control_unit_is_followed_and_its_map_comes_back(api: A1111Webservice) -> None:
    (invert,) = [one for one in api.get_controlnet_preprocessors() if one.name == "invert"]
    unit = ControlNetUnit(
        image=photo(),
        model=ControlNetModel("edges"),
        preprocessor=PreprocessorParams(typedef=invert, parameter_values={}),
        control_strength=0.7,
    )
    done = api.submit_txt2img(body(controlnet_units=[unit])).wait(timeout=20, poll_interval=0.05)
    assert len(done.images) == 1
    (control,) = done.control_maps
    assert colour_of(control) == (246, 156, 56)


def test_preprocessors_are_listed_with_their_sliders_and_tried(api: A1111Webservice) -> None:
    found = {one.name: one for one in api.get_controlnet_preprocessors()}
    assert {"canny", "invert"} <= set(found)
    shown = api.controlnet_preprocessor_preview(photo(), None, found["invert"])
    assert colour_of(shown) == (246, 156, 56)
    job = api.submit_preprocessor_preview(
        photo(), PreprocessorParams(typedef=found["invert"], parameter_values={})
    )
    assert job.wait(timeout=20, poll_interval=0.05).images[0].size == (64, 64)
    assert api.get_controlnet_version() == 3 and api.get_controlnet_settings()
    assert [one.full_model_name for one in api.list_controlnet_models()] == ["edges"]
    assert "edges" in api.get_controlnet_models().model_list
    kinds = api.get_controlnet_type_categories()
    assert "All" in kinds and "canny" in kinds["All"]["module_list"]


def test_a_picture_is_made_larger(tmp_path: Path) -> None:
    with live(tmp_path / "real", real=True) as port:
        api = A1111Webservice(f"http://127.0.0.1:{port}", request_timeout=10)
        made = api.upscale(photo(), 160, 128)
        assert [image.size for image in made["images"]] == [(160, 128)]
        job = api.submit_upscale(photo(), 128, 128)
        assert job.wait(timeout=20, poll_interval=0.05).images[0].size == (128, 128)
        api.disconnect()


def test_every_list_is_of_the_type_that_is_declared(api: A1111Webservice) -> None:
    assert [one.name for one in api.list_checkpoints()] == ["other", "plain"]
    assert [one.model_name for one in api.get_models()] == ["other", "plain"]
    assert [one.name for one in api.list_vaes()] == ["good-vae"]
    assert [one.name for one in api.list_loras()] == ["style"]
    assert api.get_hypernetworks() == ["net"]
    assert [one.name for one in api.list_hypernetworks()] == ["net"]
    assert "euler_ancestral" in [one.name for one in api.list_samplers()]
    assert {"karras", "exponential"} <= {one.name for one in api.list_schedulers()}
    assert "Lanczos" in [one.name for one in api.list_upscalers()]
    assert "Latent" in api.get_latent_upscale_modes()
    assert api.get_styles() == []
    assert "controlnet" in api.get_scripts().img2img
    assert [one.name for one in api.get_script_info()] == ["controlnet"]
    for refresh in (api.refresh_checkpoints, api.refresh_vae, api.refresh_loras):
        assert refresh().status_code == 200
    assert api.get_thumbnail("/etc/passwd") is None


def test_the_model_is_chosen(api: A1111Webservice) -> None:
    api.set_config({"sd_model_checkpoint": "other"})
    assert api.get_config()["sd_model_checkpoint"] == "other"
    assert told_of(api.txt2img(body())).sd_model_name == "other"


def test_idle_is_idle(api: A1111Webservice) -> None:
    told = api.progress_check()
    assert told.progress == 0 and told.state.job_count == 0 and told.current_image is None
    assert api.interrupt() == {}


def test_what_cannot_be_is_an_error_of_the_server_and_not_of_the_answer(
    api: A1111Webservice,
) -> None:
    with pytest.raises(ServerError) as wrong:
        api.txt2img(body(sampler="nobody"))
    assert wrong.value.status_code == 404 and "Sampler not found" in wrong.value.body
    with pytest.raises(ServerError) as missing:
        api.interrogate(photo())
    assert missing.value.status_code == 404
    with pytest.raises(SDBackendError):
        api.submit_txt2img(body(width=100_000)).wait(timeout=10, poll_interval=0.05)


def test_a_key_is_asked_for_and_given(tmp_path: Path) -> None:
    keys = (Key("ann", "secret-of-ann"),)
    with live(tmp_path / "keyed", keys=keys) as port:
        address = f"http://127.0.0.1:{port}"
        asked = threading.Event()

        def credentials() -> tuple[str, str]:
            asked.set()
            return ("ann", "secret-of-ann")

        api = A1111Webservice(address, credentials_provider=credentials, request_timeout=10)
        assert told_of(api.txt2img(body(seed=3))).seed == 3 and asked.is_set()
        api.disconnect()
        with pytest.raises(AuthError):
            A1111Webservice(address, lambda: ("ann", "wrong-secret")).get_samplers()
