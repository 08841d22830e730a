"""The figures of a run: JSON lines, and TensorBoard or Weights & Biases if asked for.

    {"step": 100, "epoch": 2, "seconds": 31.2, "samples_per_second": 880.1, "unet/loss": 0.31, ...}

A resumed run removes the lines past its step, so the file reads like that of an unbroken run.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import isfinite
from pathlib import Path
from typing import Protocol

from safelight.errors import OutputError, RequestError
from safelight.printable import shown
from safelight.training.settings import Settings
from safelight.writing import make_folder, write_text

Record = Mapping[str, object]


class Board(Protocol):
    """Where figures are drawn."""

    def draw(self, figures: Mapping[str, float], step: int) -> None: ...

    def close(self) -> None: ...


class Journal:
    """The log of a run, `FOLDER/log.jsonl`, opened to go on after `step`."""

    def __init__(self, folder: Path, step: int, boards: Sequence[Board] = ()) -> None:
        make_folder(folder)
        self.path = folder / "log.jsonl"
        self._boards = boards
        _truncate(self.path, step)

    def write(self, record: Record) -> None:
        """Append one line; "step" is among its entries. A number that is not finite becomes null.

        Raises OutputError if the disk refuses.
        """
        plain = {
            name: None if isinstance(value, float) and not isfinite(value) else value
            for name, value in record.items()
        }
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(plain, ensure_ascii=False, allow_nan=False) + "\n")
        except OSError as error:
            raise OutputError(f"cannot write {shown(self.path)}: {error.strerror}") from None
        figures = {n: float(v) for n, v in plain.items() if isinstance(v, (int, float))}
        step = int(figures.pop("step"))
        for board in self._boards:
            board.draw(figures, step)


def read_log(path: Path) -> list[Record]:
    """The lines of a log, without a last one that a killed run left unfinished."""
    if not path.is_file():
        return []
    records: list[Record] = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict) and isinstance(record.get("step"), int):
            records.append(record)
    return records


@contextmanager
def journal(
    folder: Path, settings: Settings, step: int, *, writes: bool = True
) -> Iterator[Journal | None]:
    """The log of a run that goes on after `step`, with the boards that the settings name.

    None in a process that does not write. Raises RequestError if a board's library is missing.
    """
    if not writes:
        yield None
        return
    boards: list[Board] = []
    try:
        if settings.tensorboard:
            boards.append(_TensorBoard(folder, step))
        if settings.wandb is not None:
            boards.append(_Wandb(folder, settings, step))
        yield Journal(folder, step, boards)
    finally:
        for board in boards:
            board.close()


def _truncate(path: Path, step: int) -> None:
    """Leave only the lines up to a step."""
    if not path.exists():
        return
    kept = [record for record in read_log(path) if int(str(record["step"])) <= step]
    write_text(path, "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in kept))


class _TensorBoard:
    def __init__(self, folder: Path, step: int) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise _missing("tensorboard", "tensorboard") from None
        # what an earlier part of the run drew past this step is hidden from the page
        self._writer = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)

    def draw(self, figures: Mapping[str, float], step: int) -> None:
        for name, value in figures.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class _Wandb:
    def __init__(self, folder: Path, settings: Settings, step: int) -> None:
        try:
            import wandb
        except ImportError:
            raise _missing("wandb", "wandb") from None
        # one folder is one run, whatever number of times it is resumed
        self._run = wandb.init(
            project=settings.wandb,
            name=folder.name,
            id=folder.name,
            resume="allow",
            dir=str(folder),
            config=settings.plain(),
        )

    def draw(self, figures: Mapping[str, float], step: int) -> None:
        self._run.log(dict(figures), step=step)

    def close(self) -> None:
        self._run.finish()


def _missing(setting: str, package: str) -> RequestError:
    return RequestError(
        f"the setting {setting} needs the package {package}: pip install 'safelight[{setting}]'"
    )
