"""One pass of a drawing: plan, steps, latents; and what several passes share.

Shapes: B pictures, C latent channels, h w latent height and width, H W pixels.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from safelight.diffusion.reuse import Savings
from safelight.engines.sentinel import Sentinel
from safelight.model import Model
from safelight.models.autoencoder import Codec
from safelight.models.text_states import texts_kept
from safelight.models.tiling import Bands
from safelight.tasks.aids import NO_AIDS, Aids
from safelight.tasks.plan import Plan, plan
from safelight.tasks.request import Request
from safelight.tasks.stage import NOTHING, Stage
from safelight.tasks.windows import ends_joined, wrap_of


@dataclass(frozen=True)
class Progress:
    """Where a drawing stands, after each step."""

    first: int  # number of the batch's first picture, from 0
    pictures: int  # in this batch
    step: int  # from 1
    steps: int
    denoised: Tensor  # (B, C, h, w) the estimate of the clean latents


Watch = Callable[[Progress], None]


@dataclass
class Tally:
    """Counts the steps of all passes of a batch, and tells whoever watches.

    passes: how many passes of about `each` steps are to come in all; known before the first.
    savings: what reuse saved, of all passes.
    """

    first: int = 0
    pictures: int = 1
    watch: Watch | None = None
    passes: int = 1
    savings: Savings = field(default_factory=Savings)
    taken: int = field(default=0, init=False)
    _begun: int = field(default=0, init=False)

    def begin(self) -> None:
        """Another pass begins."""
        self._begun += 1

    def step(self, number: int, planned: int, denoised: Tensor) -> None:
        """Step `number` of the `planned` ones of this pass is done."""
        self.taken += 1
        if self.watch is not None:
            left = max(planned - number, 0) + planned * max(self.passes - self._begun, 0)
            steps = self.taken + left
            self.watch(Progress(self.first, self.pictures, self.taken, steps, denoised))


@dataclass(frozen=True)
class Pass:
    """What one run of the sampler came to."""

    latents: Tensor  # (B, C, h, w)
    plan: Plan


def painted(
    model: Model,
    requests: Sequence[Request],
    sentinel: Sentinel,
    tally: Tally,
    stage: Stage = NOTHING,
    aids: Aids = NO_AIDS,
) -> Pass:
    """The latents of pictures that differ in nothing but their seeds, from what `stage` holds."""
    models = [model] if aids.refiner is None else [model, aids.refiner]
    # an engine makes its own of the whole network, and knows it by all that it holds
    own: list[object] = [one.network.unet for one in models if one.network.runner is None]
    with (
        aids.outfit.on(model) as dressed,
        ends_joined(model, requests[0], aids),
        aids.attached(model.network.unet),
        texts_kept([*own, *aids.networks.values()]),
    ):
        drawing = plan(dressed.model, requests, sentinel, stage, aids, tally.savings)
        drawing = replace(drawing, denoise=dressed.turned(drawing.denoise))
        planned = len(drawing.sigmas) - 1
        x = drawing.x
        tally.begin()
        for number, step in enumerate(drawing.steps(), start=1):
            x = step.x
            tally.step(number, planned, step.denoised)
    return Pass(x, drawing)


def decoded(model: Model, latents: Tensor, request: Request, sentinel: Sentinel) -> Tensor:
    """Latents (B, C, h, w) as images (B, 3, H, W), watched for NaN."""
    tile = Bands() if request.tile_vae else None
    return _watched(
        "VAE decoder",
        model,
        sentinel,
        lambda codec: codec.decode(latents, tile=tile, wrap=wrap_of(request)),
    )


def encoded(model: Model, images: Tensor, request: Request, sentinel: Sentinel) -> Tensor:
    """Images (B, 3, H, W) in [-1, 1] as latents (B, C, h, w), the posterior's mean.

    Other programs draw from the posterior; its deviation is far below what a step changes, and the
    mean is the same whatever the seed.
    """
    tile = Bands() if request.tile_vae else None
    return _watched(
        "VAE encoder",
        model,
        sentinel,
        lambda codec: codec.encode(
            images.to(model.device), tile=tile, wrap=wrap_of(request)
        ).mode(),
    )


def _watched(
    part: str, model: Model, sentinel: Sentinel, work: Callable[[Codec], Tensor]
) -> Tensor:
    """What the codec gives, under the sentinel's eyes; by its engine, if it has one, first."""
    codec, runner = model.codec, model.codec.runner
    coder = codec.autoencoder
    assert isinstance(coder, nn.Module)
    if runner is None:
        return sentinel.run(part, coder, lambda: work(codec))
    return sentinel.run(
        part,
        coder,
        lambda: work(replace(codec, runner=None)),
        engine=runner.name,
        by_engine=lambda: work(codec),
    )


def as_images(pixels: Sequence["torch.Tensor"]) -> Tensor:
    """Pixels (H, W, 3) in 0 to 255 as images (B, 3, H, W) in [-1, 1], float32."""
    return torch.stack([p.permute(2, 0, 1).float() / 127.5 - 1 for p in pixels])
