"""What is measured on the pixels of a cut-out: its box, its contrast, whether it takes paint."""

from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from safelight.training.scenes.colours import LAB, lab

SIDE = 32  # contrast is measured on a picture of this side
SOLID = 0.5  # opacity from which a pixel of it counts
BOX_OPACITY = 24  # of 255; below lies only the haze of lossy compression
NEAR = 25.0  # a pixel this near to the background, in CIELAB, is lost in it
LOST_SHARE = 0.45  # of the object that may be lost
MEAN_NEAR = 20.0  # a mean colour this near makes the object a stain
PAINT_AREA = 0.12  # of the frame, solid, for a new colour to show
PAINT_SHARE = 0.7  # of the solid area that takes the new colour
CHUNK = 256


class Measures(NamedTuple):
    boxes: NDArray[np.float32]  # (N, 4)
    clear: NDArray[np.bool_]  # (N, 12)
    paintable: NDArray[np.bool_]  # (N,)


def measured(rgba: Tensor) -> Measures:
    """The measures of pictures (N, S, S, 4) uint8 with straight alpha; see Catalogue."""
    with ThreadPoolExecutor() as pool:  # numpy and torch let go of the interpreter meanwhile
        parts = list(pool.map(_measured, rgba.split(CHUNK)))
    return Measures(
        np.concatenate([part.boxes for part in parts]),
        np.concatenate([part.clear for part in parts]),
        np.concatenate([part.paintable for part in parts]),
    )


def _measured(rgba: Tensor) -> Measures:
    small = _reduced(rgba)
    opacity = small[:, 3]
    colour = small[:, :3] / opacity.clamp(min=1e-6)[:, None]
    solid = (opacity >= SOLID).numpy()  # (n, s, s)
    pixels = lab(colour.movedim(1, -1).mul(255).numpy())
    count = solid.sum(axis=(1, 2)).clip(min=1)
    near = np.linalg.norm(pixels[..., None, :] - LAB, axis=-1) < NEAR  # (n, s, s, 12)
    lost = (near & solid[..., None]).sum(axis=(1, 2)) / count[:, None]
    mean = small[:, :3].sum((2, 3)) / opacity.sum((1, 2)).clamp(min=1e-6)[:, None]
    stain = np.linalg.norm(lab(mean.mul(255).numpy())[:, None] - LAB, axis=-1) < MEAN_NEAR
    takes = paint_share(colour).numpy()
    painted = np.where(solid, takes, 0).sum(axis=(1, 2)) / count
    area = solid.mean(axis=(1, 2))
    return Measures(
        _boxes(rgba),
        (lost <= LOST_SHARE) & ~stain & (area > 0)[:, None],
        (painted >= PAINT_SHARE) & (area >= PAINT_AREA),
    )


def paint_share(rgb: Tensor) -> Tensor:
    """How far a colour takes a new hue, (B, ...) from 0 to 1, for rgb (B, 3, ...) in 0 to 1.

    White parts (teeth, eyes, lights) keep their colour, so that the object keeps its face.
    """
    whiteness = rgb.amin(1)
    ramp = ((whiteness - 0.72) / 0.2).clamp(0, 1)
    return 1 - ramp * ramp * (3 - 2 * ramp)


def _reduced(rgba: Tensor) -> Tensor:
    """Premultiplied pictures (n, 4, SIDE, SIDE) in 0 to 1, averaged from the pixels."""
    pixels = rgba.movedim(-1, 1).float() / 255
    pixels = torch.cat([pixels[:, :3] * pixels[:, 3:], pixels[:, 3:]], 1)
    return torch.nn.functional.adaptive_avg_pool2d(pixels, SIDE)


def _boxes(rgba: Tensor) -> NDArray[np.float32]:
    """Left, top, right and bottom of what is not clear; the whole frame if all is."""
    seen = rgba[..., 3] >= BOX_OPACITY
    left, right = _ends(seen.any(1))
    top, bottom = _ends(seen.any(2))
    return torch.stack([left, top, right, bottom], 1).float().numpy()


def _ends(seen: Tensor) -> tuple[Tensor, Tensor]:
    """The first and last place that is set in each row, as shares of its length."""
    length = seen.shape[1]
    flags = seen.to(torch.uint8)
    first, last = flags.argmax(1), length - flags.flip(1).argmax(1)
    return first / length, last / length
