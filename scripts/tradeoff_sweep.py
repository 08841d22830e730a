"""The sweep of the trade-off study: codecs and U-Nets of every factor, trained and measured."""

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from tradeoff_parts import (
    Scenes,
    coder_config,
    draw_pictures,
    keep,
    kept,
    pixel_codec,
    process,
    scenes,
    unet,
)

from safelight.checkpoints.evaluator_folder import load_evaluator
from safelight.diffusion.draws import MixedDraw
from safelight.evaluation.kernel import kernel_distance
from safelight.evaluation.reconstruction import reconstruction
from safelight.models.autoencoder import Codec, CodecConfig
from safelight.models.backbone import Backbone
from safelight.models.evaluator import Evaluator
from safelight.models.unet import UNet
from safelight.training.autoencoder.statistics import folded, latent_statistics
from safelight.training.autoencoder.task import AutoencoderTask, as_floats
from safelight.training.batches import B
from safelight.training.diffusion_task import DiffusionSettings, DiffusionTask
from safelight.training.ema import Power
from safelight.training.latent_pool import LatentPool
from safelight.training.loop import train
from safelight.training.previews import write_sheet
from safelight.training.scenes.cutouts import Cutouts, load_cutouts
from safelight.training.settings import Settings
from safelight.training.task import Data, Task
from safelight.training.watch import Moment, Watch
from safelight.writing import make_folder, write_text

EMA = Power(0.10)
SHOWN = 16  # pictures of a row of the sheet
HELD_OUT = 1_000_000  # where the scenes begin that are only for measuring


def say(text: str) -> None:
    print(f"[{time.strftime('%H:%M:%S')}] {text}", flush=True)


def load_now() -> str:
    place = Path("/proc/loadavg")
    return place.read_text().split()[0] if place.exists() else "?"


class Speeds(Watch):
    """Remembers how many pictures a second were learned from."""

    def __init__(self) -> None:
        self.found: list[float] = []

    def logged(self, record: Mapping[str, object]) -> None:
        speed = record.get("samples_per_second")
        if isinstance(speed, float):
            self.found.append(speed)


def table(head: Sequence[object], body: Sequence[Sequence[object]]) -> str:
    lines = [head, ["---"] * len(head), *body]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def diffusion(network: nn.Module) -> DiffusionTask:
    """What the U-Net learns; it has no text side, so no caption is dropped."""
    how = DiffusionSettings(draw=MixedDraw(), caption_dropout=0.0)
    return DiffusionTask(Backbone(network), process(), None, how)  # type: ignore[arg-type]


class TimeIsUp(Exception):
    """The same command goes on from here."""


@dataclass(frozen=True)
class Study:
    """One sweep: its data, its judge, its budget."""

    work: Path
    size: int
    codec_steps: int
    steps: int
    batch: int
    count: int  # drawn pictures, and as many real ones
    draw_steps: int
    train: Scenes
    real: Scenes
    other: Scenes  # as many real pictures again, for the floor
    evaluator: Evaluator
    until: float

    @torch.no_grad()
    def distance(self, pictures: Tensor) -> tuple[float, float, float]:
        """KID to the real pictures, with its interval."""
        real, drawn = (self.features(p) for p in (as_floats(self.real.pictures), pictures))
        found = kernel_distance(real, drawn)
        return found.value, found.low, found.high

    @torch.no_grad()
    def features(self, pictures: Tensor) -> Tensor:
        return torch.cat([self.evaluator.features(part) for part in pictures.split(64)])

    def note(self, name: str, make: Callable[[], Mapping[str, object]]) -> Mapping[str, object]:
        """What is known under this name, worked out once."""
        path = self.work / f"{name}.json"
        if not path.exists():
            write_text(path, json.dumps(make()) + "\n")
        found: Mapping[str, object] = json.loads(path.read_text("utf-8"))
        return found

    def trained(self, name: str, task: Task[B], data: Data[B], how: Settings, watch: Watch) -> None:
        """Go on with a run, to the end. Raises TimeIsUp if there is no time for that."""
        device = self.real.pictures.device
        folder = self.work / name
        outcome = train(task, data, how, folder, device=device, watch=watch, until=self.until)
        if outcome.reason != "finished":
            raise TimeIsUp

    # -- a codec -----------------------------------------------------------------------------------

    def codec(self, factor: int) -> Codec:
        """The trained codec of a factor, its latents of unit size."""
        if factor == 1:
            return pixel_codec(self.train.pictures[:2048])
        config, path = coder_config(factor), self.work / f"codec-{factor}.safetensors"
        coder = config.build().to(self.real.pictures.device)
        if not path.exists():
            speeds = Speeds()
            settings = Settings(
                batch_size=32,
                steps=self.codec_steps,
                learning_rate=1e-3,
                warmup_steps=self.codec_steps // 10,
                weight_decay=0.0,
                schedule="linear",
                decay_from=0.6,
                channels_last=True,
                log_every=max(1, min(20, self.codec_steps // 8)),
                save_every=60,
            )
            task = AutoencoderTask(coder, steps=settings.steps)
            self.trained(f"codec-{factor}", task, self.train, settings, speeds)
            if speeds.found:  # none if the run was found finished
                self.note(f"codec-{factor}-speed", lambda: {"speed": middle(speeds.found)})
            keep(path, coder)
        kept(path, coder)
        coder.eval().requires_grad_(False)
        sample = as_floats(self.train.pictures[:1024])
        found = latent_statistics(coder.encode, sample.split(64))
        whole = folded(coder, found.mean, found.deviation)
        return Codec(whole, CodecConfig(whole.config))

    def kept_by(self, factor: int, codec: Codec) -> Mapping[str, object]:
        """What the codec keeps of real pictures: decibels, and its own distance."""

        def make() -> Mapping[str, object]:
            real = as_floats(self.real.pictures)
            # of other pictures than those it is compared with: a set is too near to itself
            others = as_floats(self.other.pictures).split(64)
            again = torch.cat([_again(codec, part) for part in others])
            found = reconstruction(real, lambda part: _again(codec, part))
            kid, low, high = self.distance(again)
            values = codec.channels * (self.size // factor) ** 2
            weights = sum(p.numel() for p in codec.autoencoder.parameters())
            return {
                "factor": factor,
                "channels": codec.channels,
                "values": values,
                "weights": weights,
                "psnr": min(found.psnr.value, 120.0),
                "ssim": found.ssim.value,
                "kid": kid,
                "kid_low": low,
                "kid_high": high,
            }

        return self.note(f"kept-{factor}", make)

    # -- a U-Net -----------------------------------------------------------------------------------

    def network(self, factor: int, codec: Codec) -> None:
        """Train the U-Net of a factor; its distances are noted on the way."""
        network = unet(factor).to(self.real.pictures.device)
        pool = LatentPool(self.latents(codec), contexts=self.train.words)
        settings = Settings(
            batch_size=self.batch,
            steps=self.steps,
            learning_rate=8e-4,
            warmup_steps=self.steps // 10,
            schedule="linear",
            decay_from=0.6,
            precision="bf16",
            channels_last=True,
            ema=(EMA,),
            log_every=max(1, min(20, self.steps // 8)),
            save_every=60,
            validate_every=max(1, self.steps // 4),
        )
        watch = Judged(self, factor, codec)
        self.trained(f"unet-{factor}", diffusion(network), pool, settings, watch)

    @torch.no_grad()
    def latents(self, codec: Codec) -> Tensor:
        parts = self.train.pictures.split(64)
        return torch.cat([codec.encode(as_floats(part)).mode() for part in parts])


class Judged(Speeds):
    """Draws with the averaged weights now and then, and notes how far from real that is."""

    def __init__(self, study: Study, factor: int, codec: Codec) -> None:
        super().__init__()
        self.study, self.factor, self.codec = study, factor, codec

    def validate(self, moment: Moment) -> Mapping[str, float]:
        study = self.study
        network = moment.players["unet"]
        assert isinstance(network, UNet)
        began = time.perf_counter()
        with moment.averaged(EMA.name):
            pictures = draw_pictures(
                network,
                self.codec,
                study.real.words,
                study.size,
                steps=study.draw_steps,
                batch=64,
            )
        seconds = time.perf_counter() - began
        kid, low, high = study.distance(pictures)
        speed = self._speed()
        figures = {
            "factor": self.factor,
            "step": moment.step,
            "kid": kid,
            "kid_low": low,
            "kid_high": high,
            "learned": speed,
            "drawn": len(pictures) / seconds,
            "seconds": moment.step * study.batch / speed if speed else 0.0,
        }
        study.note(f"unet-{self.factor}-{moment.step:06d}", lambda: figures)
        write_sheet(study.work / f"drawn-{self.factor}.png", pictures[:SHOWN], (), columns=SHOWN)
        say(f"factor {self.factor}, step {moment.step}: KID {kid:.2f} ({speed:.1f} img/s)")
        return {"kid": kid}

    def _speed(self) -> float:
        """Pictures a second in this part of the run, or if it has just begun, in the one before."""
        if self.found:
            return middle(self.found)
        notes = sorted(self.study.work.glob(f"unet-{self.factor}-*.json"))
        return float(json.loads(notes[-1].read_text("utf-8"))["learned"]) if notes else 0.0


def middle(values: Sequence[float]) -> float:
    """The median; 0 of nothing."""
    return statistics.median(values) if values else 0.0


@torch.no_grad()
def _again(codec: Codec, pictures: Tensor) -> Tensor:
    return codec.decode(codec.encode(pictures).mode()).clamp(-1, 1)


def sweep(given: argparse.Namespace) -> int:
    """Train and measure every factor, as far as the time goes, and write the report."""
    until = time.monotonic() + 60 * given.minutes
    make_folder(given.work)
    plan = {
        "size": given.size,
        "codec_steps": given.codec_steps,
        "steps": given.steps,
        "batch": given.batch,
        "count": given.count,
        "scenes": given.scenes,
        "concepts": given.concepts,
        "draw_steps": given.draw_steps,
    }
    note = given.work / "plan.json"
    if note.exists() and json.loads(note.read_text("utf-8")) != plan:
        raise SystemExit(f"{note} says another plan; give another --work, or the same numbers")
    write_text(note, json.dumps(plan) + "\n")
    cutouts = chosen(load_cutouts(given.cutouts), given.concepts).to(given.device)
    judge = load_evaluator(given.evaluator, device=given.device).evaluator

    def of(start: int, count: int) -> Scenes:
        return scenes(cutouts, start, count, given.size, seed=20)

    study = Study(
        given.work,
        given.size,
        given.codec_steps,
        given.steps,
        given.batch,
        given.count,
        given.draw_steps,
        train=of(0, given.scenes),
        real=of(HELD_OUT, given.count),
        other=of(2 * HELD_OUT, given.count),
        evaluator=judge,
        until=until,
    )
    say(f"{len(cutouts)} cut-outs, {len(study.train)} scenes of {given.size} pixels")
    study.note("floor", lambda: {"kid": study.distance(as_floats(study.other.pictures))})
    write_sheet(study.work / "real.png", as_floats(study.real.pictures[:SHOWN]), (), columns=SHOWN)
    done = True
    try:
        codecs = {factor: study.codec(factor) for factor in given.factors}
        for factor, codec in codecs.items():
            kept_ = study.kept_by(factor, codec)
            say(f"factor {factor}: {kept_['psnr']:.1f} dB")
        for factor, codec in codecs.items():
            study.network(factor, codec)
    except TimeIsUp:
        done = False
        say("the time is over; the same command goes on")
    text = report(study, given.factors)
    write_text(given.work / "report.md", text)
    print(text)
    return 0 if done else 75


def chosen(cutouts: Cutouts, concepts: int) -> Cutouts:
    """The first concepts that most styles draw; in all their styles."""
    styles: dict[str, set[str]] = {}
    for entry in cutouts.entries:
        if entry.core:
            styles.setdefault(entry.hexcode, set()).add(entry.style)
    order = sorted(styles, key=lambda code: (-len(styles[code]), code))
    wanted = frozenset(order[:concepts])
    return cutouts.where(lambda entry: entry.core and entry.hexcode in wanted)


def report(study: Study, factors: Sequence[int]) -> str:
    """What is known so far, as Markdown."""
    floor = json.loads((study.work / "floor.json").read_text("utf-8"))["kid"]
    kept_rows, drawn_rows = [], []
    for factor in factors:
        path = study.work / f"kept-{factor}.json"
        if path.exists():
            found = json.loads(path.read_text("utf-8"))
            kept_rows.append(
                (
                    factor,
                    f"{found['channels']}x{study.size // factor}x{study.size // factor}",
                    found["values"],
                    f"{found['weights'] / 1e6:.2f} M",
                    "-" if factor == 1 else f"{found['psnr']:.1f}",
                    "-" if factor == 1 else f"{found['ssim']:.3f}",
                    _distance(found),
                )
            )
        for path in sorted(study.work.glob(f"unet-{factor}-*.json")):
            found = json.loads(path.read_text("utf-8"))
            drawn_rows.append(
                (
                    factor,
                    found["step"],
                    f"{found['seconds']:.0f}",
                    f"{found['learned']:.1f}",
                    f"{found['drawn']:.1f}",
                    _distance(found),
                )
            )
    return "\n".join(
        (
            f"# Compression against quality at {study.size} pixels",
            "",
            f"KID in the evaluator's features, {study.count} pictures a side; two sets of real "
            f"pictures are {floor[0]:.2f} ({floor[1]:.2f} to {floor[2]:.2f}) apart. Seconds are of "
            f"training the U-Net. Load at the end {load_now()}, {torch.get_num_threads()} threads, "
            f"{os.cpu_count()} processors.",
            "",
            "What the codecs keep:",
            "",
            table(
                (
                    "factor",
                    "latents",
                    "values",
                    "weights",
                    "PSNR, dB",
                    "SSIM",
                    "KID of what comes back",
                ),
                kept_rows,
            ),
            "",
            "What the U-Net draws:",
            "",
            table(
                ("factor", "steps", "seconds", "training, img/s", "drawing, img/s", "KID"),
                drawn_rows,
            ),
            "",
        )
    )


def _distance(found: Mapping[str, float]) -> str:
    return f"{found['kid']:.2f} ({found['kid_low']:.2f} to {found['kid_high']:.2f})"
