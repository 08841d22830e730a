"""Pictures of a class for prior preservation: drawn by the model before it learns, or given."""

from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from io import BytesIO
from pathlib import Path

import torch
from PIL import Image

from safelight.diffusion.denoiser import Network
from safelight.diffusion.process import Process
from safelight.errors import FileError
from safelight.models.autoencoder import Codec
from safelight.printable import shown
from safelight.text.conditioner import Conditioner
from safelight.training.buckets import covering
from safelight.training.cache import content_hash
from safelight.training.captions import Wording
from safelight.training.config.sections import PictureSection
from safelight.training.config.teaching import PriorSection
from safelight.training.diffusion_task import LatentBatch
from safelight.training.latent_cache import codec_hash, text_hash, weights_hash
from safelight.training.latent_data import PoolsBySize
from safelight.training.order import Order
from safelight.training.pictures import decoded
from safelight.training.previews import Previews
from safelight.training.prior import PairedOrder, WithPrior
from safelight.training.recipes.job import Workshop
from safelight.training.recipes.latents import Encoder, of_pictures
from safelight.training.recipes.pictures import Pictures, open_pictures
from safelight.training.sources.example import Example
from safelight.training.sources.folder import read_file
from safelight.training.task import Data
from safelight.training.text_states import FrozenText
from safelight.writing import make_folder, write_whole

Size = tuple[int, int]  # (width, height)


@dataclass(frozen=True)
class Painter:
    """A model as it was before it learned, to draw its class with."""

    network: Network
    weights: torch.nn.Module
    process: Process
    text: Conditioner
    codec: Codec

    @property
    def digest(self) -> str:
        """What pictures follow from, besides the prompt and the settings."""
        parts = (weights_hash(self.weights), codec_hash(self.codec))
        return content_hash(f"{parts} {text_hash(FrozenText(self.text))} {self.process.sigma_max}")


@dataclass(frozen=True)
class Paired:
    """The subject's data with its class's beside them."""

    data: WithPrior
    order: Order
    pool: PoolsBySize
    facts: tuple[str, ...]
    identity: Mapping[str, str] = field(default_factory=dict)


def preserved(
    section: PriorSection,
    subject: Data[LatentBatch],
    used: Pictures,
    order: Order,
    rows: tuple[int, int],
    encoder: Encoder,
    painter: Callable[[], Painter],
    seed: int,
) -> Paired:
    """Pictures of the class beside those of the subject, in the sizes that those have.

    rows: of the subject and of the class in a batch. Raises what reading and drawing raise.
    """
    sizes = [place.bucket for place in used.places]
    if section.path is not None:
        found, wording, facts = _given(section, sizes, encoder.workshop)
        identity = {"class": content_hash(" ".join(found.hashes))}
    else:
        found, facts, identity = _drawn(section, sizes, encoder.workshop, painter)
        wording = Wording()
    data, pool = of_pictures(found, wording, (255, 255, 255), encoder)
    members: dict[Hashable, list[int]] = {}
    for index, place in enumerate(found.places):
        members.setdefault(place.bucket, []).append(index)
    return Paired(
        WithPrior(subject, data, rows, section.weight),
        PairedOrder(order, sizes, members, rows[1], seed),
        pool,
        facts,
        identity,
    )


def _escaped(text: str) -> str:
    """A text as a template that says it as it is."""
    return text.replace("{", "{{").replace("}", "}}")


# -- given -----------------------------------------------------------------------------------------


def _given(
    section: PriorSection, sizes: Sequence[Size], workshop: Workshop
) -> tuple[Pictures, Wording, tuple[str, ...]]:
    """The pictures of a folder, each cut to the nearest of the subject's sizes."""
    assert section.path is not None
    side = max(max(size) for size in sizes)
    told = PictureSection(path=section.path, size=side, multiple=1, held_out=0.0)
    memory = replace(workshop, folder=workshop.folder / "class")
    wording = Wording()
    if section.prompts:
        wording = Wording(templates=tuple(_escaped(prompt) for prompt in section.prompts))
    found = open_pictures(told, memory, captions=section.prompt is None).train
    known = sorted(set(sizes))
    places = []
    for place in found.places:
        fits = {size: covering(place.original, size) for size in known}
        places.append(min(fits.values(), key=lambda p: (round(p.lost, 9), p.bucket)))
    short = [size for size in known if size not in {place.bucket for place in places}]
    for size in short:
        # A size that no picture is nearest to takes the one that loses least.
        best = min(range(len(places)), key=lambda i: covering(places[i].original, size).lost)
        found = _with(found, best)
        places.append(covering(places[best].original, size))
    made = replace(found, places=tuple(places))
    facts = (f"{len(made)} pictures of the class, of {shown(Path(section.path))}",)
    return made, wording, facts


def _with(found: Pictures, again: int) -> Pictures:
    """The pictures, and one of them once more."""
    return found.take([*range(len(found)), again])


# -- drawn -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Files:
    """A `Source` of drawn pictures."""

    folder: Path
    paths: tuple[Path, ...]
    captions: tuple[str, ...]

    @property
    def name(self) -> str:
        return str(self.folder)

    @property
    def problems(self) -> tuple[()]:
        return ()

    def __len__(self) -> int:
        return len(self.paths)

    def example(self, index: int) -> Example:
        path = self.paths[index]
        return Example(path.stem, lambda: read_file(path), (self.captions[index],), stamp=str(path))


def _drawn(
    section: PriorSection,
    sizes: Sequence[Size],
    workshop: Workshop,
    painter: Callable[[], Painter],
) -> tuple[Pictures, tuple[str, ...], dict[str, str]]:
    """What the model draws of its class; pictures that lie there already are not drawn again."""
    counts = shares(section.count, sizes)
    root = Path(section.folder) if section.folder is not None else workshop.folder / "class"
    model = painter()
    key = content_hash(f"{model.digest} {sorted(_said(section).items())}")
    folder = root / key[:16]
    wanted = {
        size: [folder / f"{n:05}-{size[0]}x{size[1]}.png" for n in range(count)]
        for size, count in counts.items()
    }
    if workshop.trial:
        wanted = {size: paths[:1] for size, paths in wanted.items()}
        folder = workshop.scratch()
        wanted = {size: [folder / path.name for path in paths] for size, paths in wanted.items()}
        section = section.model_copy(update={"steps": min(section.steps, 2)})
    missing = {
        size: [(n, path) for n, path in enumerate(paths) if not _whole(path, size)]
        for size, paths in wanted.items()
    }
    total = sum(map(len, missing.values()))
    if total:
        make_folder(folder)
        with workshop.counted("drawing pictures of the class", total) as watch:
            _paint(section, model, missing, watch)
    paths = [path for rows in wanted.values() for path in rows]
    said = [_prompt(section, n) for rows in wanted.values() for n in range(len(rows))]
    source = _Files(folder, tuple(paths), tuple(said))
    places = tuple(covering(size, size) for size, rows in wanted.items() for _ in rows)
    hashes = tuple(content_hash(read_file(path)) for path in paths)
    told = ", ".join(shown(prompt, 60) for prompt in section.prompts[:3])
    more = ", ..." if len(section.prompts) > 3 else ""
    fact = f"{sum(counts.values())} pictures of the class ({told}{more})"
    drawn = "1 was drawn for this check" if workshop.trial else f"{total} drawn now"
    return (
        Pictures(source, places, hashes),
        (f"{fact}, {drawn}, in {shown(root / key[:16])}",),
        {"class": key},
    )


def shares(count: int, sizes: Sequence[Size]) -> dict[Size, int]:
    """How many pictures of each size: as the subject has them, and one at least."""
    found = Counter(sizes)
    return {
        size: max(1, round(count * number / len(sizes))) for size, number in sorted(found.items())
    }


def _prompt(section: PriorSection, number: int) -> str:
    """What picture `number` of its size is drawn with."""
    return section.prompts[number % len(section.prompts)]


def _said(section: PriorSection) -> dict[str, object]:
    """What a drawn picture follows from, besides the model."""
    names = ("prompts", "negative", "steps", "guidance_scale", "sampler", "schedule", "seed")
    return {name: getattr(section, name) for name in names}


def _paint(
    section: PriorSection,
    model: Painter,
    missing: Mapping[Size, Sequence[tuple[int, Path]]],
    watch: Callable[[int], None],
) -> None:
    done = 0
    for (width, height), rows in missing.items():
        for start in range(0, len(rows), section.batch):
            part = rows[start : start + section.batch]
            # Picture n has the noise of seed + n, whichever of them were there before.
            pictures = Previews(
                tuple(_prompt(section, n) for n, _ in part),
                height,
                width,
                section.steps,
                section.guidance_scale,
                section.sampler,
                section.schedule,
                seeds=tuple(section.seed + n for n, _ in part),
                negative=section.negative,
            ).pictures(model.network, model.process, model.text, model.codec)
            pixels = pictures.add(1).mul(127.5).round().to("cpu", torch.uint8)
            for (_, path), picture in zip(part, pixels.permute(0, 2, 3, 1).numpy(), strict=True):
                data = BytesIO()
                Image.fromarray(picture).save(data, "PNG")
                write_whole(path, data.getvalue())
            done += len(part)
            watch(done)


def _whole(path: Path, size: Size) -> bool:
    """Whether a picture is there, whole and of its size."""
    try:
        return decoded(read_file(path), str(path)).size == size
    except FileError:
        return False
