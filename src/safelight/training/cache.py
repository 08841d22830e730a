"""What is costly to compute and does not change: latents and text states, kept on disk by content.

An entry's key is a hash of all that it was made from: the bytes of the picture or the words, the
hash of the network, size, crop, type. So nothing in the store can be out of date: an edited file or
another network asks for other keys, and only those are computed.
"""

import hashlib
import json
import logging
import secrets
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Self

from torch import Tensor

from safelight.checkpoints.files import open_weights
from safelight.checkpoints.weight_file import WeightFile
from safelight.checkpoints.writing import Entry, write_safetensors
from safelight.errors import FileError
from safelight.printable import shown
from safelight.writing import make_folder

log = logging.getLogger(__name__)

FORMAT = "1"  # of keys and shards; another number makes every entry anew
SHARD_BYTES = 64 * 2**20
SHARD_TENSORS = 50_000  # a reader of safetensors takes 100,000

Fact = str | int | float | bool | Sequence[int] | None


def content_hash(data: bytes | str) -> str:
    """A hash of a file's bytes or of a text, 32 hex digits."""
    raw = data.encode("utf-8", "surrogatepass") if isinstance(data, str) else data
    return hashlib.blake2b(raw, digest_size=16).hexdigest()


def key_of(kind: str, content: str, maker: str, **facts: Fact) -> str:
    """The key of an entry: 32 hex digits that depend on all of this and on nothing else.

    kind: "latents" and the like. content: `content_hash` of what goes in. maker: hash of the
    weights that make it. facts: size, crop, flip, dtype and whatever else the result depends on.
    """
    told = {"format": FORMAT, "kind": kind, "content": content, "maker": maker, **facts}
    return content_hash(json.dumps(told, sort_keys=True, separators=(",", ":")))


class Store:
    """Tensors by key in a folder of safetensors files.

    Entries wait in memory until a file's worth is there or `flush` is called; a file is there whole
    or not at all, and never changes. Several processes may write to one folder. A damaged file is
    left out with a warning: its entries are computed again. Safe to use from several threads.
    """

    def __init__(self, folder: Path, *, shard_bytes: int = SHARD_BYTES) -> None:
        """Open the folder, made if missing. Raises OutputError if it cannot be."""
        make_folder(folder)
        self.folder = folder
        self._limit = shard_bytes
        self._turn = threading.RLock()
        self._files: dict[Path, WeightFile] = {}
        self._place: dict[str, tuple[Path, dict[str, str]]] = {}  # key -> file, own name -> theirs
        self._waiting: dict[str, dict[str, Tensor]] = {}
        self._bytes = self._tensors = 0
        self.refresh()

    def __contains__(self, key: str) -> bool:
        with self._turn:
            return key in self._waiting or key in self._place

    def __len__(self) -> int:
        with self._turn:
            return len(self._place.keys() | self._waiting.keys())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def keys(self) -> set[str]:
        """All keys."""
        with self._turn:
            return self._place.keys() | self._waiting.keys()

    def get(self, key: str) -> dict[str, Tensor] | None:
        """The tensors of an entry on the CPU, or None; do not write to them."""
        with self._turn:
            if key in self._waiting:
                return dict(self._waiting[key])
            if key not in self._place:
                return None
            path, names = self._place[key]
            try:
                return {name: self._files[path].read(theirs) for name, theirs in names.items()}
            except FileError as error:
                self._forget(path, error)
                return None

    def put(self, key: str, tensors: Mapping[str, Tensor]) -> None:
        """Keep an entry; one that is there already stays. Raises OutputError on a full disk."""
        if not tensors or "/" in key or any("/" in name for name in tensors):
            raise ValueError(f"an entry needs tensors, and no '/' in {key!r} or {sorted(tensors)}")
        with self._turn:
            if key in self:
                return
            kept = {name: t.detach().to("cpu", copy=True) for name, t in tensors.items()}
            self._waiting[key] = kept
            self._bytes += sum(t.numel() * t.element_size() for t in kept.values())
            self._tensors += len(kept)
            if self._bytes >= self._limit or self._tensors >= SHARD_TENSORS:
                self.flush()

    def computed(
        self, keys: Sequence[str], make: Callable[[list[int]], Iterable[Mapping[str, Tensor]]]
    ) -> list[dict[str, Tensor]]:
        """The entries of these keys; `make` is asked once for the places of those not there yet."""
        found = [self.get(key) for key in keys]
        first = {key: place for place, key in reversed(list(enumerate(keys)))}
        absent = sorted(place for key, place in first.items() if found[place] is None)
        if absent:
            for place, tensors in zip(absent, make(absent), strict=True):
                self.put(keys[place], tensors)
        entries = []
        for place, key in enumerate(keys):
            entry = found[place] if found[place] is not None else self.get(key)
            assert entry is not None
            entries.append(entry)
        return entries

    def flush(self) -> None:
        """Write what waits. Raises OutputError, and then keeps it waiting."""
        with self._turn:
            if self._waiting:
                self._written(self._waiting)
                self._waiting, self._bytes, self._tensors = {}, 0, 0

    def close(self) -> None:
        """Write what waits and let go of the files."""
        self.flush()
        with self._turn:
            for file in self._files.values():
                file.close()
            self._files.clear()
            self._place.clear()

    def refresh(self) -> None:
        """See what other processes have written since."""
        with self._turn:
            for path in sorted(self.folder.glob("*.safetensors")):
                if path not in self._files:
                    self._opened(path)

    def prune(self, keep: Iterable[str]) -> int:
        """Remove all other entries; how many they were. Files that hold both are written anew.

        Not while another process uses the folder.
        """
        self.flush()
        wanted = set(keep)
        with self._turn:
            gone = self._place.keys() - wanted
            for path in {self._place[key][0] for key in gone}:
                rest = [key for key, (place, _) in self._place.items() if place == path]
                staying = [key for key in rest if key in wanted]
                entries = {key: self.get(key) for key in staying}
                if staying:  # before the old file goes: a crash between leaves both, not neither
                    self._written({k: v for k, v in entries.items() if v is not None})
                self._drop(path, [key for key in rest if key not in wanted])
            used = {path for path, _ in self._place.values()}
            for path in self._files.keys() - used:  # all it holds, another file holds too
                self._drop(path, ())
            return len(gone)

    def _written(self, entries: Mapping[str, Mapping[str, Tensor]]) -> None:
        rows = [
            Entry(f"{key}/{name}", tuple(tensor.shape), tensor.dtype, lambda tensor=tensor: tensor)  # type: ignore[misc]
            for key, tensors in entries.items()
            for name, tensor in tensors.items()
        ]
        path = self.folder / f"{secrets.token_hex(8)}.safetensors"
        write_safetensors(path, rows, {"safelight.cache": FORMAT})
        self._opened(path)

    def _opened(self, path: Path) -> None:
        try:
            file = open_weights(path)
        except FileError as error:
            log.warning("a cache file is left out, and its entries computed again: %s", error)
            return
        self._files[path] = file
        for theirs in file.header:
            key, _, name = theirs.partition("/")
            held = self._place.get(key)
            if held is None or held[0] != path:
                self._place[key] = (path, {})
            self._place[key][1][name] = theirs

    def _forget(self, path: Path, error: FileError) -> None:
        log.warning("a cache file is left out, and its entries computed again: %s", error)
        self._drop(path, [key for key, (place, _) in self._place.items() if place == path])

    def _drop(self, path: Path, keys: Iterable[str]) -> None:
        for key in keys:
            del self._place[key]
        self._files.pop(path).close()
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            log.warning("cannot remove %s: %s", shown(path), error.strerror)
