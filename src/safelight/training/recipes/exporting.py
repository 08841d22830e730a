"""Which weights of a run are written: the last, those of a step, or an average's."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from safelight.errors import FileError, RequestError
from safelight.printable import shown
from safelight.training import saving
from safelight.training.ema import Power, ema_kind
from safelight.training.posthoc import reconstruct, snapshots
from safelight.training.recipes.job import Weights

LAST = "last"
_WHICH = re.compile(r"(?P<kind>[a-z]+(?::[0-9.e-]+)?)?(?:@(?P<step>\d+))?|(?P<bare>\d+)")


@dataclass(frozen=True, slots=True)
class Which:
    """kind: "last", or the name of an average; None is what the config says. step: None: newest."""

    kind: str | None = None
    step: int | None = None


def which(text: str) -> Which:
    """What a text names: `last`, `1200`, `power:0.05`, `power:0.05@1200`. Raises RequestError."""
    found = _WHICH.fullmatch(text.strip())
    if found is None or not text.strip():
        raise _strange(text)
    if found["bare"]:
        return Which(step=int(found["bare"]))
    kind = found["kind"]
    if kind not in (None, LAST):
        try:
            kind = ema_kind(kind).name
        except RequestError:
            raise _strange(text) from None
    return Which(kind, None if found["step"] is None else int(found["step"]))


def chosen(folder: Path, players: Sequence[str], wanted: Which, default: str) -> Weights:
    """The weights of some players of the run in a folder, float32 on the CPU.

    An average that the run did not keep is put together from its snapshots, if it took any. Raises
    FileError if there is no such checkpoint, RequestError if there is no such average.
    """
    there = saving.checkpoints(folder)
    if not there:
        raise FileError(f"{shown(folder)} holds no checkpoint of a run; train first")
    steps = {saving.step_of(path): path for path in there}
    kind = wanted.kind or default
    step = max(steps) if wanted.step is None else wanted.step
    if step not in steps:
        if kind.startswith("power:") and _snapped(folder, players):
            return {p: reconstruct(folder, p, _width(kind), step=step) for p in players}
        raise RequestError(
            f"{shown(folder)} has no checkpoint of step {step}; there are "
            f"{', '.join(map(str, steps))} (training.keep says how many stay)"
        )
    return {player: _weights(folder, steps[step], player, kind, step) for player in players}


def _weights(folder: Path, path: Path, player: str, kind: str, step: int) -> dict[str, Tensor]:
    own = saving.load_tensors(path, player)
    if kind == LAST:
        return own
    if (path / saving.filename(player, kind)).is_file():
        return {**own, **saving.load_tensors(path, player, kind)}
    if kind.startswith("power:") and _snapped(folder, [player]):
        return {**own, **reconstruct(folder, player, _width(kind), step=step)}
    kept = saving.load_state(path).settings.get("ema")
    names = ", ".join(map(str, kept)) if isinstance(kept, list) and kept else "none"
    raise RequestError(f"the run keeps no average {kind}; it has {names}, and last")


def _snapped(folder: Path, players: Sequence[str]) -> bool:
    return all(snapshots(folder, player) for player in players)


def _width(kind: str) -> float:
    made = ema_kind(kind)
    assert isinstance(made, Power)
    return made.sigma_rel


def _strange(text: str) -> RequestError:
    return RequestError(
        f"--export takes last, a step, or an average such as power:0.05, and either at a step as "
        f"power:0.05@1200; got {shown(text, 60)!r}"
    )
