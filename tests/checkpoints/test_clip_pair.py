"""A whole CLIP is read from every layout that is published, and embeds as its makers' does."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from models_tiny import random
from on_disk import altered
from open_clip_alone import tiny_open_clip
from own_model import PROMPT, SMALL_VISION, vision_of
from safelight.checkpoints.clip_pair import clip_pair_with, holds_clip_pair, load_clip_pair
from safelight.checkpoints.load import load_clip_vision
from safelight.clip.pair import LOGIT_SCALE, ClipPair
from safelight.clip.preparation import Preparation, prepared
from safelight.errors import CheckpointError, FileError
from safelight.model import Model
from safelight.text.vocabulary import CLIP_VOCABULARY

TEXTS = ("a photo of a cat", "the Hat, and 2 gloves!", "")
STATED = {
    "embed_dim": 24,
    "quick_gelu": False,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "head_width": 16, "patch_size": 8},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 4, "layers": 2},
}
PREPARED = {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.25, 0.3], "interpolation": "bicubic"}


def near(ours: Tensor, theirs: Tensor) -> bool:
    """Unit vectors, whose numbers are about 1 / sqrt(width)."""
    assert ours.shape == theirs.shape
    return bool((ours - theirs).abs().max() <= 1e-4 * theirs.std())


def unit(values: Tensor) -> Tensor:
    return torch.nn.functional.normalize(values, dim=-1)


def transformers_clip(activation: str, projection: int = 24):
    from transformers.models.clip.configuration_clip import CLIPConfig
    from transformers.models.clip.modeling_clip import CLIPModel

    text = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
            "intermediate_size": 48, "hidden_act": activation, "eos_token_id": 49407}  # fmt: skip
    seen = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 3, "image_size": 32,
            "intermediate_size": 64, "patch_size": 8, "hidden_act": activation}  # fmt: skip
    config = CLIPConfig(text_config=text, vision_config=seen, projection_dim=projection)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        made = CLIPModel(config).eval()
        with torch.no_grad():
            made.logit_scale.fill_(3.5)
            for weight in made.parameters():
                weight.add_(0.05 * torch.randn(weight.shape))
    return made


def embeddings(made, ids: Tensor, views: Tensor) -> tuple[Tensor, Tensor]:
    texts, seen = made.get_text_features(input_ids=ids), made.get_image_features(pixel_values=views)
    plain = [out if isinstance(out, Tensor) else out.pooler_output for out in (texts, seen)]
    return unit(plain[0]), unit(plain[1])


def ids_of(pair: ClipPair) -> Tensor:
    return torch.tensor([pair.token_ids(text) for text in TEXTS])


@pytest.mark.parametrize("activation", ["quick_gelu", "gelu"])
def test_a_clip_of_transformers_embeds_as_transformers_does(
    activation: str, tmp_path: Path
) -> None:
    made = transformers_clip(activation)
    made.save_pretrained(tmp_path / "clip")
    pair = load_clip_pair(tmp_path / "clip")
    assert (pair.name, pair.notes) == ("clip", ())
    assert pair.tokenizer.vocabulary == CLIP_VOCABULARY
    assert pair.text.config.activation == pair.vision.config.activation == activation
    assert math.isclose(pair.logit_scale, float(made.logit_scale.detach()), rel_tol=1e-6)
    views = random(3, 3, 32, 32)
    texts, seen = embeddings(made, ids_of(pair), views)
    assert near(pair.embed_texts(TEXTS), texts)
    assert near(pair.embed_views(views), seen)
    logits = made(input_ids=ids_of(pair), pixel_values=views).logits_per_image.detach()
    cosines = pair.embed_views(views) @ pair.embed_texts(TEXTS).T
    assert torch.allclose(pair.shares(cosines), logits.softmax(-1), atol=1e-4)


def test_old_configs_state_their_halves_twice_and_the_second_counts(tmp_path: Path) -> None:
    made = transformers_clip("gelu")
    made.save_pretrained(tmp_path / "clip")
    path = tmp_path / "clip" / "config.json"
    config = json.loads(path.read_text())
    config["text_config_dict"] = {
        "num_attention_heads": config["text_config"]["num_attention_heads"]
    }
    config["text_config"]["num_attention_heads"] = 8
    path.write_text(json.dumps(config))
    pair = load_clip_pair(tmp_path / "clip")
    texts, _ = embeddings(made, ids_of(pair), random(1, 3, 32, 32))
    assert near(pair.embed_texts(TEXTS), texts)


def test_the_tokenizer_and_the_preparation_beside_are_used(tmp_path: Path) -> None:
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    from text_oracles import transformers_tokenizer

    made = transformers_clip("gelu")
    made.save_pretrained(tmp_path / "clip")
    tokenizer = transformers_tokenizer()
    tokenizer.save_pretrained(tmp_path / "clip")
    prepare = CLIPImageProcessorPil(
        size={"shortest_edge": 36},
        crop_size={"height": 32, "width": 32},
        image_mean=[0.5, 0.4, 0.3],
        image_std=[0.2, 0.25, 0.3],
    )
    prepare.save_pretrained(tmp_path / "clip")
    pair = load_clip_pair(tmp_path / "clip")
    assert pair.preparation == Preparation(
        32, (0.5, 0.4, 0.3), (0.2, 0.25, 0.3), "bicubic", "crop", 36
    )
    for text in TEXTS:
        ids = tokenizer(text).input_ids
        assert list(pair.token_ids(text)[: len(ids)]) == ids
    for size in ((90, 60), (60, 91), (36, 36), (20, 33), (32, 32)):
        picture = Image.effect_noise(size, 25).convert("RGB").resize(size, Image.Resampling.NEAREST)
        theirs = prepare(picture, return_tensors="pt")["pixel_values"]
        plain = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None] / 127.5 - 1
        ours = prepared(plain, pair.preparation)
        # Pillow rounds to whole levels after each axis
        level = 1 / 255 / 0.2
        assert (ours - theirs).abs().max() <= 1.5 * level, size
        assert (ours - theirs).abs().mean() <= 0.5 * level, size


@pytest.mark.parametrize("container", ["safetensors", "bin"])
@pytest.mark.parametrize("custom", [False, True])
def test_a_file_of_openclip_embeds_as_openclip_does(
    container: str, custom: bool, tmp_path: Path
) -> None:
    made = tiny_open_clip(custom=custom)
    state = {name: tensor.contiguous() for name, tensor in made.state_dict().items()}
    if container == "bin":
        torch.save(state, tmp_path / "open_clip_pytorch_model.bin")
    else:
        save_file(state, tmp_path / "open_clip_model.safetensors")
    stated = {"model_cfg": STATED, "preprocess_cfg": PREPARED}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(stated))
    pair = load_clip_pair(tmp_path)
    assert (pair.name, pair.notes) == (tmp_path.name, ())
    assert pair.preparation == Preparation(32, (0.5, 0.4, 0.3), (0.2, 0.25, 0.3))
    assert math.isclose(pair.logit_scale, 3.0, rel_tol=1e-6)
    views = random(3, 3, 32, 32)
    with torch.no_grad():
        texts, seen = unit(made.encode_text(ids_of(pair))), unit(made.encode_image(views))
    assert near(pair.embed_texts(TEXTS), texts)
    assert near(pair.embed_views(views), seen)


def test_quick_gelu_is_taken_from_openclips_config_and_else_said_to_be_a_guess(
    tmp_path: Path,
) -> None:
    made = tiny_open_clip(quick_gelu=True)
    path = tmp_path / "weights.safetensors"
    save_file({k: v.contiguous() for k, v in made.state_dict().items()}, path)
    config = tmp_path / "open_clip_config.json"
    config.write_text(json.dumps({"model_cfg": STATED | {"quick_gelu": True}}))
    views = random(2, 3, 32, 32)
    with torch.no_grad():
        texts, seen = unit(made.encode_text(ids_of(load_clip_pair(path)))), made.encode_image(views)
    assert near(load_clip_pair(path).embed_texts(TEXTS), texts)
    assert near(load_clip_pair(path).embed_views(views), unit(seen))
    config.unlink()
    alone = load_clip_pair(path)
    assert alone.text.config.activation == "gelu"
    assert "GELU is a guess" in alone.notes[0]


def test_published_widths_get_the_heads_that_their_makers_gave_them() -> None:
    from safelight.checkpoints.measure_vision import measured_vision
    from safelight.models.clip import (
        CLIP_VISION_BIGG,
        CLIP_VISION_H,
        CLIP_VISION_L,
        ClipVisionConfig,
    )

    published = {"L": CLIP_VISION_L, "H": CLIP_VISION_H, "bigG": CLIP_VISION_BIGG}
    published["B/32"] = ClipVisionConfig(12, 768, 12, 3072, "quick_gelu", 512, 224, 32)
    for name, config in published.items():
        shapes = {
            "conv1.weight": (config.width, 3, config.patch, config.patch),
            "positional_embedding": (config.tokens, config.width),
            "proj": (config.width, config.projection or 0),
            "transformer.resblocks.0.mlp.c_fc.bias": (config.mlp_width,),
            **{f"transformer.resblocks.{i}.ln_1.weight": (config.width,)
               for i in range(config.layers)},
        }  # fmt: skip
        assert measured_vision(shapes, activation=config.activation).config == config, name


def test_our_own_folder_is_a_pair(folder: Path, small: Model) -> None:
    pair = load_clip_pair(folder)
    assert pair.tokenizer.vocabulary == small.text.tokenizer.vocabulary
    assert pair.vision.config == SMALL_VISION and pair.preparation == Preparation(32)
    assert pair.logit_scale == LOGIT_SCALE
    assert [path.parent.name for path in pair.files] == ["text_encoder", "image_encoder"]
    views = random(2, 3, 32, 32)
    embeds = vision_of()(views).embeds
    assert embeds is not None and near(pair.embed_views(views), unit(embeds))
    pooled = small.text.encoders[0](torch.tensor([pair.token_ids(PROMPT)])).pooled
    assert near(pair.embed_texts([PROMPT]), unit(pooled))


def test_the_scale_of_a_folder_of_parts_stands_in_the_towers_config(
    folder: Path, tmp_path: Path
) -> None:
    path = altered(folder, tmp_path / "model")
    config = path / "image_encoder" / "config.json"
    stated = json.loads(config.read_text())
    for said, read in ((3.8, 3.8), (9.0, LOGIT_SCALE)):
        config.write_text(json.dumps(stated | {"logit_scale": said}))
        assert load_clip_pair(path).logit_scale == read
    config.write_text(json.dumps(stated | {"logit_scale": "much"}))
    with pytest.raises(CheckpointError, match="logit_scale is much; expected a number"):
        load_clip_pair(path)


def test_a_loaded_text_tower_and_a_vision_tower_make_a_pair(folder: Path, small: Model) -> None:
    vision = load_clip_vision(folder)
    pair = clip_pair_with(small.text.encoders[0], small.text.tokenizer, folder, vision=vision)
    assert near(pair.embed_texts(TEXTS), load_clip_pair(folder).embed_texts(TEXTS))
    assert pair.text is small.text.encoders[0] and pair.vision is vision
    tower = folder / "image_encoder"
    alone = clip_pair_with(pair.text, pair.tokenizer, tower, vision=load_clip_vision(tower))
    assert alone.preparation == pair.preparation
    assert holds_clip_pair(folder) and not holds_clip_pair(tower)
    assert not holds_clip_pair(folder / "text_encoder") and not holds_clip_pair(folder / "lost")


def test_types_and_gradients(folder: Path) -> None:
    exact, half = load_clip_pair(folder), load_clip_pair(folder, dtype=torch.bfloat16)
    pictures = random(2, 3, 40, 50).clamp(-1, 1).requires_grad_()
    cosines = half.cosines(pictures, [PROMPT])
    assert cosines.dtype == torch.float32
    assert (cosines - exact.cosines(pictures, [PROMPT])).abs().max() < 0.05
    (gradient,) = torch.autograd.grad(exact.embed_pictures(pictures)[:, 0].sum(), pictures)
    assert gradient.shape == pictures.shape and bool(torch.isfinite(gradient).all())
    assert not any(p.requires_grad for p in exact.vision.parameters())
    step = torch.zeros_like(pictures)
    step[0, 1, 20, 25] = 1e-2
    moved = exact.embed_pictures(pictures.detach() + step)[:, 0].sum()
    back = exact.embed_pictures(pictures.detach() - step)[:, 0].sum()
    assert abs(float(moved - back) / 2e-2 - float(gradient[0, 1, 20, 25])) < 2e-2 * float(
        gradient.abs().max()
    )


def test_a_picture_and_a_text_have_the_same_vector_in_any_company(folder: Path) -> None:
    pair = load_clip_pair(folder)
    pictures = random(3, 3, 32, 32).clamp(-1, 1)
    together = pair.embed_pictures(pictures)
    for number in range(3):
        alone = pair.embed_pictures(pictures[number : number + 1])
        assert (alone - together[number]).abs().max() < 1e-5
    many = pair.embed_texts([f"word {n}" for n in range(70)])
    assert (many[69] - pair.embed_texts(["word 69"])[0]).abs().max() < 1e-5
    assert pair.embed_texts([]).shape == (0, 24)


def test_long_texts_are_cut_and_counted(folder: Path) -> None:
    pair = load_clip_pair(folder)
    long = "ab " * 200
    assert len(pair.token_ids(long)) == 77 and pair.cut_tokens(long) == 2 * 200 - 75
    assert pair.token_ids(long)[-1] == pair.tokenizer.vocabulary.eos
    assert pair.cut_tokens(PROMPT) == 0


# -- what is no pair -------------------------------------------------------------------------------


def test_what_is_no_whole_clip_is_refused_by_name(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(FileError, match="holds no whole CLIP"):
        load_clip_pair(tmp_path)
    with pytest.raises(FileError, match="no whole CLIP"):
        load_clip_pair(folder / "text_encoder")
    with pytest.raises(CheckpointError, match="is no whole CLIP but text encoder"):
        load_clip_pair(folder / "text_encoder" / "model.safetensors")
    with pytest.raises(CheckpointError, match="is no whole CLIP but vision encoder"):
        load_clip_pair(folder / "image_encoder" / "model.safetensors")
    lone = altered(folder, tmp_path / "lone")
    for part in ("config.json", "model.safetensors"):
        (lone / "text_encoder" / part).unlink()
    with pytest.raises(CheckpointError, match="no text tower that was trained with it"):
        load_clip_pair(lone)


def test_parts_that_do_not_belong_together_are_refused(folder: Path, tmp_path: Path) -> None:
    path = altered(folder, tmp_path / "model")
    beside = path / "image_encoder" / "preprocessor_config.json"
    beside.write_text(json.dumps({"size": {"shortest_edge": 48}, "crop_size": 48}))
    with pytest.raises(CheckpointError, match="prepared to 48 pixels, but the vision tower"):
        load_clip_pair(path)
    beside.write_text(json.dumps({"resample": 0}))
    with pytest.raises(CheckpointError, match="resample is 0; expected 2"):
        load_clip_pair(path)
    beside.unlink()
    for part in (path / "tokenizer").iterdir():
        part.unlink()
    with pytest.raises(CheckpointError, match="do not belong together"):
        load_clip_pair(path)


def test_damaged_files_name_what_is_wrong(tmp_path: Path) -> None:
    made = tiny_open_clip()
    state = {name: tensor.contiguous() for name, tensor in made.state_dict().items()}
    path = tmp_path / "open_clip_model.safetensors"

    def refusal(changed: dict[str, Tensor]) -> str:
        save_file(changed, path)
        with pytest.raises((CheckpointError, FileError)) as caught:
            load_clip_pair(path)
        return str(caught.value)

    name = "visual.transformer.resblocks.1.ln_2.bias"
    assert f"1 missing: {name}" in refusal({k: v for k, v in state.items() if k != name})
    assert "1 surplus: extra" in refusal(state | {"extra": torch.zeros(1)})
    assert "of another shape" in refusal(state | {name: torch.zeros(3)})
    assert "NaN" in refusal(state | {name: torch.full((64,), torch.nan)})
    assert "logit_scale is not one finite" in refusal(
        state | {"logit_scale": torch.tensor(torch.nan)}
    )
    assert "no square" in refusal(state | {"visual.positional_embedding": torch.zeros(16, 64)})
    assert "lacks the matrix" in refusal({k: v for k, v in state.items() if k != "visual.proj"})


def test_a_clip_of_openclip_that_is_built_otherwise_is_refused(tmp_path: Path) -> None:
    made = tiny_open_clip()
    state = {name: tensor.contiguous() for name, tensor in made.state_dict().items()}
    save_file(state, tmp_path / "open_clip_model.safetensors")
    config = tmp_path / "open_clip_config.json"
    for part, changed in (
        ("text_cfg", {"no_causal_mask": True}),
        ("text_cfg", {"pool_type": "last"}),
        ("vision_cfg", {"attentional_pool": True}),
    ):
        stated = STATED | {part: {**STATED[part], **changed}}  # type: ignore[dict-item]
        config.write_text(json.dumps({"model_cfg": stated}))
        with pytest.raises(CheckpointError, match=next(iter(changed))):
            load_clip_pair(tmp_path)


def test_the_weights_on_disk_are_not_needed_afterwards(folder: Path, tmp_path: Path) -> None:
    path = altered(folder, tmp_path / "model")
    pair = load_clip_pair(path, dtype=torch.float16)
    stored = load_file(path / "image_encoder" / "model.safetensors")
    assert pair.vision.state_dict().keys() == stored.keys()
    assert all(t.dtype == torch.float16 for t in pair.vision.state_dict().values())
