"""How much each patch of a picture speaks for a direction in CLIP's space.

Shapes: B pictures, N tokens (the class and g x g patches), P width of the joint space.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from safelight.models.attention import join_heads, split_heads
from safelight.models.clip import ClipBlock, ClipVision

_LOUD = 1024.0  # keeps gradients of 16-bit towers above what they can hold


def relevance(vision: ClipVision, images: Tensor, direction: Tensor) -> tuple[Tensor, Tensor]:
    """The patches' say in the cosine with a direction (P,): maps (B, g, g), and embeddings (B, P).

    images are prepared ones. Attention of every block, times what the cosine gains by it where
    that is positive, rolled out from the class token: Chefer et al. 2021 (arXiv:2103.15679), eq.
    5 and 6. Works whether gradients are enabled or not; embeddings are unit vectors, both float32.
    """
    model = vision.vision_model
    weights: list[Tensor] = []
    with torch.enable_grad():
        x = model.pre_layrnorm(model.embeddings(images)).detach().requires_grad_()
        for block in model.encoder.layers:
            assert isinstance(block, ClipBlock)
            x = _through(block, x, weights)
        assert vision.visual_projection is not None
        embeds = F.normalize(
            vision.visual_projection(model.post_layernorm(x[:, 0])).float(), dim=-1
        )
        loud = 1.0 if weights[0].dtype == torch.float32 else _LOUD
        gains = torch.autograd.grad((embeds @ direction).sum() * loud, weights)
    tokens = x.shape[1]
    rolled = torch.eye(tokens, device=images.device).expand(len(images), -1, -1)
    for attention, gain in zip(weights, gains, strict=True):
        helpful = (attention.detach().float() * gain.float() / loud).clamp(min=0).mean(1)
        rolled = rolled + helpful @ rolled
    side = vision.config.image_size // vision.config.patch
    return rolled[:, 0, 1:].unflatten(1, (side, side)), embeds.detach()


def _through(block: ClipBlock, x: Tensor, weights: list[Tensor]) -> Tensor:
    """One block with its attention (B, heads, N, N) written down."""
    attention = block.self_attn
    normed = block.layer_norm1(x)
    projections = (attention.q_proj, attention.k_proj, attention.v_proj)
    query, key, value = (split_heads(project(normed), attention.heads) for project in projections)
    shares = (query @ key.mT * query.shape[-1] ** -0.5).softmax(-1)
    weights.append(shares)
    x = x + attention.out_proj(join_heads(shares @ value))
    result: Tensor = x + block.mlp(block.layer_norm2(x))
    return result
