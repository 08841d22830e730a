"""Teaching an autoencoder to give pictures back, and a critic to tell what it gave.

Rombach et al. 2022 (arXiv:2112.10752), appendix G, with losses for small nets and little data.

Shapes: B batch, H W pixels, C latent channels, h w latents.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from safelight.errors import RequestError
from safelight.measures.pictures import psnr
from safelight.models.autoencoder import Autoencoder, Reconstruction
from safelight.models.vector_quantiser import (
    QuantisedReconstruction,
    VectorQuantiser,
    VqAutoencoder,
    follow,
    perplexity,
)
from safelight.training.autoencoder.critic import Critic, adaptive_weight, hinge, lecam, r1
from safelight.training.autoencoder.perceptual import PerceptualDistance
from safelight.training.autoencoder.pixels import PixelWeights, pixel_distance
from safelight.training.draw import Draw
from safelight.training.task import Loss

AUTOENCODER = "autoencoder"
CRITIC = "critic"

Rebuilt = Reconstruction | QuantisedReconstruction


@dataclass(frozen=True, slots=True)
class PictureBatch:
    """Pictures on the device: floats in [-1, 1], or bytes."""

    pictures: Tensor  # (B, 3, H, W)


@dataclass(frozen=True, slots=True)
class LossWeights:
    """How much each part of the autoencoder's loss counts; 0 leaves it out.

    kl weighs nats per latent value against distances per pixel. Where the encoder has found its
    balance, the noise of its posterior adds between kl / 2 (to squares) and kl (to absolute
    values) to the distances. At 30 dB these sum to about 0.065, so 0.002 costs 0.3 dB at most.
    LDM's 1e-6 belongs to sums, not means: here it would be about 1e-7, and let latents grow
    without limit.
    """

    pixels: PixelWeights = field(default_factory=PixelWeights)
    perceptual: float = 0.25
    kl: float = 2e-3
    codebook: float = 1.0  # of the VQ loss
    commitment: float = 0.25  # beta inside the VQ loss
    adversarial: float = 0.5  # of the pull of all distances, at the decoder's last convolution


@dataclass(frozen=True, slots=True)
class CriticPlan:
    """When the critic learns and counts, and what keeps it from being too sure.

    It begins at the share `start` of the run and learns alone for `lead` steps, for an untaught
    critic's opinion is noise. Then it counts in the autoencoder's loss, fully after `ramp` more.
    `lecam` and `r1` weigh the two regularisers, r1 in every `r1_every`-th step.
    """

    start: float = 0.6
    lead: int = 50
    ramp: int = 200
    lecam: float = 0.01
    lecam_decay: float = 0.99
    r1: float = 0.0
    r1_every: int = 16

    def first_step(self, steps: int) -> int:
        """The step, counted from 0, in which the critic first learns."""
        return math.ceil(self.start * steps)

    def strength(self, step: int, steps: int) -> float:
        """How much of its weight the critic has in a step: 0 to 1."""
        since = step - self.first_step(steps) - self.lead
        return min(1.0, max(0.0, (since + 1) / (self.ramp + 1)))


@dataclass(frozen=True, slots=True)
class Robustness:
    """Noise on the latents that teaches the decoder to forgive a diffusion model's remains.

    A share of the rows gets it, of a size drawn evenly from `sizes`, in standard deviations of each
    latent channel.
    """

    share: float = 0.5
    sizes: tuple[float, float] = (0.05, 0.1)


@dataclass(frozen=True, slots=True)
class CodebookPlan:
    """How a codebook of moving averages follows its latents, and when a code counts as dead."""

    decay: float = 0.99
    revive_below: float = 0.1  # latents a step; 0 revives none


class AutoencoderTask:
    """An autoencoder with KL or VQ latents, and its critic if there is one.

    `steps` is the length of the run, of which the critic's plan takes its share. What is random
    depends on the step and the row alone, so a resumed run goes on unchanged. Two numbers depend on
    how a batch is divided: the adaptive weight and the deviations of the latents are of the rows at
    hand.
    """

    def __init__(
        self,
        autoencoder: Autoencoder | VqAutoencoder,
        *,
        steps: int,
        critic: Critic | None = None,
        perceptual: PerceptualDistance | None = None,
        weights: LossWeights | None = None,
        plan: CriticPlan | None = None,
        robustness: Robustness | None = None,
        codebook: CodebookPlan | None = None,
    ) -> None:
        if steps < 1:
            raise RequestError(f"a run has at least 1 step; got {steps}")
        self.autoencoder = autoencoder
        self.critic = critic
        self.perceptual = perceptual
        self.weights = weights or LossWeights()
        self.plan = plan or CriticPlan()
        self.robustness = robustness or Robustness()
        self.codebook = codebook or CodebookPlan()
        self.steps = steps

    @property
    def players(self) -> Mapping[str, nn.Module]:
        first: dict[str, nn.Module] = {AUTOENCODER: self.autoencoder}
        return first if self.critic is None else {**first, CRITIC: self.critic}

    def plays(self, player: str, step: int) -> bool:
        starts = self.plan.first_step(self.steps)
        return player == AUTOENCODER or (self.critic is not None and step >= starts)

    def loss(self, player: str, batch: PictureBatch, draw: Draw) -> Loss:
        """The loss of either player over pictures."""
        pictures = as_floats(batch.pictures)
        if player == CRITIC:
            assert self.critic is not None, "this task has no critic"
            return self._critics(self.critic, pictures, draw)
        return self._autoencoders(pictures, draw)

    def rebuilt(self, pictures: Tensor, draw: Draw) -> Rebuilt:
        """Reconstructions from noisy latents, the same in both turns of a step."""
        disturbance = self._disturbance(pictures, draw)
        if isinstance(self.autoencoder, VqAutoencoder):
            return self.autoencoder(pictures, disturbance)
        noise = draw.normal("posterior", *self._latent_shape(pictures), device=pictures.device)
        result: Reconstruction = self.autoencoder(pictures, noise, disturbance)
        return result

    # -- the autoencoder's turn --------------------------------------------------------------------

    def _autoencoders(self, pictures: Tensor, draw: Draw) -> Loss:
        rebuilt = self.rebuilt(pictures, draw)
        prior, figures = self._prior(rebuilt, draw)
        strength = self.plan.strength(draw.step, self.steps) * self.weights.adversarial
        if self.critic is not None and strength and torch.is_grad_enabled():
            outside, more = self._judged(self.critic, rebuilt, pictures, draw, strength=strength)
        else:
            outside, more = self._distance(rebuilt.images.float(), pictures, draw)
        with torch.no_grad():
            seen = rebuilt.images.float().clamp(-1.0, 1.0)
            figures["psnr"] = psnr(seen, pictures).mean()
        return Loss(outside + prior, {**figures, **more})

    def _distance(
        self, images: Tensor, pictures: Tensor, draw: Draw
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """All distances of reconstructions from their pictures, weighed."""
        pixels = pixel_distance(images, pictures, self.weights.pixels)
        figures = {"l1": pixels.l1, "squares": pixels.squares}
        total = pixels.total
        if self.perceptual is not None and self.weights.perceptual:
            shift = _shift(draw, self.perceptual.patch)
            looks = self.perceptual(images, pictures, shift=shift)
            figures["perceptual"] = looks.detach()
            total = total + self.weights.perceptual * looks
        return total, figures

    def _judged(
        self, critic: Critic, rebuilt: Rebuilt, pictures: Tensor, draw: Draw, *, strength: float
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Distances and the critic's opinion, balanced.

        Both gradients are taken at the reconstruction. There they are added, and go back through
        the autoencoder once, whatever the number of losses; a compiled autoencoder could not be
        asked for parts of its gradients.
        """
        leaf = rebuilt.images.detach().float().requires_grad_()
        distance, figures = self._distance(leaf, pictures, draw)
        fooling = -critic(leaf).float().mean()
        (towards_picture,) = torch.autograd.grad(distance, leaf)
        (towards_real,) = torch.autograd.grad(fooling, leaf)
        weight = strength * adaptive_weight(
            rebuilt.features,
            self.autoencoder.decoder.conv_out.weight.shape,
            towards_picture,
            towards_real,
        )
        pulled = (rebuilt.images.float() * (towards_picture + weight * towards_real)).sum()
        value = (distance + weight * fooling).detach()
        figures |= {"adversarial": fooling.detach(), "adversarial_weight": weight}
        return value + (pulled - pulled.detach()), figures

    def _prior(self, rebuilt: Rebuilt, draw: Draw) -> tuple[Tensor, dict[str, Tensor]]:
        """What keeps the latents in bounds: KL, or the codebook's loss."""
        if isinstance(rebuilt, Reconstruction):
            posterior = rebuilt.posterior
            kl = posterior.kl().mean() / posterior.mean[0].numel()
            logvar = posterior.logvar.detach().mean()
            return self.weights.kl * kl, {"kl": kl.detach(), "logvar": logvar}
        quantised = rebuilt.quantised
        loss = quantised.loss(self.weights.commitment)
        codes = len(self._codebook().embedding.weight)
        figures = {
            "codebook": loss.detach(),
            "perplexity": perplexity(quantised.indices, codes),
        }
        if self._codebook().averages is not None and torch.is_grad_enabled():
            figures["revived"] = follow(
                self._codebook(),
                quantised,
                decay=self.codebook.decay,
                revive_below=self.codebook.revive_below,
                generator=draw.generator("revived codes", quantised.indices.device),
            ).float()
        return self.weights.codebook * loss, figures

    # -- the critic's turn -------------------------------------------------------------------------

    def _critics(self, critic: Critic, pictures: Tensor, draw: Draw) -> Loss:
        with torch.no_grad():
            fake = self.rebuilt(pictures, draw).images.float()
        learning = torch.is_grad_enabled()
        if learning:
            critic.settle()
        real_logits, fake_logits = critic(pictures), critic(fake)
        total = hinge(real_logits, fake_logits)
        figures = {
            "real": real_logits.detach().float().mean(),
            "fake": fake_logits.detach().float().mean(),
            "hinge": total.detach(),
        }
        if self.plan.lecam:
            total = total + self.plan.lecam * lecam(real_logits, fake_logits, critic.averages)
            if learning:
                critic.averages.follow(real_logits, fake_logits, self.plan.lecam_decay)
        if self.plan.r1 and learning and draw.step % self.plan.r1_every == 0:
            halves = draw.uniform("patch signs", *real_logits.shape[1:], device=pictures.device)
            penalty = r1(critic, pictures, (halves < 0.5).float() * 2.0 - 1.0)
            figures["r1"] = penalty.detach()
            # Counted for the steps in between, too.
            total = total + 0.5 * self.plan.r1 * self.plan.r1_every * penalty
        return Loss(total, figures)

    # -- parts -------------------------------------------------------------------------------------

    def _codebook(self) -> VectorQuantiser:
        assert isinstance(self.autoencoder, VqAutoencoder)
        return self.autoencoder.quantize

    def _latent_shape(self, pictures: Tensor) -> tuple[int, int, int]:
        config = self.autoencoder.config
        height, width = (side // config.factor for side in pictures.shape[2:])
        return config.latent_channels, height, width

    def _disturbance(self, pictures: Tensor, draw: Draw) -> Tensor | None:
        """Noise (B, C, h, w) in deviations of the latents; 0 in the rows that get none."""
        share, (low, high) = self.robustness.share, self.robustness.sizes
        if not share or not self.autoencoder.training:
            return None
        device = pictures.device
        noise = draw.normal("disturbance", *self._latent_shape(pictures), device=device)
        size = low + (high - low) * draw.uniform("disturbance size", 1, 1, 1, device=device)
        chosen = draw.uniform("disturbed rows", 1, 1, 1, device=device) < share
        return noise * size * chosen


def as_floats(pictures: Tensor) -> Tensor:
    """Pictures as float32 in [-1, 1]; bytes are taken for [0, 255]."""
    if pictures.dtype == torch.uint8:
        return pictures.float() / 127.5 - 1.0
    return pictures.float()


def _shift(draw: Draw, patch: int) -> tuple[int, int]:
    """Rows and columns, each below the side of a patch; the same for all rows of a step."""
    # Drawn on the CPU: a number from a GPU would have to be waited for.
    generator = draw.generator("perceptual shift", "cpu")
    rows, columns = torch.randint(patch, (2,), generator=generator).tolist()
    return rows, columns
