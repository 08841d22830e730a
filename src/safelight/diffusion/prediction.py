"""What a network predicts, in the one coordinate x = latents + sigma * noise.

A prediction is three scalings and a target (Karras et al. 2022, arXiv:2206.00364, eq. 7):

    denoised = c_skip * x + c_out * network(c_in * x)
    target   = (latents - c_skip * x) / c_out

The closed forms below equal these; the quotient itself loses digits at small sigma.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from safelight.errors import RequestError


class Scalings(NamedTuple):
    """The three factors that turn a network into a denoiser, each of the shape of sigma."""

    c_skip: Tensor
    c_out: Tensor
    c_in: Tensor


class Prediction(Protocol):
    """How a network's output becomes an estimate of the clean latents."""

    @property
    def name(self) -> str: ...

    def scalings(self, sigma: Tensor) -> Scalings: ...

    def target(self, latents: Tensor, noise: Tensor, sigma: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class EpsPrediction:
    """The noise itself (Ho et al. 2020, arXiv:2006.11239); undefined where nothing but noise is."""

    name: str = "eps"

    def scalings(self, sigma: Tensor) -> Scalings:
        return Scalings(torch.ones_like(sigma), -sigma, _rsqrt1p(sigma))

    def target(self, latents: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
        return noise


@dataclass(frozen=True)
class VPrediction:
    """Velocity of the variance-preserving process (Salimans and Ho 2022, arXiv:2202.00512)."""

    name: str = "v"

    def scalings(self, sigma: Tensor) -> Scalings:
        c_in = _rsqrt1p(sigma)
        return Scalings(c_in * c_in, -sigma * c_in, c_in)

    def target(self, latents: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
        return (noise - sigma * latents) * _rsqrt1p(sigma)


@dataclass(frozen=True)
class X0Prediction:
    """The clean latents themselves; Diffusers calls it `sample`."""

    name: str = "x0"

    def scalings(self, sigma: Tensor) -> Scalings:
        return Scalings(torch.zeros_like(sigma), torch.ones_like(sigma), _rsqrt1p(sigma))

    def target(self, latents: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
        return latents


@dataclass(frozen=True)
class FlowPrediction:
    """Velocity of the straight path (1 - t) latents + t noise, t = sigma / (1 + sigma).

    Liu et al. 2022 (arXiv:2209.03003); Esser et al. 2024 (arXiv:2403.03206).
    """

    name: str = "flow"

    def scalings(self, sigma: Tensor) -> Scalings:
        c_in = 1 / (1 + sigma)
        return Scalings(c_in, -sigma * c_in, c_in)

    def target(self, latents: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
        return noise - latents


@dataclass(frozen=True)
class EdmPrediction:
    """Karras et al. 2022, table 1: unit-variance inputs and targets for data of std `sigma_data`.

    0.5 is the paper's and Playground v2.5's; 1.0 is for latents scaled to unit variance, where
    the output is v with its sign turned.
    """

    sigma_data: float = 0.5
    name: str = "edm"

    def scalings(self, sigma: Tensor) -> Scalings:
        c_in = (sigma * sigma + self.sigma_data**2).rsqrt()
        return Scalings((self.sigma_data * c_in) ** 2, sigma * self.sigma_data * c_in, c_in)

    def target(self, latents: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
        c_in = (sigma * sigma + self.sigma_data**2).rsqrt()
        return (sigma * latents / self.sigma_data - self.sigma_data * noise) * c_in


EPS = EpsPrediction()
V = VPrediction()
X0 = X0Prediction()
FLOW = FlowPrediction()
EDM = EdmPrediction()
EDM_LATENT = EdmPrediction(sigma_data=1.0, name="edm_latent")

PREDICTIONS: Mapping[str, Prediction] = MappingProxyType(
    {p.name: p for p in (EPS, V, X0, FLOW, EDM, EDM_LATENT)}
)

# what Diffusers, CompVis and ComfyUI call them
_ALIASES = {
    "epsilon": "eps",
    "v_prediction": "v",
    "v_pred": "v",
    "velocity": "v",
    "sample": "x0",
    "flow_prediction": "flow",
    "const": "flow",
}


def resolve_prediction(name: str) -> Prediction:
    """The prediction of that name; Diffusers' and ComfyUI's names are accepted too.

    Raises RequestError for a name that is none of these.
    """
    key = name.strip().lower().replace("-", "_")
    prediction = PREDICTIONS.get(_ALIASES.get(key, key))
    if prediction is None:
        raise RequestError(f"unknown prediction {name!r}; choose one of {', '.join(PREDICTIONS)}.")
    return prediction


def _rsqrt1p(sigma: Tensor) -> Tensor:
    return (1 + sigma * sigma).rsqrt()
