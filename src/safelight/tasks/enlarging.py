"""Pixels made larger by what a request names: an ESRGAN-like network's file, or a plain resampling.

H W: of the picture. Sizes are (width, height).
"""

import numpy as np
import torch
from numpy.typing import NDArray

from safelight.canvas.arrays import size_of
from safelight.canvas.resize import resized_by
from safelight.checkpoints.hashes import sha256
from safelight.checkpoints.library import find_model
from safelight.checkpoints.upscaler_file import load_upscaler
from safelight.models.layers import NO_WRAP, Wrap
from safelight.tasks.large import is_plain
from safelight.tasks.recipe import UsedFile, bare_name
from safelight.tasks.request import Request
from safelight.tasks.supplies import Supplies
from safelight.upscalers.network import Upscaler
from safelight.upscalers.pixels import resampled, upscaled_to

Pixels = NDArray[np.uint8]  # (H, W, 3)
Size = tuple[int, int]
ROLE = "upscaler"


def upscaler_of(name: str, supplies: Supplies, device: torch.device) -> Upscaler:
    """The network in the file of that name, opened once.

    Raises FileError or CheckpointError if it cannot be read, RequestError if it needs spandrel.
    """
    path = find_model(name, what="file")
    return supplies.kept((ROLE, path, device), lambda: load_upscaler(path, device=device))


def enlarged_to(
    pixels: Pixels,
    size: Size,
    name: str,
    supplies: Supplies,
    device: torch.device,
    *,
    wrap: Wrap = NO_WRAP,
) -> Pixels:
    """The picture at `size` by the upscaler of that name. Raises as `upscaler_of`."""
    if is_plain(name):
        return resampled(pixels, size, name)
    return upscaled_to(pixels, size, upscaler_of(name, supplies, device), wrap=wrap)


def brought_to(
    pixels: Pixels,
    size: Size,
    resize: str,
    name: str | None,
    supplies: Supplies,
    device: torch.device,
    *,
    wrap: Wrap = NO_WRAP,
) -> Pixels:
    """The picture at `size` by a mode of RESIZES, made larger before by the upscaler, if any.

    A picture that is large enough is only resized. Raises as `upscaler_of`.
    """
    own = size_of(pixels)
    across, down = size[0] / own[0], size[1] / own[1]
    if name is None or max(across, down) <= 1 or (resize == "fill" and min(across, down) <= 1):
        return resized_by(resize, pixels, size)
    if resize == "just":
        return enlarged_to(pixels, size, name, supplies, device, wrap=wrap)
    share = max(across, down) if resize == "crop" else min(across, down)
    covering = (round(own[0] * share), round(own[1] * share))
    larger = enlarged_to(pixels, covering, name, supplies, device, wrap=wrap)
    return resized_by(resize, larger, size)


def used_upscalers(request: Request) -> tuple[UsedFile, ...]:
    """The files of a request's upscalers, as its recipe remembers them."""
    names = [group.upscaler for group in (request.source, request.hires) if group is not None]
    return tuple(_used(name) for name in names if name is not None and not is_plain(name))


def _used(name: str) -> UsedFile:
    path = find_model(name, what="file")
    return UsedFile(
        role=ROLE, name=bare_name(path.name), sha256=sha256(path), size=path.stat().st_size
    )
