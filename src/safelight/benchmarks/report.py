"""A run as lines of JSON: the machine, what was asked, and a line for each thing that was found.

    {"kind": "machine", "schema": 1, ...}     once, first
    {"kind": "asked", ...}                    once
    {"kind": "measured", "work", "precision", "contender", "unit", "median", "low", "high", ...}
    {"kind": "ratio", "work", "precision", "ours", "theirs", "median", "low", "high", ...}
    {"kind": "noise", "work", "precision", "noisy", ...}
    {"kind": "roofline", "work", "precision", "peaks", "operations"}
    {"kind": "failed", "work", "precision", "contender", "reason"}
    {"kind": "left_out", "work", "precision", "reason"}

A contender with a preset does not do the same work as the others, and lines say so: "same_work":
false, with "preset" and the "recipe" it drew with in `measured`, and "presets", ours and theirs, in
`ratio`. Where somebody has one, `measured` tells "psnr" in dB, and in "psnr_beside" the contender
who drew the full recipe.

No line names a host or a folder.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from safelight.benchmarks.compare import Comparison, Taken
from safelight.benchmarks.contenders import Contender
from safelight.benchmarks.players import Turn
from safelight.benchmarks.task import WORKS

Line = dict[str, object]

SCHEMA = 1
KINDS = ("machine", "asked", "measured", "ratio", "noise", "roofline", "failed", "left_out")


def lines_of(found: Comparison, operations: Mapping[str, int], common: Line) -> Iterator[Line]:
    """What a comparison found, as lines. operations: FLOP of a call by kind; common: see below.

    common: geometry, size and the like, which every line repeats so that it stands alone.
    """
    where: Line = {"work": found.work, "precision": found.precision, **common}
    for one in found.taken:
        if one.turns:
            yield {"kind": "measured", **where, **_measured(one, found.work, operations)}
    for ours, theirs, ratio in found.pairs():
        yield {
            "kind": "ratio",
            **where,
            "ours": ours.contender.name,
            "theirs": theirs.contender.name,
            **ratio.line(),
            **_other_work(ours.contender, theirs.contender),
            "rounds": [_short(a / b) for a, b in zip(ours.values, theirs.values, strict=True)],
        }
    yield from remarks(found, common)


def _other_work(ours: Contender, theirs: Contender) -> Line:
    """What a ratio of two says who did not draw with the same recipe."""
    if ours.preset == theirs.preset:
        return {}
    return {"same_work": False, "presets": [ours.preset, theirs.preset]}


def remarks(found: Comparison, common: Line) -> Iterator[Line]:
    """Who was not timed, and whether the machine was quiet."""
    where: Line = {"work": found.work, "precision": found.precision, **common}
    for name, reason in found.failed.items():
        yield {"kind": "failed", **where, "contender": name, "reason": told(reason)}
    if found.taken:
        yield {"kind": "noise", **where, **found.verdict.line(), "words": found.verdict.words()}


def _measured(one: Taken, work: str, operations: Mapping[str, int]) -> Line:
    contender, middle = one.contender, one.spread
    line: Line = {
        "contender": contender.name,
        "library": contender.library,
        "how": contender.how,
        "unit": WORKS[work].unit,
        **middle.line(),
        "rounds": [_short(value) for value in one.values],
        "calls_a_round": one.player.calls,
        **({} if one.apart is None else one.apart.line()),
    }
    if contender.recipe:
        line |= {"preset": contender.preset, "same_work": False, "recipe": dict(contender.recipe)}
    if one.drift is not None:
        line |= {"psnr": _short(one.drift.psnr), "psnr_beside": one.drift.beside}
    total = sum(operations.values())
    if total and WORKS[work].unit == "s":
        line["gflop"] = _short(total / 1e9)
        line["gflop_s"] = _short(total / middle.median / 1e9)
    for name, value in one.player.facts.items():
        if name != "peaks":
            line[name] = _short(value) if isinstance(value, float) else value
    detail = _typical(one).detail
    for name in ("import_seconds", "peak_of_loading", "anonymous_after", "kernels"):
        if name in detail:
            line[name] = detail[name]
    if "kinds" in detail:
        line["milliseconds_by_kind"] = {
            kind: _short(1e3 * seconds) for kind, seconds in _shares(detail)
        }
        line["wall_ms"] = _short(1e3 * detail["wall_seconds"])
        line["outside_kernels_ms"] = _short(1e3 * detail["overhead_seconds"])
    return line


def roofline(
    found: Comparison, peaks: Mapping[str, float], operations: Mapping[str, int], common: Line
) -> Iterator[Line]:
    """Each kind of operation of a step beside what the machine can do at most."""
    for one in found.taken:
        if not one.turns:
            continue
        detail = _typical(one).detail
        wall = detail["wall_seconds"]
        rows = []
        for kind, seconds in _shares(detail):
            flop = operations.get(kind, 0)
            peak = peaks["convolution" if kind == "convolution" else "matmul"]
            row: Line = {"kind": kind, "share_of_time": _short(seconds / wall)}
            if flop:
                row |= {
                    "gflop": _short(flop / 1e9),
                    "gflop_s": _short(flop / seconds / 1e9),
                    "share_of_peak": _short(flop / seconds / peak),
                }
            rows.append(row)
        rows.append({"kind": "outside kernels", "share_of_time": _short(detail["overhead_share"])})
        yield {
            "kind": "roofline",
            "work": found.work,
            "precision": found.precision,
            **common,
            "contender": one.contender.name,
            "peaks_gflop_s": {name: _short(value / 1e9) for name, value in peaks.items()},
            "step_ms": _short(1e3 * wall),
            "gflop_s": _short(sum(operations.values()) / wall / 1e9),
            "operations": rows,
        }


def _typical(one: Taken) -> Turn:
    """The turn in the middle, of two the better one."""
    return sorted(one.turns, key=lambda turn: turn.value)[(len(one.turns) - 1) // 2]


def _shares(detail: Mapping[str, Any]) -> list[tuple[str, float]]:
    """Kinds of kernels and their seconds, longest first."""
    kinds: Mapping[str, float] = detail["kinds"]
    return sorted(kinds.items(), key=lambda pair: -pair[1])


def told(reason: str) -> str:
    """What somebody said of a failure, without the folders of files that it names."""
    return re.sub(r"(?<![^\s'\"(=])/(?:[^\s/:'\"]+/)+", "", reason)


def _short(value: float) -> float:
    """To six digits."""
    return float(f"{value:.6g}")
