"""The model in this source tree, if there is one: whole, small, told, and able to draw."""

import hashlib
from pathlib import Path

import pytest
import torch

from embedded_tiny import script
from safelight.checkpoints.adapter_load import load_adapter
from safelight.checkpoints.control_about import making_of
from safelight.checkpoints.control_load import check_fits, load_control
from safelight.checkpoints.evaluator_folder import load_evaluator
from safelight.checkpoints.inspect import inspect
from safelight.checkpoints.library import find_model
from safelight.checkpoints.shelves import find_addon
from safelight.checkpoints.vision_folder import load_clip_vision
from safelight.embedded import carried
from safelight.evaluation.composition import Question, judged
from safelight.families import SamplerHint
from safelight.measures.facts import Facts
from safelight.preprocessors.agreement import agreement
from safelight.preprocessors.making import Making
from safelight.preprocessors.maps import control_map
from safelight.tasks.generate import generate
from safelight.tasks.loading import Models
from safelight.tasks.picture_file import open_input
from safelight.tasks.request import Request

SHIPPED = carried.embedded_folder()


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch) -> Path:
    assert SHIPPED is not None
    monkeypatch.setattr("safelight.embedded.carried.shelf", lambda: SHIPPED)
    return SHIPPED


def test_every_file_is_the_one_that_was_packed(folder: Path) -> None:
    listed = dict(
        reversed(line.split("  ")) for line in (folder / "SHA256SUMS").read_text().splitlines()
    )
    found = {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file() and path.name not in ("SHA256SUMS", "README.md")
    }
    pictures = {"curve.svg", "not-right.webp"}
    assert {name: sha for name, sha in found.items() if name not in pictures} == listed


def test_it_is_small_enough(folder: Path) -> None:
    script("pack").check_sizes(folder)


def test_its_card_names_its_hashes(folder: Path) -> None:
    text = (folder / "README.md").read_text()
    for line in (folder / "SHA256SUMS").read_text().splitlines():
        digest, name = line.split("  ", 1)
        assert f"| {name} | {digest} |" in text


def test_every_part_is_read_and_it_draws(folder: Path) -> None:
    assert inspect(folder, hashes=False).problem is None
    load_clip_vision(folder)
    load_evaluator(folder / "evaluator")
    request = Request(prompt="a red apple on a blue background", seed=1, steps=2)
    (picture,) = generate(Models().of(request), request)
    assert picture.recipe.request.model == "embedded" and picture.pixels.std() > 5


def test_its_companions_are_found_fit_and_say_what_they_are_for(folder: Path) -> None:
    model = Models().of(Request(prompt=""))
    loaded = load_control(find_model(carried.EDGES), base=model.network.unet)
    check_fits(loaded, model)
    assert making_of(find_model(carried.EDGES)) == Making("canny", {"low": 100, "high": 200})
    lora = load_adapter(find_addon("lora", carried.SPEED), model)
    assert lora.matched == lora.total and lora.speed is not None
    assert lora.speed.hint == SamplerHint("lcm", None, 4, 1.0)


@pytest.mark.slow
def test_edges_are_followed(folder: Path) -> None:
    photo = Path(__file__).parents[2] / "docs/pictures/tour/inputs/whale.png"
    lines = control_map("canny", open_input(photo).pixels).pixels

    def kept(**settings: object) -> float:
        prompt = "a purple spouting whale on a yellow background"
        request = Request.parse({"prompt": prompt, "seed": 4, **settings})
        (picture,) = generate(Models().of(request), request)
        return agreement(lines, control_map("canny", picture.pixels).pixels).f1

    control = {"net": carried.EDGES, "picture": str(photo)}
    assert kept(controls=[control]) > kept() + 0.2


@pytest.mark.slow
def test_four_steps_show_with_its_lora_what_they_do_not_show_without(folder: Path) -> None:
    judge = load_evaluator(folder / "evaluator")
    asked = {
        "1F34E": ("red apple", "blue"),
        "1F680": ("rocket", "white"),
        "1F437": ("pig face", "green"),
    }
    questions = [
        Question(
            f"a {name} on a {ground} background",
            Facts("single", (code,), (name,), background=ground),
            "colours",
        )
        for code, (name, ground) in asked.items()
    ]

    def right(**settings: object) -> int:
        drawn = []
        for seed, question in enumerate(questions):
            request = Request.parse({"prompt": question.prompt, "seed": seed, **settings})
            drawn += generate(Models().of(request), request)
        pictures = torch.stack([torch.from_numpy(one.pixels.copy()) for one in drawn])
        images = pictures.movedim(-1, 1).float() / 127.5 - 1
        answers = judged(images, questions, judge.evaluator, judge.labels)
        return sum(answer.right for answer in answers)

    lora = {"loras": [{"file": carried.SPEED}], "sampler": "lcm", "steps": 4, "cfg_scale": 1}
    assert right(**lora) >= 2 > right(steps=4)
