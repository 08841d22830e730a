"""How much memory is left: the machine's, or that of the container that we run in."""

import os
from pathlib import Path

SCARCE = 256 * 2**20  # bytes; with less, what can be read again is let go
LEAST = 96 * 2**20  # bytes; with less, nothing is begun
GROUP = Path("/sys/fs/cgroup")
INFO = Path("/proc/meminfo")


def available() -> int | None:
    """Bytes that can still be taken without swapping; None where nothing tells."""
    known = [amount for amount in (_machine(), _group()) if amount is not None]
    return min(known) if known else None


def is_below(amount: int) -> bool:
    """Whether less memory than this is left, as far as anybody tells."""
    left = available()
    return left is not None and left < amount


def resident() -> int:
    """Bytes of this process in memory; 0 where nothing tells."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0


def _machine() -> int | None:
    try:
        for line in INFO.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    return None


def _group() -> int | None:
    try:
        most = (GROUP / "memory.max").read_text().strip()
        if most == "max":
            return None
        used = int((GROUP / "memory.current").read_text())
        # what files keep in memory is given back when it is needed
        for line in (GROUP / "memory.stat").read_text().splitlines():
            if line.startswith("inactive_file "):
                used -= int(line.split()[1])
        return max(int(most) - used, 0)
    except (OSError, ValueError, IndexError):
        return None
