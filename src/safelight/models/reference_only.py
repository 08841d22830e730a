"""Reference-only control: what the network's self-attention sees of another picture.

A1111's `reference_only` (Mikubill/sd-webui-controlnet, `scripts/hook.py`): the network is asked for
the reference at the drawing's noise level under the same condition, and the tokens of its
self-attentions join those of the drawing. No weights are needed.

Shapes: B batch, C latent channels, h w latent height and width, R tokens of the reference.
"""

from collections.abc import Collection

import torch
from torch import Tensor

from safelight.condition import Condition, ReferencePicture
from safelight.errors import RequestError
from safelight.models.attention import Look, Reference
from safelight.models.unet import UNet


class TokenRecorder:
    """An observer that keeps the tokens of some self-attentions."""

    def __init__(self, modules: Collection[str]) -> None:
        self._modules = frozenset(modules)
        self.tokens: dict[str, Tensor] = {}  # (B, R, width)

    def wants(self, module: str, cross: bool) -> bool:
        """Whether it keeps this one."""
        return not cross and module in self._modules

    def saw(self, look: Look) -> None:
        """Keep the tokens of one self-attention."""
        self.tokens[look.module] = look.source


def seen_by_attention(
    unet: UNet, time: Tensor, condition: Condition, vector: Tensor | None
) -> dict[str, Reference]:
    """What each self-attention of the U-Net looks at of the condition's references.

    Costs one call of the U-Net for each reference. Of several, a self-attention looks at all, and
    their shares are averaged. Raises RequestError for one of another size than the drawing's.
    """
    found: dict[str, list[tuple[Tensor, Tensor]]] = {}
    for reference in condition.references:
        recorder = TokenRecorder(chosen_attentions(unet, reference.weight))
        unet(
            _channels(unet, reference, condition).to(unet.dtype),
            time,
            condition.context.to(unet.dtype),
            vector,
            level=condition.level,
            guidance_scale=condition.guidance,
            observer=recorder,
        )
        for module, tokens in recorder.tokens.items():
            found.setdefault(module, []).append((tokens, reference.share))
    return {
        module: Reference(
            torch.cat([tokens for tokens, _ in seen], 1),
            torch.stack([share for _, share in seen]).mean(0),
        )
        for module, seen in found.items()
    }


def chosen_attentions(unet: UNet, weight: float) -> tuple[str, ...]:
    """Names of the self-attentions that look at a reference of this weight, widest first.

    As in A1111, the i-th of n takes part if weight > i / n.
    """
    attentions = [
        (name, block.norm1.normalized_shape[0])
        for transformer in unet.self_attentions()
        for name, block in (
            (f"{transformer}.transformer_blocks.{i}.attn1", block)
            for i, block in enumerate(unet.get_submodule(transformer).transformer_blocks)  # type: ignore[arg-type]
        )
    ]
    widest = sorted(attentions, key=lambda named: -named[1])
    count = len(widest)
    return tuple(name for i, (name, _) in enumerate(widest) if weight > i / count)


def _channels(unet: UNet, reference: ReferencePicture, condition: Condition) -> Tensor:
    """The reference as the U-Net takes it: for inpainting nothing of it is masked."""
    shown = reference.shown
    assert shown is not None, "the denoiser puts the noised picture there"
    concat = condition.concat
    if concat is None:
        return shown
    if concat.shape[2:] != shown.shape[2:]:
        raise RequestError(
            f"the reference is {shown.shape[3]}x{shown.shape[2]} latents, and the drawing "
            f"{concat.shape[3]}x{concat.shape[2]}; give it the size of the drawing"
        )
    if concat.shape[1] == shown.shape[1] + 1:
        concat = torch.cat([torch.zeros_like(shown[:, :1]), reference.latents.to(shown)], 1)
    return torch.cat([shown, concat.to(shown)], 1)
