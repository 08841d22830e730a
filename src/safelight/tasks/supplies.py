"""What a request names besides its model, opened once: pictures, and models that help.

A `Supplies` lives as long as the caller wants what it opened to be kept.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from safelight.tasks.named_files import named_files
from safelight.tasks.picture_file import InputPicture, input_of, open_input
from safelight.tasks.recipe import UsedFile, bare_name, pixels_sha256
from safelight.tasks.settings import Settings

T = TypeVar("T")


@dataclass(frozen=True)
class Supplies:
    """Opens what requests name, and remembers it.

    pictures: pixels (H, W, 3), or (H, W, 4) with transparency, that stand for a file of that name;
        a request may name them like files, and nothing is read from the disk for them.
    """

    pictures: Mapping[str, NDArray[np.uint8]] = field(default_factory=dict)
    _opened: dict[str, InputPicture] = field(default_factory=dict, repr=False)
    _kept: dict[tuple[object, ...], Any] = field(default_factory=dict, repr=False)

    def picture(self, name: str, what: str = "picture") -> InputPicture:
        """The picture of a file or of that name. Raises FileError if it cannot be used."""
        if name not in self._opened:
            if name in self.pictures:
                self._opened[name] = input_of(self.pictures[name], name)
            else:
                self._opened[name] = open_input(Path(name), what)
        return self._opened[name]

    def kept(self, key: tuple[object, ...], make: Callable[[], T]) -> T:
        """What `make` gave when this key was first asked for."""
        if key not in self._kept:
            self._kept[key] = make()
        return cast("T", self._kept[key])


def check_pictures(request: Settings, supplies: Supplies) -> None:
    """Open all pictures that a request names, before anything is drawn. Raises FileError."""
    for file in named_files(request):
        if file.is_picture:
            supplies.picture(file.name, file.role)


def used_picture(role: str, name: str, picture: InputPicture) -> UsedFile:
    """A picture as a recipe remembers it: by its pixels, so that any file of them will do."""
    pixels = picture.pixels
    if picture.alpha is not None:
        pixels = np.concatenate([pixels, picture.alpha[..., None]], axis=2)
    return UsedFile(
        role=role,
        name=bare_name(name),
        sha256=pixels_sha256(pixels),
        size=pixels.nbytes,
        content="pixels",
    )
