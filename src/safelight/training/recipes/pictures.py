"""A data section of pictures: opened, looked at, and parted into what is learned and held out."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from safelight.errors import FileError
from safelight.printable import shown
from safelight.training.buckets import BucketOrder, Placement, Rule, place, warnings
from safelight.training.cache import content_hash
from safelight.training.captions import Wording
from safelight.training.config.sections import PictureSection
from safelight.training.order import Order
from safelight.training.picture_data import Framing, PictureData
from safelight.training.recipes.job import Workshop
from safelight.training.sources.example import Chosen, Source
from safelight.training.sources.opening import open_source
from safelight.training.sources.scan import Scan, scan
from safelight.writing import make_folder

NO_WORDS = Wording(templates=("",))


@dataclass(frozen=True)
class Pictures:
    """Examples of one side of the split, with where each goes and a hash of its bytes."""

    source: Source
    places: tuple[Placement, ...]
    hashes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.places)

    def take(self, indices: Sequence[int]) -> "Pictures":
        """These examples, in this order."""
        return Pictures(
            Chosen(self.source, list(indices)),
            tuple(self.places[i] for i in indices),
            tuple(self.hashes[i] for i in indices),
        )


@dataclass(frozen=True)
class PictureSet:
    """Both sides of a data section, and how its pictures are framed and worded."""

    train: Pictures
    held: Pictures
    wording: Wording
    framing: Framing
    facts: tuple[str, ...]

    def order(self, batch: int, seed: int, workshop: Workshop) -> Order:
        """Whole batches of one size; warns of buckets that are smaller than a batch."""
        source = self.train.source
        weights = [source.example(i).weight for i in range(len(source))]
        plain = all(weight == 1 for weight in weights)
        buckets = [place.bucket for place in self.train.places]
        order = BucketOrder(buckets, batch, seed, None if plain else weights)
        for note in order.notes([source.example(i).id for i in range(len(source))]):
            workshop.warn(note)
        return order

    def data(
        self,
        which: Pictures,
        section: PictureSection,
        workshop: Workshop,
        *,
        words: bool,
        order: Order | None = None,
    ) -> PictureData:
        """The pictures as batches on the device; those held out unmirrored and from the middle."""
        train = which is self.train
        made = PictureData(
            which.source,
            which.places,
            wording=self.wording if words else NO_WORDS,
            framing=self.framing if train else Framing(background=self.framing.background),
            device=workshop.device,
            on_problem=section.on_problem,
            threads=section.threads,
            order=order,
        )
        return workshop.stack.enter_context(made)


def open_pictures(
    section: PictureSection, workshop: Workshop, *, captions: bool, square: bool = False
) -> PictureSet:
    """The pictures of a section, all looked at; says what was left out and what is enlarged.

    captions: whether each must have one. square: one bucket only. Raises FileError for what cannot
    be read or used, RequestError for sizes and captions that cannot be.
    """
    rule = (
        Rule(section.size, section.size, 1.0)
        if square
        else Rule(section.size, section.multiple, section.max_aspect, section.upscale)
    )
    words = section.captions
    wording = Wording(**{name: getattr(words, name) for name in type(words).model_fields})
    found = _scanned(section, workshop, captions=captions and "caption" in wording.fields)
    places = tuple(place(size, rule) for size in found.sizes)
    whole = Pictures(found.source, places, _hashes(found, section, workshop))
    ids = [found.source.example(i).id for i in range(len(whole))]
    for warning in warnings(ids, places, rule):
        workshop.warn(warning)
    train, held = _parted(whole, section)
    if section.held_out and not len(held):
        workshop.warn(
            f"no picture is held out: {len(whole)} pictures leave none at data.held_out = "
            f"{section.held_out:g}"
        )
    sizes = sorted({p.bucket for p in places})
    facts = (
        f"{len(train)} pictures to learn from and {len(held)} held out, of {shown(section.path)}",
        f"{len(sizes)} bucket{'s' if len(sizes) > 1 else ''}: "
        + ", ".join(f"{w}x{h} ({sum(p.bucket == (w, h) for p in places)})" for w, h in sizes[:12])
        + (", ..." if len(sizes) > 12 else ""),
    )
    framing = Framing(section.random_crop, section.flip, section.background)
    return PictureSet(train, held, wording, framing, facts)


def _scanned(section: PictureSection, workshop: Workshop, *, captions: bool) -> Scan:
    source = open_source(
        section.path, caption=section.caption, image=section.image, split=section.split
    )
    memory: Path | None = None
    if not workshop.trial:
        make_folder(workshop.folder)
        memory = workshop.folder / "scanned.json"
    with workshop.counted("reading pictures", len(source)) as watch:
        found = scan(
            source,
            on_problem=section.on_problem,
            captions=captions,
            depth=section.depth,
            threads=section.threads,
            memory=memory,
            watch=watch,
        )
    if found.problems:
        workshop.warn(found.summary)
    return found


def _hashes(found: Scan, section: PictureSection, workshop: Workshop) -> tuple[str, ...]:
    """A hash of the bytes of every picture's file."""

    def hashed(index: int) -> str:
        return content_hash(found.source.example(index).read())

    with (
        ThreadPoolExecutor(section.threads) as pool,
        workshop.counted("hashing pictures", len(found.source)) as watch,
    ):
        hashes: list[str] = []
        for done in pool.map(hashed, range(len(found.source))):
            hashes.append(done)
            watch(len(hashes))
    return tuple(hashes)


def _parted(whole: Pictures, section: PictureSection) -> tuple[Pictures, Pictures]:
    """What is learned from, and what is held out: the same pictures whatever else there is.

    A picture is held out by the hash of its bytes, so copies of it are, too.
    """
    least = {h for h in whole.hashes if int(h[:12], 16) < section.held_out * 16**12}
    chosen = set(sorted(least)[: section.held_out_at_most])
    held = [i for i, h in enumerate(whole.hashes) if h in chosen]
    train = [i for i, h in enumerate(whole.hashes) if h not in chosen]
    if not train:
        raise FileError(
            f"all {len(whole)} pictures of {shown(section.path)} fall to the held-out share; lower "
            "data.held_out"
        )
    return whole.take(train), whole.take(held)


def of_one_size(pictures: Pictures) -> Pictures:
    """Those of the commonest bucket: a judge compares pictures of one size."""
    sizes = [place.bucket for place in pictures.places]
    if not sizes:
        return pictures
    commonest = max(sorted(set(sizes)), key=sizes.count)
    return pictures.take([i for i, size in enumerate(sizes) if size == commonest])
