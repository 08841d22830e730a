"""One hash for a model: on disk as `sha256sum` would tell it, in memory by its weights."""

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor, nn

from safelight.checkpoints.hashes import folder_sha256, sha256
from safelight.model import Model


def model_digest(model: Model | str | os.PathLike[str]) -> str:
    """The SHA-256 of a model, 64 hex digits.

    A path: of the file, or of a folder's weights and settings (see `folder_sha256`), remembered
    between runs. A model in memory: of its weights, words, process and scale, whatever file they
    came from; a cast to another type is another model.
    Raises FileError if a path cannot be read.
    """
    if isinstance(model, Model):
        coder = model.codec.autoencoder
        assert isinstance(coder, nn.Module)
        parts = [weights_digest(module) for module in (model.network.unet, coder)]
        parts += [weights_digest(encoder) for encoder in model.text.encoders]
        family = model.family
        codec = f"{family.codec.scale} {family.codec.shift}"
        parts += [family.text.vocabulary.digest, codec, repr(family.process)]
        return hashlib.sha256("\n".join(parts).encode("utf-8")).hexdigest()
    path = Path(model)
    return folder_sha256(path) if path.is_dir() else sha256(path)


def weights_digest(module: nn.Module) -> str:
    """The SHA-256 of a module's weights: names, types, shapes and bits, in the order of names.

    The same wherever the module is, and for every way it was made.
    """
    digest = hashlib.sha256()
    for name, tensor in _sorted(module.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        if flat.numel():
            digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _sorted(state: Iterable[tuple[str, Tensor]]) -> list[tuple[str, Tensor]]:
    return sorted(state, key=lambda item: item[0])
