"""What a single file predicts (eps, v, ...): asked for, written down, or guessed; and why."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from safelight.checkpoints.parts import Selection
from safelight.diffusion.prediction import resolve_prediction
from safelight.errors import RequestError
from safelight.families import Family, ProcessConfig

_YAML_LIMIT = 2**20  # bytes
# Of one line alone: \s would run over line ends, and a file of nothing else would take for ever
_PARAMETERIZATION = re.compile(
    r"^[ \t]*parameterization[ \t]*:[ \t]*[\"']?(\w+)[\"']?[ \t\r]*(#.*)?$", re.M
)

# The bias of this norm is small in the eps models of SD 2.x and large in the v models: ComfyUI's
# test, found on the published weights.
_TELLTALE = "output_blocks.11.1.transformer_blocks.0.norm1.bias"
_V_DEVIATION = 0.09


@dataclass(frozen=True, slots=True)
class Guess:
    """A process, the reason for it in words, and whether the reason is only a likelihood."""

    process: ProcessConfig
    reason: str
    uncertain: bool = False


def asked_for(process: ProcessConfig, prediction: str | None, zero: bool | None) -> ProcessConfig:
    """The process with what the user asks for. Raises RequestError for what does not exist."""
    if prediction is not None:
        name = resolve_prediction(prediction).name
        if name == "flow":
            process = ProcessConfig("flow", "flow", shift=process.shift)
        elif name in ("edm", "edm_latent") or process.kind != "ddpm":
            kind = "edm" if name in ("edm", "edm_latent") or process.kind == "edm" else "ddpm"
            process = replace(process, kind="edm" if kind == "edm" else "ddpm", prediction=name)
        else:
            # Zero terminal SNR belongs to the prediction that the file states, not to another.
            keep = process.zero_terminal_snr and name != "eps"
            process = replace(process, prediction=name, zero_terminal_snr=keep)
    if zero is not None:
        if zero and process.kind != "ddpm":
            raise RequestError(
                f"zero terminal SNR exists for the betas of DDPM only; this model is {process.kind}"
            )
        process = replace(process, zero_terminal_snr=zero)
    return process


def guessed(family: Family, unet: Selection) -> Guess:
    """What a single file says of its process; `unet` is its U-Net in the original layout."""
    process, file = family.process, unet.file
    if "edm_mean" in file.header and "edm_std" in file.header:
        return Guess(ProcessConfig("edm", "edm"), "the file holds edm_mean and edm_std")
    if "edm_vpred.sigma_max" in file.header:
        highest = float(file.read("edm_vpred.sigma_max"))
        reason = f"the file holds edm_vpred.sigma_max {highest:g}"
        return Guess(ProcessConfig("edm", "v", sigma_max=highest), reason)
    if "v_pred" in file.header:
        zero = "ztsnr" in file.header
        return Guess(
            replace(process, prediction="v", zero_terminal_snr=zero),
            f"the file holds the mark v_pred{' and ztsnr' if zero else ''}",
        )
    for said, where in (_from_yaml(file.path), _from_metadata(file.metadata)):
        if said:
            zero = said != "eps" and _zero_in(file.metadata)
            return Guess(replace(process, prediction=said, zero_terminal_snr=zero), where)
    if process.prediction == "eps" and _is_sd2_text_model(family):
        return _by_deviation(process, unet)
    return Guess(process, f"{family.label} predicts {process.prediction}")


def _from_yaml(path: Path) -> tuple[str, str]:
    """The parameterization in a .yaml of the same name; only that line of it is looked at."""
    beside = path.with_suffix(".yaml")
    try:
        if not beside.is_file() or beside.stat().st_size > _YAML_LIMIT:
            return "", ""
        found = _PARAMETERIZATION.search(beside.read_text(encoding="utf-8", errors="replace"))
    except OSError:
        return "", ""
    return _known(found[1] if found else ""), f"{beside.name} beside the file says so"


def _from_metadata(metadata: Mapping[str, str]) -> tuple[str, str]:
    said = metadata.get("modelspec.prediction_type", "")
    if not said and metadata.get("ss_v_parameterization", "").lower() == "true":
        said = "v"
    return _known(said), "the metadata of the file says so"


def _zero_in(metadata: Mapping[str, str]) -> bool:
    return metadata.get("ss_zero_terminal_snr", "").lower() == "true"


def _known(said: str) -> str:
    names = {"eps": "eps", "epsilon": "eps", "v": "v", "v_prediction": "v", "x0": "x0"}
    return names.get(said.strip().lower(), "")


def _is_sd2_text_model(family: Family) -> bool:
    own = family.backbone
    return family.task == "text" and own.linear_projection and family.text.vector == "none"


def _by_deviation(process: ProcessConfig, unet: Selection) -> Guess:
    if _TELLTALE not in unet.names:
        return Guess(process, "nothing in the file says otherwise", uncertain=True)
    bias = unet.read(_TELLTALE, dtype=torch.float32)
    deviation = float(bias.std(correction=0))
    v = deviation > _V_DEVIATION
    comparison = "above" if v else "at most"
    return Guess(
        replace(process, prediction="v" if v else "eps"),
        f"{_TELLTALE} deviates by {deviation:.3f}, {comparison} {_V_DEVIATION}, as in the "
        f"published {'v' if v else 'eps'} models",
        uncertain=True,
    )
