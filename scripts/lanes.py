#!/usr/bin/env python3
"""What it takes a U-Net to compute a batch in two halves at once, over as one.

    python scripts/lanes.py                                       # the embedded model, 2 to 16 rows
    python scripts/lanes.py -m MODEL --dtype bf16 --size 64 96 --rows 2 4

Both ways in turn; of each the median. One line for each size of latents and number of rows. Of
random latents: the time does not hang on them.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

import safelight
from safelight.embedded.carried import embedded_folder
from safelight.models import lanes

TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def seconds(act: Callable[[], Tensor]) -> float:
    began = time.perf_counter()
    act()
    return time.perf_counter() - began


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("-m", "--model", type=Path, help="[the embedded one]")
    parser.add_argument("--dtype", choices=TYPES, default="fp32")
    parser.add_argument("--size", type=int, nargs="+", default=[16], help="of the latents' sides")
    parser.add_argument("--rows", type=int, nargs="+", default=[2, 4, 8, 16])
    parser.add_argument("--rounds", type=int, default=15)
    asked = parser.parse_args()
    dtype, model = TYPES[asked.dtype], asked.model or embedded_folder()
    if model is None:
        parser.error("this copy of Safelight carries no model; give one with --model")
    unet = safelight.load(model, dtype=dtype).network.unet
    for size in asked.size:
        for rows in asked.rows:
            x = torch.randn(rows, unet.config.in_channels, size, size, dtype=dtype)
            context = torch.randn(rows, 77, unet.config.context_width, dtype=dtype)
            given = x, torch.full((rows,), 500.0), context

            def whole(given: tuple[Tensor, ...] = given) -> Tensor:
                answer: Tensor = unet(*given)
                return answer

            def halves(given: tuple[Tensor, ...] = given) -> Tensor:
                return lanes.called(unet, *given)

            whole(), halves()
            pairs = [(seconds(whole), seconds(halves)) for _ in range(asked.rounds)]
            one, two = (statistics.median(times) for times in zip(*pairs, strict=True))
            print(
                f"{size} x {size}, {rows:2} rows: {1e3 * one:7.1f} ms whole, {1e3 * two:7.1f} ms "
                f"in halves, {two / one:.3f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
