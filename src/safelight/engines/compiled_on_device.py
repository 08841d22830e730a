"""The engine `compiled` on a GPU: PyTorch's own just-in-time compiler, with a private cache.

There, compiling is a matter of seconds to minutes that the compiler's own cache saves the second
time, and weights need no packing; so nothing of ours lies between. What the compiler keeps on disk
is code that it will run: it lies in a folder that is this user's alone, unless the user named
another by TORCHINDUCTOR_CACHE_DIR.
"""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from safelight.engines.calls import taken_apart
from safelight.engines.private_folder import private_folder
from safelight.errors import RequestError
from safelight.models.runner import Extra

log = logging.getLogger(__name__)

FOLDER = "compiled-on-device"
CACHES = {"TORCHINDUCTOR_CACHE_DIR": "inductor", "TRITON_CACHE_DIR": "triton"}


class JustInTime:
    """A method of a network that is compiled when it is first asked at a size."""

    def __init__(self, network: nn.Module, method: str, what: str) -> None:
        self._what = what
        self._compiled: Any = torch.compile(getattr(network, method), dynamic=False)
        self._seen: set[tuple[object, ...]] = set()

    def __call__(self, *args: Any, **told: Any) -> Tensor:
        key = taken_apart(*args, **told).key
        with torch.no_grad(), _own_caches():
            if key not in self._seen:
                log.warning(
                    "compiling the %s for a size that was not asked before in this run; the "
                    "second run is quicker",
                    self._what,
                )
            try:
                result: Tensor = self._compiled(*args, **told)
            except torch._dynamo.exc.TorchDynamoException as error:
                reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
                raise RequestError(
                    f"engine compiled could not compile this model: {reason}; draw with "
                    "--engine eager"
                ) from error
            self._seen.add(key)
            return result


class JustInTimeUNet:
    """A `Runner`: a U-Net by the just-in-time compiler."""

    frozen = False

    def __init__(self, unet: nn.Module, name: str, extras: frozenset[Extra]) -> None:
        self.name, self.extras = name, extras
        self._work = JustInTime(unet, "forward", "U-Net")

    def __call__(
        self,
        x: Tensor,
        time: Tensor,
        context: Tensor,
        vector: Tensor | None = None,
        **told: object,
    ) -> Tensor:
        given = {name: value for name, value in told.items() if value is not None}
        return self._work(x, time, context, vector, **given)


@contextmanager
def _own_caches() -> Iterator[None]:
    """The compiler keeps its products in our folders while entered, unless it was told where."""
    folder = private_folder(FOLDER)
    mine = {name: str(folder / inner) for name, inner in CACHES.items() if name not in os.environ}
    os.environ.update(mine)
    try:
        yield
    finally:
        for name in mine:
            os.environ.pop(name, None)
