"""Loaded models, kept within a byte budget: the one that was used longest ago goes first.

Used by the sampling thread alone; `loaded` may be read from anywhere. A model is read before
anything is let go for it as far as its header tells, so that a broken file costs nothing.
"""

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from safelight.checkpoints.library import SUFFIXES
from safelight.checkpoints.load import load_autoencoder, open_checkpoint
from safelight.embedded.carried import TINY, companion, is_embedded
from safelight.engines.placement import resolve_device, resolve_dtype
from safelight.errors import SafelightError
from safelight.model import Model
from safelight.models.autoencoder import Codec
from safelight.models.cpu_product import NARROW
from safelight.server.logs import log
from safelight.server.memory import SCARCE, is_below
from safelight.server.previews import Preview, fitted
from safelight.tasks.picture_file import InputPicture
from safelight.tasks.placing import Opening, opened
from safelight.tasks.request import Request
from safelight.tasks.supplies import Supplies
from safelight.text.bpe import Tokenizer
from safelight.text.vocabulary import Vocabulary

Stamp = tuple[tuple[str, int, int, int], ...]  # name, size, time of change and inode of each file
AIDS = 16  # opened control networks, adapters and the like of one model


class Aids(OrderedDict[tuple[object, ...], Any]):
    """What `Supplies` keeps for a model, the last used `AIDS` of it."""

    def __getitem__(self, key: tuple[object, ...]) -> Any:
        self.move_to_end(key)
        return super().__getitem__(key)

    def __setitem__(self, key: tuple[object, ...], value: Any) -> None:
        super().__setitem__(key, value)
        while len(self) > AIDS:
            self.popitem(last=False)


@dataclass(eq=False)
class Loaded:
    """A model in memory, with what was opened for it."""

    model: Model
    stamp: Stamp
    aids: Aids = field(default_factory=Aids)
    notes: tuple[str, ...] = ()
    preview: Preview | None = None  # how its latents look

    @property
    def size(self) -> int:
        """Bytes of its weights and of all that was opened for it."""
        return bytes_of((self.model, list(self.aids.values())))

    def supplies(self, pictures: dict[str, InputPicture]) -> Supplies:
        """Supplies for one turn with these pictures; models that help are kept for the next."""
        for key in [key for key in self.aids if key and key[0] == "names"]:
            del self.aids[key]
        return Supplies(_opened=pictures, _kept=self.aids)


class Library:
    """The models in memory."""

    def __init__(
        self,
        budget: int,
        *,
        previews: bool = True,
        loading: Callable[[str | None], None] = lambda name: None,
    ) -> None:
        """budget: bytes. previews: whether it is worked out how a model's latents look. loading:
        told the name of a model while it is read, then None."""
        self.budget, self._loading, self._previews = budget, loading, previews
        self._models: OrderedDict[Hashable, Loaded] = OrderedDict()
        self.loaded: frozenset[Hashable] = frozenset()
        self.hits, self.misses, self.bytes = 0, 0, 0

    def of(self, key: Hashable, request: Request) -> Loaded:
        """The model of a resolved request, which `key` stands for.

        One whose file changed is read anew; if that fails the old one goes on, and its notes say
        so. Raises FileError or CheckpointError if it cannot be read and was not loaded before.
        """
        assert request.model is not None
        found = self._models.get(key)
        stamp = stamp_of(request)
        if found is not None and found.stamp == stamp:
            self._models.move_to_end(key)
            self.hits += 1
            return found
        self.misses += 1
        self._loading(Path(request.model).name)
        try:
            made = self._read(key, request, stamp)
        except SafelightError as error:
            if found is None:
                raise
            found.notes = (
                f"{Path(request.model).name} was changed since it was loaded, and cannot be read "
                f"any more; the picture is drawn with what was loaded before. {error}",
            )
            return found
        finally:
            self._loading(None)
        self._models[key] = made
        self._models.move_to_end(key)
        self._shrink(self.budget, keep=key)
        self._tell()
        return made

    def free(self, keep: Hashable | None = None) -> int:
        """Let go of all models but one, and of what was opened for it; returns the bytes."""
        before = self.size
        for key in [key for key in self._models if key != keep]:
            del self._models[key]
        if keep in self._models:
            self._models[keep].aids.clear()
        self._tell()
        return before - self.size

    @property
    def size(self) -> int:
        """Bytes of all that is loaded; `bytes` is what it was when a model came or went."""
        return sum(one.size for one in self._models.values())

    def _read(self, key: Hashable, request: Request, stamp: Stamp) -> Loaded:
        assert request.model is not None
        path = Path(request.model)
        with open_checkpoint(path, own_vae=request.vae is None):
            pass  # a file that is broken or of no known family ends here
        size = sum(one[1] for one in stamp)
        self._shrink(self.budget - size, keep=key)
        if is_below(size + SCARCE):
            self.free(keep=key if key in self._models else None)
        device = resolve_device(request.device)
        how = Opening(
            dtype=resolve_dtype(request.dtype, device),
            device=device,
            engine=request.engine,
            offload=request.offload,
            ema=request.ema,
            prediction=request.prediction,
            zero_terminal_snr=request.zero_terminal_snr,
        )
        model = opened(path, how, None if request.vae is None else Path(request.vae))
        if model.placement is None:  # what rests in files is read from them again and again
            own_weights(model)
        return Loaded(model, stamp, preview=_preview(model) if self._previews else None)

    def _shrink(self, budget: int, *, keep: Hashable) -> None:
        """Let go of the models used longest ago until the rest fit; `keep` stays in any case."""
        sizes = {key: one.size for key, one in self._models.items()}
        for key in sizes:
            if sum(sizes[one] for one in self._models) <= budget:
                break
            if key != keep:
                del self._models[key]
        self._tell()

    def _tell(self) -> None:
        self.loaded, self.bytes = frozenset(self._models), self.size


def _preview(model: Model) -> Preview | None:
    """How a model's latents look; None if that cannot be worked out: pictures do not hang on it."""
    try:
        return fitted(model.codec, model.placement, tiny=_tiny(model))
    except Exception:
        log.exception("no previews of this model")
        return None


def _tiny(model: Model) -> Codec | None:
    """The tiny decoder that goes with the embedded model's latents; None for other latents."""
    path = companion(TINY)
    coders = [file.path for file in model.files if file.role == "vae"]
    if path is None or path in coders or not any(map(is_embedded, coders)):
        return None
    try:
        # rounding does not show in a preview, and bfloat16 takes two thirds of the time
        narrow = NARROW and model.device.type == "cpu"
        dtype = torch.bfloat16 if narrow else model.dtype
        return load_autoencoder(path, dtype=dtype, device=model.device)
    except SafelightError as error:
        log.warning("previews are coarse: %s", error)
        return None


def stamp_of(request: Request) -> Stamp:
    """What tells whether the files of a request's model were changed. Files that are gone have no
    part in it."""
    found: list[tuple[str, int, int, int]] = []
    for name in (request.model, request.vae):
        if name is None:
            continue
        path = Path(name)
        files = sorted(_weights(path)) if path.is_dir() else [path]
        for file in files:
            try:
                status = file.stat()
            except OSError:
                continue
            found.append((str(file), status.st_size, status.st_mtime_ns, status.st_ino))
    return tuple(found)


def _weights(folder: Path) -> Iterator[Path]:
    return (path for path in folder.glob("*/*") if path.suffix.lower() in SUFFIXES)


def bytes_of(value: object) -> int:
    """Bytes of all tensors that a value holds, each counted once; looks into modules, dataclasses,
    lists and dictionaries."""
    storages = (tensor.untyped_storage() for tensor in _tensors(value, set(), 0))
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def own_weights(model: Model) -> None:
    """Give all weights on the CPU memory of their own, so that they depend on no file.

    Where a file is mapped and another program cuts it short, the next look at it ends the process
    (SIGBUS), and a server would die of a copy that replaces a model it draws with.
    """
    made: dict[tuple[object, ...], Tensor] = {}  # weights that two modules share stay shared
    for tensor in list(_tensors(model, set(), 0)):
        if isinstance(tensor, nn.Parameter) and tensor.device.type == "cpu":
            key = (tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride())
            if key not in made:
                made[key] = tensor.data.clone()
            tensor.data = made[key]


def _tensors(value: object, seen: set[int], depth: int) -> Iterator[Tensor]:
    # a vocabulary is all texts and numbers, and so many that to look at them takes long
    if depth > 12 or isinstance(value, Vocabulary | Tokenizer) or id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, nn.Module):
        for tensor in (*value.parameters(), *value.buffers()):
            yield from _tensors(tensor, seen, depth + 1)
    elif isinstance(value, dict):
        for item in value.values():
            yield from _tensors(item, seen, depth + 1)
    elif isinstance(value, list | tuple | set | frozenset):
        for item in value:
            yield from _tensors(item, seen, depth + 1)
    elif is_dataclass(value) and not isinstance(value, type):
        for one in fields(value):
            yield from _tensors(getattr(value, one.name, None), seen, depth + 1)
    elif type(value).__module__.startswith("safelight.") and hasattr(value, "__dict__"):
        yield from _tensors(vars(value), seen, depth + 1)


def released() -> None:
    """Give memory that torch keeps for later back to the device."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
