"""A model found in a file or folder: its parts, with nothing of their weights read yet."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from safelight.checkpoints.closing import Closes
from safelight.checkpoints.identity import Identity
from safelight.checkpoints.parts import Part, PartReport, listed
from safelight.checkpoints.weight_file import WeightFile
from safelight.errors import CheckpointError
from safelight.families import Family
from safelight.printable import shown


@dataclass(frozen=True)
class Opened:
    """A weights file in use, and for what."""

    role: str  # "model", "unet", "vae", "text_encoder", "text_encoder_2"
    file: WeightFile
    paths: tuple[Path, ...]  # more than one for shards


@dataclass(frozen=True)
class Checkpoint(Closes):
    """A model of any layout; a context manager that closes its files.

    ignored: tensors known to be of no use here (training's tables, EMA weights not asked for).
    unknown: tensors that belong to no part.
    """

    source: str
    identity: Identity
    family: Family
    parts: tuple[Part, ...]
    files: tuple[Opened, ...]
    ignored: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()

    def close(self) -> None:
        for opened in self.files:
            opened.file.close()


def checked(checkpoint: Checkpoint) -> tuple[PartReport, ...]:
    """The report of every part. Raises one CheckpointError if any of them is not sound."""
    for part in checkpoint.parts:
        _check_types(checkpoint.source, part)
    reports = tuple(part.report() for part in checkpoint.parts)
    if all(report.sound for report in reports):
        return reports
    raise CheckpointError(
        f"{checkpoint.source} does not fit {checkpoint.family.label}, which it seems to be: "
        f"{mismatch(reports)}"
    )


def _check_types(source: str, part: Part) -> None:
    """Refuse weights stored as whole numbers: quantised ones mean nothing without their scales."""
    for name in part.tensors.names:
        dtype = part.tensors.info(name).dtype
        if not dtype.is_floating_point and not name.startswith(part.idle):
            raise CheckpointError(
                f"{source}: {shown(part.stored(name))} is stored as {dtype}; quantised weights "
                "are not supported, get the file in fp16, bf16 or fp32"
            )


def mismatch(reports: Iterable[PartReport]) -> str:
    """What is missing, surplus and of another shape, each with its count and the first few."""
    reports = list(reports)
    missing = [shown(name) for report in reports for name in report.missing]
    surplus = [shown(name) for report in reports for name in report.surplus]
    misshapen = [
        f"{shown(name)} is {list(found)} instead of {list(expected)}"
        for report in reports
        for name, found, expected in report.misshapen
    ]
    told = [
        f"{len(names)} {what}: {listed(names)}"
        for what, names in (
            ("missing", missing),
            ("surplus", surplus),
            ("of another shape", misshapen),
        )
        if names
    ]
    return "; ".join(told)


def by_prefix(names: Iterable[str]) -> tuple[tuple[str, int], ...]:
    """Names counted by their first part, the most frequent first."""
    counts = Counter(name.partition(".")[0] for name in names)
    return tuple(counts.most_common())
