"""Contenders that need no library of models: scripts of a few lines, run as peers are."""

from pathlib import Path
from types import MappingProxyType

from safelight.benchmarks.contenders import Contender, Peer
from safelight.benchmarks.peers import serving
from safelight.benchmarks.task import WORKS, Task

SCRIPT = """
import sys, time
sys.path.insert(0, {beside!r})
from serving import Work, serve
import numpy as np

def prepared(task):
    if {broken!r}:
        raise ValueError("it is broken")
    def call():
        end = time.process_time() + {seconds}
        while time.process_time() < end:
            pass
        print("chatter on stdout")
        return np.arange(4.0) + {shift}
    return Work(call, facts={{"fake": "1.0", "load_seconds": 0.5, "import_seconds": 0.1}})

serve(prepared, {{"profile": lambda work, asked: {{"overhead_share": 0.25}}}})
"""


def contender(
    folder: Path, name: str, *, seconds: float = 0.0, shift: float = 0.0, broken: bool = False
) -> Contender:
    """One whose output is 0, 1, 2, 3 and `shift` more, made in so many seconds of a processor."""
    script = folder / f"{name}.pyw"
    beside = str(Path(serving.__file__).parent)
    text = SCRIPT.format(beside=beside, seconds=seconds, shift=shift, broken=broken)
    script.write_text(text)
    peer = Peer(name, name, name, "eager", str(script), MappingProxyType({}), frozenset(WORKS))
    return Contender("eager", "fp32", peer)


def task(work: str = "step") -> Task:
    """A task whose details fakes do not read."""
    return Task(
        work=work,
        how="eager",
        precision="fp32",
        device="cpu",
        threads=1,
        model="nowhere",
        single="",
        inputs="",
        export="",
        width=8,
        height=8,
        batch=1,
        steps=1,
        guidance=7.0,
        seed=1,
    )
