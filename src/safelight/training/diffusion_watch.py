"""What is looked at while a diffusion model trains: the held-out loss, and pictures."""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext

from safelight.errors import OutputError, RequestError
from safelight.models.autoencoder import Codec
from safelight.printable import shown
from safelight.text.conditioner import Conditioner
from safelight.training.diffusion_task import DiffusionTask
from safelight.training.previews import Previews, write_sheet
from safelight.training.validation import Validation
from safelight.training.watch import Moment, Watch
from safelight.writing import make_folder


class DiffusionWatch(Watch):
    """Judges and draws with an average of the weights, or with the weights themselves.

    Whenever the run validates: the figures of `validation`; and in steps that `preview_every`
    divides, pictures of `previews` as `previews/STEP.png` in the run's folder. A sheet that cannot
    be written is warned of.
    """

    def __init__(
        self,
        task: DiffusionTask,
        validation: Validation | None = None,
        *,
        previews: Previews | None = None,
        codec: Codec | None = None,
        preview_every: int = 1,
        average: str | None = None,
        weights: bool = False,
    ) -> None:
        """average: name of the average to judge; None is the run's first, if it has one.

        weights: judge the weights themselves, whatever averages there are.
        Raises RequestError for previews without a codec or a text side.
        """
        if previews is not None and (codec is None or task.text is None):
            raise RequestError("previews need the codec that decodes them and a text side.")
        self.task = task
        self.validation = validation
        self.previews = previews
        self.codec = codec
        self.preview_every = preview_every
        self.average = average
        self.weights = weights

    def validate(self, moment: Moment) -> Mapping[str, float]:
        """The figures of this moment. Raises RequestError for an average that the run has not."""
        with self._judged(moment):
            figures = {} if self.validation is None else self.validation(self.task)
            if moment.first and moment.step % self.preview_every == 0:
                self._draw(moment)
        return figures

    def _judged(self, moment: Moment) -> AbstractContextManager[None]:
        if self.weights:
            return nullcontext()
        if self.average is not None and self.average not in moment.kinds:
            raise RequestError(
                f"the run keeps no average {shown(self.average)!r}; "
                f"it has {', '.join(moment.kinds) or 'none'}."
            )
        kinds = (self.average,) if self.average is not None else moment.kinds[:1]
        return moment.averaged(kinds[0]) if kinds else nullcontext()

    def conditioner(self) -> Conditioner:
        """What reads the prompts of previews."""
        assert self.task.text is not None
        return self.task.text.conditioner

    def _draw(self, moment: Moment) -> None:
        if self.previews is None:
            return
        assert self.codec is not None
        pictures = self.previews.pictures(
            self.task.network, self.task.process, self.conditioner(), self.codec
        )
        try:
            folder = moment.folder / "previews"
            make_folder(folder)
            write_sheet(folder / f"{moment.step:08d}.png", pictures, self.previews.prompts)
        except OutputError as error:
            self.warned(f"{error} The run goes on without this sheet of pictures")
