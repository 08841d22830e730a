"""What every contender's process does: it makes ready, and works when it is told to.

One line of JSON asks, one answers; what libraries print goes to stderr. Standard library alone (and
NumPy for outputs), because any interpreter may run it.

    {"do": "prepare", "task": {...}}   builds what is timed: {"seconds", "facts"}
    {"do": "run", "calls": 3}          works: {"seconds", "processor"} of all calls together
    {"do": "output", "path": "x.npy"}  works, or tries, and writes what came out; with "whole": true
                                       it works
    {"do": "rest"}                     lets go of what was prepared
    {"do": "peak"}                     the memory of this process since it began to prepare:
                                       {"peak", "anonymous"} in bytes; None where nobody knows
    {"do": "end"}                      ends
"""

import ctypes
import gc
import json
import os
import resource
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple, TextIO

Json = dict[str, Any]

TRIAL = 2  # steps of the pictures by which contenders are checked: rounding adds up over many


class Work(NamedTuple):
    """What is timed. `call` does it, `read` makes an array of what came out.

    wait: returns when the device is done. trial: the same in short, where rounding adds up over a
    long call: its output is what contenders are checked by.
    """

    call: Callable[[], Any]
    read: Callable[[Any], Any] = lambda made: made
    wait: Callable[[], None] = lambda: None
    facts: Json = {}  # noqa: RUF012  never changed
    trial: Callable[[], Any] | None = None


def neighbour(name: str) -> ModuleType:
    """The script of this name beside this file as a module: `.pyw` files are no modules else."""
    known = f"safelight_peer_{name}"
    if known not in sys.modules:
        loader = SourceFileLoader(known, str(Path(__file__).with_name(f"{name}.pyw")))
        spec = spec_from_loader(known, loader)
        assert spec is not None
        module = sys.modules[known] = module_from_spec(spec)
        loader.exec_module(module)
    return sys.modules[known]


def serve(
    prepare: Callable[[Json], Work],
    more: Mapping[str, Callable[[Work, Json], Json]] | None = None,
) -> None:
    """Answer until told to end, or until nobody asks any more.

    more: further requests by name, answered with the work that was made ready.
    """
    answers = _own_stdout()
    work: Work | None = None
    prepared, peak_is_known = 0, True
    for line in sys.stdin:
        asked = json.loads(line)
        try:
            if asked["do"] == "end":
                break
            if asked["do"] in ("prepare", "rest"):
                work = None
                _give_back()
            if asked["do"] == "rest":
                answer = {}
            elif asked["do"] == "prepare":
                prepared += 1
                peak_is_known = _peak_forgotten() or prepared == 1
                began = time.perf_counter()
                work = prepare(asked["task"])
                answer = {"seconds": time.perf_counter() - began, "facts": work.facts}
            elif asked["do"] == "peak":
                answer = memory() if peak_is_known else memory() | {"peak": None}
            else:
                assert work is not None, "nothing was prepared"
                answer = _answered(work, asked, more or {})
        except Exception as error:  # whoever asked decides what a failure means
            text = str(error).strip().split("\n")[0][:500]
            answer = {"error": f"{type(error).__name__}: {text}"}
            if os.environ.get("SAFELIGHT_DEBUG"):
                raise
        print(json.dumps(answer), file=answers, flush=True)


def _answered(work: Work, asked: Json, more: Mapping[str, Callable[[Work, Json], Json]]) -> Json:
    if asked["do"] == "run":
        return run(work, int(asked["calls"]))
    if asked["do"] == "output":
        import numpy as np

        short = None if asked.get("whole") else work.trial
        made = (short or work.call)()
        np.save(asked["path"], np.ascontiguousarray(work.read(made)))
        return {}
    before = _processor()
    return {**more[asked["do"]](work, asked), "processor": _processor() - before}


def run(work: Work, calls: int) -> Json:
    """Wall and processor seconds of so many calls together."""
    work.wait()
    processor, began = _processor(), time.perf_counter()
    for _ in range(calls):
        work.call()
    work.wait()
    return {
        "seconds": time.perf_counter() - began,
        "processor": _processor() - processor,
    }


def _give_back() -> None:
    """Let go of what nobody holds, and let the system have it where the C library keeps it."""
    gc.collect()
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):  # glibc's alone
            ctypes.CDLL(None).malloc_trim(0)


def _peak_forgotten() -> bool:
    """Whether the most memory so far counts from now on: Linux, and a GPU's by itself."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.reset_peak_memory_stats()
    try:
        with open("/proc/self/clear_refs", "w", encoding="ascii") as file:
            file.write("5")
    except OSError:
        return False
    return True


def memory() -> Json:
    """Bytes: the most that was resident so far, and what is now without files behind it.

    gpu_peak: the most that PyTorch had allocated on a GPU, if it uses one.
    """
    found: Json = {"peak": None, "anonymous": None}
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        found["gpu_peak"] = torch.cuda.max_memory_allocated()
    try:
        with open("/proc/self/status", encoding="utf-8") as file:
            rows = dict(line.split(":", 1) for line in file)
    except OSError:
        found["peak"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        return found
    for name, row in (("peak", "VmHWM"), ("anonymous", "RssAnon")):
        if row in rows:
            found[name] = int(rows[row].split()[0]) * 1024
    return found


def _processor() -> float:
    """Seconds of processors that this process and its children took."""
    every = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(one.ru_utime + one.ru_stime for one in every)


def _own_stdout() -> TextIO:
    """The pipe to whoever asks; from now on all else that is printed goes to stderr."""
    kept = os.dup(1)
    os.dup2(2, 1)
    return os.fdopen(kept, "w", encoding="utf-8")
