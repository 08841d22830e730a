"""What a network is told besides the latents and the time.

Shapes: B batch, L text length, D width of the text tokens, V width of the vector,
K extra channels, h w latent height and width, H W pixels, T image-prompt tokens.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Control:
    """One spatial control: a picture, and the control network that reads it."""

    net: str  # name under which the control network is attached
    image: Tensor  # (B, 3, H, W) in [0, 1]
    scale: float = 1.0


@dataclass(frozen=True, slots=True)
class ImagePrompt:
    """A picture used as a prompt, as tokens of an image-prompt adapter."""

    adapter: str
    tokens: Tensor  # (B, T, D)
    scale: float = 1.0


@dataclass(frozen=True, slots=True)
class Intervention:
    """Changes inside the network that some guidances ask for; empty means none.

    identity_attention: module names (as in `UNet.named_modules()`, e.g. "mid_block.attentions.0")
        of transformer stacks whose self-attention map is replaced by the identity
        (perturbed-attention guidance, Ahn et al. 2024, arXiv:2403.17377).
    freeu: (b1, b2, s1, s2) backbone and skip factors (Si et al. 2023, arXiv:2309.11497).
    """

    identity_attention: tuple[str, ...] = ()
    freeu: tuple[float, float, float, float] | None = None


@dataclass(frozen=True, slots=True)
class Condition:
    """All that a network is told besides the latents and the time."""

    context: Tensor  # (B, L, D) text tokens for attention
    vector: Tensor | None = None  # (B, V) pooled text; for SDXL with the size embedding
    concat: Tensor | None = None  # (B, K, h, w) extra channels: mask and masked latents, depth
    level: Tensor | None = None  # (B,) int64 noise level of the small picture (x4 upscaler)
    guidance: Tensor | None = None  # (B,) scale told to a guidance-distilled network (LCM)
    controls: tuple[Control, ...] = ()
    image_prompts: tuple[ImagePrompt, ...] = ()
    intervention: Intervention = Intervention()

    @property
    def batch(self) -> int:
        return self.context.shape[0]


def stack(conditions: Sequence[Condition]) -> Condition:
    """Join conditions of equal shape along the batch: pictures of the first, then of the second.

    Raises ValueError if they cannot be stacked; ask `stackable` first.
    """
    first = conditions[0]
    if not stackable(conditions):
        raise ValueError("conditions differ in shape or kind and cannot share one call")
    return Condition(
        context=torch.cat([c.context for c in conditions]),
        vector=_cat([c.vector for c in conditions]),
        concat=_cat([c.concat for c in conditions]),
        level=_cat([c.level for c in conditions]),
        guidance=_cat([c.guidance for c in conditions]),
        controls=tuple(
            replace(control, image=torch.cat([c.controls[i].image for c in conditions]))
            for i, control in enumerate(first.controls)
        ),
        image_prompts=tuple(
            replace(prompt, tokens=torch.cat([c.image_prompts[i].tokens for c in conditions]))
            for i, prompt in enumerate(first.image_prompts)
        ),
        intervention=first.intervention,
    )


def stackable(conditions: Sequence[Condition]) -> bool:
    """Whether one network call can serve all of these conditions."""
    return len({_signature(c) for c in conditions}) == 1


def expand(condition: Condition, batch: int) -> Condition:
    """Repeat a condition of batch 1 for `batch` pictures; others pass through unchanged."""
    if condition.batch == batch:
        return condition
    if condition.batch != 1:
        raise ValueError(f"a condition for {condition.batch} pictures cannot serve {batch}")
    return _each(condition, lambda t: t.expand(batch, *t.shape[1:]))


def to(
    condition: Condition,
    *,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> Condition:
    """Move to a device and cast the floating-point tensors."""
    return _each(
        condition,
        lambda t: t.to(device=device, dtype=dtype if t.is_floating_point() else None),
    )


def _each(condition: Condition, change: Callable[[Tensor], Tensor]) -> Condition:
    def changed(tensor: Tensor | None) -> Tensor | None:
        return None if tensor is None else change(tensor)

    return replace(
        condition,
        context=change(condition.context),
        vector=changed(condition.vector),
        concat=changed(condition.concat),
        level=changed(condition.level),
        guidance=changed(condition.guidance),
        controls=tuple(replace(c, image=change(c.image)) for c in condition.controls),
        image_prompts=tuple(replace(p, tokens=change(p.tokens)) for p in condition.image_prompts),
    )


def _cat(tensors: Sequence[Tensor | None]) -> Tensor | None:
    present = [t for t in tensors if t is not None]
    return torch.cat(present) if present else None


def _signature(condition: Condition) -> tuple[object, ...]:
    shapes = tuple(
        None if (t := getattr(condition, name)) is None else t.shape[1:]
        for name in ("context", "vector", "concat", "level", "guidance")
    )
    controls = tuple((c.net, c.scale, c.image.shape[1:]) for c in condition.controls)
    prompts = tuple((p.adapter, p.scale, p.tokens.shape[1:]) for p in condition.image_prompts)
    return (*shapes, controls, prompts, condition.intervention)
