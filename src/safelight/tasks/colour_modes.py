"""What any kind of picture looks like in 8-bit sRGB: 16 bits, CMYK, palettes, profiles, turns."""

from dataclasses import dataclass
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

from safelight.printable import shown

PROFILE_LIMIT = 16 * 2**20  # bytes; print profiles have up to about 4 million
ORIENTATION = 0x0112
# What EXIF's orientation asks for, so that the picture stands as it was taken (EXIF 2.32, 4.6.4)
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# Which colours a profile must be for, by the picture's mode
SPACES = {"RGB": "RGB", "CMYK": "CMYK", "L": "GRAY"}


@dataclass(frozen=True, eq=False)
class Plain:
    """A picture in 8-bit sRGB, upright."""

    pixels: NDArray[np.uint8]  # (H, W, 3)
    alpha: NDArray[np.uint8] | None  # (H, W), where the picture has transparency
    notes: tuple[str, ...]  # what was changed to get there, a sentence each


def plain(image: Image.Image) -> Plain:
    """The decoded picture upright and in 8-bit sRGB, with what that changed.

    Colours are brought from the embedded ICC profile to sRGB, the whites matched (relative
    colorimetric, black point compensated); CMYK without a usable profile by the plain rule
    R = (1 - C) * (1 - K). Sixteen bits are rounded to eight. Transparency, of a palette too, is
    kept apart: no background is mixed in.
    """
    notes: list[str] = []
    upright = _upright(image, notes)
    colours, alpha = _colours_and_alpha(upright, notes)
    pixels = np.asarray(_srgb(colours, image.info.get("icc_profile"), notes))
    return Plain(np.ascontiguousarray(pixels), alpha, tuple(notes))


def _upright(image: Image.Image, notes: list[str]) -> Image.Image:
    orientation = image.getexif().get(ORIENTATION)
    if not isinstance(orientation, int) or orientation not in TURNS:
        return image
    notes.append(f"it was turned upright, as its EXIF orientation {orientation} asks.")
    return image.transpose(TURNS[orientation])


def _colours_and_alpha(
    image: Image.Image, notes: list[str]
) -> tuple[Image.Image, NDArray[np.uint8] | None]:
    """The picture as L, RGB or CMYK, and its transparency."""
    if image.mode.startswith("I;16") or image.mode == "I":
        return _eight_bits(image, notes)
    if image.mode in ("LA", "PA", "RGBA", "La", "RGBa") or image.has_transparency_data:
        whole = image.convert("RGBA")
        return whole.convert("RGB"), np.asarray(whole.getchannel("A"))
    if image.mode in SPACES:
        return image, None
    return image.convert("L" if image.mode == "1" else "RGB"), None


def _eight_bits(
    image: Image.Image, notes: list[str]
) -> tuple[Image.Image, NDArray[np.uint8] | None]:
    """Sixteen bits of grey as eight. Pillow's own conversion makes all above 255 white."""
    levels = np.asarray(image).astype(np.float64)
    clear = image.info.get("transparency")
    alpha = None
    if isinstance(clear, int):
        alpha = np.where(levels == clear, 0, 255).astype(np.uint8)
    notes.append("its 16 bits of grey were rounded to 8.")
    return Image.fromarray(np.rint(np.clip(levels, 0, 65535) / 257).astype(np.uint8)), alpha


def _srgb(image: Image.Image, profile: object, notes: list[str]) -> Image.Image:
    """The picture in sRGB, by its profile if it has one that can be used."""
    found = _profile(image.mode, profile, notes)
    if found is not None:
        name = shown(ImageCms.getProfileDescription(found).strip(), 60)
        if image.mode != "CMYK" and "srgb" in name.lower():
            return image.convert("RGB")
        try:
            converted = ImageCms.profileToProfile(
                image,
                found,
                ImageCms.createProfile("sRGB"),
                ImageCms.Intent.RELATIVE_COLORIMETRIC,
                "RGB",
                flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
            )
        except ImageCms.PyCMSError:
            converted = None
        if converted is not None:
            kind = "CMYK colours" if image.mode == "CMYK" else "colours"
            notes.append(f"its {kind} were brought to sRGB by its profile ({name}).")
            return converted
        notes.append(f"its colour profile ({name}) cannot be used and was left aside.")
    if image.mode == "CMYK":
        notes.append(
            "its CMYK colours were turned into RGB without a profile, so they are approximate."
        )
    return image.convert("RGB")


def _profile(mode: str, data: object, notes: list[str]) -> ImageCms.ImageCmsProfile | None:
    """The profile, if it can be read and is for colours of this mode."""
    if not isinstance(data, bytes) or not data:
        return None
    if len(data) > PROFILE_LIMIT:
        notes.append(f"its colour profile has {len(data)} bytes and was left aside.")
        return None
    try:
        found = ImageCms.ImageCmsProfile(BytesIO(data))
    except (ImageCms.PyCMSError, OSError):
        notes.append("its colour profile is damaged and was left aside.")
        return None
    space = found.profile.xcolor_space.strip()
    if space != SPACES.get(mode):
        notes.append(f"its colour profile is for {shown(space, 8)} and was left aside.")
        return None
    return found
