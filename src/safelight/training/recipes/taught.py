"""A model that is taught something by a small file: frozen, where the run computes."""

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from safelight.checkpoints.filling import filled
from safelight.checkpoints.library import find_model
from safelight.checkpoints.load import load, load_autoencoder, open_checkpoint
from safelight.errors import RequestError
from safelight.model import Model
from safelight.models.autoencoder import Autoencoder, Codec
from safelight.models.backbone import Backbone
from safelight.models.unet import UNet
from safelight.printable import shown
from safelight.text.conditioner import Conditioner
from safelight.training.config.configs import TaughtRun
from safelight.training.config.teaching import TaughtModelSection
from safelight.training.latent_cache import codec_hash, text_hash, weights_hash
from safelight.training.recipes.job import Workshop
from safelight.training.recipes.learning_data import Reader
from safelight.training.recipes.preserving import Painter
from safelight.training.text_states import FrozenText


@dataclass(frozen=True)
class Taught:
    """A model, and its parts as they take part in training.

    model: all of it, on the device; network, text and codec are its own.
    """

    model: Model
    network: Backbone
    text: Conditioner
    codec: Codec

    @property
    def unet(self) -> UNet:
        return self.network.unet

    @property
    def reader(self) -> Reader:
        """What turns data into batches, and draws the class before anything is learned."""

        def painter() -> Painter:
            return Painter(self.network, self.unet, self.model.process, self.text, self.codec)

        return Reader(self.codec, self.text, self.unet.config.levels, painter)

    @property
    def identity(self) -> dict[str, str]:
        """What must be the same for a run to go on; to be asked before anything is attached."""
        return {
            "model": weights_hash(self.unet),
            "autoencoder": codec_hash(self.codec),
            "text": text_hash(FrozenText(self.text)),
            "process": repr(self.model.family.process),
        }

    @property
    def frozen(self) -> tuple[torch.nn.Module, ...]:
        coder = self.codec.autoencoder
        assert isinstance(coder, torch.nn.Module)
        return (self.unet, *self.text.encoders, coder)


def taught(config: TaughtRun, workshop: Workshop) -> Taught:
    """The model of a config, frozen on the device, in the type that the run computes in.

    Raises what loading raises, RequestError for a model that draws from more than text.
    """
    section = config.model
    if config.training.parallel == "fsdp":
        raise RequestError(
            "training.parallel fsdp shares out what learns, which is the smaller part here; use ddp"
        )
    kind = torch.bfloat16 if config.training.precision == "bf16" else torch.float32
    model = loaded(section, kind)
    for note in model.notes:
        workshop.warn(note)
    unet, coder = model.network.unet, model.codec.autoencoder
    assert isinstance(coder, torch.nn.Module)
    for part in (unet, coder, *model.text.encoders):
        part.to(workshop.device).requires_grad_(False).eval()
    if config.training.channels_last:
        unet.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    network = Backbone(unet, config.noise.checkpointing)
    return Taught(model, network, model.text, model.codec)


def loaded(section: TaughtModelSection, dtype: torch.dtype) -> Model:
    """The model in a type, but for the autoencoder, which stays float32: it is asked once.

    Raises as `taught`.
    """
    path = find_model(section.checkpoint)
    vae = None if section.vae is None else find_model(section.vae, what="autoencoder")
    model = load(path, dtype=dtype, vae=vae, ema=section.use_ema, variant=section.variant)
    check_draws_from_text(model, path)
    if dtype == torch.float32:
        return model
    if vae is not None:
        codec = load_autoencoder(vae, dtype=torch.float32, family=model.family)
        return replace(model, codec=codec)
    with open_checkpoint(path, ema=section.use_ema, variant=section.variant) as checkpoint:
        part = next(part for part in checkpoint.parts if part.role == "vae")
        coder = filled(part, dtype=torch.float32, device=torch.device("cpu"))
    assert isinstance(coder, Autoencoder)
    return replace(model, codec=Codec(coder, model.family.codec))


def check_draws_from_text(model: Model, path: Path) -> None:
    """Raise RequestError for a model that draws from more than text, or has no full autoencoder."""
    family = model.family
    if family.extra_channels or family.task not in ("text", "refine"):
        raise RequestError(
            f"{shown(path)} is {family.label}, which draws from pictures; this recipe teaches "
            "models that draw from text alone"
        )
    if not isinstance(model.codec.autoencoder, Autoencoder):
        raise RequestError(
            f"{shown(path)} has a tiny autoencoder, whose latents have no posterior; train with "
            "the model's own"
        )


def file_name(config: TaughtRun, fallback: str) -> str:
    """The name of what is written, without its suffix: safe in every file system."""
    name = config.export.name or fallback
    kept = "".join(c if c.isalnum() or c in "-_.+ " else "-" for c in name).strip(" .-")
    return kept or "taught"
