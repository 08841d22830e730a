"""How much each noise level counts in a loss: weights by sigma, all in one space.

Papers weigh the error of whatever they predict, and a weight carried over to another prediction is
another weight. Here each weight is that of the squared error of the clean latents, and `on` turns
it into the weight of a network's own output: an error e there is c_out * e in the latents. So a
weight trains the same denoiser whatever the prediction. SNR = 1 / sigma². Levels are best float64.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, Protocol, get_args

import torch
from torch import Tensor

from safelight.diffusion.named import named
from safelight.diffusion.prediction import EPS, FLOW, X0, Prediction, V
from safelight.errors import RequestError

Space = Literal["prediction", "x0", "eps", "v", "flow"]
_SPACES: Mapping[str, Prediction] = MappingProxyType({"x0": X0, "eps": EPS, "v": V, "flow": FLOW})


class Weight(Protocol):
    """A weight by noise level, of the shape and type of sigma."""

    def on(self, prediction: Prediction, sigma: Tensor) -> Tensor:
        """The weight of the squared error of a network that makes this prediction."""
        ...


@dataclass(frozen=True)
class Constant:
    """The same for all levels, in the space of the network's own prediction or in a named one.

    "eps" on a v network is what kohya's trainer calls scaling the v loss like noise prediction.
    """

    space: Space = "prediction"

    def __post_init__(self) -> None:
        if self.space not in get_args(Space):
            raise RequestError(
                f"space of a constant weight must be one of {', '.join(get_args(Space))}; "
                f"got {self.space!r}."
            )

    def on(self, prediction: Prediction, sigma: Tensor) -> Tensor:
        if self.space == "prediction" or self.space == prediction.name:
            return torch.ones_like(sigma)
        ratio = prediction.scalings(sigma).c_out / _SPACES[self.space].scalings(sigma).c_out
        return ratio * ratio


class _OfLatents(Protocol):
    """A weight that is given as that of the clean latents' error."""

    def x0(self, sigma: Tensor) -> Tensor: ...

    def on(self, prediction: Prediction, sigma: Tensor) -> Tensor:
        return self.x0(sigma) * prediction.scalings(sigma).c_out ** 2


@dataclass(frozen=True)
class MinSnr(_OfLatents):
    """min(SNR, gamma): Hang et al. 2023 (arXiv:2303.09556), eq. 8.

    On v that is min(SNR, gamma) / (SNR + 1), which is 0 at zero terminal SNR.
    """

    gamma: float = 5.0

    def __post_init__(self) -> None:
        _positive("gamma", self.gamma)

    def x0(self, sigma: Tensor) -> Tensor:
        return (sigma**-2).clamp(max=self.gamma)


@dataclass(frozen=True)
class SoftMinSnr(_OfLatents):
    """1 / (1 / SNR + 1 / gamma), min-SNR without the corner.

    Crowson et al. 2024 (arXiv:2401.11605), section 3.3; k-diffusion's weight is the same with
    gamma = 1 / (data std)².
    """

    gamma: float = 4.0

    def __post_init__(self) -> None:
        _positive("gamma", self.gamma)

    def x0(self, sigma: Tensor) -> Tensor:
        return 1 / (sigma**2 + 1 / self.gamma)


@dataclass(frozen=True)
class P2(_OfLatents):
    """1 / (k + SNR)^gamma on the noise's error, for the levels where content is made.

    Choi et al. 2022 (arXiv:2204.00227), eq. 8.
    """

    gamma: float = 1.0
    k: float = 1.0

    def __post_init__(self) -> None:
        _positive("k", self.k)

    def x0(self, sigma: Tensor) -> Tensor:
        snr = sigma**-2
        return snr * (self.k + snr) ** -self.gamma


@dataclass(frozen=True)
class Debiased(_OfLatents):
    """1 / sqrt(SNR) on the noise's error, with the SNR cut at `most`: Yu et al. 2023.

    arXiv:2310.08442, eq. 12; cut at 1000 as in kohya's trainer.
    """

    most: float = 1000.0

    def __post_init__(self) -> None:
        _positive("most", self.most)

    def x0(self, sigma: Tensor) -> Tensor:
        snr = sigma**-2
        return snr / snr.clamp(max=self.most).sqrt()


@dataclass(frozen=True)
class EdmWeight(_OfLatents):
    """(sigma² + s²) / (sigma s)² for data of deviation s: Karras et al. 2022, table 1.

    It is constant on the output of an `edm` network of the same s, and at s = 1 on v.
    """

    sigma_data: float = 0.5

    def __post_init__(self) -> None:
        _positive("sigma_data", self.sigma_data)

    def x0(self, sigma: Tensor) -> Tensor:
        return sigma**-2 + self.sigma_data**-2


@dataclass(frozen=True)
class SigmaSqrt(_OfLatents):
    """t^-2 on the flow's error, t = sigma / (1 + sigma): Diffusers' `sigma_sqrt`."""

    def x0(self, sigma: Tensor) -> Tensor:
        return ((1 + sigma) / sigma) ** 4


@dataclass(frozen=True)
class CosMapWeight(_OfLatents):
    """2 / (pi (1 - 2 t + 2 t²)) on the flow's error: Diffusers' `cosmap`.

    Esser et al. 2024 (arXiv:2403.03206), eq. 21, as a weight instead of a law.
    """

    def x0(self, sigma: Tensor) -> Tensor:
        # With t = sigma / (1 + sigma), 1 - 2 t + 2 t² is (1 + sigma²) / (1 + sigma)².
        return (2 / math.pi) * (1 + sigma) ** 4 / ((1 + sigma**2) * sigma**2)


WEIGHTS: Mapping[str, Callable[..., Weight]] = MappingProxyType(
    {
        "constant": Constant,
        "min_snr": MinSnr,
        "soft_min_snr": SoftMinSnr,
        "p2": P2,
        "debiased": Debiased,
        "edm": EdmWeight,
        "sigma_sqrt": SigmaSqrt,
        "cosmap": CosMapWeight,
    }
)


def resolve_weight(name: str, **options: object) -> Weight:
    """The weight of that name with its numbers. Raises RequestError that lists what there is."""
    return named("weight", WEIGHTS, name, options)


def _positive(name: str, value: float) -> None:
    if not 0 < value < math.inf:
        raise RequestError(f"{name} of a loss weight must be greater than 0; got {value}.")
