"""The table of samplers: names of other programs, options, defaults, messages."""

import inspect
import math

import pytest

from safelight.diffusion.samplers import (
    SAMPLERS,
    SamplerInfo,
    resolve_sampler,
    resolve_sampler_and_schedule,
)
from safelight.diffusion.schedules import SCHEDULES, resolve_schedule
from safelight.errors import RequestError

# A1111's list with the schedule that its "Automatic" means; UniPC there has its own, even in time
# down to the smallest level, and LCM evenly spaced ones of those it was distilled at.
A1111 = {
    "DPM++ 2M": ("dpmpp_2m", "karras"),
    "DPM++ SDE": ("dpmpp_sde", "karras"),
    "DPM++ 2M SDE": ("dpmpp_2m_sde", "exponential"),
    "DPM++ 2M SDE Heun": ("dpmpp_2m_sde_heun", "exponential"),
    "DPM++ 2S a": ("dpmpp_2s_ancestral", "karras"),
    "DPM++ 3M SDE": ("dpmpp_3m_sde", "exponential"),
    "Euler a": ("euler_ancestral", "normal"),
    "Euler": ("euler", "normal"),
    "LMS": ("lms", "normal"),
    "Heun": ("heun", "normal"),
    "DPM2": ("dpm2", "karras"),
    "DPM2 a": ("dpm2_ancestral", "karras"),
    "DPM fast": ("dpm_fast", "normal"),
    "DPM adaptive": ("dpm_adaptive", "normal"),
    "Restart": ("restart", "karras"),
    "DDIM": ("ddim", "ddim_uniform"),
    "PLMS": ("plms", "ddim_uniform"),
    "UniPC": ("uni_pc", "sgm_uniform"),
    "LCM": ("lcm", "lcm"),
}

ELSEWHERE = {
    # ComfyUI and Fooocus
    "euler": "euler",
    "euler_ancestral": "euler_ancestral",
    "heun": "heun",
    "heunpp2": "heunpp2",
    "dpm_2": "dpm2",
    "dpm_2_ancestral": "dpm2_ancestral",
    "lms": "lms",
    "dpm_fast": "dpm_fast",
    "dpm_adaptive": "dpm_adaptive",
    "dpmpp_2s_ancestral": "dpmpp_2s_ancestral",
    "dpmpp_sde": "dpmpp_sde",
    "dpmpp_sde_gpu": "dpmpp_sde",
    "dpmpp_2m": "dpmpp_2m",
    "dpmpp_2m_sde": "dpmpp_2m_sde",
    "dpmpp_2m_sde_gpu": "dpmpp_2m_sde",
    "dpmpp_2m_sde_heun": "dpmpp_2m_sde_heun",
    "dpmpp_2m_sde_heun_gpu": "dpmpp_2m_sde_heun",
    "dpmpp_3m_sde": "dpmpp_3m_sde",
    "dpmpp_3m_sde_gpu": "dpmpp_3m_sde",
    "ddpm": "ddpm",
    "lcm": "lcm",
    "ipndm": "ipndm",
    "ipndm_v": "lms",
    "deis": "deis",
    "ddim": "ddim",
    "uni_pc": "uni_pc",
    "uni_pc_bh2": "uni_pc_bh2",
    "tcd": "tcd",
    # Diffusers
    "EulerDiscreteScheduler": "euler",
    "EulerAncestralDiscreteScheduler": "euler_ancestral",
    "FlowMatchEulerDiscreteScheduler": "euler",
    "FlowMatchHeunDiscreteScheduler": "heun",
    "HeunDiscreteScheduler": "heun",
    "KDPM2DiscreteScheduler": "dpm2",
    "KDPM2AncestralDiscreteScheduler": "dpm2_ancestral",
    "LMSDiscreteScheduler": "lms",
    "PNDMScheduler": "plms",
    "IPNDMScheduler": "ipndm",
    "DDIMScheduler": "ddim",
    "DDPMScheduler": "ddpm",
    "DPMSolverMultistepScheduler": "dpmpp_2m",
    "DPMSolverSinglestepScheduler": "dpmpp_2s",
    "DPMSolverSDEScheduler": "dpmpp_sde",
    "UniPCMultistepScheduler": "uni_pc_bh2",
    "DEISMultistepScheduler": "deis",
    "LCMScheduler": "lcm",
    "TCDScheduler": "tcd",
    "EDMEulerScheduler": "euler",
    "EDMDPMSolverMultistepScheduler": "dpmpp_2m",
    # InvokeAI
    "euler_a": "euler_ancestral",
    "kdpm_2": "dpm2",
    "kdpm_2_a": "dpm2_ancestral",
    "dpmpp_2s": "dpmpp_2s",
    "dpmpp_3m": "dpmpp_3m",
    "pndm": "plms",
    "unipc": "uni_pc",
    # k-diffusion and CompVis
    "sample_dpmpp_2m_sde": "dpmpp_2m_sde",
    "sample_dpm_2_ancestral": "dpm2_ancestral",
    "k_euler": "euler",
    "k_dpm_ad": "dpm_adaptive",
    "restart_sampler": "restart",
    # stable-diffusion.cpp
    "dpm++2s_a": "dpmpp_2s_ancestral",
    "dpm++2m": "dpmpp_2m",
}

COMBINED = {
    "DPM++ 2M Karras": ("dpmpp_2m", "karras"),
    "DPM++ SDE Karras": ("dpmpp_sde", "karras"),
    "DPM++ 2M SDE Exponential": ("dpmpp_2m_sde", "exponential"),
    "DPM++ 2M SDE Heun Karras": ("dpmpp_2m_sde_heun", "karras"),
    "DPM++ 2S a Karras": ("dpmpp_2s_ancestral", "karras"),
    "DPM++ 3M SDE Exponential": ("dpmpp_3m_sde", "exponential"),
    "DPM2 a Karras": ("dpm2_ancestral", "karras"),
    "LMS Karras": ("lms", "karras"),
    "Euler SGM Uniform": ("euler", "sgm_uniform"),
    "Euler a Align Your Steps": ("euler_ancestral", "align_your_steps"),
    "dpmpp_2m_k": ("dpmpp_2m", "karras"),
    "kdpm_2_a_k": ("dpm2_ancestral", "karras"),
    "unipc_k": ("uni_pc", "karras"),
    "k_lms_ka": ("lms", "karras"),
    "ddim_trailing": ("ddim", "trailing"),
}


@pytest.mark.parametrize("label", A1111)
def test_a1111_labels_name_samplers_with_its_automatic_schedule(label: str) -> None:
    name, schedule = A1111[label]
    info = resolve_sampler(label)
    assert (info.name, info.label, info.default_schedule) == (name, label, schedule)
    assert resolve_sampler(label.lower()) is info
    assert resolve_sampler(f" {label.upper()} ") is info


@pytest.mark.parametrize("name", ELSEWHERE)
def test_names_of_other_programs_are_accepted(name: str) -> None:
    assert resolve_sampler(name).name == ELSEWHERE[name]


@pytest.mark.parametrize("name", COMBINED)
def test_a_schedule_within_the_name_is_split_off(name: str) -> None:
    info, schedule = resolve_sampler_and_schedule(name)
    assert (info.name, schedule) == COMBINED[name]
    assert schedule in SCHEDULES
    with pytest.raises(RequestError, match=f"give them apart.*{info.label.replace('+', '.')}"):
        resolve_sampler(name)


def test_a_plain_name_carries_no_schedule() -> None:
    for info in SAMPLERS.values():
        for name in (info.name, info.label, *info.aliases):
            assert resolve_sampler_and_schedule(name) == (info, None)


@pytest.mark.parametrize(
    ("wrong", "near"), [("DPM++ 2N", "DPM++ 2M"), ("eulr", "Euler"), ("uni_pcc", "UniPC")]
)
def test_an_unknown_name_is_answered_with_the_nearest_and_with_all(wrong: str, near: str) -> None:
    with pytest.raises(RequestError) as caught:
        resolve_sampler(wrong)
    message = str(caught.value)
    assert message.startswith(f"unknown sampler {wrong!r}. Did you mean ")
    assert near in message.split("Samplers are")[0]
    assert all(info.label in message for info in SAMPLERS.values())
    assert "\n" not in message


@pytest.mark.parametrize("wrong", ["", "karras", "zzz", "Karras Euler", "euler_cfg_pp"])
def test_what_is_no_sampler_is_refused(wrong: str) -> None:
    with pytest.raises(RequestError, match="unknown sampler"):
        resolve_sampler_and_schedule(wrong)


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_table_says_what_the_functions_take(name: str) -> None:
    info = SAMPLERS[name]
    parameters = inspect.signature(info.run).parameters
    keywords = {p.name: p.default for p in parameters.values() if p.kind is p.KEYWORD_ONLY}
    assert info.takes_process == ("process" in keywords)
    keywords.pop("process", None)
    assert keywords == {option.name: option.default for option in info.parameters}
    assert info.options == tuple(option.name for option in info.parameters)
    assert info.name == name
    assert resolve_schedule(info.default_schedule).name == info.default_schedule


@pytest.mark.parametrize("name", SAMPLERS)
def test_defaults_are_allowed_values(name: str) -> None:
    info = SAMPLERS[name]
    defaults = {option.name: option.default for option in info.parameters}
    assert info.checked(defaults) == defaults


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("dpmpp_2m", {"eta": 1.0}, "DPM\\+\\+ 2M has no option 'eta'; it takes no options."),
        ("ddim", {"order": 2}, "DDIM has no option 'order'; it takes eta, s_noise."),
        ("ddim", {"eta": -0.1}, "DDIM: eta must be a number of at least 0; got -0.1."),
        ("tcd", {"eta": 1.2}, "TCD: eta must be a number from 0 to 1; got 1.2."),
        ("uni_pc", {"order": 4}, "UniPC: order must be a whole number from 1 to 3; got 4."),
        ("uni_pc", {"order": 2.0}, "order must be a whole number from 1 to 3; got 2.0."),
        ("lms", {"order": True}, "order must be a whole number from 1 to 4; got True."),
        ("uni_pc", {"solver_type": "bh3"}, "solver_type must be bh1 or bh2; got 'bh3'."),
        ("euler", {"s_churn": math.nan}, "s_churn must be a number of at least 0; got nan."),
        ("euler", {"s_noise": "1"}, "s_noise must be a number of at least 0; got '1'."),
    ],
)
def test_a_wrong_option_is_refused_in_one_line(
    name: str, options: dict[str, float | int | str], message: str
) -> None:
    with pytest.raises(RequestError, match=message):
        SAMPLERS[name].checked(options)


def test_no_two_samplers_share_a_label() -> None:
    labels = [info.label.lower() for info in SAMPLERS.values()]
    assert len(set(labels)) == len(labels)
    assert all(isinstance(info, SamplerInfo) and info.meaning for info in SAMPLERS.values())
