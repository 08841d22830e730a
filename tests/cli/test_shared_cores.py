"""A waiting thread gives its core back soon, unless the user has said how it is to wait."""

import os
import subprocess
import sys

import pytest

from safelight.cli.main import TURNS, share_cores

ASKING = """
import os, sys
from safelight.cli import main
def run(argv):
    assert "torch" not in sys.modules  # its OpenMP reads the environment when it is loaded
    print(os.environ.get("GOMP_SPINCOUNT"), os.environ.get("OMP_WAIT_POLICY"))
    return 0
main.run = run
main.main(["generate"])
"""


@pytest.mark.parametrize(
    ("stated", "expected"),
    [
        ({}, {"GOMP_SPINCOUNT": TURNS}),
        ({"GOMP_SPINCOUNT": "7"}, {"GOMP_SPINCOUNT": "7"}),
        ({"OMP_WAIT_POLICY": "active"}, {"OMP_WAIT_POLICY": "active"}),
    ],
)
def test_what_the_user_said_is_heeded(stated: dict[str, str], expected: dict[str, str]) -> None:
    share_cores(stated)
    assert stated == expected


def test_it_is_said_before_torch_is_loaded() -> None:
    ours = {k: v for k, v in os.environ.items() if k not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    ran = subprocess.run(
        [sys.executable, "-c", ASKING], capture_output=True, text=True, env=ours, check=False
    )
    assert (ran.returncode, ran.stdout.split()) == (0, [TURNS, "None"]), ran.stderr
