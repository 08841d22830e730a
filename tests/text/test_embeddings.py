"""Learned words stand for rows beside an encoder, and nothing of the encoder changes."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from safelight.errors import PromptError, RequestError
from safelight.models.clip import ClipText, ClipTextConfig
from safelight.text.bpe import Tokenizer
from safelight.text.conditioner import ROWS, Conditioner
from safelight.text.embeddings import Embedding, learned
from safelight.text.spec import Size, TextRole, TextSpec

CONFIG = ClipTextConfig(layers=2, width=32, heads=4, mlp_width=64)
WIDE = replace(CONFIG, width=48, projection=24)
TOKENIZER = Tokenizer("transformers")
TABLE = "text_model.embeddings.token_embedding.weight"


def random_tower(config: ClipTextConfig, seed: int) -> ClipText:
    tower = ClipText(config).requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    for parameter in tower.parameters():
        parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return tower


@pytest.fixture(scope="module")
def tower() -> ClipText:
    return random_tower(CONFIG, 0)


@pytest.fixture(scope="module")
def sd1(tower: ClipText) -> Conditioner:
    return Conditioner(TextSpec((TextRole(CONFIG),)), [tower], TOKENIZER)


def word(name: str, rows: int, *widths: int, seed: int = 9) -> Embedding:
    generator = torch.Generator().manual_seed(seed)
    tables = (0.3 * torch.randn(rows, width, generator=generator) for width in widths or (32,))
    return Embedding((name,), tuple(tables))


def grown(tower: ClipText, table: Tensor, triggers: dict[str, range]) -> Conditioner:
    """The oracle: an encoder whose own token embedding has the rows."""
    config = replace(tower.config, vocabulary=tower.config.vocabulary + len(table))
    encoder = ClipText(config).requires_grad_(False)
    state = tower.state_dict()
    encoder.load_state_dict(state | {TABLE: torch.cat([state[TABLE], table])})
    tokenizer = TOKENIZER.with_triggers(triggers)
    return Conditioner(TextSpec((TextRole(config),)), [encoder], tokenizer)


TEXTS = (
    "a glow cat",
    "glow",
    "a (glow:1.3) cat, [dull glow]",
    "one BREAK (two glow)",
    "glow, " * 30,
    ", ".join(f"item {n} of a long list" for n in range(11)) + " a glow cat",
    "no learned word at all",
)


@pytest.mark.parametrize("text", TEXTS)
def test_words_beside_an_encoder_are_rows_of_a_grown_encoder(
    text: str, sd1: Conditioner, tower: ClipText
) -> None:
    both = [word("glow", 3), word("dull glow", 2, seed=4)]
    table = torch.cat([one.vectors[0] for one in both])
    triggers = {"glow": range(49408, 49411), "dull glow": range(49411, 49413)}
    expected = grown(tower, table, triggers).condition(text).context
    assert torch.equal(sd1.with_embeddings(both).condition(text).context, expected)


def test_the_vectors_count_towards_the_75_and_are_never_parted(sd1: Conditioner) -> None:
    told = sd1.with_embeddings([word("glow", 20)])
    three, four = "glow glow glow", "glow glow glow glow"
    assert told.condition(three).context.shape[1] == ROWS
    assert told.condition(four).context.shape[1] == 2 * ROWS
    lengths = [chunk.length for chunk in told.report(four).chunks]
    assert lengths == [60, 20]


def test_the_conditioner_and_its_encoder_stay_as_they_were(
    sd1: Conditioner, tower: ClipText
) -> None:
    before = sd1.condition("a glow cat").context
    state = {name: tensor.clone() for name, tensor in tower.state_dict().items()}
    told = sd1.with_embeddings([word("glow", 3)])
    assert not torch.equal(told.condition("a glow cat").context, before)
    assert torch.equal(sd1.condition("a glow cat").context, before)
    assert torch.equal(told.with_embeddings([]).condition("a glow cat").context, before)
    assert all(torch.equal(tower.state_dict()[name], state[name]) for name in state)
    plain = told.condition("a cat without it").context
    assert torch.equal(plain, sd1.condition("a cat without it").context)


def test_gradients_reach_the_vectors_that_are_used_and_no_weight(
    sd1: Conditioner, tower: ClipText
) -> None:
    used, idle = word("glow", 2), word("rust", 2)
    for one in (used, idle):
        one.vectors[0].requires_grad_()
    told = sd1.with_embeddings([used, idle])
    told.condition("a glow cat").context.square().sum().backward()
    assert used.vectors[0].grad is not None and used.vectors[0].grad.abs().min() > 0
    assert idle.vectors[0].grad is not None and not idle.vectors[0].grad.any()
    assert all(parameter.grad is None for parameter in tower.parameters())


def test_each_encoder_looks_in_its_own_table(tower: ClipText) -> None:
    roles = TextRole(CONFIG, hidden=-2), TextRole(WIDE, hidden=-2, pooled=True)
    pair = Conditioner(
        TextSpec(roles, "sdxl", size_width=8), [tower, random_tower(WIDE, 1)], TOKENIZER
    )
    size = Size(64, 64)
    one, other = word("glow", 2, 32, 48), word("glow", 2, 32, 48, seed=5)
    mixed = Embedding(("glow",), (one.vectors[0], other.vectors[1]))
    first, second, both = (
        pair.with_embeddings([e]).condition("a glow cat", size=size) for e in (one, other, mixed)
    )
    assert torch.equal(both.context[..., :32], first.context[..., :32])
    assert torch.equal(both.context[..., 32:], second.context[..., 32:])
    assert both.vector is not None and second.vector is not None
    assert torch.equal(both.vector, second.vector)


def test_case_does_not_matter_and_the_longest_name_wins(sd1: Conditioner) -> None:
    told = sd1.with_embeddings([word("Glow", 1), word("glow worm", 2, seed=3)])
    assert torch.equal(told.condition("a GLOW, b").context, told.condition("a glow, b").context)
    tokens = [t for chunk in told.report("a glow worm, a glow").chunks for t in chunk.tokens]
    assert [(t.text, len(t.ids)) for t in tokens if t.ids[0] >= 49408] == [
        ("glow worm", 2),
        ("Glow", 1),
    ]


def test_wrong_words_are_refused(sd1: Conditioner, tower: ClipText) -> None:
    with pytest.raises(RequestError, match="two textual inversions are called"):
        learned([word("glow", 1), word("glow", 1)], [tower])
    with pytest.raises(RequestError, match="needs a word"):
        learned([word(" ", 1)], [tower])
    with pytest.raises(ValueError, match=r"\[\[2, 48\]\]; these encoders need \[\[2, 32\]\]"):
        sd1.with_embeddings([word("glow", 2, 48)])
    with pytest.raises((ValueError, PromptError), match="75"):
        sd1.with_embeddings([word("glow", 76)])
