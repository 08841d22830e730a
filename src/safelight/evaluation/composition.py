"""Whether pictures show what their prompts say: objects, counts, colours, places, styles.

In the shape of GenEval (Ghosh et al. 2023, arXiv:2310.11513): six categories, each a share of
prompts of which everything the category asks for is right, and the mean of the six. There a
detector judges photographs; here the evaluator names objects cut out of a plain background, and
places, counts and colours are arithmetic. A judge errs, so its score on real renderings of the same
facts (the ceiling) and on the pictures of other prompts (the floor) belongs beside every score.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from safelight.errors import RequestError
from safelight.evaluation.background import background_names
from safelight.evaluation.intervals import Share
from safelight.evaluation.objects import (
    Blob,
    counted,
    crops,
    dominant_hue,
    grouped,
    merged,
    relation,
    segmented,
)
from safelight.measures.facts import Facts
from safelight.models.evaluator import Evaluator, Labels
from safelight.printable import shown

CATEGORIES = ("single object", "two objects", "counting", "colours", "position", "style")
# What a category asks for; of these, what the facts say. The rest is recorded, not demanded.
NEEDED: Mapping[str, tuple[str, ...]] = {
    "single object": ("concept",),
    "two objects": ("concept",),
    "counting": ("concept", "count"),
    "colours": ("concept", "background", "recolour"),
    "position": ("concept", "relation", "place", "size"),
    "style": ("concept", "style"),
}
CHECKS = (
    "concept",
    "concept top 5",
    "style",
    "background",
    "count",
    "relation",
    "place",
    "size",
    "recolour",
)
SIDES = ("left of", "right of", "above", "below")
OFF_CENTRE = 0.06  # of the side: a middle further out is in a corner, a nearer one in the centre
SMALL, LARGE = 0.40, 0.55  # the longer side of what is called so
_BATCH = 256


@dataclass(frozen=True, slots=True)
class Question:
    """A prompt, what it says, and the category that it is asked for.

    split names a part that is reported by itself too: "seen", "held-out pairs" and the like.
    """

    prompt: str
    facts: Facts
    category: str
    split: str = "seen"

    def __post_init__(self) -> None:
        if self.category not in CATEGORIES:
            raise RequestError(
                f"there is no category {shown(self.category)}; choose of {', '.join(CATEGORIES)}"
            )


@dataclass(frozen=True, slots=True)
class Answer:
    """What was found in one picture: for each check that its facts allow, whether it holds."""

    question: Question
    checks: Mapping[str, bool]
    seen: tuple[str, ...]  # hexcodes that the evaluator named, one for each object
    objects: int

    @property
    def right(self) -> bool:
        """Whether all holds that the category asks for."""
        needed = NEEDED[self.question.category]
        return all(held for name, held in self.checks.items() if name in needed)

    @property
    def all_right(self) -> bool:
        """Whether all holds that the prompt says, in any category."""
        return all(held for name, held in self.checks.items() if name != "concept top 5")


@dataclass(frozen=True)
class Composition:
    """The score of a set of answers."""

    categories: Mapping[str, Share]  # those that were asked
    checks: Mapping[str, Share]  # over all prompts that say so, whatever their category
    strict: Share  # all that a prompt says

    @property
    def overall(self) -> float:
        """The mean of the categories that were asked, each with the same weight."""
        return sum(share.value for share in self.categories.values()) / len(self.categories)


def category_of(facts: Facts) -> str:
    """The category that facts belong to if nothing else is said of them."""
    if facts.relation in SIDES or facts.place is not None or facts.size is not None:
        return "position"
    if len(facts.hexcodes) > 1:
        return "two objects"
    if facts.count > 1:
        return "counting"
    if facts.recolour is not None or facts.background is not None:
        return "colours"
    return "style" if facts.style is not None else "single object"


@torch.no_grad()
def judged(
    pictures: Tensor, questions: Sequence[Question], evaluator: Evaluator, labels: Labels
) -> tuple[Answer, ...]:
    """What each picture shows of what its question asks.

    pictures (B, 3, S, S) in [-1, 1], on the evaluator's device, in the order of the questions.
    Raises RequestError if the evaluator does not know a concept or style that is asked for.
    """
    if len(pictures) != len(questions):
        raise RequestError(
            f"{len(pictures)} pictures were given for {len(questions)} questions; give one each"
        )
    codes, styles = _places(questions, labels)
    answers: list[Answer] = []
    for start in range(0, len(questions), _BATCH):
        part = slice(start, start + _BATCH)
        answers += _judged(pictures[part], questions[part], evaluator, labels, codes, styles)
    return tuple(answers)


def score(answers: Sequence[Answer]) -> Composition:
    """The shares of right answers: by category, by check, and with all that the prompts say."""
    if not answers:
        raise RequestError("there are no answers to score; ask at least one question")
    return Composition(
        {
            category: _share([a.right for a in answers if a.question.category == category])
            for category in CATEGORIES
            if any(a.question.category == category for a in answers)
        },
        {
            check: _share([a.checks[check] for a in answers if check in a.checks])
            for check in CHECKS
            if any(check in a.checks for a in answers)
        },
        _share([a.all_right for a in answers]),
    )


def shuffled(questions: Sequence[Question], *, seed: int) -> list[int]:
    """For each question the number of another one of its category, whose picture is to be judged.

    The floor of a score: pictures of the same kind that were drawn for other prompts. Every picture
    is used once; a question alone in its category keeps its own.
    """
    generator = torch.Generator().manual_seed(seed)
    other = list(range(len(questions)))
    for category in CATEGORIES:
        members = [i for i, q in enumerate(questions) if q.category == category]
        order = [members[i] for i in torch.randperm(len(members), generator=generator).tolist()]
        for i, j in zip(order, order[1:] + order[:1], strict=True):
            other[i] = j
    return other


def _places(
    questions: Sequence[Question], labels: Labels
) -> tuple[Mapping[str, int], Mapping[str, int]]:
    """The places of all labels. Raises RequestError for what is asked and not among them."""
    codes = {code: i for i, code in enumerate(labels.concepts)}
    styles = {style: i for i, style in enumerate(labels.styles)}
    for question in questions:
        facts = question.facts
        unknown = [code for code in facts.hexcodes if code not in codes]
        if facts.style is not None and facts.style not in styles:
            unknown.append(facts.style)
        if unknown:
            raise RequestError(
                f"the evaluator does not know {shown(unknown[0])} of the prompt "
                f"{shown(question.prompt)}; ask for what it was trained on"
            )
    return codes, styles


def _judged(
    pictures: Tensor,
    questions: Sequence[Question],
    evaluator: Evaluator,
    labels: Labels,
    codes: Mapping[str, int],
    styles: Mapping[str, int],
) -> list[Answer]:
    segments = segmented(pictures)
    backgrounds = background_names(pictures)
    objects = [_objects(blobs, q.facts) for blobs, q in zip(segments.blobs, questions, strict=True)]
    wanted = [(i, blob) for i, found in enumerate(objects) for blob in found]
    cut = crops(pictures, segments, wanted, size=evaluator.config.image_size)
    said = [evaluator(part) for part in cut.split(_BATCH)] if len(cut) else []
    concepts = torch.cat([s.concepts for s in said]).log_softmax(-1).cpu() if said else cut
    manner = torch.cat([s.styles for s in said]).log_softmax(-1).cpu() if said else cut
    answers, at = [], 0
    for i, (question, found) in enumerate(zip(questions, objects, strict=True)):
        rows = slice(at, at + len(found))
        at += len(found)
        facts = question.facts
        checks, order = _concepts(facts, concepts[rows], codes)
        if facts.style is not None:
            named = int(manner[rows].mean(0).argmax()) if found else -1
            checks["style"] = named == styles[facts.style]
        if facts.background is not None:
            checks["background"] = backgrounds[i] == facts.background
        checks |= _arithmetic(facts, [found[j] for j in order])
        if facts.recolour is not None:
            hue = dominant_hue(pictures, segments, i, found[0]) if found else None
            checks["recolour"] = hue == facts.recolour
        seen = tuple(labels.concepts[j] for j in concepts[rows].argmax(-1).tolist())
        answers.append(Answer(question, checks, seen if found else (), len(found)))
    return answers


def _objects(blobs: Sequence[Blob], facts: Facts) -> tuple[Blob, ...]:
    """The blobs as so many objects as the facts let one expect; a count is left to be counted."""
    if not blobs:
        return ()
    if facts.count > 1:
        return counted(blobs)
    if len(facts.hexcodes) > 1:
        return grouped(blobs, len(facts.hexcodes))
    return (merged(blobs),)


def _concepts(
    facts: Facts, said: Tensor, codes: Mapping[str, int]
) -> tuple[dict[str, bool], list[int]]:
    """Whether the concepts are there, and which object is which: for each concept an object.

    said (objects, K) log-probabilities. Objects of a count are named together, by the mean of what
    is said of them. Two objects are told apart in the order that is likelier.
    """
    wanted = [codes[code] for code in facts.hexcodes]
    lost = {"concept": False, "concept top 5": False}
    if len(said) == 0 or (len(wanted) > 1 and len(said) < len(wanted)):
        return lost, []
    if len(wanted) == 1:
        order = list(range(len(said)))
        said = said.mean(0, keepdim=True)
    else:
        straight = said[0, wanted[0]] + said[1, wanted[1]]
        turned = said[1, wanted[0]] + said[0, wanted[1]]
        order = [0, 1] if straight >= turned else [1, 0]
        said = said[order]
    best = said.topk(min(5, said.shape[-1]), dim=-1).indices.tolist()
    top1 = all(row[0] == place for row, place in zip(best, wanted, strict=True))
    top5 = all(place in row for row, place in zip(best, wanted, strict=True))
    return {"concept": top1, "concept top 5": top5}, order


def _arithmetic(facts: Facts, objects: Sequence[Blob]) -> dict[str, bool]:
    """What needs no network: count, relation, place and size of the objects, in caption order."""
    checks: dict[str, bool] = {}
    if facts.count > 1:
        checks["count"] = len(objects) == facts.count
    if facts.relation is not None:
        checks["relation"] = len(objects) == 2 and _stands(facts.relation, *objects)
    if facts.place is not None:
        checks["place"] = len(objects) == 1 and _place(objects[0]) == facts.place
    if facts.size is not None:
        checks["size"] = len(objects) == 1 and _sized(facts.size, objects[0].side)
    return checks


def _stands(wanted: str, one: Blob, other: Blob) -> bool:
    side = relation(one, other)
    match wanted:
        case "left of" | "right of":
            return side == wanted.split()[0]
        case "next to":
            return side in ("left", "right")
        case "and":
            return True
        case _:
            return side == wanted


def _place(blob: Blob) -> str | None:
    """The corner that the middle of the box lies in, or the centre; None in between."""
    right = (blob.left + blob.right) / 2 - 0.5
    down = (blob.top + blob.bottom) / 2 - 0.5
    if max(abs(right), abs(down)) <= OFF_CENTRE:
        return "centre"
    if min(abs(right), abs(down)) <= OFF_CENTRE:
        return None
    return f"{'bottom' if down > 0 else 'top'} {'right' if right > 0 else 'left'}"


def _sized(wanted: str, side: float) -> bool:
    return side <= SMALL if wanted == "small" else side >= LARGE


def _share(held: Sequence[bool]) -> Share:
    return Share(sum(held), len(held))
