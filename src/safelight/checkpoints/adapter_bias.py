"""The change of a layer's bias beside the change of its weight."""

from collections.abc import Sequence

from torch import Tensor, nn

from safelight.models.deltas import Delta


class WithBias(Delta):
    """Another change of the weight, and what is added to the bias: `diff_b`, PEFT's `lora_B.bias`.

    bias (out,). It acts by folding, whatever its inner kind.
    """

    def __init__(self, inner: Delta, bias: Tensor) -> None:
        super().__init__()
        self.inner, self.bias = inner, nn.Parameter(bias)
        # What of a class is true of the change inside is true of this one.
        self.kind = inner.kind  # type: ignore[misc]
        self.additive = inner.additive  # type: ignore[misc]

    def change(self, weight: Tensor, strength: float = 1.0) -> Tensor:
        return self.inner.change(weight, strength)

    def bias_change(self, bias: Tensor | None, strength: float = 1.0) -> Tensor | None:
        within = self.inner.bias_change(bias, strength)
        own = strength * self.bias.float()
        return own if within is None else own + within

    def _fits(self, shape: Sequence[int], bias: bool) -> bool:
        return bias and self.bias.shape == (shape[0],) and self.inner.fits(shape, bias=bias)
