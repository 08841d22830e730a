"""Draws and saves what `safelight generate` asks for."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from safelight.cli.destination import Destination, destination, prepared
from safelight.cli.display import Display
from safelight.cli.telling import Told, say
from safelight.cli.word_maps import NO_MAPS, SavedSheet, WantedMaps, save_sheets
from safelight.engines.sentinel import watch
from safelight.model import Model
from safelight.tasks.generate import batch_limit, settled
from safelight.tasks.loading import Models
from safelight.tasks.painting import Progress, decoded
from safelight.tasks.picture import Picture, to_uint8
from safelight.tasks.presets import check_preset
from safelight.tasks.request import Request
from safelight.tasks.resizing import made_larger
from safelight.tasks.supplies import Supplies, check_pictures
from safelight.writing import make_folder, write_whole

if TYPE_CHECKING:
    from safelight.tasks.budget import Planned


def draw(
    requests: Sequence[Request],
    target: Destination,
    *,
    save_steps: bool,
    as_json: bool,
    maps: WantedMaps = NO_MAPS,
    budget: str | None = None,
    preset: str | None = None,
) -> list[Path]:
    """Draw and save all pictures, each as soon as it is finished; returns their files.

    Raises RequestError, FileError or OutputError before anything is drawn, where that can be seen.
    """
    models, told, supplies, saved = Models(), Told(), Supplies(), []
    for request in requests:
        models.check(request)
        check_pictures(request, supplies)
        maps.check(request)
    plans: Sequence[Planned | None] = [None] * len(requests)
    if budget is not None:
        from safelight.cli.budgeting import plans_within
        from safelight.tasks.budget_learning import Trial

        plans = plans_within(budget, requests, models, supplies)
    with prepared(target.folder), Display(requests) as display:
        for request, plan in zip(requests, plans, strict=True):
            if not request.needs_model:
                picture = made_larger(request, supplies)
                path = target.save(picture)
                with display.paused():
                    report(picture, path, told, as_json=as_json)
                saved.append(path)
                continue
            display.reading(request)
            trial = None if plan is None else Trial(plan)
            if plan is not None:
                request = plan.request
                with display.paused():
                    say(f"budget: {plan}")
            request = maps.suited(request)
            model = models.of(request, alone=len(requests) == 1)
            if preset is not None:
                check_preset(preset, model.family.hint)
            with display.paused():
                if models.choice is not None:
                    told.note(str(models.choice))
                told.tell(apart(request, model, supplies))
            display.drawing(request)
            previews = Previews(wanted=save_steps)

            def watched(drawn: Progress, previews: Previews = previews) -> None:
                display.watch(drawn)
                previews.keep(drawn)

            for picture, texts in maps.drawn(model, request, watched, supplies):
                path = target.save(picture)
                previews.save(path, model, picture)
                sheets = save_sheets(path, texts)
                with display.paused():
                    report(picture, path, told, as_json=as_json, sheets=sheets)
                saved.append(path)
            if trial is not None:
                with display.paused():
                    say(f"budget: {trial.ended()}")
    return saved


@dataclass(frozen=True)
class Saving:
    """Where pictures go, in which form, and what is saved and said beside them."""

    out: Path
    format: str | None = None
    quality: int | None = None
    metadata: bool = True
    save_steps: bool = False
    as_json: bool = False
    maps: WantedMaps = NO_MAPS
    budget: str | None = None
    preset: str | None = None


def draw_as(requests: Sequence[Request], how: Saving) -> list[Path]:
    """Draw and save all pictures where and as `how` says; see `draw`."""
    target = destination(
        how.out,
        format=how.format,
        quality=how.quality,
        metadata=how.metadata,
        pictures=sum(request.count for request in requests),
    )
    return draw(
        requests,
        target,
        save_steps=how.save_steps,
        as_json=how.as_json,
        maps=how.maps,
        budget=how.budget,
        preset=how.preset,
    )


def apart(request: Request, model: Model, supplies: Supplies | None = None) -> list[str]:
    """What to say of a --batch whose pictures are computed one at a time."""
    (first,) = settled(request.replace(count=1, batch=1), model, supplies)
    if request.batch == 1 or batch_limit(first.replace(batch=request.batch)) > 1:
        return []
    if not first.exact:
        return [f"--batch {request.batch} does nothing: {first.sampler} draws pictures apart."]
    return [
        f"--batch {request.batch} does nothing: pictures are computed one at a time, so that each "
        "has the same bits in any batch; --no-exact computes them together."
    ]


def report(
    picture: Picture,
    path: Path,
    told: Told,
    *,
    as_json: bool,
    sheets: Sequence[SavedSheet] = (),
) -> None:
    """What became of one picture and its word maps: lines for people, or one JSON object."""
    request, result, seconds = picture.recipe.request, picture.recipe.result, picture.recipe.seconds
    if as_json:
        values: dict[str, object] = {
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
            "facts": list(picture.facts),
        }
        if result.size is not None:
            values["width"], values["height"] = result.size
        if result.figures:
            values["figures"] = {figure.name: figure.value for figure in result.figures}
        if sheets:
            values["word_maps"] = [sheet.values for sheet in sheets]
        print(json.dumps(values), flush=True)
        return
    told.of(picture)
    width, height = result.size or (request.width, request.height)
    figures = "".join(
        f"  {figure.name} {figure.value:.3g}{figure.words and f' ({figure.words})'}"
        for figure in result.figures
    )
    if not request.needs_model:
        print(f"{path}  {width}x{height}  {seconds or 0:.1f} s", flush=True)
        return
    print(
        f"{path}  seed {request.seed}  {width}x{height}  "
        f"{result.steps} steps of {result.sampler} ({result.schedule})  {seconds or 0:.1f} s"
        f"{figures}",
        flush=True,
    )
    for sheet in sheets:
        print(sheet.line, flush=True)


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
        with watch(model.placement) as sentinel:
            for number, latents in enumerate(self._latents[self._next], start=1):
                image = decoded(model, latents.to(model.device), picture.recipe.request, sentinel)
                write_whole(folder / f"{number:03}.png", _png(to_uint8(image)[0]))
        self._next += 1


def _png(pixels: NDArray[np.uint8]) -> bytes:
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()
