"""OpenAI's own client draws, edits and streams, and its error classes are those of the status."""

import asyncio
import base64
import contextlib
import io
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import openai
import pytest
from PIL import Image

from safelight.errors import NonFiniteError
from safelight.server.app import create_app
from safelight.server.jobs import LOCAL
from safelight.server.limits import Limits
from safelight.server.service import Service
from safelight.server.settings import Key
from server_fake import FakePainter, run, serving

SECRET = "12345678-secret"

pytestmark = pytest.mark.usefixtures("plain_model")


@contextlib.asynccontextmanager
async def client(
    out: Path, painter: FakePainter | None = None, *, key: str = "unused", **changes: object
) -> AsyncIterator[tuple[openai.AsyncOpenAI, Service]]:
    async with serving(out, painter, **changes) as service:
        app = create_app(service.settings, service=service)
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, timeout=20) as http:
            yield (
                openai.AsyncOpenAI(
                    api_key=key, base_url="http://localhost/v1", http_client=http, max_retries=0
                ),
                service,
            )


def opened(data: str | None) -> Image.Image:
    assert data is not None
    return Image.open(io.BytesIO(base64.b64decode(data)))


def png(size: tuple[int, int] = (64, 64), hole: tuple[int, int, int, int] | None = None) -> bytes:
    image = Image.new("RGBA", size, (10, 200, 30, 255))
    if hole is not None:
        image.paste((0, 0, 0, 0), hole)
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def test_pictures_of_a_text_come_with_their_usage_and_recipe(tmp_path: Path) -> None:
    async def asks() -> None:
        async with client(tmp_path) as (ai, _):
            made = await ai.images.generate(
                prompt="a red apple", n=2, size="64x128", quality="high", extra_body={"seed": 7}
            )
            assert made.data is not None and len(made.data) == 2
            pictures = [opened(one.b64_json) for one in made.data]
            assert [picture.size for picture in pictures] == [(64, 128)] * 2
            assert pictures[0].getpixel((0, 0)) == (7, 49, 343 % 251)
            assert "a red apple" in str(pictures[0].info["parameters"])
            assert made.size == "64x128" and made.output_format == "png"
            assert made.usage is not None
            assert made.usage.output_tokens == 2 * 8 * 16
            used = made.usage.input_tokens_details
            assert used.text_tokens == 3 and used.image_tokens == 0
            assert "quality: without a meaning here" in str(made.warnings)  # type: ignore[attr-defined]

    run(asks)


@pytest.mark.parametrize(("form", "kind"), [("webp", "WEBP"), ("jpeg", "JPEG")])
def test_other_formats_are_what_they_say(form: str, kind: str, tmp_path: Path) -> None:
    async def asks() -> None:
        async with client(tmp_path) as (ai, _):
            made = await ai.images.generate(
                prompt="a",
                output_format=form,
                output_compression=50,  # type: ignore[call-overload]
            )
            assert opened(made.data[0].b64_json).format == kind

    run(asks)


def test_a_picture_may_be_named_by_its_address(tmp_path: Path) -> None:
    async def asks() -> None:
        async with client(tmp_path) as (ai, _):
            made = await ai.images.generate(prompt="a", response_format="url")
            assert made.data is not None and made.data[0].url is not None
            answer = await ai._client.get(made.data[0].url)
            assert answer.headers["content-type"] == "image/png"

    run(asks)


def test_an_edit_has_its_picture_and_the_mask_s_transparent_places(tmp_path: Path) -> None:
    painter = FakePainter()

    async def asks() -> None:
        async with client(tmp_path, painter) as (ai, service):
            await ai.images.edit(
                image=("p.png", png(), "image/png"),
                mask=("m.png", png(hole=(0, 0, 32, 32)), "image/png"),
                prompt="a hat",
                extra_body={"source.strength": "0.5"},
            )
            (job,) = service.jobs(LOCAL)
            request = job.request
            assert request.source is not None and request.source.strength == 0.5
            assert request.mask is not None and request.mask.reading == "transparent"

    run(asks)


def test_a_list_of_one_picture_is_that_picture_and_two_are_refused(tmp_path: Path) -> None:
    async def asks() -> None:
        async with client(tmp_path) as (ai, _):
            one = ("p.png", png(), "image/png")
            made = await ai.images.edit(image=[one], prompt="a hat")
            assert made.data is not None and len(made.data) == 1
            with pytest.raises(openai.BadRequestError, match="image is one picture here; got 2"):
                await ai.images.edit(image=[one, one], prompt="a hat")

    run(asks)


def test_a_mask_of_another_size_is_refused_by_its_name(tmp_path: Path) -> None:
    async def asks() -> None:
        async with client(tmp_path) as (ai, _):
            with pytest.raises(openai.BadRequestError) as caught:
                await ai.images.edit(
                    image=("p.png", png(), "image/png"),
                    mask=("m.png", png((32, 32)), "image/png"),
                    prompt="a hat",
                )
            assert caught.value.param == "mask" and "32x32" in str(caught.value)

    run(asks)


@pytest.mark.filterwarnings("ignore:deprecated:DeprecationWarning")  # theirs
def test_a_variation_needs_no_prompt(tmp_path: Path) -> None:
    async def asks() -> None:
        async with client(tmp_path) as (ai, _):
            made = await ai.images.create_variation(image=("p.png", png(), "image/png"), n=2)
            assert made.data is not None and len(made.data) == 2

    run(asks)


def test_a_stream_shows_pictures_on_the_way_and_ends_with_the_finished_one(tmp_path: Path) -> None:
    async def asks() -> None:
        async with client(tmp_path, FakePainter(step=0.01)) as (ai, _):
            stream = await ai.images.generate(
                prompt="a", stream=True, partial_images=2, extra_body={"steps": 12}
            )
            events = [event async for event in stream]
            kinds = [event.type for event in events]
            assert kinds[-1] == "image_generation.completed"
            assert kinds[:-1] == ["image_generation.partial_image"] * 2
            assert [event.partial_image_index for event in events[:-1]] == [0, 1]
            assert opened(events[-1].b64_json).format == "PNG"
            assert events[-1].usage.total_tokens > 0

    run(asks)


def test_a_stream_of_a_job_that_fails_raises(tmp_path: Path) -> None:
    painter = FakePainter()
    painter.fails = lambda request: NonFiniteError("U-Net made NaN")

    async def asks() -> None:
        async with client(tmp_path, painter) as (ai, _):
            stream = await ai.images.generate(prompt="a", stream=True)
            with pytest.raises(openai.APIError, match="made NaN"):
                async for _ in stream:
                    pass

    run(asks)


@pytest.mark.parametrize(
    ("fields", "kind"),
    [
        ({"n": 11}, openai.BadRequestError),
        ({"size": "large"}, openai.BadRequestError),
        ({"model": "nobody"}, openai.NotFoundError),
        ({"extra_body": {"steps": 0}}, openai.UnprocessableEntityError),
        ({"size": "100000x64"}, openai.UnprocessableEntityError),
    ],
)
def test_errors_are_the_client_s_own_classes(
    fields: dict[str, object], kind: type[openai.APIStatusError], tmp_path: Path
) -> None:
    async def asks() -> None:
        async with client(tmp_path) as (ai, _):
            with pytest.raises(kind) as caught:
                await ai.images.generate(prompt="a", **fields)  # type: ignore[call-overload]
            assert caught.value.body is not None and str(tmp_path) not in str(caught.value.body)

    run(asks)


def test_a_full_queue_is_a_rate_limit_that_says_when_to_come_back(tmp_path: Path) -> None:
    painter = FakePainter(held=True)

    async def asks() -> None:
        async with client(tmp_path, painter, limits=Limits(owner_queue=1)) as (ai, _):
            first = asyncio.create_task(ai.images.generate(prompt="a"))
            while not painter.begun.is_set():
                await asyncio.sleep(0.01)
            with pytest.raises(openai.RateLimitError) as caught:
                await ai.images.generate(prompt="b")
            assert int(caught.value.response.headers["retry-after"]) >= 1
            painter.go.set()
            await first

    run(asks)


def test_a_wrong_key_is_an_authentication_error_and_the_right_one_draws(tmp_path: Path) -> None:
    async def asks() -> None:
        keys = (Key("me", SECRET),)
        async with client(tmp_path, key="wrong-key", keys=keys) as (ai, _):
            with pytest.raises(openai.AuthenticationError):
                await ai.images.generate(prompt="a")
            made = await ai.with_options(api_key=SECRET).images.generate(prompt="a")
            assert made.data

    run(asks)


def test_models_are_listed_and_told(tmp_path: Path) -> None:
    async def asks() -> None:
        async with client(tmp_path) as (ai, service):
            names = [model.id async for model in ai.models.list()]
            assert names == [item.name for item in service.registry.on("model")]
            assert (await ai.models.retrieve(names[0])).id == names[0]
            with pytest.raises(openai.NotFoundError):
                await ai.models.retrieve("nobody")

    run(asks)
