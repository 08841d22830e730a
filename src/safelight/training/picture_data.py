"""Pictures and captions from a source as batches, decoded ahead of the step that needs them."""

import logging
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Self

import torch
from torch import Tensor

from safelight.errors import FileError, RequestError
from safelight.training.buckets import Placement, Rule, Size, covering, place
from safelight.training.captions import Wording, caption
from safelight.training.draw import Draw, stream
from safelight.training.order import Order
from safelight.training.pictures import WHITE, Colour, Pixels, cropped, decoded, to_tensor
from safelight.training.sources.example import Example, Source
from safelight.training.sources.scan import OnProblem, Scan

if TYPE_CHECKING:
    from PIL.Image import Image

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class PictureBatch:
    """Pictures of one size with what is said of them.

    pictures: (B, 3, H, W) float32 in [-1, 1]. sizes: (B, 6) int64, SDXL's: original height and
    width, crop's top and left, target height and width.
    """

    pictures: Tensor
    captions: list[str]
    sizes: Tensor
    ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Framing:
    """How pictures come into their frame.

    random_crop: where the crop lies is drawn; else it is the middle. flip: the chance of a mirror
    image. background: what shows through transparent places. Raises RequestError for a flip that
    is no chance.
    """

    random_crop: bool = False
    flip: float = 0.0
    background: Colour = WHITE

    def __post_init__(self) -> None:
        if not 0 <= self.flip <= 1:
            raise RequestError(f"the chance of a flip must be from 0 to 1; got {self.flip:g}")


@dataclass(frozen=True, slots=True)
class _Row:
    pixels: Pixels
    caption: str
    sizes: tuple[int, ...]
    id: str


@dataclass(eq=False)
class PictureData:
    """Batches of a scanned source: a `Data` whose batch is a `PictureBatch`.

    All random choices come from the draw, so a batch is a function of its numbers and its draw.
    With an order, the batches of the next `ahead` steps are decoded in threads meanwhile; what a
    step asks for is the same with and without. A picture that has become unreadable since the scan
    stops the run, or with on_problem "skip" gives its place to the next sound one of its bucket:
    that is logged and counted in `replaced`. Close it to end its threads.
    """

    source: Source
    places: Sequence[Placement]
    wording: Wording = field(default_factory=Wording)
    framing: Framing = field(default_factory=Framing)
    device: torch.device | str = "cpu"
    on_problem: OnProblem = "stop"
    threads: int = 2
    order: Order | None = None
    ahead: int = 2
    replaced: Counter[str] = field(default_factory=Counter, init=False)

    def __post_init__(self) -> None:
        if len(self.places) != len(self.source):
            raise ValueError(f"{len(self.source)} examples have {len(self.places)} placements")
        self._pool = ThreadPoolExecutor(max(1, self.threads), "decode")
        self._waiting: dict[tuple[tuple[int, ...], Draw], list[Future[_Row]]] = {}
        self._neighbours: dict[Size, list[int]] = {}
        self._turn = threading.Lock()
        for index, placement in enumerate(self.places):
            self._neighbours.setdefault(placement.bucket, []).append(index)

    @classmethod
    def scanned(cls, scan: Scan, rule: Rule, **settings: object) -> Self:
        """The data of a scan, every picture in its nearest bucket; settings are the fields."""
        return cls(scan.source, [place(size, rule) for size in scan.sizes], **settings)  # type: ignore[arg-type]

    def __len__(self) -> int:
        return len(self.source)

    @property
    def buckets(self) -> list[Size]:
        """The bucket of every example, as `BucketOrder` wants them."""
        return [placement.bucket for placement in self.places]

    def batch(self, indices: Sequence[int], draw: Draw) -> PictureBatch:
        """The examples of these numbers, one a row of the draw, on the device.

        Raises FileError if one cannot be read and problems stop; ValueError if they are not of one
        bucket.
        """
        shapes = {self.places[i].bucket for i in indices}
        if len(shapes) != 1:
            raise ValueError(f"a batch has one size of pictures; got {sorted(shapes)}")
        rows = [future.result() for future in self._begun(tuple(indices), draw)]
        self._look_ahead(tuple(indices), draw)
        return PictureBatch(
            to_tensor([row.pixels for row in rows], self.device),
            [row.caption for row in rows],
            torch.tensor([row.sizes for row in rows], device=self.device),
            tuple(row.id for row in rows),
        )

    def close(self) -> None:
        """End the threads; batches can no longer be asked for."""
        self._pool.shutdown(cancel_futures=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _begun(self, indices: tuple[int, ...], draw: Draw) -> "list[Future[_Row]]":
        found = self._waiting.pop((indices, draw), None)
        return self._start(indices, draw) if found is None else found

    def _start(self, indices: Sequence[int], draw: Draw) -> "list[Future[_Row]]":
        # On the CPU whatever the device: the numbers steer decoding, and must not wait for a GPU.
        crops = draw.uniform("crop", 2, device="cpu").tolist()
        flips = (draw.uniform("flip", device="cpu") < self.framing.flip).tolist()
        return [
            self._pool.submit(self._row, index, crops[row], flips[row], draw, row)
            for row, index in enumerate(indices)
        ]

    def _look_ahead(self, indices: tuple[int, ...], draw: Draw) -> None:
        """Start the same rows of the next steps, if this step's were those of the order."""
        if self.order is None or indices != tuple(self.order.indices(draw.step)[draw.rows]):
            return  # a validation, say: it knows its own next batch
        for waiting in [key for key in self._waiting if key[1].step <= draw.step - 1]:
            for future in self._waiting.pop(waiting):  # nobody came for it
                future.cancel()
        for step in range(draw.step + 1, draw.step + 1 + self.ahead):
            later = replace(draw, step=step)
            key = (tuple(self.order.indices(step)[draw.rows]), later)
            if key not in self._waiting:
                self._waiting[key] = self._start(*key)

    def _row(self, index: int, crop: tuple[float, float], flip: bool, draw: Draw, row: int) -> _Row:
        example, image = self._readable(index)
        placement = self.places[index]
        if image.size != placement.original:  # another picture took its place
            placement = covering(image.size, placement.bucket)
        random = self.framing.random_crop
        corner = placement.corner(*crop) if random else placement.corner()
        words = stream(draw.seed, "caption", draw.step, draw.start + row)
        return _Row(
            cropped(image, placement.resized, corner, placement.bucket, flip=flip),
            caption(example, self.wording, words),
            placement.sizes(corner),
            example.id,
        )

    def _readable(self, index: int) -> "tuple[Example, Image]":
        """An example and its picture, or those of the next in its bucket that can be read."""
        for candidate in self._candidates(index):
            example = self.source.example(candidate)
            try:
                background = self.framing.background
                return example, decoded(example.read(), example.id, background=background)
            except FileError as error:
                if self.on_problem == "stop":
                    raise
                self._missed(example.id, error)
        size = "{}x{}".format(*self.places[index].bucket)
        count = len(self._neighbours[self.places[index].bucket])
        raise FileError(f"none of the {count} pictures of {size} can be read any more")

    def _candidates(self, index: int) -> Iterator[int]:
        """The example itself, and then the others of its bucket from there on."""
        yield index
        rivals = self._neighbours[self.places[index].bucket]
        start = rivals.index(index)  # only for a broken picture: it goes through the whole bucket
        yield from rivals[start + 1 :]
        yield from rivals[:start]

    def _missed(self, name: str, error: FileError) -> None:
        with self._turn:
            self.replaced[name] += 1
            first = self.replaced[name] == 1
        if first:
            log.warning("another picture takes the place of one that is broken: %s", error)
