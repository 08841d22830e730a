"""Hypernetworks from A1111's files do to keys and values what A1111 does."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from cli_tiny import tiny_model
from safelight.checkpoints.hypernetwork_file import load_hypernetwork
from safelight.condition import Condition
from safelight.errors import CheckpointError, FileError
from safelight.model import Model
from safelight.models.attention import named_attentions
from safelight.models.hypernetwork import Dose, nudge_of

TEXT, OWN = 64, 16  # of the tiny model: width of its text, and of its first level
Saved = dict[object, object]


class Theirs(nn.Module):
    """A1111's module, as its file format implies it."""

    def __init__(self, width: int, notes: Saved) -> None:
        super().__init__()
        shares = notes.get("layer_structure", [1, 2, 1])
        activations = {"relu": nn.ReLU, "swish": nn.Hardswish, "mish": nn.Mish}
        made = activations.get(notes.get("activation_func"))
        dropout = notes.get("dropout_structure")
        layers: list[nn.Module] = []
        for i in range(len(shares) - 1):
            layers.append(nn.Linear(int(width * shares[i]), int(width * shares[i + 1])))
            ends = i >= len(shares) - 2 and not notes.get("activate_output", True)
            if made is not None and not ends:
                layers.append(made())
            if notes.get("is_layer_norm", False):
                layers.append(nn.LayerNorm(int(width * shares[i + 1])))
            if dropout is not None and dropout[i + 1] > 0:
                layers.append(nn.Dropout(dropout[i + 1]))
        self.linear = nn.Sequential(*layers)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x)


def made(notes: Saved, widths: tuple[int, ...] = (OWN, 32, TEXT)) -> dict[int, list[Theirs]]:
    generator = torch.Generator().manual_seed(3)
    networks = {w: [Theirs(w, notes), Theirs(w, notes)] for w in widths}
    for parameter in (p for pair in networks.values() for n in pair for p in n.parameters()):
        with torch.no_grad():
            parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
    return networks


def write(path: Path, networks: dict[int, list[Theirs]], notes: Saved) -> Path:
    layers: Saved = {w: tuple(n.state_dict() for n in pair) for w, pair in networks.items()}
    torch.save({**layers, "step": 100, "name": "x", "sd_checkpoint": None, **notes}, path)
    return path


NOTES: dict[str, Saved] = {
    "of the first files": {},
    "linear": {"layer_structure": [1, 2, 1], "activation_func": "linear", "activate_output": True},
    "deep, with norms": {
        "layer_structure": [1, 1.5, 2, 1],
        "activation_func": "relu",
        "is_layer_norm": True,
        "activate_output": False,
    },
    "with dropout": {
        "layer_structure": [1, 2, 2, 1],
        "activation_func": "swish",
        "activate_output": True,
        "use_dropout": True,
        "dropout_structure": [0, 0.3, 0.2, 0],
    },
    "another activation": {"activation_func": "mish", "activate_output": False},
}


@pytest.fixture(scope="module")
def model() -> Model:
    return tiny_model()


def inputs() -> tuple[Tensor, Tensor, Condition]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(2, 4, 8, 8, generator=generator)
    context = torch.randn(2, 5, TEXT, generator=generator)
    return x, torch.tensor([300.0, 20.0]), Condition(context)


def patched(model: Model, networks: dict[int, list[Theirs]], strength: float) -> Tensor:
    """The oracle: the inputs of keys and values changed by hooks, as A1111's patched forward."""
    handles = []
    for attention in named_attentions(model.network.unet).values():
        for which, layer in enumerate((attention.to_k, attention.to_v)):

            def change(_: nn.Module, args: tuple[Tensor], which: int = which) -> tuple[Tensor]:
                (x,) = args
                pair = networks.get(x.shape[-1])
                return (x if pair is None else x + strength * pair[which](x),)

            handles.append(layer.register_forward_pre_hook(change))
    try:
        return model.network(*inputs())
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
@pytest.mark.parametrize("strength", [1.0, 0.3, -1.0])
@pytest.mark.parametrize("notes", NOTES)
def test_keys_and_values_are_those_of_a1111(
    notes: str, strength: float, model: Model, tmp_path: Path
) -> None:
    networks = made(NOTES[notes])
    file = write(tmp_path / "style.pt", networks, NOTES[notes])
    dose = Dose(load_hypernetwork(file, model), strength)
    nudged = replace(model.network, nudges=(nudge_of([dose]),))
    plain, ours = model.network(*inputs()), nudged(*inputs())
    theirs = patched(model, networks, strength)
    assert (ours - theirs).abs().max() <= 1e-4 * theirs.std()
    assert (plain - theirs).abs().max() > 0.01 * theirs.std()
    assert torch.equal(model.network(*inputs()), plain)


@torch.no_grad()
def test_the_oldest_names_are_read_and_strength_0_is_nothing(model: Model, tmp_path: Path) -> None:
    networks = made({})
    state = {
        w: [
            {re.sub(r"linear\.([01])", lambda m: f"linear{int(m[1]) + 1}", k): v
             for k, v in n.state_dict().items()}
            for n in pair
        ]
        for w, pair in networks.items()
    }  # fmt: skip
    torch.save(state, tmp_path / "novel.pt")
    dose = Dose(load_hypernetwork(tmp_path / "novel.pt", model))
    nudged = replace(model.network, nudges=(nudge_of([dose]),))
    theirs = patched(model, networks, 1.0)
    assert (nudged(*inputs()) - theirs).abs().max() <= 1e-4 * theirs.std()
    dose.strength = 0.0
    assert torch.equal(nudged(*inputs()), model.network(*inputs()))


@torch.no_grad()
def test_two_act_one_after_the_other(model: Model, tmp_path: Path) -> None:
    networks = made({})
    one = load_hypernetwork(write(tmp_path / "a.pt", networks, {}), model)
    nudge = nudge_of([Dose(one, 0.5), Dose(one, 2.0)])
    x = torch.randn(1, 3, TEXT, generator=torch.Generator().manual_seed(2))
    first = x + 0.5 * networks[TEXT][1](x)
    expected = first + 2.0 * networks[TEXT][1](first) - x
    change = nudge.of("mid_block.attentions.0.transformer_blocks.0.attn2.to_v", x)
    assert change is not None
    torch.testing.assert_close(change, expected, rtol=1e-4, atol=1e-5)
    assert nudge.of("mid_block.attentions.0.transformer_blocks.0.attn2.to_q", x) is None


def test_another_text_width_names_both_families(model: Model, tmp_path: Path) -> None:
    file = write(tmp_path / "style.pt", made({}, (320, 768)), {})
    with pytest.raises(CheckpointError, match=r"SD 1\.x \(text width 768\).*\(text width 64\)"):
        load_hypernetwork(file, model)


def test_damaged_files_are_refused(model: Model, tmp_path: Path) -> None:
    networks = made({})
    notes: Saved = {"activation_func": "prelu"}
    with pytest.raises(CheckpointError, match="activation prelu; known are"):
        load_hypernetwork(write(tmp_path / "odd.pt", networks, notes), model)
    networks[TEXT][0].linear[1] = nn.Linear(100, TEXT)
    with pytest.raises(CheckpointError, match=r"does not fit the hypernetwork.*should be"):
        load_hypernetwork(write(tmp_path / "odd.pt", networks, {}), model)
    networks = made({})
    nn.init.constant_(networks[TEXT][0].linear[0].weight, float("nan"))
    with pytest.raises(FileError, match="NaN"):
        load_hypernetwork(write(tmp_path / "odd.pt", networks, {}), model)
    torch.save({"lora_unet_x.lora_up.weight": torch.ones(4, 4)}, tmp_path / "lora.pt")
    with pytest.raises(CheckpointError, match=r"no hypernetwork: it holds low-rank changes"):
        load_hypernetwork(tmp_path / "lora.pt", model)
