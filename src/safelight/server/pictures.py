"""What a client sees of pictures: those it gives, those that were drawn, and whose they are."""

import asyncio
from pathlib import Path

from safelight.server.gallery import Gallery
from safelight.server.jobs import Owner
from safelight.server.kept import Kept
from safelight.server.refusals import Unknown
from safelight.server.settings import ServerSettings
from safelight.server.store import Store
from safelight.server.uploads import Uploads
from safelight.tasks.picture import Picture


class Pictures:
    """The side of a `Service` that has to do with pictures; see there."""

    settings: ServerSettings
    _store: Store
    _gallery: Gallery
    _uploads: Uploads

    async def uploaded_bytes(self, id: str) -> bytes:
        """The bytes of an upload; its id is its proof. Raises Unknown."""
        return await asyncio.to_thread(lambda: self._uploads.path(id).read_bytes())

    def upload_path(self, id: str) -> Path:
        """The file of an upload, for work on the server alone. Raises Unknown."""
        return self._uploads.path(id)

    async def results(self, id: str, owner: Owner) -> list[Kept]:
        """The finished pictures of a job, by index. Raises Unknown."""
        job = await asyncio.to_thread(self._store.job, id)
        if job is None or not owner.sees(job.owner):
            raise Unknown("there is no job of that id.")
        return await asyncio.to_thread(self._store.pictures, job.id)

    async def picture(self, id: str, owner: Owner) -> Kept:
        """A picture of the gallery. Raises Unknown."""
        return await asyncio.to_thread(self._kept, id, owner)

    async def picture_bytes(self, id: str, owner: Owner) -> bytes:
        """Its file as it lies on the disk: a PNG with its recipe. Raises Unknown."""
        kept = await self.picture(id, owner)
        return await asyncio.to_thread(self._gallery.read, kept)

    async def opened(self, id: str, owner: Owner) -> Picture:
        """It with pixels and recipe, to write it in another format (`Picture.encoded`)."""
        kept = await self.picture(id, owner)
        return await asyncio.to_thread(self._gallery.opened, kept)

    async def thumbnail(self, id: str, owner: Owner, side: int = 256) -> bytes:
        """A small JPEG of it, whose longer side has so many pixels. Raises Unknown."""
        kept = await self.picture(id, owner)
        return await asyncio.to_thread(self._gallery.thumbnail, kept, side)

    async def gallery(
        self,
        owner: Owner,
        *,
        search: str = "",
        before: str | None = None,
        limit: int = 50,
        mine: bool = False,
    ) -> list[Kept]:
        """Pictures, the newest first; `before` is the id of the last one of the page before.

        search: words of the prompt or the model, all of which must be there.
        """
        name = owner.name if mine or not owner.sees_all else None
        return await asyncio.to_thread(self._store.gallery, name, search, before, limit)

    async def has_lesson(self, id: str, owner: Owner) -> bool:
        """Whether the lesson of a picture is kept. Raises Unknown for no picture."""
        kept = await self.picture(id, owner)
        return await asyncio.to_thread(self._gallery.lessons.has, kept.id)

    async def lesson(self, id: str, owner: Owner) -> bytes:
        """The lesson of a picture, as JSON. Raises Unknown if none is kept."""
        kept = await self.picture(id, owner)
        return await asyncio.to_thread(self._gallery.lessons.told, kept.id)

    async def lesson_picture(self, id: str, owner: Owner, step: int, panel: str) -> bytes:
        """What a panel of its lesson shows at a step, a WebP. Raises Unknown."""
        kept = await self.picture(id, owner)
        return await asyncio.to_thread(self._gallery.lessons.picture, kept.id, step, panel)

    async def delete(self, id: str, owner: Owner) -> None:
        """Delete a picture, file, entry and lesson. Raises Unknown."""
        kept = await self.picture(id, owner)
        await asyncio.to_thread(self._store.delete_picture, kept.id)
        await asyncio.to_thread(self._gallery.delete, kept)

    def _kept(self, id: str, owner: Owner) -> Kept:
        found = self._store.picture(id)
        if found is None or not owner.sees(found.owner):
            raise Unknown("there is no picture of that id.")
        return found

    def picture_path(self, id: str, owner: Owner) -> Path:
        """The file of an upload or of a picture of the gallery, for who may see it.

        For work on the server alone: no client is ever told. Raises Unknown.
        """
        if len(id) == 16:
            return self._gallery.path(self._kept(id, owner))
        return self._uploads.path(id)
