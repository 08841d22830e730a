"""A preset's settings lie below the command line's, and above the model's and a picture's."""

from dataclasses import replace
from pathlib import Path

import pytest

from cli_tiny import Cli, tiny_model
from safelight.checkpoints.save import save
from safelight.families import SamplerHint
from safelight.tasks.metadata.reader import read_settings
from safelight.tasks.request import Request

SIZE = ("--size", "64x64", "--seed", "5")


def drawn(path: str) -> tuple[str, str, int]:
    request = read_settings(Path(path)).request
    assert isinstance(request, Request)
    return request.sampler, request.schedule, request.steps


def test_the_preset_is_drawn_with_and_options_beside_it_win(
    safelight: Cli, model: Path, place: Path
) -> None:
    ran = safelight("generate", "a", "-m", model, *SIZE, "--preset", "fast", "-o", "a.png")
    assert ran.code == 0, ran.err
    assert drawn("a.png") == ("UniPC", "automatic", 10)
    safelight("generate", "a", "-m", model, *SIZE, "--preset", "fast", "-s", "3", "-o", "b.png")
    assert drawn("b.png") == ("UniPC", "automatic", 3)
    safelight(
        "generate",
        "a",
        "-m",
        model,
        *SIZE,
        "--sampler",
        "euler",
        "--schedule",
        "karras",
        "-o",
        "c.png",
    )
    safelight("generate", "--like", "c.png", "-m", model, "--preset", "fast", "-o", "d.png")
    assert drawn("d.png") == ("UniPC", "automatic", 10)
    assert safelight("replay", "a.png", "-m", model).out == "identical\n"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--preset", "quick"), "there is no preset quick; there is fast"),
        (("--preset", "fast", "--sampler", "euler", "-s", "3"), "--preset does nothing beside"),
    ],
)
def test_what_cannot_be_is_said(
    safelight: Cli, model: Path, place: Path, options: tuple[str, ...], words: str
) -> None:
    assert words in safelight("generate", "a", "-m", model, *SIZE, *options).error()
    assert not (place / "out").exists()


def test_a_model_of_few_steps_is_not_given_more(safelight: Cli, place: Path) -> None:
    model = tiny_model()
    hint = SamplerHint("lcm", None, 4, 1.0, stated=True)
    save(replace(model, family=replace(model.family, hint=hint)), place / "few", "diffusers")
    error = safelight("generate", "a", "-m", "few", *SIZE, "--preset", "fast").error()
    assert "this model was made for 4 of its own; leave --preset out" in error
