"""What a frozen text side says of many captions at once, the way training needs it.

At inference `Conditioner` reads one text at a time, with weights and chunks. In training captions
are plain and of one chunk, so they travel as token ids and a whole batch goes through each tower in
one call; the numbers are those that inference sees for the same text.

Shapes: B captions, R text encoders, L = 77 positions, D width of all encoders, P of the pooled
text.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from safelight.condition import Condition
from safelight.errors import RequestError
from safelight.models.clip import ClipText
from safelight.models.layers import timestep_embedding
from safelight.text.conditioner import Conditioner
from safelight.text.layout import Reading, laid_out
from safelight.text.spec import Size, TextRole

_PLAIN = Reading("plain", truncate=True)


@dataclass(frozen=True, slots=True)
class Tokenised:
    """Captions as token ids, and what did not fit.

    ids: (B, L) int64, or (B, R, L) where encoders pad differently.
    cut: number of each caption that was too long, and how many of its tokens were left out.
    """

    ids: Tensor
    cut: tuple[tuple[int, int], ...] = ()

    @property
    def report(self) -> str:
        """A line to be shown if something was left out; else empty."""
        if not self.cut:
            return ""
        worst, most = max(self.cut, key=lambda item: item[1])
        return (
            f"{len(self.cut)} of {len(self.ids)} captions are longer than the text encoder reads; "
            f"their ends are left out (most: {most} tokens of caption {worst})."
        )


def tokens_of(conditioner: Conditioner, captions: Sequence[str]) -> Tokenised:
    """The token ids of captions, read as plain text and cut to one chunk.

    Raises PromptError for a caption that cannot be read.
    """
    pads = tuple(dict.fromkeys(role.pad for role in conditioner.spec.roles))
    vocabulary = conditioner.tokenizer.vocabulary
    known: dict[str, tuple[list[tuple[int, ...]], int]] = {}
    cut: list[tuple[int, int]] = []
    rows: list[list[tuple[int, ...]]] = []
    for number, caption in enumerate(captions):
        if caption not in known:
            layout = laid_out(caption, conditioner.tokenizer, _PLAIN)
            (chunk,) = layout.terms[0].choices[0].chunks
            left_out = sum(len(token.piece.ids) for token in layout.cut)
            known[caption] = ([chunk.ids(vocabulary, pad) for pad in pads], left_out)
        ids, left_out = known[caption]
        rows.append(ids)
        if left_out:
            cut.append((number, left_out))
    if len(pads) == 1:
        return Tokenised(torch.tensor([row[0] for row in rows]).view(len(rows), -1), tuple(cut))
    by_role = [pads.index(role.pad) for role in conditioner.spec.roles]
    every = torch.tensor([[row[pad] for pad in by_role] for row in rows])
    return Tokenised(every.view(len(rows), len(by_role), -1), tuple(cut))


@dataclass(frozen=True, slots=True)
class TextStates:
    """What text towers say of captions."""

    context: Tensor  # (B, L, D)
    pooled: Tensor | None = None  # (B, P); None for families without a vector

    def replaced(self, other: "TextStates", where: Tensor) -> "TextStates":
        """These states, with those of `other` (B or 1 of them) where (B,) is true."""
        context = torch.where(where[:, None, None], other.context.to(self.context), self.context)
        if self.pooled is None or other.pooled is None:
            return TextStates(context)
        pooled = torch.where(where[:, None], other.pooled.to(self.pooled), self.pooled)
        return TextStates(context, pooled)


class FrozenText:
    """A conditioner whose towers do not learn, over token ids in batches."""

    def __init__(self, conditioner: Conditioner) -> None:
        self.conditioner = conditioner
        self._null: dict[tuple[torch.device, torch.dtype], TextStates] = {}

    @property
    def device(self) -> torch.device:
        """Where the towers are."""
        return self.conditioner.encoders[0].text_model.embeddings.token_embedding.weight.device

    @property
    def needs_sizes(self) -> bool:
        """Whether the network is told the picture's size, as SDXL's is."""
        return self.conditioner.spec.vector != "none"

    @torch.no_grad()
    def states(self, tokens: Tensor) -> TextStates:
        """The states of token ids (B, L), or (B, R, L) for encoders that pad differently.

        In the type of the towers, without gradient; no device waits for another.
        """
        return self._read_all(tokens)

    def _read_all(self, tokens: Tensor) -> TextStates:
        contexts: list[Tensor] = []
        pooled: list[Tensor] = []
        towers = zip(self.conditioner.spec.roles, self.conditioner.encoders, strict=True)
        for number, (role, tower) in enumerate(towers):
            ids = (tokens if tokens.ndim == 2 else tokens[:, number]).long()
            context, end = _read(role, tower, self._vectors(number, tower, ids), ids)
            contexts.append(context)
            pooled += [end] if end is not None else []
        whole = contexts[0] if len(contexts) == 1 else torch.cat(contexts, dim=-1)
        return TextStates(whole, torch.cat(pooled, dim=-1) if pooled else None)

    def _vectors(self, number: int, tower: ClipText, ids: Tensor) -> Tensor:
        """What tower `number` begins with: (B, L) -> (B, L, D)."""
        return tower.embed(ids)

    @torch.no_grad()
    def null(self) -> TextStates:
        """What guidance is told at inference where nothing is said; of one caption.

        The encoded empty text, or zeros for families that take those. Computed once.
        """
        weight = self.conditioner.encoders[0].text_model.embeddings.token_embedding.weight
        key = (weight.device, weight.dtype)
        if key not in self._null:
            self._null[key] = self._nothing(weight.dtype)
        return self._null[key]

    def _nothing(self, dtype: torch.dtype) -> TextStates:
        size = Size(64, 64) if self.needs_sizes else None
        told = self.conditioner.condition("", size=size, dialect="plain", negative=True)
        pooled = None
        if told.vector is not None and size is not None:
            spec = self.conditioner.spec
            sizes = len(size.numbers(spec.vector)) * spec.size_width
            pooled = told.vector[:, : told.vector.shape[1] - sizes].to(dtype)
        return TextStates(told.context.to(dtype), pooled)

    def condition(self, states: TextStates, sizes: Tensor | None = None) -> Condition:
        """What the network is told: the states, and for SDXL the pooled text and the sizes.

        sizes (B, 6): original height and width, crop top and left, target height and width; for
        the refiner (B, 5), the aesthetic score last. Raises RequestError if they are missing.
        """
        if not self.needs_sizes:
            return Condition(states.context)
        if sizes is None or states.pooled is None:
            raise RequestError(
                "this family is told the size of each picture; give batches with sizes and tokens."
            )
        numbers = timestep_embedding(sizes, self.conditioner.spec.size_width).flatten(1)
        vector = torch.cat([states.pooled.float(), numbers], dim=-1)
        return Condition(states.context, vector=vector)


class LearningText(FrozenText):
    """A conditioner whose towers learn: gradients flow, and nothing is remembered."""

    def states(self, tokens: Tensor) -> TextStates:
        """As `FrozenText.states`, with gradients where they are enabled."""
        return self._read_all(tokens)

    def null(self) -> TextStates:
        """As `FrozenText.null`, computed anew: the towers may have changed."""
        weight = self.conditioner.encoders[0].text_model.embeddings.token_embedding.weight
        return self._nothing(weight.dtype)


def sizes_of(conditioner: Conditioner, sizes: Sequence[Size]) -> Tensor | None:
    """The numbers of pictures that the network is told, (B, 5 or 6) float32; None if none."""
    kind = conditioner.spec.vector
    if kind == "none":
        return None
    return torch.tensor([size.numbers(kind) for size in sizes], dtype=torch.float32)


def _read(
    role: TextRole, tower: ClipText, vectors: Tensor, ids: Tensor
) -> tuple[Tensor, Tensor | None]:
    """The context (B, L, D) that a role takes from its tower, and the pooled text if it does."""
    place = tower.config.layers + 1 + role.hidden
    depth = None if role.pooled else place
    output = tower.forward_embedded(vectors, tower.eos_positions(ids), depth=depth)
    hidden = output.hidden_states[place]
    if role.final_norm:
        hidden = tower.final_norm(hidden)
    if not role.pooled:
        return hidden, None
    return hidden, output.pooled if output.pooled is not None else output.pooled_raw
