"""A control network to a Diffusers folder, or to one file of the original layout."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import torch

from safelight.checkpoints.control_file import KEY
from safelight.checkpoints.control_json import control_to_json
from safelight.checkpoints.control_rows import adapter_rows, controlnet_rows
from safelight.checkpoints.keymap import Row
from safelight.checkpoints.stock import entries, stock_of_module
from safelight.checkpoints.stored_config import written_configs
from safelight.checkpoints.vae_file import STEM
from safelight.checkpoints.writing import write_json, write_safetensors, write_shards
from safelight.errors import RequestError
from safelight.models.controlnet import ControlNet
from safelight.models.t2i_adapter import T2IAdapter
from safelight.writing import make_folder, whole_folder

ControlLayout = Literal["diffusers", "ldm"]


def save_control(
    network: ControlNet | T2IAdapter,
    path: str | os.PathLike[str],
    layout: ControlLayout = "diffusers",
    *,
    dtype: torch.dtype | None = None,
    size_width: int = 256,
) -> None:
    """Write a control network as a Diffusers folder, or as one safetensors file ("ldm").

    The file also holds its config, as shapes do not tell everything. dtype None keeps the types in
    memory. A folder must be new or empty, a file is replaced; folders above are made.
    size_width: of the sinusoid of each size in the vector, which the config of XL's states.
    Raises OutputError if it cannot be written, RequestError for an unknown layout or a ControlLoRA,
    which is of use only beside its model.
    """
    if any(".deltas." in name for name in network.state_dict()):
        raise RequestError("a ControlLoRA, or a network with LoRAs attached, cannot be saved whole")
    path = Path(path)
    config = network.control if isinstance(network, ControlNet) else network.config
    stock = stock_of_module("control", config, network)
    json = control_to_json(config, size_width=size_width)
    make_folder(path.parent)
    if layout == "ldm":
        prefix = "control_model." if isinstance(network, ControlNet) else ""
        tensors = entries(stock, _rows(network), prefix=prefix, dtype=dtype)
        write_safetensors(path, tensors, {"format": "pt", **written_configs({KEY: json})})
        return
    if layout != "diffusers":
        raise RequestError(f"unknown layout {layout!r}; choose diffusers or ldm")
    prefix = "adapter." if isinstance(network, T2IAdapter) else ""
    tensors = entries(stock, (Row("", ""),), prefix=prefix, dtype=dtype)
    with whole_folder(path, sum(entry.nbytes for entry in tensors)) as folder:
        write_shards(folder, STEM, tensors, {"format": "pt"})
        write_json(folder / "config.json", json)


def _rows(network: ControlNet | T2IAdapter) -> Iterable[Row]:
    if isinstance(network, ControlNet):
        return controlnet_rows(network.control)
    return adapter_rows(network.config)
