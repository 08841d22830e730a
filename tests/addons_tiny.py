"""LoRAs, learned words and hypernetworks for the tiny model of `cli_tiny`, as people share them."""

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from cli_tiny import tiny_model
from safelight.models.layers import Linear

WIDTH = 64  # of the text


def drawn(seed: int, *shape: int, scale: float = 0.3) -> Tensor:
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def write_lora(
    path: Path, *, seed: int = 0, text: bool = True, rank: int = 2, scale: float = 0.3
) -> Path:
    """A LoRA in kohya's names on every Linear of attention, alpha half of its rank."""
    model = tiny_model()
    parts: dict[str, nn.Module] = {"lora_unet": model.network.unet}
    if text:
        parts["lora_te"] = model.text.encoders[0]
    state: dict[str, Tensor] = {}
    for prefix, part in parts.items():
        for name, layer in part.named_modules():
            if isinstance(layer, Linear) and "attn" in name:
                key, own = f"{prefix}_{name.replace('.', '_')}", seed + len(state)
                state[f"{key}.lora_down.weight"] = drawn(own, rank, layer.in_features, scale=scale)
                up = drawn(own + 1000, layer.out_features, rank, scale=scale)
                state[f"{key}.lora_up.weight"] = up
                state[f"{key}.alpha"] = torch.tensor(rank / 2)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(state, path)
    return path


def write_word(path: Path, rows: int = 2, width: int = WIDTH, seed: int = 7) -> Path:
    """A textual inversion in A1111's safetensors layout."""
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({"emb_params": drawn(seed, rows, width, scale=1.0)}, path)
    return path


def write_hypernetwork(path: Path, seed: int = 3) -> Path:
    """A hypernetwork in A1111's layout that acts on the text."""
    layers = [
        {
            "linear.0.weight": drawn(seed + k, 2 * WIDTH, WIDTH),
            "linear.0.bias": drawn(seed + k + 10, 2 * WIDTH),
            "linear.1.weight": drawn(seed + k + 20, WIDTH, 2 * WIDTH),
            "linear.1.bias": drawn(seed + k + 30, WIDTH),
        }
        for k in (0, 1)
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({WIDTH: tuple(layers), "step": 1, "name": path.stem}, path)
    return path
