"""`make demo` after installing: pictures of the embedded model, or without one of the machine."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from own_model import model_of, small_family
from safelight.checkpoints.save import save

ROOT = Path(__file__).parents[2]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A source tree without weights whose .venv runs it."""
    tree = tmp_path / "tree"
    left_out = shutil.ignore_patterns("__pycache__", "emoji")
    shutil.copytree(ROOT / "src", tree / "src", ignore=left_out)
    shutil.copytree(ROOT / "scripts", tree / "scripts", ignore=left_out)
    programs = tree / ".venv" / "bin"
    programs.mkdir(parents=True)
    for name, arguments in (("python", ""), ("safelight", "-m safelight")):
        (programs / name).write_text(
            f'#!/bin/sh\nPYTHONPATH={tree / "src"} exec {sys.executable} {arguments} "$@"\n'
        )
        (programs / name).chmod(0o755)
    return tree


def demo(tree: Path) -> str:
    places = {name: str(tree / name) for name in ("SAFELIGHT_HOME", "SAFELIGHT_CACHE")}
    environment = {**os.environ, **places, "HF_HUB_CACHE": str(tree / "hub")}
    ran = subprocess.run(
        [tree / "scripts" / "demo"], capture_output=True, text=True, env=environment, timeout=280
    )
    assert ran.returncode == 0, ran.stderr
    assert "\nidentical\n" in ran.stdout
    assert (tree / "out" / "demo" / "grid.png").is_file()
    assert "Look at out/demo/grid.png." in ran.stdout
    return ran.stdout


@pytest.mark.slow
def test_without_weights_it_proves_the_machine(tree: Path) -> None:
    said = demo(tree)
    assert "This source tree carries no weights" in said and "coloured noise" in said


@pytest.mark.slow
def test_with_weights_it_draws_things_on_backgrounds_twice(tree: Path) -> None:
    save(model_of(small_family()), tree / "src" / "safelight" / "embedded" / "emoji")
    began = time.monotonic()
    said = demo(tree)
    assert "4 x 4 pictures" in said and "knows emoji-like things" in said
    assert time.monotonic() - began < 120
    assert demo(tree) == said, "the second time as the first"
