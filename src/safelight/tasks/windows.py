"""How a request's network looks at the picture: as a whole, or through overlapping windows; and
where the picture goes on at its other side.

Shapes: h w latent height and width.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn

from safelight.condition import Condition
from safelight.diffusion.guidance import Tiled, Windows
from safelight.diffusion.guidance.tiled import Window
from safelight.engines.sentinel import Sentinel
from safelight.engines.watched import Watched
from safelight.errors import RequestError
from safelight.model import Model
from safelight.models.layers import Wrap, wrapped
from safelight.tasks.aids import Aids
from safelight.tasks.request import Request
from safelight.text.told_crop import with_crop

SHARE = 4  # windows share a quarter of their smaller side unless told


def wrap_of(request: Request) -> Wrap:
    """Along which axes the picture continues at its other side."""
    return Wrap(request.seamless in ("x", "both"), request.seamless in ("y", "both"))


def windows_of(request: Request, model: Model) -> Windows | None:
    """The windows that a request asks for, in latents; None where the picture is seen as a whole.

    Raises RequestError for sides that hold no whole number of latents, or no step between windows.
    """
    tiles = request.tiles
    if tiles is None:
        return None
    factor, side = model.codec.factor, model.family.native_size
    width, height = tiles.size or (side, side)
    overlap = tiles.overlap
    if overlap is None:
        overlap = min(width, height) // SHARE // factor * factor
    for name, length in (("size", width), ("size", height), ("overlap", overlap)):
        if length % factor:
            raise RequestError(
                f"tiles.{name} must be a multiple of {factor} for this model; got {length}."
            )
    if overlap >= min(width, height):
        raise RequestError(
            f"tiles.overlap must be below the sides of a tile, {width} x {height}; got {overlap}."
        )
    wrap = wrap_of(request)
    return Windows(
        height // factor,
        width // factor,
        overlap // factor,
        tiles.weighting,
        tiles.batch,
        wrap.x,
        wrap.y,
    )


def looking(
    model: Model, request: Request, sentinel: Sentinel, only: Tensor | None = None
) -> Tiled | Watched:
    """The model's network as the request looks through it, under the sentinel's eyes.

    only: (h, w), 0 where nobody will look. Raises RequestError for what needs one view of all.
    """
    network = Watched(model.network, sentinel)
    windows = windows_of(request, model)
    if windows is None:
        return network
    if model.network.observer is not None:
        raise RequestError(
            "word maps need one view of the whole picture, which tiles have not; leave tiles out."
        )
    spec, sizes, factor = model.family.text, request.sizes, model.codec.factor

    def told(condition: Condition, window: Window) -> Condition:
        if window.top == window.left == 0:
            return condition  # as it was encoded
        top, left = (factor * offset for offset in (window.top, window.left))
        return with_crop(condition, spec, sizes.crop_top + top, sizes.crop_left + left)

    return Tiled(network, windows, only, told)


def check_seamless(request: Request, model: Model, width: int, height: int) -> None:
    """Raise RequestError if a picture of this size cannot continue at its other side.

    There each level of the U-Net must halve the picture evenly; windows need not.
    """
    x, y = _met_by_network(request, model, width, height)
    stride = model.codec.factor * 2 ** (len(model.network.unet.config.channels) - 1)
    for name, meets, length in (("width", x, width), ("height", y, height)):
        if meets and length % stride:
            below = max(length - length % stride, stride)
            raise RequestError(
                f"{name} must be a multiple of {stride} for this model to be seamless; got "
                f"{length}. The nearest are {below} and {below + stride}."
            )


@contextmanager
def ends_joined(model: Model, request: Request, aids: Aids) -> Iterator[None]:
    """While it is entered, the networks continue the picture at its other side, as asked."""
    assert request.width is not None and request.height is not None
    x, y = _met_by_network(request, model, request.width, request.height)
    networks: list[nn.Module] = [model.network.unet]
    networks += [network for network in aids.networks.values() if isinstance(network, nn.Module)]
    if aids.refiner is not None:
        networks.append(aids.refiner.network.unet)
    if not (x or y):
        yield
        return
    with wrapped(*networks, x=x, y=y):
        yield


def _met_by_network(request: Request, model: Model, width: int, height: int) -> tuple[bool, bool]:
    """Along which axes the network itself joins the ends, and no window does."""
    wrap, windows = wrap_of(request), windows_of(request, model)
    if windows is None:
        return wrap.x, wrap.y
    factor = model.codec.factor
    return windows.ends_meet(height // factor, width // factor)
