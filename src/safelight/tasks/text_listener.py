"""Observers that must know the texts of a drawing before they see its network at work.

Shapes: B rows (1 serves all), L tokens of a text, D their width.
"""

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

from torch import Tensor

from safelight.condition import Condition
from safelight.model import Model
from safelight.models.attention import Observer
from safelight.text.bpe import Tokenizer


@runtime_checkable
class TextListener(Observer, Protocol):
    """An observer of a model's network (`Backbone.observer`) that is told each pass's texts."""

    def told(self, contexts: Mapping[str, Tensor], tokenizer: Tokenizer) -> None:
        """The network is about to be asked for these positive texts, by contexts (B, L, D).

        tokenizer: by which they were read; it knows the learned words of this drawing.
        Raises RequestError for texts that it cannot observe: nothing is drawn then.
        """
        ...


def tell(model: Model, conditions: Mapping[str, Condition]) -> None:
    """Tell the model's observer of these texts, if it listens to texts."""
    observer = model.network.observer
    if isinstance(observer, TextListener):
        contexts = {text: condition.context for text, condition in conditions.items()}
        observer.told(contexts, model.text.tokenizer)
