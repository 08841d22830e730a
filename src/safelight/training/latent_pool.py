"""Pictures as latents that stay on the device, so that a batch is one gather.

Shapes: N pictures, C latent channels, h w latent height and width, K distinct captions, V captions
that one picture may be told, L = 77 tokens, R text encoders.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from safelight.checkpoints.regular_file import RegularFile
from safelight.checkpoints.safetensors_file import SafetensorsFile
from safelight.checkpoints.writing import Entry, write_safetensors
from safelight.errors import CheckpointError, NonFiniteError, RequestError
from safelight.models.autoencoder import Codec
from safelight.printable import shown
from safelight.training.diffusion_task import LatentBatch
from safelight.training.draw import Draw, stream

Choice = Literal["mode", "sample"]


@dataclass(frozen=True, eq=False)
class LatentPool:
    """All latents of a data set on one device, and their captions.

    latents: (N, C, h, w) of unit size: already through the codec's scale and shift.
    tokens: (K, L), or (K, R, L) where encoders pad differently; any integer type that holds them.
    contexts, pooled: (K, L, D) and (K, P) states of the captions, instead of tokens.
    captions: (N, V) which of the K captions a picture may be told, one drawn for each step; left
        out, caption i is that of picture i. Fewer than V are filled up by repeating them.
    sizes: (N, 5 or 6) what SDXL is told of each picture.
    ids: names of the pictures, for reports.
    Raises RequestError if the parts do not fit together.
    """

    latents: Tensor
    tokens: Tensor | None = None
    captions: Tensor | None = None
    contexts: Tensor | None = None
    pooled: Tensor | None = None
    sizes: Tensor | None = None
    ids: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        count = len(self.latents)
        if self.latents.ndim != 4:
            raise RequestError(f"latents are (N, C, h, w); got {tuple(self.latents.shape)}.")
        rows = {"sizes": self.sizes, "captions": self.captions}
        if self.captions is None:
            rows |= {"tokens": self.tokens, "contexts": self.contexts, "pooled": self.pooled}
        for name, tensor in rows.items():
            if tensor is not None and len(tensor) != count:
                raise RequestError(f"{count} pictures need as many {name}; got {len(tensor)}.")
        if (self.tokens is None) == (self.contexts is None):
            raise RequestError("a pool needs captions: either tokens or contexts.")
        if self.captions is not None and self.captions.ndim != 2:
            raise RequestError(f"captions are (N, V); got {tuple(self.captions.shape)}.")
        if self.ids and len(self.ids) != count:
            raise RequestError(f"{count} pictures need as many ids; got {len(self.ids)}.")

    def __len__(self) -> int:
        return len(self.latents)

    @property
    def device(self) -> torch.device:
        """Where the latents are, and so every batch."""
        return self.latents.device

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> "LatentPool":
        """The pool on a device; the latents in another type, if one is given."""

        def moved(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else tensor.to(device)

        return replace(
            self,
            latents=self.latents.to(device, dtype),
            tokens=moved(self.tokens),
            captions=moved(self.captions),
            contexts=moved(self.contexts),
            pooled=moved(self.pooled),
            sizes=moved(self.sizes),
        )

    def batch(self, indices: Sequence[int], draw: Draw) -> LatentBatch:
        """The pictures of these numbers, each with one of its captions drawn by `draw`."""
        at = self._on_device(indices)
        told = self._told(at, draw)

        def rows(table: Tensor | None, of: Tensor) -> Tensor | None:
            return None if table is None else table[of]

        return LatentBatch(
            latents=self.latents[at],
            tokens=rows(self.tokens, told),
            context=rows(self.contexts, told),
            pooled=rows(self.pooled, told),
            sizes=rows(self.sizes, at),
        )

    def _told(self, at: Tensor, draw: Draw) -> Tensor:
        """Which captions pictures `at` are told this time."""
        if self.captions is None:
            return at
        told = self.captions[at]
        count = told.shape[1]
        if count > 1:
            uniforms = draw.uniform("caption", 1, device=self.device)
            # A product may round up to the count itself.
            told = told.gather(1, (uniforms * count).long().clamp(max=count - 1))
        return told[:, 0].long()

    def _on_device(self, indices: Sequence[int] | Tensor) -> Tensor:
        at = torch.as_tensor(indices, dtype=torch.long)
        if self.device.type == "cuda" and at.device.type == "cpu":
            at = at.pin_memory()
        return at.to(self.device, non_blocking=True)


# -- made and checked ------------------------------------------------------------------------------


# Pixels that are encoded at once, but at least a picture: sixteen of 512 x 512 took 11 GB.
AT_ONCE = 2**18


@torch.no_grad()
def encoded(
    codec: Codec, images: Tensor, names: Sequence[str], *, choice: Choice = "mode", seed: int = 0
) -> Tensor:
    """The latents (B, C, h, w) of pictures (B, 3, H, W) in [-1, 1], float32 on the codec's device.

    "mode" takes the most probable latents; "sample" draws from the posterior, for each picture from
    the seed and its name, so the same in any company. Raises NonFiniteError for NaN or infinity.
    """
    device = next(codec.autoencoder.parameters()).device
    images, rows = images.to(device, non_blocking=True), max(1, AT_ONCE // images[0, 0].numel())
    found: list[Tensor] = []
    for at in range(0, len(images), rows):
        posterior = codec.encode(images[at : at + rows])
        part = posterior.mode()
        if choice == "sample":
            shape = tuple(part.shape[1:])
            streams = [stream(seed, f"posterior {n}") for n in names[at : at + rows]]
            noise = [torch.randn(shape, generator=one) for one in streams]
            part = posterior.sample(torch.stack(noise).to(device))
        found.append(part)
    latents = torch.cat(found)
    if not latents.isfinite().all():
        raise NonFiniteError(
            "the autoencoder makes NaN of these pictures; load it in float32 or bfloat16."
        )
    return latents


def encode_pictures(
    codec: Codec,
    batches: Iterable[Tensor],
    *,
    names: Sequence[str] = (),
    choice: Choice = "mode",
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """The latents (N, C, h, w) of pictures that come in batches (B, 3, H, W), as `encoded` does.

    names: of all pictures; left out, their numbers. The result is on the codec's device. Raises
    RequestError if there is no picture.
    """
    made: list[Tensor] = []
    done = 0
    for images in batches:
        own = [names[i] if names else str(i) for i in range(done, done + len(images))]
        made.append(encoded(codec, images, own, choice=choice, seed=seed).to(dtype))
        done += len(images)
    if not made:
        raise RequestError("there is no picture to encode; give a data set that is not empty.")
    return torch.cat(made)


@dataclass(frozen=True)
class LatentStatistics:
    """Mean and deviation of each latent channel over a data set."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def of(cls, latents: Tensor, chunk: int = 4096) -> "LatentStatistics":
        """Over all pictures (N, C, h, w) and places, in float64 sums, a chunk at a time."""
        channels = latents.shape[1]
        sums = torch.zeros(2, channels, dtype=torch.float64)
        for part in latents.split(chunk):
            wide = part.float()
            moments = torch.stack([wide.mean((0, 2, 3)), wide.square().mean((0, 2, 3))])
            sums += moments.cpu().double() * len(part)
        mean, square = sums / max(len(latents), 1)
        std = (square - mean.square()).clamp(min=0).sqrt()
        return cls(tuple(mean.tolist()), tuple(std.tolist()))


def check_scale(
    statistics: LatentStatistics, codec: Codec | None = None, *, low: float = 0.8, high: float = 1.2
) -> None:
    """Raise RequestError unless every channel's deviation lies between `low` and `high`.

    Noise levels are counted in units of the latents: at twice the size every level means half the
    noise. With the codec, the message says if the scale looks forgotten or put on twice.
    """
    outside = [
        f"channel {i}: {std:.3g}" for i, std in enumerate(statistics.std) if not low <= std <= high
    ]
    if not outside:
        return
    raise RequestError(
        f"latents must have a standard deviation between {low:g} and {high:g} in every channel; "
        f"got {', '.join(outside[:4])}{', ...' if len(outside) > 4 else ''}. "
        + _likely(statistics, codec, low, high)
    )


def _likely(statistics: LatentStatistics, codec: Codec | None, low: float, high: float) -> str:
    """What may be wrong, in words."""
    if codec is not None:
        given = codec.scale
        scales = given if isinstance(given, tuple) else (given,) * len(statistics.std)
        ratios = {
            "They look scaled twice: give them as the codec encodes them.": [1 / s for s in scales],
            "They look unscaled: put them through the codec's scale and shift.": list(scales),
        }
        for words, factors in ratios.items():
            undone = [std * f for std, f in zip(statistics.std, factors, strict=True)]
            if all(low <= std <= high for std in undone):
                return words
    return "Set the codec's scale to 1 / (standard deviation of its raw latents)."


# -- on disk ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PoolFacts:
    """What the latents of a file were made with; all of it must be the same for them to hold.

    codec: hash of the autoencoder's weights, its scale and shift. pixels: (height, width).
    """

    codec: str
    pixels: tuple[int, int]
    choice: Choice = "mode"
    data: str = ""  # hash of the data set, if there is one

    def metadata(self, dtype: torch.dtype) -> dict[str, str]:
        return {
            "format": "safelight-latents-1",
            "codec": self.codec,
            "pixels": f"{self.pixels[0]}x{self.pixels[1]}",
            "choice": self.choice,
            "data": self.data,
            "dtype": str(dtype).removeprefix("torch."),
            "scaled": "true",
        }


def save_pool(path: Path, pool: LatentPool, facts: PoolFacts) -> None:
    """Write a pool as a safetensors file whose header says what it was made with."""
    parts = {
        "latents": pool.latents,
        "tokens": pool.tokens,
        "captions": pool.captions,
        "contexts": pool.contexts,
        "pooled": pool.pooled,
        "sizes": pool.sizes,
        "ids": _packed(pool.ids) if pool.ids else None,
    }
    entries = [entry_of(name, tensor) for name, tensor in parts.items() if tensor is not None]
    write_safetensors(path, entries, facts.metadata(pool.latents.dtype))


def load_pool(path: Path, facts: PoolFacts | None = None) -> LatentPool:
    """The pool of a file, on the CPU.

    Raises FileError if the file cannot be read, and CheckpointError if it holds no pool, or one
    that was made with something else than `facts`.
    """
    with SafetensorsFile(RegularFile(path)) as file:
        if file.metadata.get("format") != "safelight-latents-1" or "latents" not in file.header:
            raise CheckpointError(f"{shown(path)} holds no latents of a data set; encode it anew.")
        if facts is not None:
            expected = facts.metadata(file.header["latents"].dtype)
            for name, value in expected.items():
                if file.metadata.get(name) != value:
                    raise CheckpointError(
                        f"{shown(path)} was made with {name} {shown(file.metadata.get(name), 40)}, "
                        f"and {shown(value, 40)} is asked for; encode the pictures anew."
                    )
        parts = {name: file.read(name, copy=True) for name in file.header}
    ids = parts.pop("ids", None)
    return LatentPool(**parts, ids=() if ids is None else _unpacked(ids))


def entry_of(name: str, tensor: Tensor) -> Entry:
    """A tensor that is at hand, ready to be written under a name."""
    return Entry(name, tuple(tensor.shape), tensor.dtype, lambda: tensor)


def _packed(ids: Sequence[str]) -> Tensor:
    return torch.frombuffer(bytearray("\0".join(ids).encode("utf-8")), dtype=torch.uint8)


def _unpacked(ids: Tensor) -> tuple[str, ...]:
    return tuple(bytes(ids.tolist()).decode("utf-8").split("\0"))
