"""Upscalers of pixels in their files: ESRGAN's networks in every published naming, and others.

ESRGAN's network comes under four namings: the first release's numbered layers (`model.1.sub.0...`),
the second's (`RRDB_trunk`), BasicSR's (`body.0.rdb1`, Real-ESRGAN), each bare or below `params` or
`params_ema`. What is none of them nor Real-ESRGAN's compact network is left to spandrel.
"""

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch

from safelight.checkpoints.checkpoint import mismatch
from safelight.checkpoints.files import open_weights
from safelight.checkpoints.filling import filled
from safelight.checkpoints.finite import check_finite
from safelight.checkpoints.keymap import KeyMap, Row, Shape
from safelight.checkpoints.kinds import kind_of
from safelight.checkpoints.measure_unet import Shapes
from safelight.checkpoints.parts import Part, Selection, listed
from safelight.checkpoints.weight_file import WeightFile
from safelight.errors import CheckpointError
from safelight.models.super_resolution import CompactConfig, CompactNet, RrdbConfig, RrdbNet
from safelight.printable import shown
from safelight.upscalers.foreign import recognised
from safelight.upscalers.network import Upscaler, upscaler_of

ROOTS = ("params_ema.", "params.", "")  # the averaged weights before those of the last step
MAX_BLOCKS = 512
MAX_FOREIGN = 2**30  # numbers in a file that is given to spandrel; the largest known has 2**28


def load_upscaler(
    path: str | os.PathLike[str],
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
) -> Upscaler:
    """The upscaler in a safetensors or PyTorch file.

    dtype: None is float32 on the CPU, elsewhere the file's own. Others than ESRGAN and
    Real-ESRGAN's compact network need spandrel, and run in float32.
    Raises FileError if the file cannot be read, CheckpointError if it holds something else or
    tensors too few, too many or of other shapes, RequestError if spandrel is needed and not there.
    """
    path, place = Path(path), torch.device(device)
    with open_weights(path) as file:
        part = upscaler_part(file)
        if part is None:
            return _foreign(file, path, place)
        net = filled(part, dtype=dtype, device=place)
    assert isinstance(net, RrdbNet | CompactNet)
    return upscaler_of(net, path.name, path)


def upscaler_part(file: WeightFile) -> Part | None:
    """The network of an opened file, checked but not read; None if it is none of ours.

    Raises CheckpointError if it is one of ours by its names and does not fit.
    """
    root = next((r for r in ROOTS if any(name.startswith(r) for name in file.header)), "")
    tensors = Selection.below(file, root)
    beside = [n for n in file.header if not n.startswith(ROOTS[:2])] if root else []
    try:
        measured = _measured(tensors.shapes)
    except CheckpointError as error:
        raise CheckpointError(f"{shown(file.path)}: {error}") from None
    if measured is None:
        return None
    if beside:
        raise CheckpointError(
            f"{shown(file.path)} holds an upscaler below {shown(root)}, and beside it tensors that "
            f"belong to none: {listed(map(shown, beside))}"
        )
    config, keymap = measured
    part = Part("upscaler", config, tensors, keymap)
    report = part.report()
    if not report.sound:
        raise CheckpointError(
            f"{shown(file.path)} does not fit the upscaler it seems to be: {mismatch([report])}"
        )
    return part


def _measured(shapes: Shapes) -> tuple[RrdbConfig | CompactConfig, KeyMap] | None:
    for first, layout in _LAYOUTS.items():
        if len(shapes.get(first, ())) == 4:
            return layout(shapes)
    return None


def _first_release(shapes: Shapes) -> tuple[RrdbConfig, KeyMap]:
    blocks = _count(shapes, r"model\.1\.sub\.(\d+)\.RDB1\.conv1\.0\.weight")
    numbered = _numbers(shapes, r"model\.(\d+)\.weight")
    doublings = len(numbered) - 3  # the first, one for each doubling, and two after the last
    rows = [
        Row("model.0", "conv_first"),
        Row(f"model.1.sub.{blocks}", "conv_body"),
        *_block_rows("model.1.sub.{}.RDB{}.conv{}.0", blocks),
        *(Row(f"model.{3 * i + 3}", f"conv_up.{i}") for i in range(max(doublings, 0))),
        Row(f"model.{3 * doublings + 2}", "conv_hr"),
        Row(f"model.{3 * doublings + 4}", "conv_last"),
    ]
    first = ("model.0.weight", "model.1.sub.0.RDB1.conv1.0.weight")
    last = f"model.{max(numbered)}.weight"
    return _rrdb(shapes, *first, last, blocks, doublings), KeyMap(rows)


def _second_release(shapes: Shapes) -> tuple[RrdbConfig, KeyMap]:
    blocks = _count(shapes, r"RRDB_trunk\.(\d+)\.RDB1\.conv1\.weight")
    doublings = len(_numbers(shapes, r"upconv(\d+)\.weight"))
    rows = [
        *(Row(name, name) for name in ("conv_first", "conv_last")),
        Row("trunk_conv", "conv_body"),
        Row("HRconv", "conv_hr"),
        *_block_rows("RRDB_trunk.{}.RDB{}.conv{}", blocks),
        *(Row(f"upconv{i + 1}", f"conv_up.{i}") for i in range(doublings)),
    ]
    names = ("conv_first.weight", "RRDB_trunk.0.RDB1.conv1.weight", "conv_last.weight")
    return _rrdb(shapes, *names, blocks, doublings), KeyMap(rows)


def _basicsr(shapes: Shapes) -> tuple[RrdbConfig, KeyMap]:
    blocks = _count(shapes, r"body\.(\d+)\.rdb1\.conv1\.weight")
    doublings = len(_numbers(shapes, r"conv_up(\d+)\.weight"))
    rows = [Row("", ""), *(Row(f"conv_up{i + 1}", f"conv_up.{i}") for i in range(doublings))]
    names = ("conv_first.weight", "body.0.rdb1.conv1.weight", "conv_last.weight")
    return _rrdb(shapes, *names, blocks, doublings), KeyMap(rows)


def _compact(shapes: Shapes) -> tuple[CompactConfig, KeyMap] | None:
    """The compact network, if each of its convolutions but the last is followed by slopes."""
    numbers = _numbers(shapes, r"body\.(\d+)\.weight")
    last = max(numbers)
    if len(shapes.get("body.1.weight", ())) != 1 or last % 2 or last < 4:
        return None  # other rectifiers leave no trace of which they are
    width, channels = _sizes(shapes, "body.0.weight")
    out, _ = _sizes(shapes, f"body.{last}.weight")
    scale = round((out / channels) ** 0.5) if channels else 0
    if channels != 3 or scale * scale * channels != out:
        raise CheckpointError(
            f"its last layer makes {out} numbers of {channels} channels; expected 3 channels, and "
            "3 times a square"
        )
    config = CompactConfig(channels, width, last // 2 - 1, scale)
    return config, KeyMap([Row("", "")])


# The tensor by which each naming is known; convolutions all.
_LAYOUTS = {
    "model.1.sub.0.RDB1.conv1.0.weight": _first_release,
    "RRDB_trunk.0.RDB1.conv1.weight": _second_release,
    "body.0.rdb1.conv1.weight": _basicsr,
    "body.0.weight": _compact,
}


def _rrdb(
    shapes: Shapes, first: str, dense: str, last: str, blocks: int, doublings: int
) -> RrdbConfig:
    """The config of networks whose pictures have as many channels as the last layer makes."""
    width, taken = _sizes(shapes, first)
    growth, _ = _sizes(shapes, dense)
    channels, _ = _sizes(shapes, last)
    gather = round((taken / channels) ** 0.5) if channels else 0
    if channels != 3 or gather * gather * channels != taken:
        raise CheckpointError(
            f"it makes pictures of {channels} channels from {taken}; expected colour pictures, "
            "with 3 channels in and out, or 12 or 48 in"
        )
    return RrdbConfig(channels, width, growth, blocks, doublings, gather)


def _block_rows(pattern: str, blocks: int) -> Iterator[Row]:
    for i in range(blocks):
        for j in (1, 2, 3):
            for k in (1, 2, 3, 4, 5):
                yield Row(pattern.format(i, j, k), f"body.{i}.rdb{j}.conv{k}")


def _count(shapes: Shapes, pattern: str) -> int:
    """How many numbered parts there are, from 0 on without a hole."""
    numbers = _numbers(shapes, pattern)
    if numbers != list(range(len(numbers))) or len(numbers) > MAX_BLOCKS:
        raise CheckpointError(
            f"its blocks are not numbered from 0 to at most {MAX_BLOCKS - 1}, one after another"
        )
    return len(numbers)


def _numbers(shapes: Shapes, pattern: str) -> list[int]:
    compiled = re.compile(pattern)
    found = (compiled.fullmatch(name) for name in shapes)
    return sorted(int(match[1]) for match in found if match and len(match[1]) < 6)


def _sizes(shapes: Shapes, name: str) -> tuple[int, int]:
    shape: Shape = shapes.get(name, ())
    if len(shape) != 4:
        raise CheckpointError(f"it has no convolution {shown(name)}; the file is incomplete")
    return shape[0], shape[1]


def _foreign(file: WeightFile, path: Path, device: torch.device) -> Upscaler:
    """Another architecture, if the file is nothing else that we know."""
    shapes: Mapping[str, Shape] = {name: info.shape for name, info in file.header.items()}
    found = kind_of(dict(shapes))
    if found.kind not in ("upscaler", "unknown", "other model"):
        raise CheckpointError(
            f"{shown(path)} is no upscaler of pictures: {found.evidence}; give a file of ESRGAN, "
            "Real-ESRGAN or another architecture that spandrel knows"
        )
    numbers = sum(torch.Size(shape).numel() for shape in shapes.values())
    if numbers > MAX_FOREIGN:
        raise CheckpointError(
            f"{shown(path)} holds {numbers} numbers, more than any upscaler; give one"
        )
    root = next((r for r in ROOTS if any(name.startswith(r) for name in shapes)), "")
    names = [name for name in shapes if name.startswith(root)]
    state = {
        name.removeprefix(root): file.read(name, dtype=_read_as(file, name), copy=True)
        for name in names
    }
    check_finite(state.items(), path, full=True)
    return recognised(state, path.name, path, device=device)


def _read_as(file: WeightFile, name: str) -> torch.dtype:
    """Weights in float32; counts and tables in the type they have."""
    stored = file.header[name].dtype
    return torch.float32 if stored.is_floating_point else stored
