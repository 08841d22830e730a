"""An evaluation on scenes: questions with facts, real renderings, baselines, and the report."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from safelight.checkpoints.evaluator_folder import LoadedEvaluator
from safelight.cli.evaluate_drawing import Drawing
from safelight.cli.evaluate_progress import Progressing
from safelight.cli.evaluate_questions import asked, within
from safelight.errors import FileError, RequestError
from safelight.evaluation.copies import Memory
from safelight.evaluation.evaluate import evaluate, evaluate_composition
from safelight.evaluation.exam import Exam, judge_space
from safelight.evaluation.memorisation import LEAST
from safelight.evaluation.nearest_captions import nearest_captions
from safelight.evaluation.pairs import Draw, Pairs, TextMatch
from safelight.evaluation.reconstruction import Again
from safelight.evaluation.report import Report
from safelight.evaluation.sweep import sweep, sweep_report
from safelight.printable import shown
from safelight.training.scenes.book import SceneBook
from safelight.training.scenes.catalogue import CORE_GROUPS, HELDOUT_COMBO
from safelight.training.scenes.cutouts import Cutouts, load_cutouts, read_cutouts
from safelight.training.scenes.pools import WEIGHTS
from safelight.training.scenes.render import render
from safelight.training.scenes.scene import Scene

POOL = 20_000  # training captions that the nearest is looked for among
TRAINING = 2000  # training pictures that copies are looked for among
HELD_OUT = 300  # held-out pictures beside them
CAPTIONS, TRIES = 16, 4  # training captions drawn again, and pictures of each
SWEPT = 96  # prompts of a sweep
QUICK = 64  # prompts of a quick look


@dataclass(frozen=True)
class SceneSettings:
    """What is asked and measured.

    training_seed, mix: of the book which the model was trained on, whose pictures are looked for;
    with a mix, only scenes of its kinds are asked.
    sweeps: values of `guidance` and `steps` to be swept over.
    """

    splits: tuple[str, ...]
    count: int
    seed: int
    training_seed: int
    quick: bool
    memory: bool
    batch: int
    sweeps: Mapping[str, tuple[float, ...]]
    mix: Mapping[str, float] | None = None

    @property
    def kinds(self) -> list[str] | None:
        """The kinds of scenes that may be asked; None for all."""
        return None if self.mix is None else [kind for kind, share in self.mix.items() if share]


def cutouts_at(paths: Sequence[Path]) -> Cutouts:
    """Those of one .safetensors file, or of tar shards and folders of them.

    Raises FileError or CheckpointError if they cannot be read.
    """
    if len(paths) == 1 and paths[0].suffix == ".safetensors":
        return load_cutouts(paths[0])
    shards: list[Path] = []
    for path in paths:
        inside = sorted(path.glob("*.tar")) if path.is_dir() else [path]
        if not inside or not all(p.is_file() and p.suffix == ".tar" for p in inside):
            raise FileError(
                f"--cutouts {shown(path)} is no file of cut-outs; give one .safetensors file that "
                "save_cutouts wrote, .tar shards, or a folder of them."
            )
        shards += inside
    return read_cutouts(
        shards, lambda e: e.group in WEIGHTS and (e.core or e.group not in CORE_GROUPS)
    )


def scenes_report(
    drawing: Drawing,
    cutouts: Cutouts,
    judge: LoadedEvaluator,
    match: TextMatch | None,
    settings: SceneSettings,
    progress: Progressing,
    *,
    name: str,
    facts: Mapping[str, str | int | float],
) -> Report:
    """The report of a model on questions from scenes. Raises RequestError as its parts do."""
    model, side = drawing.model, side_of(drawing)
    progress.say("rendering real pictures")
    cutouts = cutouts.to(model.device)
    exam = exam_of(cutouts, judge, match, settings, side)
    facts = {
        **facts,
        "splits": ", ".join(within(settings.splits, settings.kinds)),
        "cut-outs": len(cutouts),
        "seed of the questions": settings.seed,
    }
    pace = Pace(progress)
    again = through_codec(drawing)
    if settings.quick:
        report = evaluate_composition(
            exam,
            pace.counted(drawing, ("drawing", len(exam.questions))),
            model=name,
            again=pace.coded(again, len(exam.questions)),
            facts=facts,
        )
    else:
        memory = memory_of(cutouts, settings, side)
        retrieved, facts["training captions searched"] = _retrieved(cutouts, exam, settings, side)
        stages = [("drawing", len(exam.questions))]
        if memory is not None:
            tried = len(memory.captions) + len(memory.held_out_captions)
            stages.append(("drawing captions that may bring copies out", tried * TRIES))
        report = evaluate(
            exam,
            pace.counted(drawing, *stages),
            model=name,
            unguided=_unguided(drawing, pace, len(exam.questions)),
            again=pace.coded(again, len(exam.questions) + len(exam.pairs.reference)),
            retrieved=retrieved,
            memory=memory,
            facts=facts,
        )
    report = replace(report, facts={**report.facts, "seconds a picture": pace.seconds})
    return _swept(report, drawing, exam, settings, progress, name)


def exam_of(
    cutouts: Cutouts,
    judge: LoadedEvaluator,
    match: TextMatch | None,
    settings: SceneSettings,
    side: int,
) -> Exam:
    """The questions with real renderings of their facts, and as many others for reference."""
    known = {*judge.labels.concepts, *judge.labels.styles}
    splits, count, seed = settings.splits, settings.count, settings.seed
    own = asked(cutouts, splits, count, seed=seed, known=known, kinds=settings.kinds)
    # Another seed, so that no two pictures show the very same facts but by chance.
    others = asked(
        cutouts, splits, max(count, 64), seed=seed + 2**32, known=known, kinds=settings.kinds
    )
    pairs = Pairs(
        tuple(item.question.prompt for item in own),
        tuple(range(seed, seed + count)),
        rendered([item.scene for item in own], cutouts, side),
        rendered([item.scene for item in others], cutouts, side),
        judge_space(judge),
        match,
        batch=settings.batch,
        seed=seed,
    )
    return Exam(tuple(item.question for item in own), judge, pairs)


def memory_of(cutouts: Cutouts, settings: SceneSettings, side: int) -> Memory | None:
    """Training pictures and held-out ones; None if not wanted, or if nothing is held out."""
    held_out = cutouts.catalogue.where(lambda e: e.split == HELDOUT_COMBO)
    if not settings.memory or not held_out:
        return None
    # Single objects on both sides, or the kind of scene would tell them apart.
    scenes = SceneBook(cutouts, settings.training_seed, settings.mix).scenes(range(POOL))
    training = varied([scene for scene in scenes if scene.kind == "single"], TRAINING)
    book = SceneBook(cutouts, settings.seed + 2**33, {"single": 1.0}, HELDOUT_COMBO)
    other = varied(book.scenes(range(10 * HELD_OUT)), HELD_OUT)
    return Memory(
        rendered(training, cutouts, side),
        rendered(other, cutouts, side),
        tuple(scene.caption for scene in training[:CAPTIONS]),
        tuple(scene.caption for scene in other[:CAPTIONS]),
        TRIES,
    )


def varied(scenes: Sequence[Scene], count: int) -> list[Scene]:
    """The first scene of each cut-out, at most `count`; further ones only to reach 20.

    Of one cut-out twice, each would be the other's nearest, and no set of many would be like it.
    """
    seen: dict[int, int] = {}
    ranked = []
    for scene in scenes:
        cutout = scene.layers[0].cutout
        ranked.append((seen.get(cutout, 0), scene))
        seen[cutout] = seen.get(cutout, 0) + 1
    ranked.sort(key=lambda row: row[0])
    return [scene for _, scene in ranked[: min(count, max(LEAST, len(seen)))]]


def rendered(scenes: Sequence[Scene], cutouts: Cutouts, side: int) -> Tensor:
    """Real pictures (B, 3, side, side) in [-1, 1], with the 256 levels that files have."""
    return render(scenes, cutouts, side).float().div_(127.5).sub_(1)


def side_of(drawing: Drawing) -> int:
    """The side in pixels of the pictures drawn. Raises RequestError if they are not square."""
    native = drawing.model.family.native_size
    width, height = drawing.request.width or native, drawing.request.height or native
    if width != height:
        raise RequestError(f"pictures are judged as squares; got {width}x{height}. Give one side.")
    return width


def through_codec(drawing: Drawing) -> Again:
    """The model's autoencoder, there and back, without noise."""
    codec = drawing.model.codec

    @torch.no_grad()
    def again(pictures: Tensor) -> Tensor:
        return codec.decode(codec.encode(pictures).mode()).float().clamp(-1, 1)

    return again


class Pace:
    """Counts what is drawn under a bar, and how long a picture took."""

    def __init__(self, progress: Progressing) -> None:
        self._progress = progress
        self._spent, self._pictures = 0.0, 0

    @property
    def seconds(self) -> float:
        """The mean time of a picture, to three digits."""
        return float(f"{self._spent / max(1, self._pictures):.3g}")

    def counted(self, draw: Draw, *stages: tuple[str, int]) -> Draw:
        """The same drawing, counted through stages (what is drawn, how many), one after another."""
        waiting = [Stage(self._progress, text, total) for text, total in stages]

        def drawn(prompts: Sequence[str], seeds: Sequence[int]) -> Tensor:
            if waiting[0].full and len(waiting) > 1:
                del waiting[0]
            waiting[0].begin()
            began = time.perf_counter()
            pictures = draw(prompts, seeds)
            self._spent += time.perf_counter() - began
            self._pictures += len(pictures)
            waiting[0].advance(len(pictures))
            return pictures

        return drawn

    def coded(self, again: Again, total: int) -> Again:
        """The codec, counted."""
        stage = Stage(self._progress, "through the autoencoder", total)

        def coded(pictures: Tensor) -> Tensor:
            stage.begin()
            back = again(pictures)
            stage.advance(len(pictures))
            return back

        return coded


class Stage:
    """A stage that is shown when its first piece begins."""

    def __init__(self, progress: Progressing, text: str, total: int) -> None:
        self._progress, self._text, self._total = progress, text, total
        self._advance: Callable[[int], None] | None = None
        self._done = 0

    @property
    def full(self) -> bool:
        """Whether all its pieces are done."""
        return self._done >= self._total

    def begin(self) -> None:
        """Show it, once."""
        if self._advance is None:
            self._advance = self._progress.stage(self._text, self._total)

    def advance(self, count: int) -> None:
        """So many more are done."""
        assert self._advance is not None, "a stage begins before it advances"
        self._done += count
        self._advance(count)


def _unguided(drawing: Drawing, pace: Pace, total: int) -> Draw | None:
    if drawing.request.cfg_scale == 1:
        return None
    plain = replace(drawing, request=drawing.request.replace(cfg_scale=1.0))
    return pace.counted(plain, ("drawing without guidance", total))


def _retrieved(
    cutouts: Cutouts, exam: Exam, settings: SceneSettings, side: int
) -> tuple[Tensor, int]:
    """For each question the picture whose training caption is nearest, and of how many."""
    book = SceneBook(cutouts, settings.training_seed, settings.mix)
    scenes = book.scenes(range(POOL))
    pairs = exam.pairs
    texts = None if pairs.match is None else pairs.match.texts
    chosen = nearest_captions(pairs.prompts, [scene.caption for scene in scenes], texts=texts)
    return rendered([scenes[i] for i in chosen], cutouts, side), len(scenes)


def _swept(
    report: Report,
    drawing: Drawing,
    exam: Exam,
    settings: SceneSettings,
    progress: Progressing,
    name: str,
) -> Report:
    """The report with the sweeps' tables, plots and sheets behind its own."""
    if not settings.sweeps:
        return report
    short = exam.first(SWEPT, dimensions=32)
    found = []
    for setting, values in settings.sweeps.items():

        def drawing_at(value: float, setting: str = setting) -> Draw:
            given = {"cfg_scale": value} if setting == "guidance" else {"steps": int(value)}
            other = replace(drawing, request=drawing.request.replace(**given))
            label = f"drawing at {setting} {value:g}"
            return Pace(progress).counted(other, (label, len(short.questions)))

        found.append(sweep(setting, values, drawing_at, short))
    more = sweep_report(found, short, model=name)
    return replace(
        report,
        tables=(*report.tables, *more.tables),
        plots={**report.plots, **more.plots},
        pictures={**report.pictures, **more.pictures},
    )
