"""`safelight models`: what lies on this machine."""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.filesize import decimal
from rich.table import Table
from rich.text import Text

from safelight.checkpoints.hashes import sha256
from safelight.checkpoints.library import Description, Place, described, entries, places
from safelight.errors import FileError
from safelight.printable import shown


def models(
    folder: Annotated[
        list[Path] | None,
        typer.Option(help="Look here too: A1111's or ComfyUI's folder, or any; repeatable."),
    ] = None,
    hashes: Annotated[
        bool, typer.Option("--hash", help="Compute hashes not known yet: seconds a file.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list.")] = False,
) -> None:
    """List the models on this machine: name, family, type, size and hash.

    Looks in Safelight's own models folder, in the Hugging Face cache, and in the folders given.
    Only headers are read. Each name works as `--model NAME`, or where what it names belongs:
    `--vae NAME`, `--control NAME`, `--lora NAME`.
    """
    for extra in folder or ():
        if not extra.is_dir():
            raise FileError(f"{shown(extra)} is not a folder")
    where = places(folder or ())
    found = [described(entry) for entry in entries(where)]
    digests = [_hash(one, compute=hashes) for one in found]
    if as_json:
        rows = [_row(one, digest) for one, digest in zip(found, digests, strict=True)]
        typer.echo(json.dumps(rows, indent=2))
    elif found:
        _show(found, digests)
    else:
        _nothing(where)


def _hash(one: Description, *, compute: bool) -> str | None:
    if compute and one.sha256 is None and one.entry.layout == "file" and one.fault is None:
        return sha256(one.entry.path)
    return one.sha256


def _row(one: Description, digest: str | None) -> dict[str, object]:
    return {
        "name": one.entry.name,
        "path": str(one.entry.path),
        "place": one.entry.place,
        "layout": one.entry.layout,
        "what": one.what,
        "dtype": one.dtype,
        "bytes": one.size,
        "sha256": digest,
        "fault": one.fault,
    }


def _show(found: list[Description], digests: list[str | None]) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("name", overflow="fold")
    table.add_column("what", overflow="fold")
    table.add_column("type")
    table.add_column("size", justify="right", no_wrap=True)
    table.add_column("hash")
    table.add_column("where", overflow="fold")
    for one, digest in zip(found, digests, strict=True):
        what = one.what if one.fault is None else f"cannot be used: {one.fault}"
        cells = (
            *(one.entry.name, what, one.dtype, decimal(one.size)),
            *((digest or "")[:10], one.entry.place),
        )
        table.add_row(*(Text(shown(cell, 400)) for cell in cells))
    # A pipe has no width of its own; cut lines would break what reads them.
    console = Console(highlight=False)
    console.width = console.width if console.is_terminal else 400
    console.print(table)


def _nothing(where: list[Place]) -> None:
    looked = ", ".join(shown(place.path) for place in where)
    typer.echo(
        f"no models found; looked in {looked}. Fetch one with `safelight download OWNER/NAME`, or "
        "name a folder with --folder.",
        err=True,
    )
