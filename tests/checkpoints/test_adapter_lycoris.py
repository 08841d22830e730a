"""Files of LyCORIS' kinds, written by LyCORIS: what it draws with them, we draw."""

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from adapters_published import (
    NEAR,
    WEIGHTS,
    Pair,
    drawn_by,
    drawn_with,
    kohya_xl,
    network_of_lycoris,
    pair,
    randomise,
    write,
)
from models_tiny import distance
from safelight.adapters.adapter import Adapter
from safelight.adapters.attach import merged
from safelight.adapters.strengths import Strengths
from safelight.checkpoints.adapter_load import LoadedAdapter, load_adapter
from safelight.checkpoints.adapter_save import save_adapter

pytest.importorskip("lycoris")

KINDS = {
    "lora": ("LoRA", {}),
    "tucker": ("LoRA", {"algo": "lora", "use_tucker": True}),
    "dora": ("DoRA", {"algo": "lora", "dora_wd": True}),
    "dora-in": ("DoRA", {"algo": "lora", "dora_wd": True, "wd_on_output": False}),
    "loha": ("LoHa", {}),
    "loha-tucker": ("LoHa", {"algo": "loha", "use_tucker": True}),
    "lokr": ("LoKr", {"factor": 4}),
    "lokr-both": ("LoKr", {"algo": "lokr", "decompose_both": True, "factor": 8}),
    "lokr-full": ("LoKr", {"algo": "lokr", "full_matrix": True}),
    "full": ("full", {}),
    "norms": ("norm", {"algo": "lora", "train_norm": True}),
    "ia3": ("IA3", {}),
    "glora": ("GLoRA", {}),
    "diag-oft": ("OFT", {"constraint": 0.01, "rescaled": True}),
    "boft": ("BOFT", {}),
}


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    logging.disable(logging.WARNING)
    yield
    logging.disable(logging.NOTSET)


def trained(made: Pair, kind: str) -> nn.Module:
    options = dict(KINDS[kind][1])
    network = network_of_lycoris(made, str(options.pop("algo", kind)), **options)
    if kind == "full":  # its tensors are the layers themselves until they are saved
        with torch.no_grad():
            for name, parameter in network.named_parameters():
                rng = torch.Generator().manual_seed(len(name))
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=rng))
    else:
        randomise(network, "")
    if kind == "boft":  # large turns make weights in which a network loses its digits
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.mul_(0.3)
    return network


def at(network: nn.Module, weight: float) -> nn.Module:
    """LyCORIS' network at another weight."""
    for module in (*network.unet_loras, *network.text_encoder_loras):  # type: ignore[misc]
        module.multiplier = weight
    return network


# At other weights than 1 LyCORIS has DoRA's change whole and weakens its magnitude alone, and
# rescales whole, so that 0 is not the model; A1111 and ComfyUI go part of the way, and so do we.
HALFWAY = {"dora", "dora-in", "diag-oft"}


def weights_of(kind: str) -> tuple[float, ...]:
    return (1.0,) if kind in HALFWAY else WEIGHTS


def loaded(made: Pair, state: dict[str, Tensor], folder: Path) -> LoadedAdapter:
    found = load_adapter(write(state, folder / "a.safetensors"), made.model)
    assert (found.matched, found.unmatched) == (found.total, ())
    assert found.total == len(state) > 100
    return found


QUICK = {"lora", "lokr", "dora"}
EVERY_KIND = [pytest.param(k, marks=[] if k in QUICK else pytest.mark.slow) for k in KINDS]


@pytest.mark.parametrize("kind", EVERY_KIND)
def test_each_kind_is_what_lycoris_makes_of_it(kind: str, tmp_path: Path) -> None:
    made = pair("sd15")
    plain = drawn_by(made.theirs)
    network = trained(made, kind)
    state = {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}
    found = loaded(made, state, tmp_path)
    assert KINDS[kind][0] in found.adapter.about.kinds
    save_adapter(found.adapter, tmp_path / "b.safetensors", made.model)
    again = load_adapter(tmp_path / "b.safetensors", made.model)
    assert again.matched == again.total
    for weight in weights_of(kind):
        at(network, weight)
        theirs = drawn_by(made.theirs)
        for adapter in (found.adapter, again.adapter):
            assert drawn_with(made.model, adapter, weight).distance(theirs) < NEAR
        assert theirs.distance(plain) > 0.005


@pytest.mark.slow
@pytest.mark.parametrize("kind", [k for k in KINDS if k not in ("lora", "norms")])
def test_each_kind_for_xl_in_its_original_names(kind: str, tmp_path: Path) -> None:
    made = pair("sdxl")
    network = trained(made, kind)
    state = {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}
    found = loaded(made, kohya_xl(state, made), tmp_path)
    for weight in weights_of(kind):
        at(network, weight)
        theirs = drawn_by(made.theirs)
        assert drawn_with(made.model, found.adapter, weight).distance(theirs) < NEAR


@pytest.mark.slow
@pytest.mark.parametrize("kind", sorted(HALFWAY))
@pytest.mark.parametrize("weight", [0.3, -1.0])
def test_a_kind_that_is_no_sum_goes_part_of_the_way_to_what_it_is_at_1(
    kind: str, weight: float, tmp_path: Path
) -> None:
    """As A1111 and ComfyUI weigh them: on one layer, whose output is linear in its weight."""
    made = pair("sd15")
    network = trained(made, kind)
    state = {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}
    found = loaded(made, state, tmp_path)
    parts, path = {"unet": made.model.network.unet}, "mid_block.resnets.0.conv1"
    delta = {"unet": {path: found.adapter.deltas["unet"][path]}}
    one = Adapter("one", delta)
    own = parts["unet"].get_submodule(path).weight
    assert isinstance(own, Tensor)
    whole, part = (
        next(iter(merged(parts, [(one, Strengths(strength))]))).tensor for strength in (1.0, weight)
    )
    if kind == "diag-oft":  # the turn and the factors go their way each
        assert distance(part, own + weight * (whole - own)) > NEAR
        nothing = next(iter(merged(parts, [(one, Strengths(1e-6))]))).tensor
        assert distance(nothing, own) < NEAR
    else:
        assert distance(part, own + weight * (whole - own)) < NEAR


@pytest.mark.parametrize("naming", [pytest.param("diffusers", marks=pytest.mark.slow), "original"])
def test_files_for_xl_load_in_either_naming(naming: str, tmp_path: Path) -> None:
    made = pair("sdxl")
    network = trained(made, "norms")
    theirs = drawn_by(made.theirs)
    state = {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}
    if naming == "original":
        state = kohya_xl(state, made)
        assert any("lora_unet_input_blocks_4_1_transformer" in name for name in state)
    found = loaded(made, state, tmp_path)
    assert drawn_with(made.model, found.adapter).distance(theirs) < NEAR
    assert set(found.adapter.deltas) == {"unet", "text_encoder", "text_encoder_2"}


@pytest.mark.slow
def test_the_names_of_our_file_for_xl_are_kohya_s(tmp_path: Path) -> None:
    made = pair("sdxl")
    network = trained(made, "lora")
    state = {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}
    expected = kohya_xl(state, made)
    found = loaded(made, state, tmp_path)
    save_adapter(found.adapter, tmp_path / "b.safetensors", made.model)
    written = load_file(tmp_path / "b.safetensors")
    text = {name.replace("text_model_", "") for name in written if "lora_te" in name}
    theirs = {name.replace("text_model_", "") for name in expected if "lora_te" in name}
    assert text == theirs
    assert {n for n in written if "lora_unet" in n} == {n for n in expected if "lora_unet" in n}
    assert all(
        torch.equal(written[name].float(), tensor.float().reshape(written[name].shape))
        for name, tensor in expected.items()
        if name in written and not name.endswith("alpha")
    )
