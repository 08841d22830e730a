#!/usr/bin/env python3
"""Time our U-Net, autoencoder and whole pictures beside Diffusers': same weights, same process.

    python scripts/gpu/bench.py --out bench.jsonl                # cuda, about two minutes
    python scripts/gpu/bench.py --out bench.jsonl --only sd15-fp16,picture
    python scripts/gpu/bench.py --out bench.jsonl --only sdxl --compile-large
    python scripts/gpu/bench.py --out bench.jsonl --only training --training
    python scripts/gpu/bench.py --device cpu --small             # a dry run; its times say nothing
    python scripts/gpu/bench.py --list

Weights are at random, with the last layer scaled so that outputs have unit deviation; both networks
hold the very same tensors. Nobody is timed whose output is not that of Diffusers' eager network: in
root mean square the difference must be below 0.02 (fp16), 0.16 (bf16) or, where weights have eight
bits (fp8), 0.3 of its deviation. Pictures that differ are timed and marked, for rounding adds up
over steps.

Contenders of a case take turns: a round of calls each, then the next round. One JSON line a
contender: the median, shortest and longest round in milliseconds a call, and `times_diffusers`, the
median over rounds of what Diffusers' plain eager call takes over what this one takes.

`peak_gib` is the contender's own weights and the most that a call adds to the memory that is
allocated; of training, all that is allocated. `compile_s` is the time of the first three calls.
Cheap cases come first, compiled ones last. Cases that the file of --out holds are skipped, so an
interrupted run goes on; a line with an error counts as held. Without Diffusers ours are timed all
the same, and unchecked.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from bench_contenders import (
    EAGER,
    Bench,
    Variant,
    decoder_contenders,
    unet_contenders,
)
from bench_pictures import picture_contenders
from bench_training_steps import training
from bench_turns import Line, compared
from bench_twins import Setup, first_line, machine, say

from safelight.engines.placement import resolve_device

# -- the cases -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """What is compared under one name. `wanted` names the option that asks for it, if any."""

    name: str
    family: str
    dtype: str
    run: Callable[[Bench], Iterator[Line]]
    wanted: str = ""
    facts: Mapping[str, object] = field(default_factory=dict)


def unet_case(
    name: str,
    dtype: str,
    variants: Sequence[Variant],
    *,
    batch: int = 2,
    family: str = "sd15",
    pixels: int = 512,
    wanted: str = "",
) -> Case:
    def run(bench: Bench) -> Iterator[Line]:
        makers = unet_contenders(bench, family, dtype, batch, pixels, variants)
        return compared(bench.setup, makers, rounds=bench.setup.rounds)

    facts = {"what": "unet", "batch": batch, "pixels": pixels}
    return Case(name, family, dtype, run, wanted, facts)


def decoder_case(dtype: str, pixels: int) -> Case:
    def run(bench: Bench) -> Iterator[Line]:
        makers = decoder_contenders(bench, dtype, pixels, EAGER)
        return compared(bench.setup, makers, rounds=bench.setup.rounds)

    facts = {"what": "vae decode", "batch": 1, "pixels": pixels}
    return Case(f"vae-{pixels}-{dtype}", "sd15", dtype, run, "", facts)


def picture_case(dtype: str, count: int) -> Case:
    def run(bench: Bench) -> Iterator[Line]:
        steps = 4 if bench.setup.small else 20
        rounds = max(2, bench.setup.rounds - (2 if count == 1 else 4))  # they are long
        makers = picture_contenders(bench, dtype, count, steps)
        return compared(bench.setup, makers, rounds=rounds, pictures=count)

    facts = {"what": "picture", "batch": count, "pixels": 512, "steps": 20, "guidance": 7}
    return Case(f"picture-{dtype}-b{count}", "sd15", dtype, run, "", facts)


def training_case(batch: int) -> Case:
    def run(bench: Bench) -> Iterator[Line]:
        bench.clear()
        return training(bench.setup, batch, rounds=3, steps=2 if bench.setup.small else 8)

    facts = {"what": "training step", "pixels": 512}
    return Case("training", "sd15", "bf16", run, "training", facts)


def cases(training_batch: int) -> list[Case]:
    """In the order in which they are run: what costs little first."""
    theirs: Variant = ("diffusers", "")
    ours: Variant = ("ours", "")
    ours_compiled, theirs_compiled = ("ours", "compiled"), ("diffusers", "compiled")
    both = (ours_compiled, theirs_compiled)
    ours_reduced, theirs_reduced = ("ours", "reduce-overhead"), ("diffusers", "reduce-overhead")
    fp8 = (("ours", "fp8"), ("ours", "recorded, fp8"))
    large = {"family": "sdxl", "pixels": 1024}
    return [
        unet_case("sd15-fp16", "fp16", EAGER),
        picture_case("fp16", 1),
        unet_case("sd15-bf16", "bf16", EAGER),
        unet_case("sd15-fp16-b8", "fp16", EAGER, batch=8),
        unet_case("sd15-bf16-b8", "bf16", EAGER, batch=8),
        picture_case("fp16", 4),
        *(decoder_case(dtype, pixels) for pixels in (512, 1024) for dtype in ("fp16", "bf16")),
        picture_case("bf16", 1),
        unet_case(
            "recorded-sd15-fp16",
            "fp16",
            (*EAGER[:2], ("ours", "recorded"), ("diffusers", "recorded")),
        ),
        unet_case("fp8-sd15-fp16", "fp16", (*EAGER[:2], *fp8)),
        unet_case("fp8-sd15-fp16-b8", "fp16", (*EAGER[:2], *fp8), batch=8),
        unet_case("sdxl-fp16", "fp16", EAGER, **large),  # type: ignore[arg-type]
        unet_case("fp8-sdxl-fp16", "fp16", (*EAGER[:2], *fp8), **large),  # type: ignore[arg-type]
        unet_case("compiled-sd15-fp16-ours", "fp16", (ours, theirs, ours_compiled)),
        unet_case("compiled-sd15-fp16", "fp16", (theirs, *both)),
        unet_case("reduced-sd15-fp16-ours", "fp16", (theirs, *both, ours_reduced)),
        unet_case("reduced-sd15-fp16", "fp16", (theirs, ours_reduced, theirs_reduced)),
        unet_case("compiled-sd15-fp16-b8", "fp16", (theirs, *both), batch=8),
        unet_case("compiled-sd15-bf16", "bf16", (theirs, *both)),
        unet_case("compiled-sdxl-fp16", "fp16", (theirs, *both), wanted="compile_large", **large),  # type: ignore[arg-type]
        training_case(training_batch),
    ]


# -- what is said ----------------------------------------------------------------------------------


def held(path: Path | None) -> set[str]:
    """Names of the cases in the file; a torn last line is passed over."""
    found: set[str] = set()
    if path is None or not path.exists():
        return found
    for text in path.read_text("utf-8").splitlines():
        try:
            found.add(json.loads(text).get("case", ""))
        except json.JSONDecodeError:
            continue
    return found


def chosen(case: Case, given: argparse.Namespace) -> bool:
    if case.wanted and not getattr(given, case.wanted):
        return False
    names = [name for name in (given.only or "").split(",") if name]
    return not names or any(case.name == n or case.name.startswith(f"{n}-") for n in names)


def lines_of(case: Case, bench: Bench, facts: Mapping[str, object]) -> Iterator[Line]:
    common = {"case": case.name, "family": case.family, "dtype": case.dtype, **case.facts}
    try:
        bench.hold(case.family)
        for line in case.run(bench):
            key = f"{case.name}/{line['contender']}"
            yield {"key": key, **common, **line, **facts}
    except Exception as error:
        yield {"key": f"{case.name}/all", **common, "error": first_line(error), **facts}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--out", type=Path, help="lines are added to this file")
    parser.add_argument("--only", help="cases, or beginnings of their names, with commas between")
    parser.add_argument("--list", action="store_true", help="print the names of cases and stop")
    parser.add_argument("--budget", type=float, default=130, help="seconds; no new case after them")
    parser.add_argument("--small", action="store_true", help="narrow networks: does it run?")
    parser.add_argument("--compile-large", action="store_true", help="compile SDXL, too")
    parser.add_argument("--training", action="store_true", help="time training steps, too")
    parser.add_argument("--training-batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=7, help="of each contender")
    parser.add_argument("--seconds", type=float, default=0.12, help="of a round")
    parser.add_argument("--memory", type=float, default=30, help="GB of the GPU's that may be used")
    return parser.parse_args()


def main() -> int:
    began = time.monotonic()
    given = arguments()
    every = cases(given.training_batch)
    if given.list:
        print("\n".join(case.name for case in every))
        return 0
    device = resolve_device(given.device)
    if device.type == "cuda" and device.index is None:
        device = torch.device("cuda", torch.cuda.current_device())
    setup = Setup(device, given.small, given.rounds, given.seconds)
    if not setup.cuda:
        setup = replace(setup, rounds=min(2, setup.rounds), seconds=0.0)
    else:
        total = torch.cuda.get_device_properties(device).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, given.memory * 1e9 / total), device)
    facts = machine(setup)
    say({"note": f"load of the GPU before: {facts['gpu_busy_before'] or 'unknown'}", **facts})
    bench, done = Bench(setup), held(given.out)
    torch._dynamo.config.recompile_limit = 64  # one function, compiled for many networks
    for case in every:
        if case.name in done or not chosen(case, given):
            continue
        if time.monotonic() - began > given.budget:
            say({"note": f"out of time: {case.name} and what follows are for the next run"})
            break
        start = time.monotonic()
        with nullcontext() if case.name == "training" else torch.no_grad():
            lines = list(lines_of(case, bench, facts))
        for line in lines:
            say(line)
        if given.out is not None:
            with given.out.open("a", encoding="utf-8") as file:
                file.write("".join(json.dumps(line) + "\n" for line in lines))
        now = time.monotonic()
        say({"note": f"{case.name}: {now - start:.1f} s, {now - began:.1f} s in all"})
    return 0


if __name__ == "__main__":
    sys.exit(main())
