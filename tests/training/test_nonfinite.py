"""Steps that are not finite: they change nothing, are heard of soon, and never cost work."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.backends.common import aot_autograd

from safelight.errors import NonFiniteError, RequestError
from safelight.training import running, saving, surroundings
from safelight.training.draw import Draw
from safelight.training.journal import Record, read_log
from safelight.training.loop import train
from safelight.training.meter import FINITE, NORM, Meter
from safelight.training.pace import AHEAD, LOOK, Pace
from safelight.training.saving import load_state, load_tensors, newest
from safelight.training.watch import Outcome, Watch
from training_tiny import Denoising, Duel, Net, Pictures, files_equal, net, settings, steep

NAN = float("nan")


class Heard(Watch):
    def __init__(self) -> None:
        self.warnings: list[str] = []
        self.events: list[tuple[object, object]] = []

    def warned(self, text: str) -> None:
        self.warnings.append(text)

    def logged(self, record: Record) -> None:
        if "event" in record:
            self.events.append((record["step"], record["event"]))


def run(folder: Path, task: Any = None, **changes: Any) -> Outcome:
    extra = {k: changes.pop(k) for k in ("watch", "until", "data") if k in changes}
    data = extra.pop("data", None) or Pictures()
    return train(task or Denoising(), data, settings(**changes), folder, **extra)


def spoiled(*bad: int) -> Denoising:
    return Denoising(spoil=lambda loss, step: loss * NAN if step in bad else loss)


# --- what a bad step does ---------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_bad_step_changes_no_weight_and_is_counted_and_named(
    tmp_path: Path, precision: str
) -> None:
    heard = Heard()
    first = run(tmp_path / "a", spoiled(), steps=4, precision=precision, schedule="constant")
    outcome = run(
        tmp_path / "b",
        spoiled(4, 5),
        steps=6,
        precision=precision,
        schedule="constant",
        non_finite="skip",
        watch=heard,
        keep=9,
    )
    for name, weight in outcome.weights["net"].items():
        assert torch.equal(weight, first.weights["net"][name]), name  # the buffer `seen` too
    assert outcome.skipped == 2 and len(heard.warnings) == 2
    assert "in step 5 the loss of net was nan" in heard.warnings[0]
    events = [line for line in read_log(tmp_path / "b" / "log.jsonl") if "event" in line]
    assert [(e["step"], e["event"], e["loss"]) for e in events] == [
        (5, "skipped", None),
        (6, "skipped", None),
    ]
    assert outcome.checkpoint
    state = load_tensors(outcome.checkpoint, "net", "optimizer")
    assert state["mix.weight/step"].item() == 4  # Adam did not count them


def test_an_infinite_gradient_under_a_finite_loss_is_bad_too(tmp_path: Path) -> None:
    task = Denoising(spoil=lambda loss, step: steep(loss, float("inf")) if step == 1 else loss)
    outcome = run(tmp_path, task, non_finite="skip")
    assert outcome.skipped == 1
    assert all(torch.isfinite(w).all() for w in outcome.weights["net"].values())


def test_running_statistics_do_not_keep_what_a_bad_step_put_there(tmp_path: Path) -> None:
    class Normed(Net):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm2d(24)  # type: ignore[assignment]

    class Broken(Pictures):
        def batch(self, indices: Any, draw: Draw) -> tuple[Tensor, Tensor]:
            pictures, kinds = super().batch(indices, draw)
            return (pictures * NAN if draw.step == 3 else pictures), kinds

    outcome = run(tmp_path, Denoising(Normed()), data=Broken(), non_finite="skip")
    assert outcome.skipped == 1
    assert all(torch.isfinite(w).all() for w in outcome.weights["net"].values())
    assert outcome.weights["net"]["norm.num_batches_tracked"] == 9


# --- a run that stops -------------------------------------------------------------------------


def test_a_run_that_stops_for_a_bad_step_has_saved_what_it_learned(tmp_path: Path) -> None:
    said = r"in step 7 the loss of net was nan .*nothing is lost: the checkpoint of step 7 holds"
    with pytest.raises(NonFiniteError, match=said):
        run(tmp_path / "a", spoiled(6), log_every=1000, validate_every=0)
    there = newest(tmp_path / "a")
    assert there is not None and load_state(there).skipped == 1
    good = run(tmp_path / "b", steps=6, schedule="constant", warmup_steps=3)
    kept = load_tensors(there, "net")
    for name, weight in good.weights["net"].items():
        assert torch.equal(weight, kept[name]), name
    resumed = run(tmp_path / "a", spoiled(6))
    assert resumed.step == 10 and resumed.skipped == 1


def test_stopping_again_and_again_removes_no_older_checkpoint(tmp_path: Path) -> None:
    """Each attempt learns a step and fails in the next; one can still go back to the first."""
    for bad in (3, 5, 7):
        with pytest.raises(NonFiniteError):
            run(tmp_path, spoiled(bad), keep=1)
    assert [saving.step_of(path) for path in saving.checkpoints(tmp_path)] == [4, 6, 8]


def test_where_nothing_was_learned_nothing_is_saved(tmp_path: Path) -> None:
    with pytest.raises(NonFiniteError, match=r"nothing was learned .*no checkpoint yet"):
        run(tmp_path, spoiled(0))
    assert newest(tmp_path) is None
    with pytest.raises(NonFiniteError, match="checkpoint of step 4"):
        run(tmp_path, spoiled(3))
    with pytest.raises(NonFiniteError, match=r"in step 5 .*nothing was learned .* step 4 is good"):
        run(tmp_path, spoiled(4))
    assert [saving.step_of(path) for path in saving.checkpoints(tmp_path)] == [4]


def test_weights_that_are_not_finite_are_not_saved(tmp_path: Path) -> None:
    """An optimizer may break a weight in a step that is finite: the checkpoint before is good."""
    network = net()

    def spoil(loss: Tensor, step: int) -> Tensor:
        if step == 5:
            network.mix.weight.data[3, 4] = NAN  # as if step 5 had done it
        return loss + network.mix.weight.sum() * 0

    with pytest.raises(NonFiniteError, match=r"net\.mix\.weight itself is not finite, so nothing"):
        run(tmp_path, Denoising(network, spoil=spoil))
    assert newest(tmp_path) is None


def test_a_run_whose_steps_are_all_bad_stops_under_skip_too(tmp_path: Path) -> None:
    with pytest.raises(NonFiniteError, match=r"in step 41 .*step 90 holds all .*\(50\)") as caught:
        run(tmp_path, spoiled(*range(40, 200)), steps=200, non_finite="skip", log_every=10)
    assert "set non_finite" not in str(caught.value)


def test_a_full_disk_does_not_hide_the_bad_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: Any) -> None:
        raise running.OutputError("the disk is full")

    monkeypatch.setattr(saving, "write_safetensors", full)
    with pytest.raises(NonFiniteError, match=r"in step 7 .*no checkpoint of step 7: the disk is"):
        run(tmp_path, spoiled(6))


@pytest.mark.parametrize("players", [1, 2])
def test_a_bad_last_step_saves_the_run_too(tmp_path: Path, players: int) -> None:
    task = spoiled(9) if players == 1 else Duel()
    if isinstance(task, Duel):
        judged = task.loss
        task.loss = lambda name, batch, draw: (  # type: ignore[method-assign]
            running_loss(judged(name, batch, draw)) if draw.step == 8 else judged(name, batch, draw)
        )
    with pytest.raises(NonFiniteError, match="nothing is lost"):
        run(tmp_path, task, log_every=1000)
    assert newest(tmp_path) is not None


def running_loss(loss: Any) -> Any:
    return type(loss)(loss.total * NAN, loss.figures)


def test_an_error_of_the_data_that_speaks_of_nan_saves_the_run(tmp_path: Path) -> None:
    class Broken(Pictures):
        def batch(self, indices: Any, draw: Draw) -> Any:
            if draw.step == 7:
                raise NonFiniteError("the autoencoder makes NaN of picture 5")
            return super().batch(indices, draw)

    with pytest.raises(NonFiniteError, match="picture 5"):
        run(tmp_path, data=Broken())
    there = newest(tmp_path)
    assert there is not None and saving.step_of(there) == 7


def test_a_figure_that_is_not_finite_keeps_no_checkpoint_from_being_written(
    tmp_path: Path,
) -> None:
    class Odd(Denoising):
        def loss(self, player: str, batch: tuple[Tensor, Tensor], draw: Draw) -> Any:
            found = super().loss(player, batch, draw)
            return type(found)(found.total, {"odd": found.total.detach() * NAN})

    outcome = run(tmp_path, Odd(), save_every=0.0, log_every=3)
    assert outcome.step == 10 and outcome.checkpoint
    assert "net/odd" not in load_state(outcome.checkpoint).figures


# --- how soon it is heard of ------------------------------------------------------------------


def test_a_bad_step_is_heard_of_long_before_the_log_is_due(tmp_path: Path) -> None:
    data = Pictures()
    with pytest.raises(NonFiniteError, match="in step 6 "):
        run(tmp_path, spoiled(*range(5, 500)), data=data, steps=500, log_every=400)
    assert len(data.asked) <= 6 + AHEAD + 1  # and the one that was looked at again


def test_a_device_that_cannot_be_asked_in_passing_is_asked_often_enough() -> None:
    yes, no = torch.tensor(True), torch.tensor(False)
    for every, soonest in ((7, 7), (400, LOOK)):
        pace = Pace(torch.device("mps"), every)  # what decides is the kind of device
        heard = [pace.step([yes, no if step == 0 else yes]) for step in range(2 * LOOK)]
        assert heard.index(True) == soonest - 1 and heard.count(True) == 1
    cpu = Pace(torch.device("cpu"), 400)
    assert [cpu.step([yes]), cpu.step([yes, no]), cpu.step([yes])] == [False, True, False]
    assert cpu.step([]) is False  # nobody played


@pytest.mark.gpu
def test_a_gpu_is_heard_two_steps_later_without_being_waited_for() -> None:
    device = torch.device("cuda")
    yes, no = (torch.tensor(value, device=device) for value in (True, False))
    pace = Pace(device, 400)
    torch.cuda.set_sync_debug_mode("error")
    try:
        heard = [pace.step([no if step == 4 else yes]) for step in range(9)]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert heard == [step == 4 + AHEAD for step in range(9)]


def test_the_meter_knows_the_last_good_step() -> None:
    meter = Meter("net")
    for step, good in ((1, True), (2, True), (3, False)):
        flags = {"loss": torch.tensor(1.0), NORM: torch.tensor(1.0), FINITE: torch.tensor(good)}
        meter.keep(step, flags)
    assert [one.step for one in meter.absorb()] == [3]
    assert meter.last_good == 2 and len(meter.streak) == 1
    meter.forgive()
    assert meter.streak == []


# --- where it arises --------------------------------------------------------------------------


def test_data_that_are_not_finite_are_named_as_the_input(tmp_path: Path) -> None:
    class Broken(Pictures):
        def batch(self, indices: Any, draw: Draw) -> tuple[Tensor, Tensor]:
            pictures, kinds = super().batch(indices, draw)
            return (pictures * NAN if draw.step == 3 else pictures), kinds

    with pytest.raises(NonFiniteError, match=r"not finite either: first the input of net\.stem"):
        run(tmp_path, data=Broken())


def test_a_module_that_truly_makes_nan_is_named_and_the_loss_is_told_from_modules(
    tmp_path: Path,
) -> None:
    class Log(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).detach().sub(100.0).log() + super().forward(x)

    network = net()
    network.wide = Log(128, 128)
    with pytest.raises(NonFiniteError, match=r"either: first the output of net\.wide\."):
        run(tmp_path / "a", Denoising(network))
    with pytest.raises(NonFiniteError, match="either: first the loss of net, after the networks"):
        run(tmp_path / "b", spoiled(0))


def test_looking_again_leaves_no_trace(tmp_path: Path) -> None:
    """With dropout, a buffer, prefetching and two players: what is saved is what was learned."""
    common: dict[str, Any] = {"precision": "bf16", "prefetch": True, "micro_batch": 3}

    def gone_wrong(step: int) -> Duel:
        duel = Duel(maker=net(dropout=0.3))
        made = duel.loss
        duel.loss = lambda name, batch, draw: (  # type: ignore[method-assign]
            running_loss(made(name, batch, draw)) if draw.step == step else made(name, batch, draw)
        )
        return duel

    with pytest.raises(NonFiniteError):
        run(tmp_path / "a", gone_wrong(6), **common)
    skipped = run(
        tmp_path / "b",
        gone_wrong(6),
        steps=10,
        non_finite="skip",
        save_every=0.0,
        keep=99,
        **common,
    )
    assert skipped.skipped == 2  # both players
    at_stop, at_skip = (folder / "checkpoints" / "step-00000007" for folder in
                        (tmp_path / "a", tmp_path / "b"))  # fmt: skip
    assert files_equal(at_stop, at_skip)


def test_what_cannot_be_computed_again_is_said_and_nothing_is_lost(tmp_path: Path) -> None:
    tries = 0

    def spoil(loss: Tensor, step: int) -> Tensor:
        nonlocal tries
        tries += step == 5
        if tries == 2:
            raise MemoryError("out of memory")
        return loss * NAN if step == 5 else loss

    said = r"in step 6 .*could not be computed again \(out of memory\).*nothing is lost"
    with pytest.raises(NonFiniteError, match=said):
        run(tmp_path, Denoising(spoil=spoil))
    assert newest(tmp_path) is not None


def test_a_fault_that_does_not_come_again_is_said_to_be_so(tmp_path: Path) -> None:
    tries = 0

    def spoil(loss: Tensor, step: int) -> Tensor:
        nonlocal tries
        tries += step == 5
        return loss * NAN if step == 5 and tries == 1 else loss

    with pytest.raises(NonFiniteError, match=r"computed again it is finite\. The run stopped"):
        run(tmp_path, Denoising(spoil=spoil))


# --- torch.compile ----------------------------------------------------------------------------


@pytest.fixture
def unsound(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """torch.compile whose backward passes give NaN from the fifth on; notes what it compiled."""
    compiled: list[str] = []
    real = nn.Module.compile

    def forward(graph: torch.fx.GraphModule, inputs: Any) -> Any:
        compiled.append("forward")
        return graph.forward

    def backward(graph: torch.fx.GraphModule, inputs: Any) -> Any:
        passes = 0

        def spoiled_pass(*args: Any) -> Any:
            nonlocal passes
            passes += 1
            found = graph.forward(*args)
            if passes < 5:
                return found
            return [None if one is None else one * NAN for one in found]

        return spoiled_pass

    backend = aot_autograd(fw_compiler=forward, bw_compiler=backward)

    def compile_(module: nn.Module, **options: Any) -> None:
        real(module, backend=backend, **options)

    monkeypatch.setattr(nn.Module, "compile", compile_)
    monkeypatch.setattr(surroundings, "_UNSOUND", set())
    torch._dynamo.reset()
    yield compiled
    torch._dynamo.reset()


# what Dynamo and its tracing import
quiet = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning:torch.*")


@quiet
@pytest.mark.parametrize("non_finite", ["stop", "skip"])
def test_a_run_whose_compiled_gradients_go_bad_goes_on_uncompiled(
    tmp_path: Path, unsound: list[str], monkeypatch: pytest.MonkeyPatch, non_finite: str
) -> None:
    monkeypatch.setattr(running, "PATIENCE", 3)
    common: dict[str, Any] = {"steps": 12, "compile": True, "non_finite": non_finite}
    heard, task = Heard(), Denoising()
    outcome = run(tmp_path / "a", task, watch=heard, **common)
    lost = 1 if non_finite == "stop" else 3
    assert (outcome.reason, outcome.step, outcome.skipped) == ("finished", 12, lost)
    assert unsound == ["forward"] and task.network._compiled_call_impl is None
    (told,) = [text for text in heard.warnings if "uncompiled" in text]
    assert "in step 5 the loss of net was 0." in told
    assert "computed again uncompiled it is finite" in told
    assert heard.events == [(5 + k, "skipped") for k in range(lost)] + [(4 + lost, "uncompiled")]
    assert (4 + lost, "uncompiled") in [
        (line["step"], line.get("event")) for line in read_log(tmp_path / "a" / "log.jsonl")
    ]
    bad = range(4, 4 + lost)
    monkeypatch.setattr(running, "PATIENCE", 50)
    left_out = Denoising(spoil=lambda loss, step: loss * NAN if step in bad else loss)
    plain = run(tmp_path / "b", left_out, steps=12, non_finite="skip")
    for name, weight in plain.weights["net"].items():
        assert torch.allclose(weight, outcome.weights["net"][name], atol=1e-4), name


@quiet
def test_a_process_remembers_what_it_must_not_compile(tmp_path: Path, unsound: list[str]) -> None:
    run(tmp_path / "a", compile=True)
    assert unsound == ["forward"]
    heard = Heard()
    outcome = run(tmp_path / "b", compile=True, watch=heard)
    assert unsound == ["forward"] and outcome.skipped == 0
    assert len(heard.warnings) == 1 and "the run goes on uncompiled" in heard.warnings[0]
    run(tmp_path / "c", Duel(), compile=True, steps=1)
    assert len(unsound) == 1  # the maker has the same shapes, and the run is one


@quiet
def test_a_module_that_truly_makes_nan_is_named_from_compiled_runs_too(
    tmp_path: Path, unsound: list[str]
) -> None:
    class Steeper(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return (super().forward(x) * 0).clamp(min=0).sqrt()  # its slope at 0 is infinite

    network = net()
    network.wide = Steeper(128, 128)
    said = (
        r"computed again uncompiled it is not finite either: first the gradient that comes back to "
        r"the output of net\.mix \(to that of net\.wide a finite one comes\)"
    )
    with pytest.raises(NonFiniteError, match=said):
        run(tmp_path, Denoising(network), compile=True)
    assert not surroundings._UNSOUND


# --- attention --------------------------------------------------------------------------------


def test_training_on_a_gpu_does_without_the_attention_of_cudnn() -> None:
    assert torch.backends.cuda.cudnn_sdp_enabled()
    others = (torch.backends.cuda.flash_sdp_enabled, torch.backends.cuda.mem_efficient_sdp_enabled)
    with surroundings.switches(settings(), torch.device("cuda")):
        assert not torch.backends.cuda.cudnn_sdp_enabled()
        assert all(enabled() for enabled in (*others, torch.backends.cuda.math_sdp_enabled))
    assert torch.backends.cuda.cudnn_sdp_enabled()
    with (
        pytest.raises(RequestError),
        surroundings.switches(settings(), torch.device("cuda")),
    ):
        raise RequestError("a run that fails")
    assert torch.backends.cuda.cudnn_sdp_enabled()
    with surroundings.switches(settings(), torch.device("cpu")):
        assert torch.backends.cuda.cudnn_sdp_enabled()
