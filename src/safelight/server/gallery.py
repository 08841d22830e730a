"""Finished pictures on the disk: PNG files with their recipes, under names that the server makes.

A file is written beside, brought to the disk and renamed: after a crash it is whole or not there.
"""

import hashlib
import time
from contextlib import suppress
from io import BytesIO
from pathlib import Path

from PIL import Image

from safelight.errors import FileError
from safelight.server.jobs import Job
from safelight.server.kept import Kept, picture_id
from safelight.server.lesson_store import Lessons
from safelight.server.refusals import Unknown
from safelight.tasks.picture import Picture
from safelight.tasks.picture_file import RECIPE_KEY, open_picture
from safelight.tasks.recipe import Recipe, bare_name
from safelight.writing import make_folder, remove_parts, write_whole

DAY = "[0-9][0-9][0-9][0-9]-[0-9][0-9]-[0-9][0-9]"
THUMBNAIL = 256
THUMBNAIL_MOST = 1024
QUALITY = 85


class Gallery:
    """The output folder: `2026-11-23/{seed}-{id}.png`, small pictures to show them by,
    and their lessons."""

    def __init__(self, folder: Path, thumbnails: Path, *, metadata: bool = True) -> None:
        self.folder, self.thumbnails, self.metadata = folder, thumbnails, metadata
        make_folder(thumbnails)
        for own in (thumbnails.parent, *folder.glob(DAY)):
            remove_parts(own)
        self.lessons = Lessons(thumbnails.parent / "lessons")

    def file_of(self, job: Job, index: int) -> str:
        """The name of a picture's file; the same if it is drawn again after a crash."""
        day = time.strftime("%Y-%m-%d", time.gmtime(job.created))
        single = job.request.single(index)
        return f"{day}/{single.seed}-{picture_id(job.id, index)}.png"

    def save(self, job: Job, index: int, picture: Picture) -> Kept:
        """Write a finished picture. Raises OutputError."""
        file = self.file_of(job, index)
        make_folder((self.folder / file).parent)
        data = picture.encoded(".png", self.metadata)
        write_whole(self.folder / file, data)
        return _kept(job, index, file, data, picture.recipe, picture.warnings, _now(job))

    def found(self, job: Job, index: int) -> Kept | None:
        """The picture that a server which died had written and not yet remembered."""
        file = self.file_of(job, index)
        try:
            data = (self.folder / file).read_bytes()
            opened = open_picture(self.folder / file)
            recipe = Recipe.from_json(opened.texts[RECIPE_KEY])
        except (FileError, OSError, KeyError):
            return None
        return _kept(job, index, file, data, recipe, recipe.result.warnings, _now(job))

    def path(self, kept: Kept) -> Path:
        """Where a picture lies. Raises Unknown if its file is gone."""
        path = self.folder / kept.file
        if not path.is_file():
            raise Unknown("the file of this picture is gone from the server's folder.")
        return path

    def read(self, kept: Kept) -> bytes:
        """The bytes of its file. Raises Unknown if it is gone."""
        try:
            return self.path(kept).read_bytes()
        except OSError:
            raise Unknown("the file of this picture is gone from the server's folder.") from None

    def opened(self, kept: Kept) -> Picture:
        """The picture with its recipe. Raises Unknown if the file is gone or has none."""
        opened = open_picture(self.path(kept))
        if RECIPE_KEY not in opened.texts:
            raise Unknown("the file of this picture carries no recipe.")
        return Picture(opened.pixels, Recipe.from_json(opened.texts[RECIPE_KEY]), kept.warnings)

    def thumbnail(self, kept: Kept, side: int = THUMBNAIL) -> bytes:
        """A JPEG whose longer side is `side` pixels; kept for the usual size."""
        side = max(16, min(side, THUMBNAIL_MOST))
        path = self.thumbnails / f"{kept.id}.jpg"
        if side == THUMBNAIL:
            with suppress(OSError):
                return path.read_bytes()
        with Image.open(self.path(kept), formats=("PNG",)) as image:
            small = image.convert("RGB")
            small.thumbnail((side, side), Image.Resampling.LANCZOS)
        buffer = BytesIO()
        small.save(buffer, "JPEG", quality=QUALITY)
        if side == THUMBNAIL:
            with suppress(FileExistsError):
                write_whole(path, buffer.getvalue(), replace=False)
        return buffer.getvalue()

    def delete(self, kept: Kept) -> None:
        """Remove a picture's files; those that are gone already are no error."""
        self.lessons.delete(kept.id)
        for path in (self.folder / kept.file, self.thumbnails / f"{kept.id}.jpg"):
            with suppress(OSError):
                path.unlink(missing_ok=True)
        with suppress(OSError):
            (self.folder / kept.file).parent.rmdir()  # the last picture of a day


def _now(job: Job) -> float:
    return max(time.time(), job.created)


def _kept(
    job: Job,
    index: int,
    file: str,
    data: bytes,
    recipe: Recipe,
    warnings: tuple[str, ...],
    now: float,
) -> Kept:
    request = recipe.request
    size = recipe.result.size or (request.width or 0, request.height or 0)
    assert request.seed is not None
    return Kept(
        id=picture_id(job.id, index),
        job=job.id,
        index=index,
        owner=job.owner,
        created=now,
        file=file,
        width=size[0],
        height=size[1],
        seed=request.seed,
        prompt=request.prompt,
        negative_prompt=request.negative_prompt,
        model="" if request.model is None else bare_name(request.model),
        size=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
        warnings=warnings,
    )
