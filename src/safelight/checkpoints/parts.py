"""One part of a model in a file: its config, its tensors, and how their names become ours."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import Literal, Self

import torch
from torch import Tensor, nn

from safelight.checkpoints.keymap import KeyMap, Link, Shape
from safelight.checkpoints.weight_file import TensorInfo, WeightFile
from safelight.models.autoencoder import Autoencoder, AutoencoderConfig
from safelight.models.blank import blank
from safelight.models.clip import ClipText, ClipTextConfig, ClipVision, ClipVisionConfig
from safelight.models.controlnet import ControlNet, ControlNetConfig
from safelight.models.image_prompt import ImagePromptConfig, ImagePromptNet
from safelight.models.lllite import LLLite, LLLiteConfig
from safelight.models.safety_checker import SafetyChecker, SafetyCheckerConfig
from safelight.models.safety_head import SafetyHead, SafetyHeadConfig
from safelight.models.super_resolution import CompactConfig, RrdbConfig
from safelight.models.t2i_adapter import T2IAdapter, T2IAdapterConfig
from safelight.models.taesd import TinyAutoencoder, TinyAutoencoderConfig
from safelight.models.unet import UNet, UNetConfig

Role = Literal[
    "unet",
    "vae",
    "text_encoder",
    "text_encoder_2",
    "image_encoder",
    "image_prompt",
    "control",
    "upscaler",
    "safety_checker",
]
PartConfig = (
    UNetConfig
    | AutoencoderConfig
    | TinyAutoencoderConfig
    | ClipTextConfig
    | ClipVisionConfig
    | ImagePromptConfig
    | RrdbConfig
    | CompactConfig
    | ControlNetConfig
    | T2IAdapterConfig
    | LLLiteConfig
    | SafetyCheckerConfig
    | SafetyHeadConfig
)


@dataclass(frozen=True, slots=True)
class Selection:
    """Some tensors of a file, under names of their own."""

    file: WeightFile
    names: Mapping[str, str]  # name here -> name in the file

    @classmethod
    def below(cls, file: WeightFile, prefix: str = "") -> Self:
        """All tensors whose names start with the prefix (dot included), without it."""
        return cls(
            file, {name[len(prefix) :]: name for name in file.header if name.startswith(prefix)}
        )

    @property
    def shapes(self) -> dict[str, Shape]:
        return {name: self.file.header[stored].shape for name, stored in self.names.items()}

    def info(self, name: str) -> TensorInfo:
        return self.file.header[self.names[name]]

    def read(self, name: str, *, dtype: torch.dtype | None = None, copy: bool = False) -> Tensor:
        """One tensor; see `WeightFile.read`."""
        return self.file.read(self.names[name], dtype=dtype, copy=copy)


@dataclass(frozen=True, slots=True)
class PartReport:
    """How the tensors of a part compare with what its config asks for; names are the file's."""

    role: Role
    used: tuple[str, ...]
    missing: tuple[str, ...]
    surplus: tuple[str, ...]
    ignored: tuple[str, ...]  # known to be unused: position ids, the logit scale, a last block
    misshapen: tuple[tuple[str, Shape, Shape], ...]  # name, found, expected

    @property
    def sound(self) -> bool:
        return not (self.missing or self.surplus or self.misshapen)


@dataclass(frozen=True)
class Part:
    """A U-Net, an autoencoder or an encoder that has been found but not read.

    idle: prefixes of names, dot included or whole names, that are present but never used.
    """

    role: Role
    config: PartConfig
    tensors: Selection
    keymap: KeyMap
    idle: tuple[str, ...] = ()

    def module(self) -> nn.Module:
        """The module without memory for its weights."""
        with blank():
            return built(self.config)

    def links(self) -> list[Link]:
        """The file's tensors that hold the module's, in the module's order."""
        return self.keymap.links(shapes_of(self.config))

    def report(self) -> PartReport:
        """Compare names and shapes, without reading a tensor."""
        ours = shapes_of(self.config)
        found = self.tensors.shapes
        used, missing, misshapen = [], [], []
        for link in self.keymap.links(ours):
            shapes = [ours[name] for name in link.ours]
            shape = found.get(link.theirs)
            if shape is None:
                missing.append(self.stored(link.theirs))
                continue
            used.append(link.theirs)
            if not link.op.accepts(shape, shapes):
                misshapen.append((self.stored(link.theirs), shape, link.op.shape(shapes)))
        rest = set(found) - set(used)
        idle = {name for name in rest if name.startswith(self.idle)}
        return PartReport(
            self.role,
            tuple(self.stored(name) for name in used),
            tuple(missing),
            tuple(sorted(self.stored(name) for name in rest - idle)),
            tuple(sorted(self.stored(name) for name in idle)),
            tuple(misshapen),
        )

    def stored(self, name: str) -> str:
        """A name as it stands in the file; for a missing one, as it would."""
        if name in self.tensors.names:
            return self.tensors.names[name]
        for here, there in self.tensors.names.items():
            if there.endswith(here):
                return there[: len(there) - len(here)] + name
        return name


@lru_cache(maxsize=32)
def shapes_of(config: PartConfig) -> Mapping[str, Shape]:
    """Our names and shapes of all weights of a part, in the module's order."""
    with blank():
        state = built(config).state_dict()
    return MappingProxyType({name: tuple(tensor.shape) for name, tensor in state.items()})


def built(config: PartConfig) -> nn.Module:
    """The module of a config."""
    match config:
        case UNetConfig():
            return UNet(config)
        case AutoencoderConfig():
            return Autoencoder(config)
        case TinyAutoencoderConfig():
            return TinyAutoencoder(config)
        case ClipTextConfig():
            return ClipText(config)
        case ClipVisionConfig():
            return ClipVision(config)
        case ImagePromptConfig():
            return ImagePromptNet(config)
        case RrdbConfig() | CompactConfig():
            return config.build()
        case ControlNetConfig():
            return ControlNet(config)
        case T2IAdapterConfig():
            return T2IAdapter(config)
        case LLLiteConfig():
            return LLLite(config)
        case SafetyCheckerConfig():
            return SafetyChecker(config)
        case SafetyHeadConfig():
            return SafetyHead(config)


def listed(names: Iterable[str], limit: int = 5) -> str:
    """The first few of many names, and how many more there are."""
    names = list(names)
    more = f", and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
