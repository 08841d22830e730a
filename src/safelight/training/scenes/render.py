"""Scenes to pictures, many at a time, on the CPU or a GPU.

Every object is scaled by two products with a matrix of filter weights, one for its columns and one
for its rows: a triangle filter as wide as a pixel of the coarser side, so that shrinking does not
alias. Objects are only moved and scaled, which is why two products are exact and no grid of points
is sampled. Colours are premultiplied first: a clear pixel's colour means nothing and must not reach
the rim. Objects are laid over each other in sRGB, as picture viewers do.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from safelight.training.scenes.book import SceneBook
from safelight.training.scenes.colours import RECOLOURS
from safelight.training.scenes.cutouts import SIDE, Cutouts
from safelight.training.scenes.measure import paint_share
from safelight.training.scenes.packed import PackedScenes, pack
from safelight.training.scenes.scene import LAYERS, Scene

CHUNK_CPU, CHUNK_GPU = 64, 1024  # pictures at once; an object needs about 1 MB meanwhile
# The least share of its frame that an object is taken to fill: below that it would be blown up.
LEAST_EXTENT = 0.5


def render(
    scenes: PackedScenes | Sequence[Scene],
    cutouts: Cutouts,
    size: int = 128,
    dtype: torch.dtype = torch.uint8,
) -> Tensor:
    """The pictures (B, 3, size, size) on the device of the cut-outs.

    As uint8 they go from 0 to 255, in a floating type from -1 to 1.
    """
    packed = scenes if isinstance(scenes, PackedScenes) else pack(scenes)
    device = cutouts.rgba.device
    boxes = torch.from_numpy(cutouts.catalogue.boxes).to(device, non_blocking=True)
    chunk = CHUNK_CPU if device.type == "cpu" else CHUNK_GPU
    pictures = torch.empty(len(packed), 3, size, size, dtype=dtype, device=device)
    for start in range(0, len(packed), chunk):
        rows = slice(start, start + chunk)
        shares = _composited(packed.take(rows), cutouts.rgba, boxes, size)
        if dtype == torch.uint8:
            shares = shares.mul(255).add_(0.5).clamp_(0, 255)  # the cast cuts off: round to nearest
        else:
            shares = shares.mul(2).sub_(1).clamp_(-1, 1)
        pictures[rows] = shares.to(dtype)
    return pictures


def pictures_of(
    book: SceneBook,
    indices: Sequence[int],
    cutouts: Cutouts,
    size: int = 128,
    dtype: torch.dtype = torch.uint8,
) -> tuple[Tensor, list[str]]:
    """The pictures and captions of some scenes of a book; see `render`."""
    scenes = book.scenes(indices)
    return render(scenes, cutouts, size, dtype), [scene.caption for scene in scenes]


def _composited(packed: PackedScenes, rgba: Tensor, boxes: Tensor, size: int) -> Tensor:
    """Pictures (b, 3, size, size) in 0 to 1, float32."""
    device = rgba.device
    present = packed.cutouts >= 0
    # On the CPU, so that nothing waits for the device.
    flat = present.flatten().nonzero()[:, 0]
    cutouts = packed.cutouts.flatten()[flat].long().to(device, non_blocking=True)
    spots = packed.spots.flatten(0, 1)[flat].to(device, non_blocking=True)
    recolours = packed.recolours.flatten()[flat]
    objects = _premultiplied(rgba[cutouts], recolours)
    layers = _scaled(objects, spots, boxes[cutouts], size)  # (m, size, 4, size)
    place = present.flatten().cumsum(0).view_as(present) - 1  # of each object among the layers
    pictures = packed.backgrounds.to(device, non_blocking=True).float().div_(255)
    pictures = pictures[:, None, :, None].expand(-1, size, -1, size).contiguous()
    for depth in range(LAYERS):
        rows = present[:, depth].nonzero()[:, 0]
        if len(rows):
            over = layers[place[rows, depth].to(device, non_blocking=True)]
            rows = rows.to(device, non_blocking=True)
            pictures[rows] = over[:, :, :3] + pictures[rows] * (1 - over[:, :, 3:])
    return pictures.movedim(2, 1)


def _premultiplied(rgba: Tensor, recolours: Tensor) -> Tensor:
    """Objects (m, SIDE, SIDE, 4) as (m, SIDE, 4, SIDE) float32 in 0 to 1, colours times opacity."""
    pixels = rgba.movedim(-1, 2).float().div_(255)
    painted = (recolours >= 0).nonzero()[:, 0]
    if len(painted):
        colours = torch.tensor(list(RECOLOURS.values()))[recolours[painted].long()]
        rows = painted.to(rgba.device, non_blocking=True)
        pixels[rows] = _repainted(pixels[rows], colours.to(rgba.device, non_blocking=True))
    pixels[:, :, :3].mul_(pixels[:, :, 3:])
    return pixels.contiguous()


def _repainted(pixels: Tensor, colours: Tensor) -> Tensor:
    """Objects (k, SIDE, 4, SIDE) in new hues (k, 3), given as hue, saturation and value.

    The hue is replaced; the value keeps its ratio to the object's mean, so shading stays, and the
    whole comes as light as the new colour is. What shading would push past 1 turns paler.
    """
    rgb, opacity = pixels[:, :, :3], pixels[:, :, 3]
    hue, saturation, value = colours[:, :, None, None].unbind(1)
    takes = paint_share(rgb.movedim(2, 1))  # (k, SIDE, SIDE)
    light = rgb.amax(2)
    weight = takes * opacity
    mean = (light * weight).sum((1, 2)) / weight.sum((1, 2)).clamp(min=1e-6)
    lit = value * light / mean.clamp(min=0.05)[:, None, None]
    pale = (lit - 1).clamp(0, 0.75)
    new = _hsv_rgb(hue, saturation * (1 - pale), lit.clamp(max=1))
    share = takes[:, :, None]
    return torch.cat([rgb + (new - rgb) * share, pixels[:, :, 3:]], 2)


def _hsv_rgb(hue: Tensor, saturation: Tensor, value: Tensor) -> Tensor:
    """sRGB (k, S, 3, S) of hues (k, 1, 1), saturations and values (k, S, S), all 0 to 1."""
    offsets = torch.tensor([5.0, 3.0, 1.0], device=hue.device)
    turn = (offsets + 6 * hue[..., None]) % 6  # Smith 1978, in the form without cases
    drop = torch.minimum(turn, 4 - turn).clamp(0, 1)
    colours = value[..., None] * (1 - saturation[..., None] * drop)
    return colours.movedim(-1, 2)


def _scaled(objects: Tensor, spots: Tensor, boxes: Tensor, size: int) -> Tensor:
    """Premultiplied objects (m, SIDE, 4, SIDE) in their places: (m, size, 4, size)."""
    left, top, right, bottom = boxes.unbind(1)
    extent = torch.maximum(right - left, bottom - top).clamp(min=LEAST_EXTENT)
    side = spots[:, 0] / extent  # of the whole frame, as a share of the picture
    columns = _weights(side, spots[:, 1] - side * (left + right) / 2, size)
    rows = _weights(side, spots[:, 2] - side * (top + bottom) / 2, size)
    count = len(objects)
    upright = torch.bmm(rows, objects.view(count, SIDE, 4 * SIDE))
    across = torch.bmm(upright.view(count, size * 4, SIDE), columns.mT)
    return across.view(count, size, 4, size)


def _weights(side: Tensor, start: Tensor, size: int) -> Tensor:
    """How much each of an object's SIDE lines gives to each of `size` lines: (m, size, SIDE).

    The frame of object i covers [start, start + side) of the picture. Beyond the frame all is
    clear, so a line's weights add up to 1 over all lines that there could be, not over those in it.
    """
    device = side.device
    steps = torch.arange(size, device=device) + 0.5
    ratio = SIDE / (side * size)  # lines of the object to a line of the picture
    reach = ratio.clamp(min=1)[:, None]
    at = (steps / size - start[:, None]) / side[:, None] * SIDE - 0.5
    lines = torch.arange(SIDE, device=device)
    weights = (1 - (at[..., None] - lines).abs() / reach[..., None]).clamp_(min=0)
    return weights / _triangle_sum(at - at.floor(), reach)[..., None]


def _triangle_sum(offset: Tensor, reach: Tensor) -> Tensor:
    """The sum over all whole j of max(0, 1 - |offset - j| / reach), for offset in [0, 1)."""
    below = (reach - offset).floor() + 1  # j = 0, -1, -2, ...
    above = (reach + offset).floor()  # j = 1, 2, 3, ...
    lower = below - (below * offset + below * (below - 1) / 2) / reach
    upper = above - (above * (above + 1) / 2 - above * offset) / reach
    return lower + upper
