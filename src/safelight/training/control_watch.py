"""What is looked at while a ControlNet trains: what maps tell it, and pictures beside their maps.

Shapes: P previews, H W pixels.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from safelight.condition import Condition, Control
from safelight.diffusion.denoiser import Network
from safelight.errors import OutputError, RequestError
from safelight.models.autoencoder import Codec
from safelight.preprocessors.agreement import agreement
from safelight.text.conditioner import Conditioner
from safelight.training.control_maps import MapMaker
from safelight.training.control_task import NAME, ControlTask, Uncontrolled, shown
from safelight.training.diffusion_watch import DiffusionWatch
from safelight.training.draw import Draw
from safelight.training.previews import Previews, write_sheet
from safelight.training.validation import Validation, over_all
from safelight.training.watch import Moment
from safelight.writing import make_folder

LINES = frozenset({"canny", "soft_edge", "lineart", "scribble"})  # maps that can be found again


@dataclass(frozen=True, eq=False)
class ControlPreviews(Previews):
    """Pictures that are drawn after maps, (P, 3 or 1, H, W) uint8, one for each prompt.

    Raises RequestError unless there are as many, of the size that is drawn.
    """

    maps: Tensor | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        shape = None if self.maps is None else (len(self.maps), *self.maps.shape[2:])
        if shape != (len(self.prompts), self.height, self.width):
            raise RequestError(
                f"{len(self.prompts)} previews of {self.width}x{self.height} need as many maps of "
                f"that size; got {shape}"
            )

    def _conditions(
        self, text: Conditioner, first: int, prompts: Sequence[str]
    ) -> tuple[Condition, Condition]:
        told, nothing = super()._conditions(text, first, prompts)
        assert self.maps is not None
        controls = (Control(NAME, shown(self.maps[first : first + len(prompts)].cpu())),)
        return replace(told, controls=controls), replace(nothing, controls=controls)


class ControlWatch(DiffusionWatch):
    """Judges the ControlNet with and without maps; the U-Net is the same, so one needs one look.

    `held_out/loss` stands beside `held_out/loss_without_map`. Previews are drawn as pairs of map
    and picture; where the maps are lines that can be found again in what was drawn, `previews/f1`
    says how well they agree, beside `previews/f1_without_map` of the U-Net alone.
    """

    def __init__(
        self,
        task: ControlTask,
        held: Sequence[Validation],
        maker: MapMaker,
        warn: Callable[[str], None],
        *,
        previews: ControlPreviews | None = None,
        codec: Codec | None = None,
        preview_every: int = 1,
    ) -> None:
        super().__init__(task, previews=previews, codec=codec, preview_every=preview_every)
        self._held, self._maker, self._warn = held, maker, warn
        self._loss_alone: float | None = None
        self._f1_alone: float | None = None

    def validate(self, moment: Moment) -> Mapping[str, float]:
        with self._judged(moment):
            figures = over_all(self._held, self.task)
            if figures:
                if self._loss_alone is None:
                    alone = over_all(self._held, self.task, Uncontrolled(self.task.network))
                    self._loss_alone = alone["held_out/loss"]
                figures["held_out/loss_without_map"] = self._loss_alone
            if moment.first and self.previews is not None and moment.step % self.preview_every == 0:
                figures |= self._drawn(moment)
        return figures

    def warned(self, text: str) -> None:
        self._warn(text)

    def _drawn(self, moment: Moment) -> dict[str, float]:
        """Write the sheet, and give how well its lines agree."""
        previews = self.previews
        assert isinstance(previews, ControlPreviews) and previews.maps is not None
        pictures = self._pictures(previews, self.task.network)
        beside = shown(previews.maps.cpu()) * 2 - 1
        pairs = torch.stack([beside, pictures], 1).flatten(0, 1)
        labels = [label for prompt in previews.prompts for label in (prompt, "")]
        try:
            folder = moment.folder / "previews"
            make_folder(folder)
            write_sheet(folder / f"{moment.step:08d}.png", pairs, labels)
        except OutputError as error:
            self.warned(f"{error} The run goes on without this sheet of pictures")
        if self._maker.making.preprocessor not in LINES:
            return {}
        if self._f1_alone is None:
            alone = self._pictures(previews, Uncontrolled(self.task.network))
            self._f1_alone = self._f1(previews.maps, alone)
        return {
            "previews/f1": self._f1(previews.maps, pictures),
            "previews/f1_without_map": self._f1_alone,
        }

    def _pictures(self, previews: ControlPreviews, network: Network) -> Tensor:
        assert self.codec is not None and self.task.text is not None
        text = self.task.text.conditioner
        return previews.pictures(network, self.task.process, text, self.codec).cpu()

    def _f1(self, maps: Tensor, pictures: Tensor) -> float:
        found = self._maker.maps(pictures, Draw(0, 0, len(pictures)))
        wanted = maps.cpu().expand(-1, 3, -1, -1)
        each = [
            agreement(one.permute(1, 2, 0).numpy(), other.permute(1, 2, 0).numpy()).f1
            for one, other in zip(wanted, found, strict=True)
        ]
        return sum(each) / len(each)
