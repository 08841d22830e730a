from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from diffusion_lab import CAPTIONS, backbone, codec, frozen_text, process, shapes
from safelight.errors import RequestError
from safelight.training.diffusion_task import DiffusionSettings, DiffusionTask
from safelight.training.diffusion_watch import DiffusionWatch
from safelight.training.ema import Classic
from safelight.training.journal import Record
from safelight.training.latent_pool import LatentPool
from safelight.training.loop import train
from safelight.training.previews import Previews
from safelight.training.settings import Settings
from safelight.training.text_states import tokens_of
from safelight.training.validation import Validation
from safelight.training.watch import Moment

TEXT = frozen_text()
POOL = LatentPool(shapes(8), tokens_of(TEXT.conditioner, CAPTIONS).ids)
VALIDATION = Validation(POOL, range(4))
PREVIEWS = Previews(CAPTIONS[:2], 16, 16, steps=2)


def task_of() -> DiffusionTask:
    return DiffusionTask(backbone(), process(), TEXT, DiffusionSettings())


def moment(task: DiffusionTask, folder: Path, **changes: object) -> Moment:
    """Between two steps, with two averages: each multiplies the last layer by a number."""

    @contextmanager
    def averaged(kind: str) -> Iterator[None]:
        layer = task.learner.conv_out.weight
        assert isinstance(layer, Tensor)
        factor = {"a": 2.0, "b": 3.0}[kind]
        own = layer.detach().clone()
        with torch.no_grad():
            layer.mul_(factor)
        yield
        with torch.no_grad():
            layer.copy_(own)

    made: Callable[[str], AbstractContextManager[None]] = averaged
    plain = Moment(20, folder, torch.device("cpu"), task.players, ("a", "b"), True, made)
    return replace(plain, **changes)  # type: ignore[arg-type]


def test_the_first_average_is_judged_unless_another_is_asked_for(tmp_path: Path) -> None:
    task = task_of()
    now = moment(task, tmp_path)
    own = VALIDATION(task)
    with now.averaged("a"):
        first = VALIDATION(task)
    with now.averaged("b"):
        second = VALIDATION(task)
    assert own != first != second
    assert DiffusionWatch(task, VALIDATION).validate(now) == first
    assert DiffusionWatch(task, VALIDATION, average="b").validate(now) == second
    assert DiffusionWatch(task, VALIDATION, weights=True).validate(now) == own
    assert DiffusionWatch(task, VALIDATION).validate(replace(now, kinds=())) == own
    with pytest.raises(RequestError, match="keeps no average 'c'; it has a, b"):
        DiffusionWatch(task, VALIDATION, average="c").validate(now)


def test_sheets_are_drawn_by_one_process_at_the_steps_asked_for(tmp_path: Path) -> None:
    task = task_of()
    watch = DiffusionWatch(task, previews=PREVIEWS, codec=codec(), preview_every=10)
    for step in (5, 10, 20):
        assert watch.validate(moment(task, tmp_path, step=step)) == {}
    watch.validate(moment(task, tmp_path, step=30, first=False))
    sheets = sorted(path.name for path in (tmp_path / "previews").iterdir())
    assert sheets == ["00000010.png", "00000020.png"]
    assert (tmp_path / "previews" / sheets[0]).read_bytes().startswith(b"\x89PNG")


def test_a_sheet_that_cannot_be_written_is_warned_of(tmp_path: Path) -> None:
    class Hearing(DiffusionWatch):
        heard: list[str]

        def warned(self, text: str) -> None:
            self.heard.append(text)

    task = task_of()
    watch = Hearing(task, VALIDATION, previews=PREVIEWS, codec=codec())
    watch.heard = []
    (tmp_path / "previews").write_text("in the way")
    assert watch.validate(moment(task, tmp_path))["held_out/loss"] > 0
    assert len(watch.heard) == 1 and "without this sheet of pictures" in watch.heard[0]


def test_previews_without_what_they_need_are_refused() -> None:
    with pytest.raises(RequestError, match="previews need the codec"):
        DiffusionWatch(task_of(), previews=PREVIEWS)


def test_a_run_logs_its_figures_and_keeps_its_sheets(tmp_path: Path) -> None:
    records: list[Record] = []

    class Noting(DiffusionWatch):
        def logged(self, record: Record) -> None:
            records.append(record)

    task = task_of()
    settings = Settings(
        batch_size=8, micro_batch=4, steps=4, validate_every=2, log_every=2, ema=(Classic(0.9),)
    )
    watch = Noting(task, VALIDATION, previews=PREVIEWS, codec=codec())
    outcome = train(task, POOL, settings, tmp_path, watch=watch)
    assert outcome.step == 4
    judged = [record for record in records if "held_out/loss" in record]
    assert [record["step"] for record in judged] == [2, 4]
    assert all("held_out/snr_-5_-3" in record for record in judged)
    assert any("unet/mse" in record for record in records)
    names = sorted(path.name for path in (tmp_path / "previews").iterdir())
    assert names == ["00000002.png", "00000004.png"]
