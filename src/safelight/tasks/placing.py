"""Models opened so that each part is in memory as a request's `offload` says."""

from dataclasses import replace
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from torch import nn

from safelight.checkpoints.load import load
from safelight.checkpoints.resting import FileRest, load_resting
from safelight.engines.budget_rates import available_bytes
from safelight.engines.offload import HostRest, Offload, Placement, Rest
from safelight.engines.table import AUTO, EAGER, ENGINES, engined, sink_of
from safelight.errors import RequestError
from safelight.model import Model
from safelight.tasks.aids import Aids
from safelight.tasks.named_files import named_files
from safelight.tasks.request import Request

ROOM = 1.5e9  # bytes beside the weights: maps of a picture, and what others may want
LEAST = 0.5e9  # bytes of a model's files from which it is worth while to have parts go
SUFFIXES = frozenset({".safetensors", ".ckpt", ".pt", ".pth", ".bin"})


class Opening(NamedTuple):
    """All that decides what a model is in memory, besides its files."""

    dtype: torch.dtype
    device: torch.device
    engine: str = EAGER
    offload: Offload | Literal["auto"] = "auto"
    ema: bool = False
    prediction: str | None = None
    zero_terminal_snr: bool | None = None


def opened(path: Path, how: Opening, vae: Path | None = None) -> Model:
    """The model of a file or folder, with its engine and, where parts come and go, its placement.

    Raises as `load` and `engined`, and RequestError for parts that shall come and go under an
    engine that keeps weights of its own.
    """
    check_offload(how.engine, how.offload, how.device)
    if how.offload == "auto":
        how = how._replace(offload=fitting(path, how, vae))
    if how.offload == "none":
        model = load(
            path,
            vae=vae,
            ema=how.ema,
            prediction=how.prediction,
            zero_terminal_snr=how.zero_terminal_snr,
            dtype=how.dtype,
            device=how.device,
            sink=sink_of(how.engine),
        )
        return engined(model, how.engine)
    resting, rests = _resting(path, how, vae)
    placement = Placement(how.device, rests, sequential=how.offload == "sequential")
    return replace(resting, placement=placement, engine=how.engine)


def opened_beside(path: Path, model: Model) -> Model:
    """A further model for the same drawing: of the same type, engine, device and placement."""
    how = Opening(model.dtype, model.device, model.engine, "none")
    if not isinstance(model.placement, Placement):
        return opened(path, how)
    resting, rests = _resting(path, how, None)
    model.placement.joined(rests)
    return replace(resting, placement=model.placement, engine=how.engine)


def fitting(path: Path, how: Opening, vae: Path | None = None) -> Offload:
    """ "none" if all weights fit in the memory that is there now, else "parts".

    Room is left for what a picture of the model's own size takes besides. Nothing is read where
    the files are small beside that memory. An engine with weights of its own is left alone.
    """
    available = available_bytes(how.device)
    if available is None or not may_rest(how.engine, how.device):
        return "none"
    room = available - ROOM
    stored = sum(_sizes(place) for place in (path, vae) if place is not None)
    if stored * how.dtype.itemsize / 2 < room:  # were they stored in half precision
        return "none"
    model, rests = _in_files(path, how, vae)
    del model
    return "none" if sum(rest.nbytes for rest in rests) < room else "parts"


def passes_once(path: Path, request: Request, device: torch.device) -> bool:
    """Whether parts may come and go at no cost, for a request that leaves it open.

    So it is where each works just once, and then no more: for one plain picture from text on the
    CPU, with no files besides the model's, at `path`. All weights are then read once, as they would
    be all together, and never more than one part's are there. Small models are left alone.
    """
    plain = request.source is None and request.hires is None and request.refiner is None
    roles = {file.role for file in named_files(request)}
    return (
        device.type == "cpu"
        and request.offload == "auto"
        and request.engine != AUTO
        and may_rest(request.engine, device)
        and request.count == request.best_of == 1
        and plain
        and roles <= {"model", "vae"}
        and _sizes(path) >= LEAST
    )


def check_offload(engine: str, offload: str, device: torch.device) -> None:
    """Raise RequestError if an engine's weights cannot come and go."""
    if offload not in ("auto", "none") and not may_rest(engine, device):
        raise RequestError(
            f"offload {offload} moves the weights of modules, and engine {engine} keeps its own; "
            f"leave one of them out."
        )


def may_rest(engine: str, device: torch.device) -> bool:
    """Whether parts that an engine computes may come and go."""
    known = ENGINES.get(engine)
    from_file = known is not None and known.sink is not None and known.network is not None
    return engine in (EAGER, AUTO) or (from_file and device.type == "cpu")


def hold_together(model: Model, request: Request, aids: Aids) -> None:
    """Have all parts at once that a request lets work together, until the drawing ends."""
    for one in (model, aids.refiner):
        if one is None or one.placement is None:
            continue
        if aids.clip is not None:  # climbs through network and decoder
            one.placement.held(one.network.unet, *_coders(model))
        if request.guidance.sag is not None:  # looks into the U-Net's middle
            one.placement.held(one.network.unet)


def _resting(path: Path, how: Opening, vae: Path | None) -> tuple[Model, list[Rest]]:
    """The model with its weights away from the device, and where they are."""
    if how.device.type == "cpu":
        model, in_files = _in_files(path, how, vae)
        return model, list(in_files)
    model = load(
        path,
        vae=vae,
        ema=how.ema,
        prediction=how.prediction,
        zero_terminal_snr=how.zero_terminal_snr,
        dtype=how.dtype,
    )
    parts = [model.network.unet, *_coders(model), *model.text.encoders]
    return model, [HostRest(part, how.device) for part in parts]


def _in_files(path: Path, how: Opening, vae: Path | None) -> tuple[Model, tuple[FileRest, ...]]:
    engine = ENGINES.get(how.engine)
    return load_resting(
        path,
        vae=vae,
        ema=how.ema,
        prediction=how.prediction,
        zero_terminal_snr=how.zero_terminal_snr,
        dtype=how.dtype,
        sink=sink_of(how.engine),
        settle=None if engine is None else engine.network,
    )


def _sizes(place: Path) -> int:
    """Bytes of a weights file, or of all in a folder."""
    files = [place] if place.is_file() else place.rglob("*")
    return sum(file.stat().st_size for file in files if file.suffix in SUFFIXES)


def _coders(model: Model) -> list[nn.Module]:
    coder = model.codec.autoencoder
    assert isinstance(coder, nn.Module)
    return [coder]
