"""A peer that reports its use over the network is kept from it."""

import os
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import pytest

PEER = files("safelight.benchmarks.peers").joinpath("openvino_peer.pyw")

LOADED = (
    "import sys\n"
    "from importlib.machinery import SourceFileLoader\n"
    f"peer = SourceFileLoader('peer', {str(PEER)!r}).load_module()\n"
)


def leaves_nothing(program: str, home: Path) -> None:
    """A program beside the peer's script runs in a home folder that is empty afterwards."""
    folders = {"HOME": str(home), "LOCALAPPDATA": str(home), "PYTHONDONTWRITEBYTECODE": "1"}
    environment = os.environ | folders
    subprocess.run([sys.executable, "-c", LOADED + program], env=environment, check=True)
    assert not list(home.iterdir())


def test_openvino_leaves_no_number_of_its_user_behind(tmp_path: Path) -> None:
    leaves_nothing(
        "import openvino\n"
        "assert openvino.Core().available_devices\n"
        "assert sys.modules['openvino_telemetry'] is None\n",
        tmp_path,
    )


@pytest.mark.slow
def test_nncf_reports_to_nobody(tmp_path: Path) -> None:
    leaves_nothing(
        "import socket\n"
        "def refused(*given):\n"
        "    raise AssertionError('a connection was tried')\n"
        "socket.socket.connect = socket.getaddrinfo = refused\n"
        "import nncf\n"
        "import numpy as np\n"
        "import openvino\n"
        "from nncf.telemetry import wrapper\n"
        "assert type(wrapper.telemetry).__name__ == 'MagicMock'\n"
        "ops = openvino.opset15\n"
        "x = ops.parameter([1, 8], openvino.Type.f32)\n"
        "y = ops.matmul(x, ops.constant(np.ones((8, 8), np.float32)), False, False)\n"
        "calls = nncf.Dataset([np.ones((1, 8), np.float32)])\n"
        "made = nncf.quantize(openvino.Model([ops.result(y)], [x]), calls, subset_size=1)\n"
        "assert any(op.get_type_name() == 'FakeQuantize' for op in made.get_ops())\n",
        tmp_path,
    )
