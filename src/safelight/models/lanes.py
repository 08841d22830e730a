"""Rows through a network in two halves at once, each with half of the processor's threads.

Where all threads work on one operator, each operator waits for the slowest of them, and for Python
before the next. Two halves that go through the network beside each other wait only at the end.

Measured on two Zen 5 cores, time in halves over time as one (`scripts/lanes.py`): the embedded
model's U-Net in float32 0.91 with 8 rows (four pictures with guidance), 0.91 to 1.02 with 16, but
1.17 with 4; SD 1.5 in bfloat16, with 2 rows 0.95 on latents of 40 x 40, 0.91 on 64 x 64 and 0.82 on
96 x 96, but 1.06 on 32 x 32; in float32 with 2 rows 1.04. On two Zen 4 cores the embedded model's
0.94 with 8 rows, 0.96 with 16 and 32, 1.09 with 2 and 4.

The numbers are those of a batch of half the size. Shapes: B rows, h w height and width of the map.
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from itertools import pairwise
from threading import Barrier, Lock

import torch
from torch import Tensor, nn

LANES = 2
FEWEST = 4  # rows of a lane
PLACES = 1600  # of a map, from which one row in bfloat16 is enough

_lock = Lock()
_pools: dict[int, ThreadPoolExecutor] = {}  # by the threads of the processor that they share


def serve(network: nn.Module, x: Tensor, told: Mapping[str, object]) -> bool:
    """Whether a call of the network goes through lanes: x (B, ...) in the type it works in.

    The call must be plain: nothing told besides rows, nobody who looks at the layers while they
    work (hooks, a compiler, a recorder of gradients), weights as they are, on a processor with
    threads for all lanes.
    """
    return (
        x.device.type == "cpu"
        and len(x) >= LANES * _fewest(x)
        and torch.get_num_threads() >= LANES
        and not torch.is_grad_enabled()
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
        and not torch._C._is_tracing()
        and not any(isinstance(one, Tensor) or one for one in told.values())
        and all(map(_lets, network.modules()))
    )


def called(network: Callable[..., Tensor], *rows: Tensor | None) -> Tensor:
    """What the network makes of these rows, in order; what is None, or one for all, each gets.

    rows: the arguments, (B, ...) each; the first says B. Raises what the network raises.
    """
    first = rows[0]
    assert first is not None, "the first argument says how many rows there are"
    bounds = [len(first) * i // LANES for i in range(LANES + 1)]
    parts = [
        [_rows(one, len(first), start, end) for one in rows] for start, end in pairwise(bounds)
    ]
    inference = torch.is_inference_mode_enabled()

    def lane(part: Sequence[Tensor | None]) -> Tensor:
        with torch.inference_mode(inference), torch.no_grad():
            return network(*part)

    pool = _pool(torch.get_num_threads())
    futures = [pool.submit(lane, part) for part in parts]
    wait(futures)  # all of them, so that nothing goes on if one failed
    return torch.cat([future.result() for future in futures])


def _fewest(x: Tensor) -> int:
    alone = x.dtype == torch.bfloat16 and x.ndim == 4 and x.shape[2] * x.shape[3] >= PLACES
    return 1 if alone else FEWEST


def _rows(x: Tensor | None, count: int, start: int, end: int) -> Tensor | None:
    return x[start:end] if x is not None and x.ndim and len(x) == count else x


def _lets(module: nn.Module) -> bool:
    """Whether two may call a module at once, at no more than twice what one of them needs.

    Weights in another form are widened for each call anew.
    """
    if module._forward_hooks or module._forward_pre_hooks:
        return False
    return all(one is None or type(one) is nn.Parameter for one in module._parameters.values())


def _pool(threads: int) -> ThreadPoolExecutor:
    """Workers that share so many threads of the processor among them."""
    with _lock:
        if threads not in _pools:
            _pools[threads] = _made(threads)
        return _pools[threads]


def _made(threads: int) -> ThreadPoolExecutor:
    """New workers, each at work with its share of the threads.

    PyTorch keeps the number for each thread that has computed, and one for those that have not
    yet: the latter must be as before when this returns.
    """
    together = Barrier(LANES)

    def begin() -> None:
        torch.get_num_threads()  # a thread's first question sets its number, later ones do not
        torch.set_num_threads(threads // LANES)
        together.wait()

    pool = ThreadPoolExecutor(LANES, thread_name_prefix="lane", initializer=begin)
    wait([pool.submit(lambda: None) for _ in range(LANES)])
    torch.set_num_threads(threads)
    return pool
