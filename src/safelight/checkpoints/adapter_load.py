"""From a path to an adapter of a model at hand: every name and shape first, then the tensors."""

import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from safelight.adapters.adapter import Adapter, AdapterFacts
from safelight.adapters.deltas import Delta
from safelight.adapters.rescalings import Decomposed, Norm
from safelight.checkpoints.adapter_build import NUMBERS, change_of
from safelight.checkpoints.adapter_bundle import bundled_embeddings
from safelight.checkpoints.adapter_family import foreign_origin, labelled, origin_of
from safelight.checkpoints.adapter_file import (
    AdapterFile,
    Change,
    Fit,
    fitted,
    open_adapter,
    widened,
)
from safelight.checkpoints.adapter_names import layers_of
from safelight.checkpoints.adapter_remarks import Remarks, remarks_of, stated_family, stated_norm
from safelight.checkpoints.adapter_speed import SpeedHint, speed_hint
from safelight.checkpoints.adapter_words import kinds_in, misfits_in_words, share_in_words
from safelight.checkpoints.embedding_file import EmbeddingFile
from safelight.checkpoints.finite import check_finite
from safelight.checkpoints.hashes import sha256
from safelight.checkpoints.parts import listed
from safelight.errors import CheckpointError
from safelight.families import Family
from safelight.model import FileRecord, Model
from safelight.printable import shown

LISTED = 5  # unmatched names that a note shows


@dataclass(frozen=True)
class LoadedAdapter:
    """An adapter, ready to be attached, and how its file compares with the model.

    matched, total: tensors that have a place, and all of the file but bundled embeddings and those
        for blocks that are not run. unmatched: names of the rest.
    remarks: what the file says of itself. speed: the settings of a LoRA for few steps.
    embeddings: textual inversions that were trained beside it and lie in the same file.
    notes: what a user should see.
    """

    adapter: Adapter
    matched: int
    total: int
    unmatched: tuple[str, ...]
    file: FileRecord
    remarks: Remarks
    speed: SpeedHint | None = None
    embeddings: tuple[EmbeddingFile, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def summary(self) -> str:
        """What matched, as a count and a percentage, by part."""
        parts = [f"{part} {len(deltas)}" for part, deltas in self.adapter.deltas.items()]
        return (
            f"{shown(self.adapter.name)}: {', '.join(self.adapter.about.kinds)}, matched "
            f"{share_in_words(self.matched, self.total)}; layers: {', '.join(parts)}"
        )


def load_adapter(
    path: str | os.PathLike[str],
    model: Model | Family,
    *,
    name: str | None = None,
    norm: Norm | None = None,
    dtype: torch.dtype | None = None,
) -> LoadedAdapter:
    """The adapter in a weights file, or in a folder of Diffusers' or PEFT's, for this model.

    Every published naming, as safetensors or PyTorch file; nothing in it can run.
    name: for messages and recipes; None is the file's. norm: of which weight DoRA takes the norm;
        None is what the file says, else "changed"; "base" is ComfyUI's. dtype: None keeps the
        file's, 8-bit types become float16.

    Names and shapes are checked before a tensor is read.
    Raises FileError if it cannot be read or holds NaN; CheckpointError if it is no adapter, is
    for another family (both are named), or holds layers of another shape.
    """
    path = Path(path)
    family = model if isinstance(model, Family) else model.family
    with open_adapter(path) as opened:
        norm = norm or stated_norm(opened.file.metadata)
        fit = fitted(opened, layers_of(family), norm=norm)
        _check(opened, fit, family)
        deltas: dict[str, dict[str, Delta]] = {}
        for change in fit.changes:
            deltas.setdefault(change.layer.part, {})[change.layer.path] = _read(
                opened, change, dtype
            )
        remarks = remarks_of(opened.file.metadata, opened.path)
        facts = AdapterFacts(
            kinds=kinds_in(fit.changes),
            base=remarks.base or family.label,
            triggers=remarks.triggers,
            metadata=dict(opened.file.metadata),
        )
        total = len(opened.file.header) - len(opened.sorted.bundled) - len(fit.idle)
        embeddings = bundled_embeddings(opened.file, opened.sorted.bundled)
        speed = speed_hint(opened.path, opened.file.metadata)
        return LoadedAdapter(
            adapter=Adapter(name or opened.path.stem, deltas, facts),
            matched=fit.matched,
            total=total,
            unmatched=fit.unmatched,
            file=_record(opened.path),
            remarks=remarks,
            speed=speed,
            embeddings=embeddings,
            notes=_notes(fit, deltas, embeddings, speed, norm),
        )


def _record(path: Path) -> FileRecord:
    return FileRecord("adapter", path, path.stat().st_size, partial(sha256))


def _check(opened: AdapterFile, fit: Fit, family: Family) -> None:
    """Raise CheckpointError unless something matches and nothing has another shape."""
    if fit.changes and not fit.misfits:
        return
    name = shown(opened.path.name)
    origin = origin_of(opened)
    if origin is not None and _fits_better(origin.fit, fit):
        raise CheckpointError(
            f"{name} is an adapter for {origin.label}, but the model is {labelled(family)}; "
            f"{fit.matched} of its {len(opened.file.header)} tensors would fit. Draw with a model "
            "of its family, or take another adapter."
        )
    if fit.misfits:
        raise CheckpointError(f"{name} does not fit {labelled(family)}: {misfits_in_words(fit)}")
    modules = [group.module for group in opened.sorted.groups]
    what = foreign_origin(modules) or stated_family(opened.file.metadata)
    known = f"it is for {what}" if what else "it is for a model that is not known here"
    raise CheckpointError(
        f"none of the {len(opened.file.header)} tensors of {name} has a place in "
        f"{labelled(family)}: {known}; its layers are called {listed(map(shown, modules), 3)}"
    )


def _fits_better(one: Fit, other: Fit) -> bool:
    fewer = len(one.misfits) < len(other.misfits)
    return bool(one.changes) and (one.matched > other.matched or fewer)


def _read(opened: AdapterFile, change: Change, dtype: torch.dtype | None) -> Delta:
    tensors: dict[str, Tensor] = {}
    for slot, stored in change.group.tensors.items():
        if slot in NUMBERS:
            continue
        narrow = opened.file.header[stored].dtype.itemsize == 1
        wanted = dtype or (torch.float16 if narrow else None)
        tensor = opened.file.read(stored, dtype=wanted)
        check_finite([(stored, tensor)], opened.path, full=True)
        tensors[slot] = tensor
    return change_of(change.kind, widened(tensors, change.layer), change.told).requires_grad_(False)


def _notes(
    fit: Fit,
    deltas: dict[str, dict[str, Delta]],
    embeddings: tuple[EmbeddingFile, ...],
    speed: SpeedHint | None,
    norm: Norm,
) -> tuple[str, ...]:
    notes = []
    if fit.unmatched:
        more = " (safelight inspect --json names all)" if len(fit.unmatched) > LISTED else ""
        notes.append(
            f"{_tensors(len(fit.unmatched))} without a place in this model, not used: "
            f"{listed(map(shown, fit.unmatched), LISTED)}{more}"
        )
    if fit.idle:
        notes.append(f"{_tensors(len(fit.idle))} for the text encoder's last block, never run")
    if nothing := sum(change.told.scale == 0 for change in fit.changes):
        notes.append(f"an alpha of 0 makes the change of {nothing} layers nothing")
    if any(isinstance(d, Decomposed) for layers in deltas.values() for d in layers.values()):
        other = "base" if norm == "changed" else "changed"
        notes.append(
            f"DoRA takes the norm of the {norm} weight; programs differ, the other way is "
            f"dora={other}"
        )
    if embeddings:
        words = ", ".join(shown(e.token, 60) for e in embeddings)
        notes.append(f"the file holds textual inversions beside the adapter: {words}")
    if speed is not None:
        notes.append(speed.note)
    return tuple(notes)


def _tensors(count: int) -> str:
    return f"{count} tensor{'s' * (count != 1)}"
