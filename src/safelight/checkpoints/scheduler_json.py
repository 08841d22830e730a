"""The `scheduler_config.json` of a Diffusers folder, both ways: process and sampling hints."""

from dataclasses import replace

from safelight.checkpoints.json_object import JsonObject
from safelight.diffusion.process import BetaSchedule
from safelight.diffusion.samplers import resolve_sampler
from safelight.errors import CheckpointError, RequestError
from safelight.families import ProcessConfig, SamplerHint
from safelight.printable import shown

_PREDICTIONS = {"epsilon": "eps", "v_prediction": "v", "sample": "x0", "flow_prediction": "flow"}
# (Diffusers' prediction, standard deviation of the data) -> ours, for the EDM schedulers.
_EDM = {("epsilon", 0.5): "edm", ("epsilon", 1.0): "edm_latent", ("v_prediction", 1.0): "v"}
# Solvers of the DPM family place their steps one step apart from the others'.
_DPM = ("DPMSolverMultistep", "DPMSolverSinglestep", "UniPC", "DEIS", "SASolver")
_LEADING_BY_DEFAULT = ("DDIMScheduler", "DDPMScheduler", "PNDMScheduler")
_FLAGS = {
    "use_karras_sigmas": "karras",
    "use_exponential_sigmas": "exponential",
    "use_beta_sigmas": "beta_sigma",
}
_CLASSES = {
    "plms": "PNDMScheduler",
    "ddim": "DDIMScheduler",
    "ddpm": "DDPMScheduler",
    "euler": "EulerDiscreteScheduler",
    "euler_ancestral": "EulerAncestralDiscreteScheduler",
    "heun": "HeunDiscreteScheduler",
    "lms": "LMSDiscreteScheduler",
    "dpm2": "KDPM2DiscreteScheduler",
    "dpm2_ancestral": "KDPM2AncestralDiscreteScheduler",
    "dpmpp_2m": "DPMSolverMultistepScheduler",
    "dpmpp_2s": "DPMSolverSinglestepScheduler",
    "uni_pc_bh2": "UniPCMultistepScheduler",
    "deis": "DEISMultistepScheduler",
    "lcm": "LCMScheduler",
    "tcd": "TCDScheduler",
}
_MOST_STEPS = 100_000  # of training; all published models have 1000
_SPACINGS = {
    "leading": "leading",
    "leading_dpm": "leading",
    "linspace_ddim": "linspace",
    "linspace_dpm": "linspace",
    "normal": "linspace",
    "trailing": "trailing",
    "sgm_uniform": "trailing",
    "ddim_uniform": "leading",
    "lcm": "leading",
}


def process_from_json(json: JsonObject) -> ProcessConfig:
    """The noise process that a scheduler's config describes.

    Raises CheckpointError for a prediction or betas that we do not have.
    """
    kind, said = json.text("_class_name", ""), json.text("prediction_type", "epsilon")
    if kind.startswith("EDM"):
        prediction = _EDM.get((said, json.number("sigma_data", 0.5)))
        if prediction is None:
            raise CheckpointError(
                f"{json.source}: {shown(kind)} with prediction_type {shown(said)} and sigma_data "
                f"{json.number('sigma_data', 0.5)} is no process we know"
            )
        return ProcessConfig(
            "edm",
            prediction,
            sigma_min=json.number("sigma_min", 0.002),
            sigma_max=json.number("sigma_max", 80.0),
        )
    if kind.startswith("FlowMatch"):
        return ProcessConfig("flow", "flow", shift=json.number("shift", 1.0))
    if said not in _PREDICTIONS:
        raise CheckpointError(
            f"{json.source}: prediction_type is {shown(said)}; expected one of "
            f"{', '.join(_PREDICTIONS)}"
        )
    return ProcessConfig(
        prediction=_PREDICTIONS[said],
        beta_start=_beta(json, "beta_start", 0.0001),
        beta_end=_beta(json, "beta_end", 0.02),
        beta_schedule=_beta_schedule(json),
        trained_betas=_trained_betas(json),
        steps=_steps(json),
        zero_terminal_snr=json.flag("rescale_betas_zero_snr", False),
    )


def _steps(json: JsonObject) -> int:
    steps = json.whole("num_train_timesteps", 1000, most=_MOST_STEPS)
    if steps < 2:
        raise CheckpointError(f"{json.source}: num_train_timesteps is {steps}; expected 2 or more")
    return steps


def _beta(json: JsonObject, name: str, usual: float) -> float:
    beta = json.number(name, usual)
    if not 0 < beta <= 1:
        raise CheckpointError(f"{json.source}: {name} is {beta}; expected above 0 and at most 1")
    return beta


def _trained_betas(json: JsonObject) -> tuple[float, ...] | None:
    if not json.has("trained_betas"):
        return None
    betas = json.numbers("trained_betas")
    if not 2 <= len(betas) <= _MOST_STEPS or not all(0 < beta <= 1 for beta in betas):
        raise CheckpointError(
            f"{json.source}: trained_betas must be from 2 to {_MOST_STEPS} numbers above 0 and at "
            "most 1"
        )
    return betas


def _beta_schedule(json: JsonObject) -> BetaSchedule:
    match json.text("beta_schedule", "linear"):
        case "linear":
            return "linear"
        case "scaled_linear":
            return "scaled_linear"
        case "squaredcos_cap_v2":
            return "squaredcos_cap_v2"
        case other:
            raise CheckpointError(
                f"{json.source}: beta_schedule is {shown(other)}; expected linear, "
                "scaled_linear or squaredcos_cap_v2"
            )


def hint_from_json(json: JsonObject, hint: SamplerHint) -> SamplerHint:
    """The family's hint with the sampler and spacing that the folder recommends.

    A scheduler that we do not have leaves the hint as it is.
    """
    kind = json.text("_class_name", "")
    try:
        sampler = resolve_sampler(kind).name
    except RequestError:
        return hint
    flagged = [ours for flag, ours in _FLAGS.items() if json.flag(flag, False)]
    if sampler in ("lcm", "tcd"):
        return SamplerHint(sampler, None, 4, 1.0 if sampler == "tcd" else hint.guidance_scale)
    if kind.startswith("EDM"):
        return replace(hint, sampler=sampler)
    if flagged:
        return replace(hint, sampler=sampler, schedule=flagged[0])
    default = "leading" if kind in _LEADING_BY_DEFAULT else "linspace"
    spacing = json.text("timestep_spacing", default)
    family = "dpm" if kind.startswith(_DPM) else "ddim" if default == "leading" else ""
    schedule = {
        "leading": "leading_dpm" if family == "dpm" else "leading",
        "linspace": f"linspace_{family}" if family else "normal",
        "trailing": "trailing",
    }.get(spacing)
    eps = json.text("prediction_type", "epsilon") == "epsilon"
    if spacing == "trailing" and kind.startswith("Euler") and eps:
        # Euler with trailing steps and eps is how the distilled models (Turbo, Lightning) ship;
        # their weights have the shapes of the models they were distilled from.
        return SamplerHint(sampler, schedule, 4, 1.0)
    return replace(hint, sampler=sampler, schedule=schedule)


def scheduler_to_json(process: ProcessConfig, hint: SamplerHint) -> dict[str, object]:
    """The scheduler_config.json from which Diffusers makes this process and, if it can, the hint.

    A sampler that Diffusers has not becomes Euler.
    """
    schedule = hint.schedule
    if process.kind == "flow":
        return {
            "_class_name": "FlowMatchEulerDiscreteScheduler",
            "num_train_timesteps": process.steps,
            "shift": process.shift,
        }
    if process.kind == "edm":
        said, data = next(key for key, ours in _EDM.items() if ours == process.prediction)
        euler = hint.sampler == "euler"
        return {
            "_class_name": "EDMEulerScheduler" if euler else "EDMDPMSolverMultistepScheduler",
            "num_train_timesteps": process.steps,
            "prediction_type": said,
            "sigma_data": data,
            "sigma_min": process.sigma_min,
            "sigma_max": process.sigma_max,
        }
    kind = _CLASSES.get(hint.sampler, "EulerDiscreteScheduler")
    said = next(theirs for theirs, ours in _PREDICTIONS.items() if ours == process.prediction)
    values: dict[str, object] = {
        "_class_name": kind,
        "num_train_timesteps": process.steps,
        "beta_start": process.beta_start,
        "beta_end": process.beta_end,
        "beta_schedule": process.beta_schedule,
        "prediction_type": said,
        "steps_offset": 1,
        "timestep_spacing": _SPACINGS.get(schedule or "", "leading"),
    }
    if process.trained_betas is not None:
        values["trained_betas"] = list(process.trained_betas)
    if process.zero_terminal_snr:
        values["rescale_betas_zero_snr"] = True
    values |= {flag: True for flag, ours in _FLAGS.items() if ours == schedule}
    if kind in ("DDIMScheduler", "PNDMScheduler", "LCMScheduler"):
        values["set_alpha_to_one"] = False
    if kind in ("DDIMScheduler", "DDPMScheduler", "LCMScheduler", "TCDScheduler"):
        values["clip_sample"] = False
    if kind == "PNDMScheduler":
        values["skip_prk_steps"] = True
    return values
