"""One text to the condition that a network is told, with the text encoders of a family.

Each chunk is encoded alone, so the bits of a condition never depend on what else is encoded.
Nothing is remembered between calls: encoders may be changed by adapters at any time. Gradients
flow if they are enabled, also to the vectors of learned words (`with_embeddings`).

Shapes: L rows of all chunks (77 each), D width of all encoders, V width of the vector.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from safelight.condition import Condition, stack
from safelight.errors import RequestError
from safelight.models.clip import ClipText
from safelight.models.layers import timestep_embedding
from safelight.text.bpe import Tokenizer
from safelight.text.chunks import BACKTRACK, EMPTY, Chunk
from safelight.text.embeddings import Added, Embedding, Learned, learned, looked_up
from safelight.text.emphasis import from_empty, mean_restored, multiplied, weakened
from safelight.text.layout import Choice, Layout, Reading, Term, Way, laid_out
from safelight.text.report import TextReport, reported
from safelight.text.span import Dialect, Emphasis
from safelight.text.spec import CHUNK, Size, TextRole, TextSpec
from safelight.text.vocabulary import Vocabulary

ROWS = CHUNK + 2


class Conditioner:
    """Texts to conditions."""

    def __init__(
        self,
        spec: TextSpec,
        encoders: Sequence[ClipText],
        tokenizer: Tokenizer | None = None,
        *,
        words: Learned | None = None,
    ) -> None:
        """tokenizer: None is one of the spec's vocabulary. words: see `with_embeddings`.

        Raises ValueError if there is not one encoder for each role, or if tokenizer and encoders do
        not have the spec's vocabulary.
        """
        if len(encoders) != len(spec.roles):
            raise ValueError(f"{len(spec.roles)} roles need as many encoders; got {len(encoders)}")
        self.spec = spec
        self.encoders = tuple(encoders)
        self._plain = tokenizer or Tokenizer(vocabulary=spec.vocabulary)
        self.words = words
        self.tokenizer = self._plain.with_triggers({} if words is None else words.triggers)
        if self.tokenizer.vocabulary != spec.vocabulary:
            raise ValueError(f"the spec has {spec.vocabulary}; got {self.tokenizer.vocabulary}")
        for encoder in encoders:
            _check_rows(encoder, spec.vocabulary)

    def with_embeddings(self, embeddings: Sequence[Embedding]) -> "Conditioner":
        """The same encoders, which also know these learned words; this conditioner stays as it is.

        Words that were given before are forgotten. Raises as `embeddings.learned`.
        """
        words = learned(embeddings, self.encoders) if embeddings else None
        return Conditioner(self.spec, self.encoders, self._plain, words=words)

    def __call__(self, texts: Sequence[str], sizes: Sequence[Size] | None = None) -> Condition:
        """The condition of several texts as captions: plain, unweighted, padded to equal length."""
        told = sizes if sizes is not None else [None] * len(texts)
        conditions = [
            self.condition(text, size=size, dialect="plain")
            for text, size in zip(texts, told, strict=True)
        ]
        return stack(self.equalised(conditions))

    def condition(
        self,
        text: str,
        *,
        size: Size | None = None,
        dialect: Dialect = "a1111",
        emphasis: Emphasis = "original",
        clip_skip: int | None = None,
        negative: bool = False,
        comma_backtrack: int = BACKTRACK,
        truncate: bool = False,
        force_clip_skip: bool = False,
    ) -> Condition:
        """What the network is told by one text of one step, without schedules and tags.

        size: needed by families whose vector holds it (SDXL and its refiner).
        dialect, emphasis, comma_backtrack, truncate: see `Reading`.
        clip_skip: n takes the hidden state n - 1 blocks earlier than the family does; None is 1.
            That is A1111's clip skip n for SD 1, and Diffusers' clip_skip n - 1 for every family.
        force_clip_skip: clip skip moves SDXL's encoders, too, which A1111 does only if asked.

        Returns context (1, 77 · chunks, D) and vector (1, V), float32. Raises PromptError for a
        text that cannot be read and RequestError for a setting that does not fit.
        """
        vector = self._vector_needs(size)
        towers = self._towers(clip_skip, force_clip_skip)
        if negative and self.spec.force_zeros_for_empty_negative and not text.strip():
            context = torch.zeros_like(torch.cat([tower.empty for tower in towers], dim=-1))
            pooled = [torch.zeros_like(t.pooled(EMPTY)) for t in towers if t.role.pooled]
        else:
            reading = Reading(dialect, emphasis, comma_backtrack, truncate)
            layout = laid_out(text, self.tokenizer, reading)
            context = torch.cat([tower.context(layout, reading.way) for tower in towers], dim=-1)
            pooled = [tower.vector(layout) for tower in towers if tower.role.pooled]
        if vector is None:
            return Condition(context[None])
        numbers = vector.numbers(self.spec.vector, negative=negative)
        sizes = timestep_embedding(context.new_tensor(numbers), self.spec.size_width).flatten()
        return Condition(context[None], vector=torch.cat([*pooled, sizes])[None])

    def pad_to(
        self,
        condition: Condition,
        chunks: int,
        *,
        clip_skip: int | None = None,
        force_clip_skip: bool = False,
    ) -> Condition:
        """The condition with empty chunks at its end, up to `chunks` in all.

        A condition of zeros, which no attention sees, is padded with zeros and stays unseen.
        """
        missing = chunks - condition.context.shape[1] // ROWS
        if missing <= 0:
            return condition
        if condition.context.any():
            towers = self._towers(clip_skip, force_clip_skip)
            empty = torch.cat([tower.empty for tower in towers], dim=-1)
        else:
            empty = condition.context.new_zeros(ROWS, condition.context.shape[-1])
        padding = empty.repeat(missing, 1).expand(condition.batch, -1, -1)
        return replace(condition, context=torch.cat([condition.context, padding], dim=1))

    def equalised(
        self,
        conditions: Sequence[Condition],
        *,
        clip_skip: int | None = None,
        force_clip_skip: bool = False,
    ) -> list[Condition]:
        """The conditions, all as long as the longest of them."""
        chunks = max((c.context.shape[1] // ROWS for c in conditions), default=0)
        return [
            self.pad_to(c, chunks, clip_skip=clip_skip, force_clip_skip=force_clip_skip)
            for c in conditions
        ]

    def report(
        self,
        text: str,
        *,
        dialect: Dialect = "a1111",
        emphasis: Emphasis = "original",
        clip_skip: int | None = None,
        comma_backtrack: int = BACKTRACK,
        truncate: bool = False,
        force_clip_skip: bool = False,
    ) -> TextReport:
        """How `condition` with the same settings reads the text; runs no encoder."""
        reading = Reading(dialect, emphasis, comma_backtrack, truncate)
        report = reported(text, self.tokenizer, reading)
        ignored = clip_skip not in (None, 1) and not force_clip_skip
        if ignored and not all(role.clip_skip for role in self.spec.roles):
            note = (
                f"clip skip {clip_skip} does not act on this family, which takes the penultimate"
                " layer, as in A1111 (force_clip_skip applies it)."
            )
            report = replace(report, notes=(*report.notes, note))
        return report

    def _vector_needs(self, size: Size | None) -> Size | None:
        if self.spec.vector == "none":
            return None
        if size is None:
            raise RequestError("this family is told the size of the picture; give a size.")
        return size

    def _towers(self, clip_skip: int | None, force: bool) -> "list[_Tower]":
        words = self.words
        added = [None] * len(self.encoders) if words is None else words.added
        return [
            _Tower(role, encoder, self.spec.vocabulary, place, rows)
            for role, encoder, rows in zip(self.spec.roles, self.encoders, added, strict=True)
            for place in [_place(role, encoder, clip_skip, force)]
        ]


def _check_rows(encoder: ClipText, vocabulary: Vocabulary) -> None:
    """Refuse an encoder that reads other ids. More rows than tokens are those of triggers."""
    rows, eos = encoder.config.vocabulary, encoder.config.eos_id
    if rows < vocabulary.size or eos != vocabulary.eos:
        raise ValueError(
            f"the encoder has {rows} tokens and end of text {eos}; the vocabulary has "
            f"{vocabulary.size} and {vocabulary.eos}"
        )


def _place(role: TextRole, encoder: ClipText, clip_skip: int | None, force: bool) -> int:
    """After how many blocks the hidden state is taken."""
    layers = encoder.config.layers
    most = layers + 1 + role.hidden
    skipped = 1 if clip_skip is None else clip_skip
    if not 1 <= skipped <= most:
        raise RequestError(f"clip skip must be 1 to {most} for this model; got {clip_skip}.")
    return most - (skipped - 1 if role.clip_skip or force else 0)


class _Encoded(NamedTuple):
    hidden: Tensor  # (77, D)
    pooled: Tensor | None  # (P,)


class _Tower:
    """One encoder in its role, during one call of the conditioner."""

    def __init__(
        self,
        role: TextRole,
        encoder: ClipText,
        vocabulary: Vocabulary,
        place: int,
        added: Added | None,
    ) -> None:
        self.role = role
        self.encoder = encoder
        self.vocabulary = vocabulary
        self.place = place
        self.added = added
        self.known: dict[tuple[tuple[int, ...], tuple[int, ...]], _Encoded] = {}

    @property
    def empty(self) -> Tensor:
        """The encoding of the empty text: (77, D)."""
        return self.encoded(EMPTY).hidden

    def pooled(self, chunk: Chunk) -> Tensor:
        """The projected end of text: (P,)."""
        pooled = self.encoded(chunk).pooled
        assert pooled is not None, "the role is pooled"
        return pooled

    def context(self, layout: Layout, way: Way) -> Tensor:
        """The rows of all terms, one after the other: (77 · chunks, D)."""
        return torch.cat([self.term(term, way) for term in layout.terms])

    def vector(self, layout: Layout) -> Tensor:
        """The pooled text of the first chunk, blended as the text is: (P,)."""
        choices = layout.terms[0].choices
        if len(choices) == 1:
            return self.pooled(choices[0].chunks[0])
        blended = torch.stack([choice.share * self.pooled(choice.chunks[0]) for choice in choices])
        return blended.sum(0)

    def term(self, term: Term, way: Way) -> Tensor:
        texts = [
            torch.cat([self.chunk(chunk, choice, way) for chunk in choice.padded(term.length)])
            for choice in term.choices
        ]
        rows = texts[0]
        if len(texts) > 1:
            shares = [choice.share for choice in term.choices]
            rows = torch.stack([s * text for s, text in zip(shares, texts, strict=True)]).sum(0)
        if term.weight == 1:
            return rows
        empty = self.empty.repeat(term.length, 1)
        return empty + (rows - empty) * term.weight

    def chunk(self, chunk: Chunk, choice: Choice, way: Way) -> Tensor:
        """The weighted rows of one chunk: (77, D)."""
        hidden = self.encoded(chunk).hidden
        weights = hidden.new_tensor(chunk.weights())
        if way == "compel":
            return self.compelled(chunk, choice, weights)
        if way == "ignore" or bool((weights == 1).all()):
            return hidden
        if way == "comfy":
            return from_empty(hidden, self.empty, weights)
        return mean_restored(hidden, weights) if way == "original" else multiplied(hidden, weights)

    def compelled(self, chunk: Chunk, choice: Choice, weights: Tensor) -> Tensor:
        base = from_empty(self.encoded(chunk).hidden, self.empty, weights)
        weak = [
            number
            for number, span in enumerate(choice.spans)
            if span.weight < 1 and any(c.rows(number) for c in choice.chunks)
        ]

        def without(which: int) -> Tensor:
            hidden_rows = chunk.rows(weak[which])
            if not hidden_rows:
                return base
            return from_empty(self.encoded(chunk, hidden_rows).hidden, self.empty, weights)

        return weakened(base, [choice.spans[number].weight for number in weak], without)

    def encoded(self, chunk: Chunk, hidden_rows: tuple[int, ...] = ()) -> _Encoded:
        """The encoder's output for one chunk, in float32; each is computed once a call."""
        key = (chunk.ids(self.vocabulary, self.role.pad), hidden_rows)
        if key not in self.known:
            self.known[key] = self.run(*key)
        return self.known[key]

    def run(self, ids: tuple[int, ...], hidden_rows: tuple[int, ...]) -> _Encoded:
        weight = self.encoder.text_model.embeddings.token_embedding.weight
        tokens = torch.tensor([ids], device=weight.device)
        visible = None
        if hidden_rows:
            visible = torch.ones_like(tokens, dtype=torch.bool)
            visible[0, list(hidden_rows)] = False
        depth = None if self.role.pooled else self.place
        if self.added is not None and max(ids) >= self.added.first:
            vectors = looked_up(self.encoder, tokens, self.added)
            eos = self.encoder.eos_positions(tokens)
            output = self.encoder.forward_embedded(vectors, eos, depth=depth, visible=visible)
        else:
            output = self.encoder(tokens, depth=depth, visible=visible)
        hidden = output.hidden_states[self.place]
        if self.role.final_norm:
            hidden = self.encoder.final_norm(hidden)
        pooled = output.pooled if output.pooled is not None else output.pooled_raw
        return _Encoded(hidden[0].float(), None if pooled is None else pooled[0].float())
