"""What a measurement was made on: processor, memory, versions. No names of hosts or folders."""

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from safelight.benchmarks.disturbance import load_average
from safelight.version import __version__

# Instructions that matrix products and convolutions use, by their names in /proc/cpuinfo.
TELLING = (
    "avx2",
    "avx512f",
    "avx_vnni",
    "avx512_vnni",
    "avx512_bf16",
    "avx512_fp16",
    "amx_tile",
    "amx_bf16",
    "amx_int8",
    "asimd",
    "bf16",
    "i8mm",
    "sve",
)


def facts(threads: int, device: str = "cpu") -> dict[str, object]:
    """The machine and this process's libraries, for the head of a report."""
    cpu = _cpuinfo()
    flags = set(cpu.get("flags", cpu.get("Features", "")).split())
    return {
        "processor": cpu.get("model name", platform.processor() or platform.machine()),
        "family_model": f"{cpu.get('cpu family', '?')}/{cpu.get('model', '?')}",
        "cores": os.cpu_count(),
        "allowed_cores": usable_cores(),
        "threads": threads,
        "instructions": [name for name in TELLING if name in flags],
        "memory_gb": None if (memory := total_memory()) is None else round(memory / 1e9, 1),
        "system": platform.system(),
        "python": platform.python_version(),
        "safelight": __version__,
        "torch": installed("torch"),
        "load_average": load_average(),
        **_gpu(device),
    }


def _gpu(device: str) -> dict[str, object]:
    if not device.startswith("cuda"):
        return {}
    import torch

    properties = torch.cuda.get_device_properties(torch.device(device))
    return {
        "gpu": properties.name,
        "gpu_memory_gb": round(properties.total_memory / 1e9, 1),
        "cuda": torch.version.cuda,
    }


def usable_cores() -> int:
    """Cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def default_threads() -> int:
    """OMP_NUM_THREADS if it is set, else all usable cores."""
    stated = os.environ.get("OMP_NUM_THREADS", "")
    return int(stated) if stated.isdigit() and int(stated) > 0 else usable_cores()


def total_memory() -> int | None:
    """Bytes of memory in the machine; None if unknown."""
    return _meminfo("MemTotal")


def available_memory() -> int | None:
    """Bytes that can be had without pushing others out; None if unknown."""
    return _meminfo("MemAvailable")


def installed(package: str) -> str | None:
    """The version of a package of this interpreter."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _cpuinfo() -> dict[str, str]:
    """The first core's entry."""
    entry = _text("/proc/cpuinfo").split("\n\n")[0]
    pairs = (line.partition(":") for line in entry.splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}


def _meminfo(name: str) -> int | None:
    for line in _text("/proc/meminfo").splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    return None


def _text(path: str) -> str:
    try:
        return Path(path).read_text("utf-8")
    except OSError:
        return ""
