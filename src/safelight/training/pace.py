"""How far the host runs ahead of the device, and what it hears of the steps behind it.

Asking a device for a number makes the host wait until all before it is done, so no step asks. On a
GPU the flag of each step is copied in its turn, and looked at when the host has to wait anyway.
"""

from collections import deque
from collections.abc import Sequence

import torch
from torch import Tensor

AHEAD = 2  # steps the host may be ahead of a GPU: enough to keep it busy, few enough to stop soon
LOOK = 25  # steps after which a device that cannot be asked in passing is asked at the latest


class Pace:
    """Keeps the host near the device, and hears of steps that were not finite.

    It hears of a step at once on the CPU, `AHEAD` steps later on a GPU, and after `every` steps on
    other devices: the same in all processes of a run, as it never depends on how fast one is.
    """

    def __init__(self, device: torch.device, every: int) -> None:
        self._device = device
        self._every = min(every, LOOK)
        self._unread: list[Tensor] = []
        self._ends: deque[tuple[torch.cuda.Event, Tensor]] = deque()
        self._places: Tensor | None = None  # pinned, so that copies need not wait
        self._count = 0

    def step(self, finite: Sequence[Tensor]) -> bool:
        """Called after each step with its flags (0-dim bools): whether one heard of now is false.

        On a GPU it returns when the step of `AHEAD` before is done.
        """
        flag = torch.stack(list(finite)).all() if finite else torch.ones((), dtype=torch.bool)
        if self._device.type == "cuda":
            return self._behind(flag)
        self._unread.append(flag)
        if self._device.type != "cpu" and len(self._unread) < self._every:
            return False
        unread, self._unread = self._unread, []
        return not all(bool(flag) for flag in unread)

    def _behind(self, flag: Tensor) -> bool:
        if self._places is None:
            self._places = torch.ones(AHEAD + 1, dtype=torch.bool, pin_memory=True)
        place = self._places[self._count % (AHEAD + 1)]
        self._count += 1
        place.copy_(flag, non_blocking=True)
        end = torch.cuda.Event()
        end.record(torch.cuda.current_stream(self._device))
        self._ends.append((end, place))
        if len(self._ends) <= AHEAD:
            return False
        done, heard = self._ends.popleft()
        done.synchronize()
        return not bool(heard)
