"""A book of scenes: page `index` is a pure function of the seed, so any number of processes agree.

Needs no torch. A page takes about 30 microseconds; `many` writes hundreds of thousands of them with
a pool of processes.
"""

from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Protocol

from safelight.errors import RequestError
from safelight.training.scenes.captions import (
    caption,
    counted_subject,
    placed_subject,
    related_subject,
)
from safelight.training.scenes.catalogue import HELDOUT_COMBO, TRAIN, Catalogue
from safelight.training.scenes.colours import BACKGROUNDS, NAMES
from safelight.training.scenes.dice import Dice
from safelight.training.scenes.layout import (
    PLACES,
    RELATIONS,
    SIZES,
    Spot,
    centred,
    counted,
    placed,
    related,
)
from safelight.training.scenes.pools import (
    BITS,
    WEIGHTS,
    Concept,
    Form,
    Pools,
    pair_allowed,
    pools_of,
)
from safelight.training.scenes.scene import KINDS, MIX, Facts, Layer, Scene
from safelight.training.scenes.words import article

STYLE_NAMED, BACKGROUND_NAMED = 0.75, 0.9
JITTER = 10  # of 255, that a background may differ from its name's colour, per channel
TRIES = 1000  # to find a partner and a background that are allowed together
_SYNONYM, _APPENDED, _BARE = 0.35, 0.08, 0.25
_TEST_MIX: Mapping[str, Mapping[str, float]] = {
    TRAIN: MIX,
    HELDOUT_COMBO: {"single": 1.0},
    "heldout_background": {"single": 1.0},
    "heldout_pairs": {"relation": 1.0},
    "heldout_recolour": {"recolour": 1.0},
    "heldout_count": {"count": 1.0},
}
_ONLY_KIND = {"heldout_pairs": "relation", "heldout_recolour": "recolour", "heldout_count": "count"}


class HasCatalogue(Protocol):
    """Such as Cutouts, whose pixels a book has no need of."""

    @property
    def catalogue(self) -> Catalogue: ...


class SceneBook:
    """Endless scenes of one split.

    `mix` gives the share of each kind (scene.KINDS), `weights` that of each group of concepts;
    what is not named gets none. Concepts are drawn first and then one of their styles, so that one
    which eight families drew is not shown eight times as often. In books that test (`split` other
    than `train`) style and background are always named unless told otherwise, and captions use the
    plain names.
    Raises RequestError for an unknown split or kind, wrong shares, or a kind with nothing to draw.
    """

    def __init__(
        self,
        pictures: Catalogue | HasCatalogue,
        seed: int,
        mix: Mapping[str, float] | None = None,
        split: str = TRAIN,
        *,
        weights: Mapping[str, float] = WEIGHTS,
        style_named: float | None = None,
        background_named: float | None = None,
    ) -> None:
        self.catalogue = pictures if isinstance(pictures, Catalogue) else pictures.catalogue
        self.seed, self.split = seed, split
        self._pools: Pools = pools_of(self.catalogue, split, weights)
        self.mix = dict(_TEST_MIX[split] if mix is None else mix)
        self._check()
        self._kinds = tuple(self.mix)
        self._sums = tuple(accumulate(self.mix.values()))
        self._varied = split == TRAIN
        self._style_named = _share(style_named, STYLE_NAMED if self._varied else 1.0)
        self._background_named = _share(background_named, BACKGROUND_NAMED if self._varied else 1.0)

    def scene(self, index: int) -> Scene:
        """The scene of this number, 0 or more."""
        dice = Dice(self.seed, index)
        kind = dice.weighted(self._kinds, self._sums)
        if kind == "relation":
            return self._relation(dice)
        return self._of_one(dice, kind)

    def scenes(self, indices: Sequence[int]) -> list[Scene]:
        """The scenes of these numbers."""
        return [self.scene(index) for index in indices]

    def _of_one(self, dice: Dice, kind: str) -> Scene:
        """A scene with one concept."""
        pool = self._pools.kinds[kind]
        concept, cutouts = dice.weighted(pool.concepts, pool.sums)
        cutout = dice.of(cutouts)
        colour: str | None = None
        mask = self._pools.masks[cutout]
        if kind == "recolour":
            masks = self._pools.recolour_masks
            colour = dice.of([c for c in concept.colours if masks[concept.hexcode, c]])
            mask = masks[concept.hexcode, colour]
        background = NAMES[dice.of(BITS[mask])]
        form = self._form(dice, concept, counting=kind == "count")
        size: str | None = None
        place: str | None = None
        count, bare = 1, False
        spots: tuple[Spot, ...]
        if kind == "count":
            count = dice.of(concept.counts)
            spots = counted(dice, count)
            assert form.plural is not None
            subject = counted_subject(dice, form.plural, count)
        elif kind == "placed":
            size = dice.of((*SIZES, *SIZES, None))
            place = dice.of(PLACES)
            spots = (placed(dice, size, place),)
            sized = form.articled if size is None else _described(form, size)
            said = None if place == "centre" and size and dice.chance(0.4) else place
            subject, place = placed_subject(dice, sized, said), said
        else:
            spots = (centred(dice),)
            bare = dice.chance(_BARE)
            words = form.bare if bare else form.articled
            if colour is not None:
                words = f"{colour} {form.bare}" if bare else _described(form, colour)
            subject = words
            if kind == "single" and not bare and self._varied:
                subject += self._appended(dice, concept)
        layers = tuple(Layer(cutout, *spot, colour) for spot in spots)
        facts = (concept,), (form,), count, None, place, size, colour
        return self._finished(dice, kind, layers, background, subject, bare, *facts)

    def _relation(self, dice: Dice) -> Scene:
        """A scene with two concepts in one style."""
        pool = self._pools.kinds["relation"]
        for _ in range(TRIES):
            first, cutouts = dice.weighted(pool.concepts, pool.sums)
            one = dice.of(cutouts)
            partners = self._pools.by_style[self.catalogue.entries[one].style]
            second, cutouts = dice.weighted(partners.concepts, partners.sums)
            other = dice.of(cutouts)
            mask = self._pools.masks[one] & self._pools.masks[other]
            if mask and pair_allowed(self._pools, first.hexcode, second.hexcode):
                break
        else:
            raise RequestError(
                f"no two concepts that may stand together were found in {TRIES} draws for split "
                f"{self.split}; give more cut-outs, or a mix without `relation`"
            )
        background = NAMES[dice.of(BITS[mask])]
        relation = dice.of(RELATIONS)
        forms = self._form(dice, first), self._form(dice, second)
        spots = related(dice, relation)
        layers = (Layer(one, *spots[0]), Layer(other, *spots[1]))
        subject = related_subject(dice, relation, forms[0].articled, forms[1].articled)
        facts = (first, second), forms, 1, relation, None, None, None
        return self._finished(dice, "relation", layers, background, subject, False, *facts)

    def _finished(
        self,
        dice: Dice,
        kind: str,
        layers: tuple[Layer, ...],
        background: str,
        subject: str,
        bare: bool,
        concepts: tuple[Concept, ...],
        forms: tuple[Form, ...],
        count: int,
        relation: str | None,
        place: str | None,
        size: str | None,
        colour: str | None,
    ) -> Scene:
        """The scene with its caption, which may leave out style and background."""
        entry = self.catalogue.entries[layers[0].cutout]
        word: str | None = None
        if entry.style_words and dice.chance(self._style_named):
            # The first word is the plain one; the others are there to be understood too.
            plain = not self._varied or dice.chance(0.9)
            word = entry.style_words[0] if plain else dice.of(entry.style_words)
        named = background if dice.chance(self._background_named) else None
        words = caption(dice, subject, word, named, bare=bare)
        red, green, blue = BACKGROUNDS[background]
        facts = Facts(
            kind,
            tuple(concept.hexcode for concept in concepts),
            tuple(form.bare for form in forms),
            None if word is None else entry.style,
            named,
            count,
            relation,
            place,
            size,
            colour,
        )
        rgb = _shifted(dice, red), _shifted(dice, green), _shifted(dice, blue)
        return Scene(layers, rgb, background, words, kind, facts)

    def _form(self, dice: Dice, concept: Concept, *, counting: bool = False) -> Form:
        """How the concept is called this time."""
        if not self._varied:
            return concept.form
        form = concept.form
        if concept.synonyms and dice.chance(_SYNONYM):
            form = dice.of(concept.synonyms)
        return concept.form if counting and form.plural is None else form

    def _appended(self, dice: Dice, concept: Concept) -> str:
        """One or two keywords after the name, now and then."""
        if not concept.keywords or not dice.chance(_APPENDED):
            return ""
        first, second = dice.of(concept.keywords), dice.of(concept.keywords)
        return f", {first}" if first == second else f", {first}, {second}"

    def _check(self) -> None:
        unknown = [kind for kind in self.mix if kind not in KINDS]
        if unknown:
            raise RequestError(f"{unknown[0]!r} is no kind of scene; give {', '.join(KINDS)}")
        if any(share < 0 for share in self.mix.values()) or not sum(self.mix.values()) > 0:
            raise RequestError(f"the mix {self.mix} has no shares above 0 to draw from")
        only = _ONLY_KIND.get(self.split)
        for kind in [kind for kind, share in self.mix.items() if share > 0]:
            if only and kind != only:
                raise RequestError(f"split {self.split} has scenes of kind {only} only, not {kind}")
            if not self._pools.kinds[kind].concepts:
                raise RequestError(
                    f"no cut-out serves for scenes of kind {kind} in split {self.split}; give more "
                    f"cut-outs, or a mix without {kind}"
                )


def _described(form: Form, adjective: str) -> str:
    """`a small cat`, but `small grapes`."""
    if form.articled == form.bare:
        return f"{adjective} {form.bare}"
    return f"{article(adjective)} {adjective} {form.bare}"


def _shifted(dice: Dice, channel: int) -> int:
    return min(255, max(0, channel + dice.below(2 * JITTER + 1) - JITTER))


def _share(given: float | None, default: float) -> float:
    share = default if given is None else given
    if not 0 <= share <= 1:
        raise RequestError(f"a share of captions is {share}; give a number from 0 to 1")
    return share
