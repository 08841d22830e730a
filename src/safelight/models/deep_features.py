"""A U-Net's deep features, kept from one call to the next while its outermost blocks run anew.

Ma et al. 2023, "DeepCache: Accelerating Diffusion Models for Free" (arXiv:2312.00858).

Shapes: B batch, C channels, h w latent height and width, L text length, D width of the text tokens,
V width of the vector.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple, Self

from torch import Tensor
from torch.nn import functional as F

from safelight.models.attention import ImageTokens, Observer, Reference
from safelight.models.token_merging import Merging
from safelight.models.unet import Residuals, UNet, chosen_in, with_added
from safelight.models.unet_blocks import NO_REFERENCES, DownBlock, Told


class Kept(NamedTuple):
    """What is kept of a call: its deep features, and the residuals that the others need."""

    features: Tensor  # (B, C, h, w)
    residuals: Residuals | None

    @classmethod
    def of(cls, features: Tensor, residuals: Residuals | None, blocks: int) -> Self:
        """Of a call's features and residuals, no more than calls of `blocks` blocks ask for."""
        if residuals is None:
            return cls(features, None)
        own = residuals._replace(
            skips=residuals.skips[:blocks], mid=None, inner=residuals.inner[:1]
        )
        return cls(features, own)


def most_blocks(unet: UNet) -> int:
    """The number of residual blocks of the finest level on the way up."""
    return len(unet.up_blocks[-1].resnets)  # type: ignore[arg-type]


def with_deep(
    unet: UNet,
    x: Tensor,
    time: Tensor,
    context: Tensor,
    vector: Tensor | None = None,
    *,
    blocks: int,
    deep: Tensor | None = None,
    level: Tensor | None = None,
    guidance_scale: Tensor | None = None,
    images: Sequence[ImageTokens] = (),
    residuals: Residuals | None = None,
    identity_attention: Collection[str] = (),
    freeu: tuple[float, float, float, float] | None = None,
    checkpointing: bool = False,
    observer: Observer | None = None,
    references: Mapping[str, Reference] = NO_REFERENCES,
    merging: Merging | None = None,
) -> tuple[Tensor, Tensor]:
    """What `UNet.forward` gives, and the features that enter its last `blocks` residual blocks.

    Given such features of another call as `deep`, only those blocks run, and on the way down those
    whose skips they take: of the residuals, theirs alone act. The other arguments are those of
    `UNet.forward`; 1 <= blocks <= `most_blocks`. Without `deep` the output is that of `forward`
    bit for bit.
    """
    most = most_blocks(unet)
    assert 1 <= blocks <= most, (blocks, most)
    added = residuals or Residuals()
    embedding = F.silu(unet.embedding(x, time, vector, level, guidance_scale))
    told = Told(embedding, context, images, checkpointing, observer, references)
    told = unet.also_told(told, added, merging)
    x, last = unet.conv_in(x), len(unet.up_blocks) - 1
    if deep is None:
        x, skips = unet.down(x, told, identity_attention, added.inner)
        if unet.mid_block is not None:
            chosen = chosen_in(identity_attention, "mid_block", unet.mid_block)
            x = unet.mid_block(x, told.at(unet.config.levels), chosen)
        x, skips = unet.controlled(x, skips, added)
        for i in range(last):
            x, skips = unet.up_level(i, x, skips, told, identity_attention, freeu)
        if blocks < most:
            part = slice(0, most - blocks)
            x, skips = unet.up_level(last, x, skips, told, identity_attention, freeu, part)
        deep = x
    else:
        skips = _shallow_skips(unet, x, told, identity_attention, added, blocks)
    part = slice(most - blocks, most)
    x, _ = unet.up_level(last, deep, skips, told, identity_attention, freeu, part)
    return unet.output(x), deep


def _shallow_skips(
    unet: UNet, x: Tensor, told: Told, identity: Collection[str], added: Residuals, count: int
) -> list[Tensor]:
    """The first skips: what `conv_in` made, and the outputs of the residual blocks after it."""
    first = unet.down_blocks[0]
    assert isinstance(first, DownBlock)
    chosen = chosen_in(identity, "down_blocks.0", first)
    inner = added.inner[0] if added.inner else None
    _, made = first(x, told.at(0), chosen, inner, count - 1)
    skips = [x, *made]
    if added.skips:
        first_of = added.skips[: len(skips)]
        skips = [with_added(s, r) for s, r in zip(skips, first_of, strict=True)]
    return skips
