"""Teaching the evaluator: concepts and styles of real pictures, roughened as generated ones are.

A picture that went through an autoencoder is softer than a real one, and an object in a scene is
smaller than one alone. The evaluator has to see through both, or it would measure sharpness and
size where it is asked for the concept. So pictures are scaled, shifted, blurred, made noisy and
compressed before they are learned from.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from safelight.models.evaluator import Evaluator, at_size
from safelight.training.draw import Draw
from safelight.training.task import Loss

PLAYER = "evaluator"
_BLOCK = 8  # of the block transform, as JPEG's


@dataclass(frozen=True, slots=True)
class LabelledBatch:
    """Pictures and what they show."""

    pictures: Tensor  # (B, 3, S, S) in [-1, 1]
    concept: Tensor  # (B,) int64
    style: Tensor  # (B,) int64


@dataclass(frozen=True, slots=True)
class Augmentation:
    """How far pictures are changed before they are learned from; zeros and (1, 1) change nothing.

    scale is the range of the enlargement, shift the greatest move in shares of a side, blur the
    greatest number of passes of a binomial filter of 5 pixels, noise the greatest standard
    deviation, compression the greatest step to which the terms of the block transform are rounded
    (of values in [-1, 1]; the finest detail is rounded four times as coarsely).
    """

    scale: tuple[float, float] = (0.6, 1.1)
    shift: float = 0.1
    blur: float = 1.5
    noise: float = 0.04
    compression: float = 0.06


@dataclass(frozen=True)
class EvaluatorTask:
    """Cross-entropy over concepts and over styles, each with smoothed labels."""

    evaluator: Evaluator
    augmentation: Augmentation = field(default_factory=Augmentation)
    label_smoothing: float = 0.1
    style_weight: float = 1.0

    @property
    def players(self) -> Mapping[str, nn.Module]:
        return {PLAYER: self.evaluator}

    def plays(self, player: str, step: int) -> bool:
        return True

    def loss(self, player: str, batch: LabelledBatch, draw: Draw) -> Loss:
        """The loss and the shares of concepts and styles that are named right."""
        size = self.evaluator.config.image_size
        pictures = batch.pictures
        if self.evaluator.training:
            pictures = augmented(at_size(pictures, size), self.augmentation, draw)
        said = self.evaluator(pictures)
        concept = F.cross_entropy(
            said.concepts, batch.concept, label_smoothing=self.label_smoothing
        )
        style = F.cross_entropy(said.styles, batch.style, label_smoothing=self.label_smoothing)
        with torch.no_grad():
            top5 = said.concepts.topk(min(5, said.concepts.shape[-1]), dim=-1).indices
            figures = {
                "concept_loss": concept.detach(),
                "style_loss": style.detach(),
                "concept_top1": (top5[:, 0] == batch.concept).float().mean(),
                "concept_top5": (top5 == batch.concept[:, None]).any(dim=-1).float().mean(),
                "style_top1": (said.styles.argmax(dim=-1) == batch.style).float().mean(),
            }
        return Loss(concept + self.style_weight * style, figures)


@torch.no_grad()
def augmented(pictures: Tensor, how: Augmentation, draw: Draw) -> Tensor:
    """The pictures scaled, shifted, blurred, noisy and compressed, each by its own draw.

    (B, 3, S, S) in [-1, 1] -> same shape, float32. What lies past the edge repeats the edge.
    """
    x = _placed(pictures.float(), how, draw)
    x = _blurred(x, how.blur * draw.uniform("evaluator blur", 1, 1, 1))
    deviation = how.noise * draw.uniform("evaluator noise level", 1, 1, 1)
    x = x + deviation * draw.normal("evaluator noise", *x.shape[1:])
    x = _compressed(x, how.compression * draw.uniform("evaluator compression", 1, 1, 1, 1))
    return x.clamp(-1, 1)


def _placed(x: Tensor, how: Augmentation, draw: Draw) -> Tensor:
    low, high = (math.log(scale) for scale in how.scale)
    scale = (low + (high - low) * draw.uniform("evaluator scale")).exp()  # (B,)
    # An object made smaller has room to move; one as large as the picture has little.
    room = how.shift + (1 - scale).clamp(min=0) / 2
    shift = (2 * draw.uniform("evaluator shift", 2) - 1) * 2 * room[:, None]  # in half sides
    theta = torch.zeros(len(x), 2, 3, device=x.device)
    theta[:, 0, 0] = theta[:, 1, 1] = 1 / scale
    theta[:, :, 2] = -shift / scale[:, None]
    grid = F.affine_grid(theta, list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, mode="bilinear", padding_mode="border", align_corners=False)


def _blurred(x: Tensor, passes: Tensor) -> Tensor:
    """A binomial filter so many times; a part of a pass is a mixture. passes (B, 1, 1, 1)."""
    once = _binomial(x)
    soft = torch.lerp(x, once, passes.clamp(0, 1))
    return torch.lerp(soft, _binomial(once), (passes - 1).clamp(0, 1))


def _binomial(x: Tensor) -> Tensor:
    """Each pixel averaged with its neighbours, 1 4 6 4 1 both ways: (1 2 1) twice."""
    x = F.pad(x, (2, 2, 2, 2), mode="replicate")
    for _ in range(2):
        x = (x[..., :-2] + 2 * x[..., 1:-1] + x[..., 2:]) / 4
        x = (x[..., :-2, :] + 2 * x[..., 1:-1, :] + x[..., 2:, :]) / 4
    return x


def _compressed(x: Tensor, step: Tensor) -> Tensor:
    """Terms of the cosine transform of 8 x 8 blocks rounded to multiples of a step, as in JPEG.

    step (B, 1, 1, 1, 1): that of the mean; it grows to four times that for the finest detail.
    Sides that are no multiples of 8 are continued by their edge.
    """
    height, width = x.shape[-2:]
    x = F.pad(x, (0, -width % _BLOCK, 0, -height % _BLOCK), mode="replicate")
    rows, columns = x.shape[-2] // _BLOCK, x.shape[-1] // _BLOCK
    order = torch.arange(_BLOCK, device=x.device, dtype=torch.float32)
    basis = torch.cos(math.pi / _BLOCK * (order + 0.5) * order[:, None]) * math.sqrt(2 / _BLOCK)
    basis[0] = basis[0] / math.sqrt(2)
    blocks = x.unflatten(3, (columns, _BLOCK)).unflatten(2, (rows, _BLOCK)).transpose(3, 4)
    terms = basis @ blocks @ basis.T  # (B, 3, rows, columns, 8, 8)
    coarseness = 1 + 3 * (order[:, None] + order) / (2 * (_BLOCK - 1))
    # A step of zero must leave the terms as they are, not make 0 / 0 of them.
    unit = step.unsqueeze(-1).clamp(min=1e-6) * coarseness
    terms = (terms / unit).round() * unit
    x = (basis.T @ terms @ basis).transpose(3, 4).flatten(4, 5).flatten(2, 3)
    return x[..., :height, :width]
