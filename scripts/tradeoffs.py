#!/usr/bin/env python3
"""LDM's trade-offs in small: how strongly to compress, and what latents cost beside pixels.

    python scripts/tradeoffs.py speed --size 64
    python scripts/tradeoffs.py sweep --cutouts cutouts.safetensors --evaluator evaluator \
        --work sweep --minutes 10        # cut off? the same command goes on

"speed" times a step of training and a drawn picture for every factor of compression, with one
U-Net: random weights do. "sweep" trains a codec for every factor, with as many weights and steps
for each, and then the U-Net, with as many weights and steps for each, on scenes of one object with
its concept, style and background as condition. It reports what the codecs keep (PSNR) and how far
the drawn pictures are from real ones (KID in the evaluator's features, without guidance), against
seconds of training. Rombach et al. 2022 (arXiv:2112.10752), section 4.1 and figures 6 and 7, train
every factor for as many steps with as many weights as well. Factor 1 is pixels.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor
from tradeoff_parts import (
    CHANNELS,
    CODEC_WIDTHS,
    WORD,
    coder_config,
    draw_pictures,
    pixel_codec,
    unet,
)
from tradeoff_sweep import EMA, Speeds, diffusion, load_now, say, sweep, table

from safelight.models.autoencoder import Codec, CodecConfig
from safelight.training.latent_pool import LatentPool
from safelight.training.loop import train
from safelight.training.settings import Settings
from safelight.writing import write_text

# -- speed -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Speed:
    """Pictures a second of one factor."""

    factor: int
    channels: int
    latent: int  # side
    weights: int
    learned: float
    learned_encoding: float  # with the codec in every step
    drawn: float


def speed(given: argparse.Namespace) -> int:
    """Time all factors in turns, and print a table."""
    device = torch.device(given.device)
    torch.manual_seed(0)
    pictures = torch.rand(given.batch * 2, 3, given.size, given.size, device=device) * 2 - 1
    words = torch.randn(len(pictures), 3, WORD, device=device)
    seen: dict[int, list[tuple[float, float, float]]] = {factor: [] for factor in given.factors}
    for number in range(given.rounds + 1):
        for factor in given.factors:
            found = _timed(factor, pictures, words, given, device)
            if number:  # the first round warms up
                seen[factor].append(found)
    rows = [_speed(factor, seen[factor], given.size) for factor in given.factors]
    say(
        f"batch {given.batch}, {given.precision}, {given.draw_steps} steps a picture, "
        f"{torch.get_num_threads()} threads, load {load_now()}"
    )
    print(speed_table(rows))
    if given.out is not None:
        write_text(given.out, json.dumps([asdict(row) for row in rows], indent=1) + "\n")
    return 0


def _speed(factor: int, found: Sequence[tuple[float, float, float]], size: int) -> Speed:
    weights = sum(parameter.numel() for parameter in unet(factor).parameters())
    middle = [statistics.median(column) for column in zip(*found, strict=True)]
    return Speed(factor, CHANNELS[factor], size // factor, weights, *middle)


def _timed(
    factor: int,
    pictures: Tensor,
    words: Tensor,
    given: argparse.Namespace,
    device: torch.device,
) -> tuple[float, float, float]:
    """Pictures a second: learned from, learned from and encoded, drawn."""
    codec = untrained(factor, pictures)
    network = unet(factor).to(device)
    with torch.no_grad():
        codec.encode(pictures[: given.batch])  # the first call is slower
        began = _now(device)
        latents = torch.cat([codec.encode(p).mode() for p in pictures.split(given.batch)])
        encoding = (_now(device) - began) / len(pictures)
    pool = LatentPool(latents, contexts=words)
    settings = Settings(
        batch_size=given.batch,
        steps=2 * given.block,
        precision=given.precision,
        channels_last=True,
        ema=(EMA,),
        log_every=given.block,
        save_every=1e9,
    )
    speeds = Speeds()
    with tempfile.TemporaryDirectory() as place:
        train(diffusion(network), pool, settings, Path(place), device=device, watch=speeds)
    learned = speeds.found[-1]
    network.eval()
    began = _now(device)
    size, count = given.size, given.batch
    draw_pictures(network, codec, words[:count], size, steps=given.draw_steps, batch=count)
    drawn = count / (_now(device) - began)
    return learned, 1 / (1 / learned + encoding), drawn


def untrained(factor: int, pictures: Tensor) -> Codec:
    """A codec of the right shape."""
    if factor == 1:
        return pixel_codec(pictures)
    config = coder_config(factor)
    return Codec(config.build().to(pictures.device), CodecConfig(config))


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def speed_table(rows: Sequence[Speed]) -> str:
    """The speeds as Markdown, the first row being what the others are compared with."""
    head = (
        "factor",
        "network sees",
        "weights",
        "training, img/s",
        "times",
        "encoding each step, img/s",
        "times",
        "drawing, img/s",
        "times",
    )
    first = rows[0]
    body = [
        (
            row.factor,
            f"{row.channels}x{row.latent}x{row.latent}",
            f"{row.weights / 1e6:.2f} M",
            *_beside(row.learned, first.learned),
            *_beside(row.learned_encoding, first.learned_encoding),
            *_beside(row.drawn, first.drawn),
        )
        for row in rows
    ]
    return table(head, body)


def _beside(value: float, first: float) -> tuple[str, str]:
    return f"{value:.1f}", f"{value / first:.1f}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    whats = parser.add_subparsers(required=True)
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(
        "--factors", type=int, nargs="+", choices=(1, *CODEC_WIDTHS), default=[1, 2, 4, 8]
    )
    common.add_argument("--size", type=int, default=32, help="side of a picture")
    common.add_argument("--batch", type=int, default=32)
    common.add_argument("--draw-steps", type=int, default=12)
    common.add_argument("--device", default="cpu")
    timing = whats.add_parser("speed", parents=[common], help="time training and drawing")
    timing.add_argument("--precision", choices=("fp32", "bf16"), default="bf16")
    timing.add_argument("--rounds", type=int, default=3)
    timing.add_argument("--block", type=int, default=3, help="steps that are timed at once")
    timing.add_argument("--out", type=Path)
    timing.set_defaults(run=speed)
    study = whats.add_parser("sweep", parents=[common], help="train and measure every factor")
    study.add_argument("--cutouts", type=Path, required=True)
    study.add_argument("--evaluator", type=Path, required=True)
    study.add_argument("--work", type=Path, required=True)
    study.add_argument("--minutes", type=float, default=10.0, help="of this call")
    study.add_argument("--codec-steps", type=int, default=600)
    study.add_argument("--steps", type=int, default=1000, help="of every U-Net")
    study.add_argument("--count", type=int, default=256, help="pictures to measure with")
    study.add_argument("--scenes", type=int, default=8192, help="pictures to train with")
    study.add_argument("--concepts", type=int, default=24)
    study.set_defaults(run=sweep)
    given = parser.parse_args()
    result: int = given.run(given)
    return result


if __name__ == "__main__":
    sys.exit(main())
