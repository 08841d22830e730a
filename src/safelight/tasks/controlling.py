"""A request's control networks: opened, checked, shown their maps.

Shapes: H W pixels, h w latent height and width.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from safelight.canvas.resize import resized_by
from safelight.checkpoints.control_load import LoadedControl, check_fits, load_control
from safelight.checkpoints.library import find_model
from safelight.condition import Control
from safelight.errors import RequestError
from safelight.model import Model
from safelight.models.control_modes import sigma_range, steering
from safelight.models.control_types import union_type
from safelight.models.controlnet import ControlNet
from safelight.preprocessors.kinds import kind_of
from safelight.preprocessors.maps import control_map, misfit
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

    Raises FileError or CheckpointError if its network cannot be read or is for another model,
    RequestError for a preprocessor, kind or picture that does not go with it.
    """
    path = find_model(wanted.net)
    loaded = supplies.kept(
        ("control", path, model.dtype, model.device, id(model.network.unet)),
        lambda: load_control(path, base=model.network.unet),
    )
    check_fits(loaded, model)
    follows = wanted.kind or kind_of(path.name)
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
    return torch.from_numpy(made.values).permute(2, 0, 1)[None], made.notes


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
