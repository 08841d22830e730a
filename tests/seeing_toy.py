"""A CLIP made by hand that sees colours: its patches say how red, green and blue they are.

Nothing is learned: the one block lets the class token look at all patches alike, so what a picture
is like is the mean of its patches, and each patch has its share in that.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional as F

from models_tiny import randomised
from safelight.clip.heat_map import EVERYDAY
from safelight.clip.pair import ClipPair
from safelight.clip.preparation import Preparation
from safelight.models.clip import ClipBlock, ClipText, ClipTextConfig, ClipVision, ClipVisionConfig
from safelight.text.bpe import Tokenizer

WIDTH, SIDE, PATCH = 8, 64, 8
COLOURS: Mapping[str, tuple[float, float, float]] = {
    "red": (1, -1, -1),
    "green": (-1, 1, -1),
    "blue": (-1, -1, 1),
}


def colour_vision() -> ClipVision:
    """A tower that ends in how much more red, green and blue than not a picture is, and 0s."""
    config = ClipVisionConfig(1, WIDTH, 1, WIDTH, "gelu", WIDTH, SIDE, PATCH)
    tower = ClipVision(config)
    with torch.no_grad():
        for weight in tower.parameters():
            weight.zero_()
        for name, weight in tower.named_parameters():
            if "norm" in name and name.endswith("weight"):
                weight.fill_(1)
        patches = tower.vision_model.embeddings.patch_embedding.weight
        for channel in range(3):  # each colour and its opposite, so that norms change little
            patches[2 * channel, channel] = 1 / PATCH**2
            patches[2 * channel + 1, channel] = -1 / PATCH**2
        block = tower.vision_model.encoder.layers[0]
        assert isinstance(block, ClipBlock)
        block.self_attn.v_proj.weight.copy_(torch.eye(WIDTH))
        block.self_attn.out_proj.weight.copy_(torch.eye(WIDTH))
        assert tower.visual_projection is not None
        tower.visual_projection.weight.copy_(torch.eye(WIDTH))
    return tower.eval().requires_grad_(False)


@dataclass(frozen=True, eq=False)
class ColourPair(ClipPair):
    """A pair whose texts are names of colours; everyday words mean a little of anything."""

    words: Mapping[str, Tensor] = field(default_factory=dict)

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        return torch.stack([self.words[text] for text in texts])


def colour_pair() -> ColourPair:
    text = ClipText(ClipTextConfig(1, 32, 1, 32, "gelu", WIDTH))
    randomised(text)
    rng = torch.Generator().manual_seed(3)
    words = {word: F.normalize(torch.randn(WIDTH, generator=rng), dim=0) for word in EVERYDAY}
    for name, colour in COLOURS.items():
        vector = torch.zeros(WIDTH)
        for channel, value in enumerate(colour):
            vector[2 * channel], vector[2 * channel + 1] = value, -value
        words[name] = F.normalize(vector, dim=0)
    return ColourPair(
        "colours", text, colour_vision(), Tokenizer(), Preparation(SIDE, (0.5,) * 3, (0.5,) * 3),
        words=words,
    )  # fmt: skip
