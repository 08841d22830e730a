"""How much memory there is, as A1111 tells it."""

from pathlib import Path

import torch


def memory() -> dict[str, object]:
    """Bytes of main memory, and of the first GPU if there is one."""
    return {"ram": _ram(), "cuda": _cuda()}


def _ram() -> dict[str, object]:
    found = {}
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            name, _, rest = line.partition(":")
            found[name] = int(rest.split()[0]) * 1024
    except (OSError, ValueError, IndexError):
        return {"error": "unknown on this system"}
    total, free = found.get("MemTotal", 0), found.get("MemAvailable", 0)
    return {"free": free, "used": total - free, "total": total}


def _cuda() -> dict[str, object]:
    if not torch.cuda.is_available():
        return {"error": "unavailable"}
    free, total = torch.cuda.mem_get_info()
    stats = torch.cuda.memory_stats()

    def pair(name: str) -> dict[str, int]:
        kind = f"{name}_bytes.all."
        return {"current": stats.get(f"{kind}current", 0), "peak": stats.get(f"{kind}peak", 0)}

    return {
        "system": {"free": free, "used": total - free, "total": total},
        "active": pair("active"),
        "allocated": pair("allocated"),
        "reserved": pair("reserved"),
        "inactive": pair("inactive_split"),
        "events": {"retries": stats.get("num_alloc_retries", 0), "oom": stats.get("num_ooms", 0)},
    }
