"""Pictures and scenes as latents with captions, computed once and kept, for a diffusion task.

Shapes: N pictures, C latent channels, h w latent height and width, K captions, L tokens.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from math import lcm
from pathlib import Path

import torch
from torch import Tensor

from safelight.errors import RequestError
from safelight.models.autoencoder import Codec
from safelight.printable import shown
from safelight.text.conditioner import Conditioner
from safelight.text.spec import Size
from safelight.training.cache import Store, content_hash
from safelight.training.captions import Wording, caption, captions
from safelight.training.config.configs import CacheSection
from safelight.training.diffusion_task import LatentBatch
from safelight.training.draw import Draw, stream
from safelight.training.latent_cache import cached_latents
from safelight.training.latent_data import PoolsBySize
from safelight.training.latent_pool import Choice, LatentPool, LatentStatistics, check_scale
from safelight.training.pictures import cropped, decoded, to_tensor
from safelight.training.recipes.job import Workshop, size_of
from safelight.training.recipes.pictures import Pictures
from safelight.training.recipes.scenes import Scenes, SceneSet
from safelight.training.recipes.writing import DTYPES
from safelight.training.task import Data
from safelight.training.text_states import sizes_of, tokens_of

MOST_VARIANTS = 64  # captions that a table holds for one picture

Load = Callable[[list[int]], Tensor]


@dataclass(frozen=True)
class Encoder:
    """What turns pictures and captions into latents and token ids, and where they are kept."""

    codec: Codec
    conditioner: Conditioner
    cache: CacheSection
    choice: Choice
    workshop: Workshop

    def latents(self, contents: Sequence[str], load: Load) -> Tensor:
        """The latents (N, C, h, w) of pictures of one size, on the device."""
        with self._store() as store:
            found = cached_latents(
                store,
                self.codec,
                contents,
                load,
                choice=self.choice,
                batch=self.cache.batch,
                dtype=DTYPES[self.cache.dtype],
                counted=partial(self.workshop.counted, "encoding pictures"),
            )
            stacked = torch.stack(found)
        return stacked.to(self.workshop.device)

    def tokens(self, texts: Sequence[str]) -> Tensor:
        """Token ids of captions, on the device; warns of those that are cut."""
        made = tokens_of(self.conditioner, texts)
        if made.cut:
            first = ", ".join(shown(texts[row], 60) for row, _ in made.cut[:3])
            self.workshop.warn(f"{made.report} Such as: {first}")
        return made.ids.to(self.workshop.device)

    def _store(self) -> Store:
        """Where latents are kept; for a trial, a place that is forgotten."""
        if self.workshop.trial:
            return Store(self.workshop.scratch())
        folder = self.cache.folder
        return Store(Path(folder) if folder is not None else self.workshop.folder / "cache")


@dataclass(frozen=True, eq=False)
class Reworded:
    """Latents whose captions are made anew at each draw: shuffled, thinned, from templates."""

    latents: PoolsBySize
    pictures: Pictures
    wording: Wording
    conditioner: Conditioner

    def __len__(self) -> int:
        return len(self.latents)

    @property
    def buckets(self) -> list[tuple[int, int]]:
        return self.latents.buckets

    def batch(self, indices: Sequence[int], draw: Draw) -> LatentBatch:
        found = self.latents.batch(indices, draw)
        examples = [self.pictures.source.example(i) for i in indices]
        texts = captions(examples, self.wording, draw)
        ids = tokens_of(self.conditioner, texts).ids
        return replace(found, tokens=ids.to(found.latents.device, non_blocking=True))


def of_pictures(
    pictures: Pictures,
    wording: Wording,
    background: tuple[int, int, int],
    encoder: Encoder,
) -> tuple[Data[LatentBatch], PoolsBySize]:
    """The middle of each picture as latents, with its captions.

    Gives what to learn from, and the pools of one size each that lie below it. Raises FileError for
    a picture that can no longer be read.
    """
    groups: dict[tuple[int, int], list[int]] = {}
    for index, placement in enumerate(pictures.places):
        groups.setdefault(placement.bucket, []).append(index)
    fixed = _fixed(wording)
    told = [_variants(pictures, i, wording) if fixed else [_once(pictures, i, wording)]
            for i in range(len(pictures))]  # fmt: skip
    width = lcm(*{len(texts) for texts in told}) if told else 1
    if width > MOST_VARIANTS:
        fixed, width, told = False, 1, [texts[:1] for texts in told]
    pools, places = [], [(0, 0)] * len(pictures)
    for number, (_, members) in enumerate(sorted(groups.items())):
        chosen = pictures.take(members)
        latents = encoder.latents(contents_of(chosen, background), loader_of(chosen, background))
        texts = list(dict.fromkeys(text for i in members for text in told[i]))
        row_of = {text: row for row, text in enumerate(texts)}
        table = [[row_of[t] for t in told[i] * (width // len(told[i]))] for i in members]
        sizes = _sizes(chosen, encoder.conditioner)
        pools.append(
            LatentPool(
                latents,
                tokens=encoder.tokens(texts),
                captions=torch.tensor(table, device=encoder.workshop.device),
                sizes=None if sizes is None else sizes.to(encoder.workshop.device),
            )
        )
        for row, index in enumerate(members):
            places[index] = (number, row)
    by_size = PoolsBySize(tuple(pools), places)
    if fixed:
        return by_size, by_size
    return Reworded(by_size, pictures, wording, encoder.conditioner), by_size


def of_scenes(found: SceneSet, which: Scenes, encoder: Encoder) -> PoolsBySize:
    """Scenes as latents, with their captions."""
    latents = encoder.latents(which.keys, found.load(which))
    texts = list(dict.fromkeys(which.captions))
    row_of = {text: row for row, text in enumerate(texts)}
    table = torch.tensor([[row_of[text]] for text in which.captions])
    sizes = sizes_of(encoder.conditioner, [Size(found.size, found.size)] * len(which))
    device = encoder.workshop.device
    pool = LatentPool(
        latents,
        tokens=encoder.tokens(texts),
        captions=table.to(device),
        sizes=None if sizes is None else sizes.to(device),
    )
    return PoolsBySize((pool,), [(0, row) for row in range(len(which))])


def tell_scale(pools: PoolsBySize, codec: Codec, workshop: Workshop) -> None:
    """Warn of latents that are far from unit size: noise levels are counted in their units."""
    largest = max(pools.pools, key=len)
    if len(largest) < 8:
        return  # too few to tell
    try:
        check_scale(LatentStatistics.of(largest.latents), codec, low=0.5, high=2.0)
    except RequestError as error:
        workshop.warn(str(error))


def resident(pools: PoolsBySize) -> int:
    """Bytes of latents and captions."""
    return sum(size_of(p.latents, p.tokens, p.captions, p.sizes) for p in pools.pools)


def _fixed(wording: Wording) -> bool:
    """Whether all that may be said of a picture can be listed beforehand."""
    return not wording.shuffle and not wording.part_dropout and wording.fields <= {"caption"}


def _once(pictures: Pictures, index: int, wording: Wording) -> str:
    return caption(pictures.source.example(index), wording, stream(0, "caption", index))


def _variants(pictures: Pictures, index: int, wording: Wording) -> list[str]:
    """Every caption of a picture in every template, each as often as it would be drawn."""
    example = pictures.source.example(index)
    said = example.captions or ("",)
    return [
        caption(
            replace(example, captions=(text,) if text else ()),
            replace(wording, templates=(template,)),
            stream(0, "caption", index),
        )
        for template, text in product(wording.templates, said)
    ]


def contents_of(pictures: Pictures, background: tuple[int, int, int]) -> list[str]:
    """A hash of each picture's bytes and of all that is done to its pixels."""
    return [
        content_hash(f"{h} {p.resized} {p.corner()} {p.bucket} {background}")
        for h, p in zip(pictures.hashes, pictures.places, strict=True)
    ]


def loader_of(pictures: Pictures, background: tuple[int, int, int]) -> Load:
    def load(indices: list[int]) -> Tensor:
        rows = []
        for index in indices:
            example, placement = pictures.source.example(index), pictures.places[index]
            image = decoded(example.read(), example.id, background=background)
            corner = placement.corner()
            rows.append(cropped(image, placement.resized, corner, placement.bucket))
        return to_tensor(rows, "cpu")

    return load


def _sizes(pictures: Pictures, conditioner: Conditioner) -> Tensor | None:
    """What SDXL is told of each picture."""
    told = []
    for place in pictures.places:
        numbers = place.sizes(place.corner())
        told.append(
            Size(
                place.bucket[1],
                place.bucket[0],
                original=(numbers[0], numbers[1]),
                crop=(numbers[2], numbers[3]),
                target=(numbers[4], numbers[5]),
            )
        )
    return sizes_of(conditioner, told)
