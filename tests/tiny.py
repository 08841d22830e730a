"""The families a thousand times smaller, written to disk as their publishers would.

Folders are written by Diffusers and Transformers themselves. Single files are made from those
weights by a translation of its own, name by name: it shares nothing with the rows in src/, which
it is there to check.
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from models_tiny import randomised

Json = dict[str, object]
State = dict[str, Tensor]

# -- configurations ----------------------------------------------------------------------------

_SD1: Json = {
    "in_channels": 4,
    "block_out_channels": [32, 64, 96, 96],
    "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
    "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
    "layers_per_block": 2,
    "attention_head_dim": 8,
    "cross_attention_dim": 64,
    "sample_size": 8,
}
_SD2: Json = {
    **_SD1,
    "attention_head_dim": [1, 1, 1, 1],
    "cross_attention_dim": 128,
    "use_linear_projection": True,
}
_SDXL: Json = {
    **_SD2,
    "block_out_channels": [32, 64, 96],
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    "attention_head_dim": [1, 1, 1],
    "cross_attention_dim": 192,
    "transformer_layers_per_block": [1, 1, 2],
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": 128 + 6 * 8,
}
_VAE: Json = {
    "block_out_channels": [32, 32, 64, 64],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "layers_per_block": 2,
    "latent_channels": 4,
    "scaling_factor": 0.18215,
}
_PNDM: Json = {
    "_class_name": "PNDMScheduler",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "skip_prk_steps": True,
    "set_alpha_to_one": False,
    "steps_offset": 1,
    "timestep_spacing": "leading",
}
_EULER: Json = {
    **{k: v for k, v in _PNDM.items() if k not in ("skip_prk_steps", "set_alpha_to_one")},
    "_class_name": "EulerDiscreteScheduler",
    "prediction_type": "epsilon",
}
_DDIM_V: Json = {
    **{k: v for k, v in _PNDM.items() if k != "skip_prk_steps"},
    "_class_name": "DDIMScheduler",
    "prediction_type": "v_prediction",
    "clip_sample": False,
}


@dataclass(frozen=True)
class Text:
    """A text encoder; `naming` is that of the original layout."""

    width: int
    layers: int
    activation: str
    naming: str  # "transformers" or "open_clip"
    prefix: str  # in a single file
    projected: bool = False


L = Text(64, 2, "quick_gelu", "transformers", "cond_stage_model.transformer.")
H = Text(128, 2, "gelu", "open_clip", "cond_stage_model.model.")
XL_L = Text(64, 2, "quick_gelu", "transformers", "conditioner.embedders.0.transformer.")
XL_G = Text(128, 3, "gelu", "open_clip", "conditioner.embedders.1.model.", projected=True)
REFINER_G = Text(128, 3, "gelu", "open_clip", "conditioner.embedders.0.model.", projected=True)


@dataclass(frozen=True)
class Tiny:
    """One family: its configs on Diffusers' side, and the pipeline that its folder names."""

    pipeline: str
    unet: Json
    texts: tuple[Text, ...] = (L,)
    vae: Json = field(default_factory=lambda: dict(_VAE))
    scheduler: Json = field(default_factory=lambda: dict(_PNDM))
    zeros: bool = False  # force_zeros_for_empty_prompt


_XL = Tiny(
    "StableDiffusionXLPipeline",
    _SDXL,
    (XL_L, XL_G),
    {**_VAE, "scaling_factor": 0.13025},
    _EULER,
    zeros=True,
)


def _xl(**changes: object) -> Tiny:
    return Tiny(_XL.pipeline, {**_SDXL, **changes}, _XL.texts, _XL.vae, _EULER, zeros=True)


FAMILIES: Mapping[str, Tiny] = {
    "sd15": Tiny("StableDiffusionPipeline", _SD1),
    "sd15-inpaint": Tiny("StableDiffusionInpaintPipeline", {**_SD1, "in_channels": 9}),
    "pix2pix": Tiny("StableDiffusionInstructPix2PixPipeline", {**_SD1, "in_channels": 8}),
    "small-sd": Tiny("StableDiffusionPipeline", {**_SD1, "layers_per_block": 1}),
    "tiny-sd": Tiny(
        "StableDiffusionPipeline",
        {
            **_SD1,
            "block_out_channels": [32, 64, 96],
            "down_block_types": ["CrossAttnDownBlock2D"] * 3,
            "up_block_types": ["CrossAttnUpBlock2D"] * 3,
            "layers_per_block": 1,
            "mid_block_type": None,
        },
    ),
    "sd2-base": Tiny("StableDiffusionPipeline", _SD2, (H,)),
    "sd2-v": Tiny("StableDiffusionPipeline", _SD2, (H,), scheduler=_DDIM_V),
    "sd2-inpaint": Tiny("StableDiffusionInpaintPipeline", {**_SD2, "in_channels": 9}, (H,)),
    "sd2-depth": Tiny("StableDiffusionDepth2ImgPipeline", {**_SD2, "in_channels": 5}, (H,)),
    "x4-upscaler": Tiny(
        "StableDiffusionUpscalePipeline",
        {
            **_SD2,
            "in_channels": 7,
            "down_block_types": ["DownBlock2D"] + ["CrossAttnDownBlock2D"] * 3,
            "up_block_types": ["CrossAttnUpBlock2D"] * 3 + ["UpBlock2D"],
            "attention_head_dim": 8,
            "only_cross_attention": [True, True, True, False],
            "num_class_embeds": 1000,
        },
        (H,),
        {
            **_VAE,
            "block_out_channels": [32, 32, 64],
            "down_block_types": ["DownEncoderBlock2D"] * 3,
            "up_block_types": ["UpDecoderBlock2D"] * 3,
            "scaling_factor": 0.08333,
        },
        {**_DDIM_V, "beta_start": 0.0001, "beta_end": 0.02},
    ),
    "sdxl": _XL,
    "sdxl-inpaint": _xl(in_channels=9),
    "sdxl-refiner": Tiny(
        "StableDiffusionXLImg2ImgPipeline",
        {
            **_SDXL,
            "block_out_channels": [32, 64, 96, 96],
            "down_block_types": ["DownBlock2D", *["CrossAttnDownBlock2D"] * 2, "DownBlock2D"],
            "up_block_types": ["UpBlock2D", *["CrossAttnUpBlock2D"] * 2, "UpBlock2D"],
            "attention_head_dim": [1, 1, 1, 1],
            "cross_attention_dim": 128,
            "transformer_layers_per_block": 2,
            "projection_class_embeddings_input_dim": 128 + 5 * 8,
        },
        (REFINER_G,),
        {**_VAE, "scaling_factor": 0.13025},
        _EULER,
    ),
    "ssd-1b": _xl(
        mid_block_type="UNetMidBlock2D",
        transformer_layers_per_block=[1, [1, 1], [2, 2]],
        reverse_transformer_layers_per_block=[[2, 2, 3], [2, 1, 1], 1],
    ),
    "vega": _xl(mid_block_type="UNetMidBlock2D"),
    "koala-700m": _xl(layers_per_block=1, mid_block_type=None),
    "koala-1b": _xl(layers_per_block=1),
}


# -- folders -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Oracle:
    """The parts of a family as Diffusers and Transformers build them, weights at random."""

    name: str
    unet: nn.Module
    vae: nn.Module
    texts: tuple[nn.Module, ...]

    @property
    def family(self) -> Tiny:
        return FAMILIES[self.name]


def oracle(name: str, seed: int = 0) -> Oracle:
    """Random weights for every part of a family."""
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    family = FAMILIES[name]
    texts = []
    for number, text in enumerate(family.texts):
        config = CLIPTextConfig(
            hidden_size=text.width,
            intermediate_size=2 * text.width,
            num_hidden_layers=text.layers,
            num_attention_heads=text.width // 64,
            hidden_act=text.activation,
            projection_dim=text.width,
            eos_token_id=2,  # as published: wrong, and harmless to a reader that knows
            bos_token_id=0,
        )
        model = (CLIPTextModelWithProjection if text.projected else CLIPTextModel)(config)
        texts.append(randomised(model, seed + 10 + number))
    return Oracle(
        name,
        randomised(UNet2DConditionModel(**family.unet), seed),
        randomised(AutoencoderKL(**family.vae), seed + 1),
        tuple(texts),
    )


def write_folder(made: Oracle, folder: Path, **options: object) -> Path:
    """The family as a Diffusers folder; options go to `save_pretrained`."""
    family = made.family
    made.unet.save_pretrained(folder / "unet", **options)
    made.vae.save_pretrained(folder / "vae", **options)
    index: Json = {
        "_class_name": family.pipeline,
        "_diffusers_version": "0.42.1",
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
        "scheduler": ["diffusers", family.scheduler["_class_name"]],
        "safety_checker": [None, None],
        "feature_extractor": [None, None],
    }
    if "XL" in family.pipeline:
        index["force_zeros_for_empty_prompt"] = family.zeros
    refiner = family.texts == (REFINER_G,)
    for number, (text, module) in enumerate(zip(family.texts, made.texts, strict=True)):
        end = "_2" if refiner or number else ""
        module.save_pretrained(folder / f"text_encoder{end}", **options)
        kind = "CLIPTextModelWithProjection" if text.projected else "CLIPTextModel"
        index[f"text_encoder{end}"] = ["transformers", kind]
        index[f"tokenizer{end}"] = ["transformers", "CLIPTokenizer"]
        pad = "<|endoftext|>" if text.naming == "transformers" else "!"
        write_json(folder / f"tokenizer{end}" / "tokenizer_config.json", {"pad_token": pad})
    if refiner:
        index |= {"text_encoder": [None, None], "tokenizer": [None, None]}
    write_json(folder / "scheduler" / "scheduler_config.json", family.scheduler)
    write_json(folder / "model_index.json", index)
    return folder


def write_json(path: Path, values: Mapping[str, object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values, indent=2))


# -- single files ------------------------------------------------------------------------------


def original_state(made: Oracle) -> State:
    """All weights of a family under the names of the original layout."""
    state: State = {}
    blocks = int(str(made.family.unet["layers_per_block"]))
    attention = _levels_with_attention(made.family.unet)
    for name, tensor in made.unet.state_dict().items():
        state[f"model.diffusion_model.{original_unet_name(name, blocks, attention)}"] = tensor
    levels = len(made.family.vae["block_out_channels"])  # type: ignore[arg-type]
    for name, tensor in made.vae.state_dict().items():
        theirs, conv = original_vae_name(name, levels)
        whole = tensor[:, :, None, None] if conv and tensor.ndim == 2 else tensor
        state[f"first_stage_model.{theirs}"] = whole.contiguous()
    for text, module in zip(made.family.texts, made.texts, strict=True):
        inner = {n.removeprefix("text_model."): t for n, t in module.state_dict().items()}
        named = open_clip_state(inner) if text.naming == "open_clip" else _hf_state(inner)
        state |= {text.prefix + name: tensor for name, tensor in named.items()}
    return state


def write_single(made: Oracle, path: Path, dtype: torch.dtype = torch.float32) -> Path:
    """The family as one safetensors file in the original layout."""
    state = {n: t.to(dtype).clone().contiguous() for n, t in original_state(made).items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(state, path)
    return path


def _levels_with_attention(unet: Json) -> list[bool]:
    types = unet["up_block_types"]
    assert isinstance(types, list)
    return ["CrossAttn" in kind for kind in types]


_RES = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_FLAT = {
    "conv_in.": "input_blocks.0.0.",
    "conv_norm_out.": "out.0.",
    "conv_out.": "out.2.",
    "time_embedding.linear_1.": "time_embed.0.",
    "time_embedding.linear_2.": "time_embed.2.",
    "add_embedding.linear_1.": "label_emb.0.0.",
    "add_embedding.linear_2.": "label_emb.0.2.",
    "class_embedding.weight": "label_emb.weight",
    "mid_block.resnets.0.": "middle_block.0.",
    "mid_block.attentions.0.": "middle_block.1.",
    "mid_block.resnets.1.": "middle_block.2.",
}


def original_unet_name(name: str, blocks: int, attention: list[bool]) -> str:
    """formats.md 3.2, applied to one name; `attention` by level on the way up."""
    step = blocks + 1
    rules: list[tuple[str, Callable[[int, int], str]]] = [
        (
            r"^down_blocks\.(\d+)\.resnets\.(\d+)\.",
            lambda i, j: f"input_blocks.{step * i + j + 1}.0.",
        ),
        (
            r"^down_blocks\.(\d+)\.attentions\.(\d+)\.",
            lambda i, j: f"input_blocks.{step * i + j + 1}.1.",
        ),
        (
            r"^down_blocks\.(\d+)\.downsamplers\.(\d+)\.conv\.",
            lambda i, j: f"input_blocks.{step * (i + 1)}.0.op.",
        ),
        (r"^up_blocks\.(\d+)\.resnets\.(\d+)\.", lambda i, j: f"output_blocks.{step * i + j}.0."),
        (
            r"^up_blocks\.(\d+)\.attentions\.(\d+)\.",
            lambda i, j: f"output_blocks.{step * i + j}.1.",
        ),
        (
            r"^up_blocks\.(\d+)\.upsamplers\.(\d+)\.conv\.",
            lambda i, j: f"output_blocks.{step * i + blocks}.{2 if attention[i] else 1}.conv.",
        ),
    ]
    resnet = ".resnets." in name
    for flat, original in _FLAT.items():
        if name.startswith(flat):
            name = original + name.removeprefix(flat)
    for pattern, original_of in rules:
        if found := re.match(pattern, name):
            name = original_of(int(found[1]), int(found[2])) + name[found.end() :]
    if resnet:
        for ours, theirs in _RES.items():
            name = name.replace(f".{ours}.", f".{theirs}.")
    return name


def original_vae_name(name: str, levels: int) -> tuple[str, bool]:
    """formats.md 3.3, applied to one name, and whether its weight is a 1x1 convolution there."""
    attention = "attentions" in name and "group_norm" not in name
    rules: list[tuple[str, str | Callable[[re.Match[str]], str]]] = [
        (r"^encoder\.down_blocks\.(\d+)\.resnets", r"encoder.down.\1.block"),
        (r"^encoder\.down_blocks\.(\d+)\.downsamplers\.0", r"encoder.down.\1.downsample"),
        (
            r"^decoder\.up_blocks\.(\d+)\.resnets",
            lambda m: f"decoder.up.{levels - 1 - int(m[1])}.block",
        ),
        (
            r"^decoder\.up_blocks\.(\d+)\.upsamplers\.0",
            lambda m: f"decoder.up.{levels - 1 - int(m[1])}.upsample",
        ),
        (r"mid_block\.resnets\.0", "mid.block_1"),
        (r"mid_block\.resnets\.1", "mid.block_2"),
        (r"mid_block\.attentions\.0\.group_norm", "mid.attn_1.norm"),
        (r"mid_block\.attentions\.0\.to_([qkv])", r"mid.attn_1.\1"),
        (r"mid_block\.attentions\.0\.to_out\.0", "mid.attn_1.proj_out"),
        (r"conv_shortcut", "nin_shortcut"),
        (r"conv_norm_out", "norm_out"),
    ]
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name, attention


def _hf_state(state: Mapping[str, Tensor]) -> State:
    """As a single file of 2022 holds them: with `text_model.` and the position ids."""
    length = state["embeddings.position_embedding.weight"].shape[0]
    ids = {"text_model.embeddings.position_ids": torch.arange(length)[None]}
    return {f"text_model.{n}": t for n, t in state.items()} | ids


def open_clip_state(state: Mapping[str, Tensor], *, whole: bool = False) -> State:
    """OpenCLIP's names for a text tower; `whole` adds what Stable Diffusion 2 files hold beside."""
    out: State = {
        "token_embedding.weight": state["embeddings.token_embedding.weight"],
        "positional_embedding": state["embeddings.position_embedding.weight"],
        "ln_final.weight": state["final_layer_norm.weight"],
        "ln_final.bias": state["final_layer_norm.bias"],
        "logit_scale": torch.tensor(4.6),
    }
    inner = {
        "layer_norm1": "ln_1",
        "layer_norm2": "ln_2",
        "self_attn.out_proj": "attn.out_proj",
        "mlp.fc1": "mlp.c_fc",
        "mlp.fc2": "mlp.c_proj",
    }
    layers = len({n.split(".")[2] for n in state if n.startswith("encoder.layers.")})
    for i in range(layers):
        ours, theirs = f"encoder.layers.{i}", f"transformer.resblocks.{i}"
        for kind in ("weight", "bias"):
            stacked = [state[f"{ours}.self_attn.{x}_proj.{kind}"] for x in "qkv"]
            out[f"{theirs}.attn.in_proj_{kind}"] = torch.cat(stacked)
            for a, b in inner.items():
                out[f"{theirs}.{b}.{kind}"] = state[f"{ours}.{a}.{kind}"]
    if "text_projection.weight" in state:
        out["text_projection"] = state["text_projection.weight"].T.contiguous()
    if whole:
        last = f"transformer.resblocks.{layers - 1}."
        extra = {
            n.replace(last, f"transformer.resblocks.{layers}."): t.clone()
            for n, t in out.items()
            if n.startswith(last)
        }
        width = out["ln_final.bias"].shape[0]
        out |= extra | {"text_projection": torch.eye(width)}
    return out
