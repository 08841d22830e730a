"""Latent diffusion as a task: what its network is asked in a step, and how the answer is judged.

A step never waits for the device: noise levels and all that follows from them are made on the CPU
in float64 and sent over at once; everything else is made where the latents are.

Shapes: B pictures, C latent channels, h w latent height and width, L tokens, D their width.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

import torch
from torch import Tensor, nn

from safelight.condition import Condition
from safelight.diffusion import loss as losses
from safelight.diffusion.denoiser import Network
from safelight.diffusion.draws import MixedDraw, SigmaDraw, stratified
from safelight.diffusion.process import Process
from safelight.diffusion.weights import Constant, Weight
from safelight.errors import RequestError
from safelight.models.backbone import Backbone
from safelight.training.draw import Draw
from safelight.training.task import Loss
from safelight.training.text_states import FrozenText, TextStates

PLAYER = "unet"


@dataclass(frozen=True, slots=True)
class LatentBatch:
    """Pictures as latents, and what they show: as token ids, or as states of the text towers."""

    latents: Tensor  # (B, C, h, w), of unit size
    tokens: Tensor | None = None  # (B, L), or (B, R, L) where encoders pad differently
    context: Tensor | None = None  # (B, L, D), instead of tokens
    pooled: Tensor | None = None  # (B, P), beside a context
    sizes: Tensor | None = None  # (B, 5 or 6), where the network is told sizes
    concat: Tensor | None = None  # (B, K, h, w) extra channels of the network's input
    mask: Tensor | None = None  # (B, 1, h, w) how much the error of each place counts
    weight: Tensor | None = None  # (B,) how much each picture counts

    def __len__(self) -> int:
        return len(self.latents)


@dataclass(frozen=True)
class DiffusionSettings:
    """How a network is trained; what it predicts is the process's own.

    caption_dropout: share of captions replaced by what inference says where nothing is said.
    offset_noise: deviation of a shift of whole channels that is part of the noise.
    pyramid_noise: discount of coarser noise, 0 to 1, that is part of the noise.
    input_perturbation: deviation of noise in the input that the target does not know of.
    huber: where the error stops growing quadratically; None: nowhere.
    """

    draw: SigmaDraw = field(default_factory=MixedDraw)
    weight: Weight = field(default_factory=Constant)
    caption_dropout: float = 0.1
    offset_noise: float = 0.0
    pyramid_noise: float = 0.0
    input_perturbation: float = 0.0
    huber: float | None = None

    def __post_init__(self) -> None:
        for name in ("caption_dropout", "pyramid_noise"):
            if not 0 <= getattr(self, name) <= 1:
                raise RequestError(f"{name} must be 0 to 1; got {getattr(self, name)}.")
        for name in ("offset_noise", "input_perturbation"):
            if not getattr(self, name) >= 0:
                raise RequestError(f"{name} must be 0 or greater; got {getattr(self, name)}.")
        if self.huber is not None and not self.huber > 0:
            raise RequestError(f"huber must be greater than 0, or left out; got {self.huber}.")


@dataclass(frozen=True)
class DiffusionTask:
    """A network that learns to predict, from noisy latents and a caption.

    text: the frozen text side; may be left out if batches bring contexts and none is dropped.
    module: what learns; left out, the U-Net of the network. player: what that is called.
    Raises RequestError if captions are to be dropped and there is no text side.
    """

    network: Network
    process: Process
    text: FrozenText | None = None
    settings: DiffusionSettings = field(default_factory=DiffusionSettings)
    module: nn.Module | None = None
    player: str = PLAYER

    def __post_init__(self) -> None:
        if self.text is None and self.settings.caption_dropout > 0:
            raise RequestError(
                "caption_dropout needs a text side, whose empty text takes the caption's place; "
                "give one, or set caption_dropout to 0."
            )
        if self.module is None and not isinstance(self.network, Backbone):
            raise RequestError("a network that is no Backbone needs `module`: say what learns.")

    @property
    def learner(self) -> nn.Module:
        """What learns."""
        if self.module is not None:
            return self.module
        assert isinstance(self.network, Backbone)
        return self.network.unet

    @property
    def players(self) -> Mapping[str, nn.Module]:
        return MappingProxyType({self.player: self.learner})

    def plays(self, player: str, step: int) -> bool:
        return True

    def parts(self, player: str) -> tuple[nn.Module, ...]:
        """What is worth compiling: the U-Net, whether all of it learns or what was put into it."""
        return (self.network.unet if isinstance(self.network, Backbone) else self.learner,)

    def loss(self, player: str, batch: LatentBatch, draw: Draw) -> Loss:
        """The weighted loss of a batch; the plain mean squared error beside it as `mse`."""
        device = batch.latents.device
        sigma = self.sigmas(draw)
        at = losses.levels(self.process, sigma, self.settings.weight, device=device)
        noise = self.noise(batch.latents, draw)
        condition = self.condition(batch, self._dropped(batch, draw))
        output, wanted = self.asked(
            batch.latents, noise, at, condition, self._perturbation(noise, draw)
        )
        weight = at.weight if batch.weight is None else at.weight * batch.weight
        total = losses.diffusion_loss(
            output, wanted, weight, huber=self.settings.huber, mask=batch.mask
        )
        with torch.no_grad():
            mse = losses.diffusion_loss(output.detach(), wanted)
        return Loss(total, {"mse": mse})

    def sigmas(self, draw: Draw) -> Tensor:
        """The noise levels of the own rows, (count,) float64 on the CPU.

        They are spread evenly over the whole step and dealt to its rows at random, so each of its
        micro-batches sees all kinds.
        """
        places = torch.randperm(draw.total, generator=draw.generator("level places", "cpu"))
        uniforms = draw.uniform("levels", device="cpu")
        return self.settings.draw(self.process, stratified(uniforms, places[draw.rows], draw.total))

    def noise(self, latents: Tensor, draw: Draw) -> Tensor:
        """The noise that is put on latents, and that the target is about: their shape, float32."""
        channels, height, width = latents.shape[1:]
        device = latents.device
        noise = draw.normal("noise", channels, height, width, device=device)
        if self.settings.pyramid_noise:
            coarser = [
                draw.normal(f"pyramid {k}", channels, *size, device=device)
                for k, size in enumerate(losses.pyramid_sizes(height, width))
            ]
            noise = losses.pyramid(noise, coarser, self.settings.pyramid_noise)
        if self.settings.offset_noise:
            shift = draw.normal("offset", channels, device=device)
            noise = losses.offset(noise, shift, self.settings.offset_noise)
        return noise

    def condition(self, batch: LatentBatch, dropped: Tensor | None = None) -> Condition:
        """What the network is told of a batch; nothing where `dropped` (B,) is true.

        Raises RequestError for token ids without a text side, and for a batch without captions.
        """
        states = self._states(batch)
        if dropped is not None and self.text is not None:
            states = states.replaced(self.text.null(), dropped)
        if self.text is None:
            return Condition(states.context, concat=batch.concat)
        return replace(self.text.condition(states, batch.sizes), concat=batch.concat)

    def asked(
        self,
        latents: Tensor,
        noise: Tensor,
        at: losses.Levels,
        condition: Condition,
        perturbation: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """What the network answers and what it should, (B, C, h, w) float32 each."""
        x = losses.noisy_input(latents, noise, at, perturbation)
        return self.network(x, at.time, condition), losses.target(self.process, latents, noise, at)

    def _states(self, batch: LatentBatch) -> TextStates:
        if batch.context is not None:
            return TextStates(batch.context, batch.pooled)
        if batch.tokens is None:
            raise RequestError("a batch needs captions: token ids, or a context.")
        if self.text is None:
            raise RequestError("token ids need a text side that reads them; give one.")
        return self.text.states(batch.tokens)

    def _dropped(self, batch: LatentBatch, draw: Draw) -> Tensor | None:
        share = self.settings.caption_dropout
        if not share:
            return None
        return draw.uniform("caption dropout", device=batch.latents.device) < share

    def _perturbation(self, noise: Tensor, draw: Draw) -> Tensor | None:
        strength = self.settings.input_perturbation
        if not strength:
            return None
        return strength * draw.normal("perturbation", *noise.shape[1:], device=noise.device)
