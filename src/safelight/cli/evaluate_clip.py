"""The nets that look at pictures in an evaluation: CLIP's two towers, and their features."""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from safelight.checkpoints.diffusers_folder import is_diffusers_folder
from safelight.checkpoints.load import load
from safelight.checkpoints.vision_folder import has_clip_vision, load_clip_vision
from safelight.errors import RequestError
from safelight.evaluation.pairs import Space, TextMatch
from safelight.model import Model
from safelight.models.clip import ClipText, ClipVision, normalised
from safelight.models.evaluator import at_size
from safelight.printable import shown
from safelight.text.bpe import Tokenizer
from safelight.text.chunks import caption_ids
from safelight.text.conditioner import Conditioner


def text_match(folder: Path | None, model: Model, path: Path) -> TextMatch | None:
    """CLIP's towers of a folder; of the model itself if none is named and it carries both.

    folder: a model's folder with `text_encoder` and `image_encoder`, or that of a vision tower
    alone, whose texts are then read by the model's own text tower. Raises RequestError if the two
    towers do not meet in one space, FileError or CheckpointError if there is none to read.
    """
    if folder is None:
        if not (path.is_dir() and has_clip_vision(path)) or _tower(model.text) is None:
            return None
        folder = path
    vision = load_clip_vision(folder, dtype=torch.float32, device=model.device)
    text, where = model.text, path
    if folder.resolve() != path.resolve() and is_diffusers_folder(folder):
        text = load(folder, dtype=torch.float32, device=model.device).text
        where = folder
    tower = _tower(text)
    width = vision.config.projection
    if tower is None or tower.config.projection != width:
        has = "none" if tower is None else f"one of width {tower.config.projection}"
        raise RequestError(
            f"--clip {shown(folder)}: its vision tower has a projection of width {width}, the text "
            f"tower of {shown(where)} has {has}; give a model's folder whose text_encoder and "
            "image_encoder were trained together."
        )
    return TextMatch(
        f"CLIP of {folder.resolve().name}", seen_by(vision), told_by(tower, text.tokenizer)
    )


def seen_by(vision: ClipVision) -> Callable[[Tensor], Tensor]:
    """A vision tower as a function: pictures (B, 3, S, S) in [-1, 1] -> (B, P)."""
    vision = vision.float().eval()

    @torch.no_grad()
    def see(pictures: Tensor) -> Tensor:
        embeds = vision(normalised(at_size(pictures, vision.config.image_size))).embeds
        assert embeds is not None
        return embeds

    return see


def told_by(tower: ClipText, tokenizer: Tokenizer) -> Callable[[Sequence[str]], Tensor]:
    """A text tower as a function: B texts -> (B, P); what exceeds 77 tokens is cut off."""

    @torch.no_grad()
    def tell(texts: Sequence[str]) -> Tensor:
        device = tower.text_model.embeddings.token_embedding.weight.device
        ids = torch.tensor([caption_ids(text, tokenizer) for text in texts], device=device)
        pooled = tower(ids).pooled
        assert pooled is not None
        return pooled.float()

    return tell


def space_of_vision(folder: Path, device: torch.device) -> Space:
    """A vision tower's last state of the class token, before any projection.

    Raises FileError or CheckpointError as `load_clip_vision`.
    """
    vision = load_clip_vision(folder, dtype=torch.float32, device=device, projection=False).eval()

    @torch.no_grad()
    def features(pictures: Tensor) -> Tensor:
        said = vision(normalised(at_size(pictures, vision.config.image_size))).pooled_raw
        assert said is not None
        return said

    return Space(f"CLIP-vision-{folder.resolve().name}", features)


def _tower(text: Conditioner) -> ClipText | None:
    """The first text tower that ends in a projection."""
    return next((t for t in text.encoders if t.config.projection is not None), None)
