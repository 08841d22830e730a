"""Files of Diffusers and PEFT of all years, and ours, with which Diffusers draws the same."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from adapters_published import (
    NEAR,
    WEIGHTS,
    drawn_by,
    drawn_with,
    loaded_by_diffusers,
    lora_by_diffusers,
    pair,
    randomise,
    saved_by_diffusers,
    weighted,
    write,
)
from safelight.adapters.adapter import Adapter
from safelight.adapters.targets import targets
from safelight.adapters.trainable import Size, trainable
from safelight.checkpoints.adapter_load import load_adapter
from safelight.checkpoints.adapter_save import AdapterLayout, save_adapter
from safelight.errors import CheckpointError

pytestmark = [
    pytest.mark.slow,
    # PEFT takes a bias for a shard of a matrix, and looks for a compiler that it does not need.
    pytest.mark.filterwarnings("ignore:Adapter .* LoRA tensor"),
    pytest.mark.filterwarnings("ignore:Failed to load the CUDA extension"),
    pytest.mark.filterwarnings("ignore:Setting boft_n_butterfly_factor to 1"),
]
State = dict[str, Tensor]
LAYOUTS: list[AdapterLayout] = ["kohya", "diffusers"]
FAMILIES = ["sd15", "sd2-base", "sdxl"]


@pytest.mark.parametrize("family", FAMILIES)
def test_what_diffusers_saves_draws_the_same_at_any_weight(family: str, tmp_path: Path) -> None:
    made = pair(family)
    plain = drawn_by(made.theirs)
    lora_by_diffusers(made, alphas={"conv1": 2, "to_out.0": 1.5}, ranks={"conv1": 4})
    path = saved_by_diffusers(made, tmp_path)
    found = load_adapter(path, made.model)
    assert (found.matched, found.unmatched) == (found.total, ())
    assert found.adapter.about.kinds == ("LoRA", "LoCon")
    for weight in WEIGHTS:
        theirs = weighted(made, weight)
        assert drawn_with(made.model, found.adapter, weight).distance(theirs) < NEAR
        assert theirs.distance(plain) > 0.02


@pytest.mark.parametrize("rank_stabilised", [False, True])
def test_a_strength_is_read_from_the_metadata(rank_stabilised: bool, tmp_path: Path) -> None:
    made = lora_by_diffusers(pair("sd15"), use_rslora=rank_stabilised)
    path = saved_by_diffusers(made, tmp_path)
    found = load_adapter(path, made.model)
    assert drawn_with(made.model, found.adapter).distance(drawn_by(made.theirs)) < NEAR
    (scale,) = {delta.scale for part, _, delta in found.adapter if part == "unet"}
    assert scale == pytest.approx(5 / (3**0.5 if rank_stabilised else 3))
    bare = load_adapter(write(load_file(path), tmp_path / "bare.safetensors"), made.model)
    assert {delta.scale for _, _, delta in bare.adapter} == {1.0}


@pytest.mark.parametrize("options", [{"use_dora": True}, {"lora_bias": True}], ids=str)
def test_dora_and_a_bias_are_what_peft_makes_of_them(
    options: dict[str, object], tmp_path: Path
) -> None:
    # Conv1 has a bias; the projections of attention have none.
    targets = ["conv1", "to_out.0", "ff.net.0.proj", "fc1", "out_proj"]
    made = lora_by_diffusers(pair("sd15"), target_modules=targets, **options)
    found = load_adapter(saved_by_diffusers(made, tmp_path), made.model)
    assert (found.matched, found.unmatched) == (found.total, ())
    theirs = drawn_by(made.theirs)
    assert drawn_with(made.model, found.adapter).distance(theirs) < NEAR
    for layout in LAYOUTS:
        path = tmp_path / layout / "a.safetensors"
        save_adapter(found.adapter, path, made.model, layout=layout)
        again = load_adapter(path, made.model)
        assert drawn_with(made.model, again.adapter).distance(theirs) < NEAR


# -- older names -----------------------------------------------------------------------------------


def processors(state: State) -> State:
    """Diffusers 0.12 to 0.20: attention alone, as weights of its processors."""
    found = {}
    for name, tensor in state.items():
        for end, new in (
            ("to_q", "to_q"),
            ("to_k", "to_k"),
            ("to_v", "to_v"),
            ("to_out.0", "to_out"),
        ):
            for letter, way in (("A", "down"), ("B", "up")):
                if name.startswith("unet.") and name.endswith(f".{end}.lora_{letter}.weight"):
                    block = name.removesuffix(f".{end}.lora_{letter}.weight")
                    found[f"{block}.processor.{new}_lora.{way}.weight"] = tensor
    return found


def text_of_processors(state: State) -> State:
    """The text encoder beside them: first by the U-Net's words."""
    found = processors(state)
    words = {"q_proj": "to_q", "out_proj": "to_out"}
    for name, tensor in state.items():
        for ours, theirs in words.items():
            for letter, way in (("A", "down"), ("B", "up")):
                if name.endswith(f".{ours}.lora_{letter}.weight"):
                    start = name.removesuffix(f".{ours}.lora_{letter}.weight")
                    found[f"{start}.{theirs}_lora.{way}.weight"] = tensor
    return found


def without_prefix(state: State) -> State:
    return {name.removeprefix("unet."): t for name, t in processors(state).items()}


def linear_layers(state: State) -> State:
    """Diffusers 0.20 to 0.22."""
    found = {}
    for name, tensor in state.items():
        word = "lora" if name.startswith("unet.") else "lora_linear_layer"
        for letter, way in (("A", "down"), ("B", "up")):
            name = name.replace(f".lora_{letter}.", f".{word}.{way}.")
        found[name] = tensor
    return found


def with_text_model(state: State) -> State:
    """As before Transformers 5."""
    return {
        name.replace("text_encoder.encoder", "text_encoder.text_model.encoder"): t
        for name, t in state.items()
    }


def named(state: State) -> State:
    """A state that did not go through PEFT's function, with the adapter's name in it."""
    return {name.replace(".weight", ".default.weight"): t for name, t in state.items()}


OLD: dict[str, Callable[[State], State]] = {
    "processors": processors,
    "without prefix": without_prefix,
    "text of processors": text_of_processors,
    "linear layers": linear_layers,
    "text_model": with_text_model,
    "named": named,
}


@pytest.mark.parametrize("naming", OLD)
def test_every_older_naming_is_the_same_adapter(naming: str, tmp_path: Path) -> None:
    made = lora_by_diffusers(pair("sd15"))
    state = load_file(saved_by_diffusers(made, tmp_path, metadata=False))
    chosen = OLD[naming](state)
    kept = {tensor.data_ptr() for tensor in chosen.values()}
    known = {name: tensor for name, tensor in state.items() if tensor.data_ptr() in kept}
    assert len(known) == len(chosen) > 30
    old = load_adapter(write(chosen, tmp_path / "old.safetensors"), made.model)
    new = load_adapter(write(known, tmp_path / "new.safetensors"), made.model)
    assert (old.matched, old.unmatched) == (old.total, ()) == (new.total, ())
    assert [(part, path) for part, path, _ in sorted(old.adapter, key=str)] == [
        (part, path) for part, path, _ in sorted(new.adapter, key=str)
    ]
    for part, layers in new.adapter.deltas.items():
        for path, delta in layers.items():
            other = old.adapter.deltas[part][path]
            assert all(
                torch.equal(a, b)
                for a, b in zip(delta.parameters(), other.parameters(), strict=True)
            )


def test_the_oldest_files_draw_as_diffusers_draws_with_them(tmp_path: Path) -> None:
    made = lora_by_diffusers(pair("sd15"))
    state = load_file(saved_by_diffusers(made, tmp_path, metadata=False))
    path = write(processors(state), tmp_path / "old.safetensors")
    theirs = loaded_by_diffusers(pair("sd15"), path)
    found = load_adapter(path, made.model)
    assert drawn_with(made.model, found.adapter).distance(drawn_by(theirs.theirs)) < NEAR


def test_a_pickled_file_is_the_same_adapter(tmp_path: Path) -> None:
    made = lora_by_diffusers(pair("sd15"))
    state = load_file(saved_by_diffusers(made, tmp_path, metadata=False))
    torch.save(state, tmp_path / "pytorch_lora_weights.bin")
    found = load_adapter(tmp_path / "pytorch_lora_weights.bin", made.model)
    again = load_adapter(tmp_path / "pytorch_lora_weights.safetensors", made.model)
    ours, theirs = (drawn_with(made.model, x.adapter) for x in (found, again))
    assert ours.distance(theirs) == 0


# -- PEFT's own folders ----------------------------------------------------------------------------


def by_peft(network: nn.Module, config: object, folder: Path) -> nn.Module:
    from peft import get_peft_model

    model = get_peft_model(network, config)  # type: ignore[arg-type]
    randomise(model, "lora_") if config.peft_type == "LORA" else randomise_peft(model)  # type: ignore[attr-defined]
    model.save_pretrained(folder)
    return model.eval()


def randomise_peft(model: nn.Module) -> None:
    for word in ("hada_", "lokr_", "oft_R", "boft_", "ia3_l"):
        randomise(model, word)


def peft_configs() -> dict[str, object]:
    from peft import BOFTConfig, IA3Config, LoHaConfig, LoKrConfig, LoraConfig, OFTConfig

    linear = ["to_q", "to_k", "ff.net.2"]
    return {
        "LoRA": LoraConfig(r=3, lora_alpha=5, target_modules=[*linear, "conv1"]),
        "LoHa": LoHaConfig(r=3, alpha=5, target_modules=[*linear, "conv1"]),
        "LoKr": LoKrConfig(r=3, alpha=5, target_modules=[*linear, "conv1"]),
        "OFT": OFTConfig(r=0, oft_block_size=8, target_modules=linear),
        "BOFT": BOFTConfig(boft_block_size=8, boft_n_butterfly_factor=1, target_modules=linear),
        "IA3": IA3Config(target_modules=["to_k", "ff.net.2"], feedforward_modules=["ff.net.2"]),
    }


OTHERS = [pytest.param(n, marks=pytest.mark.slow) for n in ("LoHa", "LoKr", "OFT", "BOFT", "IA3")]


@pytest.mark.parametrize("kind", ["LoRA", *OTHERS])
def test_what_peft_saves_beside_its_config_is_what_it_draws(kind: str, tmp_path: Path) -> None:
    made = pair("sd15")
    config = peft_configs()[kind]
    model = by_peft(made.unet, config, tmp_path / "peft")
    found = load_adapter(tmp_path / "peft", made.model)
    assert (found.matched, found.unmatched) == (found.total, ())
    assert found.adapter.about.kinds[0] == kind
    theirs = drawn_by({"unet": made.unet})
    assert drawn_with(made.model, found.adapter).distance(theirs, ("unet",)) < NEAR
    plain = drawn_by({"unet": made.model.network.unet})
    assert theirs.distance(plain) > 0.02
    assert model is not None
    path = tmp_path / "ours.safetensors"
    save_adapter(found.adapter, path, made.model, layout="diffusers")
    again = load_adapter(path, made.model)
    assert drawn_with(made.model, again.adapter).distance(theirs, ("unet",)) < NEAR


@pytest.mark.parametrize("kind", ["LoRA", "LoHa", "LoKr", "OFT", "BOFT", "IA3"])
def test_what_we_save_peft_takes_with_the_same_result(kind: str, tmp_path: Path) -> None:
    """Alpha is the rank there, since strengths stand within our tensors."""
    from peft import get_peft_model, set_peft_model_state_dict

    made, fresh = pair("sd15"), pair("sd15")
    by_peft(made.unet, peft_configs()[kind], tmp_path / "peft")
    theirs = drawn_by({"unet": made.unet})
    found = load_adapter(tmp_path / "peft", made.model)
    save_adapter(found.adapter, tmp_path / "a.safetensors", made.model, layout="diffusers")
    config = peft_configs()[kind]
    for name in ("alpha", "lora_alpha"):
        if hasattr(config, name):
            setattr(config, name, config.r)  # type: ignore[attr-defined]
    model = get_peft_model(fresh.unet, config)  # type: ignore[arg-type]
    state = {
        f"base_model.model.{name.removeprefix('unet.')}": tensor
        for name, tensor in load_file(tmp_path / "a.safetensors").items()
    }
    taken = set_peft_model_state_dict(model, state)
    assert not taken.unexpected_keys
    assert drawn_by({"unet": fresh.unet.eval()}).distance(theirs) < NEAR


@pytest.mark.parametrize("kind", ["LoHa", "LoKr"])
@pytest.mark.parametrize("weight", [0.3, -1.0])
def test_kinds_that_peft_weighs_are_weighed_alike(kind: str, weight: float, tmp_path: Path) -> None:
    made = pair("sd15")
    by_peft(made.unet, peft_configs()[kind], tmp_path / "peft")
    found = load_adapter(tmp_path / "peft", made.model)
    for module in made.unet.modules():
        if hasattr(module, "set_scale"):
            module.set_scale("default", weight)  # type: ignore[operator]
    theirs = drawn_by({"unet": made.unet})
    assert drawn_with(made.model, found.adapter, weight).distance(theirs, ("unet",)) < NEAR


def test_settings_of_peft_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    made = lora_by_diffusers(pair("sd15"))
    state = load_file(saved_by_diffusers(made, tmp_path))
    for value in ('{"unet.r": 3, "unet.lora_alpha": "much"}', '{"r": 3, "lora_alpha": 1e99}', "[]"):
        path = write(state, tmp_path / "a.safetensors", {"lora_adapter_metadata": value})
        with pytest.raises(CheckpointError, match=r"a\.safetensors, lora_adapter_metadata"):
            load_adapter(path, made.model)


# -- ours in Diffusers -----------------------------------------------------------------------------


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("family", FAMILIES)
def test_what_we_save_diffusers_loads_with_the_same_result(
    family: str, layout: AdapterLayout, tmp_path: Path
) -> None:
    made = lora_by_diffusers(pair(family), alphas={"conv1": 2})
    theirs = drawn_by(made.theirs)
    found = load_adapter(saved_by_diffusers(made, tmp_path / "theirs"), made.model)
    path = tmp_path / "ours" / "ours.safetensors"
    save_adapter(found.adapter, path, made.model, layout=layout)
    again = loaded_by_diffusers(pair(family), path)
    assert drawn_by(again.theirs).distance(theirs) < NEAR
    back = load_adapter(path, made.model)
    assert drawn_with(made.model, back.adapter).distance(theirs) < NEAR


TAUGHT_FOR_DIFFUSERS: dict[str, tuple[str, ...]] = {
    "lora": ("transformer", "convolutions"),
    "dora": ("transformer", "convolutions"),
    "lokr": ("attention",),  # Diffusers reads none of convolutions
}


@pytest.mark.parametrize("kind", TAUGHT_FOR_DIFFUSERS)
@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_what_is_taught_here_diffusers_draws_with(family: str, kind: str, tmp_path: Path) -> None:
    made = pair(family)
    unet = made.model.network.unet
    paths = targets(unet, TAUGHT_FOR_DIFFUSERS[kind])
    deltas = trainable(unet, kind, paths, size=Size(rank=3))
    for delta in deltas.values():
        randomise(delta.requires_grad_(False), "")
    adapter = Adapter("taught", {"unet": deltas})
    ours = drawn_with(made.model, adapter)
    for layout in LAYOUTS if kind == "lora" else LAYOUTS[1:]:
        path = tmp_path / layout / "a.safetensors"
        save_adapter(adapter, path, made.model, layout=layout)
        theirs = drawn_by({"unet": loaded_by_diffusers(pair(family), path).unet})
        assert theirs.distance(ours, ("unet",)) < NEAR
    assert ours.distance(drawn_by({"unet": made.unet}), ("unet",)) > 0.02


@pytest.mark.slow
def test_a_dora_of_ours_is_one_to_diffusers(tmp_path: Path) -> None:
    targets = ["to_q", "to_v", "q_proj"]
    made = lora_by_diffusers(pair("sd15"), use_dora=True, target_modules=targets)
    theirs = drawn_by(made.theirs)
    found = load_adapter(saved_by_diffusers(made, tmp_path / "theirs"), made.model)
    path = tmp_path / "ours" / "ours.safetensors"
    save_adapter(found.adapter, path, made.model, layout="diffusers")
    again = loaded_by_diffusers(pair("sd15"), path)
    assert drawn_by(again.theirs).distance(theirs, ("unet",)) < NEAR
    # Transformers loses the magnitudes of its text encoders, of Diffusers' own file too.
    own = loaded_by_diffusers(
        pair("sd15"), tmp_path / "theirs" / "pytorch_lora_weights.safetensors"
    )
    assert drawn_by(own.theirs).distance(theirs, ("text_encoder",)) > 0.02
    assert drawn_by(own.theirs).distance(drawn_by(again.theirs)) < NEAR


def test_half_precision_keeps_the_adapter_within_its_rounding(tmp_path: Path) -> None:
    made = lora_by_diffusers(pair("sd15"))
    theirs = drawn_by(made.theirs)
    found = load_adapter(saved_by_diffusers(made, tmp_path), made.model)
    for dtype in (torch.float16, torch.bfloat16):
        path = tmp_path / "half.safetensors"
        save_adapter(found.adapter, path, made.model, dtype=dtype, metadata={"note": "half"})
        state = load_file(path)
        assert {t.dtype for n, t in state.items() if "lora_" in n.partition(".")[2]} == {dtype}
        assert {t.dtype for n, t in state.items() if n.endswith(".alpha")} == {torch.float32}
        half = load_adapter(path, made.model)
        assert half.adapter.about.metadata["note"] == "half"
        assert 0 < drawn_with(made.model, half.adapter).distance(theirs) < 0.05
    assert json.dumps(dict(found.adapter.about.metadata))
