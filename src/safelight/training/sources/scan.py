"""A look at every example before training: nothing that cannot be used is met half-way."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from safelight.errors import FileError
from safelight.printable import shown
from safelight.training.pictures import MAX_PIXELS, decoded, upright_size
from safelight.training.sources.example import Chosen, Example, Problem, Source, summary
from safelight.training.sources.known import Depth, Known

OnProblem = Literal["stop", "skip"]
CHUNK = 1024  # examples handed to the threads at a time


@dataclass(frozen=True)
class Scan:
    """What can be trained on, and what cannot.

    source: the sound examples. sizes: their (width, height), upright. problems: all others.
    """

    source: Source
    sizes: tuple[tuple[int, int], ...]
    problems: tuple[Problem, ...]

    @property
    def summary(self) -> str:
        """One line: how many are sound, and the others by kind with some of their files."""
        said = f"{len(self.source)} pictures in {shown(self.source.name)}"
        return f"{said}; left out: {summary(self.problems)}" if self.problems else said


def scan(
    source: Source,
    *,
    on_problem: OnProblem = "stop",
    captions: bool = True,
    depth: Depth = "decode",
    max_pixels: int = MAX_PIXELS,
    threads: int = 2,
    memory: Path | None = None,
    watch: Callable[[int], None] = lambda count: None,
) -> Scan:
    """Read every example; leave out what cannot be used, or stop at the end if there is any.

    captions: whether each picture must have one. depth: "decode" finds every broken picture,
    "header" only those whose size cannot be read, and is tens of times faster. memory: a file that
    remembers the sound pictures, so that the next scan reads only those that changed. watch is
    told how many were read so far.
    Raises FileError that counts and names the problems if on_problem is "stop", and if nothing
    sound is left.
    """
    sound: list[int] = []
    sizes: list[tuple[int, int]] = []
    problems = list(source.problems)

    def look(index: int) -> tuple[int, int] | Problem:
        try:
            example = source.example(index)
        except FileError as error:
            where = f"{source.name}, example {index}"
            return Problem("unreadable caption", where, str(error))
        if captions and not example.captions:
            return Problem("missing caption", example.id, "no text says what it shows")
        before = known.size(example, depth)
        if before is not None and before[0] * before[1] <= max_pixels:
            found: tuple[int, int] | Problem = before
        else:
            found = _looked(example, depth, max_pixels)
        if not isinstance(found, Problem):
            known.keep(example, depth, found)
        return found

    known = Known(memory)
    with ThreadPoolExecutor(max(1, threads)) as pool:
        for first in range(0, len(source), CHUNK):
            for index, found in enumerate(
                pool.map(look, range(first, min(first + CHUNK, len(source)))), start=first
            ):
                if isinstance(found, Problem):
                    problems.append(found)
                else:
                    sound.append(index)
                    sizes.append(found)
                watch(index + 1)
    known.save()
    _judge(source, len(sound), problems, on_problem)
    chosen = source if len(sound) == len(source) else Chosen(source, sound)
    return Scan(chosen, tuple(sizes), tuple(problems))


def _looked(example: Example, depth: Depth, max_pixels: int) -> tuple[int, int] | Problem:
    try:
        data = example.read()
        if depth == "decode":
            return decoded(data, example.id, max_pixels=max_pixels).size
        return upright_size(data, example.id, max_pixels=max_pixels)
    except FileError as error:
        return Problem("broken picture", example.id, str(error))


def _judge(source: Source, sound: int, problems: Sequence[Problem], on_problem: OnProblem) -> None:
    where = shown(source.name)
    if problems and on_problem == "stop":
        raise FileError(
            f"{where}: {summary(problems)}. Mend them (`safelight data check` lists all), or "
            'set on_problem = "skip" to leave them out'
        )
    if not sound:
        found = f": {summary(problems)}" if problems else "; expected pictures with captions"
        raise FileError(f"there is nothing to train on in {where}{found}")
