#!/usr/bin/env python3
"""How near a tiny decoder comes to the model's own, what it saves, and what the evaluator says.

    python scripts/embedded/tiny_decoder.py --cutouts data/emoji-pairs --vae embedded-tiny

Latents of real held-out pictures, the latents that prompts end with, and what is predicted on the
way to them are decoded by both. PSNR is in dB, of pictures of 8 bits. The times are of one picture
in turns, medians; run it on a machine that does nothing else.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from companions import check_tiny
from few_steps import answers_of
from held_out import (
    HELD_OUT,
    Bench,
    Pixels,
    arguments,
    as_batch,
    begin,
    bench,
    reported,
    weights_of,
    with_error,
)
from PIL import Image
from sheet import PROMPTS, requests_of
from torch import Tensor

from safelight.checkpoints.hashes import sha256
from safelight.checkpoints.library import find_model
from safelight.cli.evaluate_questions import SEEN
from safelight.errors import RequestError
from safelight.evaluation.composition import Composition, score
from safelight.evaluation.report import Table, table_lines
from safelight.evaluation.sheets import sheet
from safelight.measures.pictures import psnr
from safelight.models.autoencoder import Codec
from safelight.server.previews import fitted
from safelight.tasks.generate import generate
from safelight.tasks.painting import Progress
from safelight.tasks.picture import to_uint8
from safelight.tasks.request import Request
from safelight.writing import write_whole

ROUNDS = 15  # of timing
SHOWN = 6  # prompts on the sheet


@dataclass(frozen=True)
class Way:
    """The latents of a prompt's steps, the last of them those that are decoded."""

    prompt: str
    steps: tuple[Tensor, ...]  # each (C, h, w)

    @property
    def last(self) -> Tensor:
        return self.steps[-1]


def walked(desk: Bench, requests: Sequence[Request]) -> list[Way]:
    """What is predicted at each step of drawing these."""
    ways = []
    for request in requests:
        seen: list[Tensor] = []

        def keep(progress: Progress, seen: list[Tensor] = seen) -> None:
            seen.append(progress.denoised[0].float().cpu())

        list(generate(desk.model, request, watch_steps=keep))
        ways.append(Way(request.prompt, tuple(seen)))
    return ways


def shown_by(codec: Codec, latents: Sequence[Tensor]) -> list[Pixels]:
    """Latents as a codec shows them, one after another: pixels (S, S, 3)."""
    return [to_uint8(codec.decode(one[None]))[0] for one in latents]


def nearness(one: Sequence[Pixels], other: Sequence[Pixels]) -> Tensor:
    """PSNR of each pair of pictures, in dB: (N,)."""
    return psnr(as_batch(one), as_batch(other))


def in_turns(works: Sequence[Callable[[], object]], rounds: int = ROUNDS) -> list[float]:
    """Median milliseconds of each work, done in turns, the first round not counted."""
    taken: list[list[float]] = [[] for _ in works]
    for number in range(rounds + 1):
        for place, work in enumerate(works):
            began = time.perf_counter()
            work()
            if number:
                taken[place].append(1e3 * (time.perf_counter() - began))
    return [statistics.median(times) for times in taken]


def times_of(desk: Bench, tiny: Codec, latents: Tensor) -> Table:
    """How long one picture takes: own and tiny decoder, and a preview by matrix and by decoder."""
    own = desk.model.codec
    linear, seen = fitted(own), fitted(own, tiny=tiny)
    whole, small, by_matrix, by_tiny = in_turns(
        [
            lambda: own.decode(latents[None]),
            lambda: tiny.decode(latents[None]),
            lambda: linear.jpeg(latents),
            lambda: seen.jpeg(latents),
        ]
    )
    rows = {
        "decoding": [f"{whole:.1f} ms", f"{small:.1f} ms", f"{whole / small:.1f}"],
        "a preview, with its JPEG": [f"{by_matrix:.1f} ms", f"{by_tiny:.1f} ms", ""],
    }
    return Table("Time of one picture", ("the model's own, or by matrix", "tiny", "ratio"), rows)


def near_table(desk: Bench, tiny: Codec, real: Sequence[Pixels], ways: Sequence[Way]) -> Table:
    """How near the tiny decoder's pictures are to the own one's, and both to real ones."""
    own = desk.model.codec
    latents = list(own.encode(as_batch(real)).mode())
    kept, rows = {}, {}
    for name, codec in (("own", own), ("tiny", tiny)):
        kept[name] = shown_by(codec, latents)
    rows["held-out pictures: tiny and own"] = nearness(kept["tiny"], kept["own"])
    rows["held-out pictures: own and the picture itself"] = nearness(kept["own"], real)
    rows["held-out pictures: tiny and the picture itself"] = nearness(kept["tiny"], real)
    linear = fitted(own)
    for name, share in (("drawn", 1.0), ("predicted at 3/4", 0.75), ("predicted at 1/2", 0.5)):
        seen = [way.steps[max(round(share * len(way.steps)) - 1, 0)] for way in ways]
        both = [shown_by(codec, seen) for codec in (tiny, own)]
        rows[f"{name}: tiny and own"] = nearness(*both)
        rows[f"{name}: matrix and own"] = nearness(
            [enlarged(linear.pixels(one), desk.side) for one in seen], both[1]
        )
    cells = {name: [with_error(values, 2), str(len(values))] for name, values in rows.items()}
    return Table("How near the pictures are", ("dB", "pictures"), cells)


def enlarged(pixels: Pixels, side: int) -> Pixels:
    """A small picture (h, w, 3) smoothed to (side, side, 3), as previews are."""
    image = Image.fromarray(pixels).resize((side, side), Image.Resampling.BICUBIC)
    return np.asarray(image)


def judged_table(
    desk: Bench, tiny: Codec, count: int, seed: int, own: Mapping[str, object]
) -> Table:
    """What the evaluator names right in captions, of the same latents by either decoder."""
    items = desk.asked([SEEN], count, seed=seed)
    ways = walked(
        desk,
        [
            Request.parse({**own, "prompt": item.question.prompt, "seed": seed + n})
            for n, item in enumerate(items)
        ],
    )
    rows = {}
    for name, codec in (("own", desk.model.codec), ("tiny", tiny)):
        found: Composition = score(
            answers_of(desk, items, shown_by(codec, [way.last for way in ways]))
        )
        checks = [str(found.checks.get(check, "")) for check in ("concept", "concept top 5")]
        rows[name] = [*checks, f"{100 * found.overall:.1f} %"]
    return Table(
        f"What the evaluator names right in {count} captions",
        ("concept", "concept top 5", "composition"),
        rows,
    )


def sheet_of(desk: Bench, tiny: Codec, ways: Sequence[Way]) -> bytes:
    """Each prompt by matrix, tiny and own decoder, in the middle of its steps and at the end."""
    linear, few = fitted(desk.model.codec), ways[:SHOWN]
    pictures, captions = [], []
    for when, share in (("half way", 0.5), ("at the end", 1.0)):
        seen = [way.steps[max(round(share * len(way.steps)) - 1, 0)] for way in few]
        made = {
            "matrix": [enlarged(linear.pixels(one), desk.side) for one in seen],
            "tiny": shown_by(tiny, seen),
            "own": shown_by(desk.model.codec, seen),
        }
        for name, row in made.items():
            pictures += row
            captions += [f"{name}, {when}: {way.prompt}" for way in few]
    return sheet(as_batch(pictures), columns=len(few), captions=captions, lines=3)


@torch.no_grad()
def measured(given: argparse.Namespace) -> str:
    """Measure and draw what is asked for; the table."""
    if given.count < 2 or given.judged < 0:
        raise RequestError("--count must be 2 or more, --judged 0 or more.")
    path = find_model(given.vae, what="autoencoder")
    desk = bench(given.cutouts, given.model)
    tiny = check_tiny(desk.model, path)
    how = {"count": given.count, "seed": given.seed, "judged": given.judged}
    begin(given.out, {**how, "tiny": sha256(path), **weights_of(desk.model)})
    own = {} if given.steps is None else {"steps": given.steps}
    ways = walked(desk, requests_of(PROMPTS, **own)[: given.count])
    real = desk.real(desk.asked(HELD_OUT, given.count, seed=given.seed))
    tables = [near_table(desk, tiny, real, ways), times_of(desk, tiny, ways[0].last)]
    if given.judged:
        tables.append(judged_table(desk, tiny, given.judged, given.seed, own))
    write_whole(given.out / "sheet.png", sheet_of(desk, tiny, ways))
    text = "\n".join(
        line for table in tables for line in (f"{table.title}:", "", *table_lines(table), "")
    )
    text += f"\nThreads: {torch.get_num_threads()}. The decoder's file has the SHA-256 "
    text += f"{sha256(path)}.\n"
    return text


def main() -> int:
    parser = arguments(__doc__, count=64, out="out/tiny-decoder")
    parser.add_argument("--vae", required=True, help="the tiny decoder's file, or its name")
    parser.add_argument("--judged", type=int, default=60, help="captions for the evaluator [60]")
    given = parser.parse_args()
    return reported(given.out, lambda: measured(given))


if __name__ == "__main__":
    sys.exit(main())
