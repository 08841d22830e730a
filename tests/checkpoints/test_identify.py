"""A file is told from its names and shapes; what is guessed is said to be a guess."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import tiny
from on_disk import EVERY_FAMILY, OnDisk
from safelight.checkpoints.keymap import Shape
from safelight.checkpoints.kinds import Kind, kind_of, made_for
from safelight.checkpoints.load import open_checkpoint
from safelight.errors import CheckpointError, RequestError

Get = Callable[[str], OnDisk]

DOWN = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k.lora_down.weight"
KINDS: list[tuple[Kind, dict[str, Shape], str]] = [
    ("lora", {DOWN: (8, 768), DOWN.replace("down.w", "up.w"): (320, 8)}, "SD 1.x"),
    ("lora", {"unet.down_blocks.1.attentions.0.attn2.to_k.lora_A.weight": (4, 2048)}, "SDXL"),
    ("lora", {"unet.mid.attn2.processor.to_k_lora.down.weight": (4, 1024)}, "SD 2.x"),
    ("lora", {"lora_unet_mid_block_attentions_0_proj_in.hada_w1_a": (320, 4)}, ""),
    ("lora", {"lora_unet_mid_block_attentions_0_proj_in.lokr_w1": (4, 4)}, ""),
    (
        "controlnet",
        {
            "control_model.input_hint_block.0.weight": (16, 3, 3, 3),
            "control_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight": (320, 768),
        },
        "SD 1.x",
    ),
    ("controlnet", {"controlnet_cond_embedding.conv_in.weight": (16, 3, 3, 3)}, ""),
    ("t2i adapter", {"body.0.block1.weight": (320, 320, 3, 3), "conv_in.bias": (320,)}, ""),
    (
        "ip adapter",
        {"image_proj.norm.bias": (768,), "ip_adapter.1.to_k_ip.weight": (320, 768)},
        "",
    ),
    ("textual inversion", {"emb_params": (4, 768)}, "SD 1.x"),
    ("textual inversion", {"clip_l": (2, 768), "clip_g": (2, 1280)}, "SDXL"),
    ("textual inversion", {"string_to_param.*": (1, 1024)}, "SD 2.x"),
    ("textual inversion", {"<cat>": (768,)}, "SD 1.x"),
    ("vision encoder", {"vision_model.embeddings.class_embedding": (1024,)}, ""),
    ("text encoder", {"text_model.embeddings.token_embedding.weight": (49408, 768)}, ""),
    ("upscaler", {"model.0.weight": (64, 3, 3, 3), "model.1.sub.0.RDB1.bias": (64,)}, ""),
    ("upscaler", {"params_ema.conv_first.weight": (64, 3, 3, 3)}, ""),
    ("upscaler", {"params.body.0.weight": (64, 3, 3, 3), "params.body.1.weight": (64,)}, ""),
    ("other model", {"model.diffusion_model.joint_blocks.0.x_block.mlp.fc1.bias": (6144,)}, ""),
    ("other model", {"double_blocks.0.img_attn.qkv.weight": (9216, 3072)}, ""),
    (
        "motion module",
        {"down_blocks.0.motion_modules.0.temporal_transformer.norm.bias": (320,)},
        "",
    ),
    ("unknown", {"some.weight": (5, 7), "other.bias": (5, 3, 3)}, ""),
]


@pytest.mark.parametrize(
    ("kind", "shapes", "fits"), KINDS, ids=lambda v: v if isinstance(v, str) else ""
)
def test_a_file_is_known_by_its_names(kind: Kind, shapes: dict[str, Shape], fits: str) -> None:
    found = kind_of(shapes)
    assert found.kind == kind, found
    assert found.evidence
    assert fits in made_for(shapes)


@pytest.mark.parametrize("name", ["sd15", "sd2-v", "sdxl", "sdxl-refiner", "x4-upscaler"])
def test_parts_of_a_model_are_known_in_both_layouts(name: str, on_disk: Get) -> None:
    single = {n: tuple(t.shape) for n, t in load_file(on_disk(name).single).items()}
    assert kind_of(single).kind == "model"
    for prefix, kind in (("model.diffusion_model.", "unet"), ("first_stage_model.", "vae")):
        part = {n.removeprefix(prefix): s for n, s in single.items() if n.startswith(prefix)}
        assert kind_of(part).kind == kind
        assert kind_of({prefix + n: s for n, s in part.items()}).kind in ("model", "vae")
    made = on_disk(name).made
    for module, kind in ((made.unet, "unet"), (made.vae, "vae"), (made.texts[0], "text encoder")):
        shapes = {n: tuple(t.shape) for n, t in module.state_dict().items()}
        assert kind_of(shapes).kind == kind


@EVERY_FAMILY
def test_folder_and_single_file_are_the_same_family(name: str, on_disk: Get) -> None:
    files = on_disk(name)
    with open_checkpoint(files.folder) as folder, open_checkpoint(files.single) as single:
        assert folder.family.backbone == single.family.backbone
        assert folder.family.text == single.family.text
        assert folder.family.codec == single.family.codec
        assert folder.family.task == single.family.task
        assert folder.family.name == single.family.name
        assert single.identity.reason in str(single.identity)
        assert f"{single.family.backbone.in_channels} input channels" in single.identity.reason


def marked(source: Path, target: Path, **marks: torch.Tensor) -> Path:
    save_file(load_file(source) | marks, target)
    return target


def test_the_mark_v_pred_decides(on_disk: Get, tmp_path: Path) -> None:
    path = marked(on_disk("sdxl").single, tmp_path / "v.safetensors", v_pred=torch.empty(0))
    with open_checkpoint(path) as found:
        assert found.family.process.prediction == "v"
        assert not found.family.process.zero_terminal_snr
        assert "v_pred" in found.identity.prediction_reason
        assert not found.identity.notes
        assert not found.unknown
    path = marked(path, tmp_path / "z.safetensors", ztsnr=torch.empty(0))
    with open_checkpoint(path) as found:
        assert found.family.process.zero_terminal_snr


def test_playground_is_known_by_its_mean(on_disk: Get, tmp_path: Path) -> None:
    marks = {"edm_mean": torch.zeros(4), "edm_std": torch.ones(4)}
    path = marked(on_disk("sdxl").single, tmp_path / "p.safetensors", **marks)
    with open_checkpoint(path) as found:
        assert (found.family.process.kind, found.family.process.prediction) == ("edm", "edm")


def test_cosxl_is_known_by_its_highest_sigma(on_disk: Get, tmp_path: Path) -> None:
    marks = {"edm_vpred.sigma_max": torch.tensor(120.0), "edm_vpred.sigma_min": torch.tensor(0.002)}
    path = marked(on_disk("sdxl").single, tmp_path / "c.safetensors", **marks)
    with open_checkpoint(path) as found:
        process = found.family.process
        assert (process.kind, process.prediction, process.sigma_max) == ("edm", "v", 120.0)


@pytest.mark.parametrize(
    ("line", "prediction"),
    [
        ('    parameterization: "v"', "v"),
        ("    parameterization: v  # velocity", "v"),
        ("    parameterization: 'eps'", "eps"),
        ("    # parameterization: v", None),
        ("    parameterization: !!python/object/apply:os.system ['true']", None),
    ],
)
def test_a_yaml_beside_the_file_decides(
    line: str, prediction: str | None, on_disk: Get, tmp_path: Path
) -> None:
    path = tmp_path / "model.safetensors"
    path.symlink_to(on_disk("sdxl").single)
    (tmp_path / "model.yaml").write_text(f"model:\n  params:\n{line}\n    timesteps: 1000\n")
    with open_checkpoint(path) as found:
        assert found.family.process.prediction == (prediction or "eps")
        assert ("yaml" in found.identity.prediction_reason) == (prediction is not None)


def test_metadata_decides(on_disk: Get, tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    save_file(load_file(on_disk("sdxl").single), path, {"modelspec.prediction_type": "v"})
    with open_checkpoint(path) as found:
        assert found.family.process.prediction == "v"
        assert "metadata" in found.identity.prediction_reason


TELLTALE = "model.diffusion_model.output_blocks.11.1.transformer_blocks.0.norm1.bias"


@pytest.mark.parametrize(("deviation", "prediction"), [(0.05, "eps"), (0.15, "v")])
def test_sd2_without_a_word_is_guessed_by_a_norm_and_says_so(
    deviation: float, prediction: str, on_disk: Get, tmp_path: Path
) -> None:
    state = load_file(on_disk("sd2-base").single)
    bias = torch.linspace(-1, 1, state[TELLTALE].numel())
    state[TELLTALE] = bias * deviation / bias.std(correction=0)
    save_file(state, tmp_path / "sd2.safetensors")
    with open_checkpoint(tmp_path / "sd2.safetensors") as found:
        assert found.family.process.prediction == prediction
        [note] = found.identity.notes
        assert "guess" in note
        assert f"{deviation:.3f}" in note
    with open_checkpoint(tmp_path / "sd2.safetensors", prediction="v") as found:
        assert found.family.process.prediction == "v"
        assert found.identity.prediction_reason == "asked for"
        assert not found.identity.notes


def test_what_the_user_asks_for_wins_over_the_file(on_disk: Get, tmp_path: Path) -> None:
    marks = {"v_pred": torch.empty(0), "ztsnr": torch.empty(0)}
    path = marked(on_disk("sdxl").single, tmp_path / "v.safetensors", **marks)
    with open_checkpoint(path, prediction="epsilon") as found:
        assert found.family.process.prediction == "eps"
        assert not found.family.process.zero_terminal_snr
    with open_checkpoint(path, zero_terminal_snr=False) as found:
        assert found.family.process.prediction == "v"
        assert not found.family.process.zero_terminal_snr
    with pytest.raises(RequestError, match="prediction"):
        open_checkpoint(path, prediction="noise")


SCHEDULERS = [
    ({"prediction_type": "v_prediction", "rescale_betas_zero_snr": True}, "v", True),
    ({"prediction_type": "sample"}, "x0", False),
    ({}, "eps", False),
]


@pytest.mark.parametrize(("changes", "prediction", "zero"), SCHEDULERS)
def test_the_scheduler_of_a_folder_decides(
    changes: tiny.Json, prediction: str, zero: bool, on_disk: Get, tmp_path: Path
) -> None:
    folder = linked(on_disk("sdxl").folder, tmp_path / "model", "scheduler")
    scheduler = {k: v for k, v in tiny.FAMILIES["sdxl"].scheduler.items() if k != "prediction_type"}
    tiny.write_json(folder / "scheduler" / "scheduler_config.json", {**scheduler, **changes})
    with open_checkpoint(folder) as found:
        assert found.family.process.prediction == prediction
        assert found.family.process.zero_terminal_snr == zero


def test_a_turbo_folder_is_known_by_its_scheduler(on_disk: Get, tmp_path: Path) -> None:
    folder = linked(on_disk("sdxl").folder, tmp_path / "turbo", "scheduler")
    scheduler = {
        **tiny.FAMILIES["sdxl"].scheduler,
        "_class_name": "EulerAncestralDiscreteScheduler",
        "timestep_spacing": "trailing",
    }
    tiny.write_json(folder / "scheduler" / "scheduler_config.json", scheduler)
    with open_checkpoint(folder) as found:
        hint = found.family.hint
        assert (hint.sampler, hint.schedule, hint.guidance_scale) == (
            "euler_ancestral",
            "trailing",
            1.0,
        )


@pytest.mark.parametrize(
    ("entry", "value"),
    [
        ("transformer", ["diffusers", "SD3Transformer2DModel"]),
        ("unet", ["diffusers", "UNet3DConditionModel"]),
        ("vae", ["diffusers", "VQModel"]),
        ("text_encoder", ["transformers", "T5EncoderModel"]),
        ("unet", [None, None]),
    ],
)
def test_a_folder_of_another_kind_is_refused_by_the_class_it_names(
    entry: str, value: list[str | None], on_disk: Get, tmp_path: Path
) -> None:
    folder = linked(on_disk("sd15").folder, tmp_path / "model", "model_index.json")
    index: tiny.Json = {
        "_class_name": "SomePipeline",
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
        "text_encoder": ["transformers", "CLIPTextModel"],
    }
    tiny.write_json(folder / "model_index.json", {**index, entry: value})
    with pytest.raises(CheckpointError, match=value[1] or "no U-Net"):
        open_checkpoint(folder)


def test_a_tokenizer_with_another_vocabulary_is_refused(on_disk: Get, tmp_path: Path) -> None:
    folder = linked(on_disk("sd15").folder, tmp_path / "model", "tokenizer")
    tiny.write_json(folder / "tokenizer" / "vocab.json", {"a": 0, "b": 1})
    with pytest.raises(CheckpointError, match="2 tokens; expected CLIP's 49408"):
        open_checkpoint(folder)


def linked(source: Path, target: Path, without: str) -> Path:
    """A copy of a folder by links, but for one entry."""
    target.mkdir()
    for entry in source.iterdir():
        if entry.name != without:
            (target / entry.name).symlink_to(entry)
    return target


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("pix2pix", "in the manner of InstructPix2Pix"),
        ("sd15-inpaint", "in the manner of Stable Diffusion 1.x inpainting"),
        ("sd15", "in the manner of Stable Diffusion 1.x"),
    ],
)
def test_a_model_of_its_own_shape_is_called_after_the_family_of_its_task(
    name: str, label: str, on_disk: Get
) -> None:
    with open_checkpoint(on_disk(name).single) as found:
        assert found.family.label.endswith(label)
        assert found.family.name == f"custom-{name}"


@pytest.mark.parametrize(
    ("names", "said"), [(["a"], "a short list of"), (["a", "b"], "2 short lists of")]
)
def test_lists_of_token_vectors_are_counted_in_words(names: list[str], said: str) -> None:
    assert said in kind_of(dict.fromkeys(names, (2, 768))).evidence
