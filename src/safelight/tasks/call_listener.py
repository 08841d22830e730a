"""Observers that are told what the sampler asked, what it was answered, and what guidance weighed.

Nothing that they are told is changed by it: the tensors go on as they came.

Shapes: B pictures, C latent channels, h w latent height and width.
"""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from torch import Tensor

from safelight.condition import Condition
from safelight.diffusion.denoiser import Denoise, Denoiser
from safelight.diffusion.guidance.classifier_free import Evaluate, evaluated
from safelight.model import Model
from safelight.models.attention import Observer
from safelight.tasks.reusing import Evaluations, Pair


@runtime_checkable
class CallListener(Observer, Protocol):
    """An observer of a model's network (`Backbone.observer`) that is told what is asked of it."""

    def weighed(self, positive: Tensor, negative: Tensor) -> None:
        """Two estimates (B, C, h, w) between which guidance weighs, before `called`."""
        ...

    def called(self, x: Tensor, sigma: Tensor, denoised: Tensor) -> None:
        """The sampler asked at x (B, C, h, w) and sigma () and was answered `denoised`."""
        ...


def heard(model: Model, denoise: Denoise) -> Denoise:
    """The denoiser, of whose calls the model's observer is told if it listens to calls."""
    listener = model.network.observer
    if not isinstance(listener, CallListener):
        return denoise

    def told(x: Tensor, sigma: Tensor) -> Tensor:
        denoised = denoise(x, sigma)
        listener.called(x, sigma, denoised)
        return denoised

    return told


def overheard(model: Model, evaluating: Evaluations | None) -> Evaluations | None:
    """What evaluates the conditions, telling the model's observer of each pair if it listens."""
    listener = model.network.observer
    if not isinstance(listener, CallListener):
        return evaluating

    def made(pair: Pair | None, scale: float) -> Evaluate:
        ask: Evaluate = evaluated if evaluating is None else evaluating(pair, scale)

        def evaluate(
            denoiser: Denoiser,
            conditions: Sequence[Condition],
            x: Tensor,
            sigma: Tensor,
            *,
            apart: bool = False,
        ) -> list[Tensor]:
            estimates = ask(denoiser, conditions, x, sigma, apart=apart)
            if pair is not None:
                negative, positive = (estimates[number] for number in pair)
                listener.weighed(positive, negative)
            return estimates

        return evaluate

    return made
