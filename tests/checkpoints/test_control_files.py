"""Control networks are read from every layout that is published, and nothing else is."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers.models.adapter import T2IAdapter as TheirAdapter
from diffusers.models.controlnets.controlnet import ControlNetModel
from diffusers.models.controlnets.controlnet_union import ControlNetUnionModel
from safetensors.torch import save_file
from torch import Tensor, nn

from controls_on_disk import (
    WIDTHS,
    adapter,
    controlnet,
    low_rank,
    original_adapter,
    original_controlnet,
    unet,
    union,
)
from controls_tiny import controlnet_twins
from models_tiny import distance, random
from on_disk import assert_equal
from safelight.checkpoints.control_load import LoadedControl, check_fits, load_control
from safelight.checkpoints.control_measure import measured_controlnet
from safelight.checkpoints.control_rows import controlnet_rows
from safelight.checkpoints.control_save import save_control
from safelight.checkpoints.inspect import inspect
from safelight.checkpoints.json_object import JsonObject
from safelight.checkpoints.keymap import KeyMap
from safelight.checkpoints.kinds import kind_of
from safelight.checkpoints.parts import shapes_of
from safelight.checkpoints.unet_json import unet_from_json
from safelight.condition import Condition, Control
from safelight.errors import CheckpointError, FileError, RequestError
from safelight.families import SD15, SDXL
from safelight.model import Model
from safelight.models.backbone import Backbone
from safelight.models.controlnet import ControlNet, ControlNetConfig, UnionConfig
from safelight.models.t2i_adapter import T2IAdapter
from safelight.models.unet import UNet

pytestmark = pytest.mark.slow

State = dict[str, Tensor]


def dumped(state: State, path: Path) -> Path:
    """A file of the kind that its name says."""
    state = {name: tensor.contiguous().clone() for name, tensor in state.items()}
    if path.suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save({"state_dict": state, "global_step": 3}, path)
    return path


def own(made: nn.Module) -> State:
    state = made.state_dict()
    return {name.removeprefix("adapter."): tensor for name, tensor in state.items()}


def our_unet(family: str) -> UNet:
    theirs = unet(family)
    mine = UNet(unet_from_json(JsonObject(dict(theirs.config), "test")))
    mine.load_state_dict(theirs.state_dict())
    return mine.eval().requires_grad_(False)


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
@pytest.mark.parametrize("layout", ["diffusers", "original", "prefixed", "pickled"])
def test_a_controlnet_is_the_same_from_every_layout(
    family: str, layout: str, tmp_path: Path
) -> None:
    made = controlnet(family)
    state = made.state_dict()
    if layout == "diffusers":
        path = dumped(state, tmp_path / "canny.safetensors")
    elif layout == "original":
        path = dumped(original_controlnet(state), tmp_path / "canny.safetensors")
    elif layout == "prefixed":
        path = dumped(original_controlnet(state, "control_model."), tmp_path / "canny.safetensors")
    else:
        path = dumped(original_controlnet(state, "control_model."), tmp_path / "canny.pth")
    loaded = load_control(path)
    assert loaded.kind == "ControlNet" and isinstance(loaded.network, ControlNet)
    assert_equal(loaded.network.state_dict(), state)
    assert loaded.network.control.widths == WIDTHS
    assert loaded.report.used == len(state) and not loaded.report.unknown
    assert loaded.name == path.name and len(loaded.files[0].sha256) == 64


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
@pytest.mark.parametrize("safe", [True, False])
def test_a_folder_of_diffusers_says_what_shapes_do_not(
    family: str, safe: bool, tmp_path: Path
) -> None:
    made = controlnet(
        family,
        global_pool_conditions=True,
        controlnet_conditioning_channel_order="bgr",
        norm_eps=1e-4,
    )
    made.save_pretrained(tmp_path / "shuffle", safe_serialization=safe)
    loaded = load_control(tmp_path / "shuffle")
    assert isinstance(loaded.network, ControlNet)
    control = loaded.network.control
    assert control.global_pool and control.bgr and control.encoder.norm_eps == 1e-4
    assert_equal(loaded.network.state_dict(), made.state_dict())
    assert loaded.name == "shuffle" and loaded.report.layout == "Diffusers folder"


@torch.no_grad()
def test_what_is_measured_from_a_file_computes_what_diffusers_does(tmp_path: Path) -> None:
    made = controlnet("sd2")
    path = dumped(original_controlnet(made.state_dict()), tmp_path / "depth.safetensors")
    network = load_control(path).network
    x, context, image = random(2, 4, 8, 8), random(2, 7, 128), random(2, 3, 64, 64)
    time = torch.tensor([801.0, 20.5])
    down, mid = made(x, time, context, image, return_dict=False)
    ours = network(x, time, context, seen=network.look(image))
    assert ours.mid is not None
    for mine, theirs in zip((*ours.skips, ours.mid), (*down, mid), strict=True):
        assert distance(mine, theirs) < 1e-4


def test_a_file_beside_its_config_is_read_by_it(tmp_path: Path) -> None:
    made = controlnet("sd1", global_pool_conditions=True)
    made.save_pretrained(tmp_path)
    loaded = load_control(tmp_path / "diffusion_pytorch_model.safetensors")
    assert isinstance(loaded.network, ControlNet) and loaded.network.control.global_pool


def test_a_shuffle_is_taken_for_one_by_its_name_and_that_is_said(tmp_path: Path) -> None:
    state = original_controlnet(controlnet("sd1").state_dict())
    loaded = load_control(dumped(state, tmp_path / "control_v11e_sd15_shuffle.pth"))
    assert isinstance(loaded.network, ControlNet) and loaded.network.control.global_pool
    assert "by its name" in loaded.notes[0]
    assert "by its name" in inspect(tmp_path / "control_v11e_sd15_shuffle.pth").notes[0]


def test_a_whole_model_beside_a_controlnet_is_left_out_and_that_is_said(tmp_path: Path) -> None:
    made = controlnet("sd1")
    state = original_controlnet(made.state_dict(), "control_model.")
    state |= {f"model.diffusion_model.out.2.{n}": torch.ones(4) for n in ("weight", "bias")}
    loaded = load_control(dumped(state, tmp_path / "control_sd15_canny.pth"))
    assert_equal(loaded.network.state_dict(), made.state_dict())
    assert loaded.report.unknown == (("model", 2),)
    assert loaded.notes == ("2 tensors beside the ControlNet belong to a model and are not used",)


@pytest.mark.parametrize("layout", ["diffusers", "folder"])
@torch.no_grad()
def test_a_union_is_the_same_from_every_layout(layout: str, tmp_path: Path) -> None:
    made = union()
    if layout == "folder":
        made.save_pretrained(tmp_path / "union")
        path = tmp_path / "union"
    else:
        path = dumped(made.state_dict(), tmp_path / "union.safetensors")
    loaded = load_control(path)
    assert loaded.kind == "union ControlNet" and isinstance(loaded.network, ControlNet)
    assert loaded.network.control.union == UnionConfig(types=8, width=12, layers=1, sinusoid=8)
    assert_equal(loaded.network.state_dict(), made.state_dict())


@pytest.mark.parametrize("kind", ["full_adapter", "light_adapter", "full_adapter_xl"])
@pytest.mark.parametrize("layout", ["original", "pickled", "diffusers", "folder"])
@torch.no_grad()
def test_an_adapter_is_the_same_from_every_layout(kind: str, layout: str, tmp_path: Path) -> None:
    made = adapter(kind)
    if layout == "folder":
        made.save_pretrained(tmp_path / "a")
        path = tmp_path / "a"
    elif layout == "diffusers":
        path = dumped(made.state_dict(), tmp_path / "a.safetensors")
    else:
        suffix = "pth" if layout == "pickled" else "safetensors"
        path = dumped(original_adapter(made), tmp_path / f"a.{suffix}")
    loaded = load_control(path)
    assert loaded.kind == "T2I-Adapter" and isinstance(loaded.network, T2IAdapter)
    assert ("SDXL" in loaded.made_for) == (kind == "full_adapter_xl")
    assert_equal(loaded.network.state_dict(), own(made))
    image = random(1, 3, 64, 64)
    for mine, theirs in zip(loaded.network.look(image), made(image), strict=True):
        assert distance(mine, theirs) < 1e-4


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_weights_are_read_in_the_type_that_is_asked_for(dtype: torch.dtype, tmp_path: Path) -> None:
    state = {n: t.half() for n, t in controlnet("sd1").state_dict().items()}
    path = dumped(original_controlnet(state), tmp_path / "half.safetensors")
    loaded = load_control(path, dtype=dtype)
    assert {p.dtype for p in loaded.network.parameters()} == {dtype}
    assert {p.dtype for p in load_control(path).network.parameters()} == {torch.float32}
    base = our_unet("sd1").to(dtype)
    assert load_control(path, base=base).network.dtype == dtype  # type: ignore[union-attr]


@pytest.mark.parametrize("mark", ["difference", "control_model.difference"])
def test_a_difference_is_added_to_the_model_it_is_given(mark: str, tmp_path: Path) -> None:
    made, base = controlnet("sd1"), unet("sd1")
    shared = base.state_dict()
    state = {n: t - shared[n] if n in shared else t for n, t in made.state_dict().items()}
    file = original_controlnet(state, "control_model.") | {mark: torch.zeros(())}
    path = dumped(file, tmp_path / "diff.safetensors")
    loaded = load_control(path, base=our_unet("sd1"))
    for name, tensor in loaded.network.state_dict().items():
        torch.testing.assert_close(tensor, made.state_dict()[name], atol=1e-5, rtol=0)
    with pytest.raises(CheckpointError, match=r"a difference to a model, for .*; give the model"):
        load_control(path)
    with pytest.raises(CheckpointError, match="the given model reads text 192 wide"):
        load_control(path, base=our_unet("sdxl"))
    assert "needs the model it is for" in inspect(path).reason


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
@torch.no_grad()
def test_a_control_lora_is_the_controlnet_it_stands_for(family: str, tmp_path: Path) -> None:
    base, made = unet(family), controlnet(family)
    file, whole = low_rank(base, made)
    mine = our_unet(family)
    path = dumped(file, tmp_path / "control-lora-canny.safetensors")
    loaded = load_control(path, base=mine)
    assert loaded.kind == "ControlLoRA" and isinstance(loaded.network, ControlNet)
    assert loaded.report.used == len(file) - 1
    reference = ControlNet(loaded.network.control).eval()
    reference.load_state_dict(whole)
    width, vector = (64, None) if family == "sd1" else (192, random(2, 176, seed=4))
    x, context, image = random(2, 4, 8, 8), random(2, 7, width), random(2, 3, 64, 64)
    time = torch.tensor([801.0, 20.5])
    ours, theirs = (
        net(x, time, context, vector, seen=net.look(image)) for net in (loaded.network, reference)
    )
    assert ours.mid is not None and theirs.mid is not None
    for a, b in zip((*ours.skips, ours.mid), (*theirs.skips, theirs.mid), strict=True):
        assert distance(a, b) < 1e-3
    plain = _without_changes(loaded.network)
    assert distance(plain(x, time, context, vector, seen=plain.look(image)).mid, theirs.mid) > 0.05
    key = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q.weight"
    shared = loaded.network.get_parameter(key)
    assert shared.data_ptr() == mine.get_parameter(key).data_ptr()


def _without_changes(network: ControlNet) -> ControlNet:
    for module in network.modules():
        if hasattr(module, "deltas"):
            module.deltas.clear()  # type: ignore[operator]
    return network


def test_a_control_lora_needs_its_model(tmp_path: Path) -> None:
    file, _ = low_rank(unet("sdxl"), controlnet("sdxl"))
    path = dumped(file, tmp_path / "lora.safetensors")
    with pytest.raises(CheckpointError, match=r"is a ControlLoRA, for .*; give the model"):
        load_control(path)
    with pytest.raises(CheckpointError, match="the given model reads text 64 wide"):
        load_control(path, base=our_unet("sd1"))
    seen = inspect(path)
    assert seen.kind == "controlnet" and seen.problem is None and "ControlLoRA" in seen.reason
    file["input_blocks.1.0.in_layers.9.weight"] = torch.zeros(3)
    dumped(file, path)
    with pytest.raises(CheckpointError, match=r"1 tensors have no place .*in_layers\.9"):
        load_control(path, base=our_unet("sdxl"))
    del file["input_blocks.1.0.in_layers.9.weight"]
    del file["input_blocks.1.0.in_layers.2.up"]
    with pytest.raises(CheckpointError, match=r"change of input_blocks.1.0.in_layers.2 is incom"):
        load_control(dumped(file, path), base=our_unet("sdxl"))


def test_surplus_and_missing_tensors_are_named(tmp_path: Path) -> None:
    state = original_controlnet(controlnet("sd1").state_dict())
    state["control_surprise.weight"] = torch.zeros(2)
    del state["zero_convs.3.0.bias"]
    state["middle_block_out.0.bias"] = torch.zeros(3)
    path = dumped(state, tmp_path / "odd.safetensors")
    with pytest.raises(CheckpointError) as caught:
        load_control(path)
    for words in (
        "ControlNet for a model of its own (context width 64)",
        "1 missing: zero_convs.3.0.bias",
        "1 surplus: control_surprise.weight",
        "middle_block_out.0.bias is [3] instead of [96]",
    ):
        assert words in str(caught.value)
    assert "1 tensor missing, 1 surplus, 1 of another shape" in (inspect(path).problem or "")


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ({"lora_unet_mid_block_attentions_0_proj_in.hada_w1_a": (32, 4)}, "no control network"),
        ({"control_model.input_hint_block.0.weight": (16, 3, 3, 3)}, "way down ends without"),
        ({"body.0.block1.weight": (32, 32, 3, 3)}, "no first convolution"),
        (
            {"body.0.block1.weight": (32, 32, 3, 3), "conv_in.weight": (32, 100, 3, 3)},
            "begins with 100 channels",
        ),
        (
            {"body.0.block1.weight": (32, 32, 3, 3), "conv_in.weight": (32, 64, 3, 3)},
            "does not fit|cannot be built",
        ),
        ({"lllite_unet_input_blocks_4_1.down.0.weight": (4, 4)}, "LLLite"),
    ],
)
def test_what_is_no_control_network_is_refused_in_words(
    state: dict[str, tuple[int, ...]], words: str, tmp_path: Path
) -> None:
    path = dumped({n: torch.zeros(s) for n, s in state.items()}, tmp_path / "f.safetensors")
    with pytest.raises(CheckpointError, match=words) as caught:
        load_control(path)
    assert "f.safetensors" in str(caught.value) and "\n" not in str(caught.value)
    assert inspect(path).problem or inspect(path).kind not in ("controlnet", "t2i adapter")


def test_a_quantised_or_poisoned_file_is_refused(tmp_path: Path) -> None:
    state = original_controlnet(controlnet("sd1").state_dict())
    quantised = state | {"zero_convs.0.0.bias": torch.zeros(32, dtype=torch.int8)}
    with pytest.raises(CheckpointError, match=r"stored as torch.int8"):
        load_control(dumped(quantised, tmp_path / "q.safetensors"))
    poisoned = state | {"zero_convs.0.0.bias": torch.full((32,), torch.nan)}
    with pytest.raises(FileError, match="zero_convs"):
        load_control(dumped(poisoned, tmp_path / "p.safetensors"))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"_class_name": "SparseControlNetModel"}, "is of SparseControlNetModel; expected"),
        ({"controlnet_conditioning_channel_order": "gbr"}, "order is gbr; expected rgb or bgr"),
        ({"conditioning_embedding_out_channels": []}, "cannot read 3 channels"),
        ({"conditioning_embedding_out_channels": [4] * 99}, "expected at most 16 numbers"),
        ({"act_fn": "gelu"}, "act_fn"),
        ({"encoder_hid_dim": 5}, "encoder_hid_dim"),
    ],
)
def test_a_config_that_ours_cannot_be_is_refused(
    change: dict[str, object], words: str, tmp_path: Path
) -> None:
    controlnet("sd1").save_pretrained(tmp_path)
    config = tmp_path / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | change))
    with pytest.raises(CheckpointError, match=words):
        load_control(tmp_path)


def test_a_folder_without_a_config_says_where_one_is(tmp_path: Path) -> None:
    controlnet("sd1").save_pretrained(tmp_path / "controlnet")
    with pytest.raises(FileError, match=r"did you mean .*controlnet"):
        load_control(tmp_path)


def test_a_control_for_another_family_is_an_error_that_names_both(
    small: Model, tmp_path: Path
) -> None:
    path = dumped(controlnet("sdxl").state_dict(), tmp_path / "canny-xl.safetensors")
    loaded = load_control(path)
    check_fits(loaded, replace(small, family=SDXL, network=Backbone(our_unet("sdxl"))))
    with pytest.raises(CheckpointError) as caught:
        check_fits(loaded, replace(small, family=SD15, network=Backbone(our_unet("sd1"))))
    for words in ("canny-xl.safetensors is a ControlNet for", "192", "Stable Diffusion 1.x", "768"):
        assert words in str(caught.value)


@pytest.mark.parametrize("layout", ["diffusers", "ldm"])
@pytest.mark.parametrize("which", ["sd1", "sdxl", "union", "light_adapter", "full_adapter_xl"])
def test_what_is_saved_is_read_back_whole(which: str, layout: str, tmp_path: Path) -> None:
    made: nn.Module
    if which == "union":
        made = union()
    else:
        made = adapter(which) if "adapter" in which else controlnet(which)
    source = dumped(made.state_dict(), tmp_path / "in.safetensors")
    loaded = load_control(source)
    target = tmp_path / ("out" if layout == "diffusers" else "out.safetensors")
    save_control(loaded.network, target, layout, size_width=8)  # type: ignore[arg-type]
    again = load_control(target)
    assert_equal(again.network.state_dict(), loaded.network.state_dict())
    assert _config(again) == _config(loaded)


def _config(loaded: LoadedControl) -> object:
    network = loaded.network
    return network.control if isinstance(network, ControlNet) else network.config


@pytest.mark.parametrize("which", ["sd1", "sdxl", "union", "light_adapter", "full_adapter_xl"])
def test_diffusers_reads_what_is_saved(which: str, tmp_path: Path) -> None:
    made: nn.Module
    if which == "union":
        made, kind = union(), ControlNetUnionModel
    elif "adapter" in which:
        made, kind = adapter(which), TheirAdapter
    else:
        made, kind = controlnet(which), ControlNetModel
    loaded = load_control(dumped(made.state_dict(), tmp_path / "in.safetensors"))
    save_control(loaded.network, tmp_path / "out", size_width=8)
    theirs = kind.from_pretrained(tmp_path / "out")
    assert_equal(dict(theirs.state_dict()), dict(made.state_dict()))


def test_a_network_without_groups_of_32_is_read_back_by_the_config_in_its_file(
    tmp_path: Path,
) -> None:
    mine = controlnet_twins("sd15")[0]
    save_control(mine, tmp_path / "own.safetensors", "ldm")
    again = load_control(tmp_path / "own.safetensors")
    assert isinstance(again.network, ControlNet) and again.network.control == mine.control
    with pytest.raises(RequestError, match="choose diffusers or ldm"):
        save_control(mine, tmp_path / "x", "comfy")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("config", "tensors", "names"),
    [
        (
            ControlNetConfig(SD15.backbone),
            340,
            {
                "input_hint_block.14.bias": (320,),
                "zero_convs.11.0.weight": (1280, 1280, 1, 1),
                "middle_block_out.0.bias": (1280,),
                "input_blocks.8.1.transformer_blocks.0.attn2.to_k.weight": (1280, 768),
            },
        ),
        (
            ControlNetConfig(SDXL.backbone),
            844,
            {
                "zero_convs.8.0.weight": (1280, 1280, 1, 1),
                "label_emb.0.0.weight": (1280, 2816),
                "input_blocks.8.1.transformer_blocks.9.ff.net.2.bias": (1280,),
            },
        ),
        (
            ControlNetConfig(SDXL.backbone, union=UnionConfig(types=8)),
            863,
            {
                "task_embedding": (8, 320),
                "transformer_layes.0.attn.in_proj_weight": (960, 320),
                "control_add_embedding.linear_1.weight": (1280, 2048),
                "spatial_ch_projs.weight": (320, 320),
            },
        ),
    ],
    ids=["SD 1.x", "XL", "union"],
)
def test_published_sizes_have_the_published_names_and_are_measured_from_them(
    config: ControlNetConfig, tensors: int, names: dict[str, tuple[int, ...]]
) -> None:
    ours = shapes_of(config)
    shapes = {
        link.theirs: link.op.shape([ours[n] for n in link.ours])
        for link in KeyMap(controlnet_rows(config)).links(ours)
    }
    assert len(shapes) == tensors
    assert names.items() <= shapes.items()
    measured = measured_controlnet(shapes)
    assert measured == config
    assert kind_of({f"control_model.{n}": s for n, s in shapes.items()}).kind == "controlnet"


@torch.no_grad()
def test_a_loaded_control_changes_the_model_it_is_attached_to(tmp_path: Path) -> None:
    theirs, made = unet("sd1"), controlnet("sd1")
    loaded = load_control(dumped(made.state_dict(), tmp_path / "c.safetensors"))
    network = Backbone(our_unet("sd1"), control_networks={"c": loaded.network})
    x, image = random(1, 4, 8, 8), random(1, 3, 64, 64).sigmoid()
    told = Condition(random(1, 7, 64), controls=(Control("c", image),))
    down, mid = made(x, 500.0, told.context, image, return_dict=False)
    reference = theirs(
        x,
        500.0,
        told.context,
        down_block_additional_residuals=down,
        mid_block_additional_residual=mid,
    ).sample
    assert distance(network(x, torch.tensor([500.0]), told), reference) < 1e-4
