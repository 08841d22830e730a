"""Opens every hostile file in a process of its own and reports what happened, a JSON line each.

Run as `python hostile_runner.py FOLDER`; the process is limited in memory, so that a reader that
believes a lie dies here and not in the test.
"""

import json
import resource
import sys
import time
from pathlib import Path

from hostile_files import MARKER, labels, write_hostile

GIB = 2**30


def opened(path: Path) -> tuple[str, str]:
    """Class and text of the error that opening and reading everything gives."""
    from safelight.checkpoints.files import open_weights

    try:
        with open_weights(path) as weights:
            for tensor in weights.header:
                weights.read(tensor).sum()
    except Exception as error:
        return type(error).__name__, str(error)
    return "", ""


def peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main(folder: Path) -> None:
    opened(folder)  # loads torch
    resource.setrlimit(resource.RLIMIT_DATA, (4 * GIB, 4 * GIB))
    for group, label in labels():
        path = write_hostile(folder, group, label)
        before, start = peak(), time.perf_counter()
        kind, message = opened(path)
        report = {
            "label": label,
            "kind": kind,
            "message": message,
            "seconds": time.perf_counter() - start,
            "grown": peak() - before,
            "marker": (folder / MARKER).exists(),
        }
        print(json.dumps(report), flush=True)
        if path.is_symlink() or path.is_file():
            path.unlink()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
