"""A peer that reports its use over the network is kept from it."""

import importlib.util
import os
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import pytest

PEER = files("safelight.benchmarks.peers").joinpath("openvino_peer.pyw")
pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("openvino") is None, reason="OpenVINO is not installed"
)


def test_openvino_leaves_no_number_of_its_user_behind(tmp_path: Path) -> None:
    program = (
        "import sys\n"
        "from importlib.machinery import SourceFileLoader\n"
        f"peer = SourceFileLoader('peer', {str(PEER)!r}).load_module()\n"
        "import openvino\n"
        "assert openvino.Core().available_devices\n"
        "assert sys.modules['openvino_telemetry'] is None\n"
    )
    home = {"HOME": str(tmp_path), "LOCALAPPDATA": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"}
    subprocess.run([sys.executable, "-c", program], env=os.environ | home, check=True)
    assert not list(tmp_path.iterdir())
