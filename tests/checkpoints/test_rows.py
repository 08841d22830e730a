"""Computed rows cover every full-size family, lose nothing, and shapes give the config back."""

from collections.abc import Iterable, Iterator

import pytest
import torch
from torch import nn

from safelight.checkpoints.json_object import JsonObject
from safelight.checkpoints.keymap import KeyMap, Row, Shape
from safelight.checkpoints.measure_autoencoder import measured_autoencoder
from safelight.checkpoints.measure_clip import measured_clip
from safelight.checkpoints.measure_unet import measured_unet
from safelight.checkpoints.model_json import (
    clip_from_json,
    clip_to_json,
    vae_from_json,
    vae_to_json,
)
from safelight.checkpoints.parts import built
from safelight.checkpoints.rows_autoencoder import autoencoder_rows, diffusers_autoencoder_rows
from safelight.checkpoints.rows_clip import open_clip_rows, transformers_rows
from safelight.checkpoints.rows_unet import unet_rows
from safelight.checkpoints.unet_json import unet_from_json, unet_to_json
from safelight.errors import CheckpointError
from safelight.families import FAMILIES, PLAYGROUND_25, without_idle_options
from safelight.models.autoencoder import (
    KL_F4,
    KL_F8_SD,
    KL_F8_SD3,
    AutoencoderConfig,
    CodecConfig,
)
from safelight.models.clip import CLIP_L, OPENCLIP_BIGG, OPENCLIP_H, ClipTextConfig
from safelight.models.taesd import TAESD, TAESD3
from safelight.models.unet import UNetConfig
from unet_published import FAMILIES as PUBLISHED

ORIGINAL = [name for name, family in FAMILIES.items() if family.backbone.guidance_width is None]


def on_meta(config: UNetConfig | AutoencoderConfig | ClipTextConfig) -> nn.Module:
    with torch.device("meta"):
        return built(config)


def shapes_of(module: nn.Module) -> dict[str, Shape]:
    return {name: tuple(t.shape) for name, t in module.state_dict().items()}


def in_the_file(module: nn.Module, rows: Iterable[Row]) -> dict[str, Shape]:
    """Names and shapes of the file that holds a module."""
    ours = shapes_of(module)
    return {
        link.theirs: link.op.shape([ours[name] for name in link.ours])
        for link in KeyMap(rows).links(ours)
    }


def used_rows(rows: KeyMap, names: Iterable[str]) -> set[str]:
    return {max((r.ours for r in rows.rows if covers(r, name)), key=len) for name in names}


def covers(row: Row, name: str) -> bool:
    return any(
        name == prefix or name.startswith(f"{prefix}.")
        for prefix in (row.ours.replace("*", part) for part in row.op.parts)
    )


def assert_bijection(module: nn.Module, rows: Iterator[Row]) -> KeyMap:
    keymap = KeyMap(rows)
    names = list(module.state_dict())
    links = keymap.links(names)
    assert len({link.theirs for link in links}) == len(links), "two tensors share a name"
    assert sorted(name for link in links for name in link.ours) == sorted(names)
    for link in links:
        assert keymap.to_ours(link.theirs) == link.ours
    assert len({row.ours for row in keymap.rows}) == len(keymap.rows)
    return keymap


@pytest.mark.parametrize("name", FAMILIES)
def test_unet_rows_are_a_bijection_for_every_family(name: str) -> None:
    config = FAMILIES[name].backbone
    module = on_meta(config)
    keymap = assert_bijection(module, unet_rows(config))
    assert used_rows(keymap, module.state_dict()) == {row.ours for row in keymap.rows}


# Rows and tensors of the published U-Nets; the tensor counts are those of their files.
COUNTS = {
    "sd15": (151, 686),
    "sd2-v": (151, 686),
    "x4-upscaler": (152, 687),
    "sdxl": (118, 1680),
    "sdxl-refiner": (148, 1220),
}


@pytest.mark.parametrize("name", COUNTS)
def test_a_few_rows_cover_many_tensors(name: str) -> None:
    config = FAMILIES[name].backbone
    rows, tensors = COUNTS[name]
    assert len(list(unet_rows(config))) == rows
    assert len(on_meta(config).state_dict()) == tensors


def test_some_names_of_sd15_are_those_of_the_published_file() -> None:
    names = in_the_file(on_meta(FAMILIES["sd15"].backbone), unet_rows(FAMILIES["sd15"].backbone))
    for name, shape in {
        "input_blocks.0.0.weight": (320, 4, 3, 3),
        "input_blocks.3.0.op.weight": (320, 320, 3, 3),
        "input_blocks.4.0.skip_connection.weight": (640, 320, 1, 1),
        "input_blocks.8.1.proj_in.weight": (1280, 1280, 1, 1),
        "input_blocks.11.0.out_layers.3.bias": (1280,),
        "middle_block.1.transformer_blocks.0.attn2.to_k.weight": (1280, 768),
        "output_blocks.2.1.conv.weight": (1280, 1280, 3, 3),
        "output_blocks.5.2.conv.weight": (1280, 1280, 3, 3),
        "output_blocks.11.1.proj_out.bias": (320,),
        "time_embed.2.weight": (1280, 1280),
        "out.2.weight": (4, 320, 3, 3),
    }.items():
        assert names[name] == shape


@pytest.mark.parametrize("name", ORIGINAL)
def test_shapes_of_the_original_layout_give_the_unet_config_back(name: str) -> None:
    config = FAMILIES[name].backbone
    measured = measured_unet(in_the_file(on_meta(config), unet_rows(config)))
    assert measured == without_idle_options(config)


def test_a_unet_that_lacks_its_beginning_is_refused_by_name() -> None:
    config = FAMILIES["sd15"].backbone
    shapes = in_the_file(on_meta(config), unet_rows(config))
    del shapes["input_blocks.1.0.out_layers.3.weight"]
    with pytest.raises(CheckpointError, match=r"input_blocks\.1"):
        measured_unet(shapes)


VAES = {"f8": KL_F8_SD, "f4": KL_F4, "sd3": KL_F8_SD3}


@pytest.mark.parametrize("codec", VAES.values(), ids=VAES)
def test_autoencoder_rows_are_a_bijection_and_shapes_give_the_config_back(
    codec: CodecConfig,
) -> None:
    config = codec.autoencoder
    assert isinstance(config, AutoencoderConfig)
    module = on_meta(config)
    for rows in (autoencoder_rows, lambda c: diffusers_autoencoder_rows(c, of_2022=True)):
        keymap = assert_bijection(module, rows(config))
        assert used_rows(keymap, module.state_dict()) == {row.ours for row in keymap.rows}
    assert measured_autoencoder(in_the_file(module, autoencoder_rows(config))) == config
    assert measured_autoencoder(shapes_of(module)) == config


def test_attention_of_the_autoencoder_is_a_convolution_in_the_original() -> None:
    config = KL_F8_SD.autoencoder
    assert isinstance(config, AutoencoderConfig)
    names = in_the_file(on_meta(config), autoencoder_rows(config))
    assert len(names) == 248
    assert names["encoder.mid.attn_1.q.weight"] == (512, 512, 1, 1)
    assert names["decoder.mid.attn_1.proj_out.weight"] == (512, 512, 1, 1)
    assert names["decoder.up.0.block.0.nin_shortcut.weight"] == (128, 256, 1, 1)
    assert names["decoder.up.3.upsample.conv.weight"] == (512, 512, 3, 3)


CLIPS = {"L": CLIP_L, "H": OPENCLIP_H, "bigG": OPENCLIP_BIGG}


@pytest.mark.parametrize("config", CLIPS.values(), ids=CLIPS)
def test_open_clip_rows_are_a_bijection_and_shapes_give_the_config_back(
    config: ClipTextConfig,
) -> None:
    module = on_meta(config)
    assert_bijection(module, open_clip_rows(config))
    for bare in (False, True):
        assert_bijection(module, transformers_rows(config, bare=bare))
    projected = config.projection is not None
    rows = transformers_rows if config is CLIP_L else open_clip_rows
    measured = measured_clip(in_the_file(module, rows(config)), projection=projected)
    assert measured.config == config


def test_the_projection_of_open_clip_is_the_transpose_of_ours() -> None:
    rows = {row.theirs: row for row in open_clip_rows(OPENCLIP_BIGG)}
    assert rows["text_projection"].op.name == "transpose"


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_unet_jsons_give_our_configs_and_come_back(name: str) -> None:
    family = PUBLISHED[name]
    config = unet_from_json(JsonObject(dict(family.theirs), name))
    assert config == without_idle_options(family.ours)
    written = unet_to_json(config, sample_size=64)
    assert unet_from_json(JsonObject(written, name)) == config


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("class_embed_type", "timestep"),
        ("addition_embed_type", "image"),
        ("time_embedding_type", "fourier"),
        ("attention_type", "gated"),
        ("mid_block_type", "UNetMidBlock2DSimpleCrossAttn"),
        ("down_block_types", ["KDownBlock2D"] * 4),
        ("resnet_time_scale_shift", "scale_shift"),
        ("cross_attention_dim", [768, 768, 768, 1024]),
        ("block_out_channels", "wide"),
        ("in_channels", -4),
    ],
)
def test_an_option_that_we_do_not_have_is_refused_by_name(option: str, value: object) -> None:
    json = {**PUBLISHED["sd15"].theirs, option: value}
    with pytest.raises(CheckpointError, match=option):
        unet_from_json(JsonObject(json, "unet/config.json"))


CODECS = {**VAES, "playground": PLAYGROUND_25.codec, "taesd": TAESD, "taesd3": TAESD3}


@pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS)
def test_autoencoder_jsons_come_back(codec: CodecConfig) -> None:
    read = vae_from_json(JsonObject(vae_to_json(codec, native_size=512), "vae"))
    assert read.config == codec.autoencoder
    assert read.scale == pytest.approx(codec.scale)
    assert read.shift == pytest.approx(codec.shift)


@pytest.mark.parametrize("config", CLIPS.values(), ids=CLIPS)
def test_text_encoder_jsons_come_back(config: ClipTextConfig) -> None:
    projected = config.projection is not None
    assert clip_from_json(JsonObject(clip_to_json(config), "text"), projected=projected) == config
