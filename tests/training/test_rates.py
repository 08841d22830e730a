"""Factors on the learning rate of some weights: which they reach, and what they do."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from safelight.errors import RequestError
from safelight.training.loop import train
from safelight.training.optimizers import driver
from safelight.training.precision import learnable
from safelight.training.settings import stands_for
from training_tiny import Denoising, Net, Pictures, files_equal, net, settings

YES = torch.tensor(True)


def stepped(optimizer: str, **rates: float) -> dict[str, Tensor]:
    """How far each weight moved in one step from equal gradients."""
    network = net()
    generator = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    told = settings(optimizer=optimizer, weight_decay=0.0, rates=rates)
    driver(told, "net", network, learnable(network)).step(0.01, YES)
    return {name: p.detach() - before[name] for name, p in network.named_parameters()}


@pytest.mark.parametrize(
    ("name", "weight", "fits"),
    [
        ("down", "down.0.weight", True),
        ("down.0", "down.0.weight", True),
        ("down.0.weight", "down.0.weight", True),
        ("dow", "down.0.weight", False),
        ("down.1", "down.10.weight", False),
        ("*.weight", "down.0.weight", True),
        ("down.*.proj", "down.0.proj.weight", True),
        ("*.up", "down.0.up", True),
        ("*.up", "down.0.down", False),
    ],
)
def test_a_name_is_of_a_weight_of_its_module_or_a_pattern(
    name: str, weight: str, fits: bool
) -> None:
    assert stands_for(name, weight) is fits


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_rate_scales_the_steps_of_its_weights_and_no_others(optimizer: str) -> None:
    plain = stepped(optimizer)
    scaled = stepped(optimizer, mix=0.25, stem=0.0, **{"*.bias": 2.0})
    wanted = {
        "mix.weight": 0.25, "mix.bias": 0.5, "stem.weight": 0.0, "stem.bias": 0.0,
        "out.bias": 2.0, "out.weight": 1.0, "kinds.weight": 1.0, "norm.weight": 1.0,
    }  # fmt: skip
    for name, factor in wanted.items():
        assert torch.allclose(scaled[name], factor * plain[name], rtol=1e-3, atol=1e-6), name


def test_prodigy_refuses_rates_before_it_asks_for_its_package() -> None:
    network = net()
    told = settings(optimizer="prodigy", rates={"mix": 0.5})
    with pytest.raises(RequestError, match=r"rates must be 0 or 1; got 0\.5"):
        driver(told, "net", network, learnable(network))


def run(folder: Path, network: Net, **changes: Any) -> None:
    train(Denoising(network), Pictures(), settings(**changes), folder)


def test_a_resumed_run_with_rates_has_the_same_bits(tmp_path: Path) -> None:
    told: dict[str, Any] = {"rates": {"mix": 0.1, "kinds": 3.0}, "schedule": "constant"}
    run(tmp_path / "whole", net(), **told)
    run(tmp_path / "parts", net(), steps=4, **told)
    run(tmp_path / "parts", net(), **told)
    name = "checkpoints/step-00000010"
    assert files_equal(tmp_path / "whole" / name, tmp_path / "parts" / name)


def test_a_run_does_not_go_on_with_other_rates(tmp_path: Path) -> None:
    run(tmp_path, net(), rates={"mix": 0.5}, steps=2)
    with pytest.raises(RequestError, match="rates was"):
        run(tmp_path, net(), rates={"mix": 0.25}, steps=4)


def test_a_run_that_knew_no_rates_goes_on_without(tmp_path: Path) -> None:
    run(tmp_path, net(), steps=2)
    state = tmp_path / "checkpoints/step-00000002/state.json"
    told = state.read_text()
    assert '"rates": {}' in told
    state.write_text(told.replace('"rates": {},', ""))
    run(tmp_path, net(), steps=3)
    assert (tmp_path / "checkpoints/step-00000003").is_dir()


@pytest.mark.parametrize("rate", [-1.0, float("nan"), float("inf")])
def test_a_rate_that_is_none_is_refused(rate: float) -> None:
    with pytest.raises(RequestError, match="rates must be 0 or more"):
        settings(rates={"mix": rate})


def test_a_rate_of_no_weight_is_refused_before_anything_is_learned(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"rates\.mxi stands for nothing that learns"):
        run(tmp_path, net(), rates={"mxi": 0.5})
    assert not list(tmp_path.rglob("step-*"))
