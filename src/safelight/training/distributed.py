"""Several processes as one run: each takes its rows of every batch, and gradients are summed.

Started by torchrun, which sets RANK, LOCAL_RANK and WORLD_SIZE. Losses are scaled by the share of
the rows, so a sum over processes is the gradient of the whole batch.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from safelight.errors import RequestError


@dataclass(frozen=True, slots=True)
class Group:
    """The processes of a run and the place of this one among them."""

    rank: int = 0
    world: int = 1

    @property
    def first(self) -> bool:
        """Whether this process writes and speaks for all."""
        return self.rank == 0

    def rows(self, total: int) -> tuple[int, int]:
        """The first row and the number of rows that this process takes of a batch.

        Raises RequestError if there is not a row for each.
        """
        if total < self.world:
            raise RequestError(
                f"a batch of {total} cannot be divided among {self.world} processes; "
                "raise batch_size or start fewer"
            )
        start = self.rank * total // self.world
        return start, (self.rank + 1) * total // self.world - start

    def sum_(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its sum over the processes, in one exchange."""
        if self.world == 1 or not tensors:
            return
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        dist.all_reduce(flat)
        parts = flat.split([tensor.numel() for tensor in tensors])
        with torch.no_grad():
            torch._foreach_copy_(
                list(tensors),
                [part.view(tensor.shape) for part, tensor in zip(parts, tensors, strict=True)],
            )

    def agreed(self, number: int) -> int:
        """The first process's number, in all of them; exchanged on the host."""
        if self.world == 1:
            return number
        shared = torch.tensor([number], dtype=torch.int64)
        dist.broadcast(shared, 0)
        return int(shared.item())

    def barrier(self) -> None:
        """Wait until all processes are here."""
        self.agreed(0)


ALONE = Group()


def current() -> Group:
    """The group of this process: that of the initialised process group, else itself alone."""
    if dist.is_available() and dist.is_initialized():
        return Group(dist.get_rank(), dist.get_world_size())
    return ALONE


@contextmanager
def joined(device: torch.device | str) -> Iterator[tuple[Group, torch.device]]:
    """Join the processes that torchrun started, and leave them at the end.

    Gives the group and the device of this process: with "cuda", the one of its LOCAL_RANK. Without
    torchrun it is a group of one. Exchanges use NCCL between GPUs and Gloo on the host.
    """
    device = torch.device(device)
    if "RANK" not in os.environ or int(os.environ.get("WORLD_SIZE", "1")) < 2:
        yield ALONE, device
        return
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
    dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
    try:
        yield current(), device
    finally:
        dist.destroy_process_group()
