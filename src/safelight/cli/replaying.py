"""What `safelight replay` does once it is asked to."""

import json
from pathlib import Path

from safelight.cli.drawing import steps_shown
from safelight.cli.telling import tell
from safelight.errors import ReplayError, RequestError
from safelight.tasks.generate import generate
from safelight.tasks.grid import KEY, cell_of
from safelight.tasks.loading import Models
from safelight.tasks.metadata.reader import settings_of
from safelight.tasks.picture import OpenedPicture, open_picture, pixel_distance
from safelight.tasks.replay import ROLES, compared, with_files


def replayed(
    picture: Path,
    *,
    model: Path | None,
    vae: Path | None,
    cell: str | None,
    out: Path | None,
    as_json: bool,
) -> int:
    """Draw `picture` again and print the verdict; 0 if identical, 1 if not."""
    opened = open_picture(picture)
    given = {role: path for role, path in zip(ROLES, (model, vae), strict=True) if path is not None}
    if cell is None and KEY in opened.texts:
        raise RequestError(
            f"{picture} is a sheet of several pictures; name one: --cell ROW,COLUMN."
        )
    found = settings_of(opened) if cell is None else None
    if found is not None and found.recipe is None:
        return _redrawn(opened, given, out=out, as_json=as_json)
    if found is None:
        recipe, pixels = cell_of(opened, *_place(cell or ""))
    else:
        assert found.recipe is not None
        recipe, pixels = found.recipe, opened.pixels
    request = with_files(recipe, given, (picture.parent, Path()))
    models = Models()
    loaded = models.of(request)
    with steps_shown(request, loaded) as (watch, _):
        (drawn,) = generate(loaded, request, watch_steps=watch)
    verdict = compared(recipe, pixels, drawn)
    if out is not None:
        drawn.save(out)
    if as_json:
        distance = verdict.distance
        print(
            json.dumps(
                {
                    "identical": verdict.identical,
                    "first_difference": verdict.first_difference,
                    "distance": distance and distance._asdict(),
                }
            )
        )
    else:
        print(verdict)
    return 0 if verdict.identical else 1


def _redrawn(
    opened: OpenedPicture, given: dict[str, Path], *, out: Path | None, as_json: bool
) -> int:
    """Another program's picture: drawn from its settings, which prove nothing, and compared."""
    found = settings_of(opened)
    tell(found.notes)
    if found.request is None:
        raise ReplayError(f"{opened.path} carries no recipe and no settings of a known program.")
    request = found.request.replace(**{role: str(path) for role, path in given.items()}).replace(
        count=1
    )
    if request.model is not None and "model" not in given:
        tell([f"looking for the model {request.model!r} by the name that {found.source} gave it"])
    loaded = Models().of(request)
    with steps_shown(request, loaded) as (watch, _):
        (drawn,) = generate(loaded, request, watch_steps=watch)
    distance = pixel_distance(opened.pixels, drawn.pixels)
    identical = distance is not None and distance.largest == 0
    if out is not None:
        drawn.save(out)
    if as_json:
        print(
            json.dumps(
                {
                    "identical": identical,
                    "source": found.source,
                    "distance": distance and distance._asdict(),
                }
            )
        )
    elif identical:
        print("identical")
    elif distance is None:
        print(f"different: drawn from {found.source}'s settings, and of another size")
    else:
        print(
            f"different: drawn from {found.source}'s settings, which are no full recipe; pixels "
            f"are up to {distance.largest} levels of 255 apart, {distance.mean:.3f} on average"
        )
    return 0 if identical else 1


def _place(cell: str) -> tuple[int, int]:
    parts = cell.replace("x", ",").split(",")
    if len(parts) != 2 or not all(part.strip().isdigit() for part in parts):
        raise RequestError(f"--cell must be ROW,COLUMN from 1, such as 2,3; got {cell!r}.")
    return int(parts[0]), int(parts[1])
