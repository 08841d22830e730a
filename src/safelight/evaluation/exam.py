"""What a model is asked, and all that is measured of the pictures it answers with.

The same measures are taken of real renderings, of baselines and of the model, so that every number
has its ceiling and its floor beside it.

Shapes: N questions, S pixels of a side, K concepts.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from safelight.checkpoints.evaluator_folder import LoadedEvaluator
from safelight.errors import RequestError
from safelight.evaluation.composition import Answer, Composition, Question, judged, score
from safelight.evaluation.intervals import Estimate, Share
from safelight.evaluation.pairs import Distances, Pairs, Space, distances, features, matched
from safelight.evaluation.retrieval import CANDIDATES, concept_precision


@dataclass(frozen=True)
class Exam:
    """Questions, who judges, and the prompts of the questions with pictures of their facts.

    Pictures lie on the judge's device. Raises RequestError if the prompts are not those of the
    questions.
    """

    questions: tuple[Question, ...]
    judge: LoadedEvaluator
    pairs: Pairs

    def __post_init__(self) -> None:
        if self.pairs.prompts != tuple(question.prompt for question in self.questions):
            raise RequestError(
                f"{len(self.questions)} questions came with other prompts than their own, or in "
                "another order"
            )

    def first(self, count: int, *, dimensions: int) -> "Exam":
        """The first questions alone, with at most so many dimensions kept."""
        few, pairs = slice(0, count), self.pairs
        return replace(
            self,
            questions=self.questions[few],
            pairs=replace(
                pairs,
                prompts=pairs.prompts[few],
                seeds=pairs.seeds[few],
                real=pairs.real[few],
                dimensions=min(pairs.dimensions, dimensions),
            ),
        )


def judge_space(judge: LoadedEvaluator) -> Space:
    """An evaluator's features, under the name that every distance in them bears."""

    @torch.no_grad()
    def seen(pictures: Tensor) -> Tensor:
        return judge.evaluator(pictures).features

    return Space(f"SL-eval{judge.evaluator.config.image_size}", seen)


@dataclass(frozen=True)
class Measures:
    """All that is measured of one set of pictures; None is what could not be."""

    composition: Composition
    answers: tuple[Answer, ...]
    distances: Distances
    concept_precision: Share | None  # over the questions of a single object
    r_precision: Share | None
    clip_score: Estimate | None


@torch.no_grad()
def measured(
    pictures: Tensor, exam: Exam, *, answers: tuple[Answer, ...] | None = None
) -> Measures:
    """All measures of pictures (N, 3, S, S), in the order of the questions.

    answers: of the same pictures, if they are known already.
    """
    judge, pairs = exam.judge, exam.pairs
    answers = answers or judged(pictures, exam.questions, judge.evaluator, judge.labels)
    reference = features(pairs.reference, pairs)
    concepts = [frozenset(q.facts.hexcodes) for q in exam.questions]
    candidates = 0 if pairs.match is None else _candidates(concepts)
    precise, clip = matched(pictures, pairs, concepts, candidates)
    return Measures(
        composition=score(answers),
        answers=answers,
        distances=distances(features(pictures, pairs), reference, pairs),
        concept_precision=_concepts(pictures, exam),
        r_precision=precise,
        clip_score=clip,
    )


def _candidates(concepts: list[frozenset[str]]) -> int:
    """A hundred, or 0 if a question has fewer others of other concepts than that takes."""
    foreign = min(sum(not (own & other) for other in concepts) for own in concepts)
    return CANDIDATES if foreign >= CANDIDATES - 1 else 0


def _concepts(pictures: Tensor, exam: Exam) -> Share | None:
    place = {code: i for i, code in enumerate(exam.judge.labels.concepts)}
    alone = [i for i, q in enumerate(exam.questions) if len(q.facts.hexcodes) == 1]
    if not alone or len(place) < 2:
        return None
    parts = pictures[alone].split(exam.pairs.batch)
    logits = torch.cat([exam.judge.evaluator(part).concepts for part in parts])
    own = [place[exam.questions[i].facts.hexcodes[0]] for i in alone]
    candidates = min(CANDIDATES, logits.shape[1])
    return concept_precision(logits, own, candidates=candidates, seed=exam.pairs.seed)
