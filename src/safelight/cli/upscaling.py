"""What `safelight upscale` asks for, as a request."""

from collections.abc import Mapping
from pathlib import Path

from safelight.cli.axes import laid_on
from safelight.cli.missing import must_exist
from safelight.errors import RequestError
from safelight.tasks.request import Request

WORDS_IDLE = (
    "a picture is made larger without words by --with; leave the prompt out, or give the x4 "
    "upscaler with --model."
)


def request_of(
    picture: Path, prompt: str | None, by: str | None, settings: Mapping[str, object]
) -> Request:
    """The request for a picture made larger by the upscaler `by`, or by the model of `settings`.

    Raises RequestError unless one of them is given, for settings that would do nothing, and for a
    model that is no upscaler; FileError if the picture or the model is not there.
    """
    if (by is None) == ("model" not in settings):
        raise RequestError(
            "say what makes it larger: --with Lanczos or --with FILE, or --model with Stable "
            "Diffusion's x4 upscaler; to draw over it, safelight edit with --scale and --upscaler."
        )
    source: dict[str, object] = {"picture": str(must_exist(picture, "picture"))}
    if by is None:
        check_is_upscaler(str(settings["model"]))
        return Request.parse(laid_on({"prompt": prompt or "", "source": source}, settings))
    if prompt:
        raise RequestError(WORDS_IDLE)
    refuse_drawing(settings)
    source |= {"upscaler": by, "redraw": False}
    return Request.parse(laid_on({"prompt": "", "source": source}, settings))


WITHOUT_DRAWING = frozenset({"source", "width", "height", "device", "seamless"})
OF_SOURCE = frozenset({"scale", "resize"})


def refuse_drawing(settings: Mapping[str, object]) -> None:
    """Raise RequestError for a setting that only a drawing has."""
    source = settings.get("source")
    given = [name for name in settings if name not in WITHOUT_DRAWING]
    if isinstance(source, Mapping):
        given += [f"source.{name}" for name in source if name not in OF_SOURCE]
    for name in given:
        raise RequestError(
            f"{name} cannot be used with --with, which draws nothing; leave it out, or use "
            "safelight edit with --scale and --upscaler."
        )


def check_is_upscaler(name: str) -> None:
    """Raise RequestError if the model of that name does not draw larger pictures of small ones."""
    from safelight.checkpoints.library import find_model
    from safelight.checkpoints.load import open_checkpoint

    with open_checkpoint(find_model(name)) as checkpoint:
        family = checkpoint.family
    if family.task != "upscale":
        raise RequestError(
            f"{name} is {family.label}, which is no upscaler; to draw over a picture made larger, "
            'use safelight edit photo.png "..." --scale 2 --upscaler Lanczos --tile 512.'
        )
