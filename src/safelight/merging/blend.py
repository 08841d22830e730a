"""What becomes of one tensor of every model: a method with its numbers, and the result checked."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import Tensor

from safelight.checkpoints.finite import check_cast, check_finite
from safelight.errors import RequestError
from safelight.merging.methods import (
    added_difference,
    dropped,
    elected,
    place_seed,
    spherical,
    weighted_sum,
)
from safelight.printable import shown

Method = Literal["sum", "difference", "slerp", "ties", "dare", "dare-ties"]
METHODS: tuple[Method, ...] = get_args(Method)
Read = Callable[[], Tensor]


@dataclass(frozen=True, slots=True)
class Blend:
    """A method with the weights of one tensor.

    weights: of every model but the base and, for a difference, the first; for `sum` and `slerp` of
    all. based: whether the last tensor is the base.
    """

    method: Method
    weights: tuple[float, ...]
    density: float = 1.0
    seed: int = 0

    @property
    def alone(self) -> int | None:
        """The place of the one model that the result is, to the bit; None if it is mixed."""
        if self.method in ("sum", "slerp"):
            there = [i for i, weight in enumerate(self.weights) if weight]
            return there[0] if len(there) == 1 and self.weights[there[0]] == 1 else None
        if any(self.weights):
            return None
        return 0 if self.method == "difference" else len(self.weights)


def blended(
    blend: Blend,
    reads: Sequence[Read],
    dtype: torch.dtype,
    place: tuple[str, str],
    paths: Sequence[Path],
) -> Tensor:
    """The merged tensor in the wanted type.

    reads: of every model in the order of the plan, the base last. place: part and name. paths: for
    messages. Raises FileError if a model holds NaN or infinity, RequestError if finite numbers do
    not fit the type.
    """
    label = ".".join(place)
    if blend.alone is not None:
        tensor = reads[blend.alone]()
        check_finite([(label, tensor)], paths[blend.alone])
        cast = tensor.to(dtype)
        check_cast(label, tensor, cast, "the result")
        return cast
    tensors = [read() for read in reads]
    result = _mixed(blend, tensors, dtype, place)
    if not bool(_finite(result)):
        for tensor, path in zip(tensors, paths, strict=True):
            check_finite([(label, tensor)], path, full=True)
        raise RequestError(
            f"the merged tensor {shown(label)} does not fit {str(dtype).removeprefix('torch.')}; "
            "use --dtype bf16 or fp32, or smaller weights"
        )
    return result


def _mixed(
    blend: Blend, tensors: Sequence[Tensor], dtype: torch.dtype, place: tuple[str, str]
) -> Tensor:
    weights, density = blend.weights, blend.density
    match blend.method:
        case "sum":
            return weighted_sum(tensors, weights, dtype)
        case "slerp":
            return spherical(tensors[0], tensors[1], weights[1], dtype)
        case "difference":
            first, *others, base = tensors
            return added_difference(first, others, base, weights, dtype=dtype)
        case "ties":
            *others, base = tensors
            return elected(base, others, weights, density=density, dtype=dtype)
        case "dare" | "dare-ties":
            *others, base = tensors
            seeds = [place_seed(blend.seed, model, *place) for model in range(len(others))]
            elect = blend.method == "dare-ties"
            return dropped(
                base, others, weights, density=density, seeds=seeds, elect=elect, dtype=dtype
            )


def _finite(tensor: Tensor) -> Tensor:
    # isfinite knows no 8-bit types; float16 holds all their values.
    wide = tensor.to(torch.float16) if tensor.dtype.itemsize == 1 else tensor
    return wide.isfinite().all()
