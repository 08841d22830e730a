"""What a compiled network depends on, as one hash: its structure, the machine and the programs.

Weights are no part of it: a compiled graph is given them, as it is given latents.
"""

import hashlib
import os
import platform
import sys
from collections.abc import Iterator
from dataclasses import is_dataclass
from functools import cache
from pathlib import Path

import torch
from torch import Tensor, nn

from safelight.version import __version__

MODELS = Path(__file__).parent.parent / "models"


def structure(module: nn.Module) -> Iterator[str]:
    """A line for every inner module: its path, its class and the settings it was made with.

    Slots that adapters fill show as modules. Raises TypeError for a setting that has no plain
    value, for then two networks that differ would look the same.
    """
    for path, inner in module.named_modules():
        kind = type(inner)
        yield f"{path}: {kind.__module__}.{kind.__qualname__} {_settings(inner)}"
        for name, parameter in inner.named_parameters(recurse=False):
            yield f"{path}.{name} {list(parameter.shape)} {parameter.dtype} {parameter.device}"


def machine() -> tuple[str, ...]:
    """What compiled code depends on besides the network: processor, threads, versions."""
    return (
        __version__,
        torch.__version__,
        sys.platform,
        platform.machine(),
        _processor(),
        torch.backends.cpu.get_cpu_capability(),
        f"{torch.get_num_threads()} threads",
        os.environ.get("CXX", ""),
        f"mkldnn {torch.backends.mkldnn.enabled}",
        f"precision {torch.get_float32_matmul_precision()}",
    )


def sources(module: nn.Module) -> str:
    """The hash of the program text that the network is made of, adapters in its slots included."""
    files = set(MODELS.glob("*.py"))
    for inner in module.modules():
        found = sys.modules.get(type(inner).__module__)
        if found is not None and (path := getattr(found, "__file__", None)):
            files.add(Path(path))
    total = hashlib.sha256()
    for file in sorted(files):
        if file.is_relative_to(MODELS.parent):
            total.update(_file_hash(file, file.stat().st_mtime_ns))
    return total.hexdigest()


def signature(module: nn.Module, *more: object) -> str:
    """64 hex digits that are the same only for equal structure, machine, programs and `more`."""
    lines = [*structure(module), *machine(), sources(module), *(repr(one) for one in more)]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _settings(module: nn.Module) -> str:
    """The plain attributes of a module by name; those of `nn.Module` itself are left out."""
    found = {}
    for name, value in sorted(vars(module).items()):
        if name.startswith("_") or name == "training" or isinstance(value, Tensor | nn.Module):
            continue
        if not _plain(value):
            raise TypeError(f"{type(module).__name__}.{name} is a {type(value).__name__}")
        found[name] = value
    return repr(found)


def _plain(value: object) -> bool:
    if value is None or isinstance(value, bool | int | float | str | torch.dtype | torch.device):
        return True
    if isinstance(value, tuple | list | frozenset):
        return all(_plain(item) for item in value)
    return is_dataclass(value) and "0x" not in repr(value)


@cache
def _file_hash(path: Path, changed: int) -> bytes:
    return hashlib.sha256(path.read_bytes()).digest()


@cache
def _processor() -> str:
    """The processor's name and what it can do: code made for one may not run on another."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    wanted = ("model name", "flags", "Features", "CPU implementer", "CPU part")
    found = {line.split(":")[0].strip(): line for line in lines if line.startswith(wanted)}
    return "\n".join(found.values())
