"""Hypernetworks in their files, in A1111's layout: pickles by width, with notes of their shape.

A width such as 768 holds two lists of tensors, of keys and of values: `768.0.linear.0.weight`. The
numbers count activations and dropouts, too, so what is what follows from the tensors' shapes; the
first files have `linear1` and `linear2`.
"""

import os
import re
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path

import torch
from torch import nn

from safelight.checkpoints.files import open_weights
from safelight.checkpoints.finite import check_finite
from safelight.checkpoints.kinds import kind_of
from safelight.checkpoints.weight_file import WeightFile
from safelight.errors import CheckpointError
from safelight.model import Model
from safelight.models.blank import blank
from safelight.models.hypernetwork import ACTIVATIONS, Hypernetwork, HypernetworkConfig
from safelight.printable import shown

_TENSOR = re.compile(r"(\d{1,5})\.([01])\.(?:linear\.(\d{1,3})|linear([12]))\.(weight|bias)")
_BESIDE = ("optimizer_state_dict.",)  # of the training, not of the network
_MOST_LAYERS = 32
_FAMILIES = {768: "SD 1.x", 1024: "SD 2.x", 2048: "SDXL"}

Place = tuple[int, int, int]  # width, 0 of keys or 1 of values, number in its list
Pair = dict[str, str]  # "weight" and "bias" -> name in the file


def load_hypernetwork(path: str | os.PathLike[str], model: Model) -> Hypernetwork:
    """The hypernetwork in a file, in the type and on the device of the model's U-Net.

    Raises FileError if it cannot be read or holds NaN, CheckpointError if it is no hypernetwork, is
    damaged, or acts on no width that this model's attention looks at.
    """
    path = Path(path)
    with open_weights(path) as file:
        places = _places(file)
        config = _config(file, places)
        _check_family(path, config, model)
        with blank():
            network = Hypernetwork(config)
        for ours, name in _named(config, places, file).items():
            tensor = file.read(name, dtype=torch.float32, copy=True)
            check_finite([(name, tensor)], path, full=True)
            owner, _, leaf = ours.rpartition(".")
            parameter = nn.Parameter(tensor, requires_grad=False)
            setattr(network.get_submodule(owner), leaf, parameter)
    return network.to(model.device, model.dtype).eval().requires_grad_(False)


def _places(file: WeightFile) -> dict[Place, Pair]:
    """Every layer of the file by its place; a file with anything else in it is refused."""
    found: dict[Place, Pair] = {}
    for name in file.header:
        if name.startswith(_BESIDE):
            continue
        match = _TENSOR.fullmatch(name)
        if match is None:
            kind = kind_of({n: info.shape for n, info in file.header.items()})
            seen = f": {kind.evidence}" if kind.kind not in ("unknown", "hypernetwork") else ""
            raise CheckpointError(
                f"{shown(file.path)} is no hypernetwork{seen or f' (it holds {shown(name)})'}; "
                "expected tensors such as 768.0.linear.0.weight"
            )
        number = int(match[3]) if match[3] else int(match[4]) - 1
        found.setdefault((int(match[1]), int(match[2]), number), {})[match[5]] = name
    for place, pair in found.items():
        if pair.keys() != {"weight", "bias"}:
            raise CheckpointError(
                f"{shown(file.path)}: a layer of width {place[0]} has only {', '.join(pair)}; "
                "the file is damaged, get another copy"
            )
    return dict(sorted(found.items()))


def _config(file: WeightFile, places: Mapping[Place, Pair]) -> HypernetworkConfig:
    """The shape that tensors and notes tell. Raises CheckpointError if they contradict it."""
    widths = tuple(dict.fromkeys(width for width, _, _ in places))
    if not widths:
        raise CheckpointError(f"{shown(file.path)} holds no hypernetwork; it has no layers")
    shapes = [
        file.header[pair["weight"]].shape
        for (width, which, _), pair in places.items()
        if (width, which) == (widths[0], 0)
    ]
    matrices = [shape for shape in shapes if len(shape) == 2]
    if not 1 <= len(matrices) <= _MOST_LAYERS or any(a[0] != b[1] for a, b in pairwise(matrices)):
        raise CheckpointError(
            f"{shown(file.path)}: its layers of width {widths[0]} do not follow one another "
            f"({[list(shape) for shape in matrices[:4]]}); the file is damaged"
        )
    notes = file.metadata
    activation = notes.get("activation_func", "linear").lower()
    if activation not in ACTIVATIONS:
        raise CheckpointError(
            f"{shown(file.path)} uses the activation {shown(activation)}; known are "
            f"{', '.join(ACTIVATIONS)}"
        )
    sides = [matrices[0][1], *(shape[0] for shape in matrices)]
    return HypernetworkConfig(
        widths=widths,
        layers=tuple(side / widths[0] for side in sides),
        activation=activation,
        activate_output=notes.get("activate_output", "True") == "True",
        norm=any(len(shape) == 1 for shape in shapes),
    )


def _named(
    config: HypernetworkConfig, places: Mapping[Place, Pair], file: WeightFile
) -> dict[str, str]:
    """The file's name of each of our parameters, every shape checked. Raises CheckpointError."""
    counts: dict[tuple[int, int, str], int] = {}
    named: dict[str, str] = {}
    for (width, which, _), pair in places.items():
        kind = "linears" if len(file.header[pair["weight"]].shape) == 2 else "norms"
        number = counts[(width, which, kind)] = counts.get((width, which, kind), -1) + 1
        for leaf, name in pair.items():
            named[f"{width}.{which}.{kind}.{number}.{leaf}"] = name
    with blank():
        wanted = {n: tuple(p.shape) for n, p in Hypernetwork(config).named_parameters()}
    given = {ours: file.header[name].shape for ours, name in named.items()}
    if wanted != given:
        odd = next(n for n in {**wanted, **given} if wanted.get(n) != given.get(n))
        raise CheckpointError(
            f"{shown(file.path)} does not fit the hypernetwork it seems to be: {odd} should be "
            f"{_shape(wanted.get(odd))} and is {_shape(given.get(odd))}; the file is damaged"
        )
    return named


def _shape(shape: tuple[int, ...] | None) -> str:
    return "absent" if shape is None else str(list(shape))


def _check_family(path: Path, config: HypernetworkConfig, model: Model) -> None:
    """Refuse a hypernetwork for texts of another width."""
    own = model.network.unet.config
    texts = [width for width in config.widths if width in _FAMILIES]
    acts_on = {own.context_width} if texts else {own.context_width, *own.channels}
    if acts_on & set(config.widths):
        return
    made_for = f"{_FAMILIES[texts[0]]} (text width {texts[0]})" if texts else "another model"
    raise CheckpointError(
        f"{shown(path.name)} is a hypernetwork for {made_for}, of widths "
        f"{', '.join(map(str, config.widths))}, but the loaded model is {model.family.label} (text "
        f"width {own.context_width}); take one made for it"
    )
