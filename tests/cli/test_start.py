"""What a start does not import, because it does not need it: time before the first picture."""

import subprocess
import sys
from pathlib import Path

import pytest

from cli_tiny import SMALL

# Each takes from a twentieth of a second to three, and nobody needs it to draw one picture.
HEAVY = (
    "cv2",
    "diffusers",
    "matplotlib",
    "numpy.testing",
    "onnxruntime",
    "openvino",
    "pandas",
    "safelight.benchmarks",
    "safelight.evaluation",
    "safelight.server",
    "safelight.tasks.budget",
    "safelight.training",
    "scipy",
    "sklearn",
    "spandrel",
    "sympy",
    "torch._dynamo",
    "torch._inductor",
    "torchvision",
    "transformers",
)
MARK = "-- imported --"
NEEDED_TO_DRAW = ("numpy", "pydantic", "rich", "torch")


def imported(code: str, *argv: object, cwd: Path | None = None) -> set[str]:
    """The modules that a process of its own has imported after this code."""
    code += f"\nimport sys\nprint({MARK!r}, *sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, argv)],
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split(MARK)[-1].split())


def among(names: tuple[str, ...], modules: set[str]) -> set[str]:
    return {name for name in names if name in modules}


RUN = "import sys\nfrom safelight.cli.main import run\nassert run(sys.argv[1:]) == 0"


@pytest.mark.parametrize(
    "code",
    [
        "import safelight",
        "import safelight.cli.main",
        "import safelight.tasks.request",
        "import safelight.cli.options",
    ],
)
def test_what_only_reads_a_command_line_imports_no_torch(code: str) -> None:
    modules = imported(code)
    assert not among((*HEAVY, "torch", "rich"), modules)


@pytest.mark.parametrize("verb", [(), ("generate",), ("edit",), ("train",)])
def test_help_imports_no_torch(verb: tuple[str, ...]) -> None:
    assert not among((*HEAVY, "torch"), imported(RUN, *verb, "--help"))


def test_a_prompt_is_read_without_torch(place: Path) -> None:
    modules = imported(RUN, "prompt", "a (red:1.2) apple", cwd=place)
    assert not among((*HEAVY, "torch"), modules)


def test_the_first_picture_imports_no_more_than_it_needs(model: Path, place: Path) -> None:
    modules = imported(RUN, "generate", "a red apple", "-m", model, *SMALL, cwd=place)
    assert (place / "out").is_dir()
    assert not among(HEAVY, modules)
    assert among(NEEDED_TO_DRAW, modules) == set(NEEDED_TO_DRAW)
