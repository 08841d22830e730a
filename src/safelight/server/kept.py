"""Pictures as the server knows them: those it drew, and those it was given."""

import hashlib
from dataclasses import asdict, dataclass


@dataclass(frozen=True, slots=True)
class Upload:
    """A picture that a client gave: its id names it in requests (`source.picture`, ...).

    id: the SHA-256 of its bytes, 64 hex digits. kind: "PNG", "JPEG" or "WEBP".
    """

    id: str
    width: int
    height: int
    kind: str
    size: int  # bytes

    def to_json(self) -> dict[str, object]:
        """Plain values by name."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Kept:
    """A finished picture in the gallery. id: 16 hex digits. file: its name in the output folder.

    model: the name of the model's file, without folders.
    """

    id: str
    job: str
    index: int
    owner: str
    created: float
    file: str
    width: int
    height: int
    seed: int
    prompt: str
    negative_prompt: str
    model: str
    size: int  # bytes
    sha256: str  # of the file
    warnings: tuple[str, ...] = ()

    def to_json(self) -> dict[str, object]:
        """Plain values by name."""
        return asdict(self) | {"warnings": list(self.warnings)}


def picture_id(job: str, index: int) -> str:
    """The id of picture `index` of a job: the same when it is drawn again after a crash, so that
    its file is replaced and never doubled."""
    return hashlib.sha256(f"{job}:{index}".encode()).hexdigest()[:16]
