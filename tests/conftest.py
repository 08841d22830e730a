"""What every test may count on."""

import os

import pytest

# The tensors of tests are too small to share; threads that wait for each other on a busy machine
# make such tests a hundred times slower. Set before torch is imported, and yours if you set it.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# text_oracles and the like lie beside the tests that need them
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")


@pytest.fixture(autouse=True)
def nothing_embedded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests know which model is embedded: none, or one of their own, whatever is shipped."""
    monkeypatch.setattr("safelight.embedded.carried.shelf", lambda: None)
