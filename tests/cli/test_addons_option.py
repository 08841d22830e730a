"""`--lora`, `--embedding`, `--hypernetwork` and tags: drawn, in the recipe, replayed and proved."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from addons_tiny import write_hypernetwork, write_lora, write_word
from cli_tiny import SMALL, Cli, pixels
from safelight.bulk.manifest import read_lines


def same(one: str, other: str) -> bool:
    return np.array_equal(pixels(one), pixels(other))


def test_options_and_names_draw_the_same_and_replay(
    safelight: Cli, model: Path, place: Path
) -> None:
    lora = write_lora(place / "loras" / "style.safetensors")
    net = write_hypernetwork(place / "hypernetworks" / "net.pt")
    word = write_word(place / "embeddings" / "glow.safetensors")
    common = ("-m", model, *SMALL, "-o")
    ran = safelight("generate", "a glow cat <lora:style:0.8><hypernet:net:0.5>", *common, "a.png")
    assert ran.code == 0 and "(100 %)" in ran.err, ran.err
    options = ("--lora", f"{lora}:0.8", "--hypernetwork", f"{net}:0.5", "--no-look-up")
    options = (*options, "--embedding", f"{word},word=shine")
    ran = safelight("generate", "a shine cat", *options, *common, "b.png")
    assert ran.code == 0 and same("a.png", "b.png"), ran.err
    for folder in ("loras", "hypernetworks", "embeddings"):
        (place / folder).rename(place / f"{folder}-away")
    ran = safelight("replay", "a.png", "-m", model)
    assert "drawn with the lora 'style.safetensors'" in ran.error()
    assert '--file "lora=PATH"' in ran.err
    for folder in ("loras", "hypernetworks", "embeddings"):
        (place / f"{folder}-away").rename(place / folder)
    assert safelight("replay", "a.png", "-m", model).out == "identical\n"


def test_a_full_match_is_told_once_and_warns_of_nothing_and_a_part_is_a_warning(
    safelight: Cli, model: Path, place: Path
) -> None:
    write_lora(place / "loras" / "style.safetensors")
    common = ("-m", model, *SMALL, "--count", "2")
    ran = safelight("generate", "a <lora:style:1>", *common)
    (line,) = ran.err.splitlines()
    assert line.startswith("style: LoRA, matched ") and "(100 %)" in line
    told = safelight("generate", "a <lora:style:1>", *common, "--json").json()
    assert [(one["warnings"], one["facts"]) for one in told] == [([], [line])] * 2
    state = load_file(place / "loras" / "style.safetensors")
    save_file(
        {**state, "lora_unet_odd.alpha": torch.tensor(1.0)}, place / "loras" / "odd.safetensors"
    )
    ran = safelight("generate", "a <lora:odd:1>", *common)
    first, second = ran.err.splitlines()
    assert first.startswith("warning: odd: LoRA, matched ") and "(100 %)" not in first
    assert "1 tensor without a place" in second and "lora_unet_odd.alpha" in second


def test_a_list_tells_a_full_match_once_and_its_manifest_in_each_row(
    safelight: Cli, model: Path, place: Path
) -> None:
    file = write_lora(place / "style.safetensors")
    (place / "list.txt").write_text("a cat\na bug\n")
    ran = safelight("batch", "list.txt", "-m", model, *SMALL, "--lora", f"{file}:0.8")
    (line,) = [one for one in ran.err.splitlines() if "matched" in one]
    assert line.startswith("style: LoRA, matched ")
    rows = list(read_lines(place / "run" / "manifest.jsonl"))
    assert [(row.facts, row.warnings) for row in rows] == [((line,), ())] * 2


def test_a_replay_finds_the_file_by_its_content_and_says_if_it_is_another(
    safelight: Cli, model: Path, place: Path
) -> None:
    own = write_lora(place / "loras" / "style.safetensors")
    ran = safelight("generate", "a <lora:style:1>", "-m", model, *SMALL, "-o", "a.png")
    assert ran.code == 0, ran.err
    (place / "loras" / "old").mkdir()
    moved = own.rename(place / "loras" / "old" / "style.safetensors")
    write_lora(own, seed=5)
    ran = safelight("replay", "a.png", "-m", model)
    assert ran.out == "identical\n", ran.err
    moved.unlink()
    ran = safelight("replay", "a.png", "-m", model)
    assert ran.code == 1 and "the file for lora is another" in ran.out


def test_like_takes_over_the_tags_and_their_files(safelight: Cli, model: Path, place: Path) -> None:
    write_lora(place / "loras" / "style.safetensors")
    write_lora(place / "loras" / "other.safetensors", seed=50)
    common = ("-m", model, *SMALL, "-o")
    assert safelight("generate", "a <lora:style:1>", *common, "a.png").code == 0
    ran = safelight("generate", "--like", "a.png", "-m", model, "-o", "b.png")
    assert ran.code == 0 and same("a.png", "b.png"), ran.err
    ran = safelight("generate", "a <lora:other:1>", "--like", "a.png", "-m", model, "-o", "c.png")
    assert ran.code == 0 and not same("a.png", "c.png"), ran.err
    assert safelight("generate", "a <lora:other:1>", *common, "d.png").code == 0
    assert same("c.png", "d.png")


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("a <lora:gone:1>",), "there is no LoRA called gone in loras; there are style."),
        (("a", "--lora", "gone.safetensors"), "there is no LoRA called gone.safetensors"),
        (("a", "--lora", "style,blocks=much"), "names with factors"),
        (("a", "--lora", "MODEL"), "sd15.safetensors is no adapter of layers"),
        (("a", "--embedding", "gone"), "no textual inversion called gone"),
    ],
)
def test_what_cannot_be_used_is_one_line(
    args: tuple[str, ...], said: str, safelight: Cli, model: Path, place: Path
) -> None:
    write_lora(place / "loras" / "style.safetensors")
    given = [str(model) if arg == "MODEL" else arg for arg in args]
    assert said in safelight("generate", *given, "-m", model, *SMALL).error()
    assert not list(place.glob("out/*"))
