"""Tiny Diffusers pipelines with every weight at random, saved as folders for ours to load."""

from functools import cache
from pathlib import Path

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from torch import Tensor
from transformers.models.clip.configuration_clip import CLIPTextConfig
from transformers.models.clip.modeling_clip import CLIPTextModel, CLIPTextModelWithProjection

from models_tiny import randomised
from safelight.condition import Condition
from safelight.diffusion.denoiser import Denoise
from safelight.diffusion.noise import Noise
from safelight.diffusion.process import Start, start
from safelight.diffusion.samplers import resolve_sampler
from safelight.engines.sentinel import Sentinel
from safelight.model import Model
from safelight.tasks.generate import settled
from safelight.tasks.plan import plan
from safelight.tasks.request import Request
from safelight.text.spec import Size
from text_oracles import transformers_tokenizer
from unet_published import FAMILIES, tiny_json

WIDTHS = {1: (64,), 2: (64,), "xl": (64, 128), "refiner": (128,)}
PROMPT, NEGATIVE = "a red apple on a blue table, oil painting", "blurry"
BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


@cache  # nothing changes its weights, and its vocabulary takes a while to fill
def text_model(
    width: int, *, layers: int = 3, gelu: bool = False, projection: int | None = None, seed: int = 0
) -> CLIPTextModel | CLIPTextModelWithProjection:
    """A CLIP text model of heads of 64, on the whole vocabulary."""
    config = CLIPTextConfig(
        vocab_size=49408,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=layers,
        num_attention_heads=width // 64,
        hidden_act="gelu" if gelu else "quick_gelu",
        projection_dim=projection or 512,
        max_position_embeddings=77,
        bos_token_id=49406,
        eos_token_id=49407,
        pad_token_id=0 if gelu else 49407,
    )
    model = CLIPTextModel(config) if projection is None else CLIPTextModelWithProjection(config)
    return randomised(model, seed)


def unet(name: str, context: int, vector: int | None = None) -> UNet2DConditionModel:
    json = dict(tiny_json(FAMILIES[name].theirs))
    json |= {"cross_attention_dim": context, "sample_size": 8}
    if vector is not None:
        json["addition_time_embed_dim"] = 8
        json["projection_class_embeddings_input_dim"] = vector
    return randomised(UNet2DConditionModel(**json), 1)


def vae(levels: int = 4, scale: float = 0.18215, **options: object) -> AutoencoderKL:
    return randomised(
        AutoencoderKL(
            block_out_channels=(8, 16, 16, 16)[:levels],
            down_block_types=["DownEncoderBlock2D"] * levels,
            up_block_types=["UpDecoderBlock2D"] * levels,
            layers_per_block=2,
            latent_channels=4,
            norm_num_groups=4,
            scaling_factor=scale,
            **options,
        ),
        2,
    )


def scheduler(prediction: str = "epsilon") -> DDIMScheduler:
    return DDIMScheduler(
        **BETAS,
        prediction_type=prediction,
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )


@cache
def tokenizer(pad: str | None = None):
    made = transformers_tokenizer()
    made.model_max_length = 77
    if pad is not None:
        made.pad_token = pad
    return made


def sd_parts(family: str) -> dict[str, object]:
    """The parts of an SD 1.x or 2.x pipeline of one tiny family."""
    second = family.startswith("sd2")
    clip = text_model(64, gelu=second)
    return {
        "vae": vae(),
        "text_encoder": clip,
        "tokenizer": tokenizer("!" if second else "<|endoftext|>"),
        "unet": unet(family, 64),
        "scheduler": scheduler("v_prediction" if family == "sd2-v" else "epsilon"),
        "safety_checker": None,
        "feature_extractor": None,
        "requires_safety_checker": False,
    }


def xl_parts(family: str = "sdxl") -> dict[str, object]:
    """The parts of an SDXL pipeline, with the U-Net of one tiny family."""
    return {
        "vae": vae(scale=0.13025),
        "text_encoder": text_model(64, seed=3),
        "text_encoder_2": text_model(128, gelu=True, projection=40, seed=4),
        "tokenizer": tokenizer("<|endoftext|>"),
        "tokenizer_2": tokenizer("!"),
        "unet": unet(family, 192, 40 + 6 * 8),
        "scheduler": scheduler(),
        "force_zeros_for_empty_prompt": True,
    }


def save(pipeline: object, folder: Path) -> Path:
    pipeline.save_pretrained(folder, safe_serialization=True)  # type: ignore[attr-defined]
    return folder


def quiet(pipeline: object) -> object:
    pipeline.set_progress_bar_config(disable=True)  # type: ignore[attr-defined]
    return pipeline


def generator(seed: int) -> torch.Generator:
    return torch.Generator("cpu").manual_seed(seed)


# For DPM adaptive: a network of weights at random is never smooth, and takes a thousand steps else.
HASTE = {"rtol": 50.0, "atol": 50.0, "h_init": 1.0}

# -- ours, from the library's public pieces -----------------------------------------------------


def settings(**changes: object) -> Request:
    """A small request on which both sides agree about the first noise."""
    asked = {
        "prompt": PROMPT,
        "negative_prompt": NEGATIVE,
        "width": 64,
        "height": 64,
        "steps": 10,
        "seed": 5,
        "sampler": "Euler",
        "schedule": "normal",
        "start": "diffusers",
    }
    return Request.parse(asked | changes)


def drawn_latents(model: Model, request: Request) -> Tensor:
    """What the sampler of a request ends on."""
    with torch.no_grad():
        return list(plan(model, settled(request, model), Sentinel()).steps())[-1].x


def told(model: Model, size: Size | None = None) -> tuple[Condition, Condition]:
    """The conditions of `PROMPT` and of `NEGATIVE`."""
    positive = model.text.condition(PROMPT, size=size)
    return positive, model.text.condition(NEGATIVE, size=size, negative=True)


def sampled(
    model: Model,
    denoise: Denoise,
    sigmas: Tensor,
    *,
    first: Tensor | None = None,
    sampler: str = "Euler",
    rule: Start = "sigma",
    seed: int = 5,
    side: int = 8,
) -> Tensor:
    """Where a sampler ends from pure noise, or from `first` at the first level."""
    noise = Noise([seed], (model.codec.channels, side, side))
    x = start(noise(), sigmas, model.process.prediction, rule) if first is None else first
    with torch.no_grad():
        return list(resolve_sampler(sampler).run(denoise, x, sigmas, noise))[-1].x
