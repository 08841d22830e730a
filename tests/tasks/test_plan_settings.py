"""Settings of a request that decide the first noise and its levels reach them."""

from types import SimpleNamespace
from typing import cast

import torch

from safelight.diffusion.noise import Noise
from safelight.diffusion.prediction import EPS
from safelight.diffusion.process import ddpm
from safelight.diffusion.samplers import resolve_sampler
from safelight.diffusion.schedules import karras
from safelight.model import Model
from safelight.tasks.plan import _start_rule, first_noise, levels
from safelight.tasks.request import Request, ScheduleOptions

PROCESS = ddpm(EPS)
MODEL = cast(
    Model,
    SimpleNamespace(
        process=PROCESS,
        device=torch.device("cpu"),
        codec=SimpleNamespace(channels=4, factor=8),
        family=SimpleNamespace(text=SimpleNamespace(vector="none")),
    ),
)


def test_schedule_options_reach_the_schedule() -> None:
    request = Request(
        prompt="", steps=5, schedule="Karras", schedule_options=ScheduleOptions(rho=3)
    )
    name, sigmas = levels(MODEL, request, resolve_sampler("Euler"))
    assert name == "karras" and torch.equal(sigmas, karras(PROCESS, 5, rho=3))


def test_resize_from_is_width_then_height() -> None:
    request = Request(prompt="", seed=3, width=64, height=128, resize_from=(32, 96))
    expected = Noise([3], (4, 16, 8), resize_from=(12, 4))()
    assert torch.equal(first_noise(MODEL, [request])(), expected)
    assert not torch.equal(first_noise(MODEL, [request.replace(resize_from=None)])(), expected)


def test_a_named_start_rule_wins_over_the_samplers() -> None:
    euler, ddim = resolve_sampler("Euler"), resolve_sampler("DDIM")
    assert _start_rule(Request(prompt="", start="unit"), euler, "normal") == "unit"
    assert _start_rule(Request(prompt="", start="sigma"), ddim, "leading") == "sigma"
    assert _start_rule(Request(prompt=""), ddim, "leading") == ddim.start
