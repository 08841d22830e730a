"""Textual inversion: a word stands for new vectors, and these are all that learns.

Gal et al. 2022 (arXiv:2208.01618). The vectors are looked up beside the token embedding, which is
never written to, so no other row of it can change.

Shapes: B captions, L tokens, D width of a tower, n vectors of the word, V rows of the embedding.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from safelight.errors import RequestError
from safelight.models.clip import ClipText
from safelight.printable import shown
from safelight.text.conditioner import Conditioner
from safelight.text.embeddings import Added, Embedding, looked_up
from safelight.training.draw import stream
from safelight.training.text_states import FrozenText, TextStates

PLAYER = "word"
TABLE = "text_model.embeddings.token_embedding.weight"
_DEVIATION = 0.1  # of new vectors around the mean of all, in deviations of these


class Word(nn.Module):
    """The vectors of a word, one table (n, D) for each tower."""

    def __init__(self, tables: Sequence[Tensor]) -> None:
        super().__init__()
        # Tables of an Embedding, so that weight decay leaves them alone.
        self.tables = nn.ModuleList(
            nn.Embedding(table.shape[0], table.shape[1], _weight=table.detach().float().clone())
            for table in tables
        )

    @property
    def vectors(self) -> list[nn.Parameter]:
        """Those of each tower."""
        return [table.weight for table in self.tables]  # type: ignore[misc]


class InvertedText(FrozenText):
    """A conditioner whose towers are frozen, and a word of its own whose vectors are not.

    conditioner: one that `with_word` gave.
    """

    def __init__(self, conditioner: Conditioner, word: Word) -> None:
        super().__init__(conditioner)
        self.word = word
        self._first = first_new(conditioner)

    def states(self, tokens: Tensor) -> TextStates:
        """As `FrozenText.states`, with gradients of the word's vectors where they are enabled."""
        return self._read_all(tokens)

    def _vectors(self, number: int, tower: ClipText, ids: Tensor) -> Tensor:
        return looked_up(tower, ids, Added(self._first, self.word.vectors[number]))


def first_new(conditioner: Conditioner) -> int:
    """The id of the word's first vector."""
    assert conditioner.words is not None
    return conditioner.words.added[0].first


def with_word(conditioner: Conditioner, name: str, word: Word) -> Conditioner:
    """The conditioner, which reads `name` as the vectors that the word has now.

    Raises RequestError for a name that no prompt could say.
    """
    vectors = tuple(vectors.detach() for vectors in word.vectors)
    if name.strip() and name == name.strip():
        told = conditioner.with_embeddings([Embedding((name,), vectors)])
        assert told.words is not None
        if told.tokenizer.encode(name) == list(told.words.triggers[name]):
            return told
    raise RequestError(
        "inversion.word must be a word that prompts can say, such as <my-cat>; got "
        f"{shown(name, 60)!r}"
    )


def begun(conditioner: Conditioner, count: int, *, initial: str | None, seed: int) -> Word:
    """The vectors that learning begins with: those of a word, or near the mean of all.

    A word of fewer tokens than `count` is repeated, of more cut. Raises RequestError for one that
    has no token.
    """
    tables = [
        dict(tower.named_parameters())[TABLE].detach().float().cpu()
        for tower in conditioner.encoders
    ]
    if initial is not None:
        ids = conditioner.tokenizer.without_triggers().encode(initial)
        if not ids:
            raise RequestError(f"inversion.initial has no token: {shown(initial, 60)!r}")
        rows = [ids[number % len(ids)] for number in range(count)]
        return Word([table[rows] for table in tables])
    made = []
    for number, table in enumerate(tables):
        noise = torch.randn(count, table.shape[1], generator=stream(seed, "new vectors", number))
        made.append(table.mean(0) + _DEVIATION * table.std(0) * noise)
    return Word(made)
