"""Two processes are one with the same batch, for both layouts of the weights."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from safelight.errors import RequestError
from safelight.training.distributed import ALONE, Group, current, joined
from safelight.training.journal import read_log
from safelight.training.loop import train
from safelight.training.saving import checkpoints, load_tensors, newest, step_of
from training_tiny import Denoising, Duel, Pictures, net, settings

SCRIPT = """
import json, os, sys
from pathlib import Path
from training_tiny import Denoising, Duel, Pictures, settings
from safelight.training.distributed import joined
from safelight.training.loop import train

given = json.loads(sys.argv[2])
duel = given.pop("duel", False)
with joined("cpu") as (group, device):
    data = Pictures()
    task = Duel() if duel else Denoising()
    outcome = train(task, data, settings(**given), Path(sys.argv[1]), device=device)
    name = "maker" if duel else "net"
    held = [getattr(p, "to_local", lambda: p)().numel() for p in task.players[name].parameters()]
    average = outcome.averages[name]["power:0.05"]["mix.weight"]
    print(json.dumps({
        "asked": data.asked,
        "noise": 0.0 if duel else float(task.noises[max(task.noises)].sum()),
        "sum": float(sum(w.double().sum() for w in outcome.weights[name].values())),
        "average": float(average.double().sum()),
        "held": sum(held),
    }), flush=True)
# PyTorch's threads at times abort an interpreter that ends; what is tested here is over.
os._exit(0)
"""


def port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def two(folder: Path, processes: int = 2, **given: Any) -> list[dict[str, Any]]:
    """Run as torchrun would start it; gives what each process saw."""
    said = outputs([sys.executable, "-c", SCRIPT, str(folder), json.dumps(given)], processes)
    return [json.loads(out.splitlines()[-1]) for out in said]


def outputs(command: list[str], processes: int = 2) -> list[str]:
    """What each of several processes printed, started as torchrun would start them."""
    common = {
        "WORLD_SIZE": str(processes),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port()),
        "PYTHONPATH": str(Path(__file__).parent.parent),
        "OMP_NUM_THREADS": "1",
    }
    running = [
        subprocess.Popen(
            command,
            env={**os.environ, **common, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(processes)
    ]
    said = [process.communicate(timeout=120) for process in running]
    codes = [process.returncode for process in running]
    assert codes == [0] * processes, (codes, [errors[-3000:] for _, errors in said])
    return [out for out, _ in said]


def differences(one: Path, other: Path, player: str = "net") -> dict[str, float]:
    """The largest differences of weights, averages and Adam's state between two runs."""
    a, b = newest(one), newest(other)
    assert a is not None and b is not None and a.name == b.name
    found = {}
    for part in ("", "optimizer", "classic:0.99", "power:0.05"):
        left, right = load_tensors(a, player, part), load_tensors(b, player, part)
        assert set(left) == set(right)
        assert all(left[n].shape == right[n].shape for n in left)
        found[part] = max(float((left[n] - right[n]).abs().max()) for n in left if n != "seen")
    return found


@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
@pytest.mark.parametrize("batch_size", [8, 7])
def test_two_processes_are_one(tmp_path: Path, parallel: str, batch_size: int) -> None:
    """7 rows divide unequally; each process sees its own rows, with their own noise."""
    given = {"parallel": parallel, "learning_rate": 1e-3, "batch_size": batch_size}
    first, second = two(tmp_path / "two", **given)
    alone_data = Pictures()
    train(Denoising(), alone_data, settings(**given), tmp_path / "one")
    assert first["sum"] == second["sum"] and first["average"] == second["average"]
    assert first["noise"] != second["noise"]
    weights = sum(parameter.numel() for parameter in net().parameters())
    assert first["held"] + second["held"] == (weights if parallel == "fsdp" else 2 * weights)
    together = [a + b for a, b in zip(first["asked"], second["asked"], strict=True)]
    assert together == alone_data.asked
    found = differences(tmp_path / "one", tmp_path / "two")
    assert max(found.values()) < 1e-6, found
    ours, theirs = (
        read_log(tmp_path / "one" / "log.jsonl"),
        read_log(tmp_path / "two" / "log.jsonl"),
    )
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        for name in ("net/loss", "net/error", "net/grad_norm", "net/learning_rate"):
            assert float(str(one[name])) == pytest.approx(float(str(other[name])), rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_a_run_goes_on_with_another_number_of_processes(tmp_path: Path, parallel: str) -> None:
    short, given = (
        {"parallel": parallel, "learning_rate": 1e-3, "schedule": "constant", "steps": steps}
        for steps in (4, 8)
    )
    two(tmp_path / "two-one", **short)
    train(Denoising(), Pictures(), settings(**given), tmp_path / "two-one")
    train(Denoising(), Pictures(), settings(**short), tmp_path / "one-two")
    two(tmp_path / "one-two", **given)
    train(Denoising(), Pictures(), settings(**given), tmp_path / "one")
    for mixed in ("two-one", "one-two"):
        found = differences(tmp_path / "one", tmp_path / mixed)
        assert max(found.values()) < 1e-6, (mixed, found)


@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_two_players_on_two_processes_are_one(tmp_path: Path, parallel: str) -> None:
    """The judge's bias has one row: one process has no share of it."""
    given = {"parallel": parallel, "learning_rate": 1e-3, "steps": 6}
    two(tmp_path / "two", duel=True, **given)
    train(Duel(), Pictures(), settings(**given), tmp_path / "one")
    for player in ("maker", "judge"):
        found = differences(tmp_path / "one", tmp_path / "two", player)
        assert max(found.values()) < 1e-6, (player, found)


@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_bfloat16_on_two_processes_is_near_one(tmp_path: Path, parallel: str) -> None:
    given = {"parallel": parallel, "learning_rate": 1e-3, "precision": "bf16"}
    two(tmp_path / "two", **given)
    train(Denoising(), Pictures(), settings(**given), tmp_path / "one")
    a, b = newest(tmp_path / "one"), newest(tmp_path / "two")
    assert a is not None and b is not None
    left, right = load_tensors(a, "net"), load_tensors(b, "net")
    moved = settings(**given).learning_rate_of("net") * 10
    for name in left:
        if name != "seen":
            assert (left[name] - right[name]).abs().mean() < 0.15 * moved, name


def test_rows_are_divided_without_a_gap() -> None:
    for total in (8, 9, 10, 11):
        spans = [Group(rank, 4).rows(total) for rank in range(4)]
        assert [start for start, _ in spans[1:]] == [start + count for start, count in spans[:-1]]
        assert spans[0][0] == 0 and sum(spans[-1]) == total
        assert max(count for _, count in spans) - min(count for _, count in spans) <= 1


def test_a_batch_that_is_too_small_for_the_processes_is_refused() -> None:
    with pytest.raises(RequestError, match="a batch of 3 cannot be divided among 4"):
        Group(0, 4).rows(3)


def test_without_torchrun_a_process_is_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    with joined("cpu") as (group, device):
        assert group == ALONE == current() and device == torch.device("cpu")
    tensors = [torch.ones(2)]
    group.sum_(tensors)
    assert tensors[0].tolist() == [1, 1] and group.agreed(7) == 7


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"optimizer": "muon"}, "muon needs whole weights"),
        ({"channels_last": True}, "channels_last"),
    ],
)
def test_what_cannot_be_sharded_is_refused(
    tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(RequestError, match=said):
        train(
            Denoising(),
            Pictures(),
            settings(parallel="fsdp", **changes),
            tmp_path,
            group=Group(0, 2),
        )


BAD_ROWS = """
import os, sys
from pathlib import Path
from training_tiny import Denoising, Pictures, settings
from safelight.errors import NonFiniteError
from safelight.training.distributed import joined
from safelight.training.loop import train

with joined("cpu") as (group, device):
    wrong = lambda loss, step: loss * float("nan") if step == 6 and group.rank == 1 else loss
    given = settings(parallel=sys.argv[2], log_every=1000)
    try:
        train(Denoising(spoil=wrong), Pictures(), given, Path(sys.argv[1]), device=device)
    except NonFiniteError as error:
        print(error, flush=True)
os._exit(0)  # as above
"""


@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_all_processes_stop_together_when_the_rows_of_one_are_bad(
    tmp_path: Path, parallel: str
) -> None:
    said = outputs([sys.executable, "-c", BAD_ROWS, str(tmp_path), parallel])
    assert all("in step 7 the loss of net was nan" in text for text in said)
    other = "in the rows of another process" if parallel == "ddp" else "the gradient of the weight"
    assert f"first {other}" in said[0]
    assert "first the loss of net, after the networks" in said[1]
    assert [step_of(path) for path in checkpoints(tmp_path)] == [7]
    assert train(Denoising(), Pictures(), settings(), tmp_path).step == 10
