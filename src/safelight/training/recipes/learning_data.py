"""What a diffusion model learns from: latents and captions of a data section, masks, a prior.

The recipes that train the whole, an adapter or a word of a model share it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from safelight.errors import RequestError
from safelight.models.autoencoder import Codec
from safelight.text.conditioner import Conditioner
from safelight.training.config.configs import CacheSection, NoiseSection
from safelight.training.config.sections import PictureSection, SceneSection, TrainingSection
from safelight.training.config.teaching import MaskSection, PriorSection
from safelight.training.diffusion_task import LatentBatch
from safelight.training.latent_data import EncodedPictures, PoolsBySize
from safelight.training.order import Flat, Order
from safelight.training.recipes.job import TRIAL, Workshop, size_of
from safelight.training.recipes.latents import (
    Encoder,
    of_pictures,
    of_scenes,
    resident,
    tell_scale,
)
from safelight.training.recipes.masking import Masks
from safelight.training.recipes.pictures import Pictures, open_pictures
from safelight.training.recipes.preserving import Painter, preserved
from safelight.training.recipes.scenes import open_scenes
from safelight.training.task import Data


class Wants(Protocol):
    """What of a config says which data there is."""

    @property
    def data(self) -> PictureSection | SceneSection: ...
    @property
    def training(self) -> TrainingSection: ...
    @property
    def noise(self) -> NoiseSection: ...
    @property
    def cache(self) -> CacheSection: ...
    @property
    def mask(self) -> MaskSection | None: ...
    @property
    def prior(self) -> PriorSection | None: ...


@dataclass(frozen=True)
class LearningData:
    """held: what is held out, one for each size. kept: bytes on the device."""

    train: Data[LatentBatch]
    held: tuple[Data[LatentBatch], ...]
    order: Order
    kept: int
    facts: tuple[str, ...]
    identity: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Reader:
    """The frozen parts of a model that turn data into batches.

    levels: how often its U-Net halves the latents, and one. painter: what draws its class before
    it learns.
    """

    codec: Codec
    text: Conditioner
    levels: int
    painter: Callable[[], Painter]

    @property
    def factor(self) -> int:
        """Of which sides in pixels must be multiples."""
        found: int = self.codec.factor * 2 ** (self.levels - 1)
        return found


def learning_data(config: Wants, reader: Reader, workshop: Workshop) -> LearningData:
    """The data of a config.

    Raises what opening data raises, RequestError for sections that do not fit together.
    """
    encoder = Encoder(reader.codec, reader.text, config.cache, config.noise.latents, workshop)
    if isinstance(config.data, SceneSection):
        return _of_scenes(config, config.data, reader, encoder, workshop)
    return _of_pictures(config, config.data, reader, encoder, workshop)


def _of_scenes(
    config: Wants, data: SceneSection, reader: Reader, encoder: Encoder, workshop: Workshop
) -> LearningData:
    check_multiple("data.size", data.size, reader.factor)
    for name in ("mask", "prior"):
        if getattr(config, name) is not None:
            raise RequestError(f"{name} is for pictures; of scenes the data section says it all")
    scenes = open_scenes(data, workshop)
    train = of_scenes(scenes, scenes.train, encoder)
    held = of_scenes(scenes, scenes.held, encoder) if len(scenes.held) else None
    tell_scale(train, reader.codec, workshop)
    order = Flat(len(train), config.training.batch_size, config.training.seed)
    pools = (train,) if held is None else (train, held)
    return LearningData(
        train,
        () if held is None else held.pools,
        order,
        sum(resident(pool) for pool in pools),
        scenes.facts,
    )


def _of_pictures(
    config: Wants, data: PictureSection, reader: Reader, encoder: Encoder, workshop: Workshop
) -> LearningData:
    check_multiple("data.multiple", data.multiple, reader.factor)
    pictures = open_pictures(data, workshop, captions=True)
    masks = None
    if config.mask is not None:
        masks = Masks.opened(config.mask, pictures, data, workshop)
    rows = _rows(config)
    order = pictures.order(rows[0], config.training.seed, workshop)
    pools: list[PoolsBySize] = []
    kept = 0
    found: Data[LatentBatch]
    used = pictures.train
    if data.random_crop or data.flip > 0:
        if reader.text.spec.vector == "refiner":
            raise RequestError("data.random_crop and data.flip are not for the refiner: leave out")
        learn = pictures.data(pictures.train, data, workshop, words=True, order=order)
        coder = EncodedPictures(learn, reader.codec, reader.text, config.noise.latents)
        found = coder if masks is None else masks.moving(learn, coder, order)
        workshop.say("crops and mirror images are drawn, so latents are computed in every step")
    else:
        used = few(pictures.train, workshop)
        if workshop.trial:
            order = Flat(len(used), min(TRIAL, rows[0]), config.training.seed)
        found, pool = of_pictures(used, pictures.wording, data.background, encoder)
        tell_scale(pool, reader.codec, workshop)
        pools.append(pool)
        if masks is not None:
            found = masks.beside(found, pool, used)
            kept += size_of(*found.masks)
    held: tuple[Data[LatentBatch], ...] = ()
    if len(pictures.held):
        some = few(pictures.held, workshop)
        _, pool = of_pictures(some, pictures.wording, data.background, encoder)
        pools.append(pool)
        held = pool.pools if masks is None else masks.each(pool, some)
    facts = (*pictures.facts, *(() if masks is None else masks.facts))
    identity = {} if masks is None else masks.identity
    if config.prior is not None:
        paired = preserved(
            config.prior, found, used, order, rows, encoder, reader.painter, config.training.seed
        )
        found, order = paired.data, paired.order
        pools.append(paired.pool)
        facts, identity = (*facts, *paired.facts), {**identity, **paired.identity}
    kept += sum(resident(pool) for pool in pools)
    return LearningData(found, held, order, kept, facts, identity)


def _rows(config: Wants) -> tuple[int, int]:
    """How many rows of a batch are of the subject, and of its class. Raises RequestError."""
    batch = config.training.batch_size
    if config.prior is None:
        return batch, 0
    others = max(1, round(config.prior.share * batch))
    if others >= batch:
        raise RequestError(
            f"training.batch_size {batch} leaves no row for the subject beside its class; give 2 "
            "or more, or a smaller prior.share"
        )
    return batch - others, others


def few(pictures: Pictures, workshop: Workshop) -> Pictures:
    """All pictures; for a trial a few of one size."""
    if not workshop.trial:
        return pictures
    same = [i for i, p in enumerate(pictures.places) if p.bucket == pictures.places[0].bucket]
    return pictures.take(same[:TRIAL])


def check_multiple(key: str, value: int, factor: int) -> None:
    """Raise RequestError unless a side divides: the U-Net halves its input at each level."""
    if value % factor:
        raise RequestError(
            f"{key} must be a multiple of {factor} for this autoencoder and U-Net; got {value}. "
            f"The nearest are {max(factor, value // factor * factor)} and "
            f"{(value // factor + 1) * factor}"
        )
