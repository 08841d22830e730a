"""The training loop: what a step does, and what it must not depend on."""

import os
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from safelight.errors import RequestError
from safelight.training import surroundings
from safelight.training.journal import read_log
from safelight.training.loop import train
from safelight.training.order import Flat
from safelight.training.rate import learning_rate
from safelight.training.saving import load_tensors
from safelight.training.settings import Settings
from safelight.training.watch import Moment, Outcome, Watch
from training_tiny import Denoising, Duel, Net, Pictures, files_equal, net, settings


def run(folder: Path, task: Any = None, **changes: Any) -> Outcome:
    extra = {k: changes.pop(k) for k in ("watch", "until", "device") if k in changes}
    return train(task or Denoising(), Pictures(), settings(**changes), folder, **extra)


def test_the_loss_falls_on_a_few_pictures(tmp_path: Path) -> None:
    outcome = train(
        Denoising(),
        Pictures(4),
        settings(steps=120, log_every=20, learning_rate=3e-3, warmup_steps=10),
        tmp_path,
    )
    losses = [float(str(line["net/loss"])) for line in read_log(tmp_path / "log.jsonl")]
    assert outcome.reason == "finished" and outcome.step == 120
    assert losses[-1] < 0.4 * losses[0]


@pytest.mark.parametrize("micro_batch", [1, 2, 3, 4])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_micro_batches_give_the_gradient_of_the_whole_batch(
    tmp_path: Path, micro_batch: int, precision: str
) -> None:
    """3 divides 8 unequally: a mean of means would be wrong. bf16 rounds each part's gradient."""
    common = {"steps": 1, "ema": (), "precision": precision, "clip_norm": None}
    whole = run(tmp_path / "whole", **common)
    parts = run(tmp_path / "parts", micro_batch=micro_batch, **common)
    assert whole.checkpoint and parts.checkpoint
    one = load_tensors(whole.checkpoint, "net", "optimizer")
    other = load_tensors(parts.checkpoint, "net", "optimizer")
    # after one step Adam's first moment is (1 - beta) times the gradient
    names = [name for name in one if name.endswith("exp_avg")]
    gradient, parts_gradient = (torch.cat([s[n].flatten() for n in names]) for s in (one, other))
    error = (gradient - parts_gradient).norm() / gradient.norm()
    assert error < (1e-6 if precision == "fp32" else 0.02)
    assert whole.figures["net/loss"] == pytest.approx(
        parts.figures["net/loss"], rel=1e-6 if precision == "fp32" else 1e-2
    )


def test_a_step_equals_one_of_plain_pytorch(tmp_path: Path) -> None:
    task, plain = Denoising(), net()
    run(tmp_path, task, steps=1, clip_norm=0.01, ema=(), warmup_steps=0, schedule="constant")
    data = Pictures()
    decayed = [p for n, p in plain.named_parameters() if p.ndim > 1 and n != "kinds.weight"]
    spared = [p for n, p in plain.named_parameters() if p.ndim < 2 or n == "kinds.weight"]
    oracle = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.01}, {"params": spared, "weight_decay": 0.0}],
        lr=1e-2,
        betas=(0.9, 0.99),
        foreach=False,
        fused=False,
    )
    at = torch.tensor(Flat(37, 8, seed=3).indices(0))
    pictures = data.pictures[at]
    loss = (plain(pictures + task.noises[0], data.kinds[at]) - pictures).square().mean()
    loss.backward()
    nn.utils.clip_grad_norm_(plain.parameters(), 0.01)
    oracle.step()
    for (name, ours), theirs in zip(
        task.network.named_parameters(), plain.parameters(), strict=True
    ):
        assert torch.allclose(ours, theirs, rtol=0, atol=1e-6), name


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_channels_last_and_prefetch_change_no_more_than_rounding(
    tmp_path: Path, precision: str
) -> None:
    one = run(tmp_path / "one", precision=precision)
    other = run(tmp_path / "other", precision=precision, channels_last=True, prefetch=True)
    tolerance = 1e-5 if precision == "fp32" else 2e-2
    for name, weight in one.weights["net"].items():
        assert torch.allclose(weight, other.weights["net"][name], atol=tolerance), name


def test_prefetch_gives_the_same_bits(tmp_path: Path) -> None:
    one, other = run(tmp_path / "one"), run(tmp_path / "other", prefetch=True, micro_batch=8)
    assert one.checkpoint and other.checkpoint and files_equal(one.checkpoint, other.checkpoint)


def test_bf16_masters_move_where_bf16_weights_would_not(tmp_path: Path) -> None:
    """Trap 48: 200 updates of 1e-4 of the weight vanish in bfloat16, and add up in float32."""

    class One(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(64, 64))

        def forward(self, x: Tensor, kind: Tensor) -> Tensor:
            return x + self.weight.float().mean()

    task = Denoising(One())
    types: set[torch.dtype] = set()
    task.spoil = lambda loss, step: types.add(task.network.weight.dtype) or loss  # type: ignore[func-returns-value, union-attr, arg-type]
    outcome = train(
        task,
        Pictures(),
        Settings(batch_size=4, steps=200, learning_rate=1e-4, weight_decay=0.0, precision="bf16"),
        tmp_path,
    )
    moved = (1 - outcome.weights["net"]["weight"]).abs()
    assert types == {torch.bfloat16}
    assert moved.min() > 0.01
    lost = torch.ones(1).bfloat16()
    for _ in range(200):
        lost = lost - 1e-4
    assert lost.item() == 1.0


def test_frozen_weights_stay_as_they_are_in_value_and_type(tmp_path: Path) -> None:
    network = net()
    network.stem.requires_grad_(False)
    frozen = network.stem.weight.detach().clone()
    outcome = run(tmp_path, Denoising(network), precision="bf16")
    assert torch.equal(network.stem.weight, frozen) and not network.stem.weight.requires_grad
    assert "stem.weight" not in outcome.weights["net"]
    assert network.mix.weight.dtype == torch.float32  # left with the trained weights
    assert torch.equal(network.mix.weight, outcome.weights["net"]["mix.weight"])


def test_a_player_without_weights_that_learn_is_refused(tmp_path: Path) -> None:
    network = net()
    network.requires_grad_(False)
    with pytest.raises(RequestError, match="player net has no weights"):
        run(tmp_path, Denoising(network))


def test_each_player_learns_in_its_turn_and_only_it(tmp_path: Path) -> None:
    duel = Duel()
    rates = {"maker": 1e-3, "judge": 2e-3}
    run(tmp_path, duel, learning_rate=rates, steps=5, log_every=1)
    turns = [(step, player) for step, player, *_ in duel.log]
    assert turns == [(0, "maker"), (1, "maker"), (2, "maker"), (2, "judge"), (3, "maker"),
                     (4, "maker"), (4, "judge")]  # fmt: skip
    assert all((maker, judge) == (p == "maker", p == "judge") for _, p, maker, judge in duel.log)
    last = read_log(tmp_path / "log.jsonl")[-1]
    assert float(str(last["judge/learning_rate"])) == 2 * float(str(last["maker/learning_rate"]))
    assert all(p.requires_grad for p in [*duel.maker.parameters(), *duel.judge.parameters()])


def test_a_player_that_does_not_play_does_not_move(tmp_path: Path) -> None:
    duel = Duel()
    before = [p.detach().clone() for p in duel.judge.parameters()]
    run(tmp_path, duel, steps=2)
    assert all(torch.equal(a, b) for a, b in zip(before, duel.judge.parameters(), strict=True))


def test_the_learning_rate_is_a_function_of_the_step_alone() -> None:
    """Trap 41: neither accumulation nor ranks may stretch it."""
    linear = settings(steps=100, warmup_steps=10, decay_from=0.6, micro_batch=2)
    rates = [learning_rate(linear, "net", step) for step in range(100)]
    assert rates[0] == pytest.approx(1e-3) and rates[9] == rates[60] == 1e-2
    assert rates[80] == pytest.approx(5e-3) and rates[99] == pytest.approx(1e-2 / 40)
    cosine = settings(steps=100, warmup_steps=0, schedule="cosine", decay_from=0.0)
    assert learning_rate(cosine, "net", 50) == pytest.approx(5e-3)
    constant = settings(steps=100, warmup_steps=0, schedule="constant")
    assert learning_rate(constant, "net", 99) == 1e-2


class Looker(Watch):
    """Validates with every kind of disturbance, and remembers what it saw."""

    def __init__(self) -> None:
        self.moments: list[tuple[int, bool, bool]] = []
        self.warnings: list[str] = []

    def warned(self, text: str) -> None:
        self.warnings.append(text)

    def validate(self, moment: Moment) -> Mapping[str, float]:
        module = moment.players["net"]
        self.moments.append((moment.step, module.training, torch.is_grad_enabled()))
        torch.rand(7)
        with moment.averaged("power:0.05"):
            module(torch.zeros(1, 3, 8, 8), torch.zeros(1, dtype=torch.int64))
        return {"held_out": float(moment.step)}


def test_validation_leaves_the_run_bit_equal(tmp_path: Path) -> None:
    """Traps 18 and 53: with dropout, which draws from the global random state."""
    look = Looker()
    seen = run(tmp_path / "a", Denoising(net(dropout=0.3)), watch=look, validate_every=3)
    alone = run(tmp_path / "b", Denoising(net(dropout=0.3)))
    assert look.moments == [(step, False, False) for step in (3, 6, 9, 10)]
    assert seen.checkpoint and alone.checkpoint and files_equal(seen.checkpoint, alone.checkpoint)
    lines = read_log(tmp_path / "a" / "log.jsonl")
    assert [line["held_out"] for line in lines if "held_out" in line] == [3.0, 6.0, 9.0, 10.0]


def test_the_global_random_state_is_left_alone(tmp_path: Path) -> None:
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    run(tmp_path, Denoising(net(dropout=0.3)))
    assert torch.equal(torch.rand(3), expected)


def test_dropout_differs_between_steps_and_micro_batches(tmp_path: Path) -> None:
    masks: list[Tensor] = []

    class Seen(nn.Dropout):
        def forward(self, x: Tensor) -> Tensor:
            y = super().forward(x)
            masks.append(y == 0)
            return y

    network = net()
    network.dropout = Seen(0.5)
    run(tmp_path, Denoising(network), steps=2, micro_batch=4)
    assert len(masks) == 4
    assert len({tuple(mask.flatten().tolist()) for mask in masks}) == 4


def test_a_deadline_ends_the_run_with_a_checkpoint(tmp_path: Path) -> None:
    begin = time.monotonic()
    outcome = run(tmp_path, steps=10**6, schedule="constant", until=begin + 0.5)
    assert outcome.reason == "deadline" and 0 < outcome.step < 10**6
    assert outcome.checkpoint and outcome.checkpoint.name == f"step-{outcome.step:08d}"
    assert time.monotonic() - begin < 5


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_run_after_its_step_with_a_checkpoint(
    tmp_path: Path, number: signal.Signals
) -> None:
    task = Denoising(
        spoil=lambda loss, step: os.kill(os.getpid(), number) or loss if step == 5 else loss  # type: ignore[func-returns-value]
    )
    before = signal.getsignal(number)
    outcome = run(tmp_path, task)
    assert (outcome.reason, outcome.step) == ("interrupted", 6)
    assert outcome.checkpoint and signal.getsignal(number) is before


def test_compiling_is_in_place_and_undone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[nn.Module] = []

    def compile_(module: nn.Module, **options: object) -> None:
        assert options == {"dynamic": False}
        calls.append(module)
        module._compiled_call_impl = module._call_impl

    monkeypatch.setattr(nn.Module, "compile", compile_)

    class Parted(Denoising):
        def parts(self, player: str) -> list[nn.Module]:
            return [self.network.get_submodule("mix")]

    whole, parted = Denoising(), Parted()
    run(tmp_path / "a", whole, compile=True)
    run(tmp_path / "b", parted, compile=True)
    assert calls == [whole.network, parted.network.get_submodule("mix")]
    assert all(module._compiled_call_impl is None for module in calls)


def test_flops_are_counted_and_change_nothing(tmp_path: Path) -> None:
    counted = run(tmp_path / "a", count_flops=True)
    plain = run(tmp_path / "b")
    assert counted.checkpoint and plain.checkpoint
    assert files_equal(counted.checkpoint, plain.checkpoint)
    last = counted.figures
    forward = 2 * 64 * (24 * 27 + 64 * 24 * 9) + 2 * (64 * 128 + 128 * 128 + 128 * 192)
    flop = last["flop_per_second"] / last["samples_per_second"]
    assert 2.5 * forward < flop <= 3 * forward  # no gradient with respect to the input


def test_deterministic_switches_are_put_back(tmp_path: Path) -> None:
    run(tmp_path, deterministic=True, precision="tf32")
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.get_float32_matmul_precision() == "highest"


def test_evaluation_puts_back_the_mode_of_every_part() -> None:
    network = Net()
    network.norm.eval()
    with surroundings.evaluating([network], torch.device("cpu")):
        assert not any(part.training for part in network.modules())
    assert network.training and not network.norm.training


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # Inductor's own imports
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_compiled_run_is_near_the_eager_one(tmp_path: Path, precision: str) -> None:
    eager = run(tmp_path / "a", precision=precision, steps=4)
    fast = run(
        tmp_path / "b", precision=precision, steps=4, compile=True, validate_every=2, watch=Looker()
    )
    for name, weight in eager.weights["net"].items():
        moved = 4e-2 if precision == "bf16" else 1e-4
        assert (weight - fast.weights["net"][name]).abs().max() < moved, name
