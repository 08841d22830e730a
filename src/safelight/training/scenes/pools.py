"""What may be drawn for each kind of scene, worked out once for a catalogue and a split."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

from safelight.errors import RequestError
from safelight.training.scenes.catalogue import CORE_GROUPS, HELDOUT_COMBO, TRAIN, Catalogue
from safelight.training.scenes.colours import (
    BACKGROUNDS,
    NAMES,
    RECOLOUR_NAMES,
    RECOLOURS,
    distance,
    hsv_rgb,
)
from safelight.training.scenes.holdout import (
    background_held_out,
    count_held_out,
    pair_held_out,
    recolour_held_out,
)
from safelight.training.scenes.layout import COUNTS
from safelight.training.scenes.synonyms import SYNONYMS
from safelight.training.scenes.words import (
    countable,
    has_colour_word,
    has_place_word,
    plural,
    sorts,
    spoken,
    with_article,
)

SPLITS = (
    TRAIN,
    HELDOUT_COMBO,
    "heldout_background",
    "heldout_pairs",
    "heldout_recolour",
    "heldout_count",
)
WEIGHTS: Mapping[str, float] = {**dict.fromkeys(CORE_GROUPS, 1.0), "people-body": 0.35}
RECOLOUR_APART = 40.0  # CIELAB, between an object's new colour and the background
BITS = tuple(tuple(i for i in range(len(NAMES)) if mask >> i & 1) for mask in range(1 << 12))
_NEAR = {
    name: sum(
        1 << i
        for i, other in enumerate(NAMES)
        if distance(hsv_rgb(*hsv), BACKGROUNDS[other]) < RECOLOUR_APART
    )
    for name, hsv in RECOLOURS.items()
}


@dataclass(frozen=True, slots=True)
class Form:
    """One way to name a concept."""

    bare: str  # red apple
    articled: str  # a red apple
    plural: str | None  # red apples; None if it cannot be counted


@dataclass(frozen=True, slots=True)
class Concept:
    """A thing that can be drawn, with its cut-outs and words."""

    hexcode: str
    weight: float
    cutouts: tuple[int, ...]
    form: Form
    synonyms: tuple[Form, ...]  # words that people use
    keywords: tuple[str, ...]  # to be appended to its name
    colours: tuple[str, ...]  # that it may be given
    counts: tuple[int, ...]  # in which it may appear


@dataclass(frozen=True, slots=True)
class Pool:
    """Concepts to draw from by weight, each with those of its cut-outs that serve here."""

    concepts: tuple[tuple[Concept, tuple[int, ...]], ...]
    sums: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Pools:
    """All that a book draws from. Masks have bit i set for the background colours.NAMES[i]."""

    kinds: Mapping[str, Pool]
    by_style: Mapping[str, Pool]  # partners for a relation
    masks: tuple[int, ...]  # of each cut-out: backgrounds it may stand on
    recolour_masks: Mapping[tuple[str, str], int]  # of (hexcode, new colour)
    pairs_held_out: bool


def pools_of(catalogue: Catalogue, split: str, weights: Mapping[str, float] = WEIGHTS) -> Pools:
    """The pools of a split.

    `train` holds nothing that another split tests; each other split holds out one thing and is
    allowed in all others. Raises RequestError for a split that is not known.
    """
    if split not in SPLITS:
        raise RequestError(f"{split!r} is no split of scenes; give one of {', '.join(SPLITS)}")
    drawn_from = HELDOUT_COMBO if split == HELDOUT_COMBO else TRAIN
    rows: dict[str, list[int]] = defaultdict(list)
    for index, entry in enumerate(catalogue.entries):
        if entry.split == drawn_from and _weight(catalogue, index, weights) > 0:
            rows[entry.hexcode].append(index)
    hidden = {
        hexcode: sum(1 << i for i, name in enumerate(NAMES) if background_held_out(hexcode, name))
        for hexcode in rows
    }
    every = (1 << len(NAMES)) - 1
    cells = {
        hexcode: mask if split == "heldout_background" else every & ~mask
        for hexcode, mask in hidden.items()
    }
    clear = [sum(1 << i for i, yes in enumerate(row) if yes) for row in catalogue.clear.tolist()]
    masks = tuple(
        bits & cells.get(entry.hexcode, 0)
        for bits, entry in zip(clear, catalogue.entries, strict=True)
    )
    concepts = [
        _concept(catalogue, hexcode, indices, split, weights) for hexcode, indices in rows.items()
    ]
    recolour_masks = {
        (concept.hexcode, colour): cells[concept.hexcode] & ~_NEAR[colour]
        for concept in concepts
        for colour in concept.colours
    }
    paints: dict[str, bool] = {
        c.hexcode: any(recolour_masks[c.hexcode, colour] for colour in c.colours) for c in concepts
    }
    seen = _pool(concepts, lambda _, i: masks[i] != 0)
    partners = [c for c in concepts if not has_place_word(c.form.bare)]
    kinds = {
        "single": seen,
        "placed": _pool(partners, lambda _, i: masks[i] != 0),
        "count": _pool((c for c in concepts if c.counts), lambda _, i: masks[i] != 0),
        "relation": _pool(partners, lambda _, i: masks[i] != 0),
        "recolour": _pool(
            concepts, lambda c, i: paints[c.hexcode] and bool(catalogue.paintable[i])
        ),
    }
    styles = {entry.style for entry in catalogue.entries}
    by_style = {
        style: _pool(
            partners,
            lambda _, i, style=style: masks[i] != 0 and catalogue.entries[i].style == style,  # type: ignore[misc]
        )
        for style in sorted(styles)
    }
    return Pools(kinds, by_style, masks, recolour_masks, split == "heldout_pairs")


def pair_allowed(pools: Pools, one: str, other: str) -> bool:
    """Whether two concepts may stand in one scene of this split."""
    return one != other and pair_held_out(one, other) == pools.pairs_held_out


def _pool(concepts: Iterable[Concept], serves: Callable[[Concept, int], bool]) -> Pool:
    chosen = []
    for concept in concepts:
        cutouts = tuple(index for index in concept.cutouts if serves(concept, index))
        if cutouts:
            chosen.append((concept, cutouts))
    return Pool(tuple(chosen), tuple(accumulate(concept.weight for concept, _ in chosen)))


def _weight(catalogue: Catalogue, index: int, weights: Mapping[str, float]) -> float:
    entry = catalogue.entries[index]
    # Clock faces lie in a core group but are not core: they would all be read as one concept.
    return 0.0 if entry.group in CORE_GROUPS and not entry.core else weights.get(entry.group, 0.0)


def _concept(
    catalogue: Catalogue,
    hexcode: str,
    indices: Sequence[int],
    split: str,
    weights: Mapping[str, float],
) -> Concept:
    entry = catalogue.entries[indices[0]]
    testing = split == "heldout_recolour", split == "heldout_count"
    colours = tuple(c for c in RECOLOUR_NAMES if recolour_held_out(hexcode, c) == testing[0])
    counts = tuple(n for n in COUNTS if count_held_out(hexcode, n) == testing[1])
    form = _form(spoken(entry.name), countable(entry.name))
    # `a purple cat`, but neither `purple fog` nor `a purple red apple`.
    paintable = form.articled != form.bare and not has_colour_word(entry.name)
    paintable = paintable and entry.group != "people-body"
    return Concept(
        hexcode=hexcode,
        weight=_weight(catalogue, indices[0], weights),
        cutouts=tuple(indices),
        form=form,
        synonyms=tuple(_form(word, countable(word)) for word in SYNONYMS.get(entry.name, ())),
        keywords=sorts(entry.keywords, entry.name),
        colours=colours if paintable else (),
        counts=counts if countable(entry.name) else (),
    )


def _form(words: str, counts: bool) -> Form:
    return Form(words, with_article(words), plural(words) if counts else None)
