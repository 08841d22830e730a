"""Conditions are those of Diffusers, A1111, ComfyUI and compel, on encoders with random weights.

The oracles are transformers' encoders with an independent loop for the rules of each tool.
"""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from safelight.errors import PromptError, RequestError
from safelight.models.clip import ClipText, ClipTextConfig
from safelight.text.bpe import Tokenizer
from safelight.text.conditioner import Conditioner
from safelight.text.spec import Size, TextRole, TextSpec
from safelight.text.weights import a1111_spans, comfy_spans

TOKENIZER = Tokenizer("transformers")
BOS, EOS = 49406, 49407  # as published
L_CONFIG = ClipTextConfig(layers=4, width=32, heads=4, mlp_width=64)
H_CONFIG = ClipTextConfig(layers=4, width=48, heads=4, mlp_width=64, activation="gelu")
G_CONFIG = replace(H_CONFIG, projection=24)
LONG = ", ".join(f"item {n} of a long list" for n in range(20))


def transformers_twin(config: ClipTextConfig, seed: int):
    """A transformers encoder, all weights random, and ours with the same weights."""
    from transformers.models.clip.configuration_clip import CLIPTextConfig
    from transformers.models.clip.modeling_clip import CLIPTextModel, CLIPTextModelWithProjection

    kind = CLIPTextModel if config.projection is None else CLIPTextModelWithProjection
    theirs = kind(
        CLIPTextConfig(
            vocab_size=config.vocabulary,
            hidden_size=config.width,
            intermediate_size=config.mlp_width,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            projection_dim=config.projection or config.width,
            hidden_act=config.activation,
            bos_token_id=BOS,
            eos_token_id=EOS,
            pad_token_id=EOS,
        )
    ).eval()
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in theirs.named_parameters():
        with torch.no_grad():
            scale = 1.0 if "norm" in name and name.endswith("weight") else 0.0
            parameter.copy_(scale + 0.3 * torch.randn(parameter.shape, generator=generator))
    ours = ClipText(config).requires_grad_(False)
    state = theirs.state_dict()
    if not any(name.startswith("text_model.") for name in state):
        state = {f"text_model.{name}": tensor for name, tensor in state.items()}
    ours.load_state_dict({n: t for n, t in state.items() if "position_ids" not in n})
    return theirs.requires_grad_(False), ours


@pytest.fixture(scope="module")
def tower_l():
    return transformers_twin(L_CONFIG, 1)


@pytest.fixture(scope="module")
def tower_h():
    return transformers_twin(H_CONFIG, 2)


@pytest.fixture(scope="module")
def tower_g():
    return transformers_twin(G_CONFIG, 3)


@pytest.fixture(scope="module")
def sd1(tower_l) -> Conditioner:
    return Conditioner(TextSpec((TextRole(L_CONFIG),)), [tower_l[1]], TOKENIZER)


@pytest.fixture(scope="module")
def sdxl(tower_l, tower_g) -> Conditioner:
    roles = (
        TextRole(L_CONFIG, hidden=-2, final_norm=False, clip_skip=False),
        TextRole(G_CONFIG, hidden=-2, final_norm=False, pad=0, pooled=True, clip_skip=False),
    )
    spec = TextSpec(roles, vector="sdxl", size_width=8, force_zeros_for_empty_negative=True)
    return Conditioner(spec, [tower_l[1], tower_g[1]], TOKENIZER)


def padded(ids: list[int], pad: int = EOS) -> Tensor:
    return torch.tensor([[BOS, *ids, EOS, *[pad] * (75 - len(ids))]])


def final_norm(model):
    return getattr(model, "text_model", model).final_layer_norm


def assert_close(ours: Tensor, theirs: Tensor) -> None:
    assert ours.shape == theirs.shape and ours.dtype == torch.float32
    assert (ours - theirs).abs().max() <= 1e-4 * theirs.std()


# -- Diffusers -------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["", "a photo of a cat", "\uff21\uff22 é 🐈, (x:1.2)", LONG])
@pytest.mark.parametrize("clip_skip", [None, 1, 2, 4])
def test_sd1_equals_diffusers_encode_prompt(sd1, tower_l, text: str, clip_skip: int | None) -> None:
    ids = padded(TOKENIZER.encode(text)[:75])
    output = tower_l[0](ids, output_hidden_states=True)
    expected = output.last_hidden_state
    if clip_skip not in (None, 1):
        expected = final_norm(tower_l[0])(output.hidden_states[-clip_skip])
    condition = sd1.condition(text, dialect="plain", truncate=True, clip_skip=clip_skip)
    assert_close(condition.context, expected)
    assert condition.vector is None


def test_sd2_takes_the_penultimate_block_and_pads_with_id_0(tower_h) -> None:
    """A folder has 23 of the 24 blocks; a single file has all, and the role says which to take."""
    theirs, ours = tower_h
    ids = padded(TOKENIZER.encode("a red cube"), pad=0)
    expected = final_norm(theirs)(theirs(ids, output_hidden_states=True).hidden_states[-2])
    full = Conditioner(TextSpec((TextRole(H_CONFIG, hidden=-2, pad=0),)), [ours], TOKENIZER)
    assert_close(full.condition("a red cube").context, expected)
    short_config = replace(H_CONFIG, layers=3)
    short = ClipText(short_config)
    short.load_state_dict({n: t for n, t in ours.state_dict().items() if ".layers.3." not in n})
    folder = Conditioner(TextSpec((TextRole(short_config, pad=0),)), [short], TOKENIZER)
    assert torch.equal(folder.condition("a red cube").context, full.condition("a red cube").context)


@pytest.mark.parametrize("text", ["", "a cat on the moon", LONG])
def test_sdxl_equals_diffusers_encode_prompt_and_add_time_ids(sdxl, tower_l, tower_g, text) -> None:
    own = TOKENIZER.encode(text)[:75]
    first = tower_l[0](padded(own), output_hidden_states=True)
    second = tower_g[0](padded(own, pad=0), output_hidden_states=True)
    expected = torch.cat([first.hidden_states[-2], second.hidden_states[-2]], dim=-1)
    size = Size(768, 1024, original=(512, 640), crop=(8, 16))
    condition = sdxl.condition(text, size=size, dialect="plain", truncate=True)
    assert_close(condition.context, expected)
    from diffusers.models.embeddings import get_timestep_embedding

    numbers = torch.tensor([512, 640, 8, 16, 768, 1024])
    sizes = get_timestep_embedding(
        numbers, 8, flip_sin_to_cos=True, downscale_freq_shift=0
    ).reshape(1, -1)
    assert_close(condition.vector, torch.cat([second.text_embeds, sizes], dim=-1))


def test_sdxl_clip_skip_acts_only_if_forced_and_the_report_says_so(sdxl, tower_l) -> None:
    size = Size(64, 64)
    plain = sdxl.condition("a cat", size=size)
    assert torch.equal(sdxl.condition("a cat", size=size, clip_skip=2).context, plain.context)
    forced = sdxl.condition("a cat", size=size, clip_skip=2, force_clip_skip=True)
    ids = padded(TOKENIZER.encode("a cat"))
    expected = tower_l[0](ids, output_hidden_states=True).hidden_states[-3]
    assert_close(forced.context[..., :32], expected)
    assert torch.equal(forced.vector, plain.vector)
    assert any("clip skip" in note for note in sdxl.report("a cat", clip_skip=2).notes)
    assert not sdxl.report("a cat", clip_skip=2, force_clip_skip=True).notes


def test_refiner_is_told_the_aesthetic_score(tower_g) -> None:
    role = TextRole(G_CONFIG, hidden=-2, final_norm=False, pad=0, pooled=True)
    refiner = Conditioner(TextSpec((role,), vector="refiner", size_width=4), [tower_g[1]])
    vectors = [
        refiner.condition("", size=Size(64, 96), negative=negative).vector
        for negative in (False, True)
    ]
    assert vectors[0].shape == (1, 24 + 5 * 4)
    differ = (vectors[0] != vectors[1]).nonzero()[:, 1]
    assert differ.min() >= 24 + 4 * 4  # only the fifth number
    cosines = vectors[0][0, -4], vectors[1][0, -4]
    assert cosines == (
        pytest.approx(math.cos(6.0), abs=1e-6),
        pytest.approx(math.cos(2.5), abs=1e-6),
    )


def test_an_empty_negative_of_sdxl_is_zeros_and_only_that(sdxl) -> None:
    size = Size(64, 64)
    zeros = sdxl.condition(" ", size=size, negative=True)
    assert not zeros.context.any() and not zeros.vector[:, :24].any()
    assert torch.equal(zeros.vector[:, 24:], sdxl.condition("", size=size).vector[:, 24:])
    assert sdxl.condition("", size=size).context.any()
    assert sdxl.condition("a", size=size, negative=True).context.any()


# -- A1111 -----------------------------------------------------------------------------------------


def a1111_loop(model, text: str, *, norm: bool = True, hidden: int = -1, pad: int = EOS) -> Tensor:
    """Chunks without commas near their ends: cut at 75, or at BREAK."""
    chunks: list[list[tuple[int, float]]] = [[]]
    for span in a1111_spans(text):
        if span.breaks:
            chunks.append([])
        for token in [] if span.breaks else TOKENIZER.encode(span.text):
            if len(chunks[-1]) == 75:
                chunks.append([])
            chunks[-1].append((token, span.weight))
    rows = []
    for chunk in chunks:
        output = model(padded([t for t, _ in chunk], pad), output_hidden_states=True)
        z = output.last_hidden_state if hidden == -1 else output.hidden_states[hidden]
        before = z.mean()
        weights = [1.0, *(w for _, w in chunk), *[1.0] * (76 - len(chunk))]
        for row, weight in enumerate(weights):
            z[0, row] = z[0, row] * weight
        rows.append(z * (before / z.mean()) if norm else z)
    return torch.cat(rows, dim=1)


@pytest.mark.parametrize(
    "text",
    [
        "a (cat:1.3) and a [dog] in ((snow))",
        "a (cat:-0.5) BREAK (bird:2) (b BREAK c:1.2)",
        "(word " * 5 + "tree " * 100 + ")",
        "no weights at all",
    ],
)
def test_a1111_emphasis_keeps_the_mean_of_each_chunk(sd1, tower_l, text: str) -> None:
    assert_close(sd1.condition(text).context, a1111_loop(tower_l[0], text))
    ours = sd1.condition(text, emphasis="no norm").context
    assert_close(ours, a1111_loop(tower_l[0], text, norm=False))


def test_a1111_emphasis_on_sdxl_keeps_the_mean_of_each_encoder(sdxl, tower_l, tower_g) -> None:
    text = "a (cat:1.4), [[dog]]"
    expected = torch.cat(
        [
            a1111_loop(tower_l[0], text, hidden=-2),
            a1111_loop(tower_g[0], text, hidden=-2, pad=0),
        ],
        dim=-1,
    )
    condition = sdxl.condition(text, size=Size(64, 64))
    assert_close(condition.context, expected)
    unweighted = sdxl.condition(text, size=Size(64, 64), emphasis="ignore")
    assert torch.equal(condition.vector, unweighted.vector)


def test_ignore_reads_the_syntax_and_none_takes_it_for_text(sd1) -> None:
    text = "a (cat:1.4) b"
    ignored = sd1.condition(text, emphasis="ignore").context
    assert torch.equal(ignored, sd1.condition("a cat b").context)
    literal = sd1.condition(text, emphasis="none").context
    assert torch.equal(literal, sd1.condition(text, dialect="plain").context)
    assert not torch.equal(literal, ignored)


def test_a_mean_of_zero_leaves_the_rows_multiplied() -> None:
    from safelight.text.emphasis import mean_restored

    rows = torch.tensor([[1.0, -1.0], [1.0, 1.0]])
    found = mean_restored(rows, torch.tensor([2.0, 0.0]))
    assert torch.equal(found, torch.tensor([[2.0, -2.0], [0.0, 0.0]]))


def test_the_first_pooled_vector_counts_and_chunks_follow_each_other(sdxl) -> None:
    size = Size(64, 64)
    both = sdxl.condition("a cat BREAK a dog", size=size)
    alone = [sdxl.condition(text, size=size) for text in ("a cat", "a dog")]
    assert torch.equal(both.context, torch.cat([c.context for c in alone], dim=1))
    assert torch.equal(both.vector, alone[0].vector)


def test_padding_adds_the_encoding_of_nothing_and_zeros_to_zeros(sd1, sdxl) -> None:
    short, long = sd1.equalised([sd1.condition("a"), sd1.condition(LONG)])
    assert short.context.shape == long.context.shape == (1, 77 * 3, 32)  # LONG fills 3 chunks
    empty = sd1.condition("").context
    assert torch.equal(short.context, torch.cat([sd1.condition("a").context, empty, empty], 1))
    skipped = sd1.pad_to(sd1.condition("a", clip_skip=2), 2, clip_skip=2).context[:, 77:]
    assert torch.equal(skipped, sd1.condition("", clip_skip=2).context)
    zeros = sdxl.condition("", size=Size(64, 64), negative=True)
    assert not sdxl.pad_to(zeros, 3).context.any()


def test_captions_stack_to_a_batch_of_single_conditions(sdxl) -> None:
    texts, sizes = ["a (cat:2)", LONG], [Size(64, 64), Size(64, 96)]
    batch = sdxl(texts, sizes)
    assert batch.context.shape[0] == batch.vector.shape[0] == 2
    for at, (text, size) in enumerate(zip(texts, sizes, strict=True)):
        alone = sdxl.pad_to(sdxl.condition(text, size=size, dialect="plain"), 3)
        assert torch.equal(batch.context[at : at + 1], alone.context)
        assert torch.equal(batch.vector[at : at + 1], alone.vector)


# -- ComfyUI and compel ----------------------------------------------------------------------------


def test_comfy_moves_rows_away_from_the_empty_prompt(sd1, tower_l) -> None:
    text = "a (cat:1.3) and a (dog:0.4) [x]"
    marked = [(t, s.weight) for s in comfy_spans(text) for t in TOKENIZER.encode(s.text)]
    z = tower_l[0](padded([t for t, _ in marked])).last_hidden_state
    empty = tower_l[0](padded([])).last_hidden_state
    for row, (_, weight) in enumerate(marked, start=1):
        z[0, row] = (z[0, row] - empty[0, row]) * weight + empty[0, row]
    assert_close(sd1.condition(text, dialect="comfy").context, z)
    assert_close(sd1.condition(text, dialect="a1111", emphasis="comfy").context[:, :2], z[:, :2])


def compel_loop(model, fragments: list[tuple[str, float]]) -> Tensor:
    marked = [(t, w, n) for n, (x, w) in enumerate(fragments) for t in TOKENIZER.encode(x)]
    ids = padded([t for t, _, _ in marked])
    empty = model(padded([])).last_hidden_state

    def weighted(mask: Tensor) -> Tensor:
        z = model(ids, attention_mask=mask).last_hidden_state
        for row, (_, weight, _) in enumerate(marked, start=1):
            z[0, row] = empty[0, row] + (z[0, row] - empty[0, row]) * weight
        return z

    shares, parts = [1.0], [weighted(torch.ones_like(ids))]
    for number, (_, weight) in enumerate(fragments):
        if weight < 1:
            mask = torch.ones_like(ids)
            for row, (_, _, own) in enumerate(marked, start=1):
                mask[0, row] = int(own != number)
            shares.append(math.tan((1 - max(1e-5, weight)) * math.pi / 2))
            parts.append(weighted(mask))
    return sum(s * p for s, p in zip(shares, parts, strict=True)) / sum(shares)


@pytest.mark.parametrize(
    ("text", "fragments"),
    [
        ("a cat++ here", [("a", 1), ("cat", 1.1**2), ("here", 1)]),
        ("a cat-- on (green grass)0.3", [("a", 1), ("cat", 0.81), ("on", 1), ("green grass", 0.3)]),
        ("a (cat)0", [("a", 1), ("cat", 0)]),
    ],
)
def test_compel_hides_what_weighs_less_than_1(sd1, tower_l, text: str, fragments) -> None:
    ours = sd1.condition(text, dialect="compel").context
    theirs = compel_loop(tower_l[0], fragments)
    assert (ours - theirs).abs().max() <= 1e-3 * theirs.std()  # tan(π/2 (1 - 1e-5)) is 6e4


def test_compel_blends_and_joins(sdxl) -> None:
    size = Size(64, 64)
    a, b = (sdxl.condition(text, size=size) for text in ("a cat", "a dog"))
    blend = sdxl.condition('("a cat", "a dog").blend(3, 1)', size=size, dialect="compel")
    assert_close(blend.context, 0.75 * a.context + 0.25 * b.context)
    assert_close(blend.vector[:, :24], 0.75 * a.vector[:, :24] + 0.25 * b.vector[:, :24])
    both = sdxl.condition('("a cat", "a dog").and(1, 0.5)', size=size, dialect="compel")
    empty = sdxl.condition("", size=size).context
    halfway = empty + 0.5 * (b.context - empty)
    assert_close(both.context, torch.cat([a.context, halfway], dim=1))


# -- the rest --------------------------------------------------------------------------------------


def test_embeddings_are_encoded_as_the_rows_of_their_ids(tower_l) -> None:
    config = replace(L_CONFIG, vocabulary=49410)
    encoder = ClipText(config)
    state = tower_l[1].state_dict()
    name = "text_model.embeddings.token_embedding.weight"
    state[name] = torch.cat([state[name], torch.randn(2, 32)])
    encoder.load_state_dict(state)
    tokenizer = TOKENIZER.with_triggers({"glow": (49408, 49409)})
    conditioner = Conditioner(TextSpec((TextRole(config),)), [encoder], tokenizer)
    with torch.no_grad():
        ids = [*TOKENIZER.encode("a"), 49408, 49409, *TOKENIZER.encode("cat")]
        expected = encoder(padded(ids)).final
        assert torch.equal(conditioner.condition("a glow cat").context, expected)
        for dialect, text in (("comfy", "a embedding:glow cat"), ("plain", "a glow cat")):
            assert torch.equal(conditioner.condition(text, dialect=dialect).context, expected)
        bare = conditioner.condition("a glow cat", dialect="comfy").context
        assert not torch.equal(bare, expected)


def test_half_precision_encoders_give_float32_close_to_full(tower_l, sd1) -> None:
    half = ClipText(L_CONFIG)
    half.load_state_dict(tower_l[1].state_dict())
    conditioner = Conditioner(sd1.spec, [half.to(torch.bfloat16)], TOKENIZER)
    found = conditioner.condition("a (cat:1.2)").context
    assert found.dtype == torch.float32
    full = sd1.condition("a (cat:1.2)").context
    assert (found - full).abs().mean() < 0.05 * full.std()


def test_wrong_settings_are_errors_that_say_what_to_do(sd1, sdxl, tower_l) -> None:
    with pytest.raises(RequestError, match="clip skip must be 1 to 4"):
        sd1.condition("a", clip_skip=5)
    with pytest.raises(RequestError, match="size"):
        sdxl.condition("a")
    with pytest.raises(RequestError, match="dialect must be one of"):
        sd1.condition("a", dialect="latin")
    with pytest.raises(RequestError, match="emphasis must be one of"):
        sd1.condition("a", emphasis="loud")
    with pytest.raises(RequestError, match="0 to 74"):
        sd1.condition("a", comma_backtrack=75)
    many = TOKENIZER.with_triggers({"big": range(49408, 49408 + 76)})
    crowded = Conditioner(sd1.spec, [tower_l[1]], many)
    with pytest.raises(PromptError, match="75"):
        crowded.condition("big")
    with pytest.raises(ValueError, match="encoders"):
        Conditioner(sdxl.spec, [tower_l[1]])
