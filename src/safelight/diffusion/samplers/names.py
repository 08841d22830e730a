"""From the name of a sampler, as any common program writes it, to the sampler.

A1111 and its forks ("DPM++ 2M", before 1.9 "DPM++ 2M Karras"), k-diffusion (sample_dpmpp_2m),
ComfyUI and Fooocus (dpmpp_2m, dpmpp_2m_sde_gpu), Diffusers (DPMSolverMultistepScheduler),
InvokeAI (dpmpp_2m_k), CompVis (k_euler) and stable-diffusion.cpp (dpm++2m).
"""

import difflib
import re
from functools import cache

from safelight.diffusion.samplers.table import SAMPLERS, SamplerInfo
from safelight.diffusion.schedules import resolve_schedule
from safelight.errors import RequestError
from safelight.printable import shown

LONGEST = 100  # characters of a name; longer ones are none, and are not looked at piece by piece
# Endings of combined names that are no schedule names of their own.
SHORT_SCHEDULES = {"k": "karras", "ka": "karras", "exp": "exponential"}


def resolve_sampler(name: str) -> SamplerInfo:
    """The sampler of that name, of whatever program; case, blanks, - and _ do not matter.

    Raises RequestError if there is none, or if the name also names a schedule ("DPM++ 2M
    Karras"): then ask `resolve_sampler_and_schedule`.
    """
    info, schedule = resolve_sampler_and_schedule(name)
    if schedule is not None:
        raise RequestError(
            f"{shown(name, 60)!r} names a sampler and a schedule; give them apart: "
            f"sampler {info.label!r}, schedule {schedule!r}."
        )
    return info


def resolve_sampler_and_schedule(name: str) -> tuple[SamplerInfo, str | None]:
    """The sampler, and the schedule if the name carries one ("DPM++ 2M Karras", "euler_k").

    Raises RequestError that lists the nearest and all labels if there is no such sampler.
    """
    if len(name) > LONGEST:
        raise RequestError(_unknown(name))
    found = _by_key().get(_key(name))
    if found is not None:
        return found, None
    words = [word for word in re.split(r"[\s_-]+", name.strip()) if word]
    for cut in range(len(words) - 1, 0, -1):
        found = _by_key().get(_key(" ".join(words[:cut])))
        schedule = _schedule(" ".join(words[cut:]))
        if found is not None and schedule is not None:
            return found, schedule
    raise RequestError(_unknown(name))


def _schedule(name: str) -> str | None:
    if name.lower() in SHORT_SCHEDULES:
        return SHORT_SCHEDULES[name.lower()]
    try:
        return resolve_schedule(name).name
    except RequestError:
        return None


@cache
def _by_key() -> dict[str, SamplerInfo]:
    table: dict[str, SamplerInfo] = {}
    for info in SAMPLERS.values():
        for name in (info.name, info.label, *info.aliases):
            if table.setdefault(_key(name), info) is not info:
                raise AssertionError(f"{name!r} names two samplers")
    return table


def _key(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower().replace("+", "p"))


def _unknown(name: str) -> str:
    near = difflib.get_close_matches(_key(name[:LONGEST]), _by_key(), n=3, cutoff=0.6)
    labels = list(dict.fromkeys(_by_key()[key].label for key in near))
    guess = f" Did you mean {' or '.join(labels)}?" if labels else ""
    every = ", ".join(info.label for info in SAMPLERS.values())
    return f"unknown sampler {shown(name, 60)!r}.{guess} Samplers are: {every}."
