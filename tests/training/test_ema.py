"""Averages of the weights: known decays, profiles and sums."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from safelight.errors import FileError, RequestError
from safelight.training.ema import Average, Classic, Power, ema_kind, exponent, swapped
from safelight.training.loop import train
from safelight.training.posthoc import Snapshot, profile, reconstruct, save_snapshot, weights
from training_tiny import Denoising, Pictures, net, settings


@pytest.mark.parametrize(
    ("update", "kept"), [(1, 0.182), (10, 0.55), (100, 0.918), (1000, 0.991), (10000, 0.9991)]
)
def test_the_classic_average_warms_up(update: int, kept: float) -> None:
    """Trap 18: the values of LDM's averages."""
    assert Classic(0.9999).kept(update) == pytest.approx(kept, abs=5e-4)
    assert Classic(0.5).kept(update) <= 0.5


@pytest.mark.parametrize(("sigma_rel", "gamma"), [(0.05, 16.972), (0.10, 6.937), (0.25, 1.0)])
def test_the_exponent_of_a_relative_width(sigma_rel: float, gamma: float) -> None:
    """The first two are Karras et al.'s; the widths of t**gamma are (g+1)^.5 / ((g+2)(g+3)^.5)."""
    found = exponent(sigma_rel)
    assert (found + 1) ** 0.5 / ((found + 2) * (found + 3) ** 0.5) == pytest.approx(sigma_rel)
    if gamma != 1.0:
        assert found == pytest.approx(gamma, abs=5e-4)


@pytest.mark.parametrize("sigma_rel", [0.05, 0.10, 0.25])
def test_the_running_average_has_the_profile_that_is_claimed(sigma_rel: float) -> None:
    """Averaging unit vectors shows the weight of every step."""
    count = 60
    average = Average(Power(sigma_rel), [torch.full((count,), 9.0, dtype=torch.float64)])
    for step in range(count):
        average.update([torch.eye(count, dtype=torch.float64)[step]])
    edges = np.arange(count + 1, dtype=np.float64)
    expected = profile(sigma_rel, count, edges)
    assert np.allclose(average.values[0].numpy(), expected, atol=1e-12)
    assert expected.sum() == pytest.approx(1.0)
    centres = np.arange(1, count + 1) - 0.5
    mean = (expected * centres).sum()
    width = ((expected * (centres - mean) ** 2).sum()) ** 0.5
    assert width / count == pytest.approx(sigma_rel, rel=0.03)


def walk(steps: int, seed: int = 0) -> Tensor:
    """A path of weights (steps, 40): drift and noise, as training makes."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(steps, 40, generator=generator)
    return (noise * 0.05).cumsum(0) + noise * 0.3 + torch.linspace(0, 2, steps)[:, None]


@pytest.mark.parametrize("wanted", [0.05, 0.07, 0.15, 0.2])
def test_any_average_is_rebuilt_from_snapshots(tmp_path: Path, wanted: float) -> None:
    """Trap 19: within 1 % of the one that was tracked; the spread of the path is the scale."""
    path = walk(800)
    tracked = Average(Power(wanted), [path[0]])
    kept = [Average(Power(sigma), [path[0]]) for sigma in (0.05, 0.10)]
    for step, value in enumerate(path, 1):
        tracked.update([value])
        for average in kept:
            average.update([value])
            if step % 50 == 0:
                save_snapshot(tmp_path, "net", average.kind, step, {"w": average.values[0]})
    rebuilt = reconstruct(tmp_path, "net", wanted)["w"]
    error = (rebuilt - tracked.values[0]).norm() / tracked.values[0].norm()
    assert rebuilt.dtype == torch.float32 and error < 1e-2


def test_a_profile_that_was_kept_is_rebuilt_from_itself() -> None:
    kept = [Snapshot(Path("x"), step, s) for step in (40, 80) for s in (0.05, 0.1)]
    assert weights(kept, Power(0.1), 80) == pytest.approx([0, 0, 0, 1], abs=1e-6)
    assert sum(weights(kept, Power(0.2), 80)) == pytest.approx(1, abs=1e-6)


def test_rebuilding_needs_snapshots(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="no snapshots of net"):
        reconstruct(tmp_path, "net", 0.1)


def test_a_run_keeps_snapshots_that_rebuild_its_averages(tmp_path: Path) -> None:
    kinds = (Power(0.05), Power(0.1), Power(0.07))
    given = settings(steps=40, snapshot_every=2, ema=kinds)
    outcome = train(Denoising(), Pictures(), given, tmp_path)
    for path in (tmp_path / "snapshots").glob("*power-0.07*"):
        path.unlink()
    rebuilt = reconstruct(tmp_path, "net", 0.07)
    tracked = outcome.averages["net"]["power:0.07"]
    assert set(rebuilt) == set(tracked)
    nearest = outcome.averages["net"]["power:0.05"]
    ours, theirs, wanted = (
        torch.cat([weights[name].flatten() for name in tracked if name != "seen"])
        for weights in (rebuilt, nearest, tracked)
    )
    assert (ours - wanted).norm() < 0.1 * (theirs - wanted).norm()
    assert rebuilt["seen"] == 40


def test_averages_move_once_a_step_and_copy_buffers(tmp_path: Path) -> None:
    """Not once a micro-batch: the average is that of the weights after each step."""
    steps: list[Tensor] = []
    task = Denoising()
    task.spoil = lambda loss, step: steps.append(task.network.mix.weight.detach().clone()) or loss  # type: ignore[func-returns-value, union-attr, operator]
    outcome = train(
        task,
        Pictures(),
        settings(micro_batch=2, schedule="constant", ema=(Classic(0.9),)),
        tmp_path,
    )
    after = [*steps[4::4], outcome.weights["net"]["mix.weight"]]
    assert len(after) == 10
    average, oracle = Average(Classic(0.9), [steps[0]]), steps[0].double()
    for update, value in enumerate(after, 1):
        average.update([value])
        kept = min(0.9, (1 + update) / (10 + update))
        oracle = kept * oracle + (1 - kept) * value.double()
    found = outcome.averages["net"]["classic:0.9"]
    assert torch.equal(found["mix.weight"], average.values[0])
    assert torch.allclose(found["mix.weight"].double(), oracle, atol=1e-6)
    assert found["seen"] == outcome.weights["net"]["seen"] == 40


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_swapped_weights_are_put_back_bit_equal_also_after_an_error(dtype: torch.dtype) -> None:
    network = net().to(dtype)
    own = {name: value.clone() for name, value in network.state_dict().items()}
    places = [parameter.data_ptr() for parameter in network.parameters()]
    other = {name: value + 1 for name, value in net(seed=4).state_dict().items()}
    inside: dict[str, Tensor] = {}

    def fails() -> None:
        with swapped(network, other):
            inside.update({name: value.clone() for name, value in network.state_dict().items()})
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fails()
    assert all(torch.equal(value, other[name].to(dtype)) for name, value in inside.items())
    assert all(torch.equal(value, own[name]) for name, value in network.state_dict().items())
    assert [parameter.data_ptr() for parameter in network.parameters()] == places


def test_swapping_names_what_the_network_lacks() -> None:
    with (
        pytest.raises(RequestError, match="no weights named nothing"),
        swapped(net(), {"nothing": torch.ones(1)}),
    ):
        pass  # fmt: skip


def test_names_of_averages_are_read_back() -> None:
    for kind in (Classic(0.9999), Classic(0.5), Power(0.05), Power(0.1), Power(0.075)):
        assert ema_kind(kind.name) == kind


@pytest.mark.parametrize(
    "text", ["", "0.99", "classic", "power:x", "classic:1", "power:0.3", "power:0", "classic:nan"]
)
def test_wrong_names_of_averages_are_refused(text: str) -> None:
    with pytest.raises(RequestError):
        ema_kind(text)
