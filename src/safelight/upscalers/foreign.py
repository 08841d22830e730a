"""Upscalers of other architectures, through spandrel (MIT), from weights that we have read.

spandrel recognises some forty architectures by the names and shapes of their tensors. It never
sees a file: it is given tensors.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from safelight.errors import CheckpointError, RequestError
from safelight.printable import shown
from safelight.upscalers.network import Upscaler

INSTALL = 'pip install "safelight[upscale]"'


def recognised(
    state: Mapping[str, Tensor], name: str, path: Path | None = None, *, device: torch.device
) -> Upscaler:
    """The upscaler that spandrel makes of these tensors.

    Raises RequestError if spandrel is not there or cannot be imported, CheckpointError if it does
    not know the tensors or they make something else than an upscaler of colour pictures.
    """
    spandrel = _imported(name)
    try:
        found = spandrel.ModelLoader(device=device).load_from_state_dict(dict(state))
    except spandrel.UnsupportedModelError:
        raise CheckpointError(
            f"{shown(name)} is no upscaler that is known: neither ESRGAN nor one of spandrel's "
            "architectures; give the file that was published for upscaling"
        ) from None
    except Exception as error:  # whatever its builders trip over
        told = shown(f"{type(error).__name__}: {error}", 200)
        raise CheckpointError(
            f"{shown(name)} looks like an upscaler, but spandrel cannot build it: {told}"
        ) from None
    return _checked(spandrel, found, name, path, device)


def _imported(name: str) -> Any:
    try:
        import spandrel
    except ImportError as error:
        missing = getattr(error, "name", None) or "spandrel"
        raise RequestError(
            f"{shown(name)} is not an ESRGAN or Real-ESRGAN network, and others need spandrel; "
            f"{shown(missing)} is not installed: {INSTALL}"
        ) from None
    except RuntimeError as error:
        raise RequestError(
            f"{shown(name)} needs spandrel, which cannot be imported because torchvision does not "
            f"fit this torch ({shown(error, 120)}); install the torchvision made for torch "
            f"{torch.__version__}"
        ) from None
    return spandrel


def _checked(
    spandrel: Any, found: Any, name: str, path: Path | None, device: torch.device
) -> Upscaler:
    architecture = shown(found.architecture.name, 60)
    plain = isinstance(found, spandrel.ImageModelDescriptor) and found.purpose in (
        "SR",
        "Restoration",
    )
    if not plain or found.input_channels != 3 or found.output_channels != 3:
        what = "of faces" if found.purpose == "FaceSR" else "of other pictures than whole RGB ones"
        raise CheckpointError(
            f"{shown(name)} is {architecture}, a network {what}; give an upscaler of pictures"
        )
    found.model.eval().requires_grad_(False)
    return Upscaler(name, found, found.scale, architecture, path, device, found.dtype)
