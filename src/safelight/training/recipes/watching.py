"""What is looked at while a diffusion model learns: figures of what is held out, and previews."""

from collections.abc import Callable, Mapping, Sequence

from safelight.errors import RequestError
from safelight.models.autoencoder import Codec
from safelight.text.conditioner import Conditioner
from safelight.training.config.configs import Base
from safelight.training.config.sections import PreviewSection
from safelight.training.diffusion_task import DiffusionTask, LatentBatch
from safelight.training.diffusion_watch import DiffusionWatch
from safelight.training.previews import Previews
from safelight.training.recipes.job import Workshop
from safelight.training.task import Data
from safelight.training.validation import Validation, over_all
from safelight.training.watch import Moment

JUDGED = 64


class HeldOutWatch(DiffusionWatch):
    """Figures over all sizes of held-out pictures, and previews.

    reader: gives what reads the prompts of previews; left out, the task's own text side.
    """

    def __init__(
        self,
        task: DiffusionTask,
        held: Sequence[Validation],
        warn: Callable[[str], None],
        *,
        previews: Previews | None = None,
        codec: Codec | None = None,
        preview_every: int = 1,
        reader: Callable[[], Conditioner] | None = None,
    ) -> None:
        super().__init__(task, None, previews=previews, codec=codec, preview_every=preview_every)
        self._held, self._warn, self._reader = held, warn, reader

    def validate(self, moment: Moment) -> Mapping[str, float]:
        with self._judged(moment):
            figures = self.figures()
            if moment.first and self._due(moment.step):
                self._draw(moment)
        return figures

    def figures(self) -> Mapping[str, float]:
        """Those of what is held out."""
        return over_all(self._held, self.task)

    def warned(self, text: str) -> None:
        self._warn(text)

    def conditioner(self) -> Conditioner:
        return super().conditioner() if self._reader is None else self._reader()

    def _due(self, step: int) -> bool:
        return self.preview_every > 0 and step % self.preview_every == 0


def validations(held: Sequence[Data[LatentBatch]]) -> list[Validation]:
    """How what is held out is judged, one for each size."""
    return [Validation(data, range(len(data)), min(JUDGED, len(data))) for data in held]


def watch_of(
    section: PreviewSection | None,
    config: Base,
    task: DiffusionTask,
    codec: Codec,
    held: Sequence[Data[LatentBatch]],
    workshop: Workshop,
    *,
    reader: Callable[[], Conditioner] | None = None,
) -> HeldOutWatch:
    """The watch of a config. Raises RequestError for previews of a size that cannot be drawn."""
    judged = validations(held)
    previews = previews_of(section, config, codec)
    if section is None or previews is None:
        return HeldOutWatch(task, judged, workshop.warn, reader=reader)
    every = section.every or config.training.validate_every or config.training.steps
    return HeldOutWatch(
        task,
        judged,
        workshop.warn,
        previews=previews,
        codec=codec,
        preview_every=every,
        reader=reader,
    )


def previews_of(section: PreviewSection | None, config: Base, codec: Codec) -> Previews | None:
    """The previews of a section. Raises RequestError for a size that cannot be drawn."""
    if section is None:
        return None
    side = config.data.size
    previews = Previews(
        section.prompts,
        section.height or side,
        section.width or side,
        section.steps,
        section.guidance_scale,
        section.sampler,
        section.schedule,
        section.seed,
    )
    if previews.height % codec.factor or previews.width % codec.factor:
        raise RequestError(
            f"previews.height and width must be multiples of {codec.factor}; got "
            f"{previews.height} and {previews.width}"
        )
    return previews
