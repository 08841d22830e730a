"""CLIP's two towers beside a model and alone: read, written, and opened by Transformers."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from on_disk import altered, assert_equal
from own_model import PROMPT, SMALL_VISION, vision_of
from safelight.checkpoints.load import load_clip, load_clip_vision
from safelight.checkpoints.save import convert, save
from safelight.checkpoints.vision_folder import has_clip_vision, save_clip_vision
from safelight.errors import CheckpointError, FileError, RequestError
from safelight.model import Model
from safelight.models.clip import normalised, similarity
from safelight.text.chunks import caption_ids


def test_text_and_pictures_are_compared_by_the_two_towers_of_a_folder(
    small: Model, folder: Path
) -> None:
    text, seen = load_clip(folder / "text_encoder"), load_clip_vision(folder)
    assert has_clip_vision(folder)
    assert_equal(seen.state_dict(), vision_of().state_dict())
    assert text.config == small.text.encoders[0].config
    ids = torch.tensor([caption_ids(PROMPT, small.text.tokenizer)])
    pictures = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    scores = similarity(seen(normalised(pictures)).embeds, text(ids).pooled)
    assert scores.shape == (3, 1) and scores.abs().max() <= 1


def test_the_context_is_the_last_state_normed_whatever_the_projection(small: Model) -> None:
    encoder = small.text.encoders[0]
    ids = torch.tensor([caption_ids(PROMPT, small.text.tokenizer)])
    assert encoder.text_projection is not None
    assert torch.equal(small.text([PROMPT]).context, encoder(ids).final)


def test_transformers_opens_both_towers_and_agrees(folder: Path, small: Model) -> None:
    from PIL import Image
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
    from transformers.models.clip.modeling_clip import (
        CLIPTextModelWithProjection,
        CLIPVisionModelWithProjection,
    )

    ids = torch.tensor([caption_ids(PROMPT, small.text.tokenizer)])
    ours = small.text.encoders[0](ids)
    text = CLIPTextModelWithProjection.from_pretrained(folder / "text_encoder")
    told = text(input_ids=ids)
    assert (told.text_embeds - ours.pooled).abs().max() < 1e-4 * ours.pooled.std()
    assert (told.last_hidden_state - ours.final).abs().max() < 1e-4 * ours.final.std()
    seen = CLIPVisionModelWithProjection.from_pretrained(folder / "image_encoder")
    prepare = CLIPImageProcessorPil.from_pretrained(folder / "feature_extractor")
    picture = Image.effect_noise((32, 32), 90).convert("RGB")
    pixels = prepare(picture, return_tensors="pt")["pixel_values"]
    plain = torch.from_numpy(np.array(picture))[None].permute(0, 3, 1, 2)
    own = normalised(plain / 127.5 - 1)
    assert (pixels - own).abs().max() < 1e-5
    ours_seen = vision_of()(own).embeds
    assert ours_seen is not None
    assert (seen(pixel_values=pixels).image_embeds - ours_seen).abs().max() < 1e-4


def test_a_vision_tower_lives_in_a_folder_of_its_own(tmp_path: Path) -> None:
    from transformers.models.clip.modeling_clip import CLIPVisionModelWithProjection

    tower = vision_of()
    save_clip_vision(tower, tmp_path / "tower")
    assert_equal(load_clip_vision(tmp_path / "tower").state_dict(), tower.state_dict())
    theirs = CLIPVisionModelWithProjection.from_pretrained(tmp_path / "tower")
    theirs.save_pretrained(tmp_path / "theirs")
    again = load_clip_vision(tmp_path / "theirs")
    assert again.config == SMALL_VISION
    assert_equal(again.state_dict(), tower.state_dict())
    bare = load_clip_vision(tmp_path / "tower", projection=False, dtype=torch.float16)
    assert bare.visual_projection is None
    assert {t.dtype for t in bare.state_dict().values()} == {torch.float16}
    with pytest.raises(FileError, match="no vision tower"):
        load_clip_vision(tmp_path)


def test_the_vision_side_of_a_whole_clip_is_read(tmp_path: Path) -> None:
    from transformers.models.clip.configuration_clip import CLIPConfig
    from transformers.models.clip.modeling_clip import CLIPModel

    text = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
            "intermediate_size": 32, "vocab_size": 600}  # fmt: skip
    seen = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
            "intermediate_size": 64, "image_size": 32, "patch_size": 8}  # fmt: skip
    torch.manual_seed(0)
    theirs = CLIPModel(CLIPConfig(text_config=text, vision_config=seen, projection_dim=24)).eval()
    theirs.save_pretrained(tmp_path / "clip")
    ours = load_clip_vision(tmp_path / "clip")
    pixels = torch.randn(2, 3, 32, 32)
    expected = theirs.get_image_features(pixel_values=pixels)
    expected = expected if isinstance(expected, Tensor) else expected.pooler_output
    embeds = ours(pixels).embeds
    assert embeds is not None and (embeds - expected).abs().max() < 1e-4 * expected.std()


def test_what_is_no_vision_tower_is_refused(folder: Path, small: Model, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no patch embedding"):
        load_clip_vision(folder / "text_encoder")
    path = altered(folder, tmp_path / "model")
    config = path / "image_encoder" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"num_hidden_layers": 3}))
    with pytest.raises(CheckpointError, match="16 missing"):
        load_clip_vision(path)
    with pytest.raises(RequestError, match="no place for a vision tower"):
        save(small, tmp_path / "one.safetensors", "ldm", image_encoder=vision_of())


def test_converting_a_folder_takes_its_vision_tower_along(folder: Path, tmp_path: Path) -> None:
    convert(folder, tmp_path / "half", "diffusers", dtype=torch.float16, max_file_bytes=190_000)
    half = load_clip_vision(tmp_path / "half", dtype=torch.float16)
    assert_equal(half.state_dict(), vision_of().to(torch.float16).state_dict())
    assert (tmp_path / "half" / "feature_extractor" / "preprocessor_config.json").is_file()
    convert(folder, tmp_path / "one.safetensors", "ldm")
    convert(tmp_path / "one.safetensors", tmp_path / "back", "diffusers")
    assert not has_clip_vision(tmp_path / "back")
