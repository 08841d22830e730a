"""What cross-attention makes of a text, kept over the steps of a drawing.

Keys and values hang on the text and on two layers' weights, and not on the latents or the time: the
first step makes them, later ones find them, with the same bits. Texts are told apart by their
numbers, since every step stacks its conditions anew. A layer that an adapter acts in, or whose
weights were changed, moved or cast since, is asked as if nothing had been kept.

On the CPU alone: to compare numbers on a GPU would make every step wait for it.

Shapes: B batch, L text length, D width of the text tokens, C width of the attention.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from threading import Lock
from typing import NamedTuple

import torch
from torch import Tensor, nn

from safelight.models.layers import Linear

MOST = 4  # texts kept: two conditions, each before and after a change of the prompt


class _Made(NamedTuple):
    weight: Tensor
    state: tuple[object, ...]
    output: Tensor


class KeptText:
    """What layers made of one text (B, L, D)."""

    def __init__(self, context: Tensor) -> None:
        self.context = context
        self._made: dict[Linear, _Made] = {}

    def is_of(self, context: Tensor) -> bool:
        """Whether these are the same numbers."""
        own = self.context
        return own.dtype == context.dtype and torch.equal(own, context)

    def through(self, layer: Linear, source: Tensor) -> Tensor:
        """The layer's output for this text: (B, L, D) -> (B, L, C). `source` is the text."""
        weight = layer.weight
        plain = type(layer) is Linear and type(weight) is nn.Parameter
        if not plain or layer.deltas or layer.changes or weight.is_inference():
            return layer(source)
        state = (weight.data_ptr(), weight._version, weight.dtype)
        made = self._made.get(layer)
        if made is None or made.weight is not weight or made.state != state:
            made = self._made[layer] = _Made(weight, state, layer(source))
        return made.output


class TextStates:
    """The texts of a drawing, those met last first."""

    def __init__(self) -> None:
        self._kept: tuple[KeptText, ...] = ()
        self._lock = Lock()  # halves of a batch ask at once, see `models.lanes`

    def of(self, context: Tensor) -> KeptText | None:
        """What is kept of a text (B, L, D); None where nothing may be."""
        if (
            torch.is_grad_enabled()
            or torch.is_autocast_enabled("cpu")
            or torch.compiler.is_compiling()
            or type(context) is not Tensor
            or not context.is_cpu
        ):
            return None
        with self._lock:
            found = next((one for one in self._kept if one.is_of(context)), None)
            # a copy, so that nobody writes into what is compared
            found = found or KeptText(context.clone())
            others = (one for one in self._kept if one is not found)
            self._kept = (found, *others)[:MOST]
        return found


class KeepsTexts:
    """A network with cross-attention that keeps what it makes of texts, while `texts_kept`."""

    text_states: TextStates | None = None

    def kept_of(self, context: Tensor) -> KeptText | None:
        """What is kept of a text (B, L, D); None where nothing may be."""
        return None if self.text_states is None else self.text_states.of(context)


@contextmanager
def texts_kept(networks: Sequence[object]) -> Iterator[None]:
    """For as long as it is entered, these networks keep what they make of texts; then it is gone.

    What does not keep any is left alone.
    """
    own = [one for one in networks if isinstance(one, KeepsTexts)]
    before = [one.text_states for one in own]
    try:
        for one in own:
            one.text_states = TextStates()
        yield
    finally:
        for one, states in zip(own, before, strict=True):
            if states is None:
                del one.text_states  # that of the class, which is none, is seen again
            else:
                one.text_states = states
