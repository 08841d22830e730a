"""The nets that look at pictures in an evaluation: CLIP's two towers, and their features."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from safelight.checkpoints.clip_pair import clip_pair_with, holds_clip_pair, load_clip_pair
from safelight.checkpoints.vision_folder import has_clip_vision, load_clip_vision
from safelight.clip.pair import ClipPair
from safelight.errors import RequestError
from safelight.evaluation.pairs import Space, TextMatch
from safelight.model import Model
from safelight.models.clip import ClipText, normalised
from safelight.models.evaluator import at_size
from safelight.printable import shown
from safelight.text.conditioner import Conditioner


def text_match(path: Path | None, model: Model, own: Path) -> TextMatch | None:
    """A CLIP by which pictures and texts are compared; None if neither is named nor carried.

    path: a CLIP as `load_clip_pair` opens it, or a vision tower alone, whose texts are then read by
    the model's own text tower; None is what the model itself, in the folder `own`, carries.
    Raises RequestError if the two towers do not meet in one space, FileError or CheckpointError if
    there is none to read.
    """
    pair = _pair(path, model, own)
    if pair is None:
        return None

    @torch.no_grad()
    def see(pictures: Tensor) -> Tensor:
        return pair.embed_pictures(pictures)

    @torch.no_grad()
    def tell(texts: Sequence[str]) -> Tensor:
        return pair.embed_texts(texts)

    return TextMatch(f"CLIP of {pair.name}", see, tell)


def _pair(path: Path | None, model: Model, own: Path) -> ClipPair | None:
    tower = _tower(model.text)
    if path is None and (tower is None or not (own.is_dir() and has_clip_vision(own))):
        return None
    where = path or own
    foreign = where.resolve() != own.resolve()
    if foreign and holds_clip_pair(where):
        return load_clip_pair(where, dtype=torch.float32, device=model.device)
    vision = load_clip_vision(where, dtype=torch.float32, device=model.device)
    width = vision.config.projection
    if tower is None or tower.config.projection != width:
        has = "none" if tower is None else f"one of width {tower.config.projection}"
        raise RequestError(
            f"--clip {shown(where)}: its vision tower has a projection of width {width}, the text "
            f"tower of {shown(own)} has {has}; give a model's folder whose text_encoder and "
            "image_encoder were trained together."
        )
    return clip_pair_with(tower, model.text.tokenizer, where, vision=vision)


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
