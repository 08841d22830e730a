"""NaN is caught where it arises, named, and the part is run again in float32."""

import pytest
import torch
from torch import Tensor, nn

from safelight.engines.sentinel import Sentinel, finite, watch
from safelight.errors import NonFiniteError


class Overflowing(nn.Module):
    """Its second layer makes 1e5, which float16 cannot hold and float32 can."""

    def __init__(self, gain: float = 1e5) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4, bias=False)
        self.second = nn.Linear(4, 4, bias=False)
        with torch.no_grad():
            self.first.weight.copy_(torch.eye(4) * min(gain, 1e4))
            self.second.weight.copy_(torch.eye(4) * (gain / min(gain, 1e4)))

    def forward(self, x: Tensor) -> Tensor:
        cast = self.first.weight.dtype
        return self.second(self.first(x.to(cast))).float() * 1e-5


def test_a_finite_result_passes_untouched_and_is_computed_once() -> None:
    calls = []
    module = nn.Linear(2, 2)
    result = Sentinel().run("part", module, lambda: calls.append(1) or module(torch.ones(1, 2)))
    assert finite(result) and len(calls) == 1


def test_an_overflow_in_float16_is_named_and_answered_in_float32() -> None:
    module = Overflowing().half()
    x = torch.ones(1, 4)
    with watch() as sentinel:
        sentinel.step = 3
        result = sentinel.run("U-Net", module, lambda: module(x))
        assert module.first.weight.dtype == torch.float32  # stays so until the drawing ends
    assert torch.allclose(result, x, rtol=1e-2)
    (incident,) = sentinel.incidents
    assert (incident.part, incident.block, incident.dtype, incident.step) == (
        "U-Net",
        "second",
        "float16",
        3,
    )
    assert "second" in str(incident) and "step 3" in str(incident)


def test_after_the_drawing_the_weights_have_their_type_and_bits_again() -> None:
    module = Overflowing().half()
    before = [p.clone() for p in module.parameters()]
    with watch() as sentinel:
        sentinel.run("U-Net", module, lambda: module(torch.ones(1, 4)))
    after = list(module.parameters())
    assert all(p.dtype == torch.float16 for p in after)
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_a_part_that_fails_in_float32_too_is_an_error_naming_part_block_and_step() -> None:
    module = Overflowing()
    with torch.no_grad():
        module.second.weight[0, 0] = float("nan")
    sentinel = Sentinel(step=7)
    with pytest.raises(NonFiniteError, match=r"VAE decoder.*step 7.*second.*weight second\.weight"):
        sentinel.run("VAE decoder", module, lambda: module(torch.ones(1, 4)))


def test_a_bad_input_is_not_blamed_on_a_block() -> None:
    module = nn.Linear(2, 2)
    with pytest.raises(NonFiniteError, match="its input"):
        Sentinel().run("U-Net", module, lambda: module(torch.full((1, 2), float("nan"))))
