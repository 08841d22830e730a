"""Samplers: one generator per algorithm, and the table that names them.

`SAMPLERS[name].run(denoise, x, sigmas, noise, **options)` yields a `Step` after each step.
"""

from safelight.diffusion.samplers.names import resolve_sampler, resolve_sampler_and_schedule
from safelight.diffusion.samplers.step import Draws, Step
from safelight.diffusion.samplers.table import SAMPLERS, Option, OptionValue, SamplerInfo

__all__ = [
    "SAMPLERS",
    "Draws",
    "Option",
    "OptionValue",
    "SamplerInfo",
    "Step",
    "resolve_sampler",
    "resolve_sampler_and_schedule",
]
