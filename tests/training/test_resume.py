"""Checkpoints: nothing is lost, nothing half written is read, and a resumed run is the same run."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from safelight import writing
from safelight.errors import CheckpointError, OutputError, RequestError
from safelight.training import running, saving
from safelight.training.draw import Draw
from safelight.training.journal import Record, read_log
from safelight.training.loop import train
from safelight.training.saving import load_state, load_tensors, newest
from safelight.training.settings import Settings
from safelight.training.watch import Moment, Outcome, Watch
from training_tiny import Denoising, Duel, Pictures, files_equal, net, settings

pytestmark = pytest.mark.slow


class Heard(Watch):
    def __init__(self) -> None:
        self.warnings: list[str] = []
        self.saves: list[int] = []

    def warned(self, text: str) -> None:
        self.warnings.append(text)

    def saved(self, checkpoint: Path) -> None:
        self.saves.append(saving.step_of(checkpoint))

    def validate(self, moment: Moment) -> Mapping[str, float]:
        return {"held_out": 1.0}


class StopAt:
    """Data that asks the run to stop in a given step, as Ctrl-C does."""

    def __init__(self, step: int, number: int = signal.SIGTERM) -> None:
        self.pictures, self.step, self.number = Pictures(), step, number

    def __len__(self) -> int:
        return len(self.pictures)

    def batch(self, indices: Any, draw: Draw) -> Any:
        if draw.step == self.step:
            os.kill(os.getpid(), self.number)
        return self.pictures.batch(indices, draw)


def steady(path: Path) -> list[Record]:
    """A log without what the clock says."""
    clock = ("seconds", "samples_per_second")
    return [{k: v for k, v in line.items() if k not in clock} for line in read_log(path)]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("stop", [1, 5, 8])
def test_ten_steps_are_some_steps_and_a_resumed_run(
    tmp_path: Path, precision: str, stop: int
) -> None:
    """Trap 42: weights, averages, Adam, learning rates, batches, noise, dropout and the log."""
    given = settings(precision=precision)
    whole, first, second = (Denoising(net(dropout=0.2)) for _ in range(3))
    data = [Pictures() for _ in range(2)]
    unbroken = train(whole, data[0], given, tmp_path / "a")
    interrupted = train(first, StopAt(stop - 1), given, tmp_path / "b")
    assert (interrupted.reason, interrupted.step) == ("interrupted", stop)
    second.network.load_state_dict(net(seed=9).state_dict(), strict=False)  # must not matter
    resumed = train(second, data[1], given, tmp_path / "b")
    assert (resumed.reason, resumed.step) == ("finished", 10)
    assert unbroken.checkpoint and resumed.checkpoint
    assert files_equal(unbroken.checkpoint, resumed.checkpoint)
    assert data[1].asked == data[0].asked[stop:]
    assert all(torch.equal(whole.noises[k], second.noises[k]) for k in range(stop, 10))
    assert steady(tmp_path / "a" / "log.jsonl") == steady(tmp_path / "b" / "log.jsonl")
    before, after = load_state(unbroken.checkpoint), load_state(resumed.checkpoint)
    assert before.players == after.players and before.step == after.step


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_two_players_resume_bit_equal(tmp_path: Path, optimizer: str) -> None:
    given = settings(optimizer=optimizer, channels_last=True)
    unbroken = train(Duel(), Pictures(), given, tmp_path / "a")
    train(Duel(), StopAt(4), given, tmp_path / "b")
    resumed = train(Duel(), Pictures(), given, tmp_path / "b")
    assert unbroken.checkpoint and resumed.checkpoint
    assert files_equal(unbroken.checkpoint, resumed.checkpoint)


SCRIPT = """
import os, signal, sys
from pathlib import Path
from training_tiny import Denoising, Pictures, net, settings
from safelight.training import running, saving
from safelight.training.loop import train

folder, where, at = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])

def die():
    os.kill(os.getpid(), signal.SIGKILL)

class Fatal(Pictures):
    def batch(self, indices, draw):
        if where == "step" and draw.step == at:
            die()
        return super().batch(indices, draw)

write = saving.write_safetensors
calls = 0
def fatal(*args):
    global calls
    calls += 1
    if where == "saving" and calls == at:
        die()
    write(*args)
saving.write_safetensors = fatal

if where == "removing":
    remove, removed = saving.shutil.rmtree, 0
    def dying(path, **options):
        global removed
        if Path(path).name.startswith("step-"):
            removed += 1
            if removed == at:
                die()
        remove(path, **options)
    saving.shutil.rmtree = dying
train(Denoising(net(dropout=0.2)), Fatal(), settings(save_every=0.0), folder)
"""


@pytest.mark.parametrize(
    ("where", "at", "left"), [("step", 6, 6), ("saving", 18, 3), ("removing", 2, 4)]
)
def test_kill_9_loses_at_most_the_steps_since_the_last_checkpoint(
    tmp_path: Path, where: str, at: int, left: int
) -> None:
    """In a step, in the third of five files of a checkpoint, or while an old one is removed."""
    command = [sys.executable, "-c", SCRIPT, str(tmp_path / "b"), where, str(at)]
    here = str(Path(__file__).parent.parent)
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": here}, timeout=60)
    assert done.returncode == -signal.SIGKILL
    there = newest(tmp_path / "b")
    assert there is not None and saving.step_of(there) == left
    data = Pictures()
    resumed = train(Denoising(net(dropout=0.2)), data, settings(), tmp_path / "b")
    unbroken = train(Denoising(net(dropout=0.2)), Pictures(), settings(), tmp_path / "a")
    assert len(data.asked) == 10 - left
    assert unbroken.checkpoint and resumed.checkpoint
    assert files_equal(unbroken.checkpoint, resumed.checkpoint)
    assert steady(tmp_path / "a" / "log.jsonl") == steady(tmp_path / "b" / "log.jsonl")
    names = [path.name for path in (tmp_path / "b" / "checkpoints").iterdir()]
    assert all(name.startswith("step-") for name in names), "a half was left behind"


def test_checkpoints_come_in_time_and_only_the_newest_stay(tmp_path: Path) -> None:
    heard = Heard()
    train(Denoising(), Pictures(), settings(save_every=0.0, keep=3), tmp_path, watch=heard)
    assert heard.saves == list(range(1, 11))
    assert [saving.step_of(path) for path in saving.checkpoints(tmp_path)] == [8, 9, 10]


def test_the_first_checkpoint_comes_sooner_than_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a minute, whatever the time between the others; here a step takes 20 seconds."""
    real, steps = time.monotonic, 0

    class Slow(Pictures):
        def batch(self, indices: Any, draw: Draw) -> Any:
            nonlocal steps
            steps += 1
            return super().batch(indices, draw)

    monkeypatch.setattr(running.time, "monotonic", lambda: real() + 20.0 * steps)
    for name, every, saved in (
        ("a", 100.0, [3, 8, 10]),
        ("b", 1e9, [3, 10]),
        ("c", 40.0, [2, 4, 6, 8, 10]),
    ):
        heard, steps = Heard(), 0
        train(Denoising(), Slow(), settings(save_every=every), tmp_path / name, watch=heard)
        assert heard.saves == saved, name


def test_a_finished_run_does_nothing_more(tmp_path: Path) -> None:
    first = train(Denoising(), Pictures(), settings(), tmp_path)
    data = Pictures()
    again = train(Denoising(), data, settings(), tmp_path)
    assert again.step == 10 and not data.asked and again.figures == first.figures
    assert torch.equal(again.weights["net"]["mix.weight"], first.weights["net"]["mix.weight"])
    assert torch.equal(
        again.averages["net"]["power:0.05"]["mix.weight"],
        first.averages["net"]["power:0.05"]["mix.weight"],
    )


def test_a_run_in_the_folder_is_not_overwritten(tmp_path: Path) -> None:
    train(Denoising(), Pictures(), settings(), tmp_path)
    with pytest.raises(RequestError, match="holds a run already"):
        train(Denoising(), Pictures(), settings(), tmp_path, resume=False)


CHANGES: list[tuple[str, Any, str]] = [
    ("learning_rate", 2e-2, r"learning_rate was 0\.01 and is 0\.02"),
    ("batch_size", 4, "batch_size was 8 and is 4"),
    ("seed", 4, "seed was 3 and is 4"),
    ("betas", (0.9, 0.95), r"betas was \[0\.9, 0\.99\] and is \[0\.9, 0\.95\]"),
    ("optimizer", "muon", "optimizer was 'adamw' and is 'muon'|optimizer was adamw and is muon"),
    ("precision", "bf16", "precision was fp32 and is bf16"),
    ("ema", (), r"ema was .*classic:0\.99.* and is \[\]"),
    ("warmup_steps", 4, "warmup_steps was 3 and is 4"),
    ("decay_from", 0.1, r"decay_from was 0\.5 and is 0\.1"),
    ("clip_norm", None, "clip_norm was 1.0 and is None"),
]


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was stopped after four of ten steps."""
    folder = tmp_path_factory.mktemp("stopped")
    train(Denoising(), StopAt(3), settings(), folder)
    return folder


@pytest.mark.parametrize(("name", "value", "said"), CHANGES, ids=[c[0] for c in CHANGES])
def test_settings_that_change_the_numbers_are_refused(
    stopped: Path, name: str, value: Any, said: str
) -> None:
    with pytest.raises(RequestError, match=said):
        train(Denoising(), Pictures(), settings(**{name: value}), stopped)


def test_other_data_is_refused(stopped: Path) -> None:
    with pytest.raises(CheckpointError, match="other data"):
        train(Denoising(), Pictures(38), settings(), stopped)


def test_another_network_is_refused(stopped: Path) -> None:
    task = Denoising()
    task.network.extra = torch.nn.Linear(2, 2)
    with pytest.raises(
        CheckpointError, match=r"missing extra\.bias, extra\.weight; surplus nothing"
    ):
        train(task, Pictures(), settings(), stopped)


def test_settings_that_change_no_number_may_differ(tmp_path: Path) -> None:
    train(Denoising(), StopAt(3), settings(), tmp_path)
    changed = settings(log_every=1, keep=5, save_every=5.0, non_finite="skip", prefetch=True)
    assert train(Denoising(), Pictures(), changed, tmp_path).step == 10


def test_a_constant_schedule_may_be_extended(tmp_path: Path) -> None:
    short, long = (settings(schedule="constant", steps=steps) for steps in (6, 10))
    train(Denoising(), Pictures(), short, tmp_path / "b")
    extended = train(Denoising(), Pictures(), long, tmp_path / "b")
    unbroken = train(Denoising(), Pictures(), long, tmp_path / "a")
    assert extended.checkpoint and unbroken.checkpoint
    assert files_equal(extended.checkpoint, unbroken.checkpoint)


def test_the_end_of_the_decay_may_move_until_the_decay_began(tmp_path: Path) -> None:
    train(Denoising(), StopAt(3), settings(), tmp_path)
    assert train(Denoising(), StopAt(6), settings(steps=20), tmp_path).step == 7
    with pytest.raises(RequestError, match="steps was 20 and is 10"):
        train(Denoising(), Pictures(), settings(steps=10), tmp_path)


def full_after(monkeypatch: pytest.MonkeyPatch, good: int, failures: int = 10**9) -> None:
    """A disk that takes so many files of a checkpoint and then is full for so many attempts."""
    calls = 0
    write = saving.write_safetensors

    def refusing(path: Path, *rest: Any) -> None:
        nonlocal calls
        calls += 1
        if good < calls <= good + failures:
            with writing.whole_file(path, 1):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(path, *rest)

    monkeypatch.setattr(saving, "write_safetensors", refusing)


def test_a_full_disk_is_a_warning_and_the_older_checkpoint_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full_after(monkeypatch, good=5 * 3 + 2, failures=2)
    heard = Heard()
    given = settings(save_every=0.0, keep=20)
    outcome = train(Denoising(), Pictures(), given, tmp_path, watch=heard)
    assert outcome.step == 10
    assert heard.saves == [1, 2, 3, 6, 7, 8, 9, 10] and len(heard.warnings) == 2
    assert "no checkpoint of step 4" in heard.warnings[0]
    assert "the one of step 3 is intact" in heard.warnings[0]
    assert "No space left" in heard.warnings[0]


def test_a_full_disk_stops_the_run_if_so_configured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full_after(monkeypatch, good=5 * 3 + 2)
    given = settings(save_every=0.0, save_failure="stop")
    with pytest.raises(OutputError, match="no checkpoint of step 4"):
        train(Denoising(), Pictures(), given, tmp_path)
    monkeypatch.undo()
    assert train(Denoising(), Pictures(), settings(), tmp_path).step == 10


def test_the_last_checkpoint_must_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full_after(monkeypatch, good=0)
    with pytest.raises(OutputError, match=r"no checkpoint of step 10.*there is no older one"):
        train(Denoising(), Pictures(), settings(), tmp_path)


def test_a_log_that_cannot_be_written_does_not_end_the_run(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"

    class Barring(Heard):
        def logged(self, record: Record) -> None:
            if record["step"] == 4:
                log.unlink()
                log.mkdir()

    heard = Barring()
    outcome = train(Denoising(), Pictures(), settings(), tmp_path, watch=heard)
    assert outcome.step == 10 and len(heard.warnings) == 2
    assert "log.jsonl: Is a directory" in heard.warnings[0]


@pytest.mark.parametrize("how", ["truncated", "missing"])
def test_a_damaged_checkpoint_is_set_aside_for_the_one_before(tmp_path: Path, how: str) -> None:
    train(Denoising(), StopAt(5), settings(save_every=0.0), tmp_path)
    there = newest(tmp_path)
    assert there is not None and saving.step_of(there) == 6
    victim = there / "net.power-0.05.safetensors"
    if how == "truncated":
        os.truncate(victim, victim.stat().st_size - 10)
    else:
        victim.unlink()
    heard = Heard()
    data = Pictures()
    train(Denoising(), data, settings(), tmp_path, watch=heard)
    assert "net.power-0.05.safetensors" in heard.warnings[0]
    assert len(data.asked) == 5
    assert (tmp_path / "checkpoints" / "damaged-step-00000006").is_dir()


def test_a_checkpoint_is_json_and_safetensors_with_names_one_can_read(tmp_path: Path) -> None:
    outcome = train(Denoising(), Pictures(), settings(), tmp_path)
    assert outcome.checkpoint
    assert {path.suffix for path in outcome.checkpoint.iterdir()} == {".json", ".safetensors"}
    state = json.loads((outcome.checkpoint / "state.json").read_text())
    assert state["step"] == 10 and state["settings"]["ema"][1] == "power:0.05"
    weights = load_tensors(outcome.checkpoint, "net")
    assert set(weights) == set(net().state_dict())
    average = load_tensors(outcome.checkpoint, "net", "power:0.05")
    assert all(torch.equal(average[n], v) for n, v in outcome.averages["net"]["power:0.05"].items())
    assert load_tensors(outcome.checkpoint, "net", "optimizer")["mix.weight/exp_avg"].shape == (
        128,
        64,
    )


def test_the_log_of_a_resumed_run_has_no_lines_past_its_step(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    train(Denoising(), StopAt(5), settings(log_every=1), tmp_path)
    with log.open("a") as file:
        file.write('{"step": 7, "net/loss": 1.0}\n{"step": 8, "net/lo')
    train(Denoising(), Pictures(), settings(log_every=1), tmp_path)
    assert [line["step"] for line in read_log(log)] == list(range(1, 11))


def test_seconds_go_on_over_the_parts_of_a_run(tmp_path: Path) -> None:
    first = train(Denoising(), StopAt(5), settings(), tmp_path)
    time.sleep(0.2)
    second: Outcome = train(Denoising(), Pictures(), settings(), tmp_path)
    assert first.seconds < second.seconds


def test_a_step_that_fails_loses_nothing(tmp_path: Path) -> None:
    """A broken example after hours without a checkpoint: the steps before it are saved."""

    class Broken(Pictures):
        def batch(self, indices: Any, draw: Draw) -> Any:
            if draw.step == 7:
                raise OSError("the picture cannot be read")
            return super().batch(indices, draw)

    given = settings()
    with pytest.raises(OSError, match="cannot be read"):
        train(Denoising(), Broken(), given, tmp_path / "b")
    there = newest(tmp_path / "b")
    assert there is not None and saving.step_of(there) == 7
    resumed = train(Denoising(), Pictures(), given, tmp_path / "b")
    unbroken = train(Denoising(), Pictures(), given, tmp_path / "a")
    assert unbroken.checkpoint and resumed.checkpoint
    assert files_equal(unbroken.checkpoint, resumed.checkpoint)


def test_a_failure_between_two_players_is_not_saved(tmp_path: Path) -> None:
    class Halfway(Duel):
        def loss(self, player: str, batch: Any, draw: Draw) -> Any:
            if player == "judge" and draw.step == 4:
                raise ValueError("the judge cannot decide")
            return super().loss(player, batch, draw)

    with pytest.raises(ValueError, match="cannot decide"):
        train(Halfway(), Pictures(), settings(), tmp_path)
    assert newest(tmp_path) is None


def test_an_outcome_says_how_to_go_on(tmp_path: Path) -> None:
    stopped = train(Denoising(), StopAt(4), settings(), tmp_path)
    assert str(stopped).startswith("interrupted after 5 of 10 steps, saved in ")
    assert str(stopped).endswith("train into the same folder again to go on")
    assert str(train(Denoising(), Pictures(), settings(), tmp_path)).startswith(
        "finished: 10 steps"
    )


def test_settings_are_plain_json() -> None:
    given: Settings = settings(learning_rate={"net": 1e-3})
    assert json.loads(json.dumps(given.plain()))["learning_rate"] == {"net": 1e-3}
