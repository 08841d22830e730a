"""The front door of the library."""

import subprocess
import sys

import safelight


def test_every_name_of_the_front_door_leads_somewhere() -> None:
    for name in safelight.__all__:
        assert getattr(safelight, name) is not None


def test_importing_the_package_imports_no_torch() -> None:
    code = "import sys, safelight; print(sorted({'torch', 'numpy', 'pydantic'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_request_can_be_made_without_torch() -> None:
    code = "import sys; from safelight import Request; Request(prompt='x')"
    code += "; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
