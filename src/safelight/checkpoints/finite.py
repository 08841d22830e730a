"""Whether weights hold only finite numbers: a NaN in one tensor makes every picture black."""

from collections.abc import Iterable

import torch
from torch import Tensor

from safelight.errors import FileError, RequestError
from safelight.printable import shown

SAMPLE = 4_096


def check_finite(
    weights: Iterable[tuple[str, Tensor]], where: object, *, full: bool = False
) -> None:
    """Raise FileError naming the first tensor with a NaN or an infinity.

    full looks at every number; otherwise 4,096 of each tensor, evenly spread, which finds damage
    that fills a tensor at a hundredth of the cost. where: the file, for the message.
    """
    for name, tensor in weights:
        if not (tensor.is_floating_point() or tensor.is_complex()):
            continue
        bad = _non_finite(tensor if full else _sample(tensor))
        if bad:
            seen = "numbers" if full else "numbers sampled"
            looked = tensor.numel() if full else min(tensor.numel(), SAMPLE)
            raise FileError(
                f"{shown(where)}: tensor {shown(name)} holds NaN or infinity ({bad} of {looked} "
                f"{seen}); the file is damaged or its training failed, so get another copy"
            )


def check_cast(name: str, stored: Tensor, cast: Tensor, where: object) -> None:
    """Raise RequestError if finite numbers became infinite when they were cast.

    Looks at every number. Of the types that models are computed in only float16 overflows.
    """
    if not overflows(stored.dtype, cast.dtype):
        return
    lost = _non_finite(cast) - _non_finite(stored)
    if lost > 0:
        kind = str(cast.dtype).removeprefix("torch.")
        raise RequestError(
            f"{shown(where)}: tensor {shown(name)} is sound but does not fit {kind}: {lost} of "
            f"{stored.numel()} numbers are larger than {torch.finfo(cast.dtype).max:g}; use "
            "--dtype bf16 or fp32"
        )


def overflows(stored: torch.dtype, wanted: torch.dtype) -> bool:
    """Whether finite numbers of a type can become infinite in the wanted one."""
    narrow = wanted == torch.float16 and stored.is_floating_point
    return narrow and torch.finfo(stored).max > torch.finfo(wanted).max


def _sample(tensor: Tensor) -> Tensor:
    flat = tensor.detach().reshape(-1)
    return flat[:: max(1, flat.numel() // SAMPLE)][:SAMPLE]


def _non_finite(tensor: Tensor) -> int:
    # isfinite knows no 8-bit types; float16 holds all their values.
    wide = tensor.to(torch.float16) if tensor.dtype.itemsize == 1 else tensor
    return int(wide.numel() - wide.isfinite().sum().item())
