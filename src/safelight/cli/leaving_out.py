"""The axis of `safelight grid --leave-out`: a prompt whole, then without each of its phrases."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from safelight.cli.axes import Axis
from safelight.cli.wishes import Wording
from safelight.errors import RequestError
from safelight.tasks.picture import Picture, pixel_distance
from safelight.tasks.request import Request
from safelight.text.ablations import ablations


@dataclass(frozen=True)
class LeftOut(Axis):
    """Prompts by the number of the phrase that each lacks, from 1; 0 is the whole.

    phrases, prompts: as many as values; the first phrase is none.
    """

    phrases: tuple[str, ...] = ()
    prompts: tuple[str, ...] = ()

    @property
    def labels(self) -> tuple[str, ...]:
        """What stands above the pictures before it is known how far they moved."""
        return ("the whole prompt", *(f"without “{phrase}”" for phrase in self.phrases[1:]))

    def applied(self, settings: Mapping[str, object], value: str) -> dict[str, object]:
        """The settings of a request without that phrase."""
        return {**settings, "prompt": self.prompts[int(value)]}

    def told(self, pictures: Sequence[Sequence[Picture]]) -> tuple[str, ...]:
        """The labels with how far each column is from the first, in levels of 255.

        It is the mean over all colours, pixels and rows.
        """
        apart = [[moved(row[0], picture) for picture in row] for row in pictures]
        columns = [sum(column) / len(column) for column in zip(*apart, strict=True)]
        whole, *others = zip(self.labels, columns, strict=True)
        # the number first: a long label loses its end
        return (whole[0], *(f"moved {far:.1f} {label}" for label, far in others))


def moved(whole: Picture, picture: Picture) -> float:
    """How far a picture is from that of the whole prompt, in levels of 255."""
    distance = pixel_distance(whole.pixels, picture.pixels)
    assert distance is not None, "cells of a row have one size"
    return distance.mean


def leaving_out(base: Mapping[str, object], wording: Wording) -> tuple[dict[str, object], LeftOut]:
    """The settings with the prompt's seed, styles and choices settled, and the axis of its phrases.

    The choices of `{a|b}` and `__name__` are those of the first seed in every cell. Raises
    RequestError for a prompt without words.
    """
    request = Request.parse(base).resolved()
    made = wording.applied(request)[0]
    found = ablations(made.prompt, dialect=made.dialect)
    if not found:
        raise RequestError("--leave-out needs a prompt with words, to leave them out of it.")
    settled = {
        **base,
        "seed": request.seed,
        "prompt": made.prompt,
        "negative_prompt": made.negative_prompt,
    }
    axis = LeftOut(
        "leave-out",
        tuple(str(number) for number in range(len(found) + 1)),
        ("", *(one.phrase for one in found)),
        (made.prompt, *(one.prompt for one in found)),
    )
    return settled, axis
