"""From a path to a model: identify, check every name and shape, then read one tensor at a time."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from safelight.checkpoints.checkpoint import Checkpoint, Opened, by_prefix, checked, mismatch
from safelight.checkpoints.diffusers_folder import is_diffusers_folder, open_diffusers
from safelight.checkpoints.files import open_weights
from safelight.checkpoints.filling import filled
from safelight.checkpoints.folders import open_folder
from safelight.checkpoints.hashes import sha256
from safelight.checkpoints.json_object import read_object
from safelight.checkpoints.kinds import Finding, kind_of, made_for
from safelight.checkpoints.measure_clip import IDLE, measured_clip
from safelight.checkpoints.model_json import clip_from_json
from safelight.checkpoints.parts import Part, PartReport, Role, Selection
from safelight.checkpoints.single_file import open_single
from safelight.checkpoints.vae_file import FoundVae, open_vae, with_vae
from safelight.checkpoints.vision_folder import load_clip_vision
from safelight.errors import CheckpointError, FileError
from safelight.families import Family
from safelight.model import FileRecord, LoadReport, Model, Sink
from safelight.models.autoencoder import Autoencoder, Codec, CodecConfig
from safelight.models.backbone import Backbone
from safelight.models.clip import ClipText
from safelight.models.taesd import TinyAutoencoder, TinyAutoencoderConfig
from safelight.models.unet import UNet
from safelight.printable import shown
from safelight.text.conditioner import Conditioner

__all__ = [
    "filled",
    "load",
    "load_autoencoder",
    "load_clip",
    "load_clip_vision",
    "model_of",
    "open_checkpoint",
    "with_other_vae",
]

Pathlike = str | os.PathLike[str]
Device = torch.device | str
Use = Literal["draw", "convert"]


def load(
    path: Pathlike,
    *,
    dtype: torch.dtype | None = None,
    device: Device = "cpu",
    vae: Pathlike | None = None,
    prediction: str | None = None,
    zero_terminal_snr: bool | None = None,
    ema: bool = False,
    variant: str | None = None,
    sink: Sink | None = None,
) -> Model:
    """The model in a single file of the original layout or in a Diffusers folder.

    dtype: of all weights; None is float32 on the CPU, elsewhere the file's own type, but at least
        16 bits wide. Weights of that type in the file are mapped, not copied: keep the file.
    vae: a file or folder whose autoencoder replaces the model's own.
    prediction: "eps", "v", ...; None is what the file says. zero_terminal_snr: the same.
    ema: take a single file's averaged U-Net. variant: "fp16" and the like, of a folder's files.
    sink: is given the weights that it wants, in place of the modules.

    Names and shapes are checked before a tensor is read; then each is read, cast and assigned, so
    memory peaks at the weights in the wanted type and a little more.
    Raises FileError if something cannot be read, CheckpointError if it is no model or its parts do
    not fit, RequestError if a setting does not fit the model.
    """
    device = torch.device(device)
    with open_checkpoint(
        path,
        prediction=prediction,
        zero_terminal_snr=zero_terminal_snr,
        ema=ema,
        variant=variant,
        own_vae=vae is None,
    ) as checkpoint:
        if vae is None:
            return model_of(checkpoint, dtype=dtype, device=device, sink=sink)
        found = open_vae(Path(vae))
        with found.file:
            other = with_other_vae(checkpoint, found, Path(vae))
            return model_of(other, dtype=dtype, device=device, sink=sink)


def open_checkpoint(
    path: Pathlike,
    *,
    prediction: str | None = None,
    zero_terminal_snr: bool | None = None,
    ema: bool = False,
    variant: str | None = None,
    own_vae: bool = True,
    use: Use = "draw",
) -> Checkpoint:
    """The parts of a model, found but not read; see `load` for the settings. Close it after use.

    use: what it is opened for, which decides what to advise if it is no model.
    """
    path = Path(path)
    if path.is_dir():
        if not is_diffusers_folder(path):
            raise FileError(f"{shown(path)} is a folder without model_index.json{_near(path)}")
        if ema:
            raise CheckpointError(
                f"{shown(path)} is a Diffusers folder, which keeps no EMA weights beside others; "
                "a variant of it may hold them (variant='non_ema' or the default)"
            )
        return open_diffusers(
            path,
            prediction=prediction,
            zero_terminal_snr=zero_terminal_snr,
            variant=variant,
            own_vae=own_vae,
        )
    file = open_weights(path)
    try:
        shapes = {name: info.shape for name, info in file.header.items()}
        found = kind_of(shapes)
        if found.kind != "model":
            raise CheckpointError(f"{shown(path)} {_no_model(found, made_for(shapes), use)}")
        return open_single(
            file,
            prediction=prediction,
            zero_terminal_snr=zero_terminal_snr,
            ema=ema,
            own_vae=own_vae,
        )
    except BaseException:
        file.close()
        raise


def model_of(
    checkpoint: Checkpoint,
    *,
    dtype: torch.dtype | None,
    device: torch.device,
    sink: Sink | None = None,
) -> Model:
    """The model of an opened checkpoint, its weights read; the files may be closed afterwards."""
    reports = checked(checkpoint)
    modules = {
        part.role: filled(part, dtype=dtype, device=device, sink=sink) for part in checkpoint.parts
    }
    return assembled(checkpoint, reports, modules)


def assembled(
    checkpoint: Checkpoint, reports: tuple[PartReport, ...], modules: Mapping[Role, nn.Module]
) -> Model:
    """The model of these modules, by the roles of the checkpoint's parts."""
    family, unet, vae = checkpoint.family, modules["unet"], modules["vae"]
    encoders = [modules[part.role] for part in checkpoint.parts if "text" in part.role]
    assert isinstance(unet, UNet)
    assert isinstance(vae, (Autoencoder, TinyAutoencoder))
    return Model(
        family=family,
        text=Conditioner(family.text, [e for e in encoders if isinstance(e, ClipText)]),
        network=Backbone(unet),
        codec=Codec(vae, family.codec),
        process=family.process.build(),
        files=tuple(record for opened in checkpoint.files for record in _records(opened)),
        report=_report(checkpoint, reports),
        notes=checkpoint.identity.notes,
    )


def load_autoencoder(
    path: Pathlike,
    *,
    dtype: torch.dtype | None = None,
    device: Device = "cpu",
    family: Family | None = None,
) -> Codec:
    """The autoencoder in a file or folder, alone.

    Scale and shift are those that its config states, else those of `family`, else 1 and 0.
    Raises FileError or CheckpointError.
    """
    found = open_vae(Path(path))
    with found.file:
        _check_vae(found)
        module = filled(found.part, dtype=dtype, device=torch.device(device))
    assert isinstance(module, (Autoencoder, TinyAutoencoder))
    if family is not None:
        return Codec(module, with_vae(family, found.vae, shown(path)).codec)
    scale = 1.0 if found.vae.scale is None else found.vae.scale
    shift = 0.0 if found.vae.shift is None else found.vae.shift
    return Codec(module, CodecConfig(found.vae.config, scale, shift))


def load_clip(
    path: Pathlike,
    *,
    dtype: torch.dtype | None = None,
    device: Device = "cpu",
    projection: bool = True,
    variant: str | None = None,
) -> ClipText:
    """The CLIP text encoder in a file, or in a folder that Transformers wrote, alone.

    projection: whether the matrix that makes embeddings comparable with pictures is wanted.
    Raises FileError, or CheckpointError if there is no text encoder or no such matrix.
    """
    with _clip_part(Path(path), projection, variant) as part:
        report = part.report()
        if not report.sound:
            raise CheckpointError(
                f"{shown(path)} does not fit the text encoder it seems to be: {mismatch([report])}"
            )
        module = filled(part, dtype=dtype, device=torch.device(device))
    assert isinstance(module, ClipText)
    return module


@contextmanager
def _clip_part(path: Path, projection: bool, variant: str | None) -> Iterator[Part]:
    with open_folder(path, "model", variant) if path.is_dir() else open_weights(path) as file:
        tensors = Selection.below(file)
        try:
            clip = measured_clip(tensors.shapes, projection=projection)
        except CheckpointError as error:
            raise CheckpointError(f"{shown(path)}: {error}") from None
        if path.is_dir():
            json = read_object(path / "config.json")
            clip = replace(clip, config=clip_from_json(json, projected=projection))
        idle = IDLE if projection else (*IDLE, "text_projection")
        yield Part("text_encoder", clip.config, tensors, clip.keymap(), idle)


def with_other_vae(checkpoint: Checkpoint, found: FoundVae, path: Path) -> Checkpoint:
    """The checkpoint with an autoencoder of another file or folder."""
    _check_scale(checkpoint.family, found, path)
    family = with_vae(checkpoint.family, found.vae, shown(path))
    return replace(
        checkpoint,
        family=family,
        identity=replace(checkpoint.identity, family=family),
        parts=(checkpoint.parts[0], found.part, *checkpoint.parts[1:]),
        files=(*checkpoint.files, Opened("vae", found.file, found.paths)),
    )


def _check_scale(family: Family, found: FoundVae, path: Path) -> None:
    """Refuse a KL autoencoder that states another scale: it was trained for other latents."""
    stated, own = found.vae.scale, family.codec.scale
    if stated is None or isinstance(found.vae.config, TinyAutoencoderConfig) or stated == own:
        return
    raise CheckpointError(
        f"{shown(path)} is for latents scaled by {stated}, but {family.label} draws latents scaled "
        f"by {own}; it is the autoencoder of another family"
    )


def _check_vae(found: FoundVae) -> None:
    report = found.part.report()
    if not report.sound:
        raise CheckpointError(
            f"{shown(found.paths[0])} does not fit the autoencoder it seems to be: "
            f"{mismatch([report])}"
        )


def _records(opened: Opened) -> list[FileRecord]:
    return [
        FileRecord(opened.role, path, path.stat().st_size, partial(sha256)) for path in opened.paths
    ]


def _report(checkpoint: Checkpoint, reports: tuple[PartReport, ...]) -> LoadReport:
    idle = tuple(name for report in reports for name in report.ignored)
    return LoadReport(
        layout=checkpoint.identity.layout,
        reason=checkpoint.identity.reason,
        used=sum(len(report.used) for report in reports),
        ignored=(*checkpoint.ignored, *idle),
        unknown=by_prefix(checkpoint.unknown),
    )


def _no_model(found: Finding, made: str, use: Use) -> str:
    """What a file is instead of a model, and what to do with it."""
    fits = f" {made}" if made else ""
    drawing = {
        "vae": "give it with --vae (vae=... in Python) beside a model",
        "taesd": "give it with --vae (vae=... in Python) beside a model",
        "unet": "it lacks the text encoder and the autoencoder; get the full checkpoint",
        "controlnet": "give it with --control beside a model",
        "controlnet lllite": "give it with --control beside a model",
        "t2i adapter": "give it with --control beside a model",
        "ip adapter": "give it with --image-prompt beside a model",
        "other model": "it is of a family that is not supported",
        "unknown": "expected a checkpoint with a U-Net under model.diffusion_model.*",
    }
    converting = {
        "vae": "only whole models are converted: give one, and this file with --vae to put it in",
        "unknown": "expected a checkpoint with a U-Net under model.diffusion_model.*",
    }
    advice = (
        drawing.get(found.kind, "give the model it was made for")
        if use == "draw"
        else converting.get(found.kind, "only whole models are converted")
    )
    article = "an" if found.kind[0] in "aeiou" else "a"
    names = {
        "lora": "a LoRA",
        "controlnet": "a ControlNet",
        "controlnet lllite": "a ControlNet-LLLite",
        "vae": "an autoencoder (VAE)",
        "taesd": "a tiny autoencoder (TAESD)",
        "unet": "a U-Net alone",
        "t2i adapter": "a T2I adapter",
        "ip adapter": "an IP-Adapter",
        "other model": "another kind of model",
        "unknown": "nothing that we know",
    }
    what = names.get(found.kind, f"{article} {found.kind}")
    return f"is {what}{fits}, not a model: {found.evidence}; {advice}"


def _is_other(path: Path) -> bool:
    """Whether a file is sound but no model; a damaged one may have been one."""
    try:
        with open_weights(path) as file:
            return kind_of({name: info.shape for name, info in file.header.items()}).kind != "model"
    except FileError:
        return False


def _near(path: Path) -> str:
    if is_diffusers_folder(path.parent):
        return f"; it is a part of the model {shown(path.parent)}, so give that folder"
    inner = sorted(p.parent.name for p in path.glob("*/model_index.json"))
    weights = sorted(p.name for p in path.glob("*.safetensors") if not _is_other(p))
    if inner or weights:
        return f"; did you mean {shown(path / (inner or weights)[0])}?"
    return "; give a Diffusers folder or a weights file"
