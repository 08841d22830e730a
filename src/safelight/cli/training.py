"""What `safelight train` does once it is asked to."""

import json
import re
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import torch

from safelight.checkpoints.folders import read_json
from safelight.cli.train_display import Lines, Speaker, duration
from safelight.engines.placement import resolve_device
from safelight.errors import InputError, RequestError
from safelight.printable import shown
from safelight.training import saving
from safelight.training.config.configs import Config
from safelight.training.config.reading import read_config
from safelight.training.distributed import Group, joined
from safelight.training.loop import train
from safelight.training.recipes.building import job_of
from safelight.training.recipes.estimate import estimate, words
from safelight.training.recipes.exporting import LAST, Which, chosen, which
from safelight.training.recipes.job import Job, Workshop
from safelight.training.recipes.record import remember
from safelight.writing import write_text

_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(s|m|h)?")
_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, None: 1.0}
INTERRUPTED = 130
RESULT = "result.json"


@dataclass(frozen=True)
class Wish:
    """The command line."""

    config: Path
    changes: tuple[str, ...] = ()
    resume: bool = True
    until: str | None = None
    check: bool = False
    export: str | None = None
    to: Path | None = None


def work(wish: Wish) -> int:
    """Check, train or export; gives the exit code. Raises what the recipe and the loop raise."""
    began = time.monotonic()
    try:
        deadline = None if wish.until is None else began + seconds(wish.until)
        wanted = None if wish.export is None else which(wish.export)
        _check_wish(wish)
        config = read_config(wish.config, wish.changes)
        with joined(resolve_device(config.device)) as (group, device):
            return _with(config, wish, wanted, group, device, deadline)
    except RequestError as error:
        # keys of a config, which must not be told as options of a drawing
        raise InputError(str(error)) from None


def seconds(text: str) -> float:
    """The seconds of a time such as 8m. Raises RequestError."""
    found = _DURATION.fullmatch(text.strip())
    if found is None or not float(found[1]):
        raise RequestError(f"--until must be a time such as 90s, 8m or 2h; got {shown(text, 40)!r}")
    return float(found[1]) * _UNITS[found[2]]


def _check_wish(wish: Wish) -> None:
    if wish.to is not None and wish.export is None:
        raise RequestError("--to says where --export writes; give --export too")
    if wish.export is not None and wish.check:
        raise RequestError("--export and --check exclude each other; give one")
    if wish.to is not None and wish.to.exists():
        raise RequestError(f"--to must name a new folder; {shown(wish.to)} exists")


def _with(
    config: Config,
    wish: Wish,
    wanted: Which | None,
    group: Group,
    device: torch.device,
    deadline: float | None,
) -> int:
    speaker = Speaker(aloud=group.first)
    folder = Path(config.folder)
    if not wish.resume and saving.checkpoints(folder):
        raise RequestError(
            f"--fresh: {shown(folder)} holds a run already; go on with it, or give another folder"
        )
    with ExitStack() as stack:
        trial = wish.check or wanted is not None
        workshop = Workshop(
            device,
            folder,
            speaker.say if wanted is None else lambda text: None,
            speaker.warn,
            speaker.counted,
            trial,
            stack,
        )
        job = _in_turn(config, workshop, group)
        if wanted is not None:
            if group.first:
                _export(job, config, folder, wanted, wish.to, speaker)
            return 0
        for fact in job.facts:
            speaker.say(fact)
        if wish.check:
            return _checked(job, config, workshop, speaker)
        return _trained(job, config, wish, group, workshop, speaker, deadline)


def _in_turn(config: Config, workshop: Workshop, group: Group) -> Job:
    """The job; the first process makes it before the others, who find what it computed."""
    if group.first:
        job = job_of(config, workshop)
        group.barrier()
        return job
    group.barrier()
    return job_of(config, workshop)


def _checked(job: Job, config: Config, workshop: Workshop, speaker: Speaker) -> int:
    settings = job.settings
    found = estimate(job, workshop.device)
    for line in words(found, settings.steps):
        speaker.say(line)
    speaker.say(
        f"{settings.steps} steps of {settings.batch_size}, {settings.optimizer} in "
        f"{settings.precision} on {workshop.device}; the run's folder is {config.folder}"
    )
    step = saving.newest(workshop.folder)
    if step is not None:
        speaker.say(f"a run is there: it would go on from step {saving.step_of(step)}")
    speaker.say("the config is sound; nothing was trained")
    return 0


def _trained(
    job: Job,
    config: Config,
    wish: Wish,
    group: Group,
    workshop: Workshop,
    speaker: Speaker,
    deadline: float | None,
) -> int:
    folder = workshop.folder
    if group.first:
        remember(folder, config, job)
    group.barrier()
    before = saving.newest(folder)
    if before is not None:
        speaker.say(f"going on from step {saving.step_of(before)} of {shown(folder)}")
    outcome = train(
        job.task,
        job.data,
        job.settings,
        folder,
        device=workshop.device,
        order=job.order,
        watch=Lines(job, speaker),
        until=deadline,
        resume=wish.resume,
    )
    again = f"`safelight train {shown(wish.config)}` goes on"
    if outcome.reason != "finished":
        speaker.say(
            f"{outcome.reason} after step {outcome.step} of {outcome.steps}; saved in "
            f"{outcome.checkpoint}; {again}"
        )
        return INTERRUPTED if outcome.reason == "interrupted" else 0
    speaker.say(
        f"finished: {outcome.steps} steps in {duration(outcome.seconds)}"
        + (f", {outcome.skipped} left out as not finite" if outcome.skipped else "")
    )
    if group.first:
        target = _result(config, folder, outcome.step)
        if target is None:
            speaker.say("what this run came to was written before")
        else:
            _export(job, config, folder, Which(), target, speaker)
            write_text(folder / RESULT, json.dumps({"step": outcome.step, "path": str(target)}))
    group.barrier()
    return 0


def _result(config: Config, folder: Path, step: int) -> Path | None:
    """Where the result goes: a new folder, beside an older result; None if it is there already."""
    path = Path(config.export.folder) if config.export.folder else folder / "model"
    if not (path.exists() and any(path.iterdir())):
        return path
    other = path.with_name(f"{path.name}-{step}")
    written = _written(folder)
    return None if written == step or other.exists() else other


def _written(folder: Path) -> int | None:
    """The step whose result was written last."""
    note = folder / RESULT
    return int(str(read_json(note).get("step", -1))) if note.is_file() else None


def _export(
    job: Job, config: Config, folder: Path, wanted: Which, to: Path | None, speaker: Speaker
) -> None:
    kinds = config.training.ema
    settings = job.settings
    default = config.export.weights or (settings.ema[0].name if kinds else LAST)
    found = chosen(folder, job.exported, wanted, which(default).kind or LAST)
    named = (wanted.kind or default).replace(":", "-")
    target = to or folder / f"export-{named}{'' if wanted.step is None else f'-{wanted.step}'}"
    for path in job.write(found, target):
        speaker.say(f"wrote {path} ({wanted.kind or default})")
