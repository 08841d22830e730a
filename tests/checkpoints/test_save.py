"""What we write, Diffusers' converters and pipelines read, and we ourselves, bit for bit."""

import errno
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

import tiny
from on_disk import EVERY_FAMILY, OnDisk
from safelight import writing
from safelight.checkpoints.json_object import JsonObject
from safelight.checkpoints.load import load
from safelight.checkpoints.save import Layout, convert, save
from safelight.checkpoints.unet_json import unet_from_json, unet_to_json
from safelight.errors import OutputError, RequestError
from safelight.families import ProcessConfig, SamplerHint, without_idle_options
from safelight.model import Model
from safelight.text.vocabulary import CLIP_VOCABULARY

Get = Callable[[str], OnDisk]
# Names in the published files that no model uses and that we do not write.
UNUSED = ("position_ids", "logit_scale")


def needed(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {n: t for n, t in state.items() if not n.endswith(UNUSED)}


def assert_equal(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert tensor.dtype == theirs[name].dtype, name
        assert torch.equal(tensor, theirs[name]), name


def files_of(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.mark.slow
@EVERY_FAMILY
def test_a_folder_becomes_the_single_file_and_comes_back(
    name: str, on_disk: Get, tmp_path: Path
) -> None:
    files = on_disk(name)
    convert(files.folder, tmp_path / "one.safetensors", "ldm")
    written = load_file(tmp_path / "one.safetensors")
    marks = {"v_pred", "ztsnr"}
    assert_equal(
        {n: t for n, t in written.items() if n not in marks}, needed(load_file(files.single))
    )
    convert(tmp_path / "one.safetensors", tmp_path / "back", "diffusers")
    theirs, ours = load(files.folder), load(tmp_path / "back")
    assert ours.family == theirs.family
    for a, b in zip(parts(ours), parts(theirs), strict=True):
        assert_equal(a.state_dict(), b.state_dict())
    convert(tmp_path / "back", tmp_path / "again.safetensors", "ldm")
    assert (tmp_path / "again.safetensors").read_bytes() == (
        tmp_path / "one.safetensors"
    ).read_bytes()


def parts(model: Model) -> list[torch.nn.Module]:
    assert isinstance(model.codec.autoencoder, torch.nn.Module)
    return [model.network.unet, model.codec.autoencoder, *model.text.encoders]


@pytest.mark.parametrize("name", ["sd15", "sdxl"])
def test_saving_a_model_and_converting_its_file_write_the_same_bytes(
    name: str, on_disk: Get, tmp_path: Path
) -> None:
    source = on_disk(name).folder
    model = load(source)
    layouts: tuple[Layout, ...] = ("ldm", "diffusers")
    for layout in layouts:
        end = ".safetensors" if layout == "ldm" else ""
        save(model, tmp_path / f"saved{end}", layout)
        convert(source, tmp_path / f"converted{end}", layout)
    saved, converted = tmp_path / "saved.safetensors", tmp_path / "converted.safetensors"
    assert saved.read_bytes() == converted.read_bytes()
    assert files_of(tmp_path / "saved") == files_of(tmp_path / "converted")


@EVERY_FAMILY
def test_diffusers_reads_our_single_file_back_to_its_own_weights(
    name: str, on_disk: Get, tmp_path: Path
) -> None:
    from diffusers.loaders.single_file_utils import (
        convert_ldm_unet_checkpoint,
        convert_ldm_vae_checkpoint,
    )

    made = on_disk(name).made
    convert(on_disk(name).folder, tmp_path / "one.safetensors", "ldm")
    state = load_file(tmp_path / "one.safetensors")
    vae = convert_ldm_vae_checkpoint(dict(state), dict(made.vae.config))
    assert_equal(vae, made.vae.state_dict())
    if made.family.unet.get("mid_block_type", "") is None or name in ("ssd-1b", "vega"):
        # Diffusers' converter takes it that the middle has three modules.
        return
    config = dict(made.unet.config)
    if config.get("num_class_embeds") is not None:
        config["class_embed_type"] = None
    unet = convert_ldm_unet_checkpoint(dict(state), config)
    assert_equal(unet, made.unet.state_dict())


@pytest.mark.parametrize(("name", "number"), [("sd2-v", 0), ("sdxl", 1), ("sdxl-refiner", 0)])
def test_diffusers_reads_our_open_clip_names(
    name: str, number: int, on_disk: Get, tmp_path: Path
) -> None:
    from diffusers.loaders.single_file_utils import convert_open_clip_checkpoint

    made = on_disk(name).made
    convert(on_disk(name).folder, tmp_path / "one.safetensors", "ldm")
    prefix = made.family.texts[number].prefix
    module = made.texts[number]
    expected = module.state_dict()
    # The converter writes Transformers 4's names.
    bare = "embeddings.token_embedding.weight" in expected
    expected = {f"text_model.{n}" if bare else n: t for n, t in expected.items()}
    state = load_file(tmp_path / "one.safetensors")
    found = convert_open_clip_checkpoint(module, state, prefix=prefix)
    assert_equal({n: t.contiguous() for n, t in found.items()}, expected)


@pytest.mark.parametrize("wanted", [torch.float16, torch.bfloat16])
def test_types_can_be_changed_on_the_way(wanted: torch.dtype, on_disk: Get, tmp_path: Path) -> None:
    source = on_disk("sd2-v").single
    convert(source, tmp_path / "one.safetensors", "ldm", dtype=wanted)
    original = {n: t.to(wanted) for n, t in needed(load_file(source)).items()}
    written = load_file(tmp_path / "one.safetensors")
    assert_equal(written, original)


def test_types_of_the_file_are_kept_where_none_is_given(on_disk: Get, tmp_path: Path) -> None:
    single = tiny.write_single(on_disk("sd15").made, tmp_path / "half.safetensors", torch.float16)
    convert(single, tmp_path / "out", "diffusers")
    state = load_file(tmp_path / "out" / "unet" / "diffusion_pytorch_model.safetensors")
    assert {t.dtype for t in state.values()} == {torch.float16}


@pytest.mark.parametrize(
    ("process", "marks"),
    [
        (ProcessConfig(prediction="v", zero_terminal_snr=True), {"v_pred", "ztsnr"}),
        (ProcessConfig(prediction="v"), {"v_pred"}),
        (ProcessConfig("edm", "edm"), {"edm_mean", "edm_std"}),
        (
            ProcessConfig("edm", "v", sigma_max=120.0),
            {"edm_vpred.sigma_max", "edm_vpred.sigma_min"},
        ),
        (ProcessConfig(), set()),
    ],
)
def test_what_a_model_predicts_survives_both_layouts(
    process: ProcessConfig, marks: set[str], on_disk: Get, tmp_path: Path
) -> None:
    model = load(on_disk("sdxl").single)
    model = replace(model, family=replace(model.family, process=process))
    save(model, tmp_path / "one.safetensors", "ldm")
    assert marks == {
        n for n in load_file(tmp_path / "one.safetensors") if n.startswith(("v_", "zt", "edm"))
    }
    assert load(tmp_path / "one.safetensors").family.process == process
    save(model, tmp_path / "folder")
    assert load(tmp_path / "folder").family.process == process


@pytest.mark.parametrize(
    "hint",
    [
        SamplerHint("plms", "leading", 20, 7.0),
        SamplerHint("dpmpp_2m", "karras", 20, 7.0),
        SamplerHint("uni_pc_bh2", "leading_dpm", 20, 7.0),
        SamplerHint("euler", "trailing", 4, 1.0),
        SamplerHint("lcm", None, 4, 7.0),
    ],
    ids=lambda hint: hint.sampler,
)
def test_the_recommended_sampler_survives_both_layouts(
    hint: SamplerHint, on_disk: Get, tmp_path: Path
) -> None:
    model = load(on_disk("sd15").single)
    model = replace(model, family=replace(model.family, hint=hint))
    save(model, tmp_path / "one.safetensors", "ldm")
    assert load(tmp_path / "one.safetensors").family.hint == hint
    save(model, tmp_path / "folder")
    assert load(tmp_path / "folder").family.hint == hint


def test_heads_and_groups_that_shapes_cannot_say_survive_a_single_file(
    on_disk: Get, tmp_path: Path
) -> None:
    from safelight.models.unet import UNet

    model = load(on_disk("sd15").single)
    odd = replace(model.network.unet.config, heads=(4, 4, 4, 4), groups=16, norm_eps=1e-6)
    with torch.device("meta"):
        unet = UNet(odd)
    unet.load_state_dict(model.network.unet.state_dict(), assign=True)
    model = replace(
        model,
        network=replace(model.network, unet=unet),
        family=replace(model.family, backbone=odd),
    )
    save(model, tmp_path / "one.safetensors", "ldm")
    assert load(tmp_path / "one.safetensors").network.unet.config == odd
    save(model, tmp_path / "folder")
    assert load(tmp_path / "folder").network.unet.config == odd


def test_the_metadata_follows_the_model_spec(on_disk: Get, tmp_path: Path) -> None:
    convert(on_disk("sd2-v").folder, tmp_path / "one.safetensors", "ldm")
    with safe_open(tmp_path / "one.safetensors", "pt") as file:
        metadata = file.metadata()
    assert metadata["modelspec.prediction_type"] == "v"
    assert metadata["modelspec.architecture"] == "stable-diffusion-v2-768-v"


def test_the_tokenizer_written_is_clips(on_disk: Get, tmp_path: Path) -> None:
    from transformers import CLIPTokenizer

    convert(on_disk("sdxl").single, tmp_path / "out", "diffusers")
    ids = json.loads((tmp_path / "out" / "tokenizer" / "vocab.json").read_text())
    assert ids == CLIP_VOCABULARY.ids and len(ids) == 49408
    assert ids["<|endoftext|>"] == 49407
    merges = (tmp_path / "out" / "tokenizer" / "merges.txt").read_text().splitlines()
    assert merges[:2] == ["#version: 0.2", "i n"] and len(merges) == 1 + 48894
    first = CLIPTokenizer.from_pretrained(tmp_path / "out" / "tokenizer")
    second = CLIPTokenizer.from_pretrained(tmp_path / "out" / "tokenizer_2")
    # The ids of OpenAI's own tokenizer for these words.
    assert first("a photo of a cat").input_ids == [49406, 320, 1125, 539, 320, 2368, 49407]
    assert (first.pad_token_id, second.pad_token_id) == (49407, 0)


# -- others load what we write -------------------------------------------------------------------


def drawn(pipeline: object, prompt: str = "a cat") -> Tensor:
    assert callable(pipeline)
    rng = torch.Generator().manual_seed(0)
    pictures = pipeline(prompt, num_inference_steps=2, generator=rng, output_type="pt").images
    assert isinstance(pictures, Tensor)
    return pictures


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sd15", "sd2-v", "sdxl"])
def test_diffusers_pipelines_load_our_folders_and_files(
    name: str, on_disk: Get, tmp_path: Path
) -> None:
    from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline

    pipeline = StableDiffusionXLPipeline if name == "sdxl" else StableDiffusionPipeline
    made = on_disk(name).made
    convert(on_disk(name).single, tmp_path / "out", "diffusers", prediction="eps")
    loaded = pipeline.from_pretrained(tmp_path / "out", local_files_only=True)
    loaded.set_progress_bar_config(disable=True)
    assert_equal(loaded.unet.state_dict(), made.unet.state_dict())
    assert_equal(loaded.vae.state_dict(), made.vae.state_dict())
    assert_equal(loaded.text_encoder.state_dict(), made.texts[0].state_dict())
    pictures = drawn(loaded)
    assert pictures.isfinite().all()
    convert(tmp_path / "out", tmp_path / "one.safetensors", "ldm")
    single = pipeline.from_single_file(
        tmp_path / "one.safetensors", config=str(tmp_path / "out"), local_files_only=True
    )
    single.set_progress_bar_config(disable=True)
    assert torch.equal(drawn(single), pictures)


# -- what can go wrong -----------------------------------------------------------------------------


def test_a_full_disk_leaves_nothing_behind_and_the_old_file_as_it_was(
    on_disk: Get, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "one.safetensors"
    target.write_bytes(b"old")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(writing.os, "fsync", full)
    with pytest.raises(OutputError, match=r"one\.safetensors \(\d+ bytes\) in .*No space left"):
        convert(on_disk("sd15").single, target, "ldm")
    with pytest.raises(OutputError, match="No space left"):
        convert(on_disk("sd15").single, tmp_path / "folder", "diffusers")
    assert target.read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["one.safetensors"]


def test_what_cannot_fit_is_refused_before_it_is_written(
    on_disk: Get, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = writing.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(writing.shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(OutputError, match="1000 are free"):
        convert(on_disk("sd15").single, tmp_path / "one.safetensors", "ldm")
    assert not list(tmp_path.iterdir())


def test_a_failure_half_way_leaves_nothing_behind(
    on_disk: Get, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("safelight.checkpoints.write_folder.write_tokenizer", interrupted)
    with pytest.raises(KeyboardInterrupt):
        convert(on_disk("sd15").single, tmp_path / "folder", "diffusers")
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_not_empty_is_left_alone(on_disk: Get, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "letter.txt").write_text("dear")
    with pytest.raises(OutputError, match="not empty"):
        convert(on_disk("sd15").single, tmp_path / "folder", "diffusers")
    assert (tmp_path / "folder" / "letter.txt").read_text() == "dear"


def test_a_file_of_another_type_and_no_folder_are_refused(on_disk: Get, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"\.safetensors"):
        convert(on_disk("sd15").single, tmp_path / "one.ckpt", "ldm")
    (tmp_path / "file").write_bytes(b"mine")
    with pytest.raises(OutputError, match="cannot make the folder"):
        convert(on_disk("sd15").single, tmp_path / "file" / "one.safetensors", "ldm")


def test_an_upscaler_keeps_its_remarks_there_and_back(on_disk: Get, tmp_path: Path) -> None:
    from safelight.families import X4_UPSCALER

    model = load(on_disk("x4-upscaler").single)
    backbone = replace(model.network.unet.config, cross_only_levels=(0, 1, 2))
    assert without_idle_options(backbone) != backbone  # level 0 has no attention, as published
    family = replace(model.family, native_size=64, hint=X4_UPSCALER.hint)
    save(replace(model, family=family), tmp_path / "one.safetensors", "ldm")
    convert(tmp_path / "one.safetensors", tmp_path / "folder", "diffusers")
    convert(tmp_path / "folder", tmp_path / "back.safetensors", "ldm")
    assert load(tmp_path / "folder").family.native_size == 64
    one, back = tmp_path / "one.safetensors", tmp_path / "back.safetensors"
    assert one.read_bytes() == back.read_bytes()
    written = JsonObject(unet_to_json(backbone, sample_size=16), "unet")
    assert unet_to_json(unet_from_json(written), sample_size=16) == written.values


def test_a_model_with_a_tiny_autoencoder_has_no_place_in_a_single_file(
    on_disk: Get, tmp_path: Path
) -> None:
    from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny

    AutoencoderTiny().save_pretrained(tmp_path / "taesd")
    model = load(on_disk("sd15").single, vae=tmp_path / "taesd")
    with pytest.raises(RequestError, match="tiny autoencoder"):
        save(model, tmp_path / "one.safetensors", "ldm")
    save(model, tmp_path / "folder")
    assert load(tmp_path / "folder").family.codec == model.family.codec
