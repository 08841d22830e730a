"""CLIP's transformers for text and pictures, as OpenAI and OpenCLIP trained them.

Radford et al. 2021 (arXiv:2103.00020); Cherti et al. 2022 (arXiv:2212.07143). Names are those of
Transformers' `CLIPTextModelWithProjection` and `CLIPVisionModelWithProjection`.

Shapes: B batch, L tokens, D width, P width of the projection, S side of a picture in pixels.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from safelight.models.attention import join_heads, split_heads
from safelight.models.layers import Conv2d, LayerNorm, Linear

Activation = Literal["quick_gelu", "gelu"]

IMAGE_MEAN = (0.48145466, 0.4578275, 0.40821073)
"""Mean of red, green and blue in [0, 1]; the vision towers see (picture - mean) / deviation."""
IMAGE_DEVIATION = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class ClipTextConfig:
    """The shape of a text tower."""

    layers: int = 12
    width: int = 768
    heads: int = 12
    mlp_width: int = 3072
    activation: Activation = "quick_gelu"
    projection: int | None = None  # width of the pooled embedding; None: the tower has none
    vocabulary: int = 49408
    context: int = 77  # most tokens in one call
    eos_id: int = 49407


@dataclass(frozen=True)
class ClipVisionConfig:
    """The shape of a vision tower."""

    layers: int = 24
    width: int = 1024
    heads: int = 16
    mlp_width: int = 4096
    activation: Activation = "quick_gelu"
    projection: int | None = 768
    image_size: int = 224
    patch: int = 14
    channels: int = 3

    @property
    def tokens(self) -> int:
        """Patches, and one token for the class."""
        return (self.image_size // self.patch) ** 2 + 1


CLIP_L = ClipTextConfig()
OPENCLIP_H = ClipTextConfig(23, 1024, 16, 4096, "gelu")
"""As Stable Diffusion 2 uses it: without the last block, and so without a projection."""
OPENCLIP_H_FULL = ClipTextConfig(24, 1024, 16, 4096, "gelu", projection=1024)
OPENCLIP_BIGG = ClipTextConfig(32, 1280, 20, 5120, "gelu", projection=1280)

CLIP_VISION_L = ClipVisionConfig()
CLIP_VISION_H = ClipVisionConfig(32, 1280, 16, 5120, "gelu", projection=1024)
CLIP_VISION_BIGG = ClipVisionConfig(48, 1664, 16, 8192, "gelu", projection=1280)


@dataclass(frozen=True, slots=True)
class ClipTextOutput:
    """What a text tower, or its first blocks, say of token ids."""

    hidden_states: tuple[Tensor, ...]  # (B, L, D) each: the embeddings, then after every block run
    final: Tensor  # (B, L, D): the last of them through the final norm
    pooled_raw: Tensor | None  # (B, D): `final` at the first EOS; None unless all blocks ran
    pooled: Tensor | None  # (B, P): projected; None also if the tower has no projection


@dataclass(frozen=True, slots=True)
class ClipVisionOutput:
    """What a vision tower, or its first blocks, say of pictures."""

    hidden_states: tuple[Tensor, ...]  # (B, tokens, D) each: the embeddings, then after every block
    pooled_raw: Tensor | None  # (B, D): class token, normed; None unless all blocks ran
    embeds: Tensor | None  # (B, P): projected; None also if the tower has no projection


class ClipText(nn.Module):
    """A text tower: token ids (B, L) to features for every token and one for the text."""

    __call__: Callable[..., ClipTextOutput]

    def __init__(self, config: ClipTextConfig) -> None:
        super().__init__()
        self.config = config
        self.text_model = TextTransformer(config)
        self.text_projection = None
        if config.projection is not None:
            self.text_projection = Linear(config.width, config.projection, bias=False)

    def embed(self, ids: Tensor) -> Tensor:
        """The learned vectors of token ids, before positions are added: (B, L) -> (B, L, D)."""
        vectors: Tensor = self.text_model.embeddings.token_embedding(ids)
        return vectors

    def forward(
        self, ids: Tensor, *, depth: int | None = None, visible: Tensor | None = None
    ) -> ClipTextOutput:
        """The text of token ids (B, L), L up to `config.context`.

        `depth` runs that many blocks only: layers + 1 - n for clip skip n. `visible` (B, L) is
        False for tokens that no token may attend to; the first must be visible.
        """
        eos = self.eos_positions(ids)
        return self.forward_embedded(self.embed(ids), eos, depth=depth, visible=visible)

    def eos_positions(self, ids: Tensor) -> Tensor:
        """Where the first EOS of each text stands, or the last token if it has none: (B,).

        Not where the ids are largest, as Transformers does for old configs: tokens added by textual
        inversion have larger ids.
        """
        is_eos = ids == self.config.eos_id
        return torch.where(is_eos.any(1), is_eos.int().argmax(1), ids.shape[1] - 1)

    def forward_embedded(
        self,
        vectors: Tensor,
        eos: Tensor,
        *,
        depth: int | None = None,
        visible: Tensor | None = None,
    ) -> ClipTextOutput:
        """The same from token vectors (B, L, D), some of which may be learned, and EOS places (B,).

        Raises ValueError for more tokens than the context, or a depth that the tower has not.
        """
        model = self.text_model
        embedded = model.embeddings(vectors)
        hidden_states = model.encoder(embedded, depth=depth, causal=True, visible=visible)
        final = model.final_layer_norm(hidden_states[-1])
        if len(hidden_states) <= self.config.layers:
            return ClipTextOutput(hidden_states, final, pooled_raw=None, pooled=None)
        pooled_raw = final[torch.arange(len(eos), device=final.device), eos]
        pooled = None if self.text_projection is None else self.text_projection(pooled_raw)
        return ClipTextOutput(hidden_states, final, pooled_raw, pooled)

    def final_norm(self, hidden_state: Tensor) -> Tensor:
        """A hidden state through the norm that stands after the last block."""
        return self.text_model.final_layer_norm(hidden_state)


class ClipVision(nn.Module):
    """A vision tower: normalised pictures (B, 3, S, S) to features of patches and of the whole."""

    __call__: Callable[..., ClipVisionOutput]

    def __init__(self, config: ClipVisionConfig) -> None:
        super().__init__()
        self.config = config
        self.vision_model = VisionTransformer(config)
        self.visual_projection = None
        if config.projection is not None:
            self.visual_projection = Linear(config.width, config.projection, bias=False)

    def forward(self, images: Tensor, *, depth: int | None = None) -> ClipVisionOutput:
        """Features of pictures of `config.image_size`, less IMAGE_MEAN, over IMAGE_DEVIATION.

        `depth` runs that many blocks only. Raises ValueError for another size or depth.
        """
        model = self.vision_model
        embedded = model.pre_layrnorm(model.embeddings(images))
        hidden_states = model.encoder(embedded, depth=depth, causal=False)
        if len(hidden_states) <= self.config.layers:
            return ClipVisionOutput(hidden_states, pooled_raw=None, embeds=None)
        pooled_raw = model.post_layernorm(hidden_states[-1][:, 0])
        embeds = None if self.visual_projection is None else self.visual_projection(pooled_raw)
        return ClipVisionOutput(hidden_states, pooled_raw, embeds)


def normalised(images: Tensor) -> Tensor:
    """Pictures (B, 3, H, W) in [-1, 1] as the vision towers expect them."""
    mean = images.new_tensor(IMAGE_MEAN)[:, None, None]
    deviation = images.new_tensor(IMAGE_DEVIATION)[:, None, None]
    return ((images + 1) / 2 - mean) / deviation


def similarity(image_embeds: Tensor, text_embeds: Tensor, *, logit_scale: float = 0.0) -> Tensor:
    """Cosines of pictures (I, P) and texts (T, P), times exp(logit_scale): (I, T), float32.

    CLIP's own logit scale, learned in training, is about log(100).
    """
    images, texts = (F.normalize(e.float(), dim=-1) for e in (image_embeds, text_embeds))
    return images @ texts.T * math.exp(logit_scale)


# -- parts -----------------------------------------------------------------------------------------


class TowerConfig(Protocol):
    """What the two towers have in common."""

    @property
    def layers(self) -> int: ...
    @property
    def width(self) -> int: ...
    @property
    def heads(self) -> int: ...
    @property
    def mlp_width(self) -> int: ...
    @property
    def activation(self) -> Activation: ...


class TextTransformer(nn.Module):
    """The parts of a text tower, under the names they have in files."""

    def __init__(self, config: ClipTextConfig) -> None:
        super().__init__()
        self.embeddings = TextEmbeddings(config)
        self.encoder = ClipEncoder(config)
        self.final_layer_norm = LayerNorm(config.width)


class VisionTransformer(nn.Module):
    """The parts of a vision tower, under the names they have in files."""

    def __init__(self, config: ClipVisionConfig) -> None:
        super().__init__()
        self.embeddings = VisionEmbeddings(config)
        self.pre_layrnorm = LayerNorm(config.width)  # so spelt in every published file
        self.encoder = ClipEncoder(config)
        self.post_layernorm = LayerNorm(config.width)


class TextEmbeddings(nn.Module):
    """Token vectors plus learned positions: (B, L, D) -> (B, L, D)."""

    __call__: Callable[..., Tensor]

    def __init__(self, config: ClipTextConfig) -> None:
        super().__init__()
        self.token_embedding = nn.Embedding(config.vocabulary, config.width)
        self.position_embedding = nn.Embedding(config.context, config.width)

    def forward(self, vectors: Tensor) -> Tensor:
        length, context = vectors.shape[1], self.position_embedding.num_embeddings
        if length > context:
            raise ValueError(f"CLIP reads at most {context} tokens at once; got {length}")
        return vectors + self.position_embedding.weight[:length]


class VisionEmbeddings(nn.Module):
    """A class token and one for each patch, plus positions: (B, 3, S, S) -> (B, tokens, D)."""

    __call__: Callable[..., Tensor]

    def __init__(self, config: ClipVisionConfig) -> None:
        super().__init__()
        self.image_size = config.image_size
        self.class_embedding = nn.Parameter(torch.randn(config.width) * config.width**-0.5)
        self.patch_embedding = Conv2d(
            config.channels, config.width, config.patch, stride=config.patch, bias=False
        )
        self.position_embedding = nn.Embedding(config.tokens, config.width)

    def forward(self, images: Tensor) -> Tensor:
        if images.shape[2:] != (self.image_size, self.image_size):
            height, width = images.shape[2:]
            raise ValueError(
                f"this CLIP sees {self.image_size} x {self.image_size} pixels; got"
                f" {width} x {height}"
            )
        patches = self.patch_embedding(images).flatten(2).transpose(1, 2)
        first = self.class_embedding.expand(len(patches), 1, -1)
        return torch.cat([first, patches], dim=1) + self.position_embedding.weight


class ClipEncoder(nn.Module):
    """Blocks of attention and MLP: (B, L, D) -> layers + 1 times (B, L, D)."""

    __call__: Callable[..., tuple[Tensor, ...]]

    def __init__(self, config: TowerConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(ClipBlock(config) for _ in range(config.layers))

    def forward(
        self, x: Tensor, *, depth: int | None, causal: bool, visible: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        """The input, and what it is after each of the first `depth` blocks."""
        depth = len(self.layers) if depth is None else depth
        if not 0 <= depth <= len(self.layers):
            raise ValueError(f"this CLIP has {len(self.layers)} blocks; cannot run {depth}")
        hidden_states = [x]
        for block in self.layers[:depth]:
            hidden_states.append(block(hidden_states[-1], causal, visible))
        return tuple(hidden_states)


class ClipBlock(nn.Module):
    """Norm, attention, norm, MLP, each pair around a residual. (B, L, D) -> same."""

    def __init__(self, config: TowerConfig) -> None:
        super().__init__()
        self.self_attn = ClipAttention(config.width, config.heads)
        self.layer_norm1 = LayerNorm(config.width)
        self.mlp = ClipMlp(config)
        self.layer_norm2 = LayerNorm(config.width)

    def forward(self, x: Tensor, causal: bool, visible: Tensor | None = None) -> Tensor:
        x = x + self.self_attn(self.layer_norm1(x), causal, visible)
        return x + self.mlp(self.layer_norm2(x))


class ClipAttention(nn.Module):
    """Multi-head self-attention.

    causal: a token sees itself and those before it. visible (B, L): of these, only those that are
    True.
    """

    __call__: Callable[..., Tensor]

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj = Linear(width, width)
        self.k_proj = Linear(width, width)
        self.v_proj = Linear(width, width)
        self.out_proj = Linear(width, width)

    def forward(self, x: Tensor, causal: bool, visible: Tensor | None = None) -> Tensor:
        projections = (self.q_proj, self.k_proj, self.v_proj)
        query, key, value = (split_heads(project(x), self.heads) for project in projections)
        if visible is None:
            y = F.scaled_dot_product_attention(query, key, value, is_causal=causal)
        else:
            seen = visible[:, None, None, :]  # (B, 1, 1, L)
            if causal:
                seen = seen & seen.new_ones(x.shape[1], x.shape[1]).tril()  # (B, 1, L, L)
            y = F.scaled_dot_product_attention(query, key, value, attn_mask=seen)
        return self.out_proj(join_heads(y))


class ClipMlp(nn.Module):
    """Linear, activation, linear. (B, L, D) -> same."""

    __call__: Callable[..., Tensor]

    def __init__(self, config: TowerConfig) -> None:
        super().__init__()
        self.activation = _ACTIVATIONS[config.activation]
        self.fc1 = Linear(config.width, config.mlp_width)
        self.fc2 = Linear(config.mlp_width, config.width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.activation(self.fc1(x)))


def quick_gelu(x: Tensor) -> Tensor:
    """OpenAI's approximation of GELU; weights trained with it need it."""
    return x * torch.sigmoid(1.702 * x)


_ACTIVATIONS: dict[Activation, Callable[[Tensor], Tensor]] = {
    "quick_gelu": quick_gelu,
    "gelu": F.gelu,
}
