"""What a run came to, as folders that Safelight and others open."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch

from safelight.checkpoints.keymap import Row
from safelight.checkpoints.model_json import clip_to_json, vae_to_json
from safelight.checkpoints.stock import entries, stock_of_module
from safelight.checkpoints.tokenizer_files import write_tokenizer
from safelight.checkpoints.vae_file import STEM
from safelight.checkpoints.vision_json import PREPROCESSOR, preprocessor_to_json, vision_to_json
from safelight.checkpoints.writing import Entry, write_json, write_safetensors, write_shards
from safelight.models.autoencoder import Autoencoder, Codec
from safelight.models.clip import ClipText, ClipVision
from safelight.models.taesd import TinyAutoencoder
from safelight.models.vector_quantiser import VqAutoencoder
from safelight.text.vocabulary import Vocabulary
from safelight.writing import make_folder, whole_folder, write_text

DTYPES: dict[str, torch.dtype] = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}
_AS_IT_IS = (Row("", ""),)


def write_codec(path: Path, codec: Codec, size: int, dtype: torch.dtype) -> list[Path]:
    """A KL autoencoder as a folder of Diffusers, that `--vae` and `model.autoencoder` take.

    Raises RequestError for weights that do not fit the type, OutputError.
    """
    coder = codec.autoencoder
    assert isinstance(coder, Autoencoder)
    written = entries(stock_of_module("vae", coder.config, coder), _AS_IT_IS, dtype=dtype)
    make_folder(path.parent)
    with whole_folder(path, sum(entry.nbytes for entry in written)) as folder:
        write_shards(folder, STEM, written, {"format": "pt"}, None)
        write_json(folder / "config.json", vae_to_json(codec.config, native_size=size))
    return [path]


def write_tiny_decoder(
    path: Path, tiny: TinyAutoencoder, dtype: torch.dtype, about: Mapping[str, str]
) -> list[Path]:
    """A tiny decoder as the file in which TAESD's is published, that `--vae` takes.

    Raises as `write_codec`.
    """
    made = entries(stock_of_module("vae", tiny.config, tiny), _AS_IT_IS, dtype=dtype)
    # The published decoder is a sequence whose first layer bends the latents and has no weights.
    numbered = [
        replace(entry, name=f"{int(number) + 1}.{rest}")
        for entry in made
        for number, _, rest in [entry.name.removeprefix("decoder.layers.").partition(".")]
    ]
    make_folder(path.parent)
    write_safetensors(path, numbered, {"format": "pt", **about})
    return [path]


def write_vq(path: Path, coder: VqAutoencoder, size: int, dtype: torch.dtype) -> list[Path]:
    """A VQ autoencoder as a folder that Diffusers' `VQModel` opens. Raises as `write_codec`."""
    shape = coder.config
    levels = len(shape.widths)
    told = {
        "_class_name": "VQModel",
        "act_fn": "silu",
        "in_channels": shape.in_channels,
        "out_channels": shape.out_channels,
        "latent_channels": shape.networks.latent_channels,
        "vq_embed_dim": shape.latent_channels,
        "num_vq_embeddings": shape.codes,
        "block_out_channels": list(shape.widths),
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        "layers_per_block": shape.layers,
        "norm_num_groups": shape.groups,
        "norm_type": "group",
        "mid_block_add_attention": shape.mid_attention,
        "sample_size": size,
        "scaling_factor": 1.0,
    }
    written = [
        Entry(name, tuple(tensor.shape), dtype, lambda tensor=tensor: tensor.to(dtype))  # type: ignore[misc]
        for name, tensor in coder.state_dict().items()
        if not name.startswith("quantize.averages.")  # how the codebook learned
    ]
    make_folder(path.parent)
    with whole_folder(path, sum(entry.nbytes for entry in written)) as folder:
        write_safetensors(folder / f"{STEM}.safetensors", written, {"format": "pt"})
        write_text(folder / "config.json", json.dumps(told, indent=2) + "\n")
    return [path]


def write_clip(
    path: Path,
    text: ClipText,
    vision: ClipVision,
    vocabulary: Vocabulary,
    dtype: torch.dtype,
    *,
    logit_scale: float,
) -> list[Path]:
    """Both towers and the tokenizer, in the folders that a model of Diffusers has them in.

    logit_scale, the logarithm of the factor on cosines, stands in the vision tower's config.
    Raises as `write_codec`.
    """
    towers = {
        "text_encoder": entries(
            stock_of_module("text_encoder", text.config, text), _AS_IT_IS, dtype=dtype
        ),
        "image_encoder": entries(
            stock_of_module("image_encoder", vision.config, vision), _AS_IT_IS, dtype=dtype
        ),
    }
    configs = {
        "text_encoder": clip_to_json(text.config),
        "image_encoder": {**vision_to_json(vision.config), "logit_scale": logit_scale},
    }
    make_folder(path.parent)
    size = sum(entry.nbytes for tower in towers.values() for entry in tower)
    with whole_folder(path, size) as folder:
        for name, written in towers.items():
            (folder / name).mkdir()
            write_shards(folder / name, "model", written, {"format": "pt"}, None)
            write_json(folder / name / "config.json", configs[name])
        write_json(folder / "image_encoder" / PREPROCESSOR, preprocessor_to_json(vision.config))
        write_tokenizer(folder / "tokenizer", vocabulary, pad=None)
    return [path / "text_encoder", path / "image_encoder", path / "tokenizer"]
