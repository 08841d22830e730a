"""One work at one precision: contenders made ready, checked against each other, timed in turns."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from safelight.benchmarks.alike import TOLERANCE, Apart, apart, decibels, pictures_apart
from safelight.benchmarks.contenders import Contender
from safelight.benchmarks.disturbance import Verdict, pulse, verdict
from safelight.benchmarks.players import Hall, Player, Turn, player_of
from safelight.benchmarks.processes import ContenderError
from safelight.benchmarks.spread import Spread, ratios, spread
from safelight.benchmarks.task import Task
from safelight.benchmarks.turns import in_turns

PICTURES = ("picture", "start", "memory")  # works whose output are pixels
FEWEST = 2  # rounds that are taken even when time is up: one alone says nothing of spread


@dataclass(frozen=True)
class Drift:
    """How far a picture is from that of a contender who drew it with the full recipe, in dB."""

    psnr: float
    beside: str


@dataclass(frozen=True)
class Taken:
    """A contender and its rounds. apart: from the reference; None for the reference itself.

    drift: how far its whole picture is from that of another; None where nobody had a preset.
    """

    player: Player
    turns: Sequence[Turn]
    apart: Apart | None
    drift: "Drift | None" = None

    @property
    def contender(self) -> Contender:
        return self.player.contender

    @property
    def values(self) -> list[float]:
        return [turn.value for turn in self.turns]

    @property
    def spread(self) -> Spread:
        return spread(self.values)


@dataclass(frozen=True)
class Comparison:
    """What a comparison found. failed: contenders that were not timed, and why."""

    work: str
    precision: str
    taken: Sequence[Taken]
    verdict: Verdict
    failed: Mapping[str, str]

    def pairs(self) -> Iterator[tuple[Taken, Taken, Spread]]:
        """Each of ours with each peer, and ours / theirs; without peers, each with our first."""
        ours = [one for one in self.taken if one.contender.peer is None]
        peers = [one for one in self.taken if one.contender.peer is not None]
        if peers:
            couples = [(a, b) for a in ours for b in peers]
        else:
            couples = [(a, ours[0]) for a in ours[1:]]
        for a, b in couples:
            if min(b.values, default=0) > 0:
                yield a, b, ratios(a.values, b.values)


def compared(
    contenders: Sequence[Contender],
    tasks: Callable[[Contender], Task],
    *,
    rounds: int,
    hall: Hall,
    over: Callable[[], bool] = lambda: False,
    say: Callable[[str], None] = lambda text: None,
) -> Comparison:
    """Time contenders in turns at the task that each is told (the same work for all).

    All live at the same time; nobody is timed whose output is not that of the reference: ours as
    it is, or who comes first. Whoever has a preset shows the output of the full recipe for that,
    and beside its time, how far its picture drifts. over: whether to stop after two rounds.
    """
    failed: dict[str, str] = {}
    first = tasks(contenders[0])
    with ExitStack() as stack:
        ready = []
        for contender in contenders:
            say(f"{first.work}: making {contender.name} ready")
            try:
                made = player_of(contender, tasks(contender), hall)
                ready.append(stack.enter_context(made))
            except ContenderError as error:
                failed[contender.name] = str(error)
        able = list(_checked(ready, first.work, failed))
        pulses = [pulse()]
        done: list[int] = []

        def stop(number: int) -> bool:
            if number:
                pulses.append(pulse())
                done.append(number)
                say(f"{first.work}: round {number} of {rounds}")
            return number >= FEWEST and over()

        turns = in_turns([player.turn for player, _ in able], rounds, over=stop) if able else []
        pulses.append(pulse())
        drifts = drifted([player for player, _ in able])
    taken = [
        Taken(player, mine, away, drifts.get(player.contender.name))
        for (player, away), mine in zip(able, turns, strict=True)
    ]
    return Comparison(first.work, first.precision, taken, judged(taken, pulses), failed)


def _checked(
    ready: Sequence[Player], work: str, failed: dict[str, str]
) -> Iterator[tuple[Player, Apart | None]]:
    """Those whose output is near the reference's; of others it is said how far they are."""
    if not ready:
        return
    plain = (p for p in ready if p.contender.peer is None and p.contender.how == "eager")
    reference = next(plain, ready[0])
    wanted = reference.output()
    for player in ready:
        output = player.output()
        if player is reference or output is None or wanted is None:
            yield player, None
            continue
        allowed = max(TOLERANCE[p.contender.arithmetic] for p in (player, reference))
        if work in PICTURES:
            away = pictures_apart(output, wanted)
            if not away.same and _rounds(player, reference):
                away = _calls_apart(player, reference, allowed) or away
        else:
            away = apart(output, wanted, allowed)
        if away.same:
            yield player, away
        else:
            failed[player.contender.name] = (
                f"other work: its output is {away.typical:.3g} deviations from that of "
                f"{reference.contender.name}, and rounding allows {away.allowed:g}"
            )


def _rounds(player: Player, reference: Player) -> bool:
    """Whether one of two computes in eight bits and draws with a preset: a drawing of random
    weights makes another picture of that, so a call of the network has to show the work."""
    both = (player.contender, reference.contender)
    return any(one.arithmetic == "int8" and one.recipe for one in both)


def _calls_apart(player: Player, reference: Player, allowed: float) -> Apart | None:
    """How far two are apart in a call of the network; None where a turn has no call."""
    output, wanted = player.called(), reference.called()
    return None if output is None or wanted is None else apart(output, wanted, allowed)


def drifted(players: Sequence[Player]) -> Mapping[str, Drift]:
    """By contenders' names, how far the pictures of whole turns are from the first full one.

    Nothing where nobody has a preset, or everybody has one.
    """
    full = next((player for player in players if not player.contender.recipe), None)
    if full is None or not any(player.contender.recipe for player in players):
        return {}
    wanted, beside = full.drawn(), full.contender.name
    found = {}
    for player in players:
        if player is not full and wanted is not None and (picture := player.drawn()) is not None:
            found[player.contender.name] = Drift(decibels(picture, wanted), beside)
    return found


def judged(taken: Sequence[Taken], pulses: Sequence[float]) -> Verdict:
    """Whether the machine was quiet over all turns."""
    seen = [(turn.wall, turn.disturbance) for one in taken for turn in one.turns]
    unsteady = [(one.contender.name, one.spread.width) for one in taken if len(one.turns) > FEWEST]
    return verdict(seen, pulses, unsteady)
