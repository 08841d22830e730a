"""Pictures of fixed prompts while a network trains, always from the same noise.

Shapes: P prompts, C latent channels, h w latent height and width, H W pixels.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from pathlib import Path

import torch
from torch import Tensor

from safelight.condition import Condition, stack, to
from safelight.diffusion.denoiser import Denoiser, Network
from safelight.diffusion.guidance import guided
from safelight.diffusion.noise import Noise
from safelight.diffusion.process import Process, start
from safelight.diffusion.samplers import resolve_sampler
from safelight.diffusion.schedules import resolve_schedule, without_penultimate
from safelight.errors import RequestError
from safelight.models.autoencoder import Codec
from safelight.models.backbone import Backbone
from safelight.text.conditioner import Conditioner
from safelight.text.spec import Size
from safelight.training.validation import judging
from safelight.writing import write_whole


@dataclass(frozen=True)
class Previews:
    """What is drawn: prompts of a size in pixels, and how. Picture k has the noise of seed + k.

    seeds: of each picture, instead. negative: what guidance leads away from.
    """

    prompts: tuple[str, ...]
    height: int
    width: int
    steps: int = 20
    guidance_scale: float = 3.0
    sampler: str = "dpmpp_2m"
    schedule: str = "karras"
    seed: int = 0
    batch: int = 64
    seeds: tuple[int, ...] | None = None
    negative: str = ""

    def __post_init__(self) -> None:
        if self.seeds is not None and len(self.seeds) != len(self.prompts):
            raise RequestError(f"{len(self.prompts)} prompts have {len(self.seeds)} seeds")
        if not self.prompts or self.batch < 1:
            raise RequestError("previews need one or more prompts, and batches of 1 or more.")

    def latents(
        self, network: Network, process: Process, text: Conditioner, codec: Codec
    ) -> Tensor:
        """The latents (P, C, h, w) that a network draws, float32 on its device."""
        drawn = [
            self._drawn(
                network, process, text, codec, first, self.prompts[first : first + self.batch]
            )
            for first in range(0, len(self.prompts), self.batch)
        ]
        return torch.cat(drawn)

    def pictures(
        self, network: Network, process: Process, text: Conditioner, codec: Codec
    ) -> Tensor:
        """The pictures (P, 3, H, W) in [-1, 1] that a network draws, on its device.

        The random numbers and the modes of the network are as before afterwards.
        """
        with judging(network.unet if isinstance(network, Backbone) else None):
            latents = self.latents(network, process, text, codec)
            decoded = [codec.decode(part) for part in latents.split(self.batch)]
            return torch.cat(decoded).clamp(-1, 1)

    def _drawn(
        self,
        network: Network,
        process: Process,
        text: Conditioner,
        codec: Codec,
        first: int,
        prompts: Sequence[str],
    ) -> Tensor:
        told, nothing = (
            to(each, device=_device(codec)) for each in self._conditions(text, first, prompts)
        )
        sampler = resolve_sampler(self.sampler)
        spacing = partial(resolve_schedule(self.schedule), process)
        sigmas = (without_penultimate(spacing) if sampler.discard_penultimate else spacing)(
            self.steps
        )
        shape = (codec.channels, self.height // codec.factor, self.width // codec.factor)
        all_seeds = self.seeds or range(self.seed, self.seed + len(self.prompts))
        seeds = all_seeds[first : first + len(prompts)]
        noise = Noise(list(seeds), shape, device=_device(codec))
        x = start(noise(), sigmas, process.prediction, sampler.start)
        denoise = guided(Denoiser(network, process), told, nothing, self.guidance_scale)
        options: dict[str, object] = {"process": process} if sampler.takes_process else {}
        for step in sampler.run(denoise, x, sigmas, noise, **options):
            x = step.x
        return x

    def _conditions(
        self, text: Conditioner, first: int, prompts: Sequence[str]
    ) -> tuple[Condition, Condition]:
        """What is said, and what guidance leads away from; of pictures `first` and after it."""
        size = Size(self.height, self.width)
        told = text(prompts, [size] * len(prompts))
        return self._with_nothing(text, told, size)

    def _with_nothing(
        self, text: Conditioner, told: Condition, size: Size
    ) -> tuple[Condition, Condition]:
        """What is said, and what guidance leads away from, as long and as often."""
        empty = text.condition(self.negative, size=size, dialect="plain", negative=True)
        told, nothing = text.equalised([told, stack([empty] * told.batch)])
        return told, nothing


def write_sheet(path: Path, pictures: Tensor, labels: Sequence[str] = (), columns: int = 8) -> None:
    """Write pictures (P, 3, H, W) in [-1, 1] as one PNG of rows, each under its label.

    Raises OutputError if it cannot be written.
    """
    from PIL import Image, ImageDraw, ImageFont

    pixels = ((pictures.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).cpu()
    count, height, width = pixels.shape[:3]
    columns = min(columns, count)
    head = 14 if labels else 0
    gap = 4
    page = Image.new(
        "RGB",
        (gap + columns * (width + gap), gap + -(-count // columns) * (height + head + gap)),
        (250, 250, 248),
    )
    pen, font = ImageDraw.Draw(page), ImageFont.load_default(size=10)
    for number, picture in enumerate(pixels.numpy()):
        left = gap + number % columns * (width + gap)
        top = gap + number // columns * (height + head + gap)
        if labels:
            pen.text(
                (left, top), _fitting(labels[number], font.getlength, width), (32, 32, 32), font
            )
        page.paste(Image.fromarray(picture), (left, top + head))
    data = BytesIO()
    page.save(data, "PNG")
    write_whole(path, data.getvalue())


def _fitting(label: str, length: Callable[[str], float], width: int) -> str:
    """As much of a label, on one line, as the width of a picture holds."""
    text = " ".join(label.split())
    while text and length(text) > width:
        text = text[:-1]
    return text


def _device(codec: Codec) -> torch.device:
    return next(codec.autoencoder.parameters()).device
