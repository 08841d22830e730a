"""What the fixture `on_disk` of tests/checkpoints gives."""

from dataclasses import dataclass
from pathlib import Path

import tiny


@dataclass(frozen=True)
class OnDisk:
    """One family in both layouts, and the modules of Diffusers that it was written from."""

    made: tiny.Oracle
    folder: Path
    single: Path
