"""What a model is asked, and all that is measured of the pictures it answers with.

The same measures are taken of real renderings, of baselines and of the model, so that every number
has its ceiling and its floor beside it.

Shapes: N questions, R reference pictures, S pixels of a side, D features, K concepts.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from safelight.checkpoints.evaluator_folder import LoadedEvaluator
from safelight.errors import RequestError
from safelight.evaluation.composition import Answer, Composition, Question, judged, score
from safelight.evaluation.coverage import Coverage, coverage
from safelight.evaluation.frechet import DIMENSIONS, FrechetDistance, frechet
from safelight.evaluation.intervals import Estimate, Share
from safelight.evaluation.kernel import kernel_distance
from safelight.evaluation.retrieval import (
    CANDIDATES,
    clip_score,
    concept_precision,
    r_precision,
)

Draw = Callable[[Sequence[str], Sequence[int]], Tensor]
"""Prompts and a seed for each -> pictures (B, 3, S, S) in [-1, 1]."""


@dataclass(frozen=True)
class TextMatch:
    """A net that puts pictures and texts into one space: (B, 3, S, S) and B texts -> (B, P)."""

    name: str
    pictures: Callable[[Tensor], Tensor]
    texts: Callable[[Sequence[str]], Tensor]


@dataclass(frozen=True)
class Exam:
    """Questions with a seed each, real pictures, and who judges.

    real: renderings of the questions' own facts (N, 3, S, S), in their order. reference: other real
    pictures (R, 3, S, S), to which distances are measured; drawn independently of the questions,
    for pictures of the very same facts would be nearer to each other than chance has it. Pictures
    lie on the judge's device. Raises RequestError if the numbers do not agree.
    """

    questions: tuple[Question, ...]
    seeds: tuple[int, ...]
    real: Tensor
    reference: Tensor
    judge: LoadedEvaluator
    match: TextMatch | None = None
    dimensions: int = DIMENSIONS
    neighbours: int = 5
    batch: int = 64
    seed: int = 0  # of bootstraps, distractors and shuffles

    def __post_init__(self) -> None:
        counts = (len(self.questions), len(self.seeds), len(self.real))
        if len(set(counts)) > 1 or counts[0] == 0:
            raise RequestError(
                "an exam needs as many seeds and real renderings as questions; got "
                f"{counts[0]} questions, {counts[1]} seeds and {counts[2]} renderings"
            )
        if len(self.reference) <= self.neighbours:
            raise RequestError(
                f"{len(self.reference)} reference pictures are too few; give more than "
                f"{self.neighbours}, better as many as there are questions"
            )

    @property
    def prompts(self) -> tuple[str, ...]:
        return tuple(question.prompt for question in self.questions)

    @property
    def space(self) -> str:
        """The name of the feature space, which every distance in it bears."""
        return f"SL-eval{self.judge.evaluator.config.image_size}"


@dataclass(frozen=True)
class Measures:
    """All that is measured of one set of pictures; None is what could not be."""

    composition: Composition
    answers: tuple[Answer, ...]
    kernel: Estimate
    frechet: FrechetDistance | None  # with too few pictures for its dimensions there is none
    coverage: Coverage | None
    concept_precision: Share | None  # over the questions of a single object
    r_precision: Share | None
    clip_score: Estimate | None


def drawn(draw: Draw, exam: Exam) -> Tensor:
    """The pictures of all questions, (N, 3, S, S) in [-1, 1]; see `drawn_of`."""
    return drawn_of(draw, exam.prompts, exam.seeds, batch=exam.batch, device=exam.real.device)


@torch.no_grad()
def drawn_of(
    draw: Draw,
    prompts: Sequence[str],
    seeds: Sequence[int],
    *,
    batch: int,
    device: torch.device | str = "cpu",
) -> Tensor:
    """The pictures of prompts with a seed each, (N, 3, S, S) in [-1, 1], drawn in batches.

    Raises RequestError if what was drawn are not such pictures.
    """
    parts = []
    for start in range(0, len(prompts), batch):
        rows = slice(start, start + batch)
        pictures = draw(prompts[rows], seeds[rows])
        shape, count = tuple(pictures.shape), len(prompts[rows])
        if len(shape) != 4 or shape[:2] != (count, 3) or shape[2] != shape[3]:
            raise RequestError(
                f"{count} square pictures ({count}, 3, S, S) were to be drawn; got {shape}"
            )
        parts.append(pictures.float().clamp(-1, 1).to(device))
    return torch.cat(parts)


@torch.no_grad()
def measured(
    pictures: Tensor, exam: Exam, *, answers: tuple[Answer, ...] | None = None
) -> Measures:
    """All measures of pictures (N, 3, S, S), in the order of the questions.

    answers: of the same pictures, if they are known already.
    """
    judge = exam.judge
    answers = answers or judged(pictures, exam.questions, judge.evaluator, judge.labels)
    features, logits = _seen(pictures, exam)
    reference, _ = _seen(exam.reference, exam)
    fewest = min(len(features), len(reference))
    precise, clip = _matched(pictures, exam)
    return Measures(
        composition=score(answers),
        answers=answers,
        kernel=kernel_distance(reference, features, seed=exam.seed),
        frechet=frechet(reference, features, dimensions=exam.dimensions)
        if fewest > min(exam.dimensions, features.shape[1])
        else None,
        coverage=coverage(reference, features, neighbours=exam.neighbours)
        if fewest > exam.neighbours
        else None,
        concept_precision=_concepts(logits, exam),
        r_precision=precise,
        clip_score=clip,
    )


def _seen(pictures: Tensor, exam: Exam) -> tuple[Tensor, Tensor]:
    """The evaluator's features (N, D) and concept logits (N, K) of whole pictures."""
    said = [exam.judge.evaluator(part) for part in pictures.split(exam.batch)]
    return torch.cat([s.features for s in said]), torch.cat([s.concepts for s in said])


def _concepts(logits: Tensor, exam: Exam) -> Share | None:
    place = {code: i for i, code in enumerate(exam.judge.labels.concepts)}
    alone = [i for i, q in enumerate(exam.questions) if len(q.facts.hexcodes) == 1]
    if not alone or logits.shape[1] < 2:
        return None
    own = [place[exam.questions[i].facts.hexcodes[0]] for i in alone]
    candidates = min(CANDIDATES, logits.shape[1])
    return concept_precision(logits[alone], own, candidates=candidates, seed=exam.seed)


def _matched(pictures: Tensor, exam: Exam) -> tuple[Share | None, Estimate | None]:
    """R-precision among the exam's own prompts, and the CLIP score."""
    if exam.match is None:
        return None, None
    seen = torch.cat([exam.match.pictures(part) for part in pictures.split(exam.batch)])
    texts = torch.cat(
        [
            exam.match.texts(exam.prompts[start : start + exam.batch])
            for start in range(0, len(exam.prompts), exam.batch)
        ]
    )
    concepts = [frozenset(q.facts.hexcodes) for q in exam.questions]
    # A hundred captions need as many prompts of other concepts; a short exam has no such number.
    foreign = min(sum(not (own & other) for other in concepts) for own in concepts)
    precise = None
    if foreign >= CANDIDATES - 1:
        precise = r_precision(seen, texts, range(len(concepts)), concepts, seed=exam.seed)
    return precise, clip_score(seen, texts, seed=exam.seed)
