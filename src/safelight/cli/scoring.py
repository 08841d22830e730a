"""Pictures and texts compared by a CLIP, as a table or JSON."""

import json
from collections.abc import Sequence
from pathlib import Path

import torch
import typer
from rich.table import Table
from rich.text import Text

from safelight.checkpoints.clip_pair import load_clip_pair
from safelight.checkpoints.library import find_model
from safelight.cli.telling import console, tell
from safelight.clip.pair import ClipPair
from safelight.embedded.carried import embedded_folder
from safelight.engines.placement import resolve_device
from safelight.errors import RequestError
from safelight.printable import shown
from safelight.tasks.judging import similarities
from safelight.tasks.picture_file import open_input


def shown_scores(
    pictures: Sequence[Path],
    texts: Sequence[str],
    *,
    clip: str | None,
    device: str,
    as_json: bool,
) -> None:
    """Print how well each text fits each picture. Errors as of `judge_of` and `open_input`."""
    path = judge_at(clip)
    opened = [open_input(picture) for picture in pictures]
    pair = load_clip_pair(path, dtype=torch.float32, device=resolve_device(device))
    notes = [f"{shown(one.name)}: {note}" for one in opened for note in one.notes]
    for text in texts:
        if cut := pair.cut_tokens(text):
            notes.append(f"{shown(text, 40)!r} is too long: {cut} tokens were not read.")
    tell([*pair.notes, *notes])
    cosines = similarities([one.pixels for one in opened], texts, pair)
    if as_json:
        for row in _rows(pictures, texts, cosines, pair):
            typer.echo(json.dumps(row))
    else:
        _show(pictures, texts, cosines, pair)


def judge_at(clip: str | None) -> Path:
    """Where the CLIP lies that judges: the named one, else the embedded model's.

    Raises RequestError if none is named and none is embedded, FileError if there is no such one.
    """
    if clip is not None:
        return find_model(clip, what="file")
    embedded = embedded_folder()
    if embedded is None:
        raise RequestError(
            "this installation carries no CLIP that could judge; give one with --clip: a folder of "
            "Transformers' CLIPModel, a model's folder with text_encoder and image_encoder, or "
            "OpenCLIP's weights file."
        )
    return embedded


def _rows(
    pictures: Sequence[Path],
    texts: Sequence[str],
    cosines: Sequence[Sequence[float]],
    pair: ClipPair,
) -> list[dict[str, object]]:
    return [
        {
            "picture": str(picture),
            "clip": pair.name,
            "scores": [
                {"text": text, "cosine": cosine, "share": share}
                for text, cosine, share in zip(texts, row, _shares(row, pair), strict=True)
            ],
        }
        for picture, row in zip(pictures, cosines, strict=True)
    ]


def _shares(row: Sequence[float], pair: ClipPair) -> list[float]:
    shares: list[float] = pair.shares(torch.tensor(row, dtype=torch.float64)).tolist()
    return [round(share, 6) for share in shares]


def _show(
    pictures: Sequence[Path],
    texts: Sequence[str],
    cosines: Sequence[Sequence[float]],
    pair: ClipPair,
) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("picture", overflow="fold")
    for text in texts:
        table.add_column(Text(shown(text, 60)), justify="right", overflow="fold")
    for picture, row in zip(pictures, cosines, strict=True):
        cells = [f"{cosine:.4f}" for cosine in row]
        if len(texts) > 1:
            cells = [
                f"{cell} ({share:.0%})"
                for cell, share in zip(cells, _shares(row, pair), strict=True)
            ]
        table.add_row(Text(shown(picture)), *cells)
    console().print(table)
