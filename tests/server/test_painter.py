"""Drawing on the sampling thread with tiny models: previews, cancelling, batches, hot swap."""

import asyncio
import io
import shutil
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from addons_tiny import write_lora, write_word
from cli_tiny import tiny_model
from safelight.checkpoints.save import save
from safelight.errors import CheckpointError, FileError
from safelight.model import Model
from safelight.server.jobs import LOCAL, Job, State, Stepped
from safelight.server.judge import Verdict
from safelight.server.library import bytes_of
from safelight.server.previews import fitted, samples
from safelight.server.refusals import NotAllowed, Unknown
from safelight.server.service import Service
from safelight.tasks.generate import generate
from safelight.tasks.picture import pixel_distance
from safelight.tasks.request import Request
from server_fake import run, settings

pytestmark = pytest.mark.slow


def service_of(out: Path, models: Path, **changes: object) -> Service:
    given: dict[str, object] = {"folders": (models,), "model": "one", "preview_every": 1}
    return Service(settings(out, **(given | changes)))


async def drawn(service: Service, **changes: object) -> Job:
    given: dict[str, object] = {"prompt": "a cat", "steps": 2, "seed": 3}
    request = Request(**(given | changes))  # type: ignore[arg-type]
    job = await service.submit(request, LOCAL)
    return await service.finished(job.id, LOCAL)


@pytest.fixture(scope="module")
def one() -> Model:
    return tiny_model(0)


def test_a_picture_of_the_server_is_that_of_the_library(
    tmp_path: Path, models: Path, one: Model
) -> None:
    async def work() -> None:
        service = service_of(tmp_path, models)
        await service.start()
        job = await drawn(service, exact=True)
        (kept,) = await service.results(job.id, LOCAL)
        picture = await service.opened(kept.id, LOCAL)
        await service.stop()
        request = Request(prompt="a cat", steps=2, seed=3, exact=True)
        (alone,) = generate(one, request)
        assert np.array_equal(picture.pixels, alone.pixels)
        assert picture.recipe.request.model == "one" and kept.model == "one"
        text = (tmp_path / kept.file).read_bytes()
        assert str(models).encode() not in text and str(tmp_path).encode() not in text

    run(work)


def test_different_prompts_of_several_owners_are_drawn_at_once_and_each_as_alone(
    tmp_path: Path, models: Path, one: Model
) -> None:
    prompts = ["a cat", "a green dog", "two fishes"]

    async def work() -> None:
        service = service_of(tmp_path, models, batch=4)
        await service.start(load=False)
        jobs = [
            await service.submit(Request(prompt=p, steps=2, seed=n), LOCAL)
            for n, p in enumerate(["first", *prompts])
        ]
        for job in jobs:
            await service.finished(job.id, LOCAL)
        recipes = []
        for job in jobs[1:]:
            (kept,) = await service.results(job.id, LOCAL)
            picture = await service.opened(kept.id, LOCAL)
            seed = picture.recipe.request.seed
            (alone,) = generate(one, Request(prompt=kept.prompt, steps=2, seed=seed))
            distance = pixel_distance(picture.pixels, alone.pixels)
            assert distance is not None and distance.largest <= 1
            recipes.append(picture.recipe)
        await service.stop()
        assert [recipe.request.batch for recipe in recipes] == [3, 3, 3]

    run(work)


def test_previews_are_small_pictures_of_what_is_being_drawn(tmp_path: Path, models: Path) -> None:
    async def work() -> None:
        service = service_of(tmp_path, models)
        await service.start()
        job = await service.submit(Request(prompt="x", steps=4, seed=1), LOCAL)
        sizes = []
        async for event in service.events(job.id, LOCAL):
            if isinstance(event.body, Stepped) and event.body.preview is not None:
                with Image.open(io.BytesIO(event.body.preview)) as image:
                    assert image.format == "JPEG"
                    sizes.append(image.size)
        await service.stop()
        assert sizes and set(sizes) == {(64, 64)}

    run(work)


class Mirror(torch.nn.Module):
    """A codec whose latents are the colours themselves, mixed: what a preview must undo."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = torch.nn.Parameter(torch.randn(4, 3, generator=torch.Generator().manual_seed(0)))


def test_the_map_to_colours_undoes_a_linear_codec() -> None:
    class Posterior:
        def __init__(self, latents: torch.Tensor) -> None:
            self._latents = latents

        def mode(self) -> torch.Tensor:
            return self._latents

    class Linear:
        factor = 8

        def __init__(self) -> None:
            self.autoencoder = Mirror()

        def encode(self, images: torch.Tensor) -> Posterior:
            small = torch.nn.functional.avg_pool2d(images, 8)
            return Posterior(torch.einsum("cd,bdhw->bchw", self.autoencoder.mix, small) + 0.3)

    codec = Linear()
    preview = fitted(codec)  # type: ignore[arg-type]
    images = samples(128)
    latents = codec.encode(images[:1]).mode()
    shown = torch.from_numpy(preview.pixels(latents[0])).float() / 127.5 - 1
    wanted = torch.nn.functional.avg_pool2d(images[:1], 8)[0].permute(1, 2, 0)
    assert (shown - wanted).abs().mean() < 0.02


def test_a_cancelled_drawing_leaves_nothing_behind(
    tmp_path: Path, models: Path, one: Model
) -> None:
    async def work() -> None:
        service = service_of(tmp_path, models)
        await service.start()
        job = await service.submit(Request(prompt="x", steps=200, seed=1), LOCAL)
        while service.job(job.id, LOCAL).step < 2:
            await asyncio.sleep(0.01)
        await service.cancel(job.id, LOCAL)
        after = await drawn(service, exact=True)
        (kept,) = await service.results(after.id, LOCAL)
        picture = await service.opened(kept.id, LOCAL)
        assert await service.results(job.id, LOCAL) == []
        await service.stop()
        (alone,) = generate(one, Request(prompt="a cat", steps=2, seed=3, exact=True))
        assert np.array_equal(picture.pixels, alone.pixels)

    run(work)


def test_status_never_waits_for_the_drawing(tmp_path: Path, models: Path) -> None:
    async def work() -> None:
        service = service_of(tmp_path, models)
        await service.start()
        job = await service.submit(Request(prompt="x", steps=60, seed=1), LOCAL)
        loop, slowest = asyncio.get_running_loop(), 0.0
        while not service.job(job.id, LOCAL).state.over:
            began = loop.time()
            await asyncio.sleep(0.005)
            service.snapshot(LOCAL)
            slowest = max(slowest, loop.time() - began)
        await service.stop()
        assert slowest < 0.5
        assert threading.active_count() < 20

    run(work)


def test_a_lora_named_in_a_prompt_is_one_of_the_shelf_and_never_a_path(
    tmp_path: Path, models: Path
) -> None:
    folder = tmp_path / "models"
    shutil.copytree(models, folder)
    path = write_lora(folder / "loras" / "style.safetensors")
    elsewhere = write_lora(tmp_path / "other.safetensors")

    async def work() -> None:
        service = service_of(tmp_path / "out", folder)
        await service.start(load=False)
        with_it = await drawn(service, prompt="a cat <lora:style:1>", exact=True)
        without = await drawn(service, exact=True)
        assert with_it.state is State.DONE, with_it.failure
        assert not with_it.warnings, "that all of it matched is no warning"
        pixels = []
        for job in (with_it, without):
            (kept,) = await service.results(job.id, LOCAL)
            pixels.append((await service.opened(kept.id, LOCAL)).pixels)
        assert not np.array_equal(*pixels)
        for name in (str(elsewhere), str(path), "../loras/style", "gone"):
            with pytest.raises(Unknown, match="there is no LoRA called"):
                await service.submit(Request(prompt=f"a <lora:{name}:1>"), LOCAL)
        await service.stop()

    run(work)


def test_a_learned_word_in_a_prompt_is_found_on_the_shelf(tmp_path: Path, models: Path) -> None:
    folder = tmp_path / "models"
    shutil.copytree(models, folder)
    write_word(folder / "embeddings" / "charm.safetensors")

    async def work() -> None:
        service = service_of(tmp_path / "out", folder)
        await service.start(load=False)
        said = await drawn(service, prompt="a charm", exact=True)
        assert said.state is State.DONE, said.failure
        (kept,) = await service.results(said.id, LOCAL)
        request = (await service.opened(kept.id, LOCAL)).recipe.request
        assert [(one.file, one.word) for one in request.embeddings] == [("charm", "charm")]
        unsaid = await drawn(service, prompt="a charming cat", exact=True)
        (kept,) = await service.results(unsaid.id, LOCAL)
        assert (await service.opened(kept.id, LOCAL)).recipe.request.embeddings == ()
        await service.stop()

    run(work)


@pytest.mark.parametrize(
    "changes",
    [
        {"model": "/etc/passwd"},
        {"model": "../one.safetensors"},
        {"vae": "/etc/passwd"},
        {"controls": [{"net": "/etc/passwd", "picture": "0" * 64}]},
        {"hires": {"upscaler": "/etc/passwd"}},
        {"refiner": {"model": "/dev/zero"}},
        {"clip": "/etc/passwd", "best_of": 2},
        {"loras": [{"file": "/etc/passwd"}]},
        {"embeddings": [{"file": "/etc/passwd"}]},
        {"source": {"picture": "/etc/passwd"}},
        {"source": {"picture": "../../secret.png"}},
        {"source": {"picture": "http://127.0.0.1/x.png"}},
        {"source": {"picture": "f" * 64}},
        {"prompt": "embedding:/etc/passwd", "dialect": "comfy", "model": "gone"},
    ],
)
def test_nothing_outside_the_lists_can_be_named(
    tmp_path: Path, models: Path, changes: dict[str, object]
) -> None:
    async def work() -> None:
        service = service_of(tmp_path, models)
        await service.start(load=False)
        given: dict[str, object] = {"prompt": "x", "seed": 1}
        with pytest.raises((Unknown, NotAllowed)) as refused:
            await service.submit(service.asked(given | changes).request, LOCAL)
        assert str(models) not in str(refused.value)
        await service.stop()

    run(work)


def test_comfys_words_for_files_open_no_file(tmp_path: Path, models: Path) -> None:
    async def work() -> None:
        service = service_of(tmp_path, models)
        await service.start(load=False)
        job = await drawn(service, prompt="a embedding:/etc/passwd", dialect="comfy")
        assert job.state is State.DONE
        await service.stop()

    run(work)


# -- models ----------------------------------------------------------------------------------------


def test_two_models_within_the_budget_are_read_once(tmp_path: Path, models: Path) -> None:
    async def work() -> None:
        service = service_of(tmp_path, models)
        await service.start(load=False)
        for name in ("one", "two", "one", "two"):
            assert (await drawn(service, model=name)).state is State.DONE
        assert service.library.misses == 2 and service.library.hits == 2
        await service.stop()

    run(work)


def test_over_the_budget_the_model_used_longest_ago_goes(tmp_path: Path, models: Path) -> None:
    size = bytes_of(tiny_model())

    async def work() -> None:
        service = service_of(tmp_path, models, model_bytes=int(size * 1.5))
        await service.start(load=False)
        for name in ("one", "two", "two", "one"):
            await drawn(service, model=name)
        assert service.library.misses == 3
        assert len(service.library.loaded) == 1
        await service.stop()

    run(work)


def test_a_broken_model_is_named_and_the_others_go_on(tmp_path: Path, models: Path) -> None:
    folder = tmp_path / "models"
    shutil.copytree(models, folder)
    data = (folder / "two.safetensors").read_bytes()

    async def work() -> None:
        service = service_of(tmp_path / "out", folder)
        await service.start()
        await drawn(service)
        (folder / "two.safetensors").write_bytes(data[: len(data) // 2])
        broken = await drawn(service, model="two")
        assert broken.failure is not None and broken.failure.status == 422
        assert "two" in broken.failure.message and str(folder) not in broken.failure.message
        with pytest.raises((FileError, CheckpointError)):
            await service.use_model("two")
        assert service.model == "one"
        assert (await drawn(service)).state is State.DONE
        assert service.library.misses == 3  # "one" was never let go
        (folder / "two.safetensors").write_bytes(data)
        await service.use_model("two")
        assert service.model == "two"
        await service.stop()

    run(work)


def test_a_server_does_not_start_with_a_file_that_is_no_model(tmp_path: Path) -> None:
    path = tmp_path / "broken.safetensors"
    path.write_bytes(b"\x08\0\0\0\0\0\0\0not JSON")

    async def work() -> None:
        with pytest.raises((FileError, CheckpointError), match="broken"):
            await Service(settings(tmp_path / "out", model=str(path))).start()

    run(work)


def test_a_model_whose_file_is_replaced_is_read_anew_unless_the_new_one_is_broken(
    tmp_path: Path, models: Path
) -> None:
    folder = tmp_path / "models"
    shutil.copytree(models, folder)

    async def pixels(service: Service) -> tuple[bytes, tuple[str, ...]]:
        job = await drawn(service, exact=True)
        (kept,) = await service.results(job.id, LOCAL)
        return (await service.opened(kept.id, LOCAL)).pixels.tobytes(), job.warnings

    async def work() -> None:
        service = service_of(tmp_path / "out", folder)
        await service.start()
        first, _ = await pixels(service)
        bad = tmp_path / "bad.safetensors"
        bad.write_bytes(b"\x08\0\0\0\0\0\0\0not JSON")
        bad.replace(folder / "one.safetensors")
        same, warnings = await pixels(service)
        assert same == first and any("one" in w and "changed" in w for w in warnings)
        save(tiny_model(5), folder / "new.safetensors", "ldm")
        (folder / "new.safetensors").replace(folder / "one.safetensors")
        other, warnings = await pixels(service)
        assert other != first and not warnings
        await service.stop()

    run(work)


# -- failures --------------------------------------------------------------------------------------


def test_a_picture_that_does_not_fit_its_batch_fails_alone(
    tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from safelight.server import painter

    real = painter.draw_batch

    def poisoned(model: Model, batch: list[Request], *rest: object) -> object:
        if any(one.prompt == "poison" for one in batch):
            raise RuntimeError("out of luck")
        return real(model, batch, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(painter, "draw_batch", poisoned)

    async def work() -> None:
        service = service_of(tmp_path, models)
        await service.start(load=False)
        prompts = ["first", "a cat", "poison", "a dog"]
        jobs = [await service.submit(Request(prompt=p, steps=2, seed=1), LOCAL) for p in prompts]
        ended = [await service.finished(job.id, LOCAL) for job in jobs]
        assert [job.state for job in ended] == [State.DONE, State.DONE, State.FAILED, State.DONE]
        failure = ended[2].failure
        assert failure is not None and failure.id is not None and "luck" not in failure.message
        await service.stop()

    run(work)


def test_when_memory_runs_out_the_job_fails_and_the_next_is_drawn(
    tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from safelight.server import library, painter

    real = painter.draw_batch

    def starved(model: Model, batch: list[Request], *rest: object) -> object:
        if batch[0].width == 128:
            raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")
        return real(model, batch, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(painter, "draw_batch", starved)
    read: list[object] = []
    reads = library.Library._read

    def counted(*given: Any) -> library.Loaded:
        read.append(given)
        return reads(*given)

    monkeypatch.setattr(library.Library, "_read", counted)

    async def work() -> None:
        service = service_of(tmp_path, models)
        await service.start(load=False)
        large = await drawn(service, width=128, height=128)
        assert large.failure is not None
        assert (large.failure.kind, large.failure.status) == ("memory", 507)
        assert (await drawn(service)).state is State.DONE
        assert len(read) == 1  # to read the model again would take more than it holds
        await service.stop()

    run(work)


def test_pictures_that_do_not_fit_into_memory_together_are_drawn_one_by_one(
    tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from safelight.server import painter

    real, sizes = painter.draw_batch, list[int]()

    def narrow(model: Model, batch: list[Request], *rest: object) -> object:
        sizes.append(len(batch))
        if len(batch) > 1:
            raise MemoryError
        return real(model, batch, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(painter, "draw_batch", narrow)

    async def work() -> None:
        service = service_of(tmp_path, models)
        await service.start(load=False)
        job = await drawn(service, count=3)
        assert job.state is State.DONE and len(job.pictures) == 3
        assert sizes == [3, 1, 1, 1]
        await service.stop()

    run(work)


def test_a_judge_sees_every_picture_and_its_word_is_told(tmp_path: Path, models: Path) -> None:
    seen: list[tuple[int, ...]] = []

    def judge(pixels: np.ndarray) -> Verdict:
        seen.append(pixels.shape)
        return Verdict(len(seen) % 2 == 0, "not this one" if len(seen) % 2 else "fine")

    async def work() -> None:
        service = Service(
            settings(tmp_path, folders=(models,), model="one", preview_every=0), judge=judge
        )
        await service.start(load=False)
        held = await drawn(service)
        assert held.failure is not None
        assert (held.failure.kind, held.failure.message) == ("withheld", "not this one")
        shown = await drawn(service)
        assert shown.state is State.DONE and "fine" in shown.warnings
        assert seen == [(64, 64, 3)] * 2
        await service.stop()

    run(work)
