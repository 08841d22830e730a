"""What /proc tells of running processes: their children, titles and sockets."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path


def family(pid: int) -> Iterator[int]:
    """A process and all that came of it; Ray's own lead their sessions, and keep their parents."""
    yield pid
    for task in Path(f"/proc/{pid}/task").glob("*"):
        try:
            children = (task / "children").read_text().split()
        except OSError:
            continue
        for child in children:
            yield from family(int(child))


def title(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""


def listening(pid: int) -> Iterator[str]:
    """The addresses on which a process and its children listen."""
    sockets: set[str] = set()
    for member in family(pid):
        for handle in Path(f"/proc/{member}/fd").glob("*"):
            try:
                name = os.readlink(handle)
            except OSError:
                continue
            if name.startswith("socket:["):
                sockets.add(name[8:-1])
    for table, width in (("tcp", 4), ("tcp6", 16)):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            words = line.split()
            if words[3] == "0A" and words[9] in sockets:
                yield address(words[1].partition(":")[0], width)


def address(text: str, width: int) -> str:
    """The address of the kernel's hexadecimal words, each in the machine's order of bytes."""
    import ipaddress

    data = b"".join(
        int(text[at : at + 8], 16).to_bytes(4, sys.byteorder) for at in range(0, 2 * width, 8)
    )
    found = ipaddress.ip_address(data)
    mapped = getattr(found, "ipv4_mapped", None)
    return f"::ffff:{mapped}" if mapped else str(found)
