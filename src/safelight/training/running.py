"""A run on its way: steps, and between them figures, validation and checkpoints."""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from typing import Generic, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from safelight.errors import NonFiniteError, OutputError
from safelight.printable import shown
from safelight.training import saving
from safelight.training.batches import B, Load, Piece, ahead, pieces
from safelight.training.distributed import Group
from safelight.training.draw import Draw, number
from safelight.training.fault import Trace, buffers_kept, not_finite, traced
from safelight.training.flops import flops_of_step
from safelight.training.journal import Journal, Record, journal
from safelight.training.learner import Learner, averages_in
from safelight.training.meter import BadStep
from safelight.training.order import Order
from safelight.training.pace import Pace
from safelight.training.posthoc import save_snapshot
from safelight.training.rate import learning_rate
from safelight.training.resume import digest
from safelight.training.saving import State
from safelight.training.settings import Settings
from safelight.training.surroundings import Compiled, Stop, compiled, evaluating, signals
from safelight.training.task import Data, Task
from safelight.training.watch import Moment, Outcome, Watch

PATIENCE = 50  # steps in a row that may be bad before "skip" gives up too
FIRST_SAVE = 60.0  # seconds before the first checkpoint, whatever the time between the others

Reason = Literal["finished", "deadline", "interrupted"]


@runtime_checkable
class CompilesParts(Protocol):
    """A task that calls other methods of a player than its forward says what to compile instead."""

    def parts(self, player: str) -> Sequence[nn.Module]: ...


@dataclass(slots=True)
class Run(Generic[B]):
    """A run on its way; use `train`."""

    task: Task[B]
    data: Data[B]
    settings: Settings
    folder: Path
    device: torch.device
    order: Order
    watch: Watch
    group: Group
    learners: Mapping[str, Learner]
    step: int = 0
    skipped: int = 0
    before: float = 0.0  # seconds of training in earlier parts of the run
    began: float = 0.0
    save_time: float = 0.0  # how long the last save took
    checkpoint: Path | None = None
    kept: int = 0  # the step of the newest checkpoint
    figures: Mapping[str, float] = field(default_factory=dict)
    flops: int = 0
    counting: bool = False  # a forward pass may change what is saved, as batch norm's statistics
    torn: bool = False  # in a step, some of what is saved has changed and some has not
    log: Journal | None = None
    load: Load[B] = field(init=False)
    compiled: Compiled = field(default_factory=Compiled)

    def go(self, stack: ExitStack, state: State | None, until: float | None) -> Outcome:
        """Train from a state to the end, a deadline or a signal."""
        if state is not None:
            self.step, self.skipped, self.before = state.step, state.skipped, state.seconds
            self.figures, self.checkpoint = state.figures, saving.newest(self.folder)
            self.kept = state.step
        self.began = time.monotonic()
        self.counting = any(learner.buffers() for learner in self.learners.values())
        self.log = stack.enter_context(
            journal(self.folder, self.settings, self.step, writes=self.group.first)
        )
        for module in self.task.players.values():
            module.train()
        if self.settings.count_flops and self.step < self.settings.steps:
            self.flops = self._count_flops()
        stop = stack.enter_context(signals())
        self.compiled = stack.enter_context(compiled(self._to_compile(), self.settings.compile))
        if self.compiled.refused:
            self.watch.warned(
                "compiled, such a network had gradients that were not finite in this process; the "
                "run goes on uncompiled"
            )
        self.load = stack.enter_context(self._loading())
        try:
            reason = self._steps(stop, until)
            self._read()
        except Exception:
            self._rescue()
            raise
        self._save(last=True)
        return self._outcome(reason)

    def _steps(self, stop: Stop, until: float | None) -> Reason:
        saved = timed = time.monotonic()
        wait = min(FIRST_SAVE, self.settings.save_every)
        samples = 0
        pace = Pace(self.device, self.settings.log_every)
        while self.step < self.settings.steps:
            if (code := self.group.agreed(self._stopping(stop, until))) != 0:
                return "deadline" if code == 1 else "interrupted"
            rows, finite = self._learn()
            samples += rows
            if pace.step(finite):
                self._read()
            if self._due(self.settings.log_every):
                self._read()
                now = time.monotonic()
                self._log(samples / max(now - timed, 1e-9))
                timed, samples = now, 0
            if self._due(self.settings.validate_every):
                timed += self._validate()
            self._snapshot()
            due = time.monotonic() - saved >= wait
            if self.group.agreed(int(due)) and self.step < self.settings.steps:
                self._read()
                timed += self._save()
                saved, wait = time.monotonic(), self.settings.save_every
        return "finished"

    def _stopping(self, stop: Stop, until: float | None) -> int:
        """2 if somebody asked to stop, 1 if it is time to save for the deadline, else 0."""
        if stop.asked:
            return 2
        return int(until is not None and time.monotonic() + self.save_time >= until)

    def _due(self, every: int) -> bool:
        return every > 0 and (self.step % every == 0 or self.step == self.settings.steps)

    def _learn(self) -> tuple[int, list[Tensor]]:
        """One step of every player whose turn it is. Gives the rows of the batch, and for each
        player whether its loss and gradient were finite."""
        playing = self._playing(self.step)
        found = self.load(self.step)
        batches = list(found) if len(playing) > 1 else found
        total, finite = 0, list[Tensor]()
        before = [(buffer, buffer.clone()) for buffer in self._buffers()] if self.counting else []
        for turn, name in enumerate(playing):
            total = self._gather(turn, name, batches)
            self.torn = True
            rate = learning_rate(self.settings, name, self.step)
            finite.append(self.learners[name].update(self.step, rate))
        with torch.no_grad():
            for buffer, value in before if finite else ():
                # a forward pass that was not finite may have put NaN in running statistics
                buffer.copy_(torch.where(torch.stack(finite).all(), buffer, value))
        self.step += 1
        self.torn = False
        return total, finite

    def _playing(self, step: int) -> list[str]:
        return [name for name in self.learners if self.task.plays(name, step)]

    def _buffers(self) -> Iterator[Tensor]:
        for learner in self.learners.values():
            yield from learner.buffers().values()

    def _gather(
        self, turn: int, name: str, batches: Iterable[Piece[B]], trace: Trace | None = None
    ) -> int:
        """Take in the gradient of one player over a step's batch. Gives the rows of the batch."""
        learner, total = self.learners[name], 0
        self._let_learn(name)
        learner.begin()
        for piece in batches:
            draw = piece.draw
            total = draw.total
            # dropout draws from the global state: make that a function of the step as well
            torch.manual_seed(number(draw.seed, "layers", draw.step, turn, draw.start))
            self.torn |= self.counting
            loss = self.task.loss(name, piece.batch, draw)
            if trace is not None:
                trace.note(f"the loss of {name}, after the networks", loss.total)
            learner.add(loss, piece.share)
        return total

    def _let_learn(self, player: str) -> None:
        """Gradients for one player only: the others' weights are constants to its loss."""
        if len(self.learners) > 1:
            for name, learner in self.learners.items():
                for parameter in learner.weights.parameters:
                    parameter.requires_grad_(name == player)

    def _read(self) -> None:
        """Look at the figures since the last time; deal with steps that were not finite."""
        bad = self._absorb()
        for one in bad:
            told = {"player": one.player, "loss": one.loss, "grad_norm": one.grad_norm}
            self._record({"step": one.step, "event": "skipped", **told})
        streak = max((one.meter.streak for one in self.learners.values()), key=len)
        if bad and (self.settings.non_finite == "stop" or len(streak) >= PATIENCE):
            self._mend(streak if len(streak) >= PATIENCE else bad)
        for one in bad:
            self.watch.warned(f"{one}; the step was left out ({self.skipped} so far)")

    def _absorb(self) -> list[BadStep]:
        bad = [step for learner in self.learners.values() for step in learner.meter.absorb()]
        self.skipped += len(bad)
        return bad

    def _mend(self, bad: Sequence[BadStep]) -> None:
        """Go on without torch.compile if that is to blame; else raise NonFiniteError.

        What was learned is saved before anything is tried: it may need more memory than there is.
        """
        kept = self._preserve()
        was_compiled = self.compiled.active
        self.compiled.undo()
        try:
            place = self._fault(bad[0].step - 1)
            again = "it is finite" if place is None else f"it is not finite either: first {place}"
            again = f"computed again{' uncompiled' if was_compiled else ''} {again}"
        except Exception as error:  # out of memory above all; the first error is the one to tell
            place, again = "", f"it could not be computed again ({shown(str(error), 200)})"
        if was_compiled and place is None:
            self.compiled.distrust()
            for learner in self.learners.values():
                learner.meter.forgive()
            self._record({"step": self.step, "event": "uncompiled", "player": bad[0].player})
            self.watch.warned(f"{bad[0]}; {again}, so the run goes on uncompiled, which is slower")
            return
        skip = "" if self.settings.non_finite == "skip" else ", or set non_finite to skip"
        raise NonFiniteError(
            f"{bad[0]}; {again}. The run stopped; {kept}. Bad steps ({len(bad)}) changed nothing. "
            f"Lower the learning rate, look at the data{skip}"
        )

    def _fault(self, step: int) -> str | None:
        """Where step `step`, computed again with the weights of now, is not finite; None: nowhere.

        Nothing learns or changes. Every process must ask, and all find one or none does.
        """
        batches = list(self.load(step))
        with buffers_kept(self.task.players), traced(self.task.players) as trace:
            for turn, name in enumerate(self._playing(step)):
                self._gather(turn, name, batches, trace)
                finite, weight = self.learners[name].judged()
                if not finite:
                    named = f"the gradient of the weight {name}.{weight}" if weight else None
                    return trace.place or named or "in the rows of another process"
        return None

    def _preserve(self) -> str:
        """Save what was learned since the newest checkpoint. Gives what became of it.

        Removes no older checkpoint: whoever has to go back further can. Every process must ask.
        """
        learned = max(learner.meter.last_good for learner in self.learners.values())
        older = f"the checkpoint of step {self.kept} is good" if self.kept else "no checkpoint yet"
        if not self.group.agreed(int(learned > self.kept)):
            return f"nothing was learned since the last checkpoint ({older})"
        players = self._tensors()
        told = f"nothing is lost: the checkpoint of step {self.step} holds all that was learned"
        try:
            found = (
                (player, not_finite({n: t for part in parts.values() for n, t in part.items()}))
                for player, parts in players.items()
            )
            if broken := next(((player, name) for player, name in found if name), None):
                told = f"{'.'.join(broken)} itself is not finite, so nothing was saved ({older})"
            else:
                self._write(players, keep=None)
        except OutputError as error:
            told = f"{error}"
        self.group.barrier()
        return told

    def _log(self, speed: float) -> None:
        figures: dict[str, float] = {"seconds": self._seconds(), "samples_per_second": speed}
        if self.flops:
            figures["flop_per_second"] = self.flops * speed / self.settings.batch_size
        for name, learner in self.learners.items():
            figures |= {f"{name}/{key}": mean for key, mean in learner.meter.means().items()}
            figures[f"{name}/learning_rate"] = learning_rate(self.settings, name, self.step - 1)
        if self.skipped:
            figures["skipped"] = self.skipped
        self._show(figures)

    def _show(self, figures: Mapping[str, float]) -> None:
        self.figures = {**self.figures, **figures}
        record = {"step": self.step, "epoch": self.order.epoch(self.step), **figures}
        self._record(record)

    def _record(self, record: Record) -> None:
        if self.log is None:
            return
        try:
            self.log.write(record)
        except OutputError as error:
            self._endure(error)
        self.watch.logged(record)

    def _endure(self, error: OutputError) -> None:
        """Go on although the disk refused, if the settings allow it."""
        if self.settings.save_failure == "stop":
            raise error
        self.watch.warned(f"{error}. The run goes on and will try again")

    def _validate(self) -> float:
        """Ask for figures, as if nothing had been asked. Gives the seconds it took."""
        start = time.monotonic()
        modules = self.task.players.values()
        with evaluating(modules, self.device, eager=self.settings.compile):
            figures = self.watch.validate(self._moment())
        if figures:
            self._show(dict(figures))
        return time.monotonic() - start

    def _moment(self) -> Moment:
        return Moment(
            self.step,
            self.folder,
            self.device,
            self.task.players,
            tuple(kind.name for kind in self.settings.ema),
            self.group.first,
            lambda kind: averages_in(self.learners, kind),
        )

    def _save(self, *, last: bool = False) -> float:
        """Write a checkpoint. Gives the seconds it took."""
        start = time.monotonic()
        players = self._tensors()
        try:
            self._write(players, keep=self.settings.keep)
        except OutputError as error:
            if last:
                raise
            self._endure(error)
        self.group.barrier()
        self.save_time = time.monotonic() - start
        return self.save_time

    def _tensors(self) -> dict[str, saving.Tensors]:
        return {name: learner.tensors() for name, learner in self.learners.items()}

    def _write(self, players: Mapping[str, saving.Tensors], *, keep: int | None) -> None:
        if self.group.first:
            self.checkpoint = saving.save(self.folder, self._state(), players, keep=keep)
            self.kept = self.step
            self.watch.saved(self.checkpoint)

    def _rescue(self) -> None:
        """Save what was learned before a step failed, if the failure left it whole.

        Not with several processes, as the others do not know of the failure and would be waited
        for; a step that was not finite, which all know of, has been dealt with before.
        """
        if self.torn or self.group.world > 1:
            return
        with suppress(Exception):  # the first error is the one to hear about
            self._absorb()
            self._preserve()

    def _state(self) -> State:
        return State(
            step=self.step,
            settings=self.settings.plain(),
            order=digest(self.order, self.step),
            players={name: learner.scalars() for name, learner in self.learners.items()},
            seconds=self._seconds(),
            skipped=self.skipped,
            figures={name: value for name, value in self.figures.items() if isfinite(value)},
        )

    def _snapshot(self) -> None:
        if not self._due(self.settings.snapshot_every):
            return
        for name, learner in self.learners.items():
            for kind in self.settings.ema:
                tensors, buffers = learner.average(kind.name), learner.buffers()
                if self.group.first:
                    try:
                        save_snapshot(self.folder, name, kind, self.step, tensors, buffers)
                    except OutputError as error:
                        self._endure(error)

    def _seconds(self) -> float:
        return self.before + time.monotonic() - self.began

    def _count_flops(self) -> int:
        indices = self.order.indices(self.step)
        draw = Draw(self.settings.seed, self.step, len(indices), device=self.device)
        return flops_of_step(self.task, self.data, self.learners, indices, draw)

    def _to_compile(self) -> Iterator[nn.Module]:
        for name, module in self.task.players.items():
            yield from self.task.parts(name) if isinstance(self.task, CompilesParts) else [module]

    @contextmanager
    def _loading(self) -> Iterator[Load[B]]:
        def load(step: int) -> Iterator[Piece[B]]:
            return pieces(self.data, self.order, step, self.settings, self.group, self.device)

        if self.settings.prefetch:
            with ahead(load, self.settings.steps, self.device) as prefetched:
                yield prefetched
        else:
            yield load

    def _outcome(self, reason: Reason) -> Outcome:
        return Outcome(
            step=self.step,
            steps=self.settings.steps,
            reason=reason,
            checkpoint=self.checkpoint,
            figures=self.figures,
            seconds=self._seconds(),
            skipped=self.skipped,
            weights={name: _copies(learner.own()) for name, learner in self.learners.items()},
            averages={
                name: {kind: _copies(learner.average(kind)) for kind in learner.averages}
                for name, learner in self.learners.items()
            },
        )


def _copies(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies that do not follow later training."""
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}
