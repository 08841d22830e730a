"""The name of the embedded model, wherever it lies."""

from safelight.embedded.carried import NAME, is_embedded
from safelight.model import Model


def stable_name(model: Model) -> str | None:
    """The name under which a recipe remembers the embedded model; None for any other model."""
    return NAME if any(f.role == "unet" and is_embedded(f.path) for f in model.files) else None
