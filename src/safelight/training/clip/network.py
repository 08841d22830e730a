"""What learns: a text tower, a vision tower, the scale of their cosines, and the student's head.

Shapes: B batch, L tokens, P width of the embeddings, W width of the teacher's vectors.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from safelight.models.clip import (
    ClipAttention,
    ClipMlp,
    ClipText,
    ClipTextConfig,
    ClipVision,
    ClipVisionConfig,
    normalised,
)
from safelight.training.draw import stream

TEXT_TOWER = ClipTextConfig(
    layers=4, width=256, heads=4, mlp_width=1024, activation="gelu", projection=256,
    vocabulary=6000, context=77, eos_id=5999,
)  # fmt: skip
"""The text tower of the model that ships."""
VISION_TOWER = ClipVisionConfig(
    layers=6, width=160, heads=5, mlp_width=640, activation="gelu", projection=256,
    image_size=128, patch=16,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class ClipFeatures:
    """Embeddings before they are normalised, None for what was not given."""

    pictures: Tensor | None  # (B, P)
    texts: Tensor | None  # (B, P)
    phrases: Tensor | None  # (N, P)
    taught: Tensor | None  # (N, W): phrases through the head, in the teacher's space
    log_scale: Tensor  # scalar: log of the factor on cosines
    bias: Tensor  # scalar: added to logits by the sigmoid loss alone


class ClipNetwork(nn.Module):
    """Two towers that learn to agree. `text` and `vision` are what is kept; the rest is training's.

    teacher_width: width of the teacher's vectors. seed: of the initial weights, which are OpenAI's
    (normal, their deviations by width and depth; see `initialise`). Raises ValueError for towers
    without projections of one width.
    """

    __call__: Callable[..., ClipFeatures]

    def __init__(
        self,
        text: ClipTextConfig = TEXT_TOWER,
        vision: ClipVisionConfig = VISION_TOWER,
        *,
        teacher_width: int = 256,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if text.projection is None or text.projection != vision.projection:
            raise ValueError(
                "a text and a vision tower need projections of one width; got"
                f" {text.projection} and {vision.projection}"
            )
        self.text = ClipText(text)
        self.vision = ClipVision(vision)
        self.head = nn.Linear(text.projection, teacher_width, bias=False)
        self.log_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))
        self.bias = nn.Parameter(torch.tensor(0.0))
        initialise(self, seed)

    def for_sigmoid_loss(self) -> "ClipNetwork":
        """Set scale and bias where the sigmoid loss starts: 10 and -10 (arXiv:2303.15343)."""
        with torch.no_grad():
            self.log_scale.fill_(math.log(10))
            self.bias.fill_(-10.0)
        return self

    def forward(
        self,
        pictures: Tensor | None = None,
        tokens: Tensor | None = None,
        phrases: Tensor | None = None,
    ) -> ClipFeatures:
        """Embeddings of pictures (B, 3, S, S) in [-1, 1] and of token ids (B, L) and (N, L')."""
        seen = None
        if pictures is not None:
            dtype = self.vision.vision_model.embeddings.patch_embedding.weight.dtype
            seen = self.vision(normalised(pictures).to(dtype)).embeds
        texts, said = self._texts(tokens, phrases)
        taught = None if said is None else self.head(said)
        return ClipFeatures(seen, texts, said, taught, self.log_scale, self.bias)

    def _texts(
        self, tokens: Tensor | None, phrases: Tensor | None
    ) -> tuple[Tensor | None, Tensor | None]:
        given = [ids for ids in (tokens, phrases) if ids is not None]
        if not given:
            return None, None
        # One call for both: the shorter is filled up with end tokens, which change nothing, since
        # no token looks ahead and the text is what its first end token says.
        longest = max(ids.shape[1] for ids in given)
        eos = self.text.config.eos_id
        rows = torch.cat([F.pad(ids, (0, longest - ids.shape[1]), value=eos) for ids in given])
        pooled = self.text(rows).pooled
        assert pooled is not None
        if tokens is None or phrases is None:
            return (pooled, None) if phrases is None else (None, pooled)
        return pooled[: len(tokens)], pooled[len(tokens) :]


@torch.no_grad()
def initialise(network: ClipNetwork, seed: int) -> None:
    """OpenAI's initial weights: normal, the outputs of blocks smaller the more blocks there are.

    Every weight has a stream of its own, so its values do not depend on what else there is.
    """
    deviations: dict[Tensor, float] = {}
    for tower in (network.text, network.vision):
        width = tower.config.width
        output = width**-0.5 * (2 * tower.config.layers) ** -0.5
        for part in tower.modules():
            if isinstance(part, ClipAttention):
                deviations |= {
                    p.weight: width**-0.5 for p in (part.q_proj, part.k_proj, part.v_proj)
                }
                deviations[part.out_proj.weight] = output
            elif isinstance(part, ClipMlp):
                deviations |= {part.fc1.weight: (2 * width) ** -0.5, part.fc2.weight: output}
    words, seen = network.text.text_model.embeddings, network.vision.vision_model.embeddings
    deviations[words.token_embedding.weight] = 0.02
    deviations[words.position_embedding.weight] = 0.01
    for weight in (seen.class_embedding, seen.position_embedding.weight):
        deviations[weight] = network.vision.config.width**-0.5
    patch = seen.patch_embedding.weight
    deviations[patch] = patch[0].numel() ** -0.5
    for projection in (
        network.text.text_projection,
        network.vision.visual_projection,
        network.head,
    ):
        assert projection is not None
        deviations[projection.weight] = projection.weight.shape[1] ** -0.5
    for name, weight in network.named_parameters():
        if weight in deviations:
            weight.normal_(0, deviations[weight], generator=stream(seed, f"clip {name}"))
        elif name.endswith(".bias"):
            weight.zero_()
