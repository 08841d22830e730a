"""Contenders checked against each other, then timed in turns."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial

import torch
from bench_contenders import Contender
from bench_twins import GIB, Setup, first_line, say
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from safelight.benchmarks.alike import NEAR, TOLERANCE
from safelight.benchmarks.alike import apart as measured_apart
from safelight.benchmarks.spread import ratios, spread
from safelight.benchmarks.turns import block as timed_block
from safelight.benchmarks.turns import in_turns
from safelight.engines.placement import dtype_name

Line = dict[str, object]


@torch.no_grad()
def compared(
    setup: Setup,
    makers: Iterable[Callable[[], Contender]],
    *,
    rounds: int,
    pictures: int = 0,
) -> Iterator[Line]:
    """A line for each contender: checked against Diffusers' eager one, then timed in turns.

    pictures: how many a call makes; 0 where it is a tensor that is compared.
    """
    ready: list[tuple[Contender, Tensor, float]] = []
    for number, maker in enumerate(makers):
        name = f"number {number}"
        try:
            made = maker()
            name = made.name
            output = made.read(made.call()).detach().clone()
            ready.append((made, output, block(setup, made.call, 1)))
        except Exception as error:
            yield {"contender": name, "error": first_line(error)}
    if not ready:
        return
    reference = next((output for c, output, _ in ready if c.who == "diffusers"), ready[0][1])
    able: list[tuple[Contender, Line, float]] = []
    for one, output, guess in ready:
        if pictures:
            line = apart_in_pixels(output, reference)
        else:
            kind = "int8" if one.eight_bits else dtype_name(reference.dtype)
            line = apart(output, reference, TOLERANCE[kind])
        line = {"contender": one.name, **line}
        if "error" in line:
            yield line
        else:
            able.append((one, line, guess))
    plain = next((one for one, _, _ in able if one.name in ("ours", "diffusers")), None)
    flops = None if pictures or plain is None else counted(plain)
    peaks = [peak(setup, one) for one, _, _ in able]
    times = turns(setup, [(one.call, guess) for one, _, guess in able], rounds)
    theirs = next((i for i, (one, _, _) in enumerate(able) if one.name == "diffusers"), None)
    for i, (one, line, guess) in enumerate(able):
        found = spread(times[i])
        middle = found.median
        line |= {
            "who": one.who,
            "ms": round(1e3 * middle, 4),
            "ms_min": round(1e3 * found.least, 4),
            "ms_max": round(1e3 * found.most, 4),
            "rounds": found.count,
            "calls_a_round": setup.calls(guess),
            "times_diffusers": None,
            "peak_gib": peaks[i],
            "weights_gib": round(one.weights / GIB, 3),
        }
        if theirs is not None:
            line["times_diffusers"] = round(ratios(times[theirs], times[i]).median, 4)
        if one.compile_s is not None:
            line["compile_s"] = one.compile_s
        if flops is not None:
            line["gflop"] = round(flops / 1e9, 2)
            line["tflop_s"] = round(flops / middle / 1e12, 2)
        if pictures:
            line["pictures_s"] = round(pictures / middle, 3)
        yield line


def apart(output: Tensor, reference: Tensor, allowed: float) -> Line:
    """How far the output is from the reference's, in its deviations; an error if too far."""
    pair = (tensor.float().cpu().numpy() for tensor in (output, reference))
    away = measured_apart(*pair, allowed)
    found: Line = {"apart": round(away.typical, 6), "apart_largest": round(away.largest, 6)}
    if not away.same:
        found["error"] = f"other work: {away.typical:.3g} deviations from Diffusers' output"
    return found


def apart_in_pixels(output: Tensor, reference: Tensor) -> Line:
    """The same for pictures, in levels of 255. Too far is told, and timed: it may be rounding."""
    away = (output.float() - reference.float()).abs()
    deviation, mean = float(reference.float().std()), float(away.mean())
    return {
        "largest_pixel_difference": int(away.max()),
        "mean_pixel_difference": round(mean, 4),
        "pixel_deviation": round(deviation, 2),
        "same": mean <= NEAR * deviation,
    }


def counted(one: Contender) -> int | None:
    """Floating-point operations of matrix products, convolutions and attention in one call."""
    try:
        with FlopCounterMode(display=False) as counter:
            one.call()
        total: int = counter.get_total_flops()
        return total or None
    except Exception as error:
        say({"note": f"operations were not counted: {first_line(error)}"})
        return None


def peak(setup: Setup, one: Contender) -> float | None:
    """GiB: the contender's weights, and the most that one call adds to what is allocated.

    None for recorded graphs, whose memory stays allocated between calls.
    """
    if not setup.cuda or one.graphed:
        return None
    setup.wait()
    before = torch.cuda.memory_allocated(setup.device)
    torch.cuda.reset_peak_memory_stats(setup.device)
    one.call()
    setup.wait()
    added = torch.cuda.max_memory_allocated(setup.device) - before
    return round((one.weights + added) / GIB, 3)


def turns(
    setup: Setup, calls: Sequence[tuple[Callable[[], object], float]], rounds: int
) -> list[list[float]]:
    """Seconds a call: for each contender, one number a round. A round of each, then the next.

    With each call comes about how many seconds it takes.
    """
    return in_turns(
        [partial(block, setup, call, setup.calls(guess)) for call, guess in calls], rounds
    )


def block(setup: Setup, call: Callable[[], object], count: int) -> float:
    """Seconds a call, of so many one after another; the device is idle before and after."""
    return timed_block(call, count, setup.wait)
