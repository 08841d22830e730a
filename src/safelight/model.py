"""A loaded model: what draws, what reads the text, what makes pictures, and where it came from."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch

from safelight.diffusion.process import Process
from safelight.families import Family
from safelight.models.autoencoder import Codec
from safelight.models.backbone import Backbone
from safelight.text.conditioner import Conditioner


@dataclass(frozen=True)
class FileRecord:
    """A file whose weights are in a model."""

    role: str  # "model", "unet", "vae", "text_encoder", "text_encoder_2"
    path: Path
    size: int  # bytes
    digest: Callable[[Path], str] = field(repr=False, compare=False)

    @cached_property
    def sha256(self) -> str:
        """64 hex digits, computed when first asked for. Raises FileError if the file is gone."""
        return self.digest(self.path)


@dataclass(frozen=True, slots=True)
class LoadReport:
    """What a loader saw: the names used, those that belong to no part, and how it decided."""

    layout: str
    reason: str  # why this family, in words
    used: int  # tensors of the files that are in the model
    ignored: tuple[str, ...]  # known to be unused
    unknown: tuple[tuple[str, int], ...]  # prefixes of names that belong to no part, and counts


@dataclass(frozen=True)
class Model:
    """Everything that one request needs.

    family: with the process, the text side and the codec that are really used, so that a model
        whose file says something else than the table carries what its file says.
    notes: what the user should see: guesses, and files that say unusual things.
    engine: the name of what computes the U-Net and the autoencoder (`engines.table`).
    """

    family: Family
    text: Conditioner
    network: Backbone
    codec: Codec
    process: Process
    files: tuple[FileRecord, ...] = ()
    report: LoadReport | None = None
    notes: tuple[str, ...] = ()
    engine: str = "eager"

    @property
    def dtype(self) -> torch.dtype:
        """The type of the U-Net's weights, in which it computes."""
        return self.network.unet.dtype

    @property
    def device(self) -> torch.device:
        """Where the U-Net is."""
        return self.network.unet.conv_in.weight.device
