"""What an adapter's file is, without a model: kinds, family, ranks, strengths, words, odd keys."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from safelight.checkpoints.adapter_family import Origin, foreign_origin, labelled, origin_of
from safelight.checkpoints.adapter_file import AdapterFile, Change, adapter_in
from safelight.checkpoints.adapter_keys import BUNDLE
from safelight.checkpoints.adapter_names import layers_of
from safelight.checkpoints.adapter_remarks import Remarks, remarks_of
from safelight.checkpoints.adapter_speed import SpeedHint, speed_hint
from safelight.checkpoints.adapter_words import kinds_in, misfits_in_words, words_of
from safelight.checkpoints.weight_file import WeightFile
from safelight.errors import InputError
from safelight.printable import shown

Counts = tuple[tuple[str, int], ...]  # what, and of how many layers


@dataclass(frozen=True, slots=True)
class AdapterPart:
    """One part of a model that an adapter changes, and how many of its layers."""

    name: str
    layers: int
    whole: int  # layers that the part has


@dataclass(frozen=True, slots=True)
class AdapterInspection:
    """What can be said of an adapter.

    family: that its layers are those of, in words; empty if none has them. stated: by its metadata.
    kinds, ranks, alphas: the most frequent first. parts: of that family.
    matched, total: tensors with a place in that family, and all but bundled embeddings and those of
        blocks that are never run. unmatched: names of the others.
    embeddings: words of the textual inversions beside it. speed: settings it seems made for.
    problem: why it cannot be loaded; None if it can.
    """

    family: str
    stated: str
    kinds: Counts
    ranks: Counts
    alphas: Counts
    parts: tuple[AdapterPart, ...]
    matched: int
    total: int
    unmatched: tuple[str, ...]
    embeddings: tuple[str, ...]
    remarks: Remarks
    speed: SpeedHint | None
    problem: str | None = None

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should see."""
        notes = []
        if self.stated and self.family and not self.family.startswith(self.stated):
            notes.append(f"its metadata says {self.stated}, but its layers are of {self.family}")
        return (*notes, *([] if self.speed is None else [self.speed.note]))


def inspect_adapter(file: WeightFile) -> AdapterInspection:
    """What an opened adapter is. What cannot be loaded is told in `problem`, not raised."""
    remarks, speed = remarks_of(file.metadata, file.path), speed_hint(file.path, file.metadata)
    try:
        opened = adapter_in(file)
        origin = origin_of(opened)
    except InputError as error:
        return _broken(file, remarks, speed, str(error))
    bundled = opened.sorted.bundled
    embeddings = dict.fromkeys(n.removeprefix(BUNDLE).partition(".")[0] for n in bundled)
    if origin is None:
        return _broken(file, remarks, speed, _unknown(opened), embeddings)
    fit = origin.fit
    if not fit.changes:
        problem = "no family that is known here has layers of these shapes; of the nearest, "
        return _broken(file, remarks, speed, problem + misfits_in_words(fit), embeddings)
    return AdapterInspection(
        family=labelled(origin.family),
        stated=remarks.base,
        kinds=_kinds(fit.changes),
        ranks=_counted(str(c.rank) for c in fit.changes if c.rank is not None),
        alphas=_counted(f"{c.alpha:.4g}" for c in fit.changes if c.rank is not None),
        parts=_parts(origin),
        matched=fit.matched,
        total=len(file.header) - len(bundled) - len(fit.idle),
        unmatched=fit.unmatched,
        embeddings=tuple(shown(word, 60) for word in embeddings),
        remarks=remarks,
        speed=speed,
        problem=misfits_in_words(fit) if fit.misfits else None,
    )


def _broken(
    file: WeightFile,
    remarks: Remarks,
    speed: SpeedHint | None,
    problem: str,
    embeddings: Iterable[str] = (),
) -> AdapterInspection:
    return AdapterInspection(
        family="",
        stated=remarks.base,
        kinds=(),
        ranks=(),
        alphas=(),
        parts=(),
        matched=0,
        total=len(file.header),
        unmatched=tuple(file.header),
        embeddings=tuple(shown(word, 60) for word in embeddings),
        remarks=remarks,
        speed=speed,
        problem=problem,
    )


def _unknown(opened: AdapterFile) -> str:
    """Why no family has its layers."""
    modules = [group.module for group in opened.sorted.groups]
    if what := foreign_origin(modules):
        return f"it is for {what}"
    return f"its layers ({shown(modules[0])}, ...) are those of no family that is known here"


def _kinds(changes: tuple[Change, ...]) -> Counts:
    counts = Counter(word for change in changes for word in words_of(change))
    return tuple((word, counts[word]) for word in kinds_in(changes))


def _parts(origin: Origin) -> tuple[AdapterPart, ...]:
    layers = layers_of(origin.family)
    changed: Mapping[str, int] = Counter(change.layer.part for change in origin.fit.changes)
    return tuple(
        AdapterPart(name, count, sum(1 for _ in layers.of(name))) for name, count in changed.items()
    )


def _counted(values: Iterable[str]) -> Counts:
    return tuple(Counter(values).most_common())
