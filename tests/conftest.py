"""What every test may count on."""

import os

# text_oracles and the like lie beside the tests that need them
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
