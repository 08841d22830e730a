"""What helps a model draw: control networks, image prompts, LoRAs, a refiner.

Each is opened once, checked against the model, and handed to the plan as values.
"""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace

from torch import Tensor

from safelight.adapters.image_prompts import ImagePromptAdapter, attached
from safelight.clip.pair import ClipPair
from safelight.condition import Condition, Control, ImagePrompt, ReferencePicture
from safelight.model import Model
from safelight.models.control_networks import ControlNetwork
from safelight.models.unet import UNet
from safelight.tasks.adapting import NOTHING_ON, Outfit
from safelight.tasks.edits import ClipGuidance
from safelight.tasks.recipe import UsedFile


@dataclass(frozen=True)
class ClipAid:
    """A CLIP that guides: the direction (1, P) that it climbs, and between which noise levels."""

    pair: ClipPair
    wanted: Tensor
    guidance: ClipGuidance
    high: float
    low: float


@dataclass(frozen=True)
class Aids:
    """What a condition is told besides its text, and who takes over below which noise level.

    controls, images, references: for the positive conditions; those called negative: for the
        negative one. networks: the control networks by the names that controls call, whose files
        are called as `labels` says; adapters: the IP-Adapters by theirs.
    """

    controls: tuple[Control, ...] = ()
    negative_controls: tuple[Control, ...] = ()
    images: tuple[ImagePrompt, ...] = ()
    negative_images: tuple[ImagePrompt, ...] = ()
    references: tuple[ReferencePicture, ...] = ()
    negative_references: tuple[ReferencePicture, ...] = ()
    networks: Mapping[str, ControlNetwork] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    adapters: tuple[tuple[str, ImagePromptAdapter], ...] = ()
    places: tuple[Tensor, ...] = ()  # of the regions' prompts, and last of the rest's
    clip: ClipAid | None = None
    outfit: Outfit = NOTHING_ON  # LoRAs, learned words and hypernetworks
    refiner: Model | None = None
    refiner_below: float = 0.0  # sigma
    files: tuple[UsedFile, ...] = field(default=(), compare=False)
    notes: tuple[str, ...] = ()

    def told(self, condition: Condition, *, negative: bool) -> Condition:
        """The condition with the controls and image prompts of its side."""
        return replace(
            condition,
            controls=self.negative_controls if negative else self.controls,
            image_prompts=self.negative_images if negative else self.images,
            references=self.negative_references if negative else self.references,
        )

    @contextmanager
    def attached(self, unet: UNet) -> Iterator[None]:
        """While it is entered, the IP-Adapters are attached to the U-Net."""
        with ExitStack() as stack:
            for name, adapter in self.adapters:
                stack.enter_context(attached(unet, name, adapter))
            yield


NO_AIDS = Aids()
