"""The recipe of a tiny decoder: it learns to show latents as the autoencoder does they belong to.

Shapes: N pictures, C latent channels, h w latents, S the pictures' side.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from safelight.checkpoints.library import find_model
from safelight.checkpoints.load import load_autoencoder, load_clip_vision
from safelight.errors import RequestError
from safelight.models.autoencoder import Autoencoder, Codec
from safelight.models.taesd import TinyAutoencoder, TinyAutoencoderConfig
from safelight.printable import shown
from safelight.training.autoencoder.perceptual import PerceptualDistance
from safelight.training.autoencoder.pixels import PixelWeights
from safelight.training.autoencoder.task import Robustness
from safelight.training.autoencoder.tiny_task import (
    DECODER,
    DecodedPool,
    HeldOutLatents,
    TinyDecoderTask,
)
from safelight.training.cache import Store, content_hash, key_of
from safelight.training.config.configs import TinyDecoderRun
from safelight.training.config.sections import PictureSection
from safelight.training.draw import stream
from safelight.training.latent_cache import cached_latents, codec_hash
from safelight.training.order import Flat
from safelight.training.recipes.job import (
    Job,
    Weights,
    Workshop,
    judged_weights,
    seeded,
    size_of,
)
from safelight.training.recipes.latents import Load, contents_of, loader_of
from safelight.training.recipes.pictures import open_pictures
from safelight.training.recipes.scenes import open_scenes
from safelight.training.recipes.writing import DTYPES, write_tiny_decoder
from safelight.training.watch import Moment
from safelight.version import __version__


@dataclass(frozen=True)
class _Side:
    """Pictures of one side of the split: a key for each, and what reads some of them."""

    keys: Sequence[str]
    load: Load


def tiny_decoder_job(config: TinyDecoderRun, workshop: Workshop) -> Job:
    """A tiny decoder that learns from the large one of the same latents.

    Raises what reading data and weights raises, RequestError for shapes that do not fit.
    """
    settings = config.training.settings()
    codec = _teacher(config, workshop)
    tiny = _tiny(config, codec, workshop)
    train, held, facts = _sides(config, workshop)
    mixed = config.decoder.mixed
    learn = _decoded(train, codec, config, workshop, mixed=mixed)
    judged = _decoded(held, codec, config, workshop, mixed=0.0) if len(held.keys) else None
    tower = _perceptual(config, workshop)
    task = TinyDecoderTask(
        tiny,
        weights=PixelWeights(
            config.loss.l1, config.loss.laplacian, config.loss.ms_ssim, config.loss.squares
        ),
        perceptual=tower,
        perceptual_weight=config.loss.perceptual,
        robustness=Robustness(config.loss.noisy_rows, config.loss.noise_sizes),
    )

    def look(moment: Moment) -> Mapping[str, float]:
        if judged is None:
            return {}
        with judged_weights(moment):
            return HeldOutLatents(judged)(task)

    def write(weights: Weights, path: Path) -> list[Path]:
        tiny.float().load_state_dict(weights[DECODER], strict=True)
        name = config.export.name or Path(config.folder).name
        dtype = DTYPES[config.export.dtype or "fp32"]
        file = path / f"{name}.safetensors"
        return write_tiny_decoder(file, tiny, dtype, {"safelight": __version__})

    coder = codec.autoencoder
    assert isinstance(coder, nn.Module)
    count = sum(p.numel() for p in tiny.parameters())
    kept = [learn] if judged is None else [learn, judged]
    return Job(
        task,
        learn,
        Flat(len(learn), settings.batch_size, settings.seed),
        settings,
        write,
        (DECODER,),
        look,
        (*facts, f"a tiny decoder of {count:,} weights; {mixed:.0%} of its latents are blends"),
        (coder,) if tower is None else (coder, tower.tower),
        sum(size_of(pool.latents, pool.pictures) for pool in kept),
        identity={"autoencoder": codec_hash(codec)},
    )


def _teacher(config: TinyDecoderRun, workshop: Workshop) -> Codec:
    """The large autoencoder, frozen on the device, in the type that the run computes in."""
    section, data = config.decoder, config.data
    kind = torch.bfloat16 if config.training.precision == "bf16" else torch.float32
    path = find_model(section.teacher, what="autoencoder")
    codec = load_autoencoder(path, dtype=kind)
    coder = codec.autoencoder
    if not isinstance(coder, Autoencoder):
        raise RequestError(
            f"decoder.teacher: {shown(path)} is a tiny autoencoder itself; give the large one"
        )
    if codec.factor != 1 << (len(section.blocks) - 1):
        levels = codec.factor.bit_length()
        raise RequestError(
            f"decoder.blocks has {len(section.blocks)} levels; latents of 1/{codec.factor} the "
            f"size need {levels}"
        )
    if data.size % codec.factor:
        raise RequestError(
            f"data.size must be a multiple of {codec.factor}, the pixels of a latent; got "
            f"{data.size}"
        )
    coder.to(workshop.device).requires_grad_(False).eval()
    return codec


def _tiny(config: TinyDecoderRun, codec: Codec, workshop: Workshop) -> TinyAutoencoder:
    section = config.decoder
    shape = TinyAutoencoderConfig(
        latent_channels=codec.channels, width=section.width, blocks=section.blocks, encodes=False
    )
    with seeded(config.training.seed, DECODER):
        return shape.build().to(workshop.device)


def _sides(config: TinyDecoderRun, workshop: Workshop) -> tuple[_Side, _Side, tuple[str, ...]]:
    data = config.data
    if isinstance(data, PictureSection):
        found = open_pictures(data, workshop, captions=False, square=True)
        train, held = (
            _Side(contents_of(side, data.background), loader_of(side, data.background))
            for side in (found.train, found.held)
        )
        return train, held, found.facts
    scenes = open_scenes(data, workshop)
    train, held = (_Side(side.keys, scenes.load(side)) for side in (scenes.train, scenes.held))
    return train, held, scenes.facts


def _decoded(
    side: _Side, codec: Codec, config: TinyDecoderRun, workshop: Workshop, *, mixed: float
) -> DecodedPool:
    """Latents of pictures, some of them blends of two, and what the large decoder makes of them."""
    cache = config.cache
    place = Path(cache.folder) if cache.folder is not None else workshop.folder / "cache"
    with Store(workshop.scratch() if workshop.trial else place) as store:
        counted = partial(workshop.counted, "encoding pictures")
        found = cached_latents(
            store,
            codec,
            side.keys,
            side.load,
            batch=cache.batch,
            dtype=torch.float32,
            counted=counted,
        )
        latents = blended(torch.stack(found), mixed, config.training.seed)
        maker = codec_hash(codec)
        keys = [
            key_of("decoded", content_hash(row.numpy().tobytes()), maker, dtype=str(codec.dtype))
            for row in latents
        ]

        def make(places: list[int]) -> Iterator[Mapping[str, Tensor]]:
            with workshop.counted("decoding latents", len(places)) as watch:
                for start in range(0, len(places), cache.batch):
                    part = latents[places[start : start + cache.batch]].to(workshop.device)
                    for row in _as_bytes(codec, part):
                        yield {"pixels": row}
                    watch(start + len(part))

        pixels = torch.stack([entry["pixels"] for entry in store.computed(keys, make)])
    return DecodedPool(latents.to(workshop.device), pixels.to(workshop.device))


def blended(latents: Tensor, share: float, seed: int) -> Tensor:
    """Latents (N, C, h, w) of which a share is a blend of two, in parts of any size.

    What is predicted at high noise is a mean of all that it may become; a blend is the nearest to
    it that pictures alone can give.
    """
    count = len(latents)
    generator = stream(seed, "blended latents")
    partner = torch.randperm(count, generator=generator)
    part = torch.rand(count, 1, 1, 1, generator=generator)
    chosen = torch.rand(count, 1, 1, 1, generator=generator) < share
    return torch.where(chosen, torch.lerp(latents, latents[partner], part), latents)


@torch.no_grad()
def _as_bytes(codec: Codec, latents: Tensor) -> Tensor:
    """What the large decoder shows, (B, 3, S, S) uint8 on the CPU."""
    images = codec.decode(latents).clamp(-1.0, 1.0)
    return ((images + 1.0) * 127.5).round().to("cpu", torch.uint8)


def _perceptual(config: TinyDecoderRun, workshop: Workshop) -> PerceptualDistance | None:
    path = config.loss.image_encoder
    if not config.loss.perceptual:
        return None
    if path is None:
        raise RequestError("loss.perceptual needs loss.image_encoder, the tower that judges")
    tower = load_clip_vision(path, dtype=torch.float32, device=workshop.device, projection=False)
    return PerceptualDistance(tower)
