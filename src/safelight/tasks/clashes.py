"""Settings of a request that cannot both be meant, or of which one would do nothing.

Importing this module does not import torch.
"""

from collections.abc import Iterator
from typing import Protocol

from safelight.tasks.edits import Extend, Mask, Reference, Source
from safelight.tasks.large import Hires, Region, Tiles


class Asked(Protocol):
    """What of a request is looked at."""

    @property
    def source(self) -> Source | None: ...
    @property
    def mask(self) -> Mask | None: ...
    @property
    def extend(self) -> Extend | None: ...
    @property
    def hires(self) -> Hires | None: ...
    @property
    def regions(self) -> tuple[Region, ...]: ...
    @property
    def feather(self) -> int | None: ...
    @property
    def background(self) -> float: ...
    @property
    def seamless(self) -> str: ...
    @property
    def references(self) -> tuple[Reference, ...]: ...
    @property
    def tiles(self) -> Tiles | None: ...


DRAWN_WITH = (
    "mask",
    "extend",
    "tiles",
    "regions",
    "controls",
    "image_prompts",
    "references",
    "refiner",
)


def clashes(asked: Asked) -> Iterator[str]:
    """A sentence for each, which says what to leave out."""
    source, mask = asked.source, asked.mask
    if asked.hires is not None and source is not None:
        yield (
            "hires is a second pass of a drawing from text; to make a picture larger give "
            "source.scale and source.upscaler."
        )
    if source is not None:
        yield from _of_source(asked, source)
    if asked.extend is not None:
        yield from _of_extend(asked)
    if asked.references and asked.tiles is not None:
        yield (
            "references are seen by a drawing as a whole, and tiles draw it in windows; leave one "
            "of them out."
        )
    if asked.seamless != "none" and mask is not None and mask.area == "masked":
        yield (
            "seamless joins the ends of what is drawn, and mask.area masked draws a part; take "
            "mask.area whole, or leave seamless out."
        )
    if asked.regions and mask is not None and mask.area == "masked":
        yield "regions lie in the whole picture; take mask.area whole, or leave the regions out."
    if asked.regions and asked.extend is not None:
        yield "regions lie in one picture, and extend draws it in parts; leave one of them out."
    if not asked.regions and (asked.feather is not None or asked.background):
        name = "feather" if asked.feather is not None else "background"
        yield f"{name} does nothing without regions; give a region, or leave it out."


def _of_extend(asked: Asked) -> Iterator[str]:
    if asked.mask is not None:
        yield "extend paints the borders; paint a mask in a drawing of its own."
    if asked.source is not None and asked.source.loops > 1:
        yield "extend grows a picture once; loops are for drawings of one size."
    if asked.seamless != "none":
        yield (
            "seamless joins the ends of what is drawn, and extend draws in parts; leave one of "
            "them out."
        )


def _of_source(asked: Asked, source: Source) -> Iterator[str]:
    for other in ("mask", "extend"):
        for name in ("scale", "upscaler"):
            if getattr(asked, other) is not None and getattr(source, name) is not None:
                yield (
                    f"source.{name} makes the whole picture larger, and {other} keeps it as it is; "
                    "do one after the other."
                )
    if source.redraw:
        return
    for name in DRAWN_WITH:
        if getattr(asked, name, None):
            yield f"{name} does nothing where source.redraw is off; leave it out."
    if source.loops > 1:
        yield "source.loops does nothing where source.redraw is off; leave it out."
