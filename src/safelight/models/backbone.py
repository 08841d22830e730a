"""The U-Net as a `Network`: a condition becomes the tensors that the U-Net takes.

Shapes: B batch, C latent channels, K extra channels, h w latent height and width, N tokens of the
middle.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TypeVar

import torch
from torch import Tensor

from safelight.condition import Condition, expand
from safelight.errors import RequestError
from safelight.models import lanes
from safelight.models.attention import Attention, ImageTokens, Nudge, Observer, Reference
from safelight.models.control_networks import (
    ControlNetwork,
    check_control,
    look,
    summed,
    weighted,
)
from safelight.models.deep_features import Kept, most_blocks, with_deep
from safelight.models.reference_only import seen_by_attention
from safelight.models.runner import Runner, check_extras, extras_asked
from safelight.models.token_merging import Merging
from safelight.models.unet import Residuals, UNet, UNetConfig, covers
from safelight.models.unet_blocks import NO_REFERENCES

T = TypeVar("T")

NO_CONTROLS: Mapping[str, ControlNetwork] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Backbone:
    """Latents, time and condition -> the U-Net's prediction, in float32 whatever its own type.

    The extra channels of the condition follow the latents: for inpainting latents 4, mask 1, masked
    picture 4. A condition for one picture serves all of a batch.
    control_networks: those that the condition's controls name. Attach them by `replace`; each is
        asked only for conditions with a control of its name, whose scale is not 0.
    observer: told what attention looks at in each call, but for those with perturbed attention.
    nudges: added to the inputs of attention's projections in every call, besides what controls add.
    runner: an engine's, asked in place of `unet`; attach it by `replace`.
    Raises RequestError if the condition was made for another network.
    """

    unet: UNet
    checkpointing: bool = False  # training: recompute activations in the backward pass
    control_networks: Mapping[str, ControlNetwork] = field(default_factory=lambda: NO_CONTROLS)
    observer: Observer | None = None
    nudges: tuple[Nudge, ...] = ()
    runner: Runner | None = None

    def __call__(self, x: Tensor, time: Tensor, condition: Condition) -> Tensor:
        """x (B, C, h, w), time (B,) or one for all -> (B, C, h, w)."""
        return self._ask(self.runner or self._modules, x, time, condition).float()

    def with_attention(
        self, x: Tensor, time: Tensor, condition: Condition
    ) -> tuple[Tensor, Tensor]:
        """The prediction, and the map (B, heads, N, N) of the middle's first self-attention.

        For self-attention guidance (Hong et al. 2023, arXiv:2210.00939). The N tokens are rows of
        the latent, h and w each halved and rounded up once for every level but the first.
        """
        if not self.unet.config.mid_depth:
            raise RequestError(
                "self-attention guidance needs attention in the middle of the U-Net, which this "
                "one was built without; choose another guidance or model"
            )
        if self.runner is not None:
            check_extras(self.runner.name, self.runner.extras, ["self-attention guidance"])
        output, weights = self._ask(self.unet.with_attention, x, time, condition)
        return output.float(), weights

    def with_deep(
        self, x: Tensor, time: Tensor, condition: Condition, *, blocks: int, kept: Kept | None
    ) -> tuple[Tensor, Kept]:
        """The prediction, and what of it may be kept for another call (DeepCache).

        With what was kept of an earlier call for as many pictures under conditions of the same
        kind, only the outermost `blocks` residual blocks are run (`models.deep_features`), and no
        control network is asked.
        """
        if self.runner is not None:
            check_extras(self.runner.name, self.runner.extras, ["deep features kept over steps"])
        if condition.references:
            raise RequestError(
                "reference-only control asks the whole network in each step, so no deep features "
                "can be kept; leave one of them out"
            )
        if not 1 <= blocks <= most_blocks(self.unet):
            raise RequestError(
                f"1 to {most_blocks(self.unet)} of this U-Net's outermost blocks can run alone; "
                f"got {blocks}"
            )
        residuals: list[Residuals | None] = []

        def network(x: Tensor, *given: Tensor, **told: object) -> tuple[Tensor, Tensor]:
            residuals.append(told["residuals"])  # type: ignore[arg-type]
            deep = None if kept is None else kept.features.to(x.dtype)
            return with_deep(self.unet, x, *given, blocks=blocks, deep=deep, **told)  # type: ignore[arg-type]

        output, features = self._ask(network, x, time, condition, kept)
        return output.float(), kept or Kept.of(features, residuals[0], blocks)

    def prepared(self, condition: Condition) -> Condition:
        """The condition with its control pictures looked at: the same answer, sooner each time.

        What a control network makes of a picture does not depend on the latents, so it need be
        computed only once for all steps.
        """
        return replace(
            condition,
            controls=tuple(
                replace(c, seen=look(self._network(c.net), c.image, c.types))
                for c in condition.controls
            ),
        )

    def _network(self, name: str) -> ControlNetwork:
        if name not in self.control_networks:
            raise RequestError(
                f"no control network called {name!r} is attached to this model "
                f"(attached: {', '.join(sorted(self.control_networks)) or 'none'}); attach it first"
            )
        network = self.control_networks[name]
        network.check_fits(self.unet.config)
        return network

    def _residuals(
        self, x: Tensor, time: Tensor, condition: Condition, checkpointing: bool
    ) -> Residuals | None:
        """The sum of what the controls add; None without any that counts. `x` are the latents."""
        made = []
        for control in condition.controls:
            network = self._network(control.net)
            check_control(network, control.image, control.types, (x.shape[2], x.shape[3]))
            if control.idle:
                continue
            residuals = network(
                x,
                time,
                condition.context,
                condition.vector,
                seen=control.seen or look(network, control.image, control.types),
                types=control.types,
                concat=condition.concat,
                level=condition.level,
                checkpointing=checkpointing,
            )
            made.append(weighted(residuals, control.scale, control.weights, control.net))
        return summed(made, self.unet.dtype)

    def _ask(
        self,
        network: Callable[..., T],
        x: Tensor,
        time: Tensor,
        condition: Condition,
        kept: Kept | None = None,
    ) -> T:
        condition = expand(condition, x.shape[0])
        check(self.unet, x, condition)
        if kept is not None:
            residuals = kept.residuals
        else:
            residuals = self._residuals(x, time, condition, self.checkpointing)
            if self.nudges:
                residuals = residuals or Residuals()
                residuals = residuals._replace(nudges=(*self.nudges, *residuals.nudges))
        dtype = self.unet.dtype
        if condition.concat is not None:
            x = torch.cat([x, condition.concat.to(x.dtype)], dim=1)
        vector = None if condition.vector is None else condition.vector.to(dtype)
        references: Mapping[str, Reference] = NO_REFERENCES
        if condition.references:
            references = seen_by_attention(self.unet, time, condition, vector)
        told: dict[str, object] = {
            "level": condition.level,
            "guidance_scale": condition.guidance,
            "images": tuple(
                ImageTokens(p.adapter, p.tokens.to(dtype), p.scale, p.mask)
                for p in condition.image_prompts
            ),
            "residuals": residuals,
            "identity_attention": condition.intervention.identity_attention,
            "freeu": condition.intervention.freeu,
            "checkpointing": self.checkpointing,
            "observer": None if condition.intervention.identity_attention else self.observer,
            "references": references,
        }
        if condition.intervention.merged:
            told["merging"] = self._merging(condition, residuals)
        if self.runner is not None:
            check_extras(self.runner.name, self.runner.extras, list(extras_asked(told)))
        return network(x.to(dtype), time, condition.context.to(dtype), vector, **told)

    def _modules(self, x: Tensor, *given: Tensor | None, **told: object) -> Tensor:
        """The U-Net's own answer, in halves beside each other where that is sooner."""
        if lanes.serve(self.unet, x, told):
            return lanes.called(self.unet, x, *given)
        return self.unet(x, *given, **told)

    def _merging(self, condition: Condition, residuals: Residuals | None) -> Merging:
        """How tokens are merged. Raises RequestError beside what needs all of them."""
        if self.observer is not None:
            raise RequestError(
                "word maps need all tokens of the picture, which token merging leaves out; leave "
                "one of them out"
            )
        if residuals is not None and residuals.nudges:
            raise RequestError(
                "hypernetworks and LLLite add to each token, and token merging leaves some out; "
                "leave one of them out"
            )
        asked = condition.intervention
        if "cross" in asked.merged_parts and any(
            p.mask is not None for p in condition.image_prompts
        ):
            raise RequestError(
                "image prompts with a mask need all tokens of the picture; merge tokens for "
                "self-attention alone, or leave the mask out"
            )
        return Merging(asked.merged, asked.merged_levels, asked.merged_parts)


def check(unet: UNet, x: Tensor, condition: Condition) -> None:
    """Raise RequestError, with both numbers, if these are not what the U-Net takes."""
    config = unet.config
    _check_channels(config, x, condition)
    _check_widths(config, condition)
    for name in condition.intervention.identity_attention:
        if not any(covers(name, module) for module in unet.self_attentions()):
            raise RequestError(
                f"no self-attention of this U-Net is called {name!r}; "
                f"choose from {', '.join(unet.self_attentions()) or 'none: it has no attention'}"
            )
    if condition.image_prompts:
        _check_adapters(unet, condition)


def _check_channels(config: UNetConfig, x: Tensor, condition: Condition) -> None:
    concat = condition.concat
    extra = 0 if concat is None else concat.shape[1]
    if x.shape[1] + extra != config.in_channels:
        raise RequestError(
            f"this U-Net takes {config.in_channels} channels; got {x.shape[1]} of latents and "
            f"{extra} of extra condition (mask, masked picture, depth, ...)"
        )
    if concat is not None and concat.shape[2:] != x.shape[2:]:
        raise RequestError(
            f"the extra condition is {_size(concat)} and the latents are {_size(x)}; "
            "resize the condition to the latents"
        )


def _check_widths(config: UNetConfig, condition: Condition) -> None:
    if condition.context.shape[-1] != config.context_width:
        raise RequestError(
            f"this U-Net takes text tokens of width {config.context_width}; "
            f"got {condition.context.shape[-1]}, from the text encoder of another family"
        )
    vector = None if condition.vector is None else condition.vector.shape[-1]
    if vector != config.vector_width:
        raise RequestError(
            f"this U-Net takes a vector (pooled text and sizes) of width {config.vector_width}; "
            f"got {vector}, made for another family"
        )
    if config.noise_levels is None and condition.level is not None:
        raise RequestError("a noise level was given, but this U-Net takes none; leave it out")
    if config.noise_levels is not None and condition.level is None:
        raise RequestError(
            f"this U-Net must be told the picture's noise level, 0 to {config.noise_levels - 1}"
        )


def _check_adapters(unet: UNet, condition: Condition) -> None:
    attached = {
        name
        for module in unet.modules()
        if isinstance(module, Attention)
        for name in module.branches
    }
    for prompt in condition.image_prompts:
        if prompt.adapter not in attached:
            raise RequestError(
                f"no image-prompt adapter called {prompt.adapter!r} is attached to this model "
                f"(attached: {', '.join(sorted(attached)) or 'none'}); attach it first"
            )


def _size(x: Tensor) -> str:
    return f"{x.shape[-1]}x{x.shape[-2]}"
