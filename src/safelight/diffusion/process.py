"""A family's noise process: what it predicts, its training noise levels, and the network's clock.

Everything is in the one coordinate x = latents + sigma * noise. Tables are float64, on the CPU.
T is the number of training levels.
"""

import math
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from safelight.diffusion.prediction import EDM, FLOW, Prediction
from safelight.errors import RequestError

# Stands for infinity: flow at t = 1 and zero terminal SNR. Diffusers' Euler caps at 4096 and
# A1111 at 4518.7; the difference is invisible once the signal is a thousandth of the noise.
SIGMA_CAP = 1e4

BetaSchedule = Literal["scaled_linear", "linear", "squaredcos_cap_v2", "cosine"]


class Clock(Protocol):
    """The two directions between a noise level and the time a network is told."""

    def time(self, sigma: Tensor) -> Tensor: ...

    def sigma(self, time: Tensor) -> Tensor: ...


@dataclass(frozen=True, eq=False)
class TableClock:
    """Time is the (fractional) position in a table of levels, interpolated in log sigma."""

    log_sigmas: Tensor  # (T,) ascending

    def time(self, sigma: Tensor) -> Tensor:
        table = self.log_sigmas
        log_sigma = sigma.log().clamp(table[0], table[-1])
        high = torch.searchsorted(table, log_sigma).clamp(1, len(table) - 1)
        low = high - 1
        return low + (log_sigma - table[low]) / (table[high] - table[low])

    def sigma(self, time: Tensor) -> Tensor:
        table = self.log_sigmas
        time = time.clamp(0, len(table) - 1)
        low = time.floor().long().clamp(max=len(table) - 2)
        return torch.lerp(table[low], table[low + 1], time - low).exp()


@dataclass(frozen=True)
class FlowClock:
    """Time is `scale` times the flow time t = sigma / (1 + sigma); levels from `cap` up are t = 1.

    A network tells t = 0.9999 from the 1 of its training: the fastest wave of its time embedding
    turns by a tenth of a radian in between.
    """

    scale: float = 1000.0
    cap: float = SIGMA_CAP

    def time(self, sigma: Tensor) -> Tensor:
        return self.scale * torch.where(sigma < self.cap, sigma / (1 + sigma), 1.0)

    def sigma(self, time: Tensor) -> Tensor:
        flow_time = time / self.scale
        return (flow_time / (1 - flow_time)).clamp(max=self.cap)


@dataclass(frozen=True)
class EdmClock:
    """Time is log(sigma) / 4 (Karras et al. 2022, table 1, c_noise)."""

    def time(self, sigma: Tensor) -> Tensor:
        return sigma.log() / 4

    def sigma(self, time: Tensor) -> Tensor:
        return (4 * time).exp()


@dataclass(frozen=True, eq=False)
class Process:
    """What a family predicts, the noise levels it was trained on, and its clock."""

    prediction: Prediction
    sigmas: Tensor  # (T,) ascending noise levels used in training, float64
    clock: Clock

    def time(self, sigma: Tensor) -> Tensor:
        """What the network is told at noise level sigma: fractional, of sigma's shape and type."""
        # In float64, which some devices lack; each move and each cast is one of its own for them.
        return self.clock.time(sigma.cpu().double()).to(sigma.dtype).to(sigma.device)

    def sigma_of(self, time: Tensor | float) -> Tensor:
        """The noise level at a network time; float64. The inverse of `time`."""
        return self.clock.sigma(torch.as_tensor(time, dtype=torch.float64, device="cpu"))

    def level(self, index: Tensor | float) -> Tensor:
        """The noise level at a fractional position of the training table; float64.

        Equal to `sigma_of` for processes whose time is that position.
        """
        table = TableClock(self.sigmas.log())
        return table.sigma(torch.as_tensor(index, dtype=torch.float64, device="cpu"))

    @property
    def sigma_min(self) -> float:
        return float(self.sigmas[0])

    @property
    def sigma_max(self) -> float:
        return float(self.sigmas[-1])


def ddpm(
    prediction: Prediction,
    *,
    beta_start: float = 0.00085,
    beta_end: float = 0.012,
    beta_schedule: BetaSchedule = "scaled_linear",
    steps: int = 1000,
    alphas_cumprod: Tensor | None = None,
    zero_terminal_snr: bool = False,
    sigma_cap: float = SIGMA_CAP,
) -> Process:
    """The discrete variance-preserving process of DDPM and Stable Diffusion.

    `alphas_cumprod` (T,), descending, replaces the betas. `zero_terminal_snr` shifts and scales
    its square root so that the last is 0 and the first unchanged (Lin et al. 2023,
    arXiv:2305.08891); the infinite level that results is set to `sigma_cap`.
    Raises RequestError for a prediction that is undefined where nothing but noise is, for an
    unknown `beta_schedule` and for an `alphas_cumprod` that is not a descending table in [0, 1].
    """
    if alphas_cumprod is None:
        alphas_cumprod = (1 - betas(beta_schedule, beta_start, beta_end, steps)).cumprod(0)
    alphas_cumprod = _checked(alphas_cumprod)
    if zero_terminal_snr:
        alphas_cumprod = _zero_terminal_snr(alphas_cumprod)
    if alphas_cumprod[-1] == 0 and prediction.name == "eps":
        raise RequestError(
            "zero terminal SNR cannot be used with eps prediction: at the last level the noise "
            "says nothing about the picture; use v or x0."
        )
    sigmas = ((1 - alphas_cumprod) / alphas_cumprod).sqrt().clamp(max=sigma_cap)
    return Process(prediction, sigmas, TableClock(sigmas.log()))


def flow(shift: float = 1.0, steps: int = 1000, *, sigma_cap: float = SIGMA_CAP) -> Process:
    """The rectified flow of SD3: x_t = (1 - t) latents + t noise, seen as sigma = t / (1 - t).

    Training levels are t = 1/steps, ..., 1 after the shift t -> shift t / (1 + (shift - 1) t),
    which in sigma is a plain factor; the infinite one at t = 1 is `sigma_cap`. Esser et al. 2024
    (arXiv:2403.03206), eq. 23. Raises RequestError unless shift > 0.
    """
    if not shift > 0:
        raise RequestError(f"the flow shift must be greater than 0; got {shift}.")
    t = torch.arange(1, steps + 1, dtype=torch.float64) / steps
    return Process(FLOW, (shift * t / (1 - t)).clamp(max=sigma_cap), FlowClock(cap=sigma_cap))


def edm(
    prediction: Prediction = EDM,
    *,
    sigma_min: float = 0.002,
    sigma_max: float = 80.0,
    steps: int = 1000,
) -> Process:
    """The continuous process of Karras et al. 2022; levels are spaced evenly in log sigma.

    Playground v2.5 is `edm(EDM)`, CosXL is `edm(V, sigma_max=120.0)`.
    Raises RequestError unless 0 < sigma_min < sigma_max.
    """
    if not 0 < sigma_min < sigma_max < math.inf:
        raise RequestError(f"expected 0 < sigma_min < sigma_max; got {sigma_min} and {sigma_max}.")
    low, high = math.log(sigma_min), math.log(sigma_max)
    return Process(
        prediction, torch.linspace(low, high, steps, dtype=torch.float64).exp(), EdmClock()
    )


def betas(schedule: BetaSchedule, start: float, end: float, steps: int) -> Tensor:
    """The (steps,) float64 noise increments of DDPM, by Diffusers' names.

    `scaled_linear` (even in the square root) is what CompVis' configs call "linear".
    """
    if schedule == "scaled_linear":
        return torch.linspace(start**0.5, end**0.5, steps, dtype=torch.float64) ** 2
    if schedule == "linear":
        return torch.linspace(start, end, steps, dtype=torch.float64)
    if schedule in ("squaredcos_cap_v2", "cosine"):
        # Nichol and Dhariwal 2021 (arXiv:2102.09672), eq. 17; capped as there.
        t = torch.arange(steps + 1, dtype=torch.float64) / steps
        kept = ((t + 0.008) / 1.008 * (math.pi / 2)).cos() ** 2
        return (1 - kept[1:] / kept[:-1]).clamp(max=0.999)
    raise RequestError(
        f"unknown beta schedule {schedule!r}; choose scaled_linear, linear or squaredcos_cap_v2."
    )


Start = Literal["sigma", "unit"]


def start(noise: Tensor, sigmas: Tensor, prediction: Prediction, rule: Start = "sigma") -> Tensor:
    """The first x at full strength, from noise (B, C, h, w) of unit variance.

    "sigma": noise * sigmas[0]: k-diffusion, A1111's k-samplers, ComfyUI below its maximum level,
    and Diffusers' Euler with linspace or trailing spacing.
    "unit": noise / c_in, so that the network first sees unit variance: Diffusers' DDIM, PNDM,
    DPM++ and UniPC, its Euler with leading spacing, A1111's DDIM and PLMS; exact for flow.
    For partial strength start at latents + sigmas[0] * noise.
    """
    first = sigmas[0]
    if rule == "sigma":
        return noise * float(first)
    if rule == "unit":
        return noise / prediction.scalings(first).c_in.item()
    raise RequestError(f"unknown start rule {rule!r}; choose sigma or unit.")


def _checked(alphas_cumprod: Tensor) -> Tensor:
    table = alphas_cumprod.detach().to("cpu", torch.float64)
    if table.ndim != 1 or len(table) < 2:
        raise RequestError(f"alphas_cumprod must be a list of 2 or more; got {tuple(table.shape)}.")
    if not (table.diff() < 0).all() or not 0 <= table[-1] < table[0] < 1:
        raise RequestError("alphas_cumprod must fall from below 1 to 0 or above, without repeats.")
    return table


def _zero_terminal_snr(alphas_cumprod: Tensor) -> Tensor:
    signal = alphas_cumprod.sqrt()
    first, last = signal[0], signal[-1]
    rescaled = ((signal - last) * (first / (first - last))) ** 2
    # the formula's first value, but for rounding
    rescaled[0] = alphas_cumprod[0]
    return rescaled
