"""How the x4 upscaler's small picture is noised, as files say it, both ways.

A Diffusers folder has a second scheduler for it, `low_res_scheduler`, and `max_noise_level` in its
index; a single file of ours keeps both among its configs.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from safelight.checkpoints.json_object import JsonObject, read_object
from safelight.checkpoints.scheduler_json import process_from_json, scheduler_to_json
from safelight.errors import CheckpointError
from safelight.families import Family, Noising, SamplerHint

KEY = "low_res_scheduler"  # the folder's, and the config's in a single file
MAX_LEVEL = "max_noise_level"
_KEPT = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas")


def with_folder_noising(family: Family, folder: Path, index: JsonObject) -> Family:
    """The family with the noising that its folder states, if it is one that noises a picture."""
    path = folder / KEY / "scheduler_config.json"
    scheduler = read_object(path) if path.is_file() else None
    return _with_noising(family, scheduler, index)


def with_file_noising(family: Family, configs: Mapping[str, JsonObject]) -> Family:
    """The family with the noising among the configs of a single file, if there is one."""
    return _with_noising(family, configs.get(KEY), configs.get(KEY))


def noising_to_json(noising: Noising, *, with_level: bool) -> dict[str, object]:
    """The config of Diffusers' scheduler for it; `with_level` for a single file, with the limit."""
    scheduler = scheduler_to_json(noising.process, SamplerHint("ddpm", None))
    json = {name: scheduler[name] for name in _KEPT if name in scheduler}
    json |= {"_class_name": "DDPMScheduler", "clip_sample": False}
    return {**json, MAX_LEVEL: noising.max_level} if with_level else json


def _with_noising(family: Family, scheduler: JsonObject | None, index: JsonObject | None) -> Family:
    """Raises CheckpointError for a noising that we do not have, and a limit beyond its levels."""
    noising, known = family.noising, family.backbone.noise_levels
    if noising is None or known is None:
        return family
    if scheduler is not None:
        process = process_from_json(scheduler)
        if process.kind != "ddpm":
            raise CheckpointError(
                f"{scheduler.source}: a picture is noised by betas, as in DDPM; this describes "
                f"{process.kind}"
            )
        noising = replace(noising, process=process)
    if index is not None:
        noising = replace(noising, max_level=index.whole(MAX_LEVEL, noising.max_level))
    highest = min(known, noising.process.steps) - 1
    if noising.max_level > highest:
        source = index.source if index is not None else "the model"
        raise CheckpointError(
            f"{source}: {MAX_LEVEL} is {noising.max_level}; the model knows levels 0 to {highest}"
        )
    return replace(family, noising=noising)
