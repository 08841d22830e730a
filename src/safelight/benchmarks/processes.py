"""Contenders' processes: started, asked by lines of JSON, and ended."""

import json
import os
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from safelight.errors import SafelightError
from safelight.printable import shown

ENDING = 10.0  # seconds that a process gets to end by itself


class ContenderError(SafelightError):
    """A contender could not do its work."""


class Process:
    """One contender, alive until it is closed; idle unless it was asked for something."""

    def __init__(self, name: str, command: Sequence[str], threads: int) -> None:
        self.name = name
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  closed with the process
        try:
            self._process = subprocess.Popen(
                list(command),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._log,
                text=True,
                env=environment(threads),
            )
        except OSError as error:
            self._log.close()
            raise ContenderError(f"{name} could not be started: {error.strerror}") from None

    def ask(self, do: str, **told: object) -> dict[str, Any]:
        """What it answers. Raises ContenderError if it fails, or is gone."""
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps({"do": do, **told}) + "\n")
            self._process.stdin.flush()
            answer = self._process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        if not answer:
            code = self._process.wait()
            raise ContenderError(f"{self.name} ended with code {code}: {last_line(self._tail())}")
        found: dict[str, Any] = json.loads(answer)
        if "error" in found:
            raise ContenderError(f"{self.name}: {shown(found['error'], 400)}")
        return found

    def close(self) -> None:
        """End it: asked first, killed if it does not hear."""
        with suppress(OSError, ValueError):
            assert self._process.stdin is not None
            self._process.stdin.write('{"do": "end"}\n')
            self._process.stdin.close()
        try:
            self._process.wait(ENDING)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._log.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.kill()

    def kill(self) -> None:
        """End it at once."""
        self._process.kill()
        self.close()

    def _tail(self) -> str:
        self._log.seek(max(0, self._log.seek(0, os.SEEK_END) - 4000))
        return self._log.read().decode("utf-8", "replace")


class Pool:
    """Processes that are kept from one work to the next: importing a library takes seconds."""

    def __init__(self) -> None:
        self._kept: dict[tuple[str, ...], Process] = {}

    @contextmanager
    def process(
        self, who: str, name: str, command: Sequence[str], threads: int
    ) -> Iterator[Process]:
        """One that was started for `who`, or a new one; `name` is for messages.

        One that fails is ended.
        """
        key = (*command, str(threads), who)
        process = self._kept.pop(key, None) or Process(name, command, threads)
        process.name = name
        try:
            yield process
            process.ask("rest")
        except BaseException:
            process.kill()
            raise
        self._kept[key] = process

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._kept.values():
            process.close()
        self._kept.clear()


def environment(threads: int) -> Mapping[str, str]:
    """Ours, with so many threads for every library and no network; scripts find what is beside."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    fixed = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "PYTHONIOENCODING": "utf-8"}
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}
    return {**kept, **dict.fromkeys(names, str(threads)), **fixed}


def finished(name: str, command: Sequence[str], threads: int, *, made: Path) -> None:
    """Run a command to its end. Raises ContenderError if it fails or makes no such file."""
    made.unlink(missing_ok=True)
    try:
        done = subprocess.run(
            list(command), capture_output=True, text=True, env=environment(threads), check=False
        )
    except OSError as error:
        raise ContenderError(f"{name} could not be started: {error.strerror}") from None
    if done.returncode or not made.is_file():
        raise ContenderError(f"{name} ended with code {done.returncode}: {last_line(done.stderr)}")


def last_line(text: str) -> str:
    """What a process said last, where errors stand."""
    lines = [line for line in text.splitlines() if line.strip()]
    return shown(lines[-1], 400) if lines else "it said nothing"
