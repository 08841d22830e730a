"""The loop on bucketed pictures: a stopped run, and one in micro-batches, are the same run."""

import os
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from safelight.training import saving
from safelight.training.buckets import BucketOrder, Rule
from safelight.training.captions import Wording
from safelight.training.draw import Draw
from safelight.training.loop import train
from safelight.training.picture_data import Framing, PictureBatch, PictureData
from safelight.training.sources.folder import open_folder
from safelight.training.sources.scan import Scan, scan
from safelight.training.task import Loss
from training_tiny import files_equal, settings

SIZES = [(40, 40), (32, 32), (64, 60), (60, 30), (90, 50), (30, 60), (33, 35), (20, 20), (36, 32)]


class Reader(nn.Module):
    """Guesses a caption's length from a picture of any size."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 4, 3)
        self.out = nn.Linear(4, 1)

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        h = self.layer(pictures.to(self.layer.weight.dtype)).relu().mean((2, 3))
        return self.out(h).float()


class Reading:
    """A task that sees pixels, words and sizes, and notes what it saw."""

    def __init__(self) -> None:
        with torch.random.fork_rng([]):
            torch.manual_seed(0)
            self.network = Reader()
        self.seen: dict[int, list[tuple[str, str, int]]] = {}

    @property
    def players(self) -> Mapping[str, nn.Module]:
        return {"reader": self.network}

    def plays(self, player: str, step: int) -> bool:
        return True

    def loss(self, player: str, batch: PictureBatch, draw: Draw) -> Loss:
        width = batch.pictures.shape[-1]
        rows = zip(batch.ids, batch.captions, strict=True)
        self.seen.setdefault(draw.step, []).extend((name, text, width) for name, text in rows)
        lengths = torch.tensor([[len(text) / 10] for text in batch.captions])
        told = self.network(batch.pictures) + batch.sizes[:, 2:4].sum(1, keepdim=True) / 10
        return Loss((told - lengths).square().mean())


@pytest.fixture
def scanned(tmp_path: Path) -> Scan:
    folder = tmp_path / "set"
    folder.mkdir()
    for number, size in enumerate(SIZES):
        pixels = np.random.default_rng(number).integers(0, 256, (size[1], size[0], 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"p{number}.png")
        (folder / f"p{number}.txt").write_text("one, two, three\nother words")
    return scan(open_folder(folder))


def data(scanned: Scan) -> PictureData:
    made = PictureData.scanned(
        scanned,
        Rule(32, 8, 2.0),
        framing=Framing(random_crop=True, flip=0.5),
        wording=Wording(shuffle=True, part_dropout=0.3),
    )
    made.order = BucketOrder(made.buckets, 4, seed=3)
    return made


def run(scanned: Scan, folder: Path, **changes: object) -> Reading:
    task = Reading()
    with data(scanned) as pictures:
        plan = settings(batch_size=4, steps=12, **changes)
        train(task, pictures, plan, folder, order=pictures.order)
    return task


def test_every_step_has_one_size_and_every_picture_is_seen(scanned: Scan, tmp_path: Path) -> None:
    seen = run(scanned, tmp_path / "run").seen
    assert list(seen) == list(range(12))
    assert all(len(rows) == 4 and len({width for *_, width in rows}) == 1 for rows in seen.values())
    assert {name for rows in seen.values() for name, *_ in rows} == {f"p{i}" for i in range(9)}
    assert len({width for rows in seen.values() for *_, width in rows}) == 3


def test_micro_batches_see_the_same_rows(scanned: Scan, tmp_path: Path) -> None:
    whole, parts = (run(scanned, tmp_path / str(m), micro_batch=m) for m in (4, 1))
    assert whole.seen == parts.seen
    for one, two in zip(whole.network.parameters(), parts.network.parameters(), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-5)


class Stopping(PictureData):
    """Data in whose fifth step the machine is told to end."""

    def batch(self, indices: Sequence[int], draw: Draw) -> PictureBatch:
        if draw.step == 5:
            os.kill(os.getpid(), signal.SIGTERM)
        return super().batch(indices, draw)


def test_a_stopped_run_goes_on_to_the_same_bits(scanned: Scan, tmp_path: Path) -> None:
    straight = run(scanned, tmp_path / "straight")
    with data(scanned) as same, Stopping(same.source, same.places) as halted:
        halted.framing, halted.wording, halted.order = same.framing, same.wording, same.order
        outcome = train(
            Reading(),
            halted,
            settings(batch_size=4, steps=12),
            tmp_path / "broken",
            order=same.order,
        )
    assert outcome.step < 12
    rest = run(scanned, tmp_path / "broken")
    assert {step: straight.seen[step] for step in rest.seen} == rest.seen and min(rest.seen) > 0
    one, two = (saving.newest(tmp_path / name) for name in ("straight", "broken"))
    assert one is not None and two is not None and files_equal(one, two)
