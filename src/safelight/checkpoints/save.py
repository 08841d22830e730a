"""A model to a file or folder of either layout, and one layout to the other weight by weight."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from safelight.checkpoints.checkpoint import checked
from safelight.checkpoints.keymap import Row
from safelight.checkpoints.kinds import UNET
from safelight.checkpoints.load import open_checkpoint
from safelight.checkpoints.model_json import clip_to_json, vae_to_json
from safelight.checkpoints.parts import Role
from safelight.checkpoints.pipeline_json import folder_name, model_index
from safelight.checkpoints.printable import shown
from safelight.checkpoints.rows_autoencoder import autoencoder_rows
from safelight.checkpoints.rows_clip import open_clip_rows, transformers_rows
from safelight.checkpoints.rows_unet import unet_rows
from safelight.checkpoints.scheduler_json import low_res_scheduler_json, scheduler_to_json
from safelight.checkpoints.single_file import VAE
from safelight.checkpoints.single_text import REFINER, ROLES, SD1, SD2, XL, Place
from safelight.checkpoints.stock import Stock, entries, stock_of_module, stock_of_part
from safelight.checkpoints.stored_config import written_configs
from safelight.checkpoints.tokenizer_files import write_tokenizer
from safelight.checkpoints.unet_json import unet_to_json
from safelight.checkpoints.vae_file import STEM
from safelight.checkpoints.writing import Entry, whole_folder, write_safetensors, write_text
from safelight.errors import CheckpointError, RequestError
from safelight.families import Family
from safelight.model import Model
from safelight.models.autoencoder import AutoencoderConfig
from safelight.models.clip import ClipTextConfig
from safelight.models.unet import UNetConfig

Layout = Literal["diffusers", "ldm"]
_PREDICTIONS = {"eps": "epsilon", "v": "v"}  # as the model spec of Stability AI writes them


def save(
    model: Model,
    path: str | os.PathLike[str],
    layout: Layout = "diffusers",
    *,
    dtype: torch.dtype | None = None,
) -> None:
    """Write a model as a Diffusers folder or as one safetensors file of the original layout.

    dtype None keeps the types in memory. A folder must be new or empty, a file is replaced.
    Raises OutputError if it cannot be written, and then nothing is; RequestError for a name or a
    layout that cannot hold the model.
    """
    write(stocks_of(model), model.family, Path(path), layout, dtype=dtype)


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
) -> None:
    """Write the model of a file or folder in the other layout, without building it.

    One tensor is in memory at a time. Weights keep their bits unless `dtype` is given; what a
    model never uses (EMA copies, training's tables, OpenCLIP H's last block) is left behind.
    Raises what `load` and `save` raise.
    """
    with open_checkpoint(
        source,
        prediction=prediction,
        zero_terminal_snr=zero_terminal_snr,
        ema=ema,
        variant=variant,
    ) as checkpoint:
        checked(checkpoint)
        stocks = [stock_of_part(part) for part in checkpoint.parts]
        write(stocks, checkpoint.family, Path(target), layout, dtype=dtype)


def stocks_of(model: Model) -> list[Stock]:
    """The weights of a loaded model, part by part."""
    coder = model.codec.autoencoder
    assert isinstance(coder, nn.Module)
    config = model.family.codec.autoencoder
    assert isinstance(config, AutoencoderConfig) or not isinstance(config, UNetConfig)
    unet = model.network.unet
    return [
        stock_of_module("unet", unet.config, unet),
        stock_of_module("vae", coder.config, coder),
        *(
            stock_of_module(role, encoder.config, encoder)
            for role, encoder in zip(ROLES, model.text.encoders, strict=False)
        ),
    ]
