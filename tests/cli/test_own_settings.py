"""What a model says of itself fills what the user leaves open, and nothing else."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from cli_tiny import Cli, pixels, tiny_model
from own_model import model_of, small_family
from safelight.checkpoints.save import save
from safelight.families import SamplerHint
from safelight.model import Model
from safelight.tasks.generate import generate, settled
from safelight.tasks.grid import recipes_of
from safelight.tasks.metadata.reader import read_settings
from safelight.tasks.picture import open_picture
from safelight.tasks.request import Request

HINT = SamplerHint("euler_ancestral", "karras", 3, 2.5, stated=True)
OWN = ("Euler a", "Karras", 3, 2.5)


def asked_of(request: Request) -> tuple[str, str, int, float]:
    return request.sampler, request.schedule, request.steps, request.cfg_scale


@pytest.fixture(scope="module")
def own() -> Model:
    """A model of our own shape: 128 pixels, a vocabulary of 700 tokens, settings of its own."""
    return model_of(replace(small_family(), hint=HINT, label="Own"))


@pytest.fixture(scope="module")
def saved(own: Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """own.safetensors, the folder own, and plain.safetensors, which states nothing."""
    folder = tmp_path_factory.mktemp("own")
    save(own, folder / "own", "diffusers")
    save(own, folder / "own.safetensors", "ldm")
    save(tiny_model(), folder / "plain.safetensors", "ldm")
    return folder


@pytest.fixture(params=["own", "own.safetensors"])
def model(saved: Path, request: pytest.FixtureRequest) -> Path:
    return saved / str(request.param)


def drawn(safelight: Cli, *args: object) -> Request:
    ran = safelight("generate", "abc", "--seed", "5", "--json", *args)
    assert ran.code == 0, ran.err
    recipe = read_settings(str(ran.json()[0]["path"])).recipe
    assert recipe is not None
    return recipe.request


def test_a_model_is_drawn_with_as_it_says_in_its_own_size_and_replays(
    safelight: Cli, model: Path, place: Path
) -> None:
    request = drawn(safelight, "-m", model)
    assert asked_of(request) == OWN and (request.width, request.height) == (128, 128)
    ran = safelight("replay", place / "out" / "5-abc.png", "-m", model)
    assert ran.out == "identical\n" and pixels("out/5-abc.png").shape == (128, 128, 3)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (("--steps", "2"), ("Euler a", "Karras", 2, 2.5)),
        (("--cfg", "7"), ("Euler a", "Karras", 3, 7.0)),  # the default's value, but given
        (("--schedule", "automatic"), ("Euler a", "automatic", 3, 2.5)),
        (("--schedule", "Exponential"), ("Euler a", "Exponential", 3, 2.5)),
        (("--sampler", "DPM++ 2M"), ("DPM++ 2M", "automatic", 3, 2.5)),  # the default's, but given
        (("--sampler", "Euler Exponential"), ("Euler", "Exponential", 3, 2.5)),
    ],
    ids=lambda value: " ".join(map(str, value)),
)
def test_what_is_given_stands_before_what_the_model_says(
    safelight: Cli, saved: Path, given: tuple[str, ...], expected: tuple[object, ...]
) -> None:
    """A schedule belongs to its sampler: the model's is not taken for another one."""
    request = drawn(safelight, "-m", saved / "own", "--size", "64x64", *given)
    assert asked_of(request) == expected


def test_a_model_that_states_nothing_is_drawn_with_the_defaults(
    safelight: Cli, saved: Path
) -> None:
    request = drawn(safelight, "-m", saved / "plain.safetensors", "--size", "16x16")
    assert asked_of(request) == ("DPM++ 2M", "automatic", 20, 7.0)


def test_a_picture_to_start_from_stands_before_the_model(
    safelight: Cli, saved: Path, place: Path
) -> None:
    """Also where the picture was drawn with the defaults."""
    drawn(safelight, "-m", saved / "plain.safetensors", "--size", "16x16")
    safelight("generate", "--like", "out/5-abc.png", "-m", saved / "own", "--out", "again.png")
    found = read_settings("again.png").recipe
    assert found and asked_of(found.request) == ("DPM++ 2M", "automatic", 20, 7.0)
    args = ("--like", "out/5-abc.png", "-m", saved / "own", "--steps", "2", "--out", "third.png")
    safelight("generate", *args)
    found = read_settings("third.png").recipe
    assert found and asked_of(found.request) == ("DPM++ 2M", "automatic", 2, 7.0)


def test_a_line_of_a_list_stands_before_the_model(safelight: Cli, saved: Path, place: Path) -> None:
    (place / "list.txt").write_text("--prompt a --steps 2\nb\n")
    ran = safelight("generate", "--prompts", "list.txt", "-m", saved / "own", "--size", "64x64")
    assert ran.code == 0
    steps = {p.stem[-1]: read_settings(p).recipe for p in (place / "out").iterdir()}
    assert {k: r.request.steps for k, r in steps.items() if r} == {"a": 2, "b": 3}


def test_each_cell_of_a_grid_is_drawn_as_its_own_model_says(
    safelight: Cli, saved: Path, place: Path
) -> None:
    models = f"model={saved / 'own'},{saved / 'plain.safetensors'}"
    ran = safelight("grid", "abc", "-x", models, "--size", "64x64", "--steps", "2", "-o", "g.png")
    assert ran.code == 0, ran.err
    (row,) = recipes_of(open_picture("g.png"))
    assert [asked_of(recipe.request) for recipe in row] == [
        ("Euler a", "Karras", 2, 2.5),
        ("DPM++ 2M", "automatic", 2, 7.0),
    ]
    assert safelight("replay", "g.png", "--cell", "1,1", "-m", saved / "own").out == "identical\n"


# --- the library -------------------------------------------------------------------------------


def test_a_request_remembers_what_it_was_given(own: Model) -> None:
    (picture,) = generate(own, Request(prompt="abc", seed=5, width=64, height=64))
    assert asked_of(picture.recipe.request) == OWN
    (default,) = settled(Request(prompt="abc", steps=20, cfg_scale=7.0), own)
    assert asked_of(default) == ("Euler a", "Karras", 20, 7.0)
    parsed = Request.parse({"prompt": "abc", "seed": "5"}).replace(count=2).resolved().single(1)
    assert asked_of(settled(parsed, own)[0]) == OWN and settled(parsed, own)[0].seed == 6
    spelled = Request(prompt="abc").spelled_out()
    assert spelled == Request(prompt="abc") and asked_of(spelled) != OWN
    assert asked_of(settled(spelled, own)[0]) == asked_of(spelled)


def test_a_request_that_was_written_out_is_drawn_as_written(own: Model) -> None:
    """What a recipe holds: nothing of the model gets into it, whatever it says by then."""
    (once,) = settled(Request(prompt="abc", seed=5), own)
    other = replace(own, family=replace(own.family, hint=replace(HINT, steps=9)))
    again = Request.parse(json.loads(json.dumps(once.model_dump(mode="json"))))
    assert again == once and settled(again, other) == [once]


def test_settling_twice_is_settling_once(own: Model) -> None:
    (once,) = settled(Request(prompt="abc", seed=5), own)
    assert settled(once, own) == [once]


def test_names_of_the_default_stay_open_and_others_do_not() -> None:
    settings = {"sampler": "Euler a", "schedule": "Karras", "steps": 3}
    plain = Request.parse({"prompt": ""})
    assert asked_of(plain.suited(settings))[:3] == ("Euler a", "Karras", 3)
    carried = Request.parse({"prompt": "", "sampler": "DPM++ 2M Exponential"})
    assert asked_of(carried.suited(settings))[:3] == ("DPM++ 2M", "Exponential", 3)
    same = Request.parse({"prompt": "", "sampler": "dpmpp_2m"})
    assert asked_of(same.suited(settings))[:3] == ("DPM++ 2M", "automatic", 3)


# --- safelight prompt ---------------------------------------------------------------------------


def test_a_prompt_is_read_with_the_vocabulary_and_steps_of_the_model(
    safelight: Cli, model: Path, own: Model, saved: Path
) -> None:
    def read(*args: object) -> tuple[list[str], int]:
        ran = safelight("prompt", "a red apple", "--json", *args)
        assert ran.code == 0, ran.err
        seen = json.loads(ran.out)
        tokens = seen["texts"][0]["chunks"][0]["tokens"]
        return [token["text"] for token in tokens], seen["calls"]

    words, calls = read("-m", model)
    assert words == [piece.text for piece in own.text.tokenizer.pieces("a red apple")]
    clips = ["a</w>", "red</w>", "apple</w>"]
    assert calls == 3 and words != clips
    assert read("-m", model, "--steps", "7")[1] == 7
    assert read() == (clips, 20) == read("-m", saved / "plain.safetensors")


def test_a_prompt_with_a_model_that_is_not_there_is_refused(safelight: Cli) -> None:
    ran = safelight("prompt", "a", "-m", "nowhere.safetensors")
    assert ran.code == 2 and "nowhere.safetensors" in ran.error()
