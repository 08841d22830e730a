"""A loaded model: what draws, what reads the text, what makes pictures, and where it came from."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

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


class Sink(Protocol):
    """Takes weights on their way from a file, one at a time, to keep them in another form.

    What it takes stays on the meta device as a parameter: without memory, but with shape and type.
    """

    def wants(self, role: str, module: nn.Module, name: str) -> bool:
        """Whether to take the weight of this name of a part ("unet", "vae", "text_encoder")."""
        ...

    def take(self, module: nn.Module, name: str, weight: Tensor) -> None:
        """Take it: float32 on the CPU, whatever the file has; finite. Nobody else keeps it."""
        ...


class Placement(Protocol):
    """Has the parts of a model in memory when they are needed; see `engines.offload`."""

    @property
    def device(self) -> torch.device:
        """Where the work is done."""
        ...

    @property
    def kind(self) -> str:
        """What a request calls it: "parts", "sequential"."""
        ...

    def needed(self, *modules: nn.Module) -> None:
        """Have these parts, or those they contain, and let go of others that are not held."""
        ...

    def held(self, *modules: nn.Module) -> None:
        """Have these parts and keep them, whatever else is needed, until `release`."""
        ...

    def release(self) -> None:
        """Hold no part any more."""
        ...


@dataclass(frozen=True)
class Model:
    """Everything that one request needs.

    family: with the process, the text side and the codec that are really used, so that a model
        whose file says something else than the table carries what its file says.
    notes: what the user should see: guesses, and files that say unusual things.
    engine: the name of what computes the U-Net and the autoencoder (`engines.table`).
    placement: has each part in memory while it is in use; None: all of them always are.
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
    placement: Placement | None = field(default=None, compare=False)

    @property
    def dtype(self) -> torch.dtype:
        """The type of the U-Net's weights, in which it computes."""
        return self.network.unet.dtype

    @property
    def device(self) -> torch.device:
        """Where the U-Net works."""
        if self.placement is not None:
            return self.placement.device
        return self.network.unet.conv_in.weight.device
