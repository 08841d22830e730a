"""What is to be seen in a scene and what its caption says of it, as numbers that CLIP compares."""

from collections.abc import Sequence

import torch
from torch import Tensor

from safelight.training.clip.contrastive import UNSAID
from safelight.training.scenes.catalogue import Catalogue
from safelight.training.scenes.holdout import digest
from safelight.training.scenes.scene import Scene


def seen_and_said(scenes: Sequence[Scene], catalogue: Catalogue) -> tuple[Tensor, Tensor]:
    """(N, K) int64 of what is seen, and of what is said: UNSAID where the caption is silent.

    The columns: things, count, style, background, relation, place, size, colour.
    """
    seen, said = [], []
    for scene in scenes:
        facts = scene.facts
        shown = [catalogue.entries[layer.cutout] for layer in scene.layers]
        things = "|".join(dict.fromkeys(entry.hexcode for entry in shown))
        rows = (
            (things, things),
            (len(scene.layers), len(scene.layers)),
            (shown[0].style, facts.style),
            (scene.background_name, facts.background),
            (facts.relation or "-", facts.relation or "-"),
            (facts.place or "-", facts.place),
            (facts.size or "-", facts.size),
            (facts.recolour or "-", facts.recolour or "-"),
        )
        seen.append([_number(there) for there, _ in rows])
        said.append([UNSAID if words is None else _number(words) for _, words in rows])
    return torch.tensor(seen).view(-1, 8), torch.tensor(said).view(-1, 8)


def _number(fact: object) -> int:
    """A number for a fact, the same in every process."""
    return digest(str(fact)) >> 1
