"""`extract`, `resize`, and `merge` and `convert` with adapters, as a user runs them."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

import adapters_made as made
from adapters_made import PLACES, change, family, loras
from cli_tiny import Cli, files, tiny_model
from models_tiny import distance
from safelight.adapters.deltas import LowRank
from safelight.checkpoints.adapter_load import load_adapter
from safelight.checkpoints.adapter_save import save_adapter
from safelight.checkpoints.hashes import sha256
from safelight.checkpoints.save import save

pytestmark = pytest.mark.slow


@pytest.fixture
def shelves(shelf: Path, place: Path) -> Path:
    """The models a (that of the shelf) and b, and the adapters style and other."""
    save(tiny_model(1), place / "b.safetensors", "ldm")
    for adapter in (loras(4), loras(3, seed=50, name="other")):
        save_adapter(adapter, place / f"{adapter.name}.safetensors", family())
    return place


def recipe(path: str) -> dict[str, object]:
    with safe_open(path, "pt") as file:
        found: dict[str, object] = json.loads(file.metadata()["safelight.recipe"])
    return found


def test_an_adapter_goes_into_a_model_and_comes_out_again(
    safelight: Cli, model: Path, shelves: Path
) -> None:
    ran = safelight("merge", model, "style.safetensors:0.5", "styled.safetensors")
    assert ran.code == 0, ran.err
    assert "note: style: LoRA, LoCon, matched 12 of 12 tensors (100 %)" in ran.err
    ran = safelight("extract", "styled.safetensors", "out.safetensors", "--base", model)
    assert ran.code == 0 and ran.out.startswith("out.safetensors  ")
    assert "4 layers of rank 32 keep 100.00 % of the norm" in ran.err
    args = ("exact.safetensors", "--base", model, "--rank", "4", "--dtype", "fp32")
    assert safelight("extract", "styled.safetensors", *args).code == 0
    found = load_adapter("exact.safetensors", family()).adapter
    for part, path in PLACES:
        wanted = 0.5 * change(loras(4), part, path)
        assert distance(change(found, part, path), wanted) < 1e-4
    assert {t.dtype for t in load_file("out.safetensors").values()} >= {torch.float16}


def test_the_recipe_of_an_adapter_is_shown(safelight: Cli, model: Path, shelves: Path) -> None:
    args = ("x.safetensors", "--base", model, "--frobenius", "0.8", "--no-text")
    assert safelight("extract", "b.safetensors", *args).code == 0
    found = recipe("x.safetensors")
    assert found["made_by"] == "extract"
    assert found["settings"] == {
        "frobenius": 0.8,
        "text": False,
        "layout": "kohya",
        "dtype": "fp16",
    }
    inputs = found["inputs"]
    assert isinstance(inputs, list)
    assert [(each["role"], each["sha256"]) for each in inputs] == [
        ("model", sha256("b.safetensors")),
        ("base", sha256(model)),
    ]
    out = safelight("inspect", "x.safetensors", "--no-hash").out
    assert "made by: extract dtype fp16, frobenius 0.8, layout kohya, text False" in out
    assert "not in the adapter, though they differ" in out


def test_adapters_are_joined(safelight: Cli, model: Path, shelves: Path) -> None:
    args = ("style.safetensors:0.7:0.2", "other.safetensors,weight=-0.5", "both.safetensors")
    ran = safelight("merge", *args, "--model", model)
    assert ran.code == 0 and "4 layers of rank 7 keep 100.00 % of the norm" in ran.err
    found = load_adapter("both.safetensors", family()).adapter
    for part, path in PLACES:
        one = 0.7 if part == "unet" else 0.2
        wanted = one * change(loras(4), part, path) - 0.5 * change(loras(3, 50), part, path)
        assert distance(change(found, part, path), wanted) < 1e-5
    for method in ("ties", "dare", "dare-ties"):
        target = f"{method}.safetensors"
        ran = safelight("merge", *args[:2], target, "-m", model, "--method", method, "--rank", 2)
        assert ran.code == 0 and "4 layers of rank 2" in ran.err


def test_an_adapter_is_resized(safelight: Cli, model: Path, shelves: Path) -> None:
    ran = safelight("resize", "style.safetensors", "s.safetensors", "--rank", 2, "-m", model)
    assert ran.code == 0 and "4 layers of rank 2 keep" in ran.err
    found = load_adapter("s.safetensors", family()).adapter
    assert {d.rank for _, _, d in found if isinstance(d, LowRank)} == {2}
    assert recipe("s.safetensors")["settings"] == {"rank": 2, "layout": "kohya", "dtype": "fp32"}


def test_an_adapter_is_renamed_there_and_back(safelight: Cli, model: Path, shelves: Path) -> None:
    args = ("--layout", "diffusers", "-m", model)
    assert safelight("convert", "style.safetensors", "p.safetensors", *args).code == 0
    assert any(name.endswith(".lora_A.weight") for name in load_file("p.safetensors"))
    args = ("k.safetensors", "--layout", "kohya", "-m", model, "--dtype", "fp16")
    assert safelight("convert", "p.safetensors", *args).code == 0
    assert any(name.endswith(".lora_down.weight") for name in load_file("k.safetensors"))
    found = load_adapter("k.safetensors", family()).adapter
    for part, path in PLACES:
        assert distance(change(found, part, path), change(loras(4), part, path)) < 1e-2


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("extract B x.safetensors", "Missing option '--base'"),
        ("extract B x --base A", "an adapter is written as one .safetensors file; got x"),
        ("extract B x.safetensors --base A --rank 0", "--rank must be 1 or more; got 0"),
        ("extract B x.safetensors --base A --layout flat", "must be kohya or diffusers"),
        ("extract A x.safetensors --base A", "do not differ in what an adapter can carry"),
        ("extract style.safetensors x.safetensors --base A", "style.safetensors"),
        ("resize style.safetensors x.safetensors -m A", "say which rank is enough"),
        ("resize style.safetensors x.safetensors --rank 2", "name a model that it is for with"),
        ("resize style.safetensors B --rank 2", "b.safetensors exists already"),
        ("resize many.safetensors x.safetensors --rank 2 -m A", "many holds "),
        ("resize B x.safetensors --rank 2 -m A", "b.safetensors is no adapter"),
        (
            "merge style.safetensors other.safetensors x.safetensors --base A",
            "--base is for models",
        ),
        ("merge style.safetensors other.safetensors x.safetensors --vae A", "--vae is for models"),
        (
            "merge style.safetensors other.safetensors x.safetensors -m A --method slerp",
            "adapters are joined by sum, ties, dare, dare-ties; got 'slerp'",
        ),
        ("merge style.safetensors other.safetensors x -m A", "as one .safetensors file"),
        ("merge A B x.safetensors --rank 4", "--rank is for adapters alone"),
        ("merge A style.safetensors,vae=1 x.safetensors", "vae= is for models"),
        ("merge A style.safetensors,blocks=IN77:1 x.safetensors", "IN77 is no block"),
        ("merge A evil.pt x.safetensors", "evil.pt"),
        ("convert style.safetensors x.safetensors --vae A", "--vae is for models"),
        ("convert style.safetensors x.safetensors --layout single", "must be kohya or diffusers"),
        ("convert A x.safetensors --model B", "--model is for adapters"),
    ],
)
def test_what_cannot_be_done_is_said_and_nothing_is_written(
    safelight: Cli, model: Path, shelves: Path, line: str, said: str
) -> None:
    save_adapter(made.every_kind(), shelves / "many.safetensors", family())
    (shelves / "evil.pt").write_bytes(b"\x80\x02cos\nsystem\nX\x04\x00\x00\x00true\x85R.")
    before = files(shelves)
    names = {"A": str(model), "B": "b.safetensors"}
    ran = safelight(*[names.get(word, word) for word in line.split()])
    assert ran.code == 2
    assert said in ran.error()
    assert files(shelves) == before
