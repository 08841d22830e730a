"""Captions as a user would type them: the subject in many frames of style and background.

A frame has the places {s} (subject), {S} and {aS} (style, with article), {b} and {ab} (background,
with article). Subjects are phrases such as `a red apple`, `three cats`, `a dog left of a pizza`.
"""

from collections.abc import Mapping

from safelight.training.scenes.colours import NAMES
from safelight.training.scenes.dice import Dice
from safelight.training.scenes.words import COUNT_WORDS, article

_BOTH = (
    "{s} on {ab} background, {S} style",
    "{s}, {S} style, {b} background",
    "{s} in {S} style on {ab} background",
    "{S} emoji of {s} on {ab} background",
    "{aS} emoji of {s}, {b} background",
    "{s} on {ab} background, {S} emoji",
    "{s} against {ab} background, {S} style",
    "{S} style, {s}, {b} background",
    "{s}, {b} background, {S}",
    "{s} on {b}, {S} style",
)
_STYLE = (
    "{s}, {S} style",
    "{s} in {S} style",
    "{S} emoji of {s}",
    "{aS} emoji of {s}",
    "{s}, {S} emoji",
    "{S} style, {s}",
)
_BACKGROUND = (
    "{s} on {ab} background",
    "{s}, {b} background",
    "{s} against {ab} background",
    "an emoji of {s} on {ab} background",
    "emoji of {s}, {b} background",
    "{s} on {b}",
    "{b} background, {s}",
)
_NEITHER = ("{s}", "{s}, emoji", "an emoji of {s}", "emoji of {s}", "a picture of {s}", "{s} emoji")
# For subjects without an article, where the style stands right before the thing.
_BARE_BOTH = (
    "{S} {s} on {ab} background",
    "{S} {s}, {b} background",
    "{s} emoji, {S}, {b} background",
    "{s}, {S}, {b} background",
    "{S} {s} emoji on {ab} background",
    "{s} on {ab} background, {S}",
)
_BARE_STYLE = ("{S} {s}", "{S} {s} emoji", "{s}, {S}", "{s} emoji, {S} style")
_BARE_BACKGROUND = (
    "{s} on {ab} background",
    "{s} emoji, {b} background",
    "{s}, {b} background",
    "{s} emoji on {ab} background",
)
_BARE_NEITHER = ("{s}", "{s} emoji")
_FULL = {(1, 1): _BOTH, (1, 0): _STYLE, (0, 1): _BACKGROUND, (0, 0): _NEITHER[:5]}
_BARE = {
    (1, 1): _BARE_BOTH,
    (1, 0): _BARE_STYLE,
    (0, 1): _BARE_BACKGROUND,
    (0, 0): _BARE_NEITHER,
}
_ARTICLED: Mapping[str, str] = {name: f"{article(name)} {name}" for name in NAMES}

_PLACED = (
    "{sized} in the {place}",
    "{sized} in the {place} corner",
    "{sized} at the {place}",
    "{sized} placed in the {place}",
    "{sized} in the {place} of the picture",
    "{sized}, {place}",
)
_SIDE_BY_SIDE = {
    "left of": (
        "{a} left of {b}",
        "{a} to the left of {b}",
        "{a} on the left of {b}",
        "{a} on the left and {b} on the right",
        "{b} with {a} on its left",
        "{a} on the left, {b} on the right",
    ),
    "right of": (
        "{a} right of {b}",
        "{a} to the right of {b}",
        "{a} on the right of {b}",
        "{a} on the right and {b} on the left",
        "{b} with {a} on its right",
        "{a} on the right, {b} on the left",
    ),
    "above": (
        "{a} above {b}",
        "{a} over {b}",
        "{a} at the top and {b} at the bottom",
        "{b} with {a} above it",
        "{a} on top, {b} below",
        "{a} above, {b} below",
    ),
    "below": (
        "{a} below {b}",
        "{a} under {b}",
        "{a} at the bottom and {b} at the top",
        "{b} with {a} below it",
        "{a} underneath {b}",
        "{a} below, {b} above",
    ),
    "next to": (
        "{a} next to {b}",
        "{a} beside {b}",
        "{a} and {b} next to each other",
        "{a} and {b} side by side",
        "{a} by the side of {b}",
        "{a} alongside {b}",
    ),
    "and": (
        "{a} and {b}",
        "{a}, {b}",
        "{a} along with {b}",
        "{a} together with {b}",
        "both {a} and {b}",
        "{a} plus {b}",
    ),
}
_COUNTED = (
    "{n} {s}",
    "{n} {s}",
    "{n} {s}",
    "{d} {s}",
    "a group of {n} {s}",
    "a set of {n} {s}",
    "{n} {s} together",
)


def caption(
    dice: Dice, subject: str, style: str | None, background: str | None, *, bare: bool = False
) -> str:
    """The subject in one of the frames that fit what else is to be said, in lower case.

    `bare` says that the subject has no article: `red apple`.
    """
    frames = (_BARE if bare else _FULL)[style is not None, background is not None]
    return dice.of(frames).format(
        s=subject,
        S=style,
        aS=style and f"{article(style)} {style}",
        b=background,
        ab=background and _ARTICLED[background],
    )


def placed_subject(dice: Dice, sized: str, place: str | None) -> str:
    """`a small cat in the top left`; only the sized thing if the place is not said."""
    if place is None:
        return sized
    # `corner` is no word for the centre
    frames = _PLACED if place != "centre" else (_PLACED[0], *_PLACED[2:])
    return dice.of(frames).format(sized=sized, place=place)


def counted_subject(dice: Dice, plural: str, count: int) -> str:
    """`three apples`, sometimes `3 apples`."""
    return dice.of(_COUNTED).format(s=plural, n=COUNT_WORDS[count], d=count)


def related_subject(dice: Dice, relation: str, first: str, second: str) -> str:
    """`a dog left of a pizza` and its paraphrases."""
    return dice.of(_SIDE_BY_SIDE[relation]).format(a=first, b=second)
