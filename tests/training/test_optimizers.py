"""Optimizers by name: their groups, their state, and what a step that is not finite does."""

import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from safelight.errors import CheckpointError, RequestError
from safelight.training.loop import train
from safelight.training.optimizers import Driver, Guarded, WithMuon, driver
from safelight.training.precision import learnable, weights_of
from training_tiny import Denoising, Net, Pictures, net, settings

YES, NO = torch.tensor(True), torch.tensor(False)


def made(network: nn.Module, **changes: Any) -> Driver:
    named: Mapping[str, Tensor] = learnable(network)
    return driver(settings(weight_decay=0.1, **changes), "net", network, named)


def with_gradients(network: nn.Module, seed: int = 0) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    for parameter in network.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator).contiguous()
        if parameter.ndim == 4 and not parameter.is_contiguous():
            parameter.grad = parameter.grad.contiguous(memory_format=torch.channels_last)
    return network


def values(network: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in network.named_parameters()}


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_decay_touches_matrices_only(optimizer: str) -> None:
    """With no gradient a weight moves only by decay: not norms, biases and embeddings."""
    network = net()
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    before = values(network)
    made(network, optimizer=optimizer).step(0.5, YES)
    moved = {
        name for name, value in values(network).items() if not torch.equal(value, before[name])
    }
    assert moved == {"stem.weight", "middle.weight", "mix.weight", "wide.weight", "out.weight"}
    for name in moved:
        assert torch.allclose(dict(network.named_parameters())[name], before[name] * 0.95)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_step_that_is_not_finite_changes_nothing(optimizer: str) -> None:
    network = with_gradients(net())
    one = made(network, optimizer=optimizer)
    one.step(0.01, YES)
    before, memory = values(network), {n: t.clone() for n, t in one.tensors().items()}
    for parameter in network.parameters():
        parameter.grad = torch.full_like(parameter, float("nan"))
    one.step(0.01, NO)
    assert all(torch.equal(value, before[name]) for name, value in values(network).items())
    assert all(torch.equal(value, memory[name]) for name, value in one.tensors().items())


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_restored_optimizer_takes_the_same_steps(
    optimizer: str, layout: torch.memory_format
) -> None:
    def laid(seed: int) -> Net:
        network = net(seed)
        for parameter in network.parameters():
            if parameter.ndim == 4:
                parameter.data = parameter.data.contiguous(memory_format=layout)
        return network

    first, second = laid(0), laid(0)
    one = made(first, optimizer=optimizer)
    for seed in range(3):
        with_gradients(first, seed)
        one.step(0.01, YES)
    second.load_state_dict(first.state_dict())
    other = made(second, optimizer=optimizer)
    other.restore({n: t.clone() for n, t in one.tensors().items()}, one.scalars())
    for network, each in ((first, one), (second, other)):
        with_gradients(network, 7)
        each.step(0.01, YES)
    for name, value in values(first).items():
        assert torch.equal(value, values(second)[name]), name


def test_muon_treats_a_convolution_as_a_matrix_in_any_order_of_memory() -> None:
    """The update is orthogonal: its singular values are near 1 after scaling."""
    results = []
    for layout in (torch.contiguous_format, torch.channels_last):
        network = net()
        for parameter in network.parameters():
            if parameter.ndim == 4:
                parameter.data = parameter.data.contiguous(memory_format=layout)
        before = network.middle.weight.detach().clone()
        with_gradients(network)
        named = {"middle.weight": network.middle.weight}
        WithMuon(named, frozenset(), 0.0, {}).step(0.01, YES)
        results.append((network.middle.weight.detach() - before).flatten(1))
    assert torch.allclose(results[0], results[1], atol=2e-4)  # Muon computes in bfloat16
    singular = torch.linalg.svdvals(results[0])
    assert singular.max() / singular.min() < 2.0
    raw = torch.linalg.svdvals(with_gradients(net()).get_parameter("middle.weight").grad.flatten(1))  # type: ignore[union-attr]
    assert raw.max() / raw.min() > 1.5 * singular.max() / singular.min()


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_muon_trains(tmp_path: Path, precision: str) -> None:
    given = settings(
        optimizer="muon", steps=60, precision=precision, log_every=20, learning_rate=2e-2
    )
    outcome = train(Denoising(), Pictures(4), given, tmp_path)
    assert outcome.figures["net/loss"] < 0.2


def test_state_of_another_network_is_refused() -> None:
    one, other = made(with_gradients(net())), made(nn.Linear(3, 3))
    one.step(0.01, YES)
    with pytest.raises(CheckpointError, match=r"unknown weight|groups"):
        other.restore(one.tensors(), one.scalars())
    with pytest.raises(CheckpointError, match="groups"):
        one.restore({}, {})


@pytest.mark.parametrize(
    ("name", "package"), [("prodigy", "prodigyopt"), ("adamw8bit", "bitsandbytes")]
)
def test_a_missing_library_is_named_with_its_extra(
    name: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setitem(sys.modules, f"{package}.optim", None)
    with pytest.raises(
        RequestError, match=rf"needs the package {package}.*safelight\[optimizers\]"
    ):
        made(net(), optimizer=name)


class Adaptive(torch.optim.Optimizer):
    """Keeps, as Prodigy does, numbers beside its tensors: a step size in its group, a count."""

    def __init__(self, params: Any, lr: float = 1.0, **rest: Any) -> None:
        super().__init__(params, {"lr": lr, "d": 1e-3, "k": 0, **rest})

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            group["d"] *= 1.1
            group["k"] += 1
            for p in group["params"]:
                state = self.state[p]
                state["count"] = state.get("count", 0) + 1
                state.setdefault("s", torch.zeros_like(p)).add_(p.grad)
                p.data.sub_(state["s"], alpha=group["lr"] * group["d"] / state["count"])


def test_an_optimizer_with_numbers_of_its_own_resumes_exactly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in = ModuleType("prodigyopt")
    stand_in.Prodigy = Adaptive  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "prodigyopt", stand_in)
    short, long = (
        settings(optimizer="prodigy", steps=n, schedule="constant", learning_rate=1.0)
        for n in (4, 8)
    )
    unbroken = train(Denoising(), Pictures(), long, tmp_path / "a")
    train(Denoising(), Pictures(), short, tmp_path / "b")
    resumed = train(Denoising(), Pictures(), long, tmp_path / "b")
    for name, value in unbroken.weights["net"].items():
        assert torch.equal(value, resumed.weights["net"][name]), name


@pytest.mark.parametrize("name", ["prodigy", "adamw8bit"])
def test_optional_optimizers_train_and_resume_exactly(tmp_path: Path, name: str) -> None:
    rate = 1.0 if name == "prodigy" else 1e-3
    short, long = (
        settings(optimizer=name, steps=n, schedule="constant", learning_rate=rate) for n in (6, 30)
    )
    unbroken = train(Denoising(), Pictures(), long, tmp_path / "a")
    train(Denoising(), Pictures(), short, tmp_path / "b")
    resumed = train(Denoising(), Pictures(), long, tmp_path / "b")
    for key, value in unbroken.weights["net"].items():
        assert torch.equal(value, resumed.weights["net"][key]), key
    assert not torch.equal(unbroken.weights["net"]["mix.weight"], net().mix.weight)


def test_gradients_of_weights_without_a_part_in_the_loss_are_zero() -> None:
    for bf16 in (False, True):
        network = net()
        kept = weights_of(network, bf16=bf16)
        kept.begin()
        network.mix.weight.float().sum().backward()
        kept.gather()
        found = dict(zip(kept.names, kept.gradients(), strict=True))
        assert found["mix.weight"].eq(1).all() and found["stem.weight"].eq(0).all()
        assert all(gradient.dtype == torch.float32 for gradient in found.values())


def test_adamw_is_fused_so_that_it_never_asks_the_host() -> None:
    one = made(net())
    assert isinstance(one, Guarded) and one._optimizer.defaults["fused"]
