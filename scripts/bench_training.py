#!/usr/bin/env python3
"""Time our trainer beside Diffusers' text-to-image example: same U-Net, weights and machine.

    OMP_NUM_THREADS=2 python scripts/bench_training.py --out training-speed.json
    python scripts/bench_training.py --shapes sd15 --device cuda --batch 16 --compile
    python scripts/bench_training.py --shapes tiny --rounds 2 --block 2     # does it run?

Two comparisons. "step" gives both the same latents and text states: network, loss, clipping,
optimizer, and on request the average of the weights. "job" gives both a folder of pictures with
captions, and each does what it does by default: the example encodes pictures and captions in every
step; ours once, before training, and the time of that is printed. "job, encoding each step" lets
ours do as the example does.

Both live in one process and take turns: a block of our steps, a block of theirs. The first blocks
warm up and do not count. Printed are medians of the blocks, and the median of the ratios of
neighbours with its range. "Processor" is the same ratio in this process's own seconds, which other
programs on the machine move less; with spinning threads it moves, too.
Needs the packages of requirements-oracles.txt.
"""

import argparse
import json
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import accelerate
import bench_shapes
import diffusers
import torch
import transformers
from bench_shapes import SHAPES, Shape
from diffusers_trainer import Encoded, PictureFiles, Trainer, predicted
from torch import Tensor, nn

import safelight
from safelight.benchmarks.disturbance import load_average
from safelight.benchmarks.machine import facts
from safelight.benchmarks.spread import ratios, spread
from safelight.benchmarks.train_step import example_average, example_settings, example_task
from safelight.checkpoints.save import save
from safelight.model import Model
from safelight.training.buckets import Rule
from safelight.training.cache import Store, content_hash
from safelight.training.diffusion_task import DiffusionTask, LatentBatch
from safelight.training.draw import Draw
from safelight.training.latent_cache import cached_latents, cached_states
from safelight.training.latent_data import EncodedPictures
from safelight.training.latent_pool import LatentPool
from safelight.training.loop import train
from safelight.training.order import Flat
from safelight.training.picture_data import Framing, PictureData
from safelight.training.settings import Settings
from safelight.training.sources.folder import open_folder
from safelight.training.sources.scan import scan
from safelight.training.task import Data
from safelight.training.text_states import FrozenText
from safelight.training.watch import Watch
from safelight.writing import write_text

LATENTS = 8  # batches of latents at hand in the comparison of steps
TOLERANCE = 1e-3  # of the deviation of the output, that the two networks may differ by in float32


@dataclass(frozen=True)
class Setup:
    """What both train, how, and where the model and the pictures lie."""

    shape: Shape
    batch: int
    precision: str  # fp32 or bf16
    ema: bool
    device: torch.device
    compile: bool
    channels_last: bool
    rounds: int
    block: int
    folder: Path

    @property
    def dtype(self) -> torch.dtype:
        return torch.bfloat16 if self.precision == "bf16" else torch.float32

    def model(self) -> Model:
        """Our copy of the model, on the device, in float32."""
        model = bench_shapes.model(self.shape.family)
        assert isinstance(model.codec.autoencoder, nn.Module)
        for part in (model.network.unet, model.codec.autoencoder, *model.text.encoders):
            part.to(self.device)
        return model

    def theirs(self, data: Callable[..., object]) -> Trainer:
        return Trainer(
            self.folder / "model",
            data,  # type: ignore[arg-type]
            batch=self.batch,
            bf16=self.precision == "bf16",
            ema=self.ema,
            device=self.device,
            compile=self.compile,
        )

    def settings(self) -> Settings:
        """The example's own numbers."""
        return example_settings(
            self.batch,
            self.precision,
            steps=self.block * (self.rounds + 1),
            ema=example_average() if self.ema else (),
            channels_last=self.channels_last,
            compile=self.compile,
            log_every=self.block,
        )

    def task(self, model: Model, text: FrozenText | None) -> DiffusionTask:
        """The example's loss: uniform times, no weights, no dropped captions."""
        return example_task(model, text)


# -- taking turns ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Block:
    """What one step took, averaged over a block."""

    seconds: float
    processor: float


@dataclass(frozen=True)
class Result:
    """Pictures a second of both, and how many times faster ours is."""

    comparison: str
    ours: float
    theirs: float
    ratio: float
    lowest: float
    highest: float
    processor: float


def result(name: str, ours: Sequence[Block], theirs: Sequence[Block], batch: int) -> Result:
    """Medians over all blocks but the first of each."""
    ours, theirs = ours[1:], theirs[1:]
    if not ours or len(ours) != len(theirs):
        raise ValueError(f"{len(ours)} and {len(theirs)} blocks cannot be compared")
    mine, other = ([block.seconds for block in blocks] for blocks in (ours, theirs))
    ratio = ratios(other, mine)  # how many times faster, not how much of its time
    return Result(
        name,
        batch / spread(mine).median,
        batch / spread(other).median,
        ratio.median,
        ratio.least,
        ratio.most,
        ratios([block.processor for block in theirs], [b.processor for b in ours]).median,
    )


class Turns(Watch):
    """After every block of our steps, as many of the other's."""

    def __init__(self, other: Callable[[int], float], setup: Setup) -> None:
        self.other, self.setup = other, setup
        self.ours: list[Block] = []
        self.theirs: list[Block] = []
        self._mark = self._now()

    def logged(self, record: Mapping[str, object]) -> None:
        self.ours.append(self._taken())
        self.other(self.setup.block)
        self.theirs.append(self._taken())

    def _taken(self) -> Block:
        """Since the last call."""
        before, self._mark = self._mark, self._now()
        seconds, processor = (b - a for a, b in zip(before, self._mark, strict=True))
        return Block(seconds / self.setup.block, processor / self.setup.block)

    def _now(self) -> tuple[float, float]:
        if self.setup.device.type == "cuda":
            torch.cuda.synchronize(self.setup.device)
        return time.perf_counter(), time.process_time()


def alternated(
    name: str,
    setup: Setup,
    task: DiffusionTask,
    data: Data[LatentBatch],
    other: Callable[[int], float],
) -> Result:
    """Both trained in turns."""
    turns = Turns(other, setup)
    with tempfile.TemporaryDirectory() as work:
        train(task, data, setup.settings(), Path(work), device=setup.device, watch=turns)
    return result(name, turns.ours, turns.theirs, setup.batch)


# -- the comparisons -------------------------------------------------------------------------------


def step(setup: Setup) -> Iterator[Result]:
    """Latents and text states at hand for both."""
    latents, states = noise(setup.shape, LATENTS * setup.batch)
    model = setup.model()
    theirs = setup.theirs(lambda tokenizer: Encoded(latents, states))
    pool = LatentPool(latents, contexts=states.to(setup.dtype)).to(setup.device)
    yield alternated("step", setup, setup.task(model, None), pool, theirs.steps)


@torch.no_grad()
def check_same(folder: Path, shape: Shape) -> None:
    """Stop unless the U-Net of the folder, opened by Diffusers, answers as ours does."""
    model = bench_shapes.model(shape.family)
    latents, states = noise(shape, 2)
    times = torch.tensor([10.0, 700.0])
    ours = model.network.unet(latents, times, states)
    theirs = predicted(folder, latents, times, states)
    apart = float((ours - theirs).abs().max() / theirs.std())
    if not apart <= TOLERANCE:
        raise SystemExit(f"the two networks are not the same: {apart:.2e} deviations apart")
    say(f"the same U-Net: outputs {apart:.1e} deviations apart")


def noise(shape: Shape, count: int) -> tuple[Tensor, Tensor]:
    """In place of latents (N, C, h, w) and text states (N, 77, D): unit normals."""
    family, generator = shape.family, torch.Generator().manual_seed(1)
    side = shape.size // family.codec.factor
    return (
        torch.randn(count, family.codec.channels, side, side, generator=generator),
        torch.randn(count, 77, family.backbone.context_width, generator=generator),
    )


def job(setup: Setup) -> Iterator[Result]:
    """A folder of pictures and captions for both."""
    pictures = setup.folder / "pictures"
    source = open_folder(pictures)
    captions = tuple(source.example(i).captions[0] for i in range(len(source)))
    files = tuple(pictures / f"{source.example(i).id}.jpg" for i in range(len(source)))
    size = setup.shape.size
    found = scan(source)

    def peer() -> Callable[[int], float]:
        return setup.theirs(lambda t: PictureFiles(files, captions, t, size)).steps

    rule = Rule(size, max_aspect=1.0)
    with PictureData.scanned(found, rule, device=setup.device) as data:
        model = setup.model()
        told(model, setup.dtype)
        began = time.perf_counter()
        with tempfile.TemporaryDirectory() as place, Store(Path(place)) as store:
            latents = cached_latents(
                store,
                model.codec,
                [content_hash(path.read_bytes()) for path in files],
                lambda rows: data.batch(rows, Draw(0, 0, len(rows))).pictures,
                batch=setup.batch,
            )
            states = cached_states(store, FrozenText(model.text), captions)
        each = (time.perf_counter() - began) / len(files)
        pool = LatentPool(torch.stack(latents), contexts=states.context).to(setup.device)
        yield alternated("job", setup, setup.task(model, None), pool, peer())
        say(f"  encoding once: {1e3 * each:.1f} ms a picture, before training")
    order = Flat(len(files), setup.batch, 0)
    framing = Framing(random_crop=True)
    with PictureData.scanned(
        found, rule, device=setup.device, order=order, framing=framing
    ) as data:
        model = setup.model()
        told(model, setup.dtype)
        task = setup.task(model, FrozenText(model.text))
        encoded = EncodedPictures(data, model.codec, model.text)
        yield alternated("job, encoding each step", setup, task, encoded, peer())


def told(model: Model, dtype: torch.dtype) -> None:
    """The parts that do not learn, in the type that the example gives them."""
    assert isinstance(model.codec.autoencoder, nn.Module)
    for part in (model.codec.autoencoder, *model.text.encoders):
        part.to(dtype).requires_grad_(False)


COMPARISONS: Mapping[str, Callable[[Setup], Iterator[Result]]] = {"step": step, "job": job}


# -- what is said ----------------------------------------------------------------------------------


def machine(device: torch.device) -> dict[str, object]:
    """Where this was measured, and with what."""
    found = facts(torch.get_num_threads())
    for module in (torch, diffusers, transformers, accelerate, safelight):
        found[module.__name__] = module.__version__
    if device.type == "cuda":
        found["device"] = torch.cuda.get_device_name(device)
    return found


def say(text: str) -> None:
    print(text, flush=True)


def row(cells: Sequence[object]) -> str:
    return "| " + " | ".join(str(cell) for cell in cells) + " |"


HEAD = (
    "shape",
    "batch",
    "precision",
    "EMA",
    "compared",
    "ours, img/s",
    "Diffusers, img/s",
    "ratio",
    "range",
    "processor",
    "load",
)


def measured(setup: Setup, names: Sequence[str]) -> Iterator[dict[str, object]]:
    """A line of the report for each comparison, printed as it comes."""
    for name in names:
        for found in COMPARISONS[name](setup):
            load = load_average()
            say(
                row(
                    (
                        setup.shape.name,
                        setup.batch,
                        setup.precision,
                        "yes" if setup.ema else "no",
                        found.comparison,
                        f"{found.ours:.2f}",
                        f"{found.theirs:.2f}",
                        f"**{found.ratio:.2f}**",
                        f"{found.lowest:.2f} to {found.highest:.2f}",
                        f"{found.processor:.2f}",
                        load,
                    )
                )
            )
            yield {
                "shape": setup.shape.name,
                "batch": setup.batch,
                "precision": setup.precision,
                "ema": setup.ema,
                "compile": setup.compile,
                "channels_last": setup.channels_last,
                "load": load,
                **asdict(found),
            }


@contextmanager
def prepared(shape: Shape, batch: int) -> Iterator[Path]:
    """A folder with the model and pictures, for the time of its measurements."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        save(bench_shapes.model(shape.family), folder / "model")
        check_same(folder / "model", shape)
        bench_shapes.draw_pictures(folder / "pictures", shape.size, LATENTS * batch)
        yield folder


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shapes", nargs="+", choices=sorted(SHAPES), default=["small", "emoji"])
    parser.add_argument(
        "--precisions", nargs="+", choices=("fp32", "bf16"), default=["fp32", "bf16"]
    )
    parser.add_argument(
        "--compare", nargs="+", choices=sorted(COMPARISONS), default=["step", "job"]
    )
    parser.add_argument("--ema", nargs="+", choices=("no", "yes"), default=["no"])
    parser.add_argument("--batch", type=int, default=0, help="0: the shape's own")
    parser.add_argument("--rounds", type=int, default=5, help="blocks that count")
    parser.add_argument("--block", type=int, default=4, help="steps of a block")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--compile", action="store_true", help="both networks, by inductor")
    parser.add_argument("--channels-last", action="store_true", help="ours: as settings have it")
    parser.add_argument("--out", type=Path, help="a JSON file with all numbers")
    return parser.parse_args()


def main() -> int:
    given = arguments()
    warnings.filterwarnings("ignore", module="accelerate")
    for module in (diffusers, transformers):
        module.utils.logging.set_verbosity_error()
        module.utils.logging.disable_progress_bar()
    device = torch.device(given.device)
    said = machine(device)
    say(" ".join(("python", *sys.argv)))
    say(json.dumps(said) + "\n")
    lines: list[dict[str, object]] = []
    for name in given.shapes:
        shape = SHAPES[name]
        batch = given.batch or shape.batch
        say(f"{name}: {shape.words}; pictures of {shape.size} pixels")
        with prepared(shape, batch) as folder:
            say(row(HEAD))
            say(row(["---"] * len(HEAD)))
            first = Setup(
                shape,
                batch,
                "fp32",
                False,
                device,
                given.compile,
                given.channels_last,
                given.rounds,
                given.block,
                folder,
            )
            for precision in given.precisions:
                for ema in given.ema:
                    setup = replace(first, precision=precision, ema=ema == "yes")
                    lines += measured(setup, given.compare)
        say("")
    if given.out is not None:
        report = {"command": sys.argv, "machine": said, "lines": lines}
        write_text(given.out, json.dumps(report, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
