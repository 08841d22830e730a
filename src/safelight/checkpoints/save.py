"""A model to a file or folder of either layout, and one layout to the other weight by weight."""

import os
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import MappingProxyType
from typing import Literal

import torch

from safelight.checkpoints.checkpoint import Checkpoint, by_prefix, checked
from safelight.checkpoints.library import short_name
from safelight.checkpoints.load import open_checkpoint, with_other_vae
from safelight.checkpoints.made_by import MadeBy, ingredient
from safelight.checkpoints.stock import Stock, stock_of_module, stock_of_part
from safelight.checkpoints.vae_file import open_vae
from safelight.checkpoints.vision_folder import clip_vision_part, has_clip_vision
from safelight.checkpoints.write_folder import write_diffusers
from safelight.checkpoints.write_single import write_original
from safelight.errors import RequestError
from safelight.families import Family
from safelight.model import Model
from safelight.models.autoencoder import Autoencoder
from safelight.models.clip import ClipVision
from safelight.models.taesd import TinyAutoencoder, TinyAutoencoderConfig
from safelight.printable import shown
from safelight.writing import make_folder

Layout = Literal["diffusers", "ldm"]


def save(
    model: Model,
    path: str | os.PathLike[str],
    layout: Layout = "diffusers",
    *,
    dtype: torch.dtype | None = None,
    max_file_bytes: int | None = None,
    image_encoder: ClipVision | None = None,
) -> None:
    """Write a model as a Diffusers folder or as one safetensors file of the original layout.

    dtype None keeps the types in memory. A folder must be new or empty, a file is replaced; missing
    folders above it are made.
    max_file_bytes: of a folder's files of weights; what is larger is split into shards with an
    index. image_encoder: a vision tower to put beside, as pipelines that see pictures have it.
    Raises OutputError if it cannot be written, and then nothing is; RequestError for a name or a
    layout that cannot hold the model.
    """
    stocks = _stocks(model)
    if image_encoder is not None:
        stocks.append(stock_of_module("image_encoder", image_encoder.config, image_encoder))
    write_stocks(
        stocks, model.family, Path(path), layout, dtype=dtype, max_file_bytes=max_file_bytes
    )


def convert(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    layout: Layout,
    *,
    dtype: torch.dtype | None = None,
    prediction: str | None = None,
    zero_terminal_snr: bool | None = None,
    ema: bool = False,
    variant: str | None = None,
    vae: str | os.PathLike[str] | None = None,
    max_file_bytes: int | None = None,
    recipe: bool = False,
) -> tuple[str, ...]:
    """Write the model of a file or folder in a layout, without building it.

    Gives in words what of the source was left behind. recipe: tell in the metadata what it was
    made of, with SHA-256 (`made_by`); without it, what is written depends on the weights alone.

    vae: a file or folder whose autoencoder is written instead of the model's own.
    max_file_bytes: see `save`.

    One tensor is in memory at a time. Weights keep their bits unless `dtype` is given; what a
    model never uses (EMA copies, training's tables, OpenCLIP H's last block) is left behind. A
    folder's vision tower goes into another folder; a single file has no place for it.
    Raises what loading and `save` raise.
    """
    with ExitStack() as stack:
        checkpoint = stack.enter_context(
            open_checkpoint(
                source,
                prediction=prediction,
                zero_terminal_snr=zero_terminal_snr,
                ema=ema,
                variant=variant,
                own_vae=vae is None,
                use="convert",
            )
        )
        if vae is not None:
            found = open_vae(Path(vae))
            stack.enter_context(found.file)
            checkpoint = with_other_vae(checkpoint, found, Path(vae))
        checked(checkpoint)
        stocks = [stock_of_part(part) for part in checkpoint.parts]
        if layout == "diffusers" and has_clip_vision(Path(source)):
            seen = stack.enter_context(clip_vision_part(Path(source), variant=variant))
            stocks.append(stock_of_part(seen))
        left = left_behind(checkpoint)
        remarks: Mapping[str, str] = {}
        if recipe:
            settings: dict[str, object] = {
                "dtype": None if dtype is None else short_name(dtype),
                "ema": ema or None,
                "prediction": prediction,
                "zero_terminal_snr": zero_terminal_snr,
                "variant": variant,
            }
            stated = {name: value for name, value in settings.items() if value is not None}
            used = [ingredient(Path(source), "model", metadata=checkpoint.files[0].file.metadata)]
            used += [] if vae is None else [ingredient(Path(vae), "vae")]
            remarks = MadeBy("convert", stated, used, left).remarks()
        write_stocks(
            stocks,
            checkpoint.family,
            Path(target),
            layout,
            dtype=dtype,
            max_file_bytes=max_file_bytes,
            remarks=remarks,
        )
        return left


def left_behind(checkpoint: Checkpoint) -> tuple[str, ...]:
    """What a checkpoint holds beside its parts, in words: of no use here, or of no part."""
    told = []
    for what, names in (
        ("of no use for drawing", checkpoint.ignored),
        ("of no part of a model", checkpoint.unknown),
    ):
        if names:
            counts = ", ".join(f"{shown(name)} ({count})" for name, count in by_prefix(names))
            told.append(f"left behind, {what}: {counts}")
    return tuple(told)


def _stocks(model: Model) -> list[Stock]:
    coder, unet = model.codec.autoencoder, model.network.unet
    assert isinstance(coder, (Autoencoder, TinyAutoencoder))
    first, *second = model.text.encoders
    return [
        stock_of_module("unet", unet.config, unet),
        stock_of_module("vae", coder.config, coder),
        stock_of_module("text_encoder", first.config, first),
        *(stock_of_module("text_encoder_2", text.config, text) for text in second),
    ]


def write_stocks(
    stocks: list[Stock],
    family: Family,
    path: Path,
    layout: Layout,
    *,
    dtype: torch.dtype | None = None,
    max_file_bytes: int | None = None,
    remarks: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """The parts of a model in a layout, one tensor at a time; see `save`.

    remarks: metadata of the weights files.
    """
    coder = family.codec.autoencoder
    if isinstance(coder, TinyAutoencoderConfig) and not coder.encodes:
        raise RequestError(
            "a tiny decoder alone is half an autoencoder, with which no other program opens a "
            "model; put in one with both halves"
        )
    if layout == "diffusers":
        make_folder(path.parent)
        write_diffusers(
            stocks, family, path, dtype=dtype, max_file_bytes=max_file_bytes, remarks=remarks
        )
    elif layout == "ldm":
        if max_file_bytes is not None:
            raise RequestError(
                "the original layout is one file, which cannot be split; leave max_file_bytes out, "
                "or save as a Diffusers folder"
            )
        write_original(stocks, family, path, dtype=dtype, remarks=remarks)
    else:
        raise RequestError(f"unknown layout {layout!r}; choose diffusers or ldm")
