"""What PyTorch's pickles name: tensors as places in a file, and state that stays inert.

The functions here stand for those of `torch._utils` that a saved tensor names. They build a
description (`TensorPlace`) from numbers, check it, and touch no memory of tensors.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod

import torch

from safelight.checkpoints.pickle_machine import Build, Global, Placeholder, as_set

MAX_RANK = 16
MAX_EXPANDED = 2**20  # numbers of a tensor that repeats its storage, as expand() makes them


@dataclass(frozen=True, slots=True)
class Storage:
    """A run of numbers in the file, by key. dtype None: plain bytes."""

    key: str
    count: int
    dtype: torch.dtype | None

    @property
    def nbytes(self) -> int:
        return self.count * (self.dtype.itemsize if self.dtype else 1)


@dataclass(frozen=True, slots=True)
class TensorPlace:
    """A tensor as a strided window on a storage; offset and stride count numbers, not bytes."""

    storage: Storage
    dtype: torch.dtype
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    @property
    def extent(self) -> int:
        """How many numbers of the storage lie between its first and its last, both counted."""
        if 0 in self.shape:
            return 0
        return 1 + sum((n - 1) * step for n, step in zip(self.shape, self.stride, strict=True))

    @property
    def contiguous(self) -> bool:
        """Whether its numbers follow one another in row-major order."""
        expected = 1
        for size, step in zip(reversed(self.shape), reversed(self.stride), strict=True):
            if size != 1 and step != expected:
                return False
            expected *= size
        return True


def _whole(*values: object) -> bool:
    return all(type(v) is int and 0 <= v < 2**62 for v in values)


def _place(
    storage: object, dtype: torch.dtype, offset: object, shape: object, stride: object
) -> TensorPlace:
    if not isinstance(storage, Storage):
        raise ValueError("a tensor without a storage")
    if not isinstance(shape, tuple) or not isinstance(stride, tuple):
        raise ValueError("a tensor whose shape or stride is not a tuple")
    if len(shape) != len(stride) or len(shape) > MAX_RANK:
        raise ValueError(f"a tensor of rank {len(shape)} with {len(stride)} strides")
    if not _whole(offset, *shape, *stride) or not isinstance(offset, int):
        raise ValueError("a tensor with a negative or huge size")
    place = TensorPlace(storage, dtype, offset, shape, stride)
    if prod(max(size, 1) for size in shape) >= 2**60:
        raise ValueError(f"a tensor of impossible shape {list(shape)}")
    if (offset + place.extent) * dtype.itemsize > storage.nbytes:
        raise ValueError(
            f"a tensor of shape {list(shape)} that reaches beyond its storage of "
            f"{storage.nbytes} bytes"
        )
    if prod(shape) > max(storage.nbytes // dtype.itemsize, MAX_EXPANDED):
        raise ValueError(f"a tensor of shape {list(shape)} spread from {storage.nbytes} bytes")
    return place


def _tensor(
    storage: object, offset: object, shape: object, stride: object, *_: object
) -> TensorPlace:
    """`_rebuild_tensor_v2(storage, offset, size, stride, requires_grad, hooks, metadata)`."""
    dtype = storage.dtype if isinstance(storage, Storage) else None
    if dtype is None:
        raise ValueError("a tensor on a storage without a type")
    return _place(storage, dtype, offset, shape, stride)


def _typed_tensor(
    storage: object,
    offset: object,
    shape: object,
    stride: object,
    requires_grad: object,
    hooks: object,
    dtype: object,
    metadata: object = None,
) -> TensorPlace:
    """`_rebuild_tensor_v3`: for types that have no storage class of their own."""
    found = DTYPES.get(dtype) if isinstance(dtype, Global) else None
    if found is None:
        raise ValueError(f"a tensor of unknown type {dtype}")
    return _place(storage, found, offset, shape, stride)


def _parameter(data: object, *_: object) -> TensorPlace:
    """`_rebuild_parameter(data, requires_grad, hooks)`: here, just its data."""
    if not isinstance(data, TensorPlace):
        raise ValueError("a parameter without a tensor")
    return data


def _of_type(function: object, kind: object, args: object, state: object = None) -> object:
    """`torch._tensor._rebuild_from_type_v2(function, type, args, state)`: a tensor with notes."""
    build = BUILDS.get(function) if isinstance(function, Global) else None
    if build not in (_tensor, _typed_tensor, _parameter) or not isinstance(args, tuple):
        raise ValueError("a tensor made in an unknown way")
    assert build is not None
    return build(*args)


def _ordered(pairs: object = ()) -> dict[object, object]:
    """`OrderedDict()` or `OrderedDict([[key, value], ...])` with text keys."""
    found: dict[object, object] = {}
    if not isinstance(pairs, (list, tuple)):
        raise ValueError("an ordered dict made of something else")
    for pair in pairs:
        if not isinstance(pair, (list, tuple)) or len(pair) != 2 or type(pair[0]) is not str:
            raise ValueError("an ordered dict with an odd entry")
        found[pair[0]] = pair[1]
    return found


def _size(values: object = ()) -> tuple[object, ...]:
    if not isinstance(values, (list, tuple)) or len(values) > MAX_RANK:
        raise ValueError("a torch.Size of something else")
    return tuple(values)


def _never(*_: object) -> object:
    raise ValueError("a call of a type")


STORAGES: Mapping[Global, torch.dtype | None] = {
    **{
        Global("torch", f"{name}Storage"): dtype
        for name, dtype in {
            "Double": torch.float64,
            "Float": torch.float32,
            "Half": torch.float16,
            "BFloat16": torch.bfloat16,
            "Long": torch.int64,
            "Int": torch.int32,
            "Short": torch.int16,
            "Char": torch.int8,
            "Byte": torch.uint8,
            "Bool": torch.bool,
            "ComplexFloat": torch.complex64,
            "ComplexDouble": torch.complex128,
        }.items()
    },
    Global("torch.storage", "UntypedStorage"): None,
    Global("torch", "UntypedStorage"): None,
}
DTYPES: Mapping[Global, torch.dtype] = {
    Global("torch", str(dtype).removeprefix("torch.")): dtype
    for dtype in (
        torch.float64,
        torch.float32,
        torch.float16,
        torch.bfloat16,
        torch.float8_e4m3fn,
        torch.float8_e4m3fnuz,
        torch.float8_e5m2,
        torch.float8_e5m2fnuz,
        torch.int64,
        torch.int32,
        torch.int16,
        torch.int8,
        torch.uint8,
        torch.uint16,
        torch.uint32,
        torch.uint64,
        torch.bool,
        torch.complex64,
        torch.complex128,
    )
}
BUILDS: Mapping[Global, Build] = {
    Global("collections", "OrderedDict"): _ordered,
    Global("torch", "Size"): _size,
    Global("torch._utils", "_rebuild_tensor"): _tensor,
    Global("torch._utils", "_rebuild_tensor_v2"): _tensor,
    Global("torch._utils", "_rebuild_tensor_v3"): _typed_tensor,
    Global("torch._utils", "_rebuild_parameter"): _parameter,
    Global("torch._utils", "_rebuild_parameter_with_state"): _parameter,
    Global("torch._tensor", "_rebuild_from_type_v2"): _of_type,
    **{Global(module, "set"): as_set for module in ("builtins", "__builtin__")},
    **dict.fromkeys(STORAGES, _never),
    **dict.fromkeys(DTYPES, _never),
}

# Whole modules of training state whose objects stay placeholders: none of it runs, and none of it
# is needed for the weights. Anything that is in neither list refuses the file by name.
INERT_MODULES = (
    "argparse",
    "diffusers",
    "ldm",
    "lightning",
    "lightning_fabric",
    "lightning_utilities",
    "omegaconf",
    "pytorch_lightning",
    "sgm",
    "torch.distributed.optim",
    "torch.nn",
    "torch.optim",
    "torchmetrics",
    "transformers",
)
HARMLESS_TYPES = (
    *("bool", "bytes", "bytearray", "complex", "dict", "float", "frozenset", "int", "list"),
    *("long", "object", "slice", "str", "tuple", "unicode"),
)
INERT_NAMES = frozenset(
    Global(module, name)
    for module, names in {
        "_codecs": ("encode",),
        "collections": ("Counter", "defaultdict", "deque"),
        "copy_reg": ("_reconstructor",),
        "copyreg": ("_reconstructor",),
        "datetime": ("date", "datetime", "timedelta"),
        "numpy": ("dtype", "ndarray", "float32", "float64", "int32", "int64", "bool_"),
        "numpy.core.multiarray": ("_reconstruct", "scalar"),
        "numpy._core.multiarray": ("_reconstruct", "scalar"),
        "pathlib": ("Path", "PosixPath", "PurePosixPath", "PureWindowsPath", "WindowsPath"),
        "torch": ("Tensor", "device"),
        "torch.nn.parameter": ("Parameter",),
        "typing": ("Any", "Dict", "List", "Optional", "Tuple", "Union"),
        **dict.fromkeys(("builtins", "__builtin__"), HARMLESS_TYPES),
    }.items()
    for name in names
)


def inert(what: Global) -> bool:
    """Whether a name stands for training state that may stay a placeholder."""
    top = any(what.module == m or what.module.startswith(f"{m}.") for m in INERT_MODULES)
    return top or what in INERT_NAMES or what.module.startswith("numpy.dtypes")


def stored(register: Callable[[Storage], Storage], legacy: bool) -> Callable[[object], Storage]:
    """Reads persistent ids: `("storage", type, key, place, count)`, the only kind there is.

    register sees each storage and returns it, or raises ValueError if the file has no such bytes.
    """

    def read(identity: object) -> Storage:
        if not isinstance(identity, tuple) or len(identity) != (6 if legacy else 5):
            raise ValueError("an unknown kind of storage")
        kind, what, key, place, count = identity[:5]
        if kind != "storage" or type(key) is not str or type(place) is not str:
            raise ValueError("an unknown kind of storage")
        if not isinstance(what, Global) or what not in STORAGES:
            raise ValueError("a storage of unknown type")
        if not _whole(count):
            raise ValueError(f"a storage of {count} numbers")
        if legacy and identity[5] is not None:
            raise ValueError("a storage that is a view of another, which PyTorch < 0.4 wrote")
        return register(Storage(key, count, STORAGES[what]))

    return read


def children(value: object) -> Sequence[tuple[str, object]]:
    """The named parts of a container: of a dict, a list, or the inert state of a torch module."""
    if isinstance(value, dict):
        return [(str(key), part) for key, part in value.items()]
    if isinstance(value, (list, tuple)):
        return [(str(index), part) for index, part in enumerate(value)]
    if isinstance(value, Placeholder):
        found = [*children(value.items), *children(value.elements)]
        if value.what.module.startswith("torch.nn.") and isinstance(value.state, dict):
            for slot in ("_parameters", "_buffers", "_modules"):
                found += children(value.state.get(slot))
        return found
    return []
