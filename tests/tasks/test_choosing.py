"""`--engine auto` chooses by a request's own work, and draws as the chosen engine does."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cli_tiny import tiny_model
from safelight.checkpoints.save import save
from safelight.engines.choice import FILE, Figures, candidates, key_of, write_book
from safelight.engines.offload import Placement
from safelight.engines.placement import CPU
from safelight.engines.private_folder import private_folder
from safelight.model import Model
from safelight.tasks.choosing import chosen_for, moves, work_of
from safelight.tasks.generate import generate
from safelight.tasks.loading import Models
from safelight.tasks.request import Request


def asked(**changes: object) -> Request:
    told = {"prompt": "a", "width": 64, "height": 128, "steps": 3, "seed": 1, "engine": "auto"}
    return Request.parse({**told, **changes})


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SAFELIGHT_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def measured_before(model: Model, request: Request, calls: Mapping[str, float]) -> None:
    """As if every engine had been measured; seconds of a call of each, 50 if not told."""
    figures = {one.name: Figures(0.0, calls.get(one.name, 50.0)) for one in candidates()}
    write_book(private_folder("engines") / FILE, {key_of(model, work_of(request, model)): figures})


def test_the_work_is_that_of_the_requests_own_calls() -> None:
    model = tiny_model()
    work = work_of(asked(), model)
    assert (work.height, work.width, work.batch, work.calls) == (16, 8, 2, 3)
    assert work_of(asked(cfg_scale=1.0), model).batch == 1
    assert work_of(asked(count=5), model).calls == 15
    several = work_of(asked(count=5, batch=2, exact=False), model)
    assert (several.batch, several.calls) == (4, 9)
    assert work_of(asked(guidance={"pag": {}}), model).asked == {"perturbed attention"}


def test_of_two_passes_the_longer_one_counts() -> None:
    request = asked(hires={"scale": 2.0, "steps": 3, "strength": 1.0})
    work = work_of(request, tiny_model())
    assert (work.height, work.width) == (32, 16)


def test_where_parts_come_and_go_nothing_is_measured() -> None:
    model = replace(tiny_model(), placement=Placement(CPU, [], sequential=False))
    assert chosen_for(model, asked()).name == "eager"
    assert not (private_folder("engines") / FILE).exists()


def test_adapters_that_move_are_told_from_those_that_stay() -> None:
    stays, moving = {"file": "a.safetensors"}, {"file": "b.safetensors", "end": 0.5}
    assert not moves(asked(loras=[stays]))
    assert moves(asked(loras=[stays, moving]))


@pytest.mark.slow
def test_what_is_chosen_draws_and_stands_in_the_recipe(place: Path) -> None:
    save(tiny_model(), place / "m")
    models, request = Models(), asked(model="m")
    measured_before(tiny_model(), request, {"openvino": 1.0})
    model = models.of(request)
    assert models.choice is not None and models.choice.name == "openvino"
    assert "3.0 s for 3 calls of the U-Net against" in str(models.choice)
    (picture,) = generate(model, request)
    assert picture.recipe.request.engine == "openvino"
    named = asked(model="m", engine="openvino")
    unasked = Models()
    (same,) = generate(unasked.of(named), named)
    assert unasked.choice is None
    assert np.array_equal(picture.pixels, same.pixels)

    measured_before(tiny_model(), request, {"eager": 1.0})
    (plain,) = generate(models.of(request), request)
    assert plain.recipe.request.engine == "eager"
    eager = asked(model="m", engine="eager")
    (alone,) = generate(Models().of(eager), eager)
    assert np.array_equal(plain.pixels, alone.pixels)


@pytest.mark.slow
def test_an_engine_with_weights_of_its_own_is_not_chosen_for_what_moves() -> None:
    model, moving = tiny_model(), asked(loras=[{"file": "b.safetensors", "end": 0.5}])
    staying = asked(loras=[{"file": "b.safetensors"}])
    measured_before(model, staying, {"openvino": 1.0, "eager": 2.0})
    assert chosen_for(model, staying).name == "openvino"
    assert chosen_for(model, moving).name == "eager"
