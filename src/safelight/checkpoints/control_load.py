"""From a path to a control network: identify, check every name and shape, then read."""

import os
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from safelight.checkpoints.checkpoint import by_prefix, mismatch
from safelight.checkpoints.control_file import ControlKind, FoundControl, open_control
from safelight.checkpoints.control_rows import controlnet_rows
from safelight.checkpoints.filling import filled
from safelight.checkpoints.finite import check_finite
from safelight.checkpoints.hashes import sha256
from safelight.checkpoints.keymap import KeyMap
from safelight.checkpoints.parts import PartReport, listed
from safelight.errors import CheckpointError, RequestError
from safelight.model import FileRecord, LoadReport, Model
from safelight.models.blank import blank
from safelight.models.controlnet import ControlNet, ControlNetConfig
from safelight.models.deltas import LowRank
from safelight.models.layers import Conv2d, Linear
from safelight.models.lllite import LLLite
from safelight.models.t2i_adapter import T2IAdapter
from safelight.models.unet import UNet
from safelight.models.unet_configs import SDXL
from safelight.printable import shown

Pathlike = str | os.PathLike[str]

_SLOT = "control"  # of a layer's deltas, in which a ControlLoRA's change of it lies


@dataclass(frozen=True)
class LoadedControl:
    """A control network, ready to be attached, and what is known of it.

    made_for: the family of models, in words. reason: why this kind. notes: what a user should see.
    """

    network: ControlNet | T2IAdapter | LLLite
    kind: ControlKind
    made_for: str
    reason: str
    files: tuple[FileRecord, ...]
    report: LoadReport
    notes: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The name of its file or, of a folder's, of the folder."""
        path = self.files[0].path
        folder = self.report.layout == "Diffusers folder"
        return shown(path.parent.name if folder else path.name)


def load_control(
    path: Pathlike,
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    base: UNet | None = None,
    variant: str | None = None,
) -> LoadedControl:
    """The ControlNet, union of them, ControlLoRA, LLLite or T2I-Adapter in a file or folder.

    Both layouts, as safetensors or PyTorch file. variant: "fp16" and the like, of a folder's files.
    base: the U-Net it is for: its type and device are taken where none is given, and files that
        hold only what they change of it need it. An LLLite names its layers, and is taken to be for
        SDXL without. A ControlLoRA shares the weights of `base`, and is
        where these are.

    Names and shapes are checked before a tensor is read.
    Raises FileError if something cannot be read; CheckpointError if it is no control network, does
    not fit what it seems to be, or needs a `base` and there is none or another.
    """
    path = Path(path)
    if base is not None:
        dtype = base.dtype if dtype is None else dtype
        device = base.conv_in.weight.device if device is None else device
    where = torch.device("cpu" if device is None else device)
    layers = SDXL if base is None else base.config
    with open_control(path, variant, base=layers) as found:
        _check_types(path, found)
        if found.needs_base:
            base = _fitting_base(path, found, base)
        if found.kind == "ControlLoRA":
            assert base is not None, "checked above"
            network: ControlNet | T2IAdapter | LLLite
            network, report = _with_changes(path, found, base, dtype)
        else:
            report = found.part.report()
            if not report.sound:
                raise CheckpointError(
                    f"{shown(path)} does not fit the {found.kind} for {found.made_for} that it "
                    f"seems to be: {mismatch([report])}"
                )
            network = _read(found, base, dtype, where)
        return LoadedControl(
            network=network,
            kind=found.kind,
            made_for=found.made_for,
            reason=found.reason,
            files=tuple(
                FileRecord("control", p, p.stat().st_size, partial(sha256)) for p in found.paths
            ),
            report=LoadReport(
                layout=found.layout,
                reason=found.reason,
                used=len(report.used),
                ignored=report.ignored,
                unknown=by_prefix(found.others),
            ),
            notes=found.notes,
        )


def check_fits(control: LoadedControl, model: Model) -> None:
    """Raise CheckpointError, naming both families, if a control network is for another model."""
    try:
        control.network.check_fits(model.network.unet.config)
    except RequestError as error:
        raise CheckpointError(
            f"{control.name} is a {control.kind} for {control.made_for}, but the loaded model is "
            f"{model.family.label} (context width {model.family.backbone.context_width}): {error}"
        ) from None


def _check_types(path: Path, found: FoundControl) -> None:
    for name in found.part.tensors.names:
        dtype = found.part.tensors.info(name).dtype
        if not dtype.is_floating_point:
            raise CheckpointError(
                f"{shown(path)}: {shown(name)} is stored as {dtype}; quantised weights are not "
                "supported, get the file in fp16, bf16 or fp32"
            )


def _fitting_base(path: Path, found: FoundControl, base: UNet | None) -> UNet:
    if base is None:
        what = "a ControlLoRA" if found.kind == "ControlLoRA" else "a difference to a model"
        raise CheckpointError(
            f"{shown(path)} is {what}, for {found.made_for}: it holds only what it changes; give "
            "the model that it is for (base=... in Python)"
        )
    config = found.part.config
    assert isinstance(config, ControlNetConfig)
    with blank():
        shape = ControlNet(config)
    try:
        shape.check_fits(base.config)
    except RequestError as error:
        raise CheckpointError(
            f"{shown(path)} is for {found.made_for}, but the given model reads text "
            f"{base.config.context_width} wide: {error}"
        ) from None
    return base


def _read(
    found: FoundControl, base: UNet | None, dtype: torch.dtype | None, device: torch.device
) -> ControlNet | T2IAdapter | LLLite:
    if not found.difference:
        network = filled(found.part, dtype=dtype, device=device)
        assert isinstance(network, (ControlNet, T2IAdapter, LLLite))
        return network
    assert base is not None, "a difference needs a base, which was asked for"
    # The sum is made in float32: a difference is small beside what it is added to.
    network = filled(found.part, dtype=torch.float32, device=torch.device("cpu"))
    assert isinstance(network, ControlNet)
    own = dict(base.named_parameters())
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name in own and own[name].shape == parameter.shape:
                parameter.add_(own[name].to(device="cpu", dtype=torch.float32))
    return network.to(device=device, dtype=dtype or torch.float32)


def _with_changes(
    path: Path,
    found: FoundControl,
    base: UNet,
    dtype: torch.dtype | None,
) -> tuple[ControlNet, PartReport]:
    """A ControlNet of the base's own weights, with the file's changes in the slots for deltas."""
    config = found.part.config
    assert isinstance(config, ControlNetConfig)
    encoder = replace(base.config, in_channels=config.encoder.in_channels)
    config = replace(config, encoder=encoder)
    with blank():
        network = ControlNet(config)
    keymap = KeyMap(controlnet_rows(config))
    kind, device = dtype or torch.float32, base.conv_in.weight.device
    whole = _whole(path, found, network, keymap)
    changed = _changed(path, found, network, keymap)
    shared = dict(base.named_parameters())
    lost = []
    for name, parameter in list(network.named_parameters()):
        if name in whole:
            _put(network, name, _tensor(found, whole[name], kind, device))
        elif name in shared and shared[name].shape == parameter.shape:
            _put(network, name, shared[name].detach())
        else:
            lost.append(name)
    if lost:
        raise CheckpointError(
            f"{shown(path)} and the given model together lack {len(lost)} tensors of the "
            f"ControlNet: {listed(lost)}"
        )
    for module, stored in changed.items():
        layer = network.get_submodule(module)
        assert isinstance(layer, (Linear, Conv2d))
        up, down = (_tensor(found, f"{stored}.{end}", kind, device) for end in ("up", "down"))
        layer.deltas[_SLOT] = LowRank(up, down)
    network.eval().requires_grad_(False)
    used = (*whole.values(), *(f"{n}.{end}" for n in changed.values() for end in ("up", "down")))
    return network, PartReport("control", used, (), (), (), ())


def _whole(path: Path, found: FoundControl, network: ControlNet, keymap: KeyMap) -> dict[str, str]:
    """Our names of the tensors that the file has whole, and its own. Raises for others."""
    shapes = {name: tuple(p.shape) for name, p in network.named_parameters()}
    there, surplus = {}, []
    for name, shape in found.part.tensors.shapes.items():
        ours = (keymap.to_ours(name) or ("",))[0]
        if shapes.get(ours) == shape:
            there[ours] = name
        else:
            surplus.append(f"{shown(name)} {list(shape)}")
    if surplus:
        raise CheckpointError(
            f"{shown(path)} does not fit the ControlLoRA it seems to be: {len(surplus)} tensors "
            f"have no place or another shape: {listed(surplus)}"
        )
    return there


def _changed(
    path: Path, found: FoundControl, network: ControlNet, keymap: KeyMap
) -> dict[str, str]:
    """Our names of the layers that the file changes, and its own. Raises for others."""
    modules = dict(network.named_modules())
    there, surplus = {}, []
    header = found.file.header
    for name in found.changes:
        ours = (keymap.to_ours(name) or ("",))[0]
        layer = modules.get(ours)
        up, down = (header[_stored(found, f"{name}.{end}")].shape for end in ("up", "down"))
        # as many dimensions on both sides: a convolution is changed by one
        if isinstance(layer, (Linear, Conv2d)) and (up[0], *down[1:]) == tuple(layer.weight.shape):
            there[ours] = name
        else:
            surplus.append(shown(name))
    if surplus:
        raise CheckpointError(
            f"{shown(path)} does not fit the given model: {len(surplus)} layers that it changes "
            f"are not there or have another shape: {listed(surplus)}"
        )
    return there


def _stored(found: FoundControl, name: str) -> str:
    return name if name in found.file.header else f"control_model.{name}"


def _tensor(found: FoundControl, name: str, dtype: torch.dtype, device: torch.device) -> Tensor:
    stored = _stored(found, name)
    tensor = found.file.read(stored, dtype=dtype)
    check_finite([(stored, tensor)], found.file.path, full=True)
    return tensor.to(device)


def _put(network: nn.Module, name: str, value: Tensor) -> None:
    owner, _, leaf = name.rpartition(".")
    setattr(network.get_submodule(owner), leaf, nn.Parameter(value, requires_grad=False))
