"""Where a pass stops being finite is named by its module."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from safelight.training.fault import buffers_kept, not_finite, traced
from training_tiny import net, steep

NAN = float("nan")


class Layered(nn.Module):
    """Blocks, one of which goes wrong from a step on."""

    def __init__(self, wrong: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)])
        self.wrong = wrong

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks[0](x)
        x = self.wrong(self.blocks[1](x))
        out: Tensor = self.blocks[2](x)
        return out


@pytest.mark.parametrize(
    ("wrong", "place"),
    [
        (lambda x: x * NAN, "the input of net.blocks.2"),
        (
            steep,
            "the gradient that comes back to the output of net.blocks.1 "
            "(to that of net.blocks.2 a finite one comes)",
        ),
        (lambda x: x, None),
    ],
)
def test_the_first_module_that_is_not_finite_is_named(wrong: Any, place: str | None) -> None:
    network = Layered(wrong)
    with traced({"net": network}) as trace:
        network(torch.ones(2, 4)).sum().backward()
    assert trace.place == place
    assert not any(module._forward_hooks for module in network.modules())


def test_a_gradient_is_named_at_the_innermost_module_and_with_the_last_that_was_finite() -> None:
    inner = nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.Linear(4, 4)))
    network = nn.ModuleDict({"a": inner, "b": nn.Linear(4, 1)})
    with traced({"net": network}) as trace:
        network["b"](steep(inner(torch.ones(2, 4)))).sum().backward()
    assert trace.place == (
        "the gradient that comes back to the output of net.a.1.0 "
        "(to that of net.b a finite one comes)"
    )


def test_buffers_are_put_back_and_the_first_broken_tensor_is_named() -> None:
    network = net()
    with buffers_kept({"net": network}):
        network(torch.zeros(1, 3, 8, 8), torch.zeros(1, dtype=torch.int64))
        assert network.seen == 1
    assert network.seen == 0
    sound, broken = torch.ones(2), torch.tensor([1.0, float("inf")])
    assert not_finite({"a": sound, "b": broken, "c": broken}) == "b"
    assert not_finite({"a": sound, "n": torch.ones(2, dtype=torch.int64)}) is None
