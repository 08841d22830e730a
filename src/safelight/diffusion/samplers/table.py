"""The table of samplers: what each is called, what it costs and which options it takes."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from safelight.diffusion.process import Start
from safelight.diffusion.samplers.adaptive import dpm_adaptive, dpm_fast
from safelight.diffusion.samplers.consistency import lcm, tcd
from safelight.diffusion.samplers.dpm import (
    dpm2,
    dpm2_ancestral,
    dpmpp_2s,
    dpmpp_2s_ancestral,
    dpmpp_sde,
)
from safelight.diffusion.samplers.dpm_multistep import (
    dpmpp_2m,
    dpmpp_2m_sde,
    dpmpp_2m_sde_heun,
    dpmpp_3m,
    dpmpp_3m_sde,
)
from safelight.diffusion.samplers.euler import ddim, ddpm, euler, euler_ancestral, heun, heunpp2
from safelight.diffusion.samplers.multistep import deis, ipndm, lms, plms
from safelight.diffusion.samplers.restart import restart
from safelight.diffusion.samplers.step import Step
from safelight.diffusion.samplers.unipc import uni_pc, uni_pc_bh2
from safelight.errors import RequestError

OptionValue = float | int | str


@dataclass(frozen=True)
class Option:
    """One setting of a sampler that a user may change.

    Numbers lie in [low, high]; whole numbers if the default is an int. `choices` are for words.
    """

    name: str
    meaning: str
    default: OptionValue
    low: float = 0.0
    high: float = math.inf
    choices: tuple[str, ...] = ()

    def checked(self, value: OptionValue, sampler: str) -> OptionValue:
        """The value, if it is one that the option takes; raises RequestError otherwise."""
        if self._takes(value):
            return value
        raise RequestError(f"{sampler}: {self.name} must be {self._wanted()}; got {value!r}.")

    def _takes(self, value: OptionValue) -> bool:
        if isinstance(self.default, str):
            return value in self.choices
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        if isinstance(self.default, int) and not isinstance(value, int):
            return False
        return self.low <= value <= self.high

    def _wanted(self) -> str:
        if isinstance(self.default, str):
            return " or ".join(self.choices)
        kind = "a whole number" if isinstance(self.default, int) else "a number"
        if self.high == math.inf:
            return f"{kind} of at least {self.low:g}"
        return f"{kind} from {self.low:g} to {self.high:g}"


@dataclass(frozen=True)
class SamplerInfo:
    """What a caller needs to know of a sampler before it runs it."""

    name: str
    label: str  # A1111's, or in its manner
    run: Callable[..., Iterator[Step]]  # (denoise, x, sigmas, noise, **options)
    meaning: str  # one line for lists and help
    calls_per_step: int = 1  # the most; the step to 0 often needs fewer
    stochastic: bool = False  # draws noise with its default options
    default_schedule: str = "normal"  # what A1111's "Automatic" means for it
    parameters: tuple[Option, ...] = ()
    aliases: tuple[str, ...] = ()  # other programs' names, as they write them
    start: Start = "sigma"  # rule for the first x at full strength; see `process.start`
    couples_batch: bool = False  # pictures of a batch influence each other: run them apart
    fixed_steps: bool = True  # yields as many steps as sigmas has
    discard_penultimate: bool = False  # A1111 plans one step more, then drops the last but one
    takes_process: bool = False  # has an option `process`: the model's, for its clock

    @property
    def options(self) -> tuple[str, ...]:
        """The names of the options a user may give to `run`."""
        return tuple(option.name for option in self.parameters)

    @property
    def counted_calls(self) -> int:
        """How many calls of the model a step counts for in a prompt's schedule, as in A1111.

        DPM fast makes one for each step asked for, in groups; what DPM adaptive will make nobody
        knows, so it is counted like that, too.
        """
        return self.calls_per_step if self.fixed_steps else 1

    def checked(self, options: Mapping[str, OptionValue]) -> dict[str, OptionValue]:
        """The options, ready for `run`; raises RequestError for one unknown or out of range."""
        known = {option.name: option for option in self.parameters}
        for name in options:
            if name not in known:
                takes = f"takes {', '.join(known)}" if known else "takes no options"
                raise RequestError(f"{self.label} has no option {name!r}; it {takes}.")
        return {name: known[name].checked(value, self.label) for name, value in options.items()}


S_NOISE = Option("s_noise", "factor on every fresh noise", 1.0)
CHURN = (
    Option("s_churn", "noise added before steps, shared out over all steps", 0.0),
    Option("s_tmin", "lowest sigma at which to churn", 0.0),
    Option("s_tmax", "highest sigma at which to churn", math.inf),
    S_NOISE,
)
ANCESTRAL = (Option("eta", "share of the posterior's noise: 0 none, 1 all", 1.0), S_NOISE)
SDE = (Option("eta", "scale of the SDE's noise: 0 none, 1 as trained", 1.0), S_NOISE)


def _eta(default: float, high: float = math.inf) -> tuple[Option, ...]:
    return (Option("eta", "share of fresh noise: 0 none, 1 all", default, high=high), S_NOISE)


def _order(default: int, low: int, high: int) -> Option:
    return Option("order", "order of the method", default, low, high)


_ALL = (
    SamplerInfo(
        "euler",
        "Euler",
        euler,
        "plain and steady; first order",
        parameters=CHURN,
        aliases=(
            "k_euler",
            "sample_euler",
            "EulerDiscreteScheduler",
            "FlowMatchEulerDiscreteScheduler",
            "EDMEulerScheduler",
        ),
    ),
    SamplerInfo(
        "euler_ancestral",
        "Euler a",
        euler_ancestral,
        "Euler with fresh noise at every step; keeps changing with the number of steps",
        stochastic=True,
        parameters=ANCESTRAL,
        aliases=(
            "euler_a",
            "k_euler_a",
            "k_euler_ancestral",
            "sample_euler_ancestral",
            "EulerAncestralDiscreteScheduler",
        ),
    ),
    SamplerInfo(
        "heun",
        "Heun",
        heun,
        "second order, two calls a step",
        calls_per_step=2,
        parameters=CHURN,
        aliases=(
            "k_heun",
            "sample_heun",
            "HeunDiscreteScheduler",
            "FlowMatchHeunDiscreteScheduler",
        ),
    ),
    SamplerInfo(
        "heunpp2",
        "Heun++ 2",
        heunpp2,
        "a Heun that looks two levels ahead, three calls a step",
        calls_per_step=3,
        parameters=CHURN,
        aliases=("HeunPP2", "sample_heunpp2"),
    ),
    SamplerInfo(
        "dpm2",
        "DPM2",
        dpm2,
        "DPM-Solver-2, two calls a step",
        calls_per_step=2,
        default_schedule="karras",
        parameters=CHURN,
        aliases=(
            "dpm_2",
            "k_dpm_2",
            "kdpm_2",
            "k_dpm2",
            "sample_dpm_2",
            "KDPM2DiscreteScheduler",
        ),
        discard_penultimate=True,
    ),
    SamplerInfo(
        "dpm2_ancestral",
        "DPM2 a",
        dpm2_ancestral,
        "DPM-Solver-2 with fresh noise at every step",
        calls_per_step=2,
        stochastic=True,
        default_schedule="karras",
        parameters=ANCESTRAL,
        aliases=(
            "dpm2_a",
            "dpm_2_ancestral",
            "dpm_2_a",
            "k_dpm_2_a",
            "k_dpm_2_ancestral",
            "kdpm_2_a",
            "sample_dpm_2_ancestral",
            "KDPM2AncestralDiscreteScheduler",
        ),
        discard_penultimate=True,
    ),
    SamplerInfo(
        "lms",
        "LMS",
        lms,
        "linear multistep of order 4",
        parameters=(_order(4, 1, 4),),
        aliases=(
            "k_lms",
            "sample_lms",
            "LMSDiscreteScheduler",
            "ipndm_v",
            "IPNDM_V",
            "sample_ipndm_v",
        ),
    ),
    SamplerInfo(
        "plms",
        "PLMS",
        plms,
        "pseudo linear multistep, the first sampler of Stable Diffusion 1",
        default_schedule="ddim_uniform",
        aliases=("pndm", "PNDM", "PNDMScheduler"),
        start="unit",
    ),
    SamplerInfo(
        "ipndm",
        "IPNDM",
        ipndm,
        "PLMS without its two-call start",
        parameters=(_order(4, 1, 4),),
        aliases=("sample_ipndm", "IPNDMScheduler"),
    ),
    SamplerInfo(
        "ddim",
        "DDIM",
        ddim,
        "Euler on the timesteps of DDIM; eta adds noise",
        default_schedule="ddim_uniform",
        parameters=_eta(0.0),
        aliases=("DDIMScheduler", "DDIMParallelScheduler"),
        start="unit",
    ),
    SamplerInfo(
        "ddpm",
        "DDPM",
        ddpm,
        "the posterior of the training process; wants many steps",
        stochastic=True,
        default_schedule="ddim_uniform",
        parameters=(S_NOISE,),
        aliases=("sample_ddpm", "DDPMScheduler", "DDPMParallelScheduler"),
        start="unit",
    ),
    SamplerInfo(
        "dpmpp_2s_ancestral",
        "DPM++ 2S a",
        dpmpp_2s_ancestral,
        "DPM-Solver++ with its own midpoint and fresh noise, two calls a step",
        calls_per_step=2,
        stochastic=True,
        default_schedule="karras",
        parameters=ANCESTRAL,
        aliases=("dpmpp_2s_a", "k_dpmpp_2s_a", "sample_dpmpp_2s_ancestral"),
    ),
    SamplerInfo(
        "dpmpp_2s",
        "DPM++ 2S",
        dpmpp_2s,
        "DPM-Solver++ that uses every second level as a midpoint",
        default_schedule="karras",
        aliases=("DPMSolverSinglestepScheduler",),
    ),
    SamplerInfo(
        "dpmpp_2m",
        "DPM++ 2M",
        dpmpp_2m,
        "second order with memory: the usual choice",
        default_schedule="karras",
        aliases=(
            "k_dpmpp_2m",
            "sample_dpmpp_2m",
            "dpmpp",
            "dpmsolver++",
            "DPMSolverMultistepScheduler",
            "EDMDPMSolverMultistepScheduler",
            "dpm++2mv2",
        ),
    ),
    SamplerInfo(
        "dpmpp_3m",
        "DPM++ 3M",
        dpmpp_3m,
        "DPM++ 2M with one more step of memory",
        default_schedule="karras",
    ),
    SamplerInfo(
        "dpmpp_sde",
        "DPM++ SDE",
        dpmpp_sde,
        "DPM-Solver++ for the SDE, two calls a step",
        calls_per_step=2,
        stochastic=True,
        default_schedule="karras",
        parameters=(*SDE, Option("r", "place of the probe within a step", 0.5, 0.01, 1.0)),
        aliases=("k_dpmpp_sde", "dpmpp_sde_gpu", "sample_dpmpp_sde", "DPMSolverSDEScheduler"),
    ),
    SamplerInfo(
        "dpmpp_2m_sde",
        "DPM++ 2M SDE",
        dpmpp_2m_sde,
        "DPM++ 2M for the SDE",
        stochastic=True,
        default_schedule="exponential",
        parameters=(
            *SDE,
            Option(
                "solver_type",
                "rule for the second-order term",
                "midpoint",
                choices=("midpoint", "heun"),
            ),
        ),
        aliases=(
            "k_dpmpp_2m_sde",
            "dpmpp_2m_sde_gpu",
            "sample_dpmpp_2m_sde",
            "CosineDPMSolverMultistepScheduler",
        ),
    ),
    SamplerInfo(
        "dpmpp_2m_sde_heun",
        "DPM++ 2M SDE Heun",
        dpmpp_2m_sde_heun,
        "DPM++ 2M SDE with the exact second-order term",
        stochastic=True,
        default_schedule="exponential",
        parameters=SDE,
        aliases=("k_dpmpp_2m_sde_heun", "dpmpp_2m_sde_heun_gpu", "sample_dpmpp_2m_sde_heun"),
    ),
    SamplerInfo(
        "dpmpp_3m_sde",
        "DPM++ 3M SDE",
        dpmpp_3m_sde,
        "DPM++ 3M for the SDE",
        stochastic=True,
        default_schedule="exponential",
        parameters=SDE,
        aliases=("k_dpmpp_3m_sde", "dpmpp_3m_sde_gpu", "sample_dpmpp_3m_sde"),
        discard_penultimate=True,
    ),
    SamplerInfo(
        "uni_pc",
        "UniPC",
        uni_pc,
        "predictor and corrector of order 3; good with few steps",
        default_schedule="sgm_uniform",
        parameters=(
            _order(3, 1, 3),
            Option("solver_type", "the B(h) of the paper", "bh1", choices=("bh1", "bh2")),
        ),
        aliases=("unipc", "sample_unipc", "uni_pc_bh1"),
        start="unit",
    ),
    SamplerInfo(
        "uni_pc_bh2",
        "UniPC bh2",
        uni_pc_bh2,
        "UniPC with the other B(h)",
        default_schedule="sgm_uniform",
        parameters=(_order(3, 1, 3),),
        aliases=("sample_unipc_bh2", "UniPCMultistepScheduler"),
        start="unit",
    ),
    SamplerInfo(
        "deis",
        "DEIS",
        deis,
        "exponential integrator of order 3 with memory",
        parameters=(_order(3, 1, 3),),
        aliases=("sample_deis", "DEISMultistepScheduler"),
    ),
    SamplerInfo(
        "lcm",
        "LCM",
        lcm,
        "for latent consistency models: 1 to 8 steps",
        stochastic=True,
        default_schedule="lcm",
        parameters=(S_NOISE,),
        aliases=("k_lcm", "sample_lcm", "LCMScheduler"),
        start="unit",
    ),
    SamplerInfo(
        "tcd",
        "TCD",
        tcd,
        "for trajectory consistency models: 1 to 8 steps; eta trades detail for smoothness",
        stochastic=True,
        default_schedule="lcm",
        parameters=_eta(0.3, 1.0),
        aliases=("sample_tcd", "TCDScheduler"),
        start="unit",
        takes_process=True,
    ),
    SamplerInfo(
        "restart",
        "Restart",
        restart,
        "Heun that goes back up once or twice; from 20 steps on",
        calls_per_step=2,
        stochastic=True,
        default_schedule="karras",
        parameters=(S_NOISE,),
        aliases=("restart_sampler",),
    ),
    SamplerInfo(
        "dpm_fast",
        "DPM fast",
        dpm_fast,
        "DPM-Solver of order 3 between the first and last level",
        calls_per_step=3,
        parameters=_eta(0.0),
        aliases=("k_dpm_fast", "sample_dpm_fast"),
        fixed_steps=False,
    ),
    SamplerInfo(
        "dpm_adaptive",
        "DPM adaptive",
        dpm_adaptive,
        "DPM-Solver that chooses its own steps",
        calls_per_step=3,
        parameters=(
            _order(3, 2, 3),
            Option("rtol", "relative error allowed a step", 0.05, low=1e-6),
            Option("atol", "absolute error allowed a step", 0.0078, low=1e-6),
            Option("h_init", "first step in log sigma", 0.05, low=1e-3),
            *_eta(0.0),
        ),
        aliases=("k_dpm_ad", "k_dpm_adaptive", "dpm_ad", "sample_dpm_adaptive"),
        couples_batch=True,
        fixed_steps=False,
    ),
)

SAMPLERS: Mapping[str, SamplerInfo] = MappingProxyType({info.name: info for info in _ALL})
