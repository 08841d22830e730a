"""The evaluator in a folder of its own: `config.json` with shape and labels, and the weights."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from safelight.checkpoints.files import open_weights
from safelight.checkpoints.finite import check_cast, check_finite
from safelight.checkpoints.hashes import sha256
from safelight.checkpoints.json_object import LAYERS, JsonObject, naming, read_object
from safelight.checkpoints.parts import listed
from safelight.checkpoints.weight_file import WeightFile
from safelight.checkpoints.writing import Entry, write_safetensors
from safelight.errors import CheckpointError
from safelight.models.blank import blank
from safelight.models.evaluator import Evaluator, EvaluatorConfig, Labels
from safelight.printable import shown
from safelight.writing import whole_folder, write_text

CONFIG = "config.json"
WEIGHTS = "evaluator.safetensors"
KIND = "SafelightEvaluator"


@dataclass(frozen=True, slots=True)
class LoadedEvaluator:
    """An evaluator ready to judge, what its logits stand for, and the SHA-256 of its weights."""

    evaluator: Evaluator
    labels: Labels
    sha256: str


def write_evaluator(
    folder: Path,
    evaluator: Evaluator,
    labels: Labels,
    *,
    dtype: torch.dtype | None = None,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """The evaluator in a new folder, in `dtype` or the types it has.

    Raises CheckpointError if there are not as many labels as logits, RequestError if a weight does
    not fit the type, OutputError if the folder cannot be written.
    """
    config = evaluator.config
    _check_labels(config, labels, "the evaluator")
    entries = []
    for name, tensor in evaluator.state_dict().items():
        cast = tensor if dtype is None else tensor.to(dtype)
        check_cast(name, tensor, cast, WEIGHTS)
        entries.append(Entry(name, tuple(cast.shape), cast.dtype, cast.clone))
    with whole_folder(folder, sum(entry.nbytes for entry in entries)) as place:
        write_safetensors(place / WEIGHTS, entries, {"format": "pt", **(metadata or {})})
        write_text(place / CONFIG, json.dumps(_json(config, labels), indent=1) + "\n")


def load_evaluator(
    folder: Path, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> LoadedEvaluator:
    """The evaluator of a folder, on a device and without dropout.

    Raises FileError if a file is missing or damaged, CheckpointError if config, labels and weights
    do not belong together.
    """
    config, labels = _config(read_object(folder / CONFIG))
    path = folder / WEIGHTS
    with blank():
        evaluator = config.build()
    with open_weights(path) as file:
        _check_names(evaluator, file)
        state = {name: file.read(name, dtype=dtype, copy=True) for name in evaluator.state_dict()}
    check_finite(state.items(), path, full=True)
    evaluator.load_state_dict(state, assign=True)
    return LoadedEvaluator(evaluator.to(device).eval(), labels, sha256(path))


def _json(config: EvaluatorConfig, labels: Labels) -> dict[str, object]:
    return {
        "_class_name": KIND,
        "widths": list(config.widths),
        "blocks": list(config.blocks),
        "image_size": config.image_size,
        "groups": config.groups,
        "dropout": config.dropout,
        "styles": list(labels.styles),
        "concepts": list(labels.concepts),
    }


def _config(json: JsonObject) -> tuple[EvaluatorConfig, Labels]:
    with naming(json):
        if json.text("_class_name", "") != KIND:
            raise CheckpointError(
                f"{json.source} is not an evaluator's config (_class_name is "
                f"{shown(json.values.get('_class_name'))}); expected {KIND}"
            )
        labels = Labels(json.texts("concepts"), json.texts("styles"))
        config = EvaluatorConfig(
            len(labels.concepts),
            len(labels.styles),
            widths=json.wholes("widths"),
            blocks=json.wholes("blocks", most=LAYERS),
            image_size=json.whole("image_size"),
            groups=json.whole("groups"),
            dropout=json.number("dropout"),
        )
        _check_shape(config)
    return config, labels


def _check_shape(config: EvaluatorConfig) -> None:
    """A config from a file may ask for anything; what the network cannot be is refused by name."""
    levels = len(config.widths)
    if not levels or levels != len(config.blocks) or 0 in config.blocks:
        raise CheckpointError(
            f"widths {list(config.widths)} and blocks {list(config.blocks)} must have one number, "
            "1 or more, for each level"
        )
    if config.groups < 1 or any(w < 1 or w % config.groups or w > 4096 for w in config.widths):
        raise CheckpointError(
            f"widths {list(config.widths)} must be multiples of groups ({config.groups}), "
            "at most 4096"
        )
    smallest = 1 << levels
    if not smallest <= config.image_size <= 1024 or config.image_size % smallest:
        raise CheckpointError(
            f"image_size is {config.image_size}; with {levels} levels it must be a multiple of "
            f"{smallest}, at most 1024"
        )
    if not 0 <= config.dropout < 1:
        raise CheckpointError(f"dropout is {config.dropout}; expected 0 or more, below 1")


def _check_labels(config: EvaluatorConfig, labels: Labels, where: str) -> None:
    wanted = (config.classes, config.styles)
    if (len(labels.concepts), len(labels.styles)) != wanted:
        raise CheckpointError(
            f"{where} has logits for {wanted[0]} concepts and {wanted[1]} styles, but "
            f"{len(labels.concepts)} and {len(labels.styles)} labels were given"
        )


def _check_names(evaluator: Evaluator, file: WeightFile) -> None:
    wanted = {name: tuple(tensor.shape) for name, tensor in evaluator.state_dict().items()}
    found = {name: info.shape for name, info in file.header.items()}
    if wanted == found:
        return
    missing, surplus = wanted.keys() - found.keys(), found.keys() - wanted.keys()
    misshapen = [n for n in wanted.keys() & found.keys() if wanted[n] != found[n]]
    faults = [
        f"{what}: {listed(map(shown, sorted(names)))}"
        for what, names in (("missing", missing), ("surplus", surplus), ("misshapen", misshapen))
        if names
    ]
    raise CheckpointError(
        f"{shown(file.path)} does not fit the {CONFIG} beside it ({'; '.join(faults)}); "
        "keep the two files of one training together"
    )
