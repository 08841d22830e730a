"""A data section of scenes: cut-outs chosen, pages written, pictures drawn when asked for."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from pathlib import Path

import torch
from torch import Tensor

from safelight.errors import FileError, RequestError
from safelight.printable import shown
from safelight.training.cache import content_hash
from safelight.training.config.sections import SceneSection
from safelight.training.recipes.job import TRIAL, Workshop
from safelight.training.scenes.book import SceneBook
from safelight.training.scenes.catalogue import HELDOUT_COMBO, TRAIN, CutoutEntry
from safelight.training.scenes.cutouts import Cutouts, load_cutouts, read_cutouts
from safelight.training.scenes.holdout import digest
from safelight.training.scenes.many import Pages, many
from safelight.training.scenes.packed import PackedScenes
from safelight.training.scenes.render import render
from safelight.training.sources.webdataset import shard_paths

CHUNK = 1024  # scenes drawn between two words on how far it is


@dataclass(frozen=True)
class Scenes:
    """Pages with their captions, and the key under which what is made of them is kept."""

    packed: PackedScenes
    captions: list[str]
    keys: tuple[str, ...]  # one for each scene

    def __len__(self) -> int:
        return len(self.captions)


@dataclass(frozen=True)
class SceneSet:
    """Cut-outs on the device, and the scenes of both sides of the split."""

    cutouts: Cutouts
    book: SceneBook
    size: int
    train: Scenes
    held: Scenes
    words: list[str]  # all captions to learn from
    facts: tuple[str, ...]

    def pictures(self, scenes: Scenes, workshop: Workshop) -> Tensor:
        """All pictures (N, 3, S, S) uint8, on the device of the cut-outs."""
        device = self.cutouts.rgba.device
        drawn = torch.empty(len(scenes), 3, self.size, self.size, dtype=torch.uint8, device=device)
        with workshop.counted("drawing scenes", len(scenes)) as watch:
            for start in range(0, len(scenes), CHUNK):
                rows = slice(start, start + CHUNK)
                drawn[rows] = render(scenes.packed.take(rows), self.cutouts, self.size)
                watch(min(start + CHUNK, len(scenes)))
        return drawn

    def load(self, scenes: Scenes) -> Callable[[list[int]], Tensor]:
        """A function that draws some scenes, (B, 3, S, S) in [-1, 1]."""
        return lambda places: render(
            scenes.packed.take(places), self.cutouts, self.size, torch.float32
        )


def open_scenes(section: SceneSection, workshop: Workshop, *, split: str = TRAIN) -> SceneSet:
    """The scenes of a section. Held out are further pages of the same book, never learned from.

    split: of scenes.pools.SPLITS; all but `train` hold what a model never learns from.

    Raises FileError for cut-outs that cannot be read, RequestError for a choice that leaves none
    or names what is not there.
    """
    chosen = of_section(_read(section), section)
    book = SceneBook(
        chosen,
        section.seed,
        section.mix,
        split,
        style_named=section.style_named,
        background_named=section.background_named,
    )
    held = min(round(section.held_out * section.count), section.held_out_at_most)
    key = _key(chosen, section)
    train_pages = many(book, 0, section.count, section.workers)
    held_pages = many(book, section.count, held, section.workers)
    drawable = [
        e for e in chosen.entries if e.split == (split if split == HELDOUT_COMBO else TRAIN)
    ]
    facts = (
        f"{section.count} scenes to learn from and {held} held out, {section.size}x{section.size}",
        f"{len(drawable)} cut-outs of {len({e.hexcode for e in drawable})} concepts in "
        f"{len({e.style for e in drawable})} styles: "
        + ", ".join(sorted({e.style for e in drawable})),
    )
    return SceneSet(
        chosen.to(workshop.device),
        book,
        section.size,
        _scenes(train_pages, key, workshop),
        _scenes(held_pages, key, workshop),
        train_pages.captions,
        facts,
    )


def _scenes(pages: Pages, key: str, workshop: Workshop) -> Scenes:
    """All pages; for a trial the first few."""
    rows = slice(0, TRIAL if workshop.trial else len(pages))
    count = len(pages.captions[rows])
    keys = tuple(content_hash(f"{key} {pages.start + i}") for i in range(count))
    return Scenes(pages.packed.take(rows), pages.captions[rows], keys)


def _key(chosen: Cutouts, section: SceneSection) -> str:
    """Stands for everything that a scene's pixels follow from, besides its number."""
    hashed = hashlib.blake2b(chosen.rgba.cpu().numpy().data, digest_size=16)
    for entry in chosen.entries:
        hashed.update(repr(asdict(entry)).encode())
    told = section.model_dump(exclude={"path", "count", "held_out", "held_out_at_most", "workers"})
    return content_hash(f"scenes {hashed.hexdigest()} {sorted(told.items())}")


def _read(section: SceneSection) -> Cutouts:
    paths = [section.path] if isinstance(section.path, str) else list(section.path)
    for path in paths:
        if "{" not in path and not Path(path).exists():
            raise FileError(
                f"data.path: {shown(Path(path))} does not exist; give tar shards of cut-outs, such "
                "as scripts/emoji_pairs.py builds, or a file that save_cutouts wrote"
            )
    if len(paths) == 1 and paths[0].endswith(".safetensors"):
        return load_cutouts(Path(paths[0]))
    shards = [shard for path in paths for shard in shard_paths(path)]
    return read_cutouts(shards, _drawable)


def _drawable(entry: CutoutEntry) -> bool:
    return entry.core or entry.group == "people-body"


def of_section(cutouts: Cutouts, section: SceneSection) -> Cutouts:
    """The cut-outs of the styles, groups and concepts that the section names.

    Raises RequestError for a choice that leaves none or names what is not there.
    """
    kept = cutouts.where(_drawable)
    if section.groups is not None:
        _known("groups", section.groups, {e.group for e in kept.entries})
        kept = kept.where(lambda entry: entry.group in (section.groups or ()))
    if section.styles is not None:
        _known("styles", section.styles, {e.style for e in kept.entries})
        kept = kept.where(lambda entry: entry.style in (section.styles or ()))
    if section.concepts is not None:
        wanted = _concepts(kept.entries, section.concepts)
        kept = kept.where(lambda entry: entry.hexcode in wanted)
    if not len(kept):
        raise RequestError("data.groups, data.styles and data.concepts together leave no cut-out")
    return kept


def _concepts(entries: Sequence[CutoutEntry], wanted: int | tuple[str, ...]) -> set[str]:
    """The concepts of these names; or so many of those in all styles, a fair mix by digest."""
    if not isinstance(wanted, int):
        _known("concepts", wanted, {e.name for e in entries})
        return {e.hexcode for e in entries if e.name in wanted}
    styles = {e.style for e in entries}
    drawn: dict[str, set[str]] = {}
    for entry in entries:
        drawn.setdefault(entry.hexcode, set()).add(entry.style)
    everywhere = [hexcode for hexcode, known in drawn.items() if known == styles]
    if len(everywhere) < wanted:
        raise RequestError(
            f"data.concepts asks for {wanted} concepts that all {len(styles)} styles draw; there "
            f"are {len(everywhere)}"
        )
    return set(sorted(everywhere, key=lambda h: digest(f"concept:{h}"))[:wanted])


def _known(key: str, given: Sequence[str], known: set[str]) -> None:
    for name in given:
        if name not in known:
            near = get_close_matches(name, known, n=1)
            guess = f"; did you mean {near[0]}?" if near else ""
            listed = sorted(known)
            some = ", ".join(listed[:20]) + (", ..." if len(listed) > 20 else "")
            raise RequestError(
                f"data.{key}: no cut-out is of {shown(name, 60)!r}{guess} (there are {some})"
            )
