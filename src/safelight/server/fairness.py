"""Who is next: turns go round the owners, first come first served within each. Pure functions.

A turn draws one batch of pictures, not a job: who asks for a hundred pictures takes turns like
everybody. A turn for a model that is not in memory waits a while for others that need no loading.
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Waiting:
    """What is left of a job. number: order of submission. since: when it last got a turn, or came.

    model: what it is drawn with. kind: pictures of equal kinds may share a batch; None: with nobody
    but its own job.
    """

    job: str
    owner: str
    number: int
    since: float
    model: Hashable
    kind: Hashable | None
    pictures: int


@dataclass(frozen=True, slots=True)
class Share:
    """How many pictures of a job are in a batch."""

    job: str
    pictures: int


def turn(
    waiting: Sequence[Waiting],
    *,
    served: Mapping[str, float],
    now: float,
    batch: int,
    loaded: frozenset[Hashable] = frozenset(),
    patience: float = 0.0,
) -> tuple[Share, ...]:
    """The next batch; empty if nothing waits.

    served: when each owner last had a turn. loaded: models in memory. batch: pictures at most.
    The first is the first job of the owner whose turn is longest ago; jobs of the same kind fill
    the batch up, those of owners next in turn first. A job whose model is not loaded gives way to
    those of other owners for `patience` seconds.
    """
    heads = _heads(waiting, served)
    if not heads:
        return ()
    ready = [w for w in heads if w.model in loaded or now - w.since >= patience]
    first = (ready or heads)[0]
    shares = [Share(first.job, min(first.pictures, batch))]
    room = batch - shares[0].pictures
    if first.kind is None or room == 0:
        return tuple(shares)
    for other in _in_turn(waiting, served):
        if other.job != first.job and (other.model, other.kind) == (first.model, first.kind):
            taken = min(other.pictures, room)
            shares.append(Share(other.job, taken))
            room -= taken
            if room == 0:
                break
    return tuple(shares)


def order(waiting: Sequence[Waiting], *, served: Mapping[str, float]) -> list[str]:
    """The jobs in the order in which they will be begun, if none is added: round after round."""
    return [w.job for w in _in_turn(waiting, served)]


def _in_turn(waiting: Sequence[Waiting], served: Mapping[str, float]) -> list[Waiting]:
    """Everything that waits: the first job of each owner in turn, then the second of each, ..."""
    place: dict[str, int] = {}
    rounds: list[tuple[int, float, int, Waiting]] = []
    for one in sorted(waiting, key=lambda w: w.number):
        place[one.owner] = place.get(one.owner, -1) + 1
        rounds.append((place[one.owner], served.get(one.owner, 0.0), one.number, one))
    rounds.sort(key=lambda r: r[:3])
    return [one for _, _, _, one in rounds]


def _heads(waiting: Sequence[Waiting], served: Mapping[str, float]) -> list[Waiting]:
    """The first job of each owner, the owner who waits longest for a turn first."""
    first: dict[str, Waiting] = {}
    for one in _in_turn(waiting, served):
        first.setdefault(one.owner, one)
    return list(first.values())
