"""Picture-prompt adapters and their vision tower a thousand times smaller, as their files are."""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor
from transformers.models.clip.configuration_clip import CLIPVisionConfig
from transformers.models.clip.modeling_clip import CLIPVisionModelWithProjection

from models_tiny import randomised

State = dict[str, Tensor]

SIDE, VISION_WIDTH, EMBEDDING = 32, 48, 40  # of the vision tower
HIDDEN, TOKENS, DEPTH = 24, 5, 2  # of the resampler


def vision_tower(seed: int = 6) -> CLIPVisionModelWithProjection:
    config = CLIPVisionConfig(
        hidden_size=VISION_WIDTH,
        intermediate_size=2 * VISION_WIDTH,
        projection_dim=EMBEDDING,
        num_hidden_layers=3,
        num_attention_heads=4,
        image_size=SIDE,
        patch_size=8,
        hidden_act="gelu",
    )
    tower = randomised(CLIPVisionModelWithProjection(config), seed)
    assert isinstance(tower, CLIPVisionModelWithProjection)
    return tower


def adapter_state(kind: str, unet: object, seed: int = 0) -> dict[str, State]:
    """The two dictionaries of a published file, for a U-Net of Diffusers, with random weights."""
    rng = torch.Generator().manual_seed(seed)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=rng) * (shape[-1] ** -0.5 if len(shape) > 1 else 0.3)

    context = unet.config.cross_attention_dim  # type: ignore[attr-defined]
    image_proj = {
        "plain": _plain,
        "full": _full,
        "plus": _plus,
    }[kind](drawn, context)
    branches: State = {}
    for number, (name, processor) in enumerate(unet.attn_processors.items()):  # type: ignore[attr-defined]
        assert processor is not None
        if not name.endswith("attn2.processor"):
            continue
        module = unet.get_submodule(name.removesuffix(".processor"))  # type: ignore[attr-defined]
        width = module.to_q.weight.shape[0]
        branches[f"{number}.to_k_ip.weight"] = drawn(width, context) * 2
        branches[f"{number}.to_v_ip.weight"] = drawn(width, context) * 2
    return {"image_proj": image_proj, "ip_adapter": branches}


def _norm(drawn: object, width: int) -> tuple[Tensor, Tensor]:
    return 1 + drawn(width), drawn(width)  # type: ignore[operator]


def _plain(drawn: object, context: int) -> State:
    weight, bias = _norm(drawn, context)
    return {
        "proj.weight": drawn(4 * context, EMBEDDING),  # type: ignore[operator]
        "proj.bias": drawn(4 * context),  # type: ignore[operator]
        "norm.weight": weight,
        "norm.bias": bias,
    }


def _full(drawn: object, context: int) -> State:
    weight, bias = _norm(drawn, context)
    return {
        "proj.0.weight": drawn(VISION_WIDTH, VISION_WIDTH),  # type: ignore[operator]
        "proj.0.bias": drawn(VISION_WIDTH),  # type: ignore[operator]
        "proj.2.weight": drawn(context, VISION_WIDTH),  # type: ignore[operator]
        "proj.2.bias": drawn(context),  # type: ignore[operator]
        "proj.3.weight": weight,
        "proj.3.bias": bias,
    }


def _plus(drawn: object, context: int) -> State:
    def norms(root: str, width: int) -> State:
        weight, bias = _norm(drawn, width)
        return {f"{root}.weight": weight, f"{root}.bias": bias}

    inner, width = 128, HIDDEN
    state = {
        "latents": drawn(1, TOKENS, width),  # type: ignore[operator]
        "proj_in.weight": drawn(width, VISION_WIDTH),  # type: ignore[operator]
        "proj_in.bias": drawn(width),  # type: ignore[operator]
        "proj_out.weight": drawn(context, width),  # type: ignore[operator]
        "proj_out.bias": drawn(context),  # type: ignore[operator]
        **norms("norm_out", context),
    }
    for i in range(4):  # Diffusers builds four layers whatever the file says
        root = f"layers.{i}"
        state |= norms(f"{root}.0.norm1", width) | norms(f"{root}.0.norm2", width)
        state |= norms(f"{root}.1.0", width)
        state[f"{root}.0.to_q.weight"] = drawn(inner, width)  # type: ignore[operator]
        state[f"{root}.0.to_kv.weight"] = drawn(2 * inner, width)  # type: ignore[operator]
        state[f"{root}.0.to_out.weight"] = drawn(width, inner)  # type: ignore[operator]
        state[f"{root}.1.1.weight"] = drawn(4 * width, width)  # type: ignore[operator]
        state[f"{root}.1.3.weight"] = drawn(width, 4 * width)  # type: ignore[operator]
    return state


def flat(state: dict[str, State]) -> State:
    return {f"{part}.{name}": t for part, inner in state.items() for name, t in inner.items()}


def write_adapter(path: Path, state: dict[str, State]) -> Path:
    """As safetensors, or pickled as two dictionaries, by the suffix."""
    if path.suffix == ".safetensors":
        save_file(flat(state), path)
    else:
        torch.save(state, path)
    return path


def picture(seed: int, height: int = 45, width: int = 61) -> NDArray[np.uint8]:
    """Smooth colours, so that resampling is no noise."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    waves = [
        np.sin(x * rng.uniform(0.05, 0.3) + y * rng.uniform(0.05, 0.3) + rng.uniform(0, 6))
        for _ in range(3)
    ]
    return np.uint8(127 + 127 * np.stack(waves, axis=-1))
