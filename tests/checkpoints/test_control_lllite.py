"""ControlNet-LLLite from its file, against the same nudges as hooks in Diffusers' U-Net."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

import tiny
from controls_on_disk import unet
from models_tiny import distance, random
from own_model import model_of, small_family
from safelight.checkpoints.control_load import check_fits, load_control
from safelight.checkpoints.inspect import inspect
from safelight.checkpoints.json_object import JsonObject
from safelight.checkpoints.unet_json import unet_from_json
from safelight.condition import Condition, Control
from safelight.errors import CheckpointError, RequestError
from safelight.models.backbone import Backbone
from safelight.models.control_modes import steering
from safelight.models.lllite import LLLite
from safelight.models.unet import UNet

PICTURE, INNER = 6, 5
STRIDES = {2: (4, 4), 3: (4, 4, 2)}  # levels 1 and 2 of XL
TIME = torch.tensor([500.0])


def targets(network: nn.Module) -> dict[str, int]:
    """kohya's choice, by Diffusers' names: queries, keys and values but those of the text."""
    found = {}
    for name, module in network.named_modules():
        end = name.rpartition(".")[2]
        if not isinstance(module, nn.Linear) or end not in ("to_q", "to_k", "to_v"):
            continue
        if name.startswith("up_blocks") or name.endswith(("attn2.to_k", "attn2.to_v")):
            continue
        found[name] = 2 if name.startswith("down_blocks.1") else 3
    return found


def file_name(ours: str) -> str:
    return "lllite_unet_" + tiny.original_unet_name(ours, 2, []).replace(".", "_")


def weights(network: nn.Module) -> dict[str, Tensor]:
    state: dict[str, Tensor] = {}
    for i, (ours, depth) in enumerate(targets(network).items()):
        width = network.get_submodule(ours).in_features
        key = file_name(ours)
        strides = STRIDES[depth]
        for j, stride in enumerate(strides):
            into = PICTURE // 2 if j else 3
            out = PICTURE if j == len(strides) - 1 else PICTURE // 2
            weight = random(out, into, stride, stride, seed=97 * i + j) / (into * stride**2) ** 0.5
            state[f"{key}.conditioning1.{2 * j}.weight"] = weight
            state[f"{key}.conditioning1.{2 * j}.bias"] = 0.2 * random(out, seed=i)
        for part, into, out in (
            ("down", width, INNER),
            ("mid", INNER + PICTURE, INNER),
            ("up", INNER, width),
        ):
            weight = random(out, into, seed=31 * i + into) / into**0.5
            state[f"{key}.{part}.0.weight"] = weight
            state[f"{key}.{part}.0.bias"] = 0.2 * random(out, seed=i + into)
    return state


def hooked(network: nn.Module, state: dict[str, Tensor], image: Tensor, scale: float) -> list:
    """The nudges in Diffusers' U-Net, as hooks that change each layer's input."""

    def hook(key: str, depth: int):
        def change(_: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            x, y = args[0], 2 * image - 1
            strides = STRIDES[depth]
            for j, stride in enumerate(strides):
                name = f"{key}.conditioning1.{2 * j}"
                y = F.conv2d(y, state[f"{name}.weight"], state[f"{name}.bias"], stride)
                y = F.relu(y) if j < len(strides) - 1 else y
            tokens = y.flatten(2).transpose(1, 2)

            def linear(part: str, value: Tensor) -> Tensor:
                place = f"{key}.{part}.0"
                return F.linear(value, state[f"{place}.weight"], state[f"{place}.bias"])

            mixed = F.relu(linear("mid", torch.cat([tokens, F.relu(linear("down", x))], 2)))
            return (x + scale * linear("up", mixed), *args[1:])

        return change

    return [
        network.get_submodule(ours).register_forward_pre_hook(hook(file_name(ours), depth))
        for ours, depth in targets(network).items()
    ]


def ours_of(family: str) -> UNet:
    theirs = unet(family)
    mine = UNet(unet_from_json(JsonObject(dict(theirs.config), "test")))
    mine.load_state_dict(theirs.state_dict())
    return mine.eval().requires_grad_(False)


@torch.no_grad()
def test_it_does_what_its_author_s_code_does(tmp_path: Path) -> None:
    theirs, state = unet("sdxl"), weights(unet("sdxl"))
    save_file(state, tmp_path / "anime-canny.safetensors")
    mine = ours_of("sdxl")
    loaded = load_control(tmp_path / "anime-canny.safetensors", base=mine)
    assert loaded.kind == "ControlNet-LLLite" and isinstance(loaded.network, LLLite)
    assert loaded.report.used == len(state) and len(state) > 100
    assert steering("control", loaded.network).weights is None
    x, image = random(1, 4, 16, 8), random(1, 3, 128, 64, seed=3).sigmoid()
    pooled, sizes = random(1, 128, seed=4), torch.tensor([[64.0, 48, 0, 0, 64, 48]])
    projected = theirs.add_time_proj(sizes.flatten()).reshape(1, -1)
    told = Condition(random(1, 7, 192, seed=2), torch.cat([pooled, projected], 1))
    added = {"text_embeds": pooled, "time_ids": sizes}

    def reference() -> Tensor:
        answer = theirs(x, TIME, told.context, added_cond_kwargs=added).sample
        assert isinstance(answer, Tensor)
        return answer

    network = Backbone(mine, control_networks={"c": loaded.network})
    plain = reference()
    assert distance(network(x, TIME, told), plain) < 1e-4
    handles = hooked(theirs, state, image, 0.6)
    nudged = reference()
    for handle in handles:
        handle.remove()
    control = Control("c", image, 0.6)
    assert distance(network(x, TIME, replace(told, controls=(control,))), nudged) < 1e-4
    assert distance(plain, nudged) > 0.05
    idle = replace(told, controls=(replace(control, scale=0.0),))
    assert torch.equal(network(x, TIME, idle), network(x, TIME, told))
    prepared = network.prepared(replace(told, controls=(control,)))
    assert distance(network(x, TIME, prepared), nudged) < 1e-4
    odd = replace(told, controls=(Control("c", random(1, 3, 104, 56).sigmoid()),))
    assert torch.isfinite(network(random(1, 4, 13, 7), TIME, odd)).all()


def test_a_file_for_another_model_is_refused_in_words(tmp_path: Path) -> None:
    path = tmp_path / "l.safetensors"
    state = weights(unet("sdxl"))
    save_file(state, path)
    with pytest.raises(CheckpointError, match=r"l\.safetensors: .* is for a layer \d+ wide, but"):
        load_control(path, base=ours_of("sd1"))
    loaded = load_control(path, base=ours_of("sdxl"))
    with pytest.raises(RequestError, match="another family: it has levels"):
        loaded.network.check_fits(ours_of("sd1").config)
    with pytest.raises(CheckpointError, match=r"is a ControlNet-LLLite for .*, but the loaded"):
        check_fits(loaded, replace(model_of(small_family()), network=Backbone(ours_of("sd1"))))
    with pytest.raises(RequestError, match="give it no type"):
        loaded.network.check_types((1,))
    state.pop(next(name for name in state if name.endswith("mid.0.bias")))
    save_file(state, path)
    with pytest.raises(CheckpointError, match=r"1 missing: .*mid\.0\.bias"):
        load_control(path, base=ours_of("sdxl"))


def test_what_is_published_is_for_xl(tmp_path: Path) -> None:
    """True widths, one module."""
    name = "lllite_unet_input_blocks_7_1_transformer_blocks_9_attn1_to_q"
    shapes = {
        "conditioning1.0": (16, 3, 4, 4),
        "conditioning1.2": (16, 16, 4, 4),
        "conditioning1.4": (32, 16, 2, 2),
        "down.0": (64, 1280),
        "mid.0": (64, 96),
        "up.0": (1280, 64),
    }
    state = {f"{name}.{part}.weight": torch.zeros(shape) for part, shape in shapes.items()}
    state |= {f"{name}.{part}.bias": torch.zeros(shape[0]) for part, shape in shapes.items()}
    save_file(state, tmp_path / "xl.safetensors")
    loaded = load_control(tmp_path / "xl.safetensors")
    # with another model beside, too: whoever attaches it is told
    assert load_control(tmp_path / "xl.safetensors", base=ours_of("sd1")).kind == loaded.kind
    assert isinstance(loaded.network, LLLite) and loaded.made_for == "SDXL (context width 2048)"
    (only,) = loaded.network.config.modules
    assert only.layer == "down_blocks.2.attentions.0.transformer_blocks.9.attn1.to_q"
    assert (only.width, only.picture_width, only.inner_width, only.depth) == (1280, 32, 64, 3)
    seen = inspect(tmp_path / "xl.safetensors")
    assert seen.kind == "controlnet lllite" and seen.problem is None
    assert loaded.network.look(torch.zeros(1, 3, 64, 96))[0].shape == (1, 6, 32)
