"""A request's control networks: opened, checked, shown their maps.

Shapes: H W pixels, h w latent height and width.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from safelight.canvas.resize import resized_by
from safelight.checkpoints.control_about import making_of
from safelight.checkpoints.control_load import LoadedControl, check_fits, load_control
from safelight.checkpoints.library import find_model
from safelight.condition import Control
from safelight.errors import RequestError
from safelight.model import Model
from safelight.models.control_modes import sigma_range, steering
from safelight.models.control_types import union_type
from safelight.models.controlnet import ControlNet
from safelight.preprocessors.filters import Pixels
from safelight.preprocessors.given import is_lines
from safelight.preprocessors.kinds import KINDS, kind_of
from safelight.preprocessors.maps import control_map, misfit, resolve_preprocessor
from safelight.tasks.edits import Control as Wanted
from safelight.tasks.request import Request
from safelight.tasks.supplies import Supplies
from safelight.tasks.work import Work


@dataclass(frozen=True)
class Controlled:
    """One control of a request: what conditions are told of it, and what to say."""

    name: str
    loaded: LoadedControl
    control: Control
    on_negative: bool
    notes: tuple[str, ...]


def settled_controls(request: Request) -> Request:
    """The request whose controls all say how their maps are made.

    Where it is left open, the map is made as those that the network learned from, if a file beside
    it tells (`checkpoints.control_about`); of any other network the picture is the map.
    Raises FileError, CheckpointError or RequestError for a network or such a file that cannot be
    used.
    """
    if all(wanted.preprocessor is not None for wanted in request.controls):
        return request
    return request.replace(controls=tuple(map(_settled, request.controls)))


def _settled(wanted: Wanted) -> Wanted:
    if wanted.preprocessor is not None:
        return wanted
    making = making_of(find_model(wanted.net))
    if making is None:
        return wanted.replace(preprocessor="none")
    return wanted.replace(
        preprocessor=making.preprocessor,
        options={**making.options, **wanted.options},
        resolution=wanted.resolution or making.resolution,
    )


def controlled(
    request: Request,
    wanted: Wanted,
    name: str,
    model: Model,
    sigmas: Tensor,
    supplies: Supplies,
    work: Work | None,
) -> Controlled:
    """A control made ready for this model and these noise levels (N + 1,).

    wanted: of a settled request. Raises FileError or CheckpointError if its network cannot be read
    or is for another model, RequestError for a preprocessor, kind or picture that does not go with
    it.
    """
    path = find_model(wanted.net)
    loaded = supplies.kept(
        ("control", path, model.dtype, model.device, id(model.network.unet)),
        lambda: load_control(path, base=model.network.unet),
    )
    check_fits(loaded, model)
    assert wanted.preprocessor is not None, "a settled request"
    follows = wanted.kind or kind_of(path.name) or _taught(path)
    image, notes = _map(request, wanted, follows, supplies, work)
    way = steering(wanted.mode, loaded.network)
    high, low = sigma_range(sigmas.tolist(), wanted.start, wanted.end)
    types = _types(wanted, loaded, follows)
    clash = misfit(wanted.preprocessor, follows)
    control = Control(
        net=name,
        image=image.to(model.device),
        scale=wanted.scale,
        weights=way.weights,
        high=high,
        low=low,
        types=types,
    )
    said = (*loaded.notes, *notes, *(() if clash is None else (clash,)))
    told = tuple(f"control {loaded.name}: {note}" for note in said)
    return Controlled(name, loaded, control, way.on_negative, told)


def _map(
    request: Request, wanted: Wanted, follows: str | None, supplies: Supplies, work: Work | None
) -> tuple[Tensor, tuple[str, ...]]:
    """The control map (1, 3, H, W) at the size that is drawn, and what to say of it."""
    assert request.width is not None and request.height is not None
    assert wanted.preprocessor is not None, "a settled request"
    size = (request.width, request.height)
    if wanted.picture is None:
        assert work is not None, "checked by the request"
        pixels, place = work.pixels, work.place
    else:
        pixels, place = supplies.picture(wanted.picture, "control picture").pixels, None
        if work is not None:
            if pixels.shape == work.frame.shape:  # drawn to the same scale: the same part counts
                pixels = work.region.of(pixels)
            place = work.place
        pixels = resized_by(wanted.resize, np.ascontiguousarray(pixels), size)
    made = control_map(
        wanted.preprocessor,
        pixels,
        mask=place,
        resolution=wanted.resolution,
        kind=follows,
        options=wanted.options,
    )
    notes = (*made.notes, *_twice(wanted.preprocessor, pixels))
    return torch.from_numpy(made.values).permute(2, 0, 1)[None], notes


def _twice(preprocessor: str, pixels: Pixels) -> tuple[str, ...]:
    """A warning if lines are found of what are lines already."""
    if resolve_preprocessor(preprocessor).name != "canny" or not is_lines(pixels):
        return ()
    return (
        "the picture looks like a finished map, and canny found the edges of its lines; "
        "preprocessor=none takes it as it is",
    )


def _taught(path: Path) -> str | None:
    """The kind of map that a network was taught to follow, if a file beside it tells."""
    making = making_of(path)
    return making.preprocessor if making is not None and making.preprocessor in KINDS else None


def _types(wanted: Wanted, loaded: LoadedControl, follows: str | None) -> tuple[int, ...]:
    network = loaded.network
    union = network.control.union if isinstance(network, ControlNet) else None
    if union is None:
        return ()
    kind = wanted.kind or (wanted.preprocessor if wanted.preprocessor != "none" else follows)
    if kind is None:
        raise RequestError(
            f"{loaded.name} follows several kinds of map; say which with kind, such as depth."
        )
    return (union_type(kind, union.types),)
