"""The forms in which drawn shards are kept: files in folders, WebDataset archives, Parquet."""

import json
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from safelight.bulk.manifest import Line
from safelight.training.sources.pack import write_tar
from safelight.training.sources.tables import pyarrow
from safelight.writing import make_folder, whole_file, write_whole

SUFFIX = ".png"


@dataclass(frozen=True)
class Drawn:
    """A picture's file, not yet where it belongs, and its line."""

    line: Line
    data: bytes


class Form(Protocol):
    """Puts the pictures of a finished shard where they belong, whole or not at all."""

    def put(self, folder: Path, shard: str, drawn: Sequence[Drawn]) -> list[Line]:
        """The lines, with the file of each. Raises OutputError."""
        ...

    def files(self, shard: str, lines: Sequence[Line]) -> list[str]:
        """The files that must be there for the shard to be done."""
        ...

    def taken(self, folder: Path, shard: str, lines: Sequence[Line]) -> list[Drawn]:
        """The pictures of these lines again. Raises OSError if they are not there."""
        ...


class Folders:
    """`pictures/SHARD/NUMBER.png`, a file a picture."""

    def put(self, folder: Path, shard: str, drawn: Sequence[Drawn]) -> list[Line]:
        make_folder(folder / "pictures" / shard)
        lines = []
        for one in drawn:
            name = f"pictures/{shard}/{one.line.index:08}{SUFFIX}"
            write_whole(folder / name, one.data)
            lines.append(replace(one.line, file=name))
        return lines

    def files(self, shard: str, lines: Sequence[Line]) -> list[str]:
        return [line.file for line in lines if line.file is not None]

    def taken(self, folder: Path, shard: str, lines: Sequence[Line]) -> list[Drawn]:
        return [Drawn(line, (folder / str(line.file)).read_bytes()) for line in lines]


class WebDataset:
    """`SHARD.tar` with NUMBER.png, NUMBER.txt (the prompt) and NUMBER.json for each picture."""

    def put(self, folder: Path, shard: str, drawn: Sequence[Drawn]) -> list[Line]:
        name = f"{shard}.tar"
        if not drawn:
            return []
        lines = [replace(one.line, file=name) for one in drawn]
        members = [
            member
            for one, line in zip(drawn, lines, strict=True)
            for member in (
                (f"{line.index:08}{SUFFIX}", one.data),
                (f"{line.index:08}.txt", line.prompt.encode()),
                (f"{line.index:08}.json", line.to_json().encode()),
            )
        ]
        with whole_file(folder / name, sum(len(data) + 1024 for _, data in members)) as file:
            write_tar(file, members)
        return lines

    def files(self, shard: str, lines: Sequence[Line]) -> list[str]:
        return [f"{shard}.tar"] if any(line.file for line in lines) else []

    def taken(self, folder: Path, shard: str, lines: Sequence[Line]) -> list[Drawn]:
        wanted = {f"{line.index:08}{SUFFIX}": line for line in lines}
        with tarfile.open(folder / f"{shard}.tar", "r:") as tar:
            found = {m.name: tar.extractfile(m) for m in tar if m.name in wanted}
            return [Drawn(wanted[name], file.read()) for name, file in found.items() if file]


class Parquet:
    """`SHARD.parquet`, a row a picture; the column `image` is as Hugging Face datasets have it."""

    def put(self, folder: Path, shard: str, drawn: Sequence[Drawn]) -> list[Line]:
        arrow = pyarrow()
        if not drawn:
            return []
        name = f"{shard}.parquet"
        lines = [replace(one.line, file=name) for one in drawn]
        kinds = (("index", arrow.int64()), ("id", arrow.string()), ("prompt", arrow.string()))
        more = (("seed", arrow.uint64()), ("pixels_sha256", arrow.string()))
        image = arrow.struct([("bytes", arrow.binary()), ("path", arrow.string())])
        schema = arrow.schema([*kinds, *more, ("image", image)]).with_metadata(HUGGING_FACE)
        columns = {
            field: [getattr(line, field) for line in lines]
            for field in ("index", "id", "prompt", "seed", "pixels_sha256")
        }
        columns["image"] = [
            {"bytes": one.data, "path": f"{one.line.index:08}{SUFFIX}"} for one in drawn
        ]
        sink = arrow.BufferOutputStream()
        arrow.parquet.write_table(arrow.table(columns, schema=schema), sink)
        write_whole(folder / name, sink.getvalue().to_pybytes())
        return lines

    def files(self, shard: str, lines: Sequence[Line]) -> list[str]:
        return [f"{shard}.parquet"] if any(line.file for line in lines) else []

    def taken(self, folder: Path, shard: str, lines: Sequence[Line]) -> list[Drawn]:
        wanted = {line.index: line for line in lines}
        table = pyarrow().parquet.read_table(folder / f"{shard}.parquet").to_pylist()
        return [Drawn(wanted[r["index"]], r["image"]["bytes"]) for r in table]


# By which Hugging Face's library sees pictures in the column, as its own writer tells it
HUGGING_FACE = {"huggingface": json.dumps({"info": {"features": {"image": {"_type": "Image"}}}})}

FORMS: Mapping[str, Form] = {
    "folder": Folders(),
    "webdataset": WebDataset(),
    "parquet": Parquet(),
}
