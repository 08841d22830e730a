"""How well texts fit pictures, for the network: by a CLIP that is kept between calls."""

from collections.abc import Sequence
from pathlib import Path

import torch

from safelight.checkpoints.clip_pair import load_clip_pair
from safelight.clip.pair import ClipPair
from safelight.embedded.carried import NAME
from safelight.engines.placement import resolve_device
from safelight.server.refusals import NotAllowed
from safelight.server.registry import Registry
from safelight.tasks.judging import similarities
from safelight.tasks.picture_file import open_input

PICTURES = 64
TEXTS = 64
TEXT_LIMIT = 2000


class Judges:
    """The CLIP that judged last."""

    def __init__(self, device: str) -> None:
        self._device = device
        self._path: Path | None = None
        self._pair: ClipPair | None = None

    def scores(
        self, pictures: Sequence[Path], texts: Sequence[str], clip: str | None, registry: Registry
    ) -> dict[str, object]:
        """The cosine of every picture with every text. Raises NotAllowed, Unknown, FileError."""
        if not 1 <= len(pictures) <= PICTURES or not 1 <= len(texts) <= TEXTS:
            raise NotAllowed(f"give 1 to {PICTURES} pictures and 1 to {TEXTS} texts.")
        if any(not text.strip() or len(text) > TEXT_LIMIT for text in texts):
            raise NotAllowed(f"a text must have 1 to {TEXT_LIMIT} characters.")
        pair = self._of(clip, registry)
        pixels = [open_input(path).pixels for path in pictures]
        cosines = similarities(pixels, texts, pair)
        cut = [text for text in texts if pair.cut_tokens(text)]
        return {
            "clip": pair.name,
            "scores": [[round(float(value), 6) for value in row] for row in cosines],
            "warnings": [*pair.notes, *(f"too long, and cut: {text[:40]!r}" for text in cut)],
        }

    def _of(self, name: str | None, registry: Registry) -> ClipPair:
        shelf = "encoder" if name is not None and registry.has("encoder", name) else "model"
        path = registry.find(shelf, name or NAME).path  # type: ignore[arg-type]
        if self._pair is None or path != self._path:
            device = resolve_device(self._device)
            self._pair = load_clip_pair(path, dtype=torch.float32, device=device)
            self._path = path
        return self._pair
