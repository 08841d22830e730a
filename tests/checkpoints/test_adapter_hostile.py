"""Broken, forged and misplaced adapter files: refused by name, whole, with nothing run."""

import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

import hostile_files
from adapters_published import write
from safelight.checkpoints.adapter_build import MAX_RANK
from safelight.checkpoints.adapter_load import load_adapter
from safelight.checkpoints.adapter_remarks import FAMILY
from safelight.checkpoints.adapter_save import save_adapter
from safelight.checkpoints.inspect import inspect
from safelight.errors import CheckpointError, FileError, InputError, UnsafeFileError
from safelight.families import SD2_BASE, SD15, SD15_INPAINT, SDXL, Family

State = dict[str, Tensor]
QUERY = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
KEY = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"
WIDTH = 320


def lora(name: str = QUERY, out: int = WIDTH, inner: int = WIDTH, rank: int = 4) -> State:
    return {
        f"{name}.lora_up.weight": torch.ones(out, rank),
        f"{name}.lora_down.weight": torch.ones(rank, inner),
        f"{name}.alpha": torch.tensor(2.0),
    }


def refused(state: State, folder: Path, family: Family = SD15) -> str:
    """The one line with which a file is refused."""
    path = write(state, folder / "bad lora.safetensors")
    with pytest.raises(InputError) as caught:
        load_adapter(path, family)
    message = str(caught.value)
    assert "bad lora.safetensors" in message and message.isprintable()
    return message


BROKEN: dict[str, tuple[State, str]] = {
    "no down": (lora() | {f"{KEY}.lora_up.weight": torch.ones(320, 4)}, "has up but no down"),
    "no second half": ({f"{QUERY}.hada_w1_a": torch.ones(320, 4)}, "incomplete"),
    "half of lokr": ({f"{QUERY}.lokr_w1": torch.ones(4, 4)}, "incomplete"),
    "two kinds": (lora() | {f"{QUERY}.lokr_w1": torch.ones(4, 4)}, "do not belong together"),
    "ranks differ": (lora() | {f"{QUERY}.lora_up.weight": torch.ones(WIDTH, 5)}, "another shape"),
    "rank 0": (lora(rank=0), "damaged or forged"),
    "a vector": (lora() | {f"{QUERY}.lora_up.weight": torch.ones(WIDTH)}, "no change of a layer"),
    "huge rank": (lora(rank=MAX_RANK + 1), f"rank {MAX_RANK + 1}; at most {MAX_RANK}"),
    "other width": (lora(out=321), r"lora_up.weight \[321, 4\].* for a weight of \[320, 320\]"),
    "alpha is a list": (lora() | {f"{QUERY}.alpha": torch.ones(3)}, "expected one number"),
    "alpha is nan": (lora() | {f"{QUERY}.alpha": torch.tensor(float("nan"))}, "is nan; the file"),
    "whole numbers": (
        lora() | {f"{QUERY}.lora_up.weight": torch.ones(WIDTH, 4, dtype=torch.int8)},
        "quantised adapters are not supported",
    ),
    "vera": ({f"{QUERY}.vera_lambda_b": torch.ones(4)}, "a VeRA.* cannot be applied"),
    "old oft": ({f"{QUERY}.oft_diag": torch.ones(2, 4, 4)}, "an OFT of an early LyCORIS"),
    "odd oft": ({f"{QUERY}.oft_R.weight": torch.ones(40, 5)}, "no half of square blocks"),
    "odd ia3": ({f"{QUERY}.ia3_l": torch.ones(1, 320, 1, 1)}, "does not tell whether"),
    "blocks": ({f"{QUERY}.oft_blocks": torch.ones(2, 4, 4)}, "another shape"),
    "dora of another width": (lora() | {f"{QUERY}.dora_scale": torch.ones(9, 1)}, "another shape"),
    "a bias where is none": (lora() | {f"{QUERY}.diff_b": torch.ones(WIDTH)}, "another shape"),
    "bundle": (lora() | {"bundle_emb.cat.strange": torch.ones(2, 2, 2)}, "table of token vectors"),
}


@pytest.mark.parametrize("name", [n for n in BROKEN if n != "bundle"])
def test_a_broken_adapter_is_refused_in_one_line_that_names_it(name: str, tmp_path: Path) -> None:
    state, words = BROKEN[name]
    message = refused(state, tmp_path)
    assert re.search(words, message)
    seen = inspect(tmp_path / "bad lora.safetensors", hashes=False)
    assert seen.kind == "lora" and seen.problem is not None
    assert seen.problem.split(":")[-1] in message


def test_a_broken_embedding_beside_an_adapter_is_refused(tmp_path: Path) -> None:
    state, words = BROKEN["bundle"]
    with pytest.raises(CheckpointError, match=words):
        load_adapter(write(state, tmp_path / "a.safetensors"), SD15)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_number_that_is_none_is_refused_wherever_it_stands(value: float, tmp_path: Path) -> None:
    state = lora()
    state[f"{QUERY}.lora_down.weight"][3, 7] = value
    with pytest.raises(FileError, match=r"a\.safetensors: tensor .*lora_down.* NaN or infinity"):
        load_adapter(write(state, tmp_path / "a.safetensors"), SD15)


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    path = write(lora(), tmp_path / "a.safetensors")
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(FileError, match=r"a\.safetensors is truncated"):
        load_adapter(path, SD15)


@pytest.mark.parametrize("name", ["os-system", "exec", "stack-global", "newobj"])
def test_nothing_of_a_pickled_adapter_runs(name: str, tmp_path: Path) -> None:
    marker = tmp_path / hostile_files.MARKER
    path = tmp_path / "a.pt"
    path.write_bytes(hostile_files.CODE[name](marker))
    with pytest.raises(UnsafeFileError, match=r"a\.pt"):
        load_adapter(path, SD15)
    assert not marker.exists()


def test_a_tensor_that_is_larger_than_its_bytes_is_refused_before_it_is_read(
    tmp_path: Path,
) -> None:
    one = torch.zeros(1)
    state = {
        f"{QUERY}.lora_up.weight": one.expand(WIDTH, 10**9),
        f"{QUERY}.lora_down.weight": one.expand(10**9, WIDTH),
    }
    torch.save(state, tmp_path / "a.pt")
    with pytest.raises(FileError, match=r"a\.pt .* of shape \[320, 1000000000\] spread from 4"):
        load_adapter(tmp_path / "a.pt", SD15)


# -- of other models -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "width", "family"),
    [(SD2_BASE, 768, SD15), (SD15, 1024, SD2_BASE)],
    ids=["sd1 on sd2", "sd2 on sd1"],
)
def test_another_family_is_named_with_that_of_the_model(
    model: Family, width: int, family: Family, tmp_path: Path
) -> None:
    message = refused(lora(KEY, inner=width), tmp_path, model)
    assert f"is an adapter for {family.label} (context width {width})" in message
    other = model.backbone.context_width
    assert f"but the model is {model.label} (context width {other})" in message


def test_an_adapter_for_xl_names_both_families(tmp_path: Path) -> None:
    block = "lora_unet_input_blocks_4_1_transformer_blocks_0"
    state = lora(f"{block}_attn2_to_k", out=640, inner=2048) | lora(
        "lora_te2_text_model_encoder_layers_0_mlp_fc1", out=5120, inner=1280
    )
    message = refused(state, tmp_path)
    assert "Stable Diffusion XL (context width 2048)" in message
    assert "Stable Diffusion 1.x (context width 768)" in message
    found = load_adapter(tmp_path / "bad lora.safetensors", SDXL)
    assert (found.matched, found.total) == (6, 6)


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("lora_unet_double_blocks_0_img_attn_qkv", "Flux"),
        ("transformer.single_transformer_blocks.0.attn.to_q", "Flux"),
        ("lora_unet_joint_blocks_0_x_block_attn_qkv", "Stable Diffusion 3"),
        ("transformer.transformer_blocks.0.attn.add_q_proj", "Stable Diffusion 3"),
        ("down_blocks.0.motion_modules.0.temporal_transformer.proj_in", "AnimateDiff"),
        ("ip_adapter.3.to_q_lora", "an IP-Adapter"),
    ],
)
def test_an_adapter_of_no_unet_of_ours_is_named(name: str, model: str, tmp_path: Path) -> None:
    state = {f"{name}.lora_A.weight": torch.ones(4, 8), f"{name}.lora_B.weight": torch.ones(8, 4)}
    message = refused(state, tmp_path)
    assert f"it is for {model}" in message and "Stable Diffusion 1.x" in message
    assert message.startswith("none of the 2 tensors of")


def test_layers_of_an_unknown_model_are_shown(tmp_path: Path) -> None:
    message = refused(lora("lora_unet_strange_layer"), tmp_path)
    assert "a model that is not known here" in message and "lora_unet_strange_layer" in message


def test_a_family_that_only_the_metadata_knows_is_named(tmp_path: Path) -> None:
    path = write(lora("lora_unet_strange"), tmp_path / "a.safetensors", {FAMILY: "a model of mine"})
    with pytest.raises(CheckpointError, match="it is for a model of mine; its layers"):
        load_adapter(path, SD15)


def test_what_is_no_adapter_is_named(tmp_path: Path) -> None:
    whole = lora() | {"model.diffusion_model.input_blocks.0.0.weight": torch.ones(1)}
    with pytest.raises(CheckpointError, match=r"whole\.safetensors is no adapter .* but model"):
        load_adapter(write(whole, tmp_path / "whole.safetensors"), SD15)
    save_file({"emb_params": torch.ones(2, 768)}, tmp_path / "word.safetensors")
    with pytest.raises(CheckpointError, match=r"word\.safetensors is no adapter .* textual inv"):
        load_adapter(tmp_path / "word.safetensors", SD15)
    with pytest.raises(FileError, match="holds no adapter: expected pytorch_lora_weights"):
        load_adapter(tmp_path, SD15)


def test_a_layer_that_is_changed_twice_is_refused(tmp_path: Path) -> None:
    twice = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
    state = lora() | {
        f"{twice}.lora_A.weight": torch.ones(4, WIDTH),
        f"{twice}.lora_B.weight": torch.ones(WIDTH, 4),
    }
    assert "twice: as lora_unet_down" in refused(state, tmp_path)


# -- what is odd and still of use ------------------------------------------------------------------


def test_keys_without_a_place_are_listed_and_counted(tmp_path: Path) -> None:
    strange = {"lora_unet_down_blocks_9_resnets_0_conv1.alpha": torch.tensor(1.0)}
    path = write(lora() | strange | {"epoch": torch.tensor(3.0)}, tmp_path / "a.safetensors")
    found = load_adapter(path, SD15)
    assert (found.matched, found.total) == (3, 5)
    assert set(found.unmatched) == {*strange, "epoch"}
    assert "matched 3 of 5 tensors (60.0 %)" in found.summary
    assert any("2 tensors without a place" in note for note in found.notes)


def test_of_many_keys_without_a_place_a_few_are_named_and_where_to_see_all(tmp_path: Path) -> None:
    strange = {f"lora_unet_lost_{n}.alpha": torch.tensor(1.0) for n in range(7)}
    found = load_adapter(write(lora() | strange, tmp_path / "a.safetensors"), SD15)
    (note,) = [note for note in found.notes if "without a place" in note]
    assert note.startswith("7 tensors") and "and 2 more (safelight inspect --json names" in note
    seen = inspect(tmp_path / "a.safetensors", hashes=False)
    assert seen.adapter is not None and set(seen.adapter.unmatched) == strange.keys()


def test_names_that_only_begin_as_those_of_an_adapter_match_nothing(tmp_path: Path) -> None:
    state = {f"{name}x": tensor for name, tensor in lora().items()}
    message = refused(state, tmp_path)
    assert message.startswith("none of the 3 tensors of ") and "so 0 % of it can be used" in message


def test_the_last_block_of_sd2_is_left_out_and_said(tmp_path: Path) -> None:
    block = "lora_te_text_model_encoder_layers_{}_mlp_fc1"
    state = lora(block.format(22), 4096, 1024) | lora(block.format(23), 4096, 1024)
    found = load_adapter(write(state, tmp_path / "a.safetensors"), SD2_BASE)
    assert (found.matched, found.total, found.unmatched) == (3, 3, ())
    assert any("3 tensors for the text encoder's last block" in note for note in found.notes)


def test_linear_tensors_change_convolutions_of_one_pixel_and_the_reverse(tmp_path: Path) -> None:
    name = "lora_unet_down_blocks_0_attentions_0_proj_in"
    flat = lora(name)
    deep = {n: t[..., None, None] if t.ndim == 2 else t for n, t in flat.items()}
    for state in (flat, deep):
        for family in (SD15, SD2_BASE):  # a convolution in one, linear in the other
            found = load_adapter(write(state, tmp_path / "a.safetensors"), family)
            assert found.matched == 3


def test_an_adapter_of_the_first_layer_fits_an_inpainting_model(tmp_path: Path) -> None:
    state = {
        "lora_unet_conv_in.lora_up.weight": torch.ones(320, 2, 1, 1),
        "lora_unet_conv_in.lora_down.weight": torch.ones(2, 4, 3, 3),
    }
    path = write(state, tmp_path / "a.safetensors")
    plain = load_adapter(path, SD15).adapter.deltas["unet"]["conv_in"]
    wide = load_adapter(path, SD15_INPAINT).adapter.deltas["unet"]["conv_in"]
    before = plain.change(torch.zeros(320, 4, 3, 3))
    after = wide.change(torch.zeros(320, 9, 3, 3))
    assert torch.equal(after[:, :4], before) and not after[:, 4:].any() and before.any()


def test_an_alpha_of_zero_is_taken_at_its_word_and_said(tmp_path: Path) -> None:
    state = lora() | {f"{QUERY}.alpha": torch.tensor(0.0)}
    found = load_adapter(write(state, tmp_path / "a.safetensors"), SD15)
    (delta,) = found.adapter.deltas["unet"].values()
    assert not delta.change(torch.ones(WIDTH, WIDTH)).any()
    assert any("an alpha of 0" in note for note in found.notes)


def test_eight_bits_are_widened(tmp_path: Path) -> None:
    state = {n: t.to(torch.float8_e4m3fn) if t.ndim else t for n, t in lora().items()}
    found = load_adapter(write(state, tmp_path / "a.safetensors"), SD15)
    (delta,) = found.adapter.deltas["unet"].values()
    assert {p.dtype for p in delta.parameters()} == {torch.float16}
    assert torch.equal(delta.change(torch.zeros(WIDTH, WIDTH)), torch.full((WIDTH, WIDTH), 2.0))


def test_embeddings_beside_an_adapter_come_with_it(tmp_path: Path) -> None:
    state = lora() | {
        "bundle_emb.cat.string_to_param.*": torch.ones(3, 768),
        "bundle_emb.dog.clip_l": torch.ones(2, 768),
        "bundle_emb.dog.clip_g": torch.ones(2, 1280),
    }
    found = load_adapter(write(state, tmp_path / "a.safetensors"), SD15)
    assert (found.matched, found.total) == (3, 3)
    assert [(e.token, e.widths, e.length) for e in found.embeddings] == [
        ("cat", (768,), 3),
        ("dog", (768, 1280), 2),
    ]
    assert any("cat, dog" in note for note in found.notes)


def test_dora_says_which_norm_it_takes_and_keeps_it(tmp_path: Path) -> None:
    state = lora() | {f"{QUERY}.dora_scale": torch.ones(WIDTH, 1)}
    path = write(state, tmp_path / "a.safetensors")
    found = load_adapter(path, SD15)
    assert any(
        "norm of the changed weight; programs" in n and "dora=base" in n for n in found.notes
    )
    other = load_adapter(path, SD15, norm="base")
    assert any("norm of the base weight" in note for note in other.notes)
    save_adapter(other.adapter, tmp_path / "b.safetensors", SD15)
    again = load_adapter(tmp_path / "b.safetensors", SD15)
    (delta,) = again.adapter.deltas["unet"].values()
    assert delta.norm == "base"  # type: ignore[attr-defined]


def test_a_name_for_messages_may_be_given(tmp_path: Path) -> None:
    path = write(lora(), tmp_path / "a.safetensors")
    assert load_adapter(path, SD15, name="x").adapter.name == "x"
    assert load_adapter(path, SD15).adapter.name == "a"
