"""Picture-prompt adapters (IP-Adapter) in their files, and the vision towers they need.

The published files hold `image_proj.*`, which makes tokens of a picture, and `ip_adapter.N.to_k_ip`
and `to_v_ip`, a branch for each cross-attention; as safetensors, or pickled as two dictionaries.
"""

import os
import re
from pathlib import Path

import torch

from safelight.adapters.image_prompts import ImagePromptAdapter
from safelight.checkpoints.checkpoint import mismatch
from safelight.checkpoints.files import open_weights
from safelight.checkpoints.filling import filled
from safelight.checkpoints.image_prompt_vision import fitting_vision
from safelight.checkpoints.keymap import KeyMap, Row
from safelight.checkpoints.kinds import kind_of
from safelight.checkpoints.measure_unet import Shapes
from safelight.checkpoints.parts import Part, Selection
from safelight.checkpoints.weight_file import WeightFile
from safelight.errors import CheckpointError
from safelight.models.clip import ClipVision
from safelight.models.image_prompt import HEAD_WIDTH, ImagePromptConfig, ImagePromptNet, Kind
from safelight.printable import shown

Pathlike = str | os.PathLike[str]

_BRANCH = re.compile(r"ip_adapter\.(\d{1,4})\.to_k_ip\.weight")
_MAX_LAYERS = 64


def load_image_prompt(
    path: Pathlike,
    *,
    vision: Pathlike | ClipVision | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
) -> ImagePromptAdapter:
    """The IP-Adapter in a file, with the vision tower that it reads pictures with.

    vision: the tower's folder or file, or the tower itself if it is loaded; None looks where
        published adapters keep theirs, in `image_encoder` beside the file and near it.
    dtype, device: as for `load`; of adapter and tower.
    Raises FileError if something cannot be read, and CheckpointError if it is no such adapter, is
    one that needs an external face network, or if the tower is missing or another one.
    """
    path, where = Path(path), torch.device(device)
    with open_weights(path) as file:
        part = image_prompt_part(file)
        assert isinstance(part.config, ImagePromptConfig)
        tower, folder = fitting_vision(path, part.config, vision, dtype=dtype, device=where)
        net = filled(part, dtype=dtype, device=where)
    assert isinstance(net, ImagePromptNet)
    files = (path,) if folder is None else (path, folder)
    return ImagePromptAdapter(path.name, net, tower, files)


def image_prompt_part(file: WeightFile) -> Part:
    """The adapter in an opened file, checked but not read. Raises CheckpointError if it has none.

    Every tensor of the file has its place, or this raises.
    """
    tensors = Selection.below(file)
    try:
        config = measured_image_prompt(tensors.shapes)
    except CheckpointError as error:
        raise CheckpointError(f"{shown(file.path)}: {error}") from None
    part = Part("image_prompt", config, tensors, KeyMap([Row("", "")]))
    report = part.report()
    if not report.sound:
        raise CheckpointError(
            f"{shown(file.path)} does not fit the IP-Adapter it seems to be: {mismatch([report])}"
        )
    return part


def measured_image_prompt(shapes: Shapes) -> ImagePromptConfig:
    """The config that fits these tensors.

    Raises CheckpointError if they are no adapter, or one of the kinds that read a face's identity.
    """
    branches = _branches(shapes)
    if not branches:
        found = kind_of(dict(shapes))
        seen = f": {found.evidence}" if found.kind != "unknown" else ""
        raise CheckpointError(
            f"this is no IP-Adapter{seen}; expected tensors image_proj.* and ip_adapter.1.to_k_ip"
        )
    _refuse_identity(shapes)
    context_width = shapes[f"ip_adapter.{branches[0][0]}.to_k_ip.weight"][-1]
    kind = _kind(shapes)
    if kind == "plus":
        return _measured_plus(shapes, context_width, branches)
    if kind == "full":
        width = shapes["image_proj.proj.0.weight"][-1]
        return ImagePromptConfig("full", width, context_width, branches, tokens=None)
    rows, width = _matrix(shapes, "image_proj.proj.weight")
    if not context_width or rows % context_width or not rows:
        raise CheckpointError(
            f"its projection makes {rows} numbers, which are no tokens of width {context_width}"
        )
    return ImagePromptConfig("plain", width, context_width, branches, rows // context_width)


def _branches(shapes: Shapes) -> tuple[tuple[int, int], ...]:
    found = {
        int(match[1]): shape[0]
        for name, shape in shapes.items()
        if (match := _BRANCH.fullmatch(name)) and len(shape) == 2
    }
    return tuple(sorted(found.items()))


def _kind(shapes: Shapes) -> Kind:
    if "image_proj.latents" in shapes:
        return "plus"
    if "image_proj.proj.3.weight" in shapes and "image_proj.proj.0.weight" in shapes:
        return "full"
    if "image_proj.proj.weight" in shapes:
        return "plain"
    raise CheckpointError(
        "its image projection is of no published kind (plain, plus or full-face IP-Adapter)"
    )


def _refuse_identity(shapes: Shapes) -> None:
    """Refuse the FaceID kinds, which are told a vector that a face recognition network makes."""
    perceiver = any(name.startswith("image_proj.perceiver_resampler.") for name in shapes)
    identity = "image_proj.norm.weight" in shapes and "image_proj.proj.0.weight" in shapes
    if perceiver or identity or any("_lora." in name for name in shapes):
        raise CheckpointError(
            "this is an IP-Adapter FaceID, which needs a face recognition network (InsightFace) "
            "that is not supported; give ip-adapter-plus-face or ip-adapter-full-face, which read "
            "the picture itself"
        )


def _measured_plus(
    shapes: Shapes, context_width: int, branches: tuple[tuple[int, int], ...]
) -> ImagePromptConfig:
    latents = shapes["image_proj.latents"]
    depth = 0
    while f"image_proj.layers.{depth}.0.to_q.weight" in shapes and depth <= _MAX_LAYERS:
        depth += 1
    if len(latents) != 3 or not 0 < depth <= _MAX_LAYERS:
        raise CheckpointError("its resampler has no layers that we know; the file is incomplete")
    inner, hidden = _matrix(shapes, "image_proj.layers.0.0.to_q.weight")
    if hidden != latents[2] or not inner or inner % HEAD_WIDTH:
        raise CheckpointError(
            f"its resampler is {inner} wide in attention, which is no multiple of {HEAD_WIDTH}"
        )
    return ImagePromptConfig(
        "plus",
        _matrix(shapes, "image_proj.proj_in.weight")[1],
        context_width,
        branches,
        tokens=latents[1],
        hidden_width=hidden,
        depth=depth,
        heads=inner // HEAD_WIDTH,
        mlp_width=_matrix(shapes, "image_proj.layers.0.1.1.weight")[0],
    )


def _matrix(shapes: Shapes, name: str) -> tuple[int, int]:
    shape = shapes.get(name, ())
    if len(shape) != 2:
        raise CheckpointError(f"{name} is missing or no matrix; the file is incomplete")
    return shape[0], shape[1]
