"""Modules without memory, for weights that come from a file."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

# What torch's layers call to fill their weights. A meta tensor has nothing to fill, but PyTorch
# carries out `normal_` on one in Python, and imports its compiler for it: 1.0 s of two cores.
FILLS = frozenset(
    {
        nn.init.constant_,
        nn.init.kaiming_normal_,
        nn.init.kaiming_uniform_,
        nn.init.normal_,
        nn.init.uniform_,
        nn.init.xavier_normal_,
        nn.init.xavier_uniform_,
    }
)


@contextmanager
def blank() -> Iterator[None]:
    """As long as it is entered, tensors are born on the meta device and layers leave them unfilled.

    A module built so has names, shapes and types, and is complete once all of its weights are
    assigned: the networks here keep no buffers.
    """
    with torch.device("meta"), _Unfilled():
        yield


class _Unfilled(TorchFunctionMode):
    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func in FILLS:
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)
