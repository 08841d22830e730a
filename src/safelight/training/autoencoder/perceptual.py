"""How different two pictures look to our own CLIP.

The distance has the shape of LPIPS (Zhang et al. 2018, arXiv:1801.03924), but its features are
those of a small vision tower of our own and nobody's judgements weigh them. So it is called
own-CLIP perceptual, never LPIPS, and its numbers compare with no others.

Shapes: B batch, T patches, D width of the tower, H W pixels.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from safelight.errors import RequestError
from safelight.models.clip import ClipVision, normalised

NAME = "own-CLIP perceptual"


class PerceptualDistance:
    """Mean squared differences of normalised patch features, over chosen blocks of a tower.

    The tower is frozen here, and computes in the type of its own weights; gradients reach the
    pictures. `blocks` are numbers of blocks, 1 for the first; by default those at a third, a half
    and two thirds of the depth: deeper ones know what is seen, but no longer where its edges are.
    """

    name = NAME

    def __init__(self, tower: ClipVision, blocks: Sequence[int] | None = None) -> None:
        depth = tower.config.layers
        chosen = _middle(depth) if blocks is None else tuple(sorted(set(blocks)))
        if not chosen or chosen[0] < 1 or chosen[-1] > depth:
            raise RequestError(
                f"the tower has blocks 1 to {depth}; got {list(chosen)} for the perceptual distance"
            )
        self.tower = tower.eval().requires_grad_(False)
        self.blocks = chosen

    def __call__(
        self, rebuilt: Tensor, pictures: Tensor, *, shift: tuple[int, int] = (0, 0)
    ) -> Tensor:
        """The mean distance of pictures (B, 3, H, W) in [-1, 1] from others: a scalar, float32.

        `shift` rolls both by so many rows and columns first. A tower sees whole patches: without
        shifts that change from step to step, their borders would be left in the reconstructions.
        """
        with torch.no_grad():
            wanted = self._features(pictures, shift)
        seen = self._features(rebuilt, shift)
        pairs = zip(seen, wanted, strict=True)
        return torch.stack([(a - b).square().mean() for a, b in pairs]).mean()

    @property
    def patch(self) -> int:
        """The side of a patch in the tower's pixels: shifts up to this differ."""
        return self.tower.config.patch

    def _features(self, pictures: Tensor, shift: tuple[int, int]) -> tuple[Tensor, ...]:
        """Patch tokens (B, T, D) after each chosen block, each of zero mean and unit variance."""
        side = self.tower.config.image_size
        pictures = pictures.float()
        if any(shift):
            pictures = torch.roll(pictures, shift, dims=(2, 3))
        if pictures.shape[2:] != (side, side):
            pictures = F.interpolate(
                pictures, size=(side, side), mode="bilinear", align_corners=False, antialias=True
            )
        states = self.tower(normalised(pictures), depth=self.blocks[-1]).hidden_states
        # The class token comes first and has no place in the picture.
        chosen = (states[block][:, 1:].float() for block in self.blocks)
        return tuple(F.layer_norm(tokens, tokens.shape[-1:]) for tokens in chosen)


def _middle(depth: int) -> tuple[int, ...]:
    shares = (1 / 3, 1 / 2, 2 / 3)
    return tuple(sorted({max(1, round(depth * share)) for share in shares}))
