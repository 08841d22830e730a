"""The models that are merged: opened, compared with the first, their tensors read when asked."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from safelight.checkpoints.checkpoint import Checkpoint, checked
from safelight.checkpoints.identity import described
from safelight.checkpoints.load import open_checkpoint
from safelight.checkpoints.parts import Part, PartConfig, shapes_of
from safelight.errors import CheckpointError
from safelight.families import without_idle_options
from safelight.models.clip import ClipTextConfig
from safelight.models.unet import UNetConfig
from safelight.printable import shown

Progress = Callable[[int, int], None]  # tensors or layers done, of all
CONV_IN = "conv_in.weight"  # the one tensor that a U-Net with more input channels has wider


@dataclass(frozen=True)
class Source:
    """An opened model; tensors by part and by our name."""

    path: Path
    checkpoint: Checkpoint

    @property
    def name(self) -> str:
        return shown(self.path)

    @property
    def label(self) -> str:
        return self.checkpoint.family.label

    @property
    def unet(self) -> UNetConfig:
        return self.checkpoint.family.backbone

    def part(self, role: str) -> Part | None:
        """The part of a role. An only text encoder is called the first or, XL's refiner's, the
        second; it is the same."""
        parts = self.checkpoint.parts
        texts = [part for part in parts if part.role.startswith("text")]
        if role.startswith("text") and len(texts) == 1:
            return texts[0]
        return next((part for part in parts if part.role == role), None)

    def reader(self, role: str) -> "Reader | None":
        """What reads the tensors of a part; None if there is no such part."""
        part = self.part(role)
        return None if part is None else Reader(part)


class Reader:
    """The tensors of one part in a file, by our names, each in memory of its own.

    Tensors are copied, not mapped: what is mapped stays in memory with the file, and merging is to
    hold a few tensors at a time.
    """

    def __init__(self, part: Part) -> None:
        self.config, self.path = part.config, part.tensors.file.path
        self.shapes = shapes_of(part.config)
        self._tensors = part.tensors
        self._links = {name: link for link in part.links() for name in link.ours}

    def dtype(self, name: str) -> torch.dtype:
        return self._tensors.info(self._links[name].theirs).dtype

    def read(self, name: str) -> Tensor:
        """One tensor in the file's type. Raises FileError."""
        link = self._links[name]
        stored = self._tensors.names[link.theirs]
        tensor = self._tensors.file.read(stored, copy=True)
        return link.op.to_ours(tensor)[link.ours.index(name)]

    def __contains__(self, name: str) -> bool:
        return name in self._links


def opened(
    paths: Sequence[Path],
    stack: ExitStack,
    *,
    prediction: str | None = None,
    zero_terminal_snr: bool | None = None,
    ema: bool = False,
    variant: str | None = None,
    own_vae: bool = True,
) -> list[Source]:
    """The models, each checked by names and shapes; `stack` closes them.

    Raises FileError or CheckpointError for what cannot be opened or is no model.
    """
    sources = []
    for path in paths:
        checkpoint = open_checkpoint(
            path,
            prediction=prediction,
            zero_terminal_snr=zero_terminal_snr,
            ema=ema,
            variant=variant,
            own_vae=own_vae,
            use="convert",
        )
        stack.enter_context(checkpoint)
        checked(checkpoint)
        sources.append(Source(path, checkpoint))
    return sources


def compared(first: Source, other: Source, *, wider: bool) -> tuple[str, ...]:
    """What is to be said of two models that can be merged.

    wider: whether the first may have input channels that the other lacks, as an inpainting model
    has beside an ordinary one.
    Raises CheckpointError naming both families if they are not alike.
    """
    _check_unets(first, other, wider=wider)
    _check_texts(first, other)
    _check_vaes(first, other)
    _check_processes(first, other)
    notes = []
    if other.unet.in_channels != first.unet.in_channels:
        notes.append(
            f"{other.path.name} has {other.unet.in_channels} input channels, {first.path.name} "
            f"{first.unet.in_channels}: the others of conv_in are those of {first.path.name}"
        )
    if first.checkpoint.family.process != other.checkpoint.family.process:
        notes.append(
            f"{first.path.name} and {other.path.name} have different noise schedules; the result "
            f"has that of {first.path.name}"
        )
    return tuple(notes)


def _check_unets(first: Source, other: Source, *, wider: bool) -> None:
    ours, theirs = without_idle_options(first.unet), without_idle_options(other.unet)
    extra = ours.in_channels - theirs.in_channels
    if replace(theirs, in_channels=ours.in_channels) != ours or extra < 0 or (extra and not wider):
        hint = (
            "; give the model with more input channels first, with the method sum or difference"
            if extra and replace(theirs, in_channels=ours.in_channels) == ours
            else ""
        )
        raise CheckpointError(
            f"{other.name} is {other.label} ({described(other.unet)}), but {first.name} is "
            f"{first.label} ({described(first.unet)}); only models of one family can be merged"
            f"{hint}"
        )


def _check_texts(first: Source, other: Source) -> None:
    one, two = first.checkpoint.family.text, other.checkpoint.family.text
    ours = [_without_projection(role.encoder) for role in one.roles]
    theirs = [_without_projection(role.encoder) for role in two.roles]
    if ours != theirs:
        raise CheckpointError(
            f"{other.name} ({other.label}) and {first.name} ({first.label}) have different text "
            f"encoders ({_widths(theirs)} and {_widths(ours)}); only models of one family can be "
            "merged"
        )
    if one.vocabulary != two.vocabulary:
        raise CheckpointError(
            f"{other.name} ({other.label}) and {first.name} ({first.label}) read different "
            "vocabularies, so their text encoders cannot be merged"
        )


def _check_vaes(first: Source, other: Source) -> None:
    ours, theirs = first.part("vae"), other.part("vae")
    if ours is not None and theirs is not None and ours.config != theirs.config:
        raise CheckpointError(
            f"{other.name} ({other.label}) and {first.name} ({first.label}) have autoencoders of "
            "different shape, which cannot be merged; name the one to use with --vae"
        )
    if first.checkpoint.family.codec.scale != other.checkpoint.family.codec.scale:
        raise CheckpointError(
            f"{other.name} ({other.label}) draws latents scaled by "
            f"{other.checkpoint.family.codec.scale}, {first.name} ({first.label}) by "
            f"{first.checkpoint.family.codec.scale}; only models of one family can be merged"
        )


def _check_processes(first: Source, other: Source) -> None:
    ours, theirs = first.checkpoint.family.process, other.checkpoint.family.process
    if (ours.kind, ours.prediction) != (theirs.kind, theirs.prediction):
        raise CheckpointError(
            f"{other.name} is {other.label}, which predicts {theirs.prediction} ({theirs.kind}), "
            f"but {first.name} is {first.label}, which predicts {ours.prediction} ({ours.kind}); "
            "if one of them is mistaken, say --prediction"
        )


def _without_projection(config: PartConfig) -> PartConfig:
    return replace(config, projection=None) if isinstance(config, ClipTextConfig) else config


def _widths(configs: Sequence[PartConfig]) -> str:
    return " and ".join(
        f"{config.layers} layers of {config.width}"
        for config in configs
        if isinstance(config, ClipTextConfig)
    )
