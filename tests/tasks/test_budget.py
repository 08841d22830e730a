"""A budget is read, the best way that fits is taken, and a refusal comes with remedies."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cli_tiny import tiny_model
from safelight.checkpoints.save import save
from safelight.engines.budget_rates import Rates, measured_rates
from safelight.engines.budget_work import Work
from safelight.engines.disturbance import Watch
from safelight.errors import RequestError
from safelight.families import FAMILIES
from safelight.model import Model
from safelight.models.backbone import Backbone
from safelight.models.blank import blank
from safelight.models.clip import ClipText
from safelight.models.unet import UNet
from safelight.tasks import budget_learning
from safelight.tasks.budget import Budget, Planned, planned, read_budget, setups_of
from safelight.tasks.budget_learning import (
    Trial,
    machine_of,
    planned_within,
    rates_for,
    remember,
    remembered,
)
from safelight.tasks.budget_prediction import Setup, bytes_of, passes_of, predicted, seconds_of
from safelight.tasks.generate import generate, settled
from safelight.tasks.loading import Models
from safelight.tasks.request import Request
from safelight.tasks.supplies import Supplies
from safelight.text.conditioner import Conditioner

CPU = torch.device("cpu")
# of two Zen 4 cores, about
FP32 = Rates(188e9, 400e9, 180e9, 115e9, 1e-4)
BF16 = Rates(390e9, 800e9, 340e9, 115e9, 1e-4)
KNOWN = {("eager", "fp32"): FP32, ("eager", "bf16"): BF16}
BASE = 0.26e9


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAFELIGHT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(Watch, "disturbed", lambda watch: False)


def weightless(name: str) -> Model:
    """A published model without its weights."""
    family = FAMILIES[name]
    with blank():
        text = Conditioner(family.text, [ClipText(r.encoder) for r in family.text.roles])
        network, codec = Backbone(UNet(family.backbone)), family.codec.build()
    return Model(family, text, network, codec, family.process.build())


@pytest.fixture(scope="module")
def sd15() -> Model:
    return weightless("sd15")


@pytest.fixture(scope="module")
def sdxl() -> Model:
    return weightless("sdxl")


def asked(**settings: Any) -> Request:
    return Request.parse({"prompt": "a red apple", "seed": 1, **settings})


def way(request: Request, model: Model, budget: str) -> Planned:
    (one,) = settled(request.replace(count=1), model)
    return planned(request, one, model, read_budget(budget), KNOWN, base=BASE)


# -- reading ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "seconds", "nbytes"),
    [
        ("60s 4GB", 60, 4e9),
        ("4gb, 60 S".replace(" S", "s"), 60, 4e9),
        ("1.5min", 90, None),
        ("2h", 7200, None),
        ("512MiB", None, 512 * 2**20),
        ("3.5GB", None, 3.5e9),
    ],
)
def test_a_budget_is_a_time_a_size_or_both(
    text: str, seconds: float | None, nbytes: float | None
) -> None:
    infinite = float("inf")
    assert read_budget(text) == Budget(seconds or infinite, nbytes or infinite)


@pytest.mark.parametrize(
    "text", ["", "60", "GB", "60s 70s", "-3s", "0GB", "4 GB", "1e3s", "5 apples"]
)
def test_what_is_no_budget_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(RequestError, match="60s 4GB"):
        read_budget(text)


# -- choosing --------------------------------------------------------------------------------------


def test_what_fits_as_it_is_stays_as_it_is(sd15: Model) -> None:
    plan = way(asked(), sd15, "1h 30GB")
    assert plan.setup == Setup("fp32")
    assert plan.prediction.seconds <= 3600 and plan.prediction.nbytes <= 30e9
    assert (plan.request.dtype, plan.request.offload, plan.request.tile_vae) == (
        "fp32",
        "none",
        None,
    )


def test_the_first_way_in_the_order_of_preference_is_taken(sd15: Model) -> None:
    request = asked()
    (one,) = settled(request, sd15)
    for gigabytes in np.arange(1.0, 8.0, 0.25):
        limit = gigabytes * 1e9
        fitting = [
            setup
            for setup in setups_of(request, KNOWN)
            if predicted(
                one, sd15, setup, KNOWN[setup.engine, setup.dtype], base=BASE, pictures=1
            ).nbytes
            <= limit
        ]
        if fitting:
            assert way(request, sd15, f"{gigabytes}GB").setup == fitting[0]


def test_exact_means_come_before_another_number_type(sd15: Model) -> None:
    order = list(setups_of(asked(), KNOWN))
    kinds = [setup.dtype for setup in order]
    assert kinds == sorted(kinds, reverse=True)  # all of fp32, then bf16
    assert order[0] == Setup("fp32") and len(order) == len(set(order)) == 12


def test_a_shorter_time_takes_a_faster_type(sd15: Model) -> None:
    slow = way(asked(steps=20), sd15, "30min")
    fast = way(asked(steps=20), sd15, "150s")
    assert slow.setup.dtype == "fp32" and fast.setup == Setup("bf16")
    assert fast.prediction.seconds <= 150 < slow.prediction.seconds


def test_what_the_user_said_stays(sd15: Model) -> None:
    assert {s.dtype for s in setups_of(asked(dtype="bf16"), KNOWN)} == {"bf16"}
    assert {s.offload for s in setups_of(asked(offload="none"), KNOWN)} == {"none"}
    assert {s.offload for s in setups_of(asked(offload="parts"), KNOWN)} == {"parts"}
    assert {s.bands for s in setups_of(asked(tile_vae=False), KNOWN)} == {False}
    with pytest.raises(RequestError, match="the nearest is fp32, all parts in memory"):
        way(asked(dtype="fp32", offload="none"), sd15, "1GB")


def test_engines_that_round_more_are_taken_only_where_a_drift_is_allowed() -> None:
    inexact = {("rough", "fp32"): FP32, **KNOWN}
    from safelight.engines import table
    from safelight.tasks import budget

    rough = table.Engine("rough", "", lambda: None, lambda model: model, exact=False)
    engines = {**table.ENGINES, "rough": rough}
    for drift, expected in ((0.0, False), (0.1, True)):
        request = asked(reuse={"steps": drift})
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(budget, "ENGINES", engines)
            found = {setup.engine for setup in setups_of(request, inexact)}
        assert ("rough" in found) == expected


def test_an_engine_whose_rates_are_unknown_is_not_taken() -> None:
    assert {setup.engine for setup in setups_of(asked(), KNOWN)} == {"eager"}
    assert not list(setups_of(asked(), {}))


def test_a_refusal_names_the_nearest_way_and_remedies_that_work(sd15: Model) -> None:
    with pytest.raises(RequestError) as refused:
        way(asked(steps=20), sd15, "30s 12GB")
    words = str(refused.value)
    assert "30 s and 12.0 GB" in words and "bf16" in words and "--reuse 0.05" in words
    steps = int(words.split("--steps ")[1].split()[0].rstrip(",;."))
    assert way(asked(steps=steps), sd15, "30s 12GB").prediction.seconds <= 30
    other = words.split("--budget '")[1].split("'")[0]
    assert way(asked(steps=20), sd15, other).request


def test_a_refusal_for_memory_does_not_advise_fewer_steps(sd15: Model) -> None:
    with pytest.raises(RequestError) as refused:
        way(asked(), sd15, "0.5GB")
    assert "--steps" not in str(refused.value) and "a smaller --size" in str(refused.value)


# -- predicting ------------------------------------------------------------------------------------


def test_more_of_anything_takes_longer(sd15: Model) -> None:
    def seconds(count: int = 1, **settings: Any) -> float:
        blank = np.zeros((512, 512, 3), dtype=np.uint8)
        (one,) = settled(asked(**settings), sd15, Supplies({"given": blank}))
        return seconds_of(one, sd15, Setup("fp32"), FP32, count)

    plain = seconds(width=512, height=512)
    assert seconds(width=512, height=512, steps=40) == pytest.approx(2 * plain, rel=0.15)
    assert seconds(width=768, height=768) > 2.25 * plain
    assert seconds(count=2, width=512, height=512) > 1.9 * plain
    assert seconds(width=512, height=512, cfg_scale=1) < 0.7 * plain
    assert seconds(width=512, height=512, sampler="Heun") > 1.7 * plain
    assert seconds(width=512, height=512, hires={"scale": 2.0}) > 5 * plain
    assert seconds(width=512, height=512, guidance={"pag": {}}) > 1.3 * plain
    assert (
        seconds(width=512, height=512, regions=[{"prompt": "a cat", "box": "left"}]) > 1.8 * plain
    )
    half = seconds(width=512, height=512, source={"picture": "given", "strength": 0.5})
    assert 0.5 * plain < half < 0.8 * plain


def test_windows_are_counted_as_they_lie(sd15: Model) -> None:
    (one,) = settled(
        asked(width=1024, height=512, tiles={"size": (512, 512), "overlap": 128}), sd15
    )
    (run,) = passes_of(one, sd15)
    assert run.size == (64, 64) and run.calls == 3 * one.steps


def test_each_way_takes_less_memory_than_the_one_before(sdxl: Model) -> None:
    (one,) = settled(asked(width=1024, height=1024), sdxl)
    ways = [
        Setup("fp32"),
        Setup("bf16"),
        Setup("bf16", offload="parts"),
        Setup("bf16", offload="parts", bands=True),
        Setup("bf16", offload="sequential", bands=True),
    ]
    sizes = [bytes_of(one, sdxl, setup, base=BASE) for setup in ways]
    assert all(b <= a for a, b in pairwise(sizes))
    assert sizes[0] > 14e9 and sizes[2] < 8e9 and sizes[-1] < 4e9


def test_a_batch_takes_memory_for_all_its_pictures(sd15: Model) -> None:
    (one, *_) = settled(asked(width=512, height=512, count=4, batch=4, exact=False), sd15)
    alone = predicted(one.replace(batch=1), sd15, Setup("fp32"), FP32, base=BASE, pictures=4)
    together = predicted(one.replace(batch=4), sd15, Setup("fp32"), FP32, base=BASE, pictures=4)
    assert together.nbytes > alone.nbytes


def test_block_by_block_costs_reading_the_unet_at_every_call(sd15: Model) -> None:
    (one,) = settled(asked(width=512, height=512), sd15)
    parts = seconds_of(one, sd15, Setup("bf16", offload="parts"), BF16, 1)
    blocks = seconds_of(one, sd15, Setup("bf16", offload="sequential"), BF16, 1)
    assert 1.2 * 20 < blocks - parts < 2 * 20


# -- learning --------------------------------------------------------------------------------------


def test_rates_learn_half_of_what_a_drawing_took_longer() -> None:
    assert FP32.learnt(4.0).slower == 2 and FP32.learnt(0.25).slower == 0.5
    assert FP32.learnt(1e9).slower == 2  # a machine that was asleep
    learnt = FP32
    for _ in range(12):
        learnt = learnt.learnt(1.5 / learnt.slower)
    assert learnt.slower == pytest.approx(1.5, rel=1e-3)
    assert learnt.seconds(Work(1e12)) == pytest.approx(1.5 * FP32.seconds(Work(1e12)), rel=1e-3)


@pytest.mark.slow
def test_this_machine_has_rates() -> None:
    rates = measured_rates(torch.float32, CPU)
    for kind in ("convolution", "upsampling", "linear", "attention"):
        assert 1e8 < getattr(rates, kind) < 1e15
    assert 1e-7 < rates.layer < 1e-2


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[torch.dtype]:
    """Which types were measured; nothing is."""
    asked_for: list[torch.dtype] = []

    def rates(dtype: torch.dtype, device: torch.device) -> Rates:
        asked_for.append(dtype)
        return FP32 if dtype == torch.float32 else BF16

    monkeypatch.setattr(budget_learning, "measured_rates", rates)
    return asked_for


def test_a_type_is_measured_once(measured: list[torch.dtype]) -> None:
    assert rates_for(["fp32"], CPU) == {("eager", "fp32"): FP32}
    assert rates_for(["fp32", "bf16"], CPU) == KNOWN
    assert rates_for(["bf16"], CPU) == KNOWN
    assert measured == [torch.float32, torch.bfloat16]


@pytest.mark.parametrize(
    "damage",
    [
        b"",
        b"{",
        b"[]",
        b'{"MACHINE": 3}',
        b'{"MACHINE": {"eager fp32": {"convolution": 1}}}',
        b'{"MACHINE": {"eager fp32": {"convolution": "a", "upsampling": 1, "linear": 1, '
        b'"attention": 1, "layer": 1, "slower": 1}}}',
        b'{"MACHINE": {"eager fp32": {"convolution": -1, "upsampling": 1, "linear": 1, '
        b'"attention": 1, "layer": 1, "slower": 1}}}',
    ],
)
def test_a_damaged_file_is_measured_anew(damage: bytes, measured: list[torch.dtype]) -> None:
    remember("other", {})
    path = budget_learning._path()
    path.write_bytes(damage.replace(b"MACHINE", machine_of(CPU).encode()))
    assert rates_for(["fp32"], CPU) == {("eager", "fp32"): FP32}
    assert remembered(machine_of(CPU)) == {("eager", "fp32"): FP32}
    assert json.loads(path.read_text("utf-8"))


def test_machines_do_not_share_rates(measured: list[torch.dtype]) -> None:
    remember("another machine", KNOWN)
    assert remembered(machine_of(CPU)) == {}
    rates_for(["fp32"], CPU)
    assert remembered("another machine") == KNOWN


# -- from a file to a picture ----------------------------------------------------------------------


def test_a_drawing_within_a_budget_holds_what_was_chosen_and_teaches_the_rates(
    tmp_path: Path, measured: list[torch.dtype], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(budget_learning, "process_bytes", lambda: 3e8)
    path = tmp_path / "model.safetensors"
    save(tiny_model(), path, "ldm")
    request = asked(model=str(path), width=64, height=64, steps=2, dtype="fp32")
    models = Models()
    whole = planned_within(request, Budget(nbytes=60e9), models)
    limit = whole.prediction.nbytes - 0.1e6  # less than all parts at once
    plan = planned_within(request, Budget(60, limit), models)
    assert plan.setup.offload != "none" or plan.setup.bands
    trial = Trial(plan)
    (picture,) = generate(models.of(plan.request), plan.request)
    said = trial.ended()
    assert picture.recipe.request.offload == plan.setup.offload
    assert picture.recipe.request.dtype == plan.setup.dtype
    assert "predicted were" in said and "took" in said
    assert remembered(machine_of(CPU))["eager", plan.setup.dtype].slower != 1
    (plain,) = generate(models.of(request), request)
    assert np.abs(plain.pixels.astype(int) - picture.pixels).max() <= 1  # bands sum in their order


def test_rates_of_a_busy_machine_are_used_and_not_remembered(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(Watch, "disturbed", lambda watch: True)
    assert ("eager", "fp32") in rates_for(["fp32"], CPU)
    assert remembered(machine_of(CPU)) == {}
    assert "not remembered" in caplog.text
    monkeypatch.setattr(Watch, "disturbed", lambda watch: False)
    assert remembered(machine_of(CPU)) == {} != rates_for(["fp32"], CPU)
    assert ("eager", "fp32") in remembered(machine_of(CPU))
