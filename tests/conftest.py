"""What every test may count on."""

import os
import subprocess
from importlib.util import find_spec

import pytest

# The tensors of tests are too small to share; threads that wait for each other on a busy machine
# make such tests a hundred times slower. Set before torch is imported, and yours if you set it.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# text_oracles and the like lie beside the tests that need them
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say which browser looks at the page in the slow tests, or that none does."""
    terminalreporter.write_line(f"browser for the page's tests: {_browser()}")


def _browser() -> str:
    from server_page import BROWSER  # not at the start: torch comes with it

    if BROWSER is None:
        return "none found, they are skipped"
    if find_spec("playwright") is None:
        return f"{BROWSER}, but no playwright to drive it: they are skipped"
    try:
        asked = subprocess.run(
            [BROWSER, "--version"], capture_output=True, text=True, timeout=20, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return f"{BROWSER}, which does not start"
    return f"{asked.stdout.strip()} ({BROWSER})"


@pytest.fixture(autouse=True)
def nothing_embedded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests know which model is embedded: none, or one of their own, whatever is shipped."""
    monkeypatch.setattr("safelight.embedded.carried.shelf", lambda: None)
