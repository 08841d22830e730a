"""A drawn picture with its recipe, and how both become a PNG, JPEG or WebP file.

PNG holds the recipe as the text chunk `safelight` and A1111's settings as the chunk `parameters`.
JPEG and WebP hold A1111's settings in the EXIF UserComment, as A1111 does, and the recipe in the
EXIF MakerNote. H W: height and width in pixels; B: pictures.
"""

import unicodedata
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from safelight.errors import NonFiniteError, OutputError
from safelight.tasks.metadata.infotext import infotext
from safelight.tasks.picture_file import (
    EXIF_IFD,
    MAKER_NOTE,
    RECIPE_KEY,
    RECIPE_MARK,
    UNICODE_MARK,
    USER_COMMENT,
    OpenedPicture,
    open_picture,
)
from safelight.tasks.recipe import Recipe, bare_name
from safelight.writing import make_folder, write_whole

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["OpenedPicture", "Picture", "file_stem", "open_picture", "pixel_distance", "to_uint8"]

FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
JPEG_QUALITY = 95
STEM_LIMIT = 80  # characters of a file's name before the suffix
NUMBER_LIMIT = 100_000  # files of one stem in a folder


@dataclass(frozen=True, eq=False)
class Picture:
    """One picture and the recipe that draws it again.

    facts: what is said of it that warns of nothing, as that all of a LoRA had its place.
    """

    pixels: NDArray[np.uint8]  # (H, W, 3), RGB
    recipe: Recipe
    warnings: tuple[str, ...] = ()
    facts: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        assert self.pixels.dtype == np.uint8, self.pixels.dtype
        assert self.pixels.ndim == 3 and self.pixels.shape[2] == 3, self.pixels.shape

    def image(self) -> Image.Image:
        """The picture as a Pillow image."""
        return Image.fromarray(self.pixels, "RGB")

    def save(
        self,
        path: Path | str,
        *,
        metadata: bool = True,
        quality: int | None = None,
        replace: bool = True,
    ) -> Path:
        """Write the picture, in the format of the path's suffix, whole or not at all.

        `metadata` False leaves out every text. `quality` (1 to 100) is for JPEG, 95 if not given,
        and WebP, lossless if not given. File names in the recipe lose their folders.
        Raises OutputError for another suffix, an unwritable place, a full disk, or texts that do
        not fit; FileExistsError if the file exists and `replace` is False.
        """
        path = Path(path)
        write_whole(path, self.encoded(path.suffix, metadata, quality=quality), replace=replace)
        return path

    def save_new(
        self,
        folder: Path | str,
        *,
        suffix: str = ".png",
        metadata: bool = True,
        quality: int | None = None,
    ) -> Path:
        """Write the picture under a name of its own, `{seed}-{prompt words}`, replacing nothing.

        Without metadata the name tells nothing either: `picture`. A taken name is followed by -2,
        -3, ... The folder is made if it is missing. Returns the path. Raises OutputError as `save`.
        """
        folder, stem = Path(folder), file_stem(self.recipe) if metadata else "picture"
        data = self.encoded(suffix, metadata, quality=quality)
        make_folder(folder)
        for number in range(1, NUMBER_LIMIT):
            path = folder / f"{stem}{f'-{number}' if number > 1 else ''}{suffix}"
            if path.exists():
                continue
            try:
                write_whole(path, data, replace=False)
            except FileExistsError:  # another process was quicker
                continue
            return path
        raise OutputError(f"{folder} already holds {NUMBER_LIMIT} pictures named {stem}.")

    def encoded(self, suffix: str, metadata: bool = True, *, quality: int | None = None) -> bytes:
        """The bytes of the picture's file. Raises OutputError for a suffix we do not write."""
        kind = FORMATS.get(suffix.lower())
        if kind is None:
            raise OutputError(
                f"pictures are saved as {', '.join(FORMATS)}; got {suffix or 'a name without one'}."
            )
        if quality is not None and not 1 <= quality <= 100:
            raise OutputError(f"quality must be from 1 to 100; got {quality}.")
        buffer = BytesIO()
        try:
            _write(self.image(), buffer, kind, self._texts() if metadata else None, quality)
        except (ValueError, OSError) as error:
            raise OutputError(
                f"the picture does not fit into a {kind} file: {error}. "
                "Save it as PNG, or without metadata."
            ) from None
        return buffer.getvalue()

    def _texts(self) -> tuple[str, str]:
        shared = self.recipe.without_folders()
        return infotext(shared), shared.to_json()


class Distance(NamedTuple):
    """How far two pictures are apart, in levels of 255."""

    largest: int
    mean: float
    changed: float  # the fraction of values that differ


def to_uint8(images: "Tensor") -> NDArray[np.uint8]:
    """Decoded images (B, 3, H, W) in [-1, 1] as pixels (B, H, W, 3) in 0 to 255.

    Values outside are clipped. 255 * (x / 2 + 0.5) is rounded to the nearest level, halves to
    even, as Diffusers does; A1111 cuts the fraction off and is up to one level darker.
    Raises NonFiniteError if a value is NaN or infinite, so that no black picture is ever made.
    """
    values = images.detach().float().cpu().permute(0, 2, 3, 1).numpy()
    if not np.isfinite(values).all():
        raise NonFiniteError("the decoded picture has values that are NaN or infinite.")
    unit = np.clip(values / np.float32(2) + np.float32(0.5), 0, 1)
    return (unit * np.float32(255)).round().astype(np.uint8)


def pixel_distance(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> Distance | None:
    """How far two pictures (H, W, 3) are apart; None if their sizes differ."""
    if a.shape != b.shape:
        return None
    apart = np.abs(a.astype(np.int16) - b.astype(np.int16))
    return Distance(int(apart.max()), float(apart.mean()), float((apart > 0).mean()))


def file_stem(recipe: Recipe) -> str:
    """`{seed}-{prompt words}` from letters a to z, digits and single hyphens; at most 80 long.

    Of a picture that was only made larger, `{size}-{words of its source's name}`.
    """
    # accents come off their letters and fall away: a name must survive every file system
    source = recipe.request.source
    told, stem = recipe.request.prompt, str(recipe.request.seed)
    if source is not None and not source.redraw and recipe.result.size is not None:
        told, stem = PurePath(bare_name(source.picture)).stem, "{}x{}".format(*recipe.result.size)
    text = unicodedata.normalize("NFKD", told[:1000]).lower()
    letters = (c for c in text if not unicodedata.combining(c))
    safe = "".join(c if c.isascii() and c.isalnum() else " " for c in letters)
    for word in safe.split():
        if len(stem) + 1 + len(word) > STEM_LIMIT:
            break
        stem += f"-{word}"
    return stem


def _write(
    image: Image.Image,
    buffer: BytesIO,
    kind: str,
    texts: tuple[str, str] | None,
    quality: int | None,
) -> None:
    match kind:
        case "PNG":
            image.save(buffer, "PNG", pnginfo=_chunks(texts))
        case "JPEG":
            # full colour resolution: the eye sees halved chroma on thin coloured lines
            image.save(
                buffer, "JPEG", quality=quality or JPEG_QUALITY, subsampling=0, exif=_exif(texts)
            )
        case _:
            how = {"lossless": True} if quality is None else {"quality": quality}
            image.save(buffer, "WEBP", exif=_exif(texts), **how)


def _chunks(texts: tuple[str, str] | None) -> PngInfo:
    chunks = PngInfo()
    if texts is not None:
        parameters, recipe = texts
        chunks.add_text("parameters", parameters)  # becomes iTXt where Latin-1 is not enough
        chunks.add_text(RECIPE_KEY, recipe)
    return chunks


def _exif(texts: tuple[str, str] | None) -> bytes:
    if texts is None:
        return b""
    parameters, recipe = texts
    exif = Image.Exif()
    exif.endian = ">"  # the same order as the UTF-16 of the comment, so that all readers agree
    exif.get_ifd(EXIF_IFD).update(
        {
            USER_COMMENT: UNICODE_MARK + parameters.encode("utf-16-be"),
            MAKER_NOTE: RECIPE_MARK + recipe.encode("ascii"),
        }
    )
    return exif.tobytes()
