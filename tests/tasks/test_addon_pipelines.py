"""Whole drawings with a LoRA and a learned word on, against Diffusers' pipelines."""

import copy
from pathlib import Path

import pytest
import torch
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl import (
    StableDiffusionXLPipeline,
)
from diffusers.schedulers.scheduling_euler_discrete import EulerDiscreteScheduler
from safetensors.torch import save_file
from torch import Tensor, nn

from models_tiny import distance
from pipelines_tiny import BETAS, generator, quiet, save, sd_parts, xl_parts
from safelight.checkpoints.load import load
from safelight.engines.sentinel import Sentinel
from safelight.model import Model
from safelight.tasks.equipping import equipped
from safelight.tasks.generate import settled
from safelight.tasks.painting import Tally, painted
from safelight.tasks.request import Request
from safelight.tasks.stage import NOTHING
from safelight.tasks.supplies import Supplies

pytestmark = pytest.mark.slow

WEIGHT, STEPS = 0.7, 5
PROJECTIONS = ("to_q", "to_k", "to_v", "q_proj", "k_proj", "v_proj", "out_proj")
THEIRS = "a red <glow> on a blue table"
OURS = "a red glow on a blue table"


def drawn(seed: int, *shape: int, scale: float) -> Tensor:
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def lora_state(parts: dict[str, nn.Module]) -> dict[str, Tensor]:
    """Diffusers' names, on the projections of attention of every part."""
    state: dict[str, Tensor] = {}
    for part, network in parts.items():
        for name, layer in network.named_modules():
            if not isinstance(layer, nn.Linear) or not name.endswith(PROJECTIONS):
                continue
            key, seed = f"{part}.{name}", len(state)
            state[f"{key}.lora_A.weight"] = drawn(seed, 3, layer.in_features, scale=0.2)
            state[f"{key}.lora_B.weight"] = drawn(seed + 1, layer.out_features, 3, scale=0.2)
    return state


def latents_of(model: Model, request: Request) -> Tensor:
    (single,) = settled(request, model)
    aids = equipped(model, single, NOTHING, Supplies())
    with torch.no_grad():
        return painted(model, [single], Sentinel(), Tally(), NOTHING, aids).latents


def pipeline_of(family: str) -> tuple[object, tuple[str, ...]]:
    """A pipeline whose texts are its own, since words will be added to them; and their names."""
    parts = xl_parts() if family == "sdxl" else sd_parts(family)
    texts = ("text_encoder", "text_encoder_2") if family == "sdxl" else ("text_encoder",)
    for name in (*texts, *(f"tokenizer{text.removeprefix('text_encoder')}" for text in texts)):
        parts[name] = copy.deepcopy(parts[name])
    parts["scheduler"] = EulerDiscreteScheduler(**BETAS, timestep_spacing="linspace")
    kind = StableDiffusionXLPipeline if family == "sdxl" else StableDiffusionPipeline
    return quiet(kind(**parts)), texts


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_a_drawing_with_a_lora_and_a_learned_word_is_that_of_diffusers(
    family: str, tmp_path: Path
) -> None:
    theirs, texts = pipeline_of(family)
    ours = load(save(theirs, tmp_path / "model"))
    networks = {"unet": theirs.unet, **{name: getattr(theirs, name) for name in texts}}  # type: ignore[attr-defined]
    state = lora_state(networks)
    save_file(state, tmp_path / "style.safetensors")
    tables = {}
    for number, text in enumerate(texts):
        words = getattr(theirs, f"tokenizer{text.removeprefix('text_encoder')}")
        encoder = getattr(theirs, text)
        table = drawn(50 + number, 2, encoder.config.hidden_size, scale=0.3)
        tables[("clip_l", "clip_g")[number]] = table
        theirs.load_textual_inversion(  # type: ignore[attr-defined]
            {"emb_params": table}, token="<glow>", tokenizer=words, text_encoder=encoder
        )
    if family != "sdxl":
        tables = {"emb_params": tables["clip_l"]}
    save_file(tables, tmp_path / "glow.safetensors")

    asked = {
        "prompt": OURS,
        "negative_prompt": "blurry",
        "dialect": "plain",
        "width": 64,
        "height": 64,
        "seed": 5,
        "steps": STEPS,
        "cfg_scale": 5,
        "sampler": "Euler",
        "schedule": "normal",
        "start": "diffusers",
        "loras": [{"file": str(tmp_path / "style.safetensors"), "weight": WEIGHT}],
        "embeddings": [{"file": str(tmp_path / "glow.safetensors")}],
    }
    request = Request.parse(asked)
    found = latents_of(ours, request)
    bare = latents_of(ours, request.replace(loras=(), embeddings=()))

    theirs.load_lora_weights(str(tmp_path), weight_name="style.safetensors", adapter_name="style")  # type: ignore[attr-defined]
    theirs.set_adapters(["style"], adapter_weights=[WEIGHT])  # type: ignore[attr-defined]
    expected = theirs(  # type: ignore[operator]
        THEIRS,
        negative_prompt="blurry",
        width=64,
        height=64,
        num_inference_steps=STEPS,
        guidance_scale=5,
        generator=generator(5),
        output_type="latent",
    ).images
    assert distance(found, expected) <= 1e-3
    assert distance(found, bare) > 0.1
