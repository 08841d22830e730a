"""A whole run: what was asked is checked, files are laid out, works are compared one by one."""

import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from safelight.benchmarks import machine
from safelight.benchmarks.compare import Comparison, compared
from safelight.benchmarks.contenders import (
    FULL,
    Contender,
    absent,
    check_engines,
    check_offloads,
    check_peers,
    check_presets,
    contenders,
)
from safelight.benchmarks.flops import operations
from safelight.benchmarks.footprint import Need, check_memory, unet_parameters
from safelight.benchmarks.furnish import Furnished, family_of, furnished, inputs_for
from safelight.benchmarks.ours import PARTS, part_of
from safelight.benchmarks.players import Hall
from safelight.benchmarks.processes import ContenderError, Pool, Process
from safelight.benchmarks.report import SCHEMA, Line, lines_of, remarks, roofline, told
from safelight.benchmarks.task import WORKS, Task
from safelight.engines.placement import DTYPES
from safelight.errors import RequestError
from safelight.families import Family

Say = Callable[[str], None]
LORA_FROM = 2**28  # weights of a U-Net from which `train` teaches a LoRA: 268 million


@dataclass(frozen=True)
class Asked:
    """What a run is to do. geometry or model says what with; None is the geometry "embedded".

    offloads: which parts of ours are in memory when, in works that draw; several are several
    contenders. presets: with which ours draws, several likewise; FULL is the recipe of peers.
    size: (width, height); None is the model's own. batch: pictures; guidance 1 is none,
    else every step works on twice as many. rounds: turns of each contender. budget: seconds after
    which no round is begun but the first two. peer_python: the interpreter of peers; None is this
    one. folder: where random models and exports are kept; None is a temporary folder.
    """

    works: tuple[str, ...] = ("step",)
    geometry: str | None = None
    model: Path | None = None
    size: tuple[int, int] | None = None
    batch: int = 1
    guidance: float = 7.0
    steps: int = 20
    precisions: tuple[str, ...] = ("fp32",)
    engines: tuple[str, ...] = ("eager",)
    offloads: tuple[str, ...] = ("auto",)
    presets: tuple[str, ...] = (FULL,)
    against: tuple[str, ...] = ()
    threads: int | None = None
    rounds: int = 5
    budget: float | None = None
    device: str = "cpu"
    seed: int = 1
    peer_python: str | None = None
    folder: Path | None = None
    force: bool = False

    @property
    def python(self) -> str:
        return self.peer_python or sys.executable


@dataclass(frozen=True)
class Ground:
    """What all comparisons of a run stand on."""

    asked: Asked
    made: Furnished
    size: tuple[int, int]
    inputs: Path
    threads: int
    hall: Hall
    unable: Mapping[str, str] = field(default_factory=dict)  # contenders without files, and why

    @property
    def guided(self) -> bool:
        return self.asked.guidance != 1

    def operations(self, work: str) -> dict[str, int]:
        counted = "step" if work in ("overhead", "roofline") else work
        return operations(
            self.made.family, counted, self.size, batch=self.asked.batch, guided=self.guided
        )

    def task(self, work: str, contender: Contender) -> Task:
        asked = self.asked
        parts = (contender.who, contender.precision, self.made.folder.name)
        return Task(
            work=work,
            how=contender.how,
            precision=contender.precision,
            device=asked.device,
            threads=self.threads,
            model=str(self.made.folder),
            single=str(self.made.single),
            inputs=str(self.inputs),
            export=str(self.made.work / "-".join(parts)),
            width=self.size[0],
            height=self.size[1],
            batch=asked.batch,
            steps=asked.steps,
            guidance=asked.guidance,
            seed=asked.seed,
            adapted=adapted(self.made.family),
            offload=contender.offload,
            preset=contender.preset if contender.recipe else "",
        )


def bench(asked: Asked, say: Say = lambda text: None) -> Iterator[Line]:
    """The lines of a run (`report`), each as soon as it is known; `say` hears what goes on.

    Raises RequestError, before anything is built, for what cannot be asked for: unknown names, a
    peer that is not installed, sizes that do not fit, more memory than there is.
    """
    began = time.monotonic()
    family = checked(asked)
    size = asked.size or (family.native_size, family.native_size)
    threads = asked.threads or machine.default_threads()
    common: Line = {
        "geometry": asked.geometry or ("given" if asked.model else "embedded"),
        "size": list(size),
        "batch": asked.batch,
        "guidance": asked.guidance,
        "device": asked.device,
        "threads": threads,
    }
    yield {"kind": "machine", "schema": SCHEMA, **machine.facts(threads, asked.device)}
    yield {
        "kind": "asked",
        "works": list(asked.works),
        **common,
        "family": family.name,
        "steps": asked.steps,
        "precisions": list(asked.precisions),
        "engines": list(asked.engines),
        "offloads": list(asked.offloads),
        "presets": list(asked.presets),
        "against": list(asked.against),
        "rounds": asked.rounds,
        "budget": asked.budget,
    }
    with ground(asked, size, threads, say) as place:
        for work in asked.works:
            for precision in asked.precisions:
                where: Line = {"work": work, "precision": precision, **common}
                if asked.budget is not None and time.monotonic() - began > asked.budget:
                    yield {"kind": "left_out", **where, "reason": "the budget was spent"}
                    continue
                steps: Line = {"steps": asked.steps} if _draws(work) else {}
                yield from one_work(place, work, precision, common | steps, began, say)


def one_work(
    place: Ground, work: str, precision: str, common: Line, began: float, say: Say
) -> Iterator[Line]:
    """The lines of one comparison; of `roofline`, the machine's peaks are measured first."""
    asked = place.asked
    where: Line = {"work": work, "precision": precision, **common}
    who = ours_and_peers(asked, work, precision)
    for reason in absent(work, precision, asked.engines, _peers(asked, work)):
        yield {"kind": "left_out", **where, "reason": reason}
    for contender in who:
        if why := place.unable.get(contender.name):
            yield {"kind": "failed", **where, "contender": contender.name, "reason": told(why)}
    who = [contender for contender in who if contender.name not in place.unable]
    if not who:
        return
    peaks = machine_peaks(place, who[0], say) if work == "roofline" else {}
    found: Comparison = compared(
        who,
        lambda contender: place.task(work, contender),
        rounds=asked.rounds,
        hall=place.hall,
        over=lambda: asked.budget is not None and time.monotonic() - began > asked.budget,
        say=say,
    )
    counted = place.operations(work)
    if work == "roofline":
        yield from roofline(found, peaks, counted, common)
        yield from remarks(found, common)
        return
    yield from lines_of(found, counted, common)


def machine_peaks(place: Ground, contender: Contender, say: Say) -> dict[str, float]:
    """FLOP a second of large products in a precision, in a process of its own."""
    say(f"measuring what this machine can do in {contender.precision}")
    with Process("roofline", contender.command(place.asked.python), place.threads) as process:
        ready = process.ask("prepare", task=place.task("roofline", contender).line())
    peaks: dict[str, float] = ready["facts"]["peaks"]
    return peaks


@contextmanager
def ground(asked: Asked, size: tuple[int, int], threads: int, say: Say) -> Iterator[Ground]:
    """Model, inputs and exports on disk, taken away at the end unless a folder was given."""
    with tempfile.TemporaryDirectory(prefix="safelight-bench-") as temporary, Pool() as pool:
        work = (asked.folder or Path(temporary)).absolute()
        geometry = asked.geometry or (None if asked.model else "embedded")
        peers = [c.peer for w in asked.works for c in contenders(w, "fp32", (), asked.against)]
        single = any(peer is not None and peer.single for peer in peers)
        made = furnished(geometry, asked.model, work, single=single, say=say)
        guided = asked.guidance != 1
        folder = inputs_for(made, size, batch=asked.batch, guided=guided, seed=asked.seed)
        place = Ground(asked, made, size, folder, threads, Hall(asked.python, folder, pool))
        yield replace(place, unable=export(place, say))


def export(place: Ground, say: Say) -> dict[str, str]:
    """Let peers that need it make their own files of the model, once, each in its process.

    Gives those that could not, by name, and why.
    """
    unable: dict[str, str] = {}
    asked = place.asked
    wanted: dict[Contender, list[str]] = {}
    for work in asked.works:
        for precision in asked.precisions:
            for contender in contenders(work, precision, (), asked.against):
                if contender.peer is not None and contender.peer.exports:
                    wanted.setdefault(contender, []).append(work)
    for contender, works in wanted.items():
        say(f"exporting the model for {contender.name}")
        task = {**place.task("export", contender).line(), "works": works}
        try:
            command = contender.command(asked.python)
            with Process(contender.name, command, place.threads) as process:
                process.ask("prepare", task=task)
        except ContenderError as error:
            unable[contender.name] = str(error)
    return unable


def checked(asked: Asked) -> Family:
    """The family that will be timed. Raises RequestError for what cannot be asked for."""
    _known(asked.works, WORKS, "work")
    _known(asked.precisions, DTYPES, "precision")
    for name, number in (("batch", asked.batch), ("steps", asked.steps), ("rounds", asked.rounds)):
        if number < 1:
            raise RequestError(f"{name} must be at least 1; got {number}.")
    if asked.geometry is not None and asked.model is not None:
        raise RequestError(
            f"geometry {asked.geometry!r} and a model were both given; leave one of them out."
        )
    check_engines(asked.engines)
    check_offloads(asked.offloads, asked.engines, asked.device)
    check_peers(asked.against, asked.python)
    _check_somebody(asked)
    geometry = asked.geometry or (None if asked.model else "embedded")
    family = family_of(geometry, asked.model)
    check_presets(asked.presets, asked.works, asked.steps, family.hint)
    size = asked.size or (family.native_size, family.native_size)
    factor = family.codec.factor
    for name, length in (("width", size[0]), ("height", size[1])):
        if length < 1 or length % factor:
            raise RequestError(f"{name} must be a multiple of {factor} here; got {length}.")
    if family.task != "text":
        raise RequestError(
            f"the model is {family.label}, which does not draw from text alone; give one that does."
        )
    if not asked.force:
        pixels, available = size[0] * size[1], machine.available_memory()
        check_memory(family, list(_together(asked, family)), pixels, asked.batch, available)
    return family


def _together(asked: Asked, family: Family) -> Iterator[list[Need]]:
    """The contenders that are there at the same time, group by group."""
    whole = not adapted(family)
    for work in asked.works:
        for precision in asked.precisions:
            who = ours_and_peers(asked, work, precision)
            learning = work == "train" and whole
            needs = [Need(c.how, c.precision, learning, _part(c, work, asked.device)) for c in who]
            # where every turn is a process of its own, there is one at a time
            yield from ([need] for need in needs) if WORKS[work].fresh else [needs]


def _part(contender: Contender, work: str, device: str) -> str | None:
    """The only part of the model that a contender reads for a work; None if it reads all."""
    if contender.peer is None:
        return part_of(work, contender.how, device)
    return PARTS.get(work)


def ours_and_peers(asked: Asked, work: str, precision: str) -> list[Contender]:
    """All who were asked for and can be timed at a work in a precision, ours first."""
    peers = _peers(asked, work)
    return contenders(work, precision, asked.engines, peers, asked.offloads, asked.presets)


def _peers(asked: Asked, work: str) -> Sequence[str]:
    return () if WORKS[work].alone else asked.against


def _check_somebody(asked: Asked) -> None:
    """Raise RequestError for a peer that can do none of the works, rather than leave it out."""
    for name in asked.against:
        if not any(
            contenders(work, precision, (), (name,))
            for work in asked.works
            for precision in asked.precisions
            if not WORKS[work].alone
        ):
            raise RequestError(
                f"{name} does none of {', '.join(asked.works)} in {', '.join(asked.precisions)}; "
                "ask for other works or precisions, or leave it out"
            )


def _known(names: Sequence[str], table: object, what: str) -> None:
    assert hasattr(table, "__contains__") and hasattr(table, "__iter__")
    if not names:
        raise RequestError(f"no {what} was asked for; choose from {', '.join(table)}.")
    for name in names:
        if name not in table:
            raise RequestError(f"there is no {what} {name!r}; choose from {', '.join(table)}.")


def _draws(work: str) -> bool:
    return work in ("picture", "start", "memory")


def adapted(family: Family) -> bool:
    """Whether `train` teaches a LoRA, and not the whole U-Net."""
    return unet_parameters(family) >= LORA_FROM
