"""Latents and text states that are computed once: kept on disk by all that they were made from.

An edited picture, another autoencoder or another size has another key, so exactly what changed is
computed again, and nothing in the cache can be out of date.

Shapes: N pictures, C latent channels, h w latent height and width, K captions, L tokens, D width.
"""

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager

import torch
from torch import Tensor, nn

from safelight.models.autoencoder import Codec
from safelight.training.cache import Store, content_hash, key_of
from safelight.training.latent_pool import Choice, encoded
from safelight.training.text_states import FrozenText, TextStates, tokens_of

Load = Callable[[list[int]], Tensor]  # numbers of pictures -> (B, 3, H, W) in [-1, 1]
Counted = Callable[[int], AbstractContextManager[Callable[[int], None]]]
"""How many are to be made -> a context in which a function is told how many are done."""
KEPT_EVERY = 60.0  # seconds of work that a run which is killed may lose


@contextmanager
def uncounted(total: int) -> Iterator[Callable[[int], None]]:
    """Nobody is told."""
    yield lambda done: None


def weights_hash(module: nn.Module) -> str:
    """A hash of a module's weights: names, shapes, types and every number; 32 hex digits."""
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def codec_hash(codec: Codec) -> str:
    """A hash of an autoencoder's weights and of the scale and shift of its latents."""
    assert isinstance(codec.autoencoder, nn.Module)
    told = f"{weights_hash(codec.autoencoder)} scale {codec.scale} shift {codec.shift}"
    return content_hash(told)


def text_hash(text: FrozenText) -> str:
    """A hash of what makes states of token ids: the towers, and what is taken from each."""
    roles = [(role.hidden, role.final_norm, role.pooled) for role in text.conditioner.spec.roles]
    return content_hash(f"{roles} {[weights_hash(t) for t in text.conditioner.encoders]}")


def cached_latents(
    store: Store,
    codec: Codec,
    contents: Sequence[str],
    load: Load,
    *,
    choice: Choice = "mode",
    seed: int = 0,
    batch: int = 32,
    dtype: torch.dtype = torch.float16,
    counted: Counted = uncounted,
) -> list[Tensor]:
    """The latents (C, h, w) of pictures, on the CPU; those not in the store are made and kept.

    contents: for each picture a hash of its bytes and of all that was done to its pixels: size,
        crop, mirroring, background.
    load: gives the pictures of these numbers, all of one size; called with up to `batch`.
    counted: who is told how many of those to be made are done.
    What was made is on the disk within a minute.
    Raises OutputError on a full disk, NonFiniteError if the codec makes NaN.
    """
    maker = codec_hash(codec)
    extra: dict[str, int] = {"seed": seed} if choice == "sample" else {}
    keys = [
        key_of("latents", content, maker, choice=choice, dtype=str(dtype), **extra)
        for content in contents
    ]

    def make(places: list[int]) -> Iterator[Mapping[str, Tensor]]:
        kept = time.monotonic()
        with counted(len(places)) as done:
            for start in range(0, len(places), batch):
                part = places[start : start + batch]
                names = [contents[place] for place in part]
                latents = encoded(codec, load(part), names, choice=choice, seed=seed)
                for row in latents.to("cpu", dtype):
                    yield {"latents": row}
                done(start + len(part))
                if time.monotonic() - kept >= KEPT_EVERY:
                    store.flush()
                    kept = time.monotonic()

    entries = store.computed(keys, make)
    store.flush()
    return [entry["latents"] for entry in entries]


def cached_states(
    store: Store, text: FrozenText, captions: Sequence[str], *, batch: int = 64
) -> TextStates:
    """The states of captions, one row for each, on the CPU; those not in the store are made.

    In the type of the towers; kept by their token ids. Raises OutputError on a full disk, and
    PromptError for a caption that cannot be read.
    """
    maker = text_hash(text)
    ids = tokens_of(text.conditioner, captions).ids
    keys = [key_of("text", content_hash(row.numpy().tobytes()), maker) for row in ids]

    def make(places: list[int]) -> Iterator[Mapping[str, Tensor]]:
        for start in range(0, len(places), batch):
            part = ids[places[start : start + batch]].to(text.device)
            states = text.states(part)
            for row in range(len(part)):
                entry = {"context": states.context[row]}
                if states.pooled is not None:
                    entry["pooled"] = states.pooled[row]
                yield entry

    entries = store.computed(keys, make)
    store.flush()
    pooled = [entry["pooled"] for entry in entries if "pooled" in entry]
    return TextStates(
        torch.stack([entry["context"] for entry in entries]),
        torch.stack(pooled) if pooled else None,
    )
