"""The model in this source tree, if there is one: whole, small, told, and able to draw."""

import hashlib
from pathlib import Path

import pytest

from embedded_tiny import script
from safelight.checkpoints.evaluator_folder import load_evaluator
from safelight.checkpoints.inspect import inspect
from safelight.checkpoints.vision_folder import load_clip_vision
from safelight.embedded import carried
from safelight.tasks.generate import generate
from safelight.tasks.loading import Models
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
