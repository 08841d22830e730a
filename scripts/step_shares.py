#!/usr/bin/env python3
"""What could be saved by keeping the text's keys and values over steps, and by a smaller decoder.

    python scripts/step_shares.py                                     # the embedded model
    python scripts/step_shares.py --model sd15.safetensors --dtype bf16

Times a guided step of the U-Net, the projections of the text in all its cross-attentions, which
give the same in every step, and the decoder. Medians; nothing else should run.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from safelight.checkpoints.load import load
from safelight.embedded.carried import embedded_folder
from safelight.engines.placement import DTYPES

STEPS = 20
TOKENS = 77


@torch.inference_mode()
def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--model", type=Path, help="left out, the one that Safelight carries")
    parser.add_argument("--dtype", choices=sorted(DTYPES), default="fp32")
    parser.add_argument("--times", type=int, default=9)
    given = parser.parse_args()
    model = load(given.model or embedded_folder(), dtype=DTYPES[given.dtype])
    unet, side = model.network.unet, model.family.native_size // model.codec.factor
    x = torch.randn(2, unet.config.in_channels, side, side).to(unet.dtype)
    context = torch.randn(2, TOKENS, unet.config.context_width).to(unet.dtype)
    latents = torch.randn(1, model.codec.channels, side, side)
    layers = [
        layer for name, layer in unet.named_modules() if name.endswith(("attn2.to_k", "attn2.to_v"))
    ]
    step = median(given.times, lambda: unet(x, torch.full((2,), 500.0), context))
    text = median(given.times, lambda: [layer(context) for layer in layers])
    decoding = median(given.times, lambda: model.codec.decode(latents))
    print(f"a guided step {1e3 * step:.1f} ms; the text's keys and values {text / step:.1%} of it")
    print(
        f"decoding {1e3 * decoding:.1f} ms, {decoding / (STEPS * step + decoding):.1%} of a ",
        end="",
    )
    print(f"picture of {STEPS} steps")
    return 0


def median(times: int, work: Callable[[], Tensor | list[Tensor]]) -> float:
    """Seconds of one call, once warm."""
    work()
    found = []
    for _ in range(times):
        began = time.perf_counter()
        work()
        found.append(time.perf_counter() - began)
    return statistics.median(found)


if __name__ == "__main__":
    raise SystemExit(main())
