"""At which noise levels a sampler stops: spacings of the way from the most noise to none.

Every spacing takes a process and a number of steps n and gives (n + 1,) float64 levels, descending,
the last 0. T is the number of training levels; a position is a (fractional) index into them, which
for the Stable Diffusion families is the timestep. All raise RequestError if n < 1, and those that
pick from the T training levels if n is too large for them.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from types import MappingProxyType
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from safelight.diffusion.beta_distribution import beta_quantile
from safelight.diffusion.process import Process
from safelight.errors import RequestError
from safelight.printable import shown

# --- spaced over the training positions -------------------------------------------------------


def normal(process: Process, steps: int) -> Tensor:
    """Positions evenly spaced from T - 1 to 0, both included: k-diffusion's `get_sigmas`.

    A1111 calls it Uniform, ComfyUI normal; also Diffusers' Euler with linspace spacing. A single
    step starts at T - 1, as in k-diffusion (Diffusers starts it at 0, where there is no noise).
    """
    top = len(process.sigmas) - 1
    return _ended(process.level(_even(top, 0, steps)))


def sgm_uniform(process: Process, steps: int) -> Tensor:
    """Positions evenly spaced from T - 1 to 0, the 0 left out (Stability's sgm code)."""
    top = len(process.sigmas) - 1
    _at_least_one(steps)
    return _ended(process.level(_even(top, 0, steps + 1)[:-1]))


def simple(process: Process, steps: int) -> Tensor:
    """Every (T / n)-th training level counted from the noisiest (ComfyUI)."""
    count = len(process.sigmas)
    _fits(steps, count)
    return _at(process, [count - 1 - int(i * (count / steps)) for i in range(steps)])


def ddim_uniform(process: Process, steps: int) -> Tensor:
    """Every (T // n)-th training level counted from position 1 (CompVis' DDIM).

    CompVis, A1111 and ComfyUI run one or more extra steps where n does not divide T; here n
    steps are n steps, the lowest ones, as in Diffusers' leading spacing.
    """
    return leading(process, steps, steps_offset=1)


def leading(process: Process, steps: int, *, steps_offset: int = 1) -> Tensor:
    """Multiples of T // n plus an offset: Diffusers' DDIM, DDPM, PNDM, Euler, Heun, LMS."""
    count = len(process.sigmas)
    _fits(steps, count - steps_offset)
    return _at(process, [i * (count // steps) + steps_offset for i in reversed(range(steps))])


def leading_dpm(process: Process, steps: int, *, steps_offset: int = 1) -> Tensor:
    """Multiples of T // (n + 1) from 1 up, plus an offset: Diffusers' DPM++, UniPC and DEIS."""
    count = len(process.sigmas)
    _fits(steps, count - 1 - steps_offset)
    ratio = count // (steps + 1)
    return _at(process, [i * ratio + steps_offset for i in range(steps, 0, -1)])


def linspace_ddim(process: Process, steps: int) -> Tensor:
    """As `normal`, positions rounded: Diffusers' DDIM, DDPM and PNDM with linspace spacing."""
    count = len(process.sigmas)
    _fits(steps, count)
    return _ended(process.level(_even(count - 1, 0, steps).round()))


def linspace_dpm(process: Process, steps: int) -> Tensor:
    """As `sgm_uniform`, positions rounded: Diffusers' DPM++, UniPC and DEIS with linspace."""
    count = len(process.sigmas)
    _fits(steps, count - 1)
    return _ended(process.level(_even(count - 1, 0, steps + 1)[:-1].round()))


def trailing(process: Process, steps: int) -> Tensor:
    """T, T - T/n, ... less one, rounded: Diffusers' trailing spacing, for few steps."""
    count = len(process.sigmas)
    _fits(steps, count)
    return _at(process, [round(count - i * count / steps) - 1 for i in range(steps)])


def beta(process: Process, steps: int, *, alpha: float = 0.6, beta: float = 0.6) -> Tensor:
    """Positions at even quantiles of a beta distribution: dense at both ends.

    Lee et al. 2024 (arXiv:2407.12173). Positions are rounded as in ComfyUI, unless that would
    repeat a level. See `beta_sigma` for what A1111 and Diffusers do.
    """
    _at_least_one(steps)
    top = len(process.sigmas) - 1
    positions = [top * beta_quantile(1 - i / steps, alpha, beta) for i in range(steps)]
    rounded = [round(position) for position in positions]
    return _at(process, rounded if len(set(rounded)) == steps else positions)


def lcm(process: Process, steps: int, *, original_steps: int = 50) -> Tensor:
    """Levels that a latent consistency model was distilled at, spread evenly.

    Its teacher took `original_steps` steps at positions k, 2k, ... less one, k = T // that.
    Luo et al. 2023 (arXiv:2310.04378); the same positions as Diffusers' LCM and TCD.
    """
    _fits(original_steps, len(process.sigmas))
    _fits(steps, original_steps)
    ratio = len(process.sigmas) // original_steps
    picked = [original_steps - i * original_steps // steps for i in range(steps)]
    return _at(process, [ratio * k - 1 for k in picked])


# --- spaced over the noise levels themselves --------------------------------------------------


def karras(
    process: Process,
    steps: int,
    *,
    rho: float = 7.0,
    sigma_min: float | None = None,
    sigma_max: float | None = None,
) -> Tensor:
    """Noise levels evenly spaced in sigma**(1/rho), densest near zero.

    From the process's largest level to its smallest unless others are given.
    Karras et al. 2022 (arXiv:2206.00364), eq. 5.
    """
    low, high = _range(process, sigma_min, sigma_max)
    return _ended(_even(high ** (1 / rho), low ** (1 / rho), steps) ** rho)


def polyexponential(
    process: Process,
    steps: int,
    *,
    rho: float = 1.0,
    sigma_min: float | None = None,
    sigma_max: float | None = None,
) -> Tensor:
    """Log levels spaced by the power rho of an even ramp (k-diffusion); rho 1 is exponential."""
    low, high = _range(process, sigma_min, sigma_max)
    ramp = _even(1, 0, steps) ** rho
    return _ended((math.log(low) + ramp * math.log(high / low)).exp())


def exponential(
    process: Process,
    steps: int,
    *,
    sigma_min: float | None = None,
    sigma_max: float | None = None,
) -> Tensor:
    """Levels evenly spaced in log sigma, which is evenly spaced in log SNR.

    k-diffusion's exponential, Diffusers' `use_exponential_sigmas` and `use_lu_lambdas` (Lu et al.
    2022, arXiv:2211.01095).
    """
    return polyexponential(process, steps, sigma_min=sigma_min, sigma_max=sigma_max)


def kl_optimal(process: Process, steps: int) -> Tensor:
    """Levels evenly spaced in arctan(sigma), which balances the KL divergence of the steps.

    Sabour et al. 2024 (arXiv:2404.14507), theorem 3.1, ended at 0 as in ComfyUI.
    """
    return _ended(_even(math.atan(process.sigma_max), math.atan(process.sigma_min), steps).tan())


def beta_sigma(process: Process, steps: int, *, alpha: float = 0.6, beta: float = 0.6) -> Tensor:
    """Levels (not positions) at even quantiles of a beta distribution: A1111 and Diffusers."""
    quantiles = [beta_quantile(p, alpha, beta) for p in _even(1, 0, steps).tolist()]
    low, high = process.sigma_min, process.sigma_max
    return _ended(low + (high - low) * torch.tensor(quantiles, dtype=torch.float64))


# Sabour et al. 2024 (arXiv:2404.14507), published for 10 steps of SD 1.5 and of SDXL; the last
# of each is where 0 follows.
_AYS_SD1 = (14.615, 6.475, 3.861, 2.697, 1.886, 1.396, 0.963, 0.652, 0.399, 0.152, 0.029)
_AYS_SDXL = (14.615, 6.315, 3.771, 2.181, 1.342, 0.862, 0.555, 0.380, 0.234, 0.113, 0.029)


def align_your_steps(process: Process, steps: int) -> Tensor:
    """The levels published for SD 1.5, interpolated in log sigma for other than 10 steps.

    As published and in ComfyUI; A1111 places n levels where this places n + 1, then a 0.
    """
    return _interpolated(_AYS_SD1, steps)


def align_your_steps_sdxl(process: Process, steps: int) -> Tensor:
    """The levels published for SDXL, interpolated in log sigma for other than 10 steps."""
    return _interpolated(_AYS_SDXL, steps)


# --- the table --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Schedule:
    """A spacing with its names; called with a process and the number of steps."""

    name: str
    label: str  # for people; A1111's where it has the schedule
    spacing: Callable[..., Tensor]
    options: tuple[str, ...] = ()  # names of keyword options

    def __call__(self, process: Process, steps: int, **options: float) -> Tensor:
        """(steps + 1,) float64 noise levels, descending, the last 0.

        Raises RequestError if steps < 1, if the schedule cannot take so many steps, or for an
        option that it does not have.
        """
        for option in options:
            if option not in self.options:
                known = ", ".join(self.options) or "none"
                raise RequestError(
                    f"schedule {self.name} has no option {option!r}; it has {known}."
                )
        return self.spacing(process, steps, **options)


_LEVELS = ("sigma_min", "sigma_max")
_BETA = ("alpha", "beta")

SCHEDULES: Mapping[str, Schedule] = MappingProxyType(
    {
        schedule.name: schedule
        for schedule in (
            Schedule("normal", "Uniform", normal),
            Schedule("karras", "Karras", karras, ("rho", *_LEVELS)),
            Schedule("exponential", "Exponential", exponential, _LEVELS),
            Schedule("polyexponential", "Polyexponential", polyexponential, ("rho", *_LEVELS)),
            Schedule("sgm_uniform", "SGM Uniform", sgm_uniform),
            Schedule("simple", "Simple", simple),
            Schedule("ddim_uniform", "DDIM", ddim_uniform),
            Schedule("beta", "Beta (timesteps)", beta, _BETA),
            Schedule("beta_sigma", "Beta", beta_sigma, _BETA),
            Schedule("kl_optimal", "KL Optimal", kl_optimal),
            Schedule("align_your_steps", "Align Your Steps", align_your_steps),
            Schedule("align_your_steps_sdxl", "Align Your Steps XL", align_your_steps_sdxl),
            Schedule("leading", "Leading", leading, ("steps_offset",)),
            Schedule("leading_dpm", "Leading (DPM++)", leading_dpm, ("steps_offset",)),
            Schedule("linspace_ddim", "Linspace (DDIM)", linspace_ddim),
            Schedule("linspace_dpm", "Linspace (DPM++)", linspace_dpm),
            Schedule("trailing", "Trailing", trailing),
            Schedule("lcm", "LCM", lcm, ("original_steps",)),
        )
    }
)

# Names elsewhere: A1111's older ones, ComfyUI's, Diffusers' flags.
_ALIASES = {
    "discrete": "normal",
    "uniform": "normal",
    "linspace": "normal",
    "default": "normal",
    "sgmuniform": "sgm_uniform",
    "ddim": "ddim_uniform",
    "ays": "align_your_steps",
    "ays_sdxl": "align_your_steps_sdxl",
    "logsnr": "exponential",
    "uniform_logsnr": "exponential",
    "uniform_log_snr": "exponential",
    "uniform_in_logsnr": "exponential",
    "use_lu_lambdas": "exponential",
    "use_karras_sigmas": "karras",
    "use_exponential_sigmas": "exponential",
    "use_beta_sigmas": "beta_sigma",
}
_BY_LABEL = {schedule.label: schedule for schedule in SCHEDULES.values()}


def resolve_schedule(name: str) -> Schedule:
    """The schedule of that name: ours, A1111's label, ComfyUI's, or Diffusers' flag.

    Case and spaces are free, but for one pair: A1111's label "Beta" is `beta_sigma`, ComfyUI's
    "beta" is `beta`. Raises RequestError for a name that is none of these.
    """
    if name.strip() in _BY_LABEL:
        return _BY_LABEL[name.strip()]
    key = name.strip().lower().replace(" ", "_").replace("-", "_")
    schedule = SCHEDULES.get(_ALIASES.get(key, key))
    if schedule is None:
        near = get_close_matches(key[:100], [*SCHEDULES, *_ALIASES], n=1)
        hint = f" Did you mean {_ALIASES.get(near[0], near[0])}?" if near else ""
        raise RequestError(
            f"unknown schedule {shown(name, 60)!r}; choose one of {', '.join(SCHEDULES)}.{hint}"
        )
    return schedule


def aliases_of(schedule: Schedule) -> tuple[str, ...]:
    """Other programs' names for a schedule."""
    return tuple(alias for alias, name in _ALIASES.items() if name == schedule.name)


# --- how much of it image to image runs -------------------------------------------------------

Spacing = Callable[[int], Tensor]  # number of steps -> (steps + 1,) levels, descending, last 0
StrengthRule = Literal["a1111", "a1111_exact", "diffusers", "comfy"]


class Truncated(NamedTuple):
    """The levels to run, and how many steps that is. With no steps the picture stays as it is."""

    sigmas: Tensor  # (steps + 1,)
    steps: int


def truncated(
    spacing: Spacing, steps: int, strength: float, rule: StrengthRule = "a1111"
) -> Truncated:
    """The end of a schedule that image to image runs; start at latents + sigmas[0] * noise.

    With s = strength, n = steps:
    a1111: the last int(min(s, 0.999) n) + 1 of n steps.
    a1111_exact: the last n of int(n / min(s, 0.999)) steps ("exactly the amount of steps").
    diffusers: the last min(int(s n), n) of n steps; may be none.
    comfy: the last n of int(n / s) steps; all n if s > 0.9999, none if s is 0.
    Raises RequestError unless 0 <= strength <= 1 and steps >= 1.
    """
    if steps < 1:
        raise RequestError(f"the number of steps must be 1 or more; got {steps}.")
    if not 0 <= strength <= 1:
        raise RequestError(f"the strength must lie between 0 and 1; got {strength}.")
    below_one = min(strength, 0.999)
    if rule == "a1111":
        return _last(spacing(steps), int(below_one * steps) + 1)
    if rule == "a1111_exact":
        return _last(spacing(int(steps / below_one)), steps) if strength else _none()
    if rule == "diffusers":
        return _last(spacing(steps), min(int(strength * steps), steps))
    if rule == "comfy":
        if strength > 0.9999:
            return _last(spacing(steps), steps)
        return _last(spacing(int(steps / strength)), steps) if strength else _none()
    raise RequestError(
        f"unknown strength rule {rule!r}; choose a1111, a1111_exact, diffusers or comfy."
    )


def without_penultimate(spacing: Spacing) -> Spacing:
    """A spacing that drops the last level above 0 of one with a step more.

    A1111 and ComfyUI do so for DPM2 and DPM2 a (ComfyUI for UniPC too), which would evaluate
    the smallest level twice.
    """

    def without(steps: int) -> Tensor:
        sigmas = spacing(steps + 1)
        return torch.cat([sigmas[:-2], sigmas[-1:]])

    return without


def until_sigma_min(sigmas: Tensor, sigma_min: float) -> Tensor:
    """The levels with the final 0 replaced by the model's smallest level.

    Diffusers' `set_alpha_to_one: false` (DDIM, PNDM) and `final_sigmas_type: sigma_min`. If the
    last step starts there already, it is left out.
    """
    levels = sigmas[:-1]
    levels = levels[levels > sigma_min * (1 + 1e-9)]
    return torch.cat([levels, levels.new_tensor([sigma_min])])


# --- parts ------------------------------------------------------------------------------------


def _at_least_one(steps: int) -> None:
    if steps < 1:
        raise RequestError(f"the number of steps must be 1 or more; got {steps}.")


def _fits(steps: int, limit: int) -> None:
    _at_least_one(steps)
    if steps > limit:
        raise RequestError(f"this schedule takes at most {limit} steps here; got {steps}.")


def _even(first: float, last: float, steps: int) -> Tensor:
    """(steps,) evenly spaced numbers with both ends; a single one is the first."""
    _at_least_one(steps)
    return torch.linspace(first, last, steps, dtype=torch.float64)


def _at(process: Process, positions: Sequence[float]) -> Tensor:
    return _ended(process.level(torch.tensor(positions, dtype=torch.float64)))


def _ended(levels: Tensor) -> Tensor:
    return torch.cat([levels, levels.new_zeros(1)])


def _range(process: Process, low: float | None, high: float | None) -> tuple[float, float]:
    low = process.sigma_min if low is None else low
    high = process.sigma_max if high is None else high
    if not 0 < low < high:
        raise RequestError(f"expected 0 < sigma_min < sigma_max; got {low} and {high}.")
    return low, high


def _interpolated(table: Sequence[float], steps: int) -> Tensor:
    """`steps` levels of a table at even places by log-linear interpolation, then 0."""
    _at_least_one(steps)
    logs = torch.tensor(table, dtype=torch.float64).log()
    places = _even(0, len(table) - 1, steps + 1)[:-1]
    low = places.floor().long()
    return _ended(torch.lerp(logs[low], logs[low + 1], places - low).exp())


def _last(sigmas: Tensor, steps: int) -> Truncated:
    return Truncated(sigmas[-(steps + 1) :], steps)


def _none() -> Truncated:
    return Truncated(torch.zeros(1, dtype=torch.float64), 0)
