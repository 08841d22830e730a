"""The JSON files of autoencoders and text encoders in a Diffusers folder, both ways."""

from dataclasses import dataclass

from safelight.checkpoints.json_object import LAYERS, Json, JsonObject, naming
from safelight.errors import CheckpointError
from safelight.models.autoencoder import AutoencoderConfig, CodecConfig, PerChannel
from safelight.models.clip import ClipTextConfig
from safelight.models.taesd import TinyAutoencoderConfig
from safelight.printable import shown
from safelight.text.vocabulary import CLIP_VOCABULARY

_FIXED_VAE: Json = {"act_fn": "silu"}
_FIXED_TINY: Json = {
    "act_fn": "relu",
    "latent_magnitude": 3,
    "latent_shift": 0.5,
    "upsampling_scaling_factor": 2,
    "upsample_fn": "nearest",
}


@dataclass(frozen=True, slots=True)
class VaeJson:
    """An autoencoder's config; scale and shift are None where the file does not say."""

    config: AutoencoderConfig | TinyAutoencoderConfig
    scale: PerChannel | None
    shift: PerChannel | None


def vae_from_json(json: JsonObject) -> VaeJson:
    """What is in the config.json of an `AutoencoderKL` or an `AutoencoderTiny`.

    Raises CheckpointError for other classes and for options that our modules do not have.
    """
    kind = json.text("_class_name", "AutoencoderKL")
    if kind == "AutoencoderTiny":
        return VaeJson(_tiny(json), 1.0, 0.0)
    if kind != "AutoencoderKL":
        raise CheckpointError(
            f"{json.source}: {shown(kind)} is not supported; AutoencoderKL and AutoencoderTiny are"
        )
    json.require(_FIXED_VAE, "the autoencoder")
    widths = json.wholes("block_out_channels")
    for name, block in (
        ("down_block_types", "DownEncoderBlock2D"),
        ("up_block_types", "UpDecoderBlock2D"),
    ):
        if json.has(name) and set(json.texts(name)) != {block}:
            raise CheckpointError(
                f"{json.source}: {name} are {shown(json.values[name])}; only {block} is supported"
            )
    with naming(json):
        config = AutoencoderConfig(
            in_channels=json.whole("in_channels", 3),
            out_channels=json.whole("out_channels", 3),
            latent_channels=json.whole("latent_channels", 4),
            widths=widths,
            layers=json.whole("layers_per_block", 1, most=LAYERS),
            groups=json.whole("norm_num_groups", 32),
            mid_attention=json.flag("mid_block_add_attention", True),
            quant_conv=json.flag("use_quant_conv", True),
            post_quant_conv=json.flag("use_post_quant_conv", True),
        )
    return VaeJson(config, *_scale_and_shift(json))


def _scale_and_shift(json: JsonObject) -> tuple[PerChannel | None, PerChannel | None]:
    scale = json.number("scaling_factor") if json.has("scaling_factor") else None
    if scale == 0:
        raise CheckpointError(f"{json.source}: scaling_factor is 0; latents are divided by it")
    if json.has("latents_mean") and json.has("latents_std"):
        factor = 1.0 if scale is None else scale
        std = json.numbers("latents_std")
        if not std or min(std) <= 0:
            raise CheckpointError(f"{json.source}: latents_std must be numbers greater than 0")
        return tuple(factor / s for s in std), json.numbers("latents_mean")
    shift = json.number("shift_factor") if json.has("shift_factor") else None
    return scale, shift if scale is None else (shift or 0.0)


def _tiny(json: JsonObject) -> TinyAutoencoderConfig:
    json.require(_FIXED_TINY, "the tiny autoencoder")
    json.require({"scaling_factor": 1.0, "shift_factor": 0.0}, "the tiny autoencoder")
    widths = set(json.wholes("encoder_block_out_channels")) | set(
        json.wholes("decoder_block_out_channels")
    )
    encoder = json.wholes("num_encoder_blocks", most=LAYERS)
    if len(widths) != 1 or encoder != json.wholes("num_decoder_blocks")[::-1]:
        raise CheckpointError(
            f"{json.source}: a tiny autoencoder must have one width, and a decoder that mirrors "
            "its encoder"
        )
    return TinyAutoencoderConfig(
        in_channels=json.whole("in_channels", 3),
        out_channels=json.whole("out_channels", 3),
        latent_channels=json.whole("latent_channels", 4),
        width=widths.pop(),
        blocks=encoder,
    )


def vae_to_json(codec: CodecConfig, *, native_size: int) -> dict[str, object]:
    """The config.json from which Diffusers builds the same autoencoder."""
    config = codec.autoencoder
    if isinstance(config, TinyAutoencoderConfig):
        return _tiny_to_json(config)
    assert isinstance(config, AutoencoderConfig)
    values: dict[str, object] = {
        "_class_name": "AutoencoderKL",
        **_FIXED_VAE,
        "in_channels": config.in_channels,
        "out_channels": config.out_channels,
        "latent_channels": config.latent_channels,
        "block_out_channels": list(config.widths),
        "down_block_types": ["DownEncoderBlock2D"] * len(config.widths),
        "up_block_types": ["UpDecoderBlock2D"] * len(config.widths),
        "layers_per_block": config.layers,
        "norm_num_groups": config.groups,
        "mid_block_add_attention": config.mid_attention,
        "use_quant_conv": config.quant_conv,
        "use_post_quant_conv": config.post_quant_conv,
        "sample_size": native_size,
        "force_upcast": True,
    }
    if isinstance(codec.scale, tuple) or isinstance(codec.shift, tuple):
        count = config.latent_channels
        scale = codec.scale if isinstance(codec.scale, tuple) else (codec.scale,) * count
        shift = codec.shift if isinstance(codec.shift, tuple) else (codec.shift,) * count
        # Any factor says the same; 0.5 is Playground's, whose deviations then read as published.
        values |= {
            "scaling_factor": 0.5,
            "latents_mean": list(shift),
            "latents_std": [0.5 / s for s in scale],
        }
        return values
    return values | {"scaling_factor": codec.scale, "shift_factor": codec.shift or None}


def _tiny_to_json(config: TinyAutoencoderConfig) -> dict[str, object]:
    widths = [config.width] * len(config.blocks)
    return {
        "_class_name": "AutoencoderTiny",
        **_FIXED_TINY,
        "in_channels": config.in_channels,
        "out_channels": config.out_channels,
        "latent_channels": config.latent_channels,
        "encoder_block_out_channels": widths,
        "decoder_block_out_channels": widths,
        "num_encoder_blocks": list(config.blocks),
        "num_decoder_blocks": list(config.blocks[::-1]),
        "block_out_channels": widths,
        "scaling_factor": 1.0,
        "shift_factor": 0.0,
        "force_upcast": False,
    }


def clip_from_json(json: JsonObject, *, projected: bool) -> ClipTextConfig:
    """What is in the config.json of a `CLIPTextModel`, with projection or without.

    Raises CheckpointError for settings that our text tower does not have.
    """
    activation = json.text("hidden_act", "quick_gelu")
    if activation not in ("quick_gelu", "gelu"):
        raise CheckpointError(
            f"{json.source}: hidden_act is {shown(activation)}; expected quick_gelu or gelu"
        )
    json.require({"layer_norm_eps": 1e-5}, "the text encoder")
    width = json.whole("hidden_size", 512)
    return ClipTextConfig(
        layers=json.whole("num_hidden_layers", 12, most=LAYERS),
        width=width,
        heads=json.whole("num_attention_heads", 8),
        mlp_width=json.whole("intermediate_size", 2048),
        activation="gelu" if activation == "gelu" else "quick_gelu",
        projection=json.whole("projection_dim", 512) if projected else None,
        vocabulary=json.whole("vocab_size", CLIP_VOCABULARY.size),
        context=json.whole("max_position_embeddings", 77),
        eos_id=_eos(json),
    )


def _eos(json: JsonObject) -> int:
    """The end of text: the last token of a vocabulary, behind which CLIP's may have rows added.

    eos_token_id is 2 in the published files, which no text contains.
    """
    rows = json.whole("vocab_size", CLIP_VOCABULARY.size)
    last = json.whole("eos_token_id", CLIP_VOCABULARY.eos) == rows - 1
    return rows - 1 if last else end_of_text(rows)


def end_of_text(rows: int) -> int:
    """The end of text of an encoder with so many rows, of which nothing else is known."""
    return min(rows - 1, CLIP_VOCABULARY.eos)


def is_projected(json: JsonObject) -> bool:
    """Whether a text encoder says that it was saved with the matrix to compare it with pictures."""
    kinds = json.values.get("architectures")
    return isinstance(kinds, list) and "CLIPTextModelWithProjection" in kinds


def clip_to_json(config: ClipTextConfig) -> dict[str, object]:
    """The config.json from which Transformers builds the same text encoder."""
    projected = config.projection is not None
    return {
        "architectures": ["CLIPTextModelWithProjection" if projected else "CLIPTextModel"],
        "model_type": "clip_text_model",
        "hidden_size": config.width,
        "intermediate_size": config.mlp_width,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "hidden_act": config.activation,
        "projection_dim": config.projection if projected else config.width,
        "vocab_size": config.vocabulary,
        "max_position_embeddings": config.context,
        "layer_norm_eps": 1e-5,
        "bos_token_id": config.eos_id - 1,
        "eos_token_id": config.eos_id,
        "pad_token_id": config.eos_id,
        "attention_dropout": 0.0,
    }
