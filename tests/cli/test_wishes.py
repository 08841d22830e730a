"""Where prompts come from: files of prompts, styles, wildcards and choices."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from cli_tiny import SMALL, Cli, Ran, files, pixels, process
from safelight.cli.main import run
from safelight.tasks.metadata.reader import read_settings
from safelight.tasks.request import Request


def requests(ran: Ran) -> list[Request]:
    """The requests in the pictures that a run with --json made."""
    assert ran.code == 0, ran.err
    found = [read_settings(str(row["path"])).recipe for row in ran.json()]
    return [recipe.request for recipe in found if recipe is not None]


def test_a_file_of_prompts_gives_a_picture_for_each_line(
    safelight: Cli, model: Path, place: Path
) -> None:
    (place / "list.txt").write_text(
        "a cat\n\n"
        '--prompt "a dog, at night" --negative_prompt rain --steps 3 --seed 9 '
        '--sampler_name "Euler a"\n'
        "--prompt a bird --width 72 --height 80 --cfg_scale 2 --n_iter 2 --batch_size 1\n"
    )
    ran = safelight("generate", "--prompts", "list.txt", "-m", model, *SMALL, "--json")
    cat, dog, *birds = requests(ran)
    assert (cat.prompt, cat.seed, cat.steps) == ("a cat", 5, 2)
    assert (dog.prompt, dog.negative_prompt) == ("a dog, at night", "rain")
    assert (dog.seed, dog.steps, dog.sampler) == (9, 3, "Euler a")
    assert [(b.prompt, b.seed, b.width, b.height) for b in birds] == [
        ("a bird", 5, 72, 80),
        ("a bird", 6, 72, 80),
    ]
    assert {b.cfg_scale for b in birds} == {2.0}


def test_options_of_a_line_that_do_nothing_here_are_said(
    safelight: Cli, model: Path, place: Path
) -> None:
    (place / "list.txt").write_text("--prompt a cat --restore_faces true --tiling false\n")
    ran = safelight("generate", "--prompts", "list.txt", "-m", model, *SMALL)
    assert ran.code == 0
    assert ran.err == "warning: list.txt, line 1: --restore_faces is not used here\n"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("--prompt a --stpes 3", "line 1: '--stpes' is no option"),
        ("--prompt a --steps x", "line 1: --steps cannot be 'x'"),
        ("--prompt a --steps 0", "steps must be a whole number from 1 to 1000; got 0"),
        ('--prompt "a', "line 1: a quotation mark has no partner"),
        ("", "list.txt holds no prompt"),
    ],
)
def test_a_wrong_line_is_named_before_anything_is_drawn(
    safelight: Cli, model: Path, place: Path, line: str, said: str
) -> None:
    (place / "list.txt").write_text(line + "\n")
    ran = safelight("generate", "--prompts", "list.txt", "-m", model, *SMALL)
    assert ran.code == 2 and said in ran.error()
    assert files(place) == ["list.txt"]


def test_a_style_goes_round_or_behind_the_prompt(safelight: Cli, model: Path, place: Path) -> None:
    (place / "styles.csv").write_text(
        "name,prompt,negative_prompt\n"
        '"ink","drawing of {prompt}, ink","colour"\nold,"1890, sepia",\n'
    )
    ran = safelight(
        *("generate", "a cat", "-n", "dog", "--style", "ink", "--style", "old"),
        *("-m", model, *SMALL, "--json"),
    )
    (request,) = requests(ran)
    assert request.prompt == "drawing of a cat, ink, 1890, sepia"
    assert request.negative_prompt == "dog, colour"


def test_an_unknown_style_names_those_there_are(safelight: Cli, model: Path, place: Path) -> None:
    (place / "mine.csv").write_text("name,prompt\nink,ink\n")
    args = ("generate", "a", "--style", "inc", "-m", model, *SMALL)
    ran = safelight(*args, "--styles", "mine.csv")
    assert ran.code == 2 and ran.error() == "mine.csv has no style 'inc'; it has ink."
    told = safelight(*args).error()
    assert told.startswith("there is no table of styles to take 'inc' from: no styles.csv is in")
    assert "--styles FILE.csv" in told


def test_choices_differ_from_picture_to_picture_and_the_recipe_holds_what_was_drawn(
    safelight: Cli, model: Path, place: Path
) -> None:
    lists = place / "lists"
    lists.mkdir()
    (lists / "animal.txt").write_text("# animals\ncat\ndog\nbird\nwhale\n")
    ran = safelight(
        *("generate", "{one|two|three} __animal__", "-n", "{x|y}", "--wildcards", "lists"),
        *("-m", model, *SMALL, "--count", "6", "--json"),
    )
    drawn = requests(ran)
    texts = [request.prompt for request in drawn]
    assert [request.seed for request in drawn] == [5, 6, 7, 8, 9, 10]
    assert all("{" not in text and "_" not in text for text in texts)
    assert len(set(texts)) > 3 and {r.negative_prompt for r in drawn} == {"x", "y"}
    last = ran.json()[3]["path"]
    assert safelight("replay", last, "-m", model).out == "identical\n"


def test_the_choice_depends_on_the_seed_alone(safelight: Cli, model: Path) -> None:
    args = ("generate", "{a|b|c|d|e|f|g|h}", "-m", model, *SMALL, "--json")
    three = requests(safelight(*args, "--count", "3"))
    (third,) = requests(safelight(*args, "--seed", "7"))
    assert third.prompt == three[2].prompt


def test_without_dynamic_braces_are_text(safelight: Cli, model: Path) -> None:
    ran = safelight("generate", "{a|b} \\{c\\}", "--no-dynamic", "-m", model, *SMALL, "--json")
    assert requests(ran)[0].prompt == "{a|b} \\{c\\}"


def test_a_wildcard_without_a_folder_is_said(safelight: Cli, model: Path) -> None:
    ran = safelight("generate", "a __colour__ cat", "-m", model, *SMALL)
    assert ran.code == 0
    assert ran.err == "warning: __colour__ is read as text: --wildcards names no folder of lists.\n"


def test_an_unknown_wildcard_names_the_nearest(safelight: Cli, model: Path, place: Path) -> None:
    (place / "lists").mkdir()
    (place / "lists" / "colour.txt").write_text("red\n")
    ran = safelight("generate", "__color__", "--wildcards", "lists", "-m", model, *SMALL)
    assert ran.code == 2 and "in lists; did you mean colour?" in ran.error()
    ran = safelight("generate", "__xyz__", "--wildcards", "lists", "-m", model, *SMALL)
    assert ran.error() == "there is no wildcard __xyz__ in lists; it has colour."


def test_a_prompt_taken_from_a_picture_is_not_expanded_again(
    safelight: Cli, model: Path, place: Path
) -> None:
    assert safelight("generate", "\\{a|b\\}", "-m", model, *SMALL, "-o", "a.png").code == 0
    ran = safelight("generate", "--like", "a.png", "-m", model, "--json", "-o", "b.png")
    assert requests(ran)[0].prompt == "{a|b}"
    assert np.array_equal(pixels("a.png"), pixels("b.png"))


def a1111_picture(path: Path, model_hash: str = "") -> None:
    """A picture of another program, whose model has the name fox_v1."""
    info = PngInfo()
    named = f"Model hash: {model_hash}, " if model_hash else ""
    info.add_text(
        "parameters",
        f"a fox\nSteps: 2, Sampler: Euler, CFG scale: 5, Seed: 7, Size: 64x64, {named}"
        "Model: fox_v1, RNG: CPU",
    )
    Image.new("RGB", (8, 8)).save(path, pnginfo=info)


def test_the_model_of_another_programs_picture_is_found_without_its_suffix(
    safelight: Cli, model: Path, place: Path
) -> None:
    (place / "theirs").mkdir()
    a1111_picture(place / "theirs" / "fox.png")
    ran = safelight("generate", "--like", "theirs/fox.png", "-o", "b.png")
    assert ran.code == 2
    assert ran.error() == (
        "--like theirs/fox.png: the picture was drawn with the model 'fox_v1', which is not here; "
        "give it with --model PATH."
    )
    (place / "theirs" / "fox_v1.safetensors").symlink_to(model)
    ran = safelight("generate", "--like", "theirs/fox.png", "-o", "b.png")
    assert ran.code == 0 and "is another" not in ran.err
    grid = ("grid", "--like", "fox.png", "-x", f"model={model}", "-o", "g.png")
    (place / "theirs" / "fox_v1.safetensors").unlink()
    a1111_picture(place / "fox.png")
    assert safelight(*grid).code == 0


def test_a_model_of_another_hash_is_said_where_a_picture_is_the_start(
    safelight: Cli, model: Path, place: Path
) -> None:
    a1111_picture(place / "fox.png", "0123456789")
    (place / "fox_v1.safetensors").symlink_to(model)
    ran = safelight("generate", "--like", "fox.png", "-o", "b.png")
    assert ran.code == 0
    assert "the file for model is another: the picture names sha256 0123456789..." in ran.err


def settings_said(safelight: Cli, model: Path, *args: str) -> str:
    """What is said of settings while a picture is drawn with them."""
    ran = safelight("generate", "a", "-m", model, "--size", "64x64", "--seed", "5", *args)
    assert ran.code == 0, ran.err
    return ran.err


@pytest.mark.parametrize(
    ("idle", "acting", "said"),
    [
        ("--cfg 1 --rescale 0.5", "--cfg 2 --rescale 0.5", "guidance rescale has nothing to"),
        ("--cfg 1 --apg 5", "--cfg 2 --apg 5", "adaptive projected guidance has nothing to"),
        ("--cfg 1 --mimic-scale 5", "--cfg 2 --mimic-scale 5", "dynamic thresholding has nothing"),
        ("--ensd 9 --sampler Euler", "--ensd 9 --sampler LCM", "ensd 9 does nothing: Euler"),
        ("--ensd 9 --sampler DDIM", "--ensd 9 --sampler DDIM --eta 1", "ensd 9 does nothing: DDIM"),
        ("--sampler Restart --steps 19", "--sampler Restart --steps 20", "restarts from 20 steps"),
        ("--batch 2 --count 2", "--batch 2 --count 2 --no-exact", "--no-exact computes them"),
        ("--aesthetic-score 7", "--aesthetic-score 6", "told to SDXL only"),
    ],
)
def test_a_setting_that_has_nothing_to_act_on_is_said_once(
    safelight: Cli, model: Path, idle: str, acting: str, said: str
) -> None:
    fast = () if "--steps" in idle else ("--steps", "2")
    assert settings_said(safelight, model, *idle.split(), *fast).count(said) == 1
    assert said not in settings_said(safelight, model, *acting.split(), *fast)


def test_another_programs_picture_may_be_the_start(
    safelight: Cli, model: Path, place: Path
) -> None:
    info = PngInfo()
    info.add_text(
        "parameters",
        "a red fox\nNegative prompt: snow\nSteps: 4, Sampler: Euler a, CFG scale: 5, Seed: 77, "
        "Size: 64x64, Model: fox_v1, Hires upscale: 2, Hires checkpoint: other",
    )
    Image.new("RGB", (8, 8)).save(place / "fox.png", pnginfo=info)
    ran = safelight("generate", "--like", "fox.png", "-m", model, "--json")
    (request,) = requests(ran)
    assert (request.prompt, request.negative_prompt) == ("a red fox", "snow")
    assert (request.steps, request.sampler, request.seed) == (4, "Euler a", 77)
    assert "warning: " in ran.err and "ires" in ran.err


def test_prompt_prints_json_without_drawing(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["prompt", "a (red:1.5) cat", "--json"]) == 0
    seen = json.loads(capsys.readouterr().out)
    tokens = seen["texts"][0]["chunks"][0]["tokens"]
    assert [(t["text"], t["weight"]) for t in tokens] == [
        ("a</w>", 1.0),
        ("red</w>", 1.5),
        ("cat</w>", 1.0),
    ]
    assert files(place) == []


def test_prompt_makes_the_choices_that_generate_makes(
    safelight: Cli, model: Path, place: Path
) -> None:
    (place / "lists").mkdir()
    (place / "lists" / "animal.txt").write_text("cat\ndog\nbird\nwhale\n")
    (place / "styles.csv").write_text('name,prompt\nink,"{prompt}, {ink|pencil|chalk}"\n')
    text = "{a|b|c} red __animal__"
    more = ("--wildcards", "lists", "--style", "ink", "--seed", "5", "--json")
    (drawn,) = requests(safelight("generate", text, "-m", model, "--steps", "1", *SMALL[:2], *more))
    ran = safelight("prompt", text, *more)
    seen = json.loads(ran.out)
    assert seen["prompt"] == drawn.prompt != text
    assert seen["notes"][0].startswith("styles and choices are put in as for a picture of seed 5")
    assert not any("outside [a|b]" in note for note in seen["notes"])
    ran = safelight("prompt", text, *more[:-1])
    assert drawn.prompt in ran.out and ran.err.startswith("warning: styles and choices are put in")
    ran = safelight("prompt", "{a|b}", "--no-dynamic", "--json")
    assert json.loads(ran.out)["prompt"] == "{a|b}"
    ran = safelight("prompt", "[é|b]")
    assert (ran.code, ran.err) == (0, "")


def test_prompt_says_characters_that_a_terminal_lacks_by_their_numbers(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    done = process("prompt", "[é|b]")
    assert (done.returncode, done.stderr) == (0, "") and "\\xe9" in done.stdout


def test_prompt_says_a_break_that_is_lost(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lost = "BREAK inside a weighted bracket"
    for text, said in (("(a BREAK b:1.2)", 1), ("(a:1.2) BREAK (b:1.2)", 0), ("BREAKING (a)", 0)):
        assert run(["prompt", text]) == 0
        assert capsys.readouterr().err.count(lost) == said, text


def test_prompt_converts_between_dialects(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["prompt", "a (red:1.5) cat", "--to", "compel"]) == 0
    assert capsys.readouterr().out == "a (red)1.5 cat\n"
    assert run(["prompt", "[a|b]", "--to", "comfy"]) == 0
    out, err = capsys.readouterr()
    assert out and err.startswith("warning: ")


@pytest.mark.parametrize("args", [["--dialect", "latin"], ["--to", "x"], ["--sampler", "Eulr"]])
def test_prompt_refuses_names_that_it_does_not_know(
    place: Path, args: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["prompt", "a", *args]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_prompt_shows_control_characters_escaped_and_cuts_no_line(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = " ".join(["longword"] * 30)
    assert run(["prompt", f"[a:b:0.5] \x1b[31m {words}"]) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out and words in out
