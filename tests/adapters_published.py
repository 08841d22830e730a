"""Adapters written by Diffusers, PEFT and LyCORIS on tiny models, and what those draw."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import tiny
from models_tiny import distance, random
from safelight.adapters.adapter import Adapter
from safelight.adapters.attach import attached
from safelight.adapters.strengths import Strengths
from safelight.checkpoints.load import load
from safelight.model import Model

IDS = torch.tensor([[49406, 320, 2368, 539, 49407]])
TIME = torch.tensor([500.0])
NEAR = 1e-4
WEIGHTS = (0.3, 1.0, -1.0)


@dataclass(frozen=True)
class Pair:
    """A tiny family as Diffusers has it, fresh, and as we have loaded it, which is shared."""

    name: str
    unet: nn.Module
    texts: tuple[nn.Module, ...]
    model: Model

    @property
    def parts(self) -> dict[str, nn.Module]:
        return parts_of(self.model)

    @property
    def theirs(self) -> dict[str, nn.Module]:
        names = ("text_encoder", "text_encoder_2")
        return {"unet": self.unet, **dict(zip(names, self.texts, strict=False))}


def parts_of(model: Model) -> dict[str, nn.Module]:
    names = ("text_encoder", "text_encoder_2")
    encoders = dict(zip(names, model.text.encoders, strict=False))
    return {"unet": model.network.unet, **encoders}


@cache
def _made(name: str) -> tuple[tiny.Oracle, Model]:
    made = tiny.oracle(name)
    folder = Path(mkdtemp())
    return made, load(tiny.write_folder(made, folder / name))


def pair(name: str) -> Pair:
    made, model = _made(name)
    return Pair(name, copy.deepcopy(made.unet), copy.deepcopy(made.texts), model)


def randomise(module: nn.Module, containing: str = "lora", seed: int = 3) -> None:
    """Draw the tensors of an adapter anew, those that start as zeros too."""
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if containing in name:
                drawn = torch.randn(parameter.shape, generator=rng)
                large = parameter.abs().min() > 0.2  # a magnitude, which stays near what it is
                parameter.copy_(parameter * (1 + 0.2 * drawn) if large else 0.1 * drawn)


def original(name: str, path: str) -> str:
    """The original name of one of Diffusers' layers, by the translation of tests/tiny.py."""
    unet = tiny.FAMILIES[name].unet
    blocks, types = unet["layers_per_block"], unet["up_block_types"]
    assert isinstance(blocks, int) and isinstance(types, list)
    attention = ["CrossAttn" in kind for kind in types]
    return tiny.original_unet_name(f"{path}.", blocks, attention).removesuffix(".")


@dataclass(frozen=True)
class Drawn:
    """What each part gives: a prediction, and the last hidden states of the texts."""

    outputs: Mapping[str, Tensor] = field(default_factory=dict)

    def distance(self, other: "Drawn", only: tuple[str, ...] = ()) -> float:
        """The largest of the distances of all parts, or of these."""
        names = only or tuple(self.outputs)
        return max(distance(self.outputs[name], other.outputs[name]) for name in names)


@torch.no_grad()
def drawn_by(parts: Mapping[str, nn.Module]) -> Drawn:
    """What these networks, ours or Diffusers', make of fixed inputs."""
    found = {}
    for name, network in parts.items():
        found[name] = _prediction(network) if name == "unet" else _text(network)
    return Drawn(found)


def _prediction(unet: nn.Module) -> Tensor:
    ours = not hasattr(unet, "save_pretrained")
    config = unet.config
    channels = config.in_channels
    width = config.context_width if ours else config.cross_attention_dim
    x, context = random(2, channels, 8, 8), random(2, 7, width, seed=2)
    vector = config.vector_width if ours else config.projection_class_embeddings_input_dim
    if ours:
        told = None if vector is None else random(2, vector, seed=4)
        if told is not None:
            told = torch.cat([told[:, :128], _sizes()], dim=1)
        y: Tensor = unet(x, TIME, context, told)
        return y
    if vector is None:
        return unet(x, TIME, context).sample
    pooled = random(2, vector, seed=4)[:, :128]
    added = {"text_embeds": pooled, "time_ids": torch.full((2, 6), 64.0)}
    return unet(x, TIME, context, added_cond_kwargs=added).sample


def _sizes() -> Tensor:
    from safelight.models.layers import timestep_embedding

    return timestep_embedding(torch.full((2, 6), 64.0), 8).flatten(1)


def _text(encoder: nn.Module) -> Tensor:
    if hasattr(encoder, "save_pretrained"):
        return encoder(IDS).last_hidden_state
    y: Tensor = encoder.final_norm(encoder(IDS).hidden_states[-1])  # type: ignore[attr-defined]
    return y


def drawn_with(model: Model, adapter: Adapter, strength: float = 1.0) -> Drawn:
    """What our parts make of the same with an adapter on them."""
    parts = parts_of(model)
    with attached(parts, [(adapter, Strengths(strength, strength))]):
        return drawn_by(parts)


def write(state: Mapping[str, Tensor], path: Path, metadata: dict[str, str] | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({n: t.detach().clone().contiguous() for n, t in state.items()}, path, metadata)
    return path


# -- writers ---------------------------------------------------------------------------------------

UNET_TARGETS = ["to_q", "to_k", "to_v", "to_out.0", "proj_in", "ff.net.0.proj", "conv1"]
PRESET_OF_LYCORIS: dict[str, object] = {
    "enable_conv": True,
    "unet_target_module": ["Transformer2DModel", "ResnetBlock2D", "Downsample2D", "Upsample2D"],
    "unet_target_name": ["conv_in", "conv_out", "time_embedding.linear_1"],
    "text_encoder_target_module": ["CLIPAttention", "CLIPMLP"],
    "text_encoder_target_name": [],
    "exclude_name": [r"up_blocks\.[0-2]", r"down_blocks\.[02]"],  # for speed
}
TEXT_TARGETS = ["q_proj", "out_proj", "fc1"]


def lora_by_diffusers(
    made: Pair,
    *,
    ranks: Mapping[str, int] | None = None,
    alphas: Mapping[str, float] | None = None,
    **options: object,
) -> Pair:
    """A LoRA of PEFT's on all of Diffusers' networks; options as of `LoraConfig`.

    ranks, alphas: of some of the U-Net's layers by the end of their paths.
    """
    from peft import LoraConfig

    patterns = {"rank_pattern": dict(ranks or {}), "alpha_pattern": dict(alphas or {})}
    unet = {"r": 3, "lora_alpha": 5, "target_modules": UNET_TARGETS, **patterns}
    text: dict[str, object] = {"r": 2, "lora_alpha": 3, "target_modules": TEXT_TARGETS}
    for name, network in made.theirs.items():
        config = LoraConfig(**((unet if name == "unet" else text) | options))
        network.add_adapter(config)  # type: ignore[operator]
        randomise(network)
    return made


def saved_by_diffusers(made: Pair, folder: Path, *, metadata: bool = True) -> Path:
    """`save_lora_weights` of the family's pipeline."""
    from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
    from diffusers.training_utils import _collate_lora_metadata
    from peft.utils import get_peft_model_state_dict

    xl = made.name.startswith("sdxl")
    pipeline = StableDiffusionXLPipeline if xl else StableDiffusionPipeline
    layers = {
        f"{name}_lora_layers": get_peft_model_state_dict(network)
        for name, network in made.theirs.items()
    }
    told = _collate_lora_metadata(made.theirs) if metadata else {}
    pipeline.save_lora_weights(folder, **layers, **told)
    return folder / "pytorch_lora_weights.safetensors"


def loaded_by_diffusers(made: Pair, path: Path) -> Pair:
    """`load_lora_weights` without the rest of a pipeline."""
    from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline

    xl = made.name.startswith("sdxl")
    pipeline = StableDiffusionXLPipeline if xl else StableDiffusionPipeline
    state, alphas, metadata = pipeline.lora_state_dict(
        path.parent, weight_name=path.name, unet_config=made.unet.config, return_lora_metadata=True
    )
    told = {"network_alphas": alphas, "metadata": metadata}
    pipeline.load_lora_into_unet(state, unet=made.unet, **told)
    for name, network in made.theirs.items():
        if name != "unet" and any(key.startswith(f"{name}.") for key in state):
            pipeline.load_lora_into_text_encoder(state, text_encoder=network, prefix=name, **told)
    return made


def weighted(made: Pair, weight: float) -> Drawn:
    """What Diffusers' networks give with their adapter at a weight."""
    from diffusers.utils.peft_utils import scale_lora_layers, unscale_lora_layers

    for network in made.theirs.values():
        scale_lora_layers(network, weight)
    drawn = drawn_by(made.theirs)
    for network in made.theirs.values():
        unscale_lora_layers(network, weight)
    return drawn


def network_of_lycoris(made: Pair, algorithm: str, **options: object) -> nn.Module:
    """LyCORIS' network for kohya's trainer, on Diffusers' U-Net and text encoders."""
    from lycoris.config import PRESET
    from lycoris.kohya import create_network

    # Its own finds a layer twice in Diffusers' U-Net.
    inputs = {"ff.net.2": {"train_on_input": True}} if algorithm == "ia3" else {}
    PRESET["tests"] = PRESET_OF_LYCORIS | {"name_algo_map": inputs}
    texts = list(made.texts) if len(made.texts) > 1 else made.texts[0]
    network = create_network(
        1.0,
        6 if algorithm == "boft" else 4,  # 6 divides all widths as it needs
        3,
        None,
        texts,
        made.unet,
        algo=algorithm,
        conv_dim=6 if algorithm == "boft" else 3,
        conv_alpha=2,
        preset="tests",
        **options,
    )
    network.apply_to(texts, made.unet, True, True)
    network.eval()
    return network


def kohya_xl(state: Mapping[str, Tensor], made: Pair) -> dict[str, Tensor]:
    """A file of kohya's for SDXL: the U-Net's layers by their original names."""
    flat = {
        name.replace(".", "_"): name
        for name, module in made.unet.named_modules()
        if not list(module.children())
    }
    found = {}
    for key, tensor in state.items():
        module, _, ending = key.partition(".")
        path = flat.get(module.removeprefix("lora_unet_"))
        if module.startswith("lora_unet_") and path is not None:
            module = "lora_unet_" + original(made.name, path).replace(".", "_")
        found[f"{module}.{ending}"] = tensor
    return found
