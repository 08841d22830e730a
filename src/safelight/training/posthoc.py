"""Any average of the weights after training, from a few snapshots of two.

Snapshots of power-function averages (of two exponents, at many steps) span almost every other
average profile, so one whose width was never tracked is a weighted sum of them.
Karras et al. 2024 (arXiv:2312.02696), section 3.2.
"""

import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from safelight.checkpoints.files import open_weights
from safelight.checkpoints.writing import Entry, write_safetensors
from safelight.errors import FileError
from safelight.printable import shown
from safelight.training.ema import EmaKind, Power, exponent
from safelight.writing import make_folder

BINS = 8192  # of time, when a run has more steps; the profiles are smooth


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A power-function average as it was after a step."""

    path: Path
    step: int
    sigma_rel: float


def save_snapshot(
    folder: Path,
    player: str,
    kind: EmaKind,
    step: int,
    tensors: Mapping[str, Tensor],
    copied: Collection[str] = (),
) -> None:
    """Write the average of one player after a step, float32; classic ones are left out.

    copied names the tensors that are no averages: buffers as they were. Raises OutputError.
    """
    if not isinstance(kind, Power):
        return
    make_folder(folder / "snapshots")
    path = folder / "snapshots" / f"{player}.power-{kind.sigma_rel:g}.{step:08d}.safetensors"
    entries = [
        Entry(name, tuple(tensor.shape), tensor.dtype, lambda tensor=tensor: tensor)  # type: ignore[misc]
        for name, tensor in tensors.items()
    ]
    about = {"step": str(step), "sigma_rel": f"{kind.sigma_rel:g}"}
    write_safetensors(path, entries, {**about, "copied": json.dumps(sorted(copied))})


def snapshots(folder: Path, player: str) -> list[Snapshot]:
    """The snapshots of a player in a run's folder, by step and width."""
    pattern = re.compile(re.escape(player) + r"\.power-([0-9.e-]+)\.(\d{8,})\.safetensors")
    root = folder / "snapshots"
    names = sorted(root.iterdir()) if root.is_dir() else []
    found = [(path, pattern.fullmatch(path.name)) for path in names]
    listed = [Snapshot(path, int(m[2]), float(m[1])) for path, m in found if m]
    return sorted(listed, key=lambda one: (one.step, one.sigma_rel))


def reconstruct(
    folder: Path, player: str, sigma_rel: float, *, step: int | None = None
) -> dict[str, Tensor]:
    """The average of relative width sigma_rel after a step (the last by default).

    Float32, on the CPU. Raises FileError if there are no snapshots up to that step.
    """
    there = snapshots(folder, player)
    last = step if step is not None else max((one.step for one in there), default=0)
    used = [one for one in there if one.step <= last]
    if not used:
        raise FileError(
            f"{shown(folder)} has no snapshots of {player} up to step {last}; train with "
            'snapshot_every and ema = ["power:0.05", "power:0.1"]'
        )
    shares = weights(used, Power(sigma_rel), last)
    sums: dict[str, Tensor] = {}
    for share, one in zip(shares, used, strict=True):
        with open_weights(one.path) as file:
            copied = set(json.loads(file.metadata.get("copied", "[]")))
            for name in file.header:
                value = file.read(name)
                if name in copied:
                    sums[name] = value.clone()  # the newest one's
                elif name in sums:
                    sums[name].add_(value.double(), alpha=share)
                else:
                    sums[name] = value.double() * share
    return {n: v.float() if v.dtype == torch.float64 else v for n, v in sums.items()}


def weights(used: Sequence[Snapshot], wanted: Power, step: int) -> list[float]:
    """How much of each snapshot makes the wanted average after a step; they sum to 1.

    The least-squares fit of the wanted profile by the profiles of the snapshots, among those that
    leave a weight as it is that never moved.
    """
    edges = np.unique(np.linspace(0, step, min(step, BINS) + 1).round())
    scale = 1 / np.sqrt(np.diff(edges))  # a bin stands for its steps: squares must count them
    columns = [profile(one.sigma_rel, one.step, edges) * scale for one in used]
    target = profile(wanted.sigma_rel, step, edges) * scale
    anchor = 1e4 * np.linalg.norm(target)  # far above the error of any fit
    matrix = np.vstack([np.stack(columns, axis=1), np.full(len(used), anchor)])
    solution, *_ = np.linalg.lstsq(matrix, np.append(target, anchor), rcond=None)
    return [float(share) for share in solution]


def profile(sigma_rel: float, step: int, edges: NDArray[np.float64]) -> NDArray[np.float64]:
    """The weight that an average after `step` gives to all steps between consecutive edges.

    Step t of T weighs (t**(gamma + 1) - (t - 1)**(gamma + 1)) / T**(gamma + 1): exactly what the
    running average does, and the integral of the power function over the step.
    """
    inside: NDArray[np.float64] = np.minimum(edges / step, 1.0) ** (exponent(sigma_rel) + 1)
    return np.diff(inside)
