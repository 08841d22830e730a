"""CLIP's towers, against Transformers."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn
from transformers.models.clip import configuration_clip as configurations
from transformers.models.clip import modeling_clip as oracles

from models_tiny import distance, random, randomised
from safelight.models.clip import (
    CLIP_L,
    CLIP_VISION_BIGG,
    CLIP_VISION_H,
    CLIP_VISION_L,
    IMAGE_DEVIATION,
    IMAGE_MEAN,
    OPENCLIP_BIGG,
    OPENCLIP_H,
    OPENCLIP_H_FULL,
    ClipText,
    ClipTextConfig,
    ClipVision,
    ClipVisionConfig,
    normalised,
    similarity,
)

TOLERANCE = 1e-4
EOS, PAD = 199, 7

TEXT = ClipTextConfig(
    layers=4, width=32, heads=4, mlp_width=64, projection=24, vocabulary=200, eos_id=EOS
)
VISION = ClipVisionConfig(
    layers=3, width=32, heads=4, mlp_width=64, projection=24, image_size=28, patch=7
)
ACTIVATIONS = ("quick_gelu", "gelu")


def text_settings(config: ClipTextConfig, eos_id: int | None = None):
    return configurations.CLIPTextConfig(
        vocab_size=config.vocabulary,
        hidden_size=config.width,
        intermediate_size=config.mlp_width,
        projection_dim=config.projection or config.width,
        num_hidden_layers=config.layers,
        num_attention_heads=config.heads,
        max_position_embeddings=config.context,
        hidden_act=config.activation,
        eos_token_id=config.eos_id if eos_id is None else eos_id,
        bos_token_id=0,
    )


def vision_settings(config: ClipVisionConfig):
    return configurations.CLIPVisionConfig(
        hidden_size=config.width,
        intermediate_size=config.mlp_width,
        projection_dim=config.projection,
        num_hidden_layers=config.layers,
        num_attention_heads=config.heads,
        image_size=config.image_size,
        patch_size=config.patch,
        hidden_act=config.activation,
    )


def with_text_prefix(module: nn.Module) -> dict[str, torch.Tensor]:
    """Transformers 5 leaves the prefix out of the keys of a CLIPTextModel."""
    return {f"text_model.{name}": tensor for name, tensor in module.state_dict().items()}


def token_ids(rows: int, eos_at: tuple[int, ...], length: int = 77) -> torch.Tensor:
    """Random ids; the first EOS where asked, after it EOS in even rows and another pad in odd."""
    ids = torch.randint(8, EOS, (rows, length), generator=torch.Generator().manual_seed(3))
    for row, position in enumerate(eos_at):
        ids[row, position] = EOS
        ids[row, position + 1 :] = EOS if row % 2 == 0 else PAD
    return ids


IDS = token_ids(4, (5, 76, 30, 1))


@pytest.fixture(scope="module", params=ACTIVATIONS)
def text_pair(request):
    config = replace(TEXT, activation=request.param)
    theirs = randomised(oracles.CLIPTextModelWithProjection(text_settings(config)))
    ours = ClipText(config)
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


@pytest.fixture(scope="module", params=ACTIVATIONS)
def vision_pair(request):
    config = replace(VISION, activation=request.param)
    theirs = randomised(oracles.CLIPVisionModelWithProjection(vision_settings(config)))
    ours = ClipVision(config)
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


@torch.no_grad()
def test_text_features_equal_the_reference(text_pair):
    ours, theirs = text_pair
    output, reference = ours(IDS), theirs(IDS, output_hidden_states=True)
    assert distance(output.final, reference.last_hidden_state) <= TOLERANCE
    assert distance(output.pooled, reference.text_embeds) <= TOLERANCE
    assert len(output.hidden_states) == len(reference.hidden_states) == TEXT.layers + 1
    # The oracle's last entry may be normed already; the rest are the residual stream.
    for mine, its in zip(output.hidden_states[:-1], reference.hidden_states[:-1], strict=True):
        assert distance(mine, its) <= TOLERANCE
    assert distance(ours.final_norm(output.hidden_states[-1]), output.final) == 0.0


@torch.no_grad()
@pytest.mark.parametrize("length", [1, 9, 76])
def test_shorter_texts_equal_the_reference(text_pair, length):
    ours, theirs = text_pair
    ids = token_ids(2, (length - 1, length - 1), length)
    assert distance(ours(ids).pooled, theirs(ids).text_embeds) <= TOLERANCE


@torch.no_grad()
def test_a_tower_without_projection_equals_the_reference():
    config = replace(TEXT, projection=None)
    theirs = randomised(oracles.CLIPTextModel(text_settings(config)))
    ours = ClipText(config)
    ours.load_state_dict(with_text_prefix(theirs))
    output, reference = ours(IDS), theirs(IDS)
    assert output.pooled is None
    assert distance(output.final, reference.last_hidden_state) <= TOLERANCE
    assert distance(output.pooled_raw, reference.pooler_output) <= TOLERANCE


@torch.no_grad()
def test_first_eos_is_the_row_that_published_configs_with_eos_2_pool(text_pair):
    ours, theirs = text_pair
    legacy = oracles.CLIPTextModelWithProjection(text_settings(ours.config, eos_id=2)).eval()
    legacy.load_state_dict(theirs.state_dict())
    assert distance(ours(IDS).pooled, legacy(IDS).text_embeds) <= TOLERANCE


def test_ids_above_eos_do_not_move_the_pooled_row():
    ours = ClipText(TEXT)
    ids = IDS.clone()
    ids[0, 2] = EOS + 5  # a token added by textual inversion; its vector comes from elsewhere
    assert ours.eos_positions(ids).tolist() == [5, 76, 30, 1]


def test_a_text_without_eos_is_pooled_at_its_last_token():
    assert ClipText(TEXT).eos_positions(torch.zeros(2, 9, dtype=torch.int64)).tolist() == [8, 8]


@torch.no_grad()
def test_the_first_blocks_alone_give_what_they_give_among_all(text_pair):
    ours, _ = text_pair
    whole = ours(IDS)
    for depth in range(TEXT.layers + 1):
        part = ours(IDS, depth=depth)
        assert len(part.hidden_states) == depth + 1
        assert torch.equal(part.hidden_states[-1], whole.hidden_states[depth])
        assert torch.equal(part.final, ours.final_norm(whole.hidden_states[depth]))
        assert (part.pooled is None) == (part.pooled_raw is None) == (depth < TEXT.layers)


@torch.no_grad()
def test_blocks_beyond_the_depth_are_not_run(text_pair):
    ours, _ = text_pair
    runs = []
    handle = ours.text_model.encoder.layers[2].register_forward_hook(lambda *_: runs.append(1))
    ours(IDS, depth=2)
    assert runs == []
    ours(IDS, depth=3)
    assert runs == [1]
    handle.remove()


@torch.no_grad()
def test_embedded_tokens_give_what_their_ids_give(text_pair):
    ours, _ = text_pair
    vectors, eos = ours.embed(IDS), ours.eos_positions(IDS)
    assert torch.equal(ours.forward_embedded(vectors, eos).pooled, ours(IDS).pooled)
    learned = vectors.clone()
    learned[:, 1] += 1.0
    assert not torch.equal(ours.forward_embedded(learned, eos).final, ours(IDS).final)


@torch.no_grad()
def test_a_token_does_not_see_those_after_it(text_pair):
    ours, _ = text_pair
    other = IDS.clone()
    other[:, 40:] = 11
    a, b = ours(IDS).final, ours(other).final
    torch.testing.assert_close(a[:, :40], b[:, :40])
    assert distance(a[:, 40:], b[:, 40:]) > 0.1


@torch.no_grad()
def test_hidden_tokens_are_hidden_as_by_the_attention_mask_of_the_reference(text_pair):
    ours, theirs = text_pair
    visible = torch.arange(77) <= torch.tensor([5, 76, 30, 1])[:, None]
    visible[1, 20:40] = False
    output = ours(IDS, visible=visible)
    reference = theirs(IDS, attention_mask=visible.long())
    assert distance(output.final, reference.last_hidden_state) <= TOLERANCE
    assert distance(output.pooled, reference.text_embeds) <= TOLERANCE
    assert distance(output.final, ours(IDS).final) > 0.01


@torch.no_grad()
def test_all_visible_is_the_same_as_no_mask(text_pair):
    ours, _ = text_pair
    shown = ours(IDS, visible=torch.ones(4, 77, dtype=torch.bool))
    assert distance(shown.final, ours(IDS).final) <= TOLERANCE


@torch.no_grad()
def test_vision_features_equal_the_reference(vision_pair):
    ours, theirs = vision_pair
    images = random(3, 3, 28, 28)
    output, reference = ours(images), theirs(images, output_hidden_states=True)
    assert distance(output.embeds, reference.image_embeds) <= TOLERANCE
    for mine, its in zip(output.hidden_states, reference.hidden_states, strict=True):
        assert distance(mine, its) <= TOLERANCE
    inner = theirs.vision_model(images)
    assert distance(output.pooled_raw, inner.pooler_output) <= TOLERANCE


@torch.no_grad()
def test_vision_stops_at_a_depth_and_may_have_no_projection(vision_pair):
    ours, _ = vision_pair
    images = random(1, 3, 28, 28)
    part = ours(images, depth=2)
    assert part.embeds is None and part.pooled_raw is None
    assert torch.equal(part.hidden_states[-1], ours(images).hidden_states[2])
    bare = ClipVision(replace(ours.config, projection=None))
    bare.load_state_dict(
        {k: v for k, v in ours.state_dict().items() if not k.startswith("visual_projection")}
    )
    assert bare(images).embeds is None
    assert torch.equal(bare(images).pooled_raw, ours(images).pooled_raw)


@torch.no_grad()
def test_similarity_equals_the_reference():
    settings = configurations.CLIPConfig(
        text_config=text_settings(TEXT).to_dict(),
        vision_config=vision_settings(VISION).to_dict(),
        projection_dim=24,
    )
    theirs = randomised(oracles.CLIPModel(settings))
    state = theirs.state_dict()
    text, vision = ClipText(TEXT), ClipVision(VISION)
    text.load_state_dict({k: v for k, v in state.items() if k.startswith("text")})
    vision.load_state_dict({k: v for k, v in state.items() if k.startswith("vis")})
    images = random(3, 3, 28, 28)
    ours = similarity(
        vision(images).embeds, text(IDS).pooled, logit_scale=theirs.logit_scale.item()
    )
    reference = theirs(input_ids=IDS, pixel_values=images).logits_per_image
    assert distance(ours, reference) <= TOLERANCE


def test_similarity_is_the_cosine_whatever_the_lengths():
    a, b = torch.tensor([[3.0, 0.0], [0.0, 5.0]]), torch.tensor([[2.0, 2.0]])
    expected = torch.tensor([[0.5**0.5], [0.5**0.5]])
    torch.testing.assert_close(similarity(a, b), expected)
    torch.testing.assert_close(similarity(a.half(), b, logit_scale=math.log(100)), 100 * expected)


def test_normalised_pictures_have_the_published_mean_and_deviation():
    grey = 2 * torch.tensor(IMAGE_MEAN)[None, :, None, None] - 1
    torch.testing.assert_close(normalised(grey), torch.zeros(1, 3, 1, 1), atol=1e-6, rtol=0)
    step = 2 * torch.tensor(IMAGE_DEVIATION)[None, :, None, None]
    torch.testing.assert_close(normalised(grey + step), torch.ones(1, 3, 1, 1))


@pytest.mark.parametrize(
    ("config", "tensors"),
    [
        (CLIP_L, 196),
        (replace(CLIP_L, projection=768), 197),
        (OPENCLIP_H, 372),
        (OPENCLIP_H_FULL, 389),
        (OPENCLIP_BIGG, 517),
    ],
)
def test_published_text_towers_have_the_keys_and_shapes_of_the_reference(config, tensors):
    with torch.device("meta"):
        ours = ClipText(config)
        if config.projection is None:
            expected = with_text_prefix(oracles.CLIPTextModel(text_settings(config)))
        else:
            expected = oracles.CLIPTextModelWithProjection(text_settings(config)).state_dict()
    shapes = {name: tuple(t.shape) for name, t in ours.state_dict().items()}
    assert shapes == {name: tuple(t.shape) for name, t in expected.items()}
    assert len(shapes) == tensors
    assert config.width == 64 * config.heads
    assert all(t.is_meta for t in (*ours.parameters(), *ours.buffers()))


@pytest.mark.parametrize("config", [CLIP_VISION_L, CLIP_VISION_H, CLIP_VISION_BIGG])
def test_published_vision_towers_have_the_keys_and_shapes_of_the_reference(config):
    with torch.device("meta"):
        ours = ClipVision(config)
        theirs = oracles.CLIPVisionModelWithProjection(vision_settings(config))
    shapes = {name: tuple(t.shape) for name, t in ours.state_dict().items()}
    assert shapes == {name: tuple(t.shape) for name, t in theirs.state_dict().items()}
    assert all(t.is_meta for t in (*ours.parameters(), *ours.buffers()))


@torch.no_grad()
def test_a_tower_built_on_meta_works_once_its_weights_are_assigned(text_pair):
    ours, _ = text_pair
    with torch.device("meta"):
        empty = ClipText(ours.config)
    empty.load_state_dict(ours.state_dict(), assign=True)
    assert torch.equal(empty(IDS).pooled, ours(IDS).pooled)


@torch.no_grad()
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 0.2), (torch.float16, 0.03)])
def test_half_precision_keeps_its_type_and_agrees(text_pair, vision_pair, dtype, tolerance):
    (text, _), (vision, _) = text_pair, vision_pair
    images = random(2, 3, 28, 28)
    half_text, half_vision = ClipText(text.config), ClipVision(vision.config)
    half_text.load_state_dict(text.state_dict())
    half_vision.load_state_dict(vision.state_dict())
    for ours, reference in (
        (half_text.to(dtype)(IDS).pooled, text(IDS).pooled),
        (half_vision.to(dtype)(images).embeds, vision(images).embeds),
    ):
        assert ours.dtype == dtype and distance(ours.float(), reference) <= tolerance


@torch.no_grad()
def test_overflow_in_half_precision_is_not_hidden(text_pair):
    text, _ = text_pair
    blown = ClipText(text.config)
    blown.load_state_dict(text.state_dict())
    blown.text_model.encoder.layers[1].mlp.fc2.weight.mul_(1e6)
    assert blown(IDS).final.isfinite().all()
    output = blown.half()(IDS)
    assert not output.hidden_states[2].isfinite().all() and not output.final.isfinite().all()


def test_wrong_lengths_depths_and_sizes_are_refused():
    text, vision = ClipText(TEXT), ClipVision(VISION)
    with pytest.raises(ValueError, match="at most 77 tokens at once; got 78"):
        text(torch.zeros(1, 78, dtype=torch.int64))
    for depth in (5, -1):
        with pytest.raises(ValueError, match=f"has 4 blocks; cannot run {depth}"):
            text(IDS, depth=depth)
    with pytest.raises(ValueError, match="sees 28 x 28 pixels; got 35 x 28"):
        vision(random(1, 3, 28, 35))
