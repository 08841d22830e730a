"""The masks of a data section, for latents that are kept and for those made as they come."""

from dataclasses import dataclass
from pathlib import Path

from safelight.printable import shown
from safelight.training.config.sections import PictureSection
from safelight.training.config.teaching import MaskSection
from safelight.training.control_files import MapFiles, open_maps
from safelight.training.diffusion_task import LatentBatch
from safelight.training.latent_data import EncodedPictures, PoolsBySize
from safelight.training.masks import EncodedMasked, Masked, Masking, Opacities, kept_masks
from safelight.training.order import Order
from safelight.training.picture_data import Framing, PictureBatch, PictureData
from safelight.training.recipes.job import Workshop
from safelight.training.recipes.pictures import NO_WORDS, Pictures, PictureSet
from safelight.training.sources.example import Source
from safelight.training.task import Data


@dataclass(frozen=True)
class Masks:
    """Where masks come from, and how they weigh."""

    section: PictureSection
    found: PictureSet
    files: MapFiles | None  # None: the pictures' own transparency
    masking: Masking
    workshop: Workshop

    @classmethod
    def opened(
        cls, mask: MaskSection, found: PictureSet, section: PictureSection, workshop: Workshop
    ) -> "Masks":
        """The masks of a config. Raises FileError for masks that are missing or do not fit."""
        sides = [found.train, found.held]
        files = None
        if mask.folder is not None:
            files = open_maps(
                Path(mask.folder),
                [side.source for side in sides],
                [place for side in sides for place in side.places],
                word="mask",
            )
        return cls(section, found, files, Masking(mask.outside, mask.even), workshop)

    @property
    def facts(self) -> tuple[str, ...]:
        where = "their transparency" if self.files is None else shown(self.files.folder)
        return (f"the loss is masked by {where}; outside counts {self.masking.outside:g}",)

    @property
    def identity(self) -> dict[str, str]:
        return {} if self.files is None else {"masks": self.files.digest}

    def beside(self, latents: Data[LatentBatch], pool: PoolsBySize, which: Pictures) -> Masked:
        """Latents that are kept, with their masks. Raises FileError for one that is all black."""
        groups: list[dict[int, int]] = [{} for _ in pool.pools]
        for index, (size, row) in enumerate(pool.places):
            groups[size][row] = index
        data = self._data(which, None, Framing())
        masks = kept_masks(
            data,
            [[rows[row] for row in range(len(rows))] for rows in groups],
            [(int(p.latents.shape[2]), int(p.latents.shape[3])) for p in pool.pools],
            self.masking,
        )
        on_device = tuple(mask.to(self.workshop.device) for mask in masks)
        return Masked(latents, on_device, pool.places)

    def each(self, pool: PoolsBySize, which: Pictures) -> tuple[Data[LatentBatch], ...]:
        """The pools, each with its masks: what is held out."""
        masks = self.beside(pool, pool, which).masks
        return tuple(
            Masked(one, (mask,), [(0, row) for row in range(len(one))])
            for one, mask in zip(pool.pools, masks, strict=True)
        )

    def moving(
        self, pictures: Data[PictureBatch], coder: EncodedPictures, order: Order
    ) -> EncodedMasked:
        """Pictures whose crops and mirror images are drawn, with masks that follow them."""
        masks = self._data(self.found.train, order, self.found.framing)
        return EncodedMasked(pictures, coder, masks, self.masking)

    def _data(self, which: Pictures, order: Order | None, framing: Framing) -> PictureData:
        source: Source = Opacities(which.source)
        if self.files is not None:
            source = self.files.like(which.source)
        made = PictureData(
            source,
            which.places,
            wording=NO_WORDS,
            framing=framing,
            on_problem=self.section.on_problem,
            threads=self.section.threads,
            order=order,
        )
        return self.workshop.stack.enter_context(made)
