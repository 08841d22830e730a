"""`safelight merge` writes what its formula says, from any layout to any other, and tells how."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from cli_tiny import SMALL, Cli, files, pixels, tiny_model
from safelight.checkpoints.hashes import folder_sha256, sha256
from safelight.checkpoints.save import save

pytestmark = pytest.mark.slow

UNET, VAE, TEXT = "model.diffusion_model.", "first_stage_model.", "cond_stage_model."
State = dict[str, Tensor]


@pytest.fixture(scope="module")
def trio(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three models of one shape: a, b and c as files, b also as the folder bdir."""
    folder = tmp_path_factory.mktemp("trio")
    for seed, name in enumerate("abc"):
        save(tiny_model(seed), folder / f"{name}.safetensors", "ldm")
    save(tiny_model(1), folder / "bdir", "diffusers")
    return folder


@pytest.fixture
def states(trio: Path) -> tuple[State, State, State]:
    a, b, c = (load_file(trio / f"{name}.safetensors") for name in "abc")
    return a, b, c


def told(path: Path | str) -> dict[str, str]:
    with safe_open(path, "pt") as file:
        return dict(file.metadata())


def assert_close(ours: State, wanted: Callable[[str], Tensor]) -> None:
    for name, tensor in ours.items():
        assert torch.allclose(tensor, wanted(name), atol=1e-6), name


# -- what comes out --------------------------------------------------------------------------------


@pytest.mark.parametrize("other", ["b.safetensors", "bdir"])
def test_a_weight_of_0_gives_the_bits_of_the_first_model(
    safelight: Cli, trio: Path, states: tuple[State, ...], other: str
) -> None:
    ran = safelight("merge", trio / "a.safetensors", f"{trio / other},weight=0", "m.safetensors")
    assert ran.code == 0, ran.err
    merged = load_file("m.safetensors")
    assert merged.keys() == states[0].keys()
    assert all(torch.equal(merged[name], states[0][name]) for name in merged)


@pytest.mark.parametrize("other", ["b.safetensors", "bdir"])
def test_a_sum_is_the_same_from_every_layout(
    safelight: Cli, trio: Path, states: tuple[State, ...], other: str
) -> None:
    a, b, _ = states
    args = (trio / "a.safetensors", f"{trio / other},weight=0.3", "m.safetensors")
    ran = safelight("merge", *args)
    assert ran.code == 0 and ran.out.startswith("m.safetensors  ")
    assert_close(load_file("m.safetensors"), lambda name: 0.7 * a[name] + 0.3 * b[name])


def test_three_models_without_weights_are_their_mean(
    safelight: Cli, trio: Path, states: tuple[State, ...]
) -> None:
    models = [trio / f"{name}.safetensors" for name in "abc"]
    assert safelight("merge", *models, "m.safetensors").code == 0
    merged = load_file("m.safetensors")
    assert_close(merged, lambda name: sum(s[name] for s in states) / 3)  # type: ignore[arg-type,return-value]


def test_a_folder_holds_the_same_model_as_a_file(safelight: Cli, trio: Path) -> None:
    models = (trio / "a.safetensors", f"{trio / 'b.safetensors'},weight=0.4")
    assert safelight("merge", *models, "one.safetensors").code == 0
    assert safelight("merge", *models, "folder").code == 0
    assert safelight("convert", "folder", "again.safetensors").code == 0
    one, again = load_file("one.safetensors"), load_file("again.safetensors")
    assert one.keys() == again.keys() and all(torch.equal(one[n], again[n]) for n in one)
    pictures = []
    for model in ("one.safetensors", "folder"):
        out = f"{model}.png"
        assert safelight("generate", "an apple", "-m", model, *SMALL, "-o", out).code == 0
        pictures.append(pixels(out))
    assert np.array_equal(*pictures)


def test_a_difference_is_added(safelight: Cli, trio: Path, states: tuple[State, ...]) -> None:
    a, b, c = states
    args = (trio / "a.safetensors", f"{trio / 'bdir'},weight=0.7", "m.safetensors")
    ran = safelight("merge", *args, "--method", "difference", "--base", trio / "c.safetensors")
    assert ran.code == 0, ran.err
    assert_close(load_file("m.safetensors"), lambda name: a[name] + 0.7 * (b[name] - c[name]))


@pytest.mark.parametrize("method", ["slerp", "ties", "dare", "dare-ties"])
def test_every_other_method_runs_and_repeats_itself_to_the_byte(
    safelight: Cli, trio: Path, method: str
) -> None:
    models = (trio / "a.safetensors", f"{trio / 'b.safetensors'},weight=0.6")
    base = () if method == "slerp" else ("--base", trio / "c.safetensors")
    for place in ("x", "y"):
        ran = safelight("merge", *models, f"{place}/m.safetensors", "--method", method, *base)
        assert ran.code == 0, ran.err
    assert Path("x/m.safetensors").read_bytes() == Path("y/m.safetensors").read_bytes()
    merged, a = load_file("x/m.safetensors"), load_file(trio / "a.safetensors")
    assert not any(torch.equal(merged[name], a[name]) for name in merged)


def test_dare_is_another_with_another_seed(safelight: Cli, trio: Path) -> None:
    args = ("merge", trio / "a.safetensors", "--method", "dare", "--base", trio / "c.safetensors")
    for seed in (1, 2):
        assert safelight(*args, "--seed", seed, f"{seed}.safetensors").code == 0
    assert told("1.safetensors") != told("2.safetensors")
    one, two = (load_file(f"{seed}.safetensors") for seed in (1, 2))
    name = f"{UNET}middle_block.0.in_layers.2.weight"
    assert not torch.equal(one[name], two[name])


def test_ties_of_one_model_takes_its_largest_changes(
    safelight: Cli, trio: Path, states: tuple[State, ...]
) -> None:
    a, _, c = states
    args = ("--method", "ties", "--base", trio / "c.safetensors", "--density", "0.1")
    assert safelight("merge", trio / "a.safetensors", "m.safetensors", *args).code == 0
    merged = load_file("m.safetensors")
    for name, base in c.items():
        kept = merged[name] != base
        assert int(kept.sum()) <= int(0.1 * base.numel())
        assert torch.allclose(merged[name][kept], a[name][kept], atol=1e-6)
        if kept.any():
            change = (a[name] - base).abs()
            assert change[kept].min() >= change[~kept].max() - 1e-6


def test_parts_and_blocks_have_their_own_weights(
    safelight: Cli, trio: Path, states: tuple[State, ...]
) -> None:
    a, b, _ = states
    one = f"{trio / 'bdir'},weight=0.5,vae=0,text=1,blocks=M00:0.25,up_blocks.1:0.75"
    ran = safelight("merge", trio / "a.safetensors", one, "m.safetensors")
    assert ran.code == 0, ran.err

    def share(name: str) -> float:
        if not name.startswith(UNET):
            return 0.0 if name.startswith(VAE) else 1.0
        if "middle_block" in name:
            return 0.25
        last = ("output_blocks.2.", "output_blocks.3.")
        return 0.75 if name.removeprefix(UNET).startswith(last) else 0.5

    merged = load_file("m.safetensors")
    assert {share(name) for name in merged} == {0.0, 0.25, 0.5, 0.75, 1.0}
    assert_close(merged, lambda name: torch.lerp(a[name], b[name], share(name)))
    exact = [name for name in merged if share(name) == 0]
    assert all(torch.equal(merged[name], a[name]) for name in exact)


def test_numbers_of_blocks_go_in_order_with_base_first(
    safelight: Cli, trio: Path, states: tuple[State, ...]
) -> None:
    a, b, _ = states
    numbers = "0.9,0,0.1,0.2,0.3,0.4,0.5,0.6,0.7,0.8"  # BASE, IN00 to IN03, M00, OUT00 to OUT03
    one = f"{trio / 'bdir'},blocks={numbers}"
    assert safelight("merge", trio / "a.safetensors", one, "m.safetensors").code == 0
    merged = load_file("m.safetensors")
    for name, share in {
        f"{UNET}time_embed.0.weight": 0.0,
        f"{UNET}input_blocks.1.0.in_layers.2.weight": 0.1,
        f"{UNET}middle_block.0.in_layers.2.weight": 0.4,
        f"{UNET}output_blocks.0.0.in_layers.2.weight": 0.5,
        f"{UNET}out.2.weight": 0.8,
        f"{VAE}decoder.conv_in.weight": 0.9,
    }.items():
        assert torch.allclose(merged[name], torch.lerp(a[name], b[name], share), atol=1e-6), name


def test_the_type_is_the_first_models_or_what_is_asked_for(safelight: Cli, trio: Path) -> None:
    assert safelight("convert", trio / "a.safetensors", "half.safetensors", "--dtype", "fp16")
    other = f"{trio / 'b.safetensors'},weight=0.5"
    assert safelight("merge", "half.safetensors", other, "m.safetensors").code == 0
    assert {t.dtype for t in load_file("m.safetensors").values()} == {torch.float16}
    args = ("m2.safetensors", "--dtype", "bf16")
    assert safelight("merge", "half.safetensors", other, *args).code == 0
    assert {t.dtype for t in load_file("m2.safetensors").values()} == {torch.bfloat16}


def test_an_autoencoder_may_be_baked_in(
    safelight: Cli, trio: Path, states: tuple[State, ...]
) -> None:
    _, _, c = states
    save(tiny_model(2), Path("cdir"), "diffusers")
    models = (trio / "a.safetensors", trio / "b.safetensors")
    assert safelight("merge", *models, "m.safetensors", "--vae", "cdir/vae").code == 0
    merged = load_file("m.safetensors")
    assert all(torch.equal(merged[n], c[n]) for n in merged if n.startswith(VAE))
    assert [each["role"] for each in recipe("m.safetensors")["inputs"]] == ["model"] * 2 + ["vae"]


# -- models that differ ----------------------------------------------------------------------------


def widened(trio: Path, target: Path, extra: int = 5) -> State:
    """The model c with more input channels, as an inpainting model has."""
    state = load_file(trio / "c.safetensors")
    conv = state[f"{UNET}input_blocks.0.0.weight"]
    more = torch.randn(conv.shape[0], extra, 3, 3, generator=torch.Generator().manual_seed(0))
    state[f"{UNET}input_blocks.0.0.weight"] = torch.cat([conv + 0.01, more], dim=1)
    remarks = told(trio / "c.safetensors")
    configs = json.loads(remarks["safelight.model"])
    configs["unet"]["in_channels"] += extra
    save_file(state, target, remarks | {"safelight.model": json.dumps(configs)})
    return state


def test_what_a_model_learned_is_added_to_an_inpainting_model(
    safelight: Cli, trio: Path, place: Path, states: tuple[State, ...]
) -> None:
    a, _, c = states
    wide = widened(trio, place / "inpaint.safetensors")
    args = ("--method", "difference", "--base", trio / "c.safetensors")
    ran = safelight("merge", "inpaint.safetensors", trio / "a.safetensors", "m.safetensors", *args)
    assert ran.code == 0, ran.err
    assert "the others of conv_in are those of inpaint.safetensors" in ran.err
    merged, name = load_file("m.safetensors"), f"{UNET}input_blocks.0.0.weight"
    assert merged[name].shape == wide[name].shape
    assert torch.allclose(merged[name][:, :4], wide[name][:, :4] + a[name] - c[name], atol=1e-6)
    assert torch.equal(merged[name][:, 4:], wide[name][:, 4:])
    other = f"{UNET}out.2.weight"
    assert torch.allclose(merged[other], wide[other] + a[other] - c[other], atol=1e-6)


def test_models_of_different_families_are_refused_by_both_names(
    safelight: Cli, trio: Path, place: Path
) -> None:
    widened(trio, place / "inpaint.safetensors")
    error = safelight(
        "merge", trio / "a.safetensors", "inpaint.safetensors", "m.safetensors"
    ).error()
    assert "inpaint.safetensors is a model of its own shape" in error
    assert "9 input channels" in error and "4 input channels" in error
    assert "give the model with more input channels first" in error
    assert files(place) == ["inpaint.safetensors"]


def test_another_prediction_is_another_family_until_it_is_said_to_be_the_same(
    safelight: Cli, trio: Path, place: Path
) -> None:
    assert safelight("convert", trio / "b.safetensors", "v", "--prediction", "v").code == 0
    error = safelight("merge", trio / "a.safetensors", "v", "m.safetensors").error()
    assert "predicts v" in error and "predicts eps" in error and "--prediction" in error
    models = (trio / "a.safetensors", "v")
    assert safelight("merge", *models, "m.safetensors", "--prediction", "v").code == 0


def test_what_only_one_model_holds_is_said(safelight: Cli, trio: Path, place: Path) -> None:
    state = load_file(trio / "b.safetensors")
    ema = f"{UNET}out.2.bias".replace("model.", "", 1).replace(".", "")
    state[f"model_ema.{ema}"] = torch.zeros(4)
    state["strange.thing"] = torch.zeros(2)
    save_file(state, place / "b.safetensors", told(trio / "b.safetensors"))
    ran = safelight("merge", trio / "a.safetensors", "b.safetensors", "m.safetensors")
    assert ran.code == 0
    assert "b.safetensors: left behind, of no use for drawing: model_ema (1)" in ran.err
    assert "b.safetensors: left behind, of no part of a model: strange (1)" in ran.err
    assert recipe("m.safetensors")["notes"], "and so does the recipe"


# -- the recipe ------------------------------------------------------------------------------------


def recipe(path: Path | str) -> dict[str, list[dict[str, object]]]:
    found: dict[str, list[dict[str, object]]] = json.loads(told(path)["safelight.recipe"])
    return found


def test_the_result_tells_what_it_was_made_of(safelight: Cli, trio: Path) -> None:
    models = (trio / "a.safetensors", f"{trio / 'bdir'},weight=0.3,text=0")
    assert safelight("merge", *models, "m.safetensors", "--dtype", "fp16").code == 0
    found = recipe("m.safetensors")
    assert found["made_by"] == "merge"
    assert found["settings"] == {"method": "sum", "dtype": "fp16"}
    a, b = found["inputs"]
    assert a["name"] == "a.safetensors" and a["sha256"] == sha256(trio / "a.safetensors")
    assert b["name"] == "bdir" and b["sha256"] == folder_sha256(trio / "bdir")
    assert a["settings"] == {"weight": 0.7} and b["settings"] == {"weight": 0.3, "text": 0.0}
    assert told("m.safetensors")["modelspec.merged_from"] == "a.safetensors, bdir"
    assert str(trio) not in json.dumps(told("m.safetensors")), "no folder of this machine"


def test_inspect_shows_the_recipe_of_files_and_folders(safelight: Cli, trio: Path) -> None:
    models = (trio / "a.safetensors", f"{trio / 'b.safetensors'},weight=0.25")
    for target in ("m.safetensors", "folder"):
        assert safelight("merge", *models, target).code == 0
        out = safelight("inspect", target, "--no-hash").out
        assert "made by: merge method sum, safelight" in out
        digest = sha256(trio / "b.safetensors")[:12]
        assert f"b.safetensors, 14.4 MB, sha256 {digest}: weight 0.25" in out
        assert "safelight.recipe:" not in out, "not a second time as it stands in the file"


def test_a_recipe_holds_the_recipes_of_what_went_in(safelight: Cli, trio: Path) -> None:
    assert safelight("merge", trio / "a.safetensors", trio / "bdir", "one.safetensors").code == 0
    assert safelight("convert", "one.safetensors", "two").code == 0
    assert safelight("merge", "two", trio / "c.safetensors", "three.safetensors").code == 0
    first = recipe("three.safetensors")["inputs"][0]["recipe"]
    assert isinstance(first, dict) and first["made_by"] == "convert"
    assert first["inputs"][0]["recipe"]["made_by"] == "merge"
    assert (
        "itself made by: convert of one.safetensors"
        in safelight("inspect", "three.safetensors").out
    )


def test_a_forged_recipe_is_shown_as_it_stands(safelight: Cli, trio: Path, place: Path) -> None:
    state = load_file(trio / "a.safetensors")
    for text in ("{", '{"made_by": 3}', '{"made_by": "x", "safelight": "1", "inputs": [3]}'):
        remarks = told(trio / "a.safetensors") | {"safelight.recipe": text}
        save_file(state, place / "odd.safetensors", remarks)
        ran = safelight("inspect", "odd.safetensors", "--no-hash")
        assert ran.code == 0 and f"safelight.recipe: {text}" in ran.out
        assert safelight("merge", "odd.safetensors", trio / "bdir", f"m{len(text)}").code == 0


# -- what cannot be --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("A", "m.safetensors"), "the method sum takes two models or more; got 1"),
        (("A,weight=0.5", "B,weight=0.6", "m"), "add up to 1.1; a sum's add up to 1"),
        (("A", "B,wieght=0.6", "m"), "has no setting 'wieght'; it takes weight, text_weight, unet"),
        (("A", "B,weight=0.6,weight=1", "m"), "weight is given twice"),
        (("A", "B,weight=half", "m"), "weight of B must be a number; got 'half'"),
        (("A", "B,blocks=1,2", "m"), "blocks has 2 numbers; this U-Net has 9 blocks"),
        (("A", "B", "m", "--method", "mean"), "--method must be sum, difference, slerp"),
        (("A", "B", "m", "--method", "ties"), "give it with --base"),
        (("A", "B", "m", "--base", "C"), "the method sum has no use for --base"),
        (("A", "B", "m", "--density", "0.5"), "--density is for ties, dare, dare-ties"),
        (("A", "B", "m", "--seed", "5"), "--seed is for dare and dare-ties"),
        (("A", "B", "C", "m", "--method", "slerp"), "from one model to another; got 3"),
        (("A,weight=1", "B", "m", "--method", "slerp"), "is where the arc begins"),
        (("A", "m", "--method", "difference", "--base", "C"), "give two models or more"),
        (("A,weight=2", "B", "m", "--method", "difference", "--base", "C"), "is taken whole"),
        (
            ("A", "m", "--method", "ties", "--base", "C", "--density", "0"),
            "--density must be above 0 and at most 1; got 0.0",
        ),
        (("A", "B", "m", "--dtype", "fp8"), "--dtype must be fp32, bf16, fp16"),
        (("A", "B", "m.ckpt"), ".safetensors"),
        (("A", "B", "taken"), "taken exists already"),
        (("A", "nix.safetensors", "m"), "there is no model nix.safetensors"),
        (("A", "broken.safetensors", "m"), "broken.safetensors"),
        (("A", "evil.ckpt", "m"), "evil.ckpt"),
    ],
)
def test_what_cannot_be_merged_is_said_and_nothing_is_written(
    safelight: Cli, trio: Path, place: Path, args: tuple[str, ...], said: str
) -> None:
    names = {"A": trio / "a.safetensors", "B": trio / "b.safetensors", "C": trio / "c.safetensors"}
    (place / "taken").mkdir()
    (place / "taken" / "x").write_bytes(b"mine")
    (place / "broken.safetensors").write_bytes(b"\x00" * 100)
    (place / "evil.ckpt").write_bytes(b"\x80\x02cos\nsystem\nX\x04\x00\x00\x00true\x85R.")
    before = files(place)

    def full(arg: str) -> str:
        head, comma, rest = arg.partition(",")
        return f"{names.get(head, head)}{comma}{rest}"

    ran = safelight("merge", *map(full, args))
    assert ran.code == 2
    assert said in ran.error().replace(str(trio / "b.safetensors"), "B")
    assert files(place) == before


def test_damaged_weights_and_types_that_are_too_narrow_are_named(
    safelight: Cli, trio: Path, place: Path
) -> None:
    name = f"{UNET}out.2.bias"
    for value, file in ((float("nan"), "nan"), (1e38, "large")):
        state = load_file(trio / "b.safetensors")
        state[name][1] = value
        save_file(state, place / f"{file}.safetensors", told(trio / "b.safetensors"))
    before = files(place)
    ran = safelight("merge", trio / "a.safetensors", "nan.safetensors", "m.safetensors")
    assert ran.code == 2 and "nan.safetensors: tensor unet.conv_out.bias holds NaN" in ran.error()
    args = (trio / "a.safetensors", "large.safetensors", "m.safetensors", "--dtype", "fp16")
    error = safelight("merge", *args).error()
    assert "unet.conv_out.bias does not fit float16" in error and "--dtype bf16" in error
    assert files(place) == before
