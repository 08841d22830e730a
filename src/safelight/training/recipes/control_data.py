"""Latents, captions and control maps of a data section, for the recipe "controlnet"."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from safelight.errors import RequestError
from safelight.models.autoencoder import Codec
from safelight.text.conditioner import Conditioner
from safelight.training.captions import caption
from safelight.training.config.configs import ControlRun
from safelight.training.config.sections import PictureSection, SceneSection
from safelight.training.control_files import MapFiles, open_maps
from safelight.training.control_maps import (
    EncodedWithMaps,
    Look,
    MapMaker,
    WithKeptMaps,
    WithMaps,
    kept_maps,
)
from safelight.training.control_task import ControlBatch
from safelight.training.diffusion_task import LatentBatch
from safelight.training.draw import Draw, stream
from safelight.training.latent_data import EncodedPictures, PoolsBySize
from safelight.training.order import Flat, Order
from safelight.training.picture_data import Framing, PictureData
from safelight.training.recipes.job import TRIAL, Workshop
from safelight.training.recipes.latents import Encoder, of_pictures, of_scenes, tell_scale
from safelight.training.recipes.learning_data import check_multiple, few
from safelight.training.recipes.pictures import (
    NO_WORDS,
    Pictures,
    PictureSet,
    of_one_size,
    open_pictures,
)
from safelight.training.recipes.scenes import Scenes, SceneSet, open_scenes
from safelight.training.task import Data

Shown = Callable[[int], tuple[Tensor, tuple[str, ...]]]
"""A number -> at most so many maps (P, 3, H, W) uint8 of one size, and their captions."""


@dataclass(frozen=True)
class ControlData:
    """What a ControlNet learns from, and is judged by.

    held: what is held out, one for each size. pools: latents that stay on the device, and kept maps
    beside them. examples: of what is held out, or else learned from. identity: of finished maps.
    """

    train: Data[ControlBatch]
    held: tuple[Data[ControlBatch], ...]
    order: Order
    pools: tuple[PoolsBySize, ...]
    kept: tuple[Tensor, ...]
    examples: Shown
    facts: tuple[str, ...]
    identity: dict[str, str] = field(default_factory=dict)


def control_data(
    config: ControlRun,
    codec: Codec,
    text: Conditioner,
    factor: int,
    maker: MapMaker,
    shop: Workshop,
) -> ControlData:
    """The data of a config; factor: of which sides must be multiples.

    Raises what opening data raises, RequestError for maps that cannot be had of it.
    """
    encoder = Encoder(codec, text, config.cache, config.noise.latents, shop)
    if isinstance(config.data, SceneSection):
        check_multiple("data.size", config.data.size, factor)
        return _of_scenes(config, config.data, encoder, maker, shop)
    check_multiple("data.multiple", config.data.multiple, factor)
    return _of_pictures(config, config.data, encoder, maker, shop)


# -- scenes ----------------------------------------------------------------------------------------


def _of_scenes(
    config: ControlRun, section: SceneSection, encoder: Encoder, maker: MapMaker, shop: Workshop
) -> ControlData:
    if config.control.maps is not None:
        raise RequestError(
            'control.maps is for pictures; the maps of data of kind "scenes" are made by a '
            "preprocessor"
        )
    scenes = open_scenes(section, shop)
    train = of_scenes(scenes, scenes.train, encoder)
    tell_scale(train, encoder.codec, shop)
    data = _beside(train, _of_page(scenes, scenes.train), maker, config.control.keep, shop)
    pools, held = [train], []
    if len(scenes.held):
        pools.append(of_scenes(scenes, scenes.held, encoder))
        held.append(WithMaps(pools[1], _of_page(scenes, scenes.held), maker))
    shown = scenes.held if len(scenes.held) else scenes.train

    def examples(count: int) -> tuple[Tensor, tuple[str, ...]]:
        rows = list(range(min(count, len(shown))))
        draw = Draw(0, 0, len(rows))
        maps = maker.maps(_of_page(scenes, shown)(rows, draw), draw)
        return maps, tuple(shown.captions[row] for row in rows)

    order = Flat(len(train), config.training.batch_size, config.training.seed)
    kept = data.maps if isinstance(data, WithKeptMaps) else ()
    return ControlData(data, tuple(held), order, tuple(pools), kept, examples, scenes.facts)


def _of_page(scenes: SceneSet, which: Scenes) -> Look:
    load = scenes.load(which)
    return lambda rows, draw: load(list(rows))


# -- pictures --------------------------------------------------------------------------------------


def _of_pictures(
    config: ControlRun, section: PictureSection, encoder: Encoder, maker: MapMaker, shop: Workshop
) -> ControlData:
    training = config.training
    found = open_pictures(section, shop, captions=True)
    moving = section.random_crop or section.flip > 0
    used, some = (few(which, shop) for which in (found.train, found.held))
    order = found.order(training.batch_size, training.seed, shop)
    if shop.trial and not moving:
        order = Flat(len(used), TRIAL, training.seed)
    looked = _Looking(config, section, found, shop)
    pools: list[PoolsBySize] = []
    kept: tuple[Tensor, ...] = ()
    train: Data[ControlBatch]
    if moving:
        train = _moving(looked, order, encoder, maker)
    else:
        latents, pool = of_pictures(used, found.wording, section.background, encoder)
        tell_scale(pool, encoder.codec, shop)
        pools.append(pool)
        look = looked.at(used, order)
        train = _beside(latents, look, maker, config.control.keep, shop, pool.places)
        kept = train.maps if isinstance(train, WithKeptMaps) else ()
    held: list[Data[ControlBatch]] = []
    if len(some):
        _, pool = of_pictures(some, found.wording, section.background, encoder)
        pools.append(pool)
        look = looked.at(some)
        for number, one in enumerate(pool.pools):
            numbers = [i for i, (of, _) in enumerate(pool.places) if of == number]
            held.append(WithMaps(one, look, maker, numbers))
    shown = of_one_size(some if len(some) else used)

    def examples(count: int) -> tuple[Tensor, tuple[str, ...]]:
        rows = list(range(min(count, len(shown))))
        draw = Draw(0, 0, len(rows))
        told = [
            caption(shown.source.example(row), found.wording, stream(0, "caption", row))
            for row in rows
        ]
        return maker.maps(looked.at(shown)(rows, draw), draw), tuple(told)

    return ControlData(
        train,
        tuple(held),
        order,
        tuple(pools),
        kept,
        examples,
        found.facts,
        {} if looked.maps is None else {"maps": looked.maps.digest},
    )


class _Looking:
    """Where maps of pictures are made from: the pictures themselves, or finished maps."""

    def __init__(
        self, config: ControlRun, section: PictureSection, found: PictureSet, shop: Workshop
    ) -> None:
        self.section, self.found, self.shop = section, found, shop
        folder = config.control.maps
        self.maps: MapFiles | None = None
        if folder is not None:
            sides = [found.train, found.held]
            self.maps = open_maps(
                Path(folder),
                [side.source for side in sides],
                [place for side in sides for place in side.places],
            )

    def data(self, which: Pictures, order: Order | None, framing: Framing) -> PictureData:
        """What there is to see, decoded ahead on the CPU, where maps are made."""
        made = PictureData(
            which.source if self.maps is None else self.maps.like(which.source),
            which.places,
            wording=NO_WORDS,
            framing=framing,
            on_problem=self.section.on_problem,
            threads=self.section.threads,
            order=order,
        )
        return self.shop.stack.enter_context(made)

    def at(self, which: Pictures, order: Order | None = None) -> Look:
        """The middle of each picture, or of its finished map."""
        data = self.data(which, order, Framing(background=self.section.background))
        return lambda rows, draw: data.batch(rows, draw).pictures


def _moving(looked: _Looking, order: Order, encoder: Encoder, maker: MapMaker) -> EncodedWithMaps:
    """Crops and mirror images drawn anew in every step, and their maps with them."""
    found, shop, section = looked.found, looked.shop, looked.section
    if encoder.conditioner.spec.vector == "refiner":
        raise RequestError("data.random_crop and data.flip are not for the refiner: leave out")
    cpu = replace(shop, device=torch.device("cpu"))
    learn = found.data(found.train, section, cpu, words=True, order=order)
    shop.say("crops and mirror images are drawn, so latents are computed in every step")
    finished = None
    if looked.maps is not None:
        finished = looked.data(found.train, order, found.framing)
    coder = EncodedPictures(learn, encoder.codec, encoder.conditioner, encoder.choice)
    return EncodedWithMaps(learn, coder, maker, finished)


# -- both ------------------------------------------------------------------------------------------


def _beside(
    latents: Data[LatentBatch],
    look: Look,
    maker: MapMaker,
    keep: bool,
    shop: Workshop,
    places: Sequence[tuple[int, int]] | None = None,
) -> WithMaps | WithKeptMaps:
    """Latents beside their maps: made in every step, or all made now."""
    if not keep:
        return WithMaps(latents, look, maker)
    places = [(0, row) for row in range(len(latents))] if places is None else places
    sizes: dict[int, dict[int, int]] = {}
    for index, (size, row) in enumerate(places):
        sizes.setdefault(size, {})[row] = index
    done = 0

    def counted(count: int) -> None:
        nonlocal done
        done += count
        watch(done)

    with shop.counted("making maps", len(latents)) as watch:
        maps = tuple(
            kept_maps(look, [rows[row] for row in range(len(rows))], maker, counted).to(shop.device)
            for _, rows in sorted(sizes.items())
        )
    return WithKeptMaps(latents, maps, places)
