"""The CLIP that a request sees with: to find what a mask's text names, to guide, to judge."""

from pathlib import Path

import torch

from safelight.checkpoints.clip_pair import holds_clip_pair, load_clip_pair
from safelight.checkpoints.hashes import sha256
from safelight.checkpoints.library import find_model
from safelight.clip.pair import ClipPair
from safelight.embedded.carried import embedded_folder
from safelight.errors import RequestError
from safelight.model import Model
from safelight.tasks.recipe import UsedFile
from safelight.tasks.request import Request
from safelight.tasks.supplies import Supplies


def clip_of(request: Request, model: Model, supplies: Supplies, what: str) -> ClipPair:
    """The request's CLIP, else the model's own, else the embedded one; in float32.

    `what` needs it, for the message. Raises RequestError if there is none, FileError or
    CheckpointError if it cannot be used.
    """
    path = _clip_at(request, model)
    if path is None:
        raise RequestError(
            f"{what} needs a CLIP that sees, and neither the model nor this installation carries "
            "one; give it with clip: a folder of Transformers' CLIPModel, a model's folder with "
            "text_encoder and image_encoder, or OpenCLIP's weights file."
        )
    return supplies.kept(
        ("clip", path, model.device),
        lambda: _frozen(load_clip_pair(path, dtype=torch.float32, device=model.device)),
    )


def seen_with(request: Request) -> bool:
    """Whether a CLIP decides what is drawn, and not only which picture is kept."""
    masked = request.mask is not None and request.mask.text is not None
    return masked or request.clip_guidance is not None


def clip_files(pair: ClipPair) -> tuple[UsedFile, ...]:
    """The files of a CLIP that decided pixels, as a recipe remembers them."""
    return tuple(
        UsedFile(role="clip", name=file.name, sha256=sha256(file), size=file.stat().st_size)
        for file in pair.files
    )


def _clip_at(request: Request, model: Model) -> Path | None:
    if request.clip is not None:
        return find_model(request.clip, what="file")
    for file in model.files:
        folder = file.path.parent.parent  # MODEL/unet/weights
        if file.role == "unet" and holds_clip_pair(folder):
            return folder
    return embedded_folder()


def _frozen(pair: ClipPair) -> ClipPair:
    """The pair with weights that no gradient is kept for."""
    pair.text.requires_grad_(False)
    pair.vision.requires_grad_(False)
    return pair
