"""Batches of pictures depend on their numbers and their draw, and on nothing else."""

import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from safelight.errors import FileError, RequestError
from safelight.training.buckets import BucketOrder, Rule
from safelight.training.captions import Wording
from safelight.training.draw import Draw
from safelight.training.picture_data import Framing, PictureBatch, PictureData
from safelight.training.sources.folder import open_folder
from safelight.training.sources.scan import scan

RULE = Rule(32, 8, 2.0)
SIZES = [(40, 40), (32, 32), (64, 60), (60, 30), (90, 50), (30, 60), (33, 35), (20, 20)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number, size in enumerate(SIZES):
        pixels = np.random.default_rng(number).integers(0, 256, (size[1], size[0], 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"p{number}.png")
        (tmp_path / f"p{number}.txt").write_text("one, two, three, four\nother words")
    return tmp_path


def data(folder: Path, **settings: object) -> PictureData:
    return PictureData.scanned(scan(open_folder(folder)), RULE, **settings)


@pytest.fixture
def plain(folder: Path) -> Iterator[PictureData]:
    with data(folder) as made:
        yield made


FREE = {"framing": Framing(random_crop=True, flip=0.5), "wording": Wording(shuffle=True)}
SQUARE = [0, 1, 2, 6, 7]


def same(one: PictureBatch, two: PictureBatch) -> bool:
    return (
        torch.equal(one.pictures, two.pictures)
        and torch.equal(one.sizes, two.sizes)
        and (one.captions, one.ids) == (two.captions, two.ids)
    )


def test_a_batch_has_the_size_of_its_bucket_and_the_order_of_its_rows(plain: PictureData) -> None:
    assert [i for i, b in enumerate(plain.buckets) if b == (32, 32)] == SQUARE
    batch = plain.batch([2, 0, 1], Draw(0, 0, 3))
    assert batch.pictures.shape == (3, 3, 32, 32) and batch.ids == ("p2", "p0", "p1")
    assert batch.pictures.min() >= -1 and batch.pictures.max() <= 1
    assert batch.sizes.tolist()[1] == [40, 40, 0, 0, 32, 32]
    exact = torch.tensor(np.asarray(Image.open(Path(plain.source.name) / "p1.png")))
    assert torch.equal(batch.pictures[2], exact.permute(2, 0, 1) / 127.5 - 1)


def test_pictures_of_two_sizes_are_no_batch(plain: PictureData) -> None:
    with pytest.raises(ValueError, match="one size"):
        plain.batch([0, 3], Draw(0, 0, 2))


def test_rows_are_the_same_however_a_batch_is_divided(folder: Path) -> None:
    with data(folder, **FREE) as free:
        whole = free.batch(SQUARE[:4], Draw(3, 9, 4))
        parts = [free.batch(SQUARE[i : i + 2], Draw(3, 9, 4, i, 2)) for i in (0, 2)]
    assert torch.equal(torch.cat([part.pictures for part in parts]), whole.pictures)
    assert torch.equal(torch.cat([part.sizes for part in parts]), whole.sizes)
    assert [text for part in parts for text in part.captions] == whole.captions


def test_crops_flips_and_words_change_from_step_to_step(folder: Path) -> None:
    with data(folder, **FREE) as free:
        batches = [free.batch([2] * 4, Draw(0, step, 4)) for step in range(8)]
    corners = {tuple(row[2:4]) for batch in batches for row in batch.sizes.tolist()}
    assert corners == {(0, 0), (0, 1), (0, 2)}, "64 x 60 resized to 34 x 32 has three crops"
    pictures = {batch.pictures[i].numpy().tobytes() for batch in batches for i in range(4)}
    assert len(pictures) == 6, "three crops, each as it is and mirrored"
    assert len({text for batch in batches for text in batch.captions}) > 10


def test_a_flip_is_the_mirror_image(folder: Path) -> None:
    with data(folder) as straight, data(folder, framing=Framing(flip=1.0)) as mirrored:
        one, two = (d.batch([1], Draw(0, 0, 1)).pictures for d in (straight, mirrored))
    assert torch.equal(one.flip(3), two)


def test_looking_ahead_changes_nothing_and_is_used(folder: Path) -> None:
    with data(folder, **FREE) as slow, data(folder, **FREE) as quick:
        order = BucketOrder(slow.buckets, 4, seed=2)
        quick.order = order
        for step in range(10):
            draws = [Draw(2, step, 4, start, 2) for start in (0, 2)]  # micro-batches
            for draw in draws:
                indices = order.indices(step)[draw.rows]
                wanted = slow.batch(indices, draw)
                begun = (tuple(indices), draw) in quick._waiting
                assert begun == (step > 0)
                assert same(quick.batch(indices, draw), wanted)
        assert {key[1].step for key in quick._waiting} == {10, 11}


def test_a_validation_in_between_disturbs_nothing(folder: Path) -> None:
    with data(folder, **FREE) as made:
        made.order = order = BucketOrder(made.buckets, 4, seed=2)
        made.batch(order.indices(0), Draw(2, 0, 4))
        begun = set(made._waiting)
        made.batch(SQUARE[:2], Draw(99, 0, 2))
        assert set(made._waiting) == begun and len(begun) == 2


def test_batches_that_nobody_came_for_are_forgotten(folder: Path) -> None:
    with data(folder, **FREE) as made:
        made.order = order = BucketOrder(made.buckets, 4, seed=2)
        for step in (0, 50, 100):  # a run that jumps
            made.batch(order.indices(step), Draw(2, step, 4))
        assert {key[1].step for key in made._waiting} == {101, 102}


def test_a_picture_that_broke_since_the_scan_stops_with_its_name(folder: Path) -> None:
    with data(folder) as made:
        (folder / "p1.png").write_bytes(b"broken")
        with pytest.raises(FileError, match="p1 is not a PNG"):
            made.batch([0, 1], Draw(0, 0, 2))


def test_or_it_gives_its_place_to_the_next_of_its_bucket_and_is_counted(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with data(folder, on_problem="skip") as made:
        (folder / "p1.png").write_bytes(b"broken")
        (folder / "p2.png").unlink()
        with caplog.at_level(logging.WARNING):
            batches = [made.batch([0, 1], Draw(0, step, 2)) for step in range(3)]
        assert [batch.ids for batch in batches] == [("p0", "p6")] * 3
        assert made.replaced == {"p1": 3, "p2": 3}
        assert len([r for r in caplog.records if "p1" in r.getMessage()]) == 1, "said once"
        for number in SQUARE:
            (folder / f"p{number}.png").unlink(missing_ok=True)
        with pytest.raises(FileError, match="none of the 5 pictures of 32x32 can be read"):
            made.batch([0, 1], Draw(0, 9, 2))


def test_a_picture_that_changed_its_size_still_fits_its_bucket(folder: Path) -> None:
    with data(folder) as made:
        Image.new("RGB", (100, 20)).save(folder / "p1.png")
        batch = made.batch([1], Draw(0, 0, 1))
    assert batch.pictures.shape == (1, 3, 32, 32)
    assert batch.sizes.tolist() == [[20, 100, 0, 64, 32, 32]]


def test_a_chance_of_a_flip_is_a_chance() -> None:
    with pytest.raises(RequestError, match="from 0 to 1; got 2"):
        Framing(flip=2)
