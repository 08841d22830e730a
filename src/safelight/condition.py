"""What a network is told besides the latents and the time.

All parts act on every picture of a batch; a tensor for one picture serves all of them.

Shapes: B batch, L text length, D width of the text tokens, V width of the vector,
K extra channels, h w latent height and width, H W pixels, T image-prompt tokens.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Control:
    """One spatial control: a picture, and the control network that reads it.

    It acts where low < sigma <= high. Its residuals count `scale` times, and each of them by its
    own factor of `weights`: those of the skips in the order made, then the middle's; of a T2I
    adapter its features in order. At scale 0 its network is not asked.
    types: for networks that read several kinds of picture (unions), which kinds these are, by
        number; `image` then holds three channels for each.
    seen: what `ControlNetwork.look` makes of `image`, if that was computed beforehand.
    """

    net: str  # name under which the control network is attached
    image: Tensor  # (B, 3, H, W) in [0, 1]
    scale: float = 1.0
    weights: tuple[float, ...] | None = None
    high: float = math.inf
    low: float = -1.0
    types: tuple[int, ...] = ()
    seen: tuple[Tensor, ...] = ()

    @property
    def idle(self) -> bool:
        """Whether it changes nothing, whatever the network makes of it."""
        return self.scale == 0 or (self.weights is not None and not any(self.weights))


@dataclass(frozen=True, slots=True)
class ImagePrompt:
    """A picture used as a prompt, as tokens of an image-prompt adapter.

    It acts where low < sigma <= high. mask: how much it counts at each place of the latents.
    """

    adapter: str
    tokens: Tensor  # (B, T, D)
    scale: float = 1.0
    mask: Tensor | None = None  # (B, 1, h, w) in [0, 1]
    high: float = math.inf
    low: float = -1.0


@dataclass(frozen=True, slots=True)
class ReferencePicture:
    """A picture that self-attention looks at, too, as if it lay beside the one that is drawn.

    A1111's reference_only: the network is also asked for the picture at the same noise level, and
    its self-attention tokens join those of the drawing. It acts where low < sigma <= high.
    share: how much of the result comes from looking at both; A1111's style fidelity f is 1 on the
        positive condition and 1 - f on the negative.
    weight: the share of self-attentions that do so, widest first, in [0, 1].
    noise: what the picture is noised with, the same at all levels.
    shown: the noised picture as the network takes it; the denoiser puts it there.
    """

    latents: Tensor  # (B, C, h, w) of the codec
    noise: Tensor  # (B, C, h, w)
    share: Tensor  # (B,) in [0, 1]
    weight: float = 1.0
    high: float = math.inf
    low: float = -1.0
    shown: Tensor | None = None  # (B, C, h, w)


@dataclass(frozen=True, slots=True)
class Intervention:
    """Changes inside the network that some guidances ask for; empty means none.

    identity_attention: module names (as in `UNet.named_modules()`, e.g. "mid_block.attentions.0")
        of transformer stacks whose self-attention map is replaced by the identity
        (perturbed-attention guidance, Ahn et al. 2024, arXiv:2403.17377).
    freeu: (b1, b2, s1, s2) backbone and skip factors (Si et al. 2023, arXiv:2309.11497).
    merged: the share of tokens that are merged before self-attention, in so many of the finest
        `merged_levels`, and before what else `merged_parts` names (`models.token_merging`).
    """

    identity_attention: tuple[str, ...] = ()
    freeu: tuple[float, float, float, float] | None = None
    merged: float = 0.0
    merged_levels: int = 1
    merged_parts: tuple[Literal["self", "cross", "feed-forward"], ...] = ("self",)


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
    references: tuple[ReferencePicture, ...] = ()
    intervention: Intervention = Intervention()

    @property
    def batch(self) -> int:
        return self.context.shape[0]

    @property
    def parts(self) -> tuple[Control | ImagePrompt | ReferencePicture, ...]:
        """Everything that acts in a range of noise levels."""
        return (*self.controls, *self.image_prompts, *self.references)


def stack(conditions: Sequence[Condition]) -> Condition:
    """Join conditions of equal shape along the batch: pictures of the first, then of the second.

    Raises ValueError if they cannot be stacked; ask `stackable` first.
    """
    if not stackable(conditions):
        raise ValueError("conditions differ in shape or kind and cannot share one call")
    conditions = [expand(c, c.batch) for c in conditions]
    first = conditions[0]
    return Condition(
        context=torch.cat([c.context for c in conditions]),
        vector=_cat([c.vector for c in conditions]),
        concat=_cat([c.concat for c in conditions]),
        level=_cat([c.level for c in conditions]),
        guidance=_cat([c.guidance for c in conditions]),
        controls=tuple(
            _joined_control([c.controls[i] for c in conditions]) for i in range(len(first.controls))
        ),
        image_prompts=tuple(
            _joined_prompt([c.image_prompts[i] for c in conditions])
            for i in range(len(first.image_prompts))
        ),
        references=tuple(
            _joined_reference([c.references[i] for c in conditions])
            for i in range(len(first.references))
        ),
        intervention=first.intervention,
    )


def stackable(conditions: Sequence[Condition]) -> bool:
    """Whether one network call can serve all of these conditions."""
    return len({_signature(c) for c in conditions}) == 1


def expand(condition: Condition, batch: int) -> Condition:
    """The condition for `batch` pictures: what is for one of them is repeated.

    Raises ValueError for a condition of another number of pictures.
    """
    if condition.batch not in (1, batch):
        raise ValueError(f"a condition for {condition.batch} pictures cannot serve {batch}")
    if batch == 1 or (condition.batch == batch and not condition.parts):
        return condition
    return _each(condition, lambda t: t.expand(batch, *t.shape[1:]) if t.shape[0] == 1 else t)


def pick(condition: Condition, rows: Sequence[int]) -> Condition:
    """The condition of some of its pictures, by number."""
    index = list(rows)
    return _each(condition, lambda t: t[index])


def bounded(condition: Condition) -> bool:
    """Whether anything in it acts at some noise levels only."""
    return any(part.low >= 0 or part.high < math.inf for part in condition.parts)


def active(condition: Condition, sigma: float) -> Condition:
    """The condition without its parts that do not act at this noise level."""
    if all(part.low < sigma <= part.high for part in condition.parts):
        return condition
    return replace(
        condition,
        controls=tuple(c for c in condition.controls if c.low < sigma <= c.high),
        image_prompts=tuple(p for p in condition.image_prompts if p.low < sigma <= p.high),
        references=tuple(r for r in condition.references if r.low < sigma <= r.high),
    )


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
        controls=tuple(
            replace(c, image=change(c.image), seen=tuple(change(t) for t in c.seen))
            for c in condition.controls
        ),
        image_prompts=tuple(
            replace(p, tokens=change(p.tokens), mask=changed(p.mask))
            for p in condition.image_prompts
        ),
        references=tuple(
            replace(
                r,
                latents=change(r.latents),
                noise=change(r.noise),
                share=change(r.share),
                shown=changed(r.shown),
            )
            for r in condition.references
        ),
    )


def _joined_control(controls: Sequence[Control]) -> Control:
    return replace(
        controls[0],
        image=torch.cat([c.image for c in controls]),
        seen=tuple(torch.cat(parts) for parts in zip(*(c.seen for c in controls), strict=True)),
    )


def _joined_prompt(prompts: Sequence[ImagePrompt]) -> ImagePrompt:
    return replace(
        prompts[0],
        tokens=torch.cat([p.tokens for p in prompts]),
        mask=_cat([p.mask for p in prompts]),
    )


def _joined_reference(references: Sequence[ReferencePicture]) -> ReferencePicture:
    return replace(
        references[0],
        latents=torch.cat([r.latents for r in references]),
        noise=torch.cat([r.noise for r in references]),
        share=torch.cat([r.share for r in references]),
        shown=_cat([r.shown for r in references]),
    )


def _cat(tensors: Sequence[Tensor | None]) -> Tensor | None:
    present = [t for t in tensors if t is not None]
    return torch.cat(present) if present else None


def _signature(condition: Condition) -> tuple[object, ...]:
    shapes = tuple(
        None if (t := getattr(condition, name)) is None else t.shape[1:]
        for name in ("context", "vector", "concat", "level", "guidance")
    )
    controls = tuple(
        (settings(c), c.image.shape[1:], tuple(t.shape[1:] for t in c.seen))
        for c in condition.controls
    )
    prompts = tuple(
        (
            (p.adapter, p.scale, p.high, p.low),
            p.tokens.shape[1:],
            None if p.mask is None else p.mask.shape[1:],
        )
        for p in condition.image_prompts
    )
    references = tuple(
        (r.weight, r.high, r.low, r.latents.shape[1:], r.shown is None)
        for r in condition.references
    )
    return (*shapes, controls, prompts, references, condition.intervention)


def settings(control: Control) -> tuple[object, ...]:
    """Everything of a control but its picture."""
    c = control
    return (c.net, c.scale, c.weights, c.high, c.low, c.types)
