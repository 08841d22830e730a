"""Who leads, the prompt or the control, and in which part of the steps.

A mode comes to factors for each residual, and to whether the negative condition has the control:

- balanced: the control acts fully, on the positive and the negative condition.
- prompt: A1111's "My prompt is more important": fine detail counts less and less.
- control: A1111's "ControlNet is more important": the same, and none of it on the negative, so that
  guidance strengthens the control, too.
- guess: Diffusers' `guess_mode`: a gentler slope, and none of it on the negative.

Sources: lllyasviel/ControlNet (`gradio_*.py`), Mikubill/sd-webui-controlnet (`scripts/hook.py`),
diffusers (`ControlNetModel.forward`).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from safelight.models.control_networks import ControlNetwork
from safelight.models.controlnet import ControlNet
from safelight.models.t2i_adapter import T2IAdapter

ControlMode = Literal["balanced", "prompt", "control", "guess"]
RangeRule = Literal["diffusers", "a1111"]
CONTROL_MODES: tuple[ControlMode, ...] = ("balanced", "prompt", "control", "guess")

_SOFTER = 0.825
_HIGHEST = 12  # the middle of SD 1.x, which has full weight
_SOFT_ADAPTER = (0.25, 0.62, 0.825, 1.0)


@dataclass(frozen=True, slots=True)
class Steering:
    """What a mode comes to for one network: `Control.weights`, and whether the negative has it."""

    weights: tuple[float, ...] | None
    on_negative: bool


def steering(mode: ControlMode, network: ControlNetwork) -> Steering:
    """The weights of a mode for this network, and whether the negative condition gets the control.

    A network whose residuals are averaged over the picture (shuffle) never acts on the negative,
    and is not graded in guess mode, as in Diffusers. One without residuals (LLLite) is not graded.
    """
    graded = network.residuals > 0
    averaged = isinstance(network, ControlNet) and network.control.global_pool
    soft = (
        soft_adapter_weights(network.residuals)
        if isinstance(network, T2IAdapter)
        else soft_weights(network.residuals)
    )
    weights = {
        "balanced": None,
        "prompt": soft,
        "control": soft,
        "guess": None if averaged else guess_weights(network.residuals),
    }
    return Steering(
        weights[mode] if graded else None, mode in ("balanced", "prompt") and not averaged
    )


def soft_weights(residuals: int) -> tuple[float, ...]:
    """0.825 ** (12 - i) for residual i, as A1111; so XL's middle, the tenth, has 0.825 ** 3."""
    highest = max(_HIGHEST, residuals - 1)
    return tuple(_SOFTER ** (highest - i) for i in range(residuals))


def soft_adapter_weights(residuals: int) -> tuple[float, ...]:
    """A1111's soft weights of a T2I-Adapter: 0.25, 0.62, 0.825 and 1, finest feature first."""
    if residuals == len(_SOFT_ADAPTER):
        return _SOFT_ADAPTER
    return tuple(_SOFTER ** (residuals - 1 - i) for i in range(residuals))


def guess_weights(residuals: int) -> tuple[float, ...]:
    """From 0.1 to 1 in equal ratios, as Diffusers' guess mode."""
    if residuals < 2:
        return (1.0,) * residuals
    return tuple(10.0 ** (i / (residuals - 1) - 1) for i in range(residuals))


def sigma_range(
    sigmas: Sequence[float], start: float, end: float, rule: RangeRule = "diffusers"
) -> tuple[float, float]:
    """(high, low) of a control that acts in a share of the steps, from `start` to `end` in [0, 1].

    sigmas: N + 1 levels, descending. Step i of N acts, as in Diffusers, if i / N >= start and
    (i + 1) / N <= end; as in A1111, if start <= i / N <= end. A step's calls between its level and
    the next belong to it. If none acts, no sigma lies in the range.
    """
    steps = len(sigmas) - 1
    acting = [
        i
        for i in range(steps)
        if i / steps >= start and (i + (rule == "diffusers")) / steps <= end + 1e-9
    ]
    if not acting:
        return -1.0, -1.0
    first, last = acting[0], acting[-1]
    # A hair above the levels, as a sampler may give them in another type.
    high = math.inf if first == 0 else sigmas[first] * (1 + 1e-6)
    low = -1.0 if last == steps - 1 else sigmas[last + 1] * (1 + 1e-6)
    return high, low
