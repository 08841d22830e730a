"""Safelight: latent diffusion that people can trust.

    from safelight import Request, generate, load

    model = load("model.safetensors")
    for picture in generate(model, Request(prompt="a red apple", seed=1)):
        picture.save_new("out")

Importing this package is quick: torch is imported with the first name that needs it.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from safelight.version import __version__ as __version__

if TYPE_CHECKING:
    from safelight.checkpoints.inspect import inspect as inspect
    from safelight.checkpoints.load import load as load
    from safelight.checkpoints.save import convert as convert
    from safelight.checkpoints.save import save as save
    from safelight.model import Model as Model
    from safelight.tasks.generate import generate as generate
    from safelight.tasks.picture import Picture as Picture
    from safelight.tasks.recipe import Recipe as Recipe
    from safelight.tasks.request import Request as Request

_HOMES = {
    "Model": "safelight.model",
    "Picture": "safelight.tasks.picture",
    "Recipe": "safelight.tasks.recipe",
    "Request": "safelight.tasks.request",
    "convert": "safelight.checkpoints.save",
    "generate": "safelight.tasks.generate",
    "inspect": "safelight.checkpoints.inspect",
    "load": "safelight.checkpoints.load",
    "save": "safelight.checkpoints.save",
}
__all__ = ["__version__", *sorted(_HOMES)]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'safelight' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return list(__all__)
