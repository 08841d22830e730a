"""What a client sees of pictures: those it gives, those that were drawn, and whose they are."""

import asyncio
from collections.abc import Mapping
from pathlib import Path

from safelight.server.gallery import Gallery
from safelight.server.incoming import pictured
from safelight.server.jobs import Job, Owner
from safelight.server.kept import Kept, Upload
from safelight.server.refusals import Unknown
from safelight.server.settings import ServerSettings
from safelight.server.store import Store
from safelight.server.uploads import Uploads, decoded
from safelight.tasks.picture import Picture
from safelight.tasks.request import Request


class Pictures:
    """The side of a `Service` that has to do with pictures; see there."""

    settings: ServerSettings
    _store: Store
    _gallery: Gallery
    _uploads: Uploads

    def job(self, id: str, owner: Owner) -> Job:
        """The job as it is now. Raises Unknown."""
        raise NotImplementedError

    def check_open(self) -> None:
        """Raise NotNow if the server is starting or stopping."""
        raise NotImplementedError

    async def upload(self, data: bytes, owner: Owner) -> Upload:
        """Keep a picture (PNG, JPEG or WebP) that requests will name by its id.

        Raises TooLarge or FileError.
        """
        self.check_open()
        return await asyncio.to_thread(self._uploads.add, data)

    async def with_uploads(self, settings: Mapping[str, object], owner: Owner) -> dict[str, object]:
        """The values of a JSON body in which pictures given as base64 or data URIs are uploads.

        Raises NotAllowed, TooLarge or FileError for one that cannot be used.
        """

        async def keep(text: str) -> str:
            data = await asyncio.to_thread(decoded, text, self.settings.limits)
            return (await self.upload(data, owner)).id

        return await pictured(Request, settings, keep)

    async def uploaded_bytes(self, id: str) -> bytes:
        """The bytes of an upload; its id is its proof. Raises Unknown."""
        return await asyncio.to_thread(lambda: self._uploads.path(id).read_bytes())

    def upload_path(self, id: str) -> Path:
        """The file of an upload, for work on the server alone. Raises Unknown."""
        return self._uploads.path(id)

    async def results(self, id: str, owner: Owner) -> list[Kept]:
        """The finished pictures of a job, by index. Raises Unknown."""
        job = self.job(id, owner)
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

    async def delete(self, id: str, owner: Owner) -> None:
        """Delete a picture, file and entry. Raises Unknown."""
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
