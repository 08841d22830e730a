"""Where the time of a call goes: kernels by kind, and what lies between them.

By torch.profiler on whatever PyTorch's eager mode runs, ours or another library's, and on compiled
libraries whose kernels tell of themselves. A kernel is the outermost operator that computes
something, with all that it calls; what lies outside all kernels is Python, dispatch and
bookkeeping.
"""

import time
from collections.abc import Iterable, Sequence
from typing import Any

Json = dict[str, Any]

# What AOTInductor's libraries call their kernels, if they were compiled to tell of them: operators
# that they call back, and loops of their own.
_LIBRARY_CALLS, _FUSED = "aoti_torch_cpu_", "cpp_fused"

KINDS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("fused", (_FUSED,)),
    ("attention", ("attention", "softmax", "bmm", "baddbmm")),
    ("convolution", ("convolution", "conv_", "_conv")),
    ("linear", ("addmm", "mm", "linear")),
    ("norm", ("norm",)),
    ("activation", ("silu", "gelu", "sigmoid", "tanh")),
    ("copy", ("copy_", "clone", "cat", "upsample", "pad", "index", "fill_", "zero_", "contiguous")),
)
OTHER = "other"

# Operators that make no number: their time is bookkeeping.
_BOOKKEEPING = """
    view reshape _reshape_alias as_strided transpose t permute expand unsqueeze squeeze slice
    select narrow split chunk detach alias empty empty_like empty_strided resize_ size stride item
    _local_scalar_dense is_nonzero to contiguous flatten unflatten unbind set_ result_type
    lift_fresh movedim view_as _unsafe_view expand_as numpy_T mT _nnpack_available
"""

# Operators that choose another one, which computes: their own time is dispatch.
_CHOOSING = """
    conv2d convolution _convolution thnn_conv2d linear matmul scaled_dot_product_attention
    group_norm layer_norm softmax clone _to_copy einsum dropout type_as float upsample
"""
TRANSPARENT = frozenset(f"{_BOOKKEEPING} {_CHOOSING}".split())

Span = tuple[float, float]


def profiled(work: Any, asked: Json) -> Json:
    """The share of a call outside kernels, and the seconds of kernels by kind.

    work: as `serving.Work`. The wall is that of calls without the profiler, which slows every
    operator down; as many calls with it say how long kernels take. Of both counts the shortest,
    which was disturbed least.
    """
    from torch.profiler import ProfilerActivity, profile

    calls = int(asked["calls"])
    walls, inside, kinds, counts = [], [], [], []
    for _ in range(calls):
        work.wait()
        began = time.perf_counter()
        work.call()
        work.wait()
        walls.append(time.perf_counter() - began)
    for _ in range(calls):
        with profile(activities=[ProfilerActivity.CPU]) as profiler:
            work.call()
            work.wait()
        found = [
            (plain(event.name), (event.time_range.start * 1e-6, event.time_range.end * 1e-6))
            for event in kernels(profiler.events())
        ]
        inside.append(union(span for _, span in found))
        kinds.append(by_kind(found, inside[-1]))
        counts.append(len(found))
    kernel = min(inside)
    wall = max(min(walls), kernel)  # no call is shorter than its kernels, however disturbed these
    chosen = inside.index(kernel)
    return {
        "wall_seconds": wall,
        "kernel_seconds": kernel,
        "overhead_seconds": max(0.0, wall - kernel),
        "overhead_share": max(0.0, 1 - kernel / wall),
        "kernels": counts[chosen],
        "kinds": kinds[chosen],
    }


def kernels(events: Iterable[Any]) -> list[Any]:
    """The outermost operators that compute; what they call in turn is theirs."""
    found: list[Any] = []
    left = [event for event in events if event.cpu_parent is None]
    while left:
        event = left.pop()
        if computes(event.name):
            found.append(event)
        else:
            left += event.cpu_children
    return found


def computes(name: str) -> bool:
    """Whether an operator, or a kernel of a compiled library, makes numbers."""
    if "::" in name:
        return plain(name) not in TRANSPARENT
    return name.startswith(_LIBRARY_CALLS) or _FUSED in name


def plain(name: str) -> str:
    """An operator's name without its library: aten::addmm -> addmm."""
    return name.rpartition("::")[2]


def kind_of(name: str) -> str:
    """Which kind of work an operator does."""
    return next((kind for kind, parts in KINDS if any(part in name for part in parts)), OTHER)


def by_kind(found: Sequence[tuple[str, Span]], seconds: float) -> dict[str, float]:
    """Each kind's part of the seconds in which any kernel ran.

    Threads that work beside each other share them: a kind has the part that it has of all threads'.
    """
    sums: dict[str, float] = {}
    for name, (start, end) in found:
        kind = kind_of(name)
        sums[kind] = sums.get(kind, 0.0) + end - start
    total = sum(sums.values())
    return {kind: seconds * one / total for kind, one in sums.items() if total > 0}


def union(spans: Iterable[Span]) -> float:
    """Seconds that at least one of the spans covers."""
    total, reached = 0.0, float("-inf")
    for start, end in sorted(spans):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total
