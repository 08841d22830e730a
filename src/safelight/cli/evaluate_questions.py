"""What `safelight evaluate` asks: captions of scenes by split and category, with their facts."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from safelight.errors import RequestError
from safelight.evaluation.composition import CATEGORIES, SIDES, Question, category_of
from safelight.measures.facts import Facts
from safelight.training.scenes.book import SceneBook
from safelight.training.scenes.catalogue import HELDOUT_COMBO, TRAIN
from safelight.training.scenes.cutouts import Cutouts
from safelight.training.scenes.holdout import digest
from safelight.training.scenes.scene import Scene

SEEN = "seen"
SPLITS: Mapping[str, str] = {
    SEEN: TRAIN,
    **{
        name: name
        for name in (
            HELDOUT_COMBO,
            "heldout_background",
            "heldout_pairs",
            "heldout_recolour",
            "heldout_count",
        )
    },
}
HALF = 0.5  # of the prompts say style or background where nothing depends on it
_TRIES = 200  # scenes looked at for each question that is wanted


@dataclass(frozen=True, slots=True)
class Asked:
    """A question, and the scene that is its answer: what a real rendering is made of."""

    question: Question
    scene: Scene


@dataclass(frozen=True)
class _Form:
    """Where the questions of a category come from, and which scenes are such questions."""

    category: str
    mix: Mapping[str, float]
    style: float = HALF
    background: float = HALF
    fits: Callable[[Facts], bool] = lambda facts: True


def _beside(facts: Facts) -> bool:
    return facts.relation not in SIDES


def _placed(facts: Facts) -> bool:
    return facts.relation in SIDES or facts.place is not None or facts.size is not None


_FORMS = (
    _Form("single object", {"single": 1.0}),
    _Form("two objects", {"relation": 1.0}, fits=_beside),
    _Form("counting", {"count": 1.0}),
    _Form("colours", {"single": 0.5, "recolour": 0.5}, background=1.0),
    _Form("position", {"relation": 0.5, "placed": 0.5}, fits=_placed),
    _Form("style", {"single": 1.0}, style=1.0, fits=lambda facts: facts.style is not None),
)
# What a held-out split tests is said in every prompt; where it lies decides the category.
_HELD_OUT: Mapping[str, _Form] = {
    HELDOUT_COMBO: _Form(
        "style", {"single": 1.0}, style=1.0, fits=lambda facts: facts.style is not None
    ),
    "heldout_background": _Form("colours", {"single": 1.0}, background=1.0),
    "heldout_pairs": _Form("", {"relation": 1.0}),
    "heldout_recolour": _Form("colours", {"recolour": 1.0}, background=1.0),
    "heldout_count": _Form("counting", {"count": 1.0}),
}


def splits_of(text: str) -> tuple[str, ...]:
    """The splits of a text such as `seen,heldout_combo`. Raises RequestError for another name."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in SPLITS:
            raise RequestError(f"--splits has {name!r}; choose of {', '.join(SPLITS)}.")
    if not names or len(set(names)) < len(names):
        raise RequestError(f"--splits needs different names; choose of {', '.join(SPLITS)}.")
    return tuple(names)


def asked(
    cutouts: Cutouts,
    splits: Sequence[str],
    count: int,
    *,
    seed: int,
    known: Collection[str],
    kinds: Collection[str] | None = None,
) -> list[Asked]:
    """So many questions, alike in number for each category, the splits taking turns.

    Half are of split `seen` if there are others too. A prefix of any length has all splits and
    categories in like shares. known: the hexcodes and styles that the judge can name; scenes with
    others are passed over. kinds: the kinds of scenes that questions may be of; splits and
    categories that need another are left out. The same seed gives the same questions.
    Raises RequestError if the cut-outs do not give what a split needs, or nothing can be asked.
    """
    forms = [form for form in _FORMS if kinds is None or set(form.mix) <= set(kinds)]
    splits = [split for split in splits if split in within(splits, kinds)]
    if not splits:
        raise RequestError("of these kinds of scenes no split of --splits can be asked")
    if count < len(splits):
        raise RequestError(
            f"{count} prompts are too few for {len(splits)} splits; give --count {len(splits)} "
            "or more."
        )
    others = [split for split in splits if split != SEEN]
    seen = count - count // 2 * bool(others) if SEEN in splits else 0
    parts: list[list[Asked]] = []
    if seen:
        parts += [
            _found(cutouts, SEEN, form, amount, seed, known)
            for form, amount in zip(forms, _shares(seen, len(forms)), strict=True)
        ]
    parts += [
        _found(cutouts, split, _HELD_OUT[split], amount, seed, known)
        for split, amount in zip(others, _shares(count - seen, len(others)), strict=True)
    ]
    return _interleaved(parts)


def within(splits: Sequence[str], kinds: Collection[str] | None) -> list[str]:
    """The splits that these kinds of scenes can ask; all if kinds is None."""
    return [
        split
        for split in splits
        if kinds is None
        or (
            any(set(form.mix) <= set(kinds) for form in _FORMS)
            if split == SEEN
            else set(_HELD_OUT[split].mix) <= set(kinds)
        )
    ]


def _found(
    cutouts: Cutouts, split: str, form: _Form, count: int, seed: int, known: Collection[str]
) -> list[Asked]:
    """The first scenes of a book that are questions of this form."""
    if not count:
        return []
    own = digest(f"evaluate:{seed}:{split}:{form.category}") >> 2  # fits 63 bits
    book = SceneBook(
        cutouts,
        own,
        form.mix,
        SPLITS[split],
        style_named=form.style,
        background_named=form.background,
    )
    found: list[Asked] = []
    for index in range(_TRIES * count):
        scene = book.scene(index)
        facts = scene.facts
        named = {*facts.hexcodes, *((facts.style,) if facts.style is not None else ())}
        if not form.fits(facts) or not named <= set(known):
            continue
        category = form.category or category_of(facts)
        assert category in CATEGORIES
        found.append(Asked(Question(scene.caption, facts, category, split), scene))
        if len(found) == count:
            return found
    raise RequestError(
        f"only {len(found)} of {count} questions for split {split}, category "
        f"{form.category or 'position'}, were found in {_TRIES * count} scenes; the evaluator "
        "knows too few of these cut-outs: give those that it was trained on."
    )


def _shares(count: int, parts: int) -> list[int]:
    """The count in so many whole parts, as equal as can be."""
    return [count // parts + (i < count % parts) for i in range(parts)] if parts else []


def _interleaved(parts: Sequence[Sequence[Asked]]) -> list[Asked]:
    """The items of all parts, each part spread evenly over the whole."""
    placed = [
        ((i + 0.5) / len(part), number, item)
        for number, part in enumerate(parts)
        for i, item in enumerate(part)
    ]
    return [item for _, _, item in sorted(placed, key=lambda row: row[:2])]
