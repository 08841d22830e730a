"""Draws and saves what `safelight generate` asks for."""

import json
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from safelight.cli.destination import Destination, prepared
from safelight.cli.display import Display
from safelight.cli.telling import Told
from safelight.engines.sentinel import watch
from safelight.model import Model
from safelight.tasks.generate import Progress, batch_limit, decoded, generate, settled
from safelight.tasks.loading import Models
from safelight.tasks.picture import Picture, to_uint8
from safelight.tasks.request import Request
from safelight.writing import make_folder, write_whole


def draw(
    requests: Sequence[Request], target: Destination, *, save_steps: bool, as_json: bool
) -> list[Path]:
    """Draw and save all pictures, each as soon as it is finished; returns their files.

    Raises RequestError, FileError or OutputError before anything is drawn, where that can be seen.
    """
    models, told, saved = Models(), Told(), []
    for request in requests:
        models.check(request)
    with prepared(target.folder), Display(requests) as display:
        for request in requests:
            display.reading(request)
            model = models.of(request)
            with display.paused():
                told.tell(apart(request, model))
            display.drawing(request)
            previews = Previews(wanted=save_steps)

            def watched(drawn: Progress, previews: Previews = previews) -> None:
                display.watch(drawn)
                previews.keep(drawn)

            for picture in generate(model, request, watch_steps=watched):
                path = target.save(picture)
                previews.save(path, model, picture)
                with display.paused():
                    report(picture, path, told, as_json=as_json)
                saved.append(path)
    return saved


def apart(request: Request, model: Model) -> list[str]:
    """What to say of a --batch whose pictures are computed one at a time."""
    (first,) = settled(request.replace(count=1, batch=1), model)
    if request.batch == 1 or batch_limit(first.replace(batch=request.batch)) > 1:
        return []
    if not first.exact:
        return [f"--batch {request.batch} does nothing: {first.sampler} draws pictures apart."]
    return [
        f"--batch {request.batch} does nothing: pictures are computed one at a time, so that each "
        "has the same bits in any batch; --no-exact computes them together."
    ]


def report(picture: Picture, path: Path, told: Told, *, as_json: bool) -> None:
    """What became of one picture: a line for people, or one JSON object."""
    request, result, seconds = picture.recipe.request, picture.recipe.result, picture.recipe.seconds
    if as_json:
        values = {
            "path": str(path),
            "seed": request.seed,
            "subseed": request.subseed,
            "width": request.width,
            "height": request.height,
            "steps": result.steps,
            "sampler": result.sampler,
            "schedule": result.schedule,
            "seconds": seconds,
            "pixels_sha256": result.pixels_sha256,
            "warnings": list(picture.warnings),
        }
        print(json.dumps(values), flush=True)
        return
    told.tell(picture.warnings)
    print(
        f"{path}  seed {request.seed}  {request.width}x{request.height}  "
        f"{result.steps} steps of {result.sampler} ({result.schedule})  {seconds or 0:.1f} s",
        flush=True,
    )


class Previews:
    """The estimates after each step of the pictures being drawn, for --save-steps."""

    def __init__(self, *, wanted: bool) -> None:
        self.wanted = wanted
        self._latents: list[list[Tensor]] = []  # by picture of the batch, by step
        self._next = 0

    def keep(self, drawn: Progress) -> None:
        """Keep the estimates of a step."""
        if not self.wanted:
            return
        if drawn.step == 1:
            self._latents, self._next = [[] for _ in range(drawn.pictures)], 0
        for k, steps in enumerate(self._latents):
            steps.append(drawn.denoised[k : k + 1].cpu())

    def save(self, path: Path, model: Model, picture: Picture) -> None:
        """Write the next picture's estimates to the folder NAME-steps beside its file.

        They carry no recipe. Raises OutputError.
        """
        if not self.wanted:
            return
        folder = path.with_name(f"{path.stem}-steps")
        make_folder(folder)
        with watch() as sentinel:
            for number, latents in enumerate(self._latents[self._next], start=1):
                image = decoded(model, latents.to(model.device), picture.recipe.request, sentinel)
                write_whole(folder / f"{number:03}.png", _png(to_uint8(image)[0]))
        self._next += 1


def _png(pixels: NDArray[np.uint8]) -> bytes:
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()
