"""CLIP's similarity of a foreseen picture, seen in random cut-outs, as a score to climb.

Cut-outs keep the gradient from drawing what only one view of the whole takes for the text
(Crowson's CLIP-guided diffusion, 2021). Shapes: B pictures, N cut-outs of each, H W pixels,
C latent channels, h w latent height and width, T texts, P width of CLIP's space.
"""

import math
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import blake2b

import torch
from torch import Tensor

from safelight.clip.pair import ClipPair
from safelight.clip.preparation import prepared
from safelight.errors import RequestError

Decode = Callable[[Tensor], Tensor]  # latents (B, C, h, w) -> pictures (B, 3, H, W) in [-1, 1]


@dataclass(frozen=True, slots=True)
class CutOuts:
    """Which parts of a picture CLIP is shown.

    count: how many squares of each picture in each step, of which the first `whole` are as large
    as the picture allows. smallest: the least side, as a share of the picture's shorter side.
    Raises RequestError for numbers that make no cut-outs.
    """

    count: int = 8
    whole: int = 2
    smallest: float = 0.5

    def __post_init__(self) -> None:
        if not (1 <= self.count <= 1024 and 0 <= self.whole <= self.count):
            raise RequestError(
                f"cut-outs must be 1 to 1024, and those of the whole among them; got {self.count} "
                f"and {self.whole}."
            )
        if not 0 < self.smallest <= 1:
            raise RequestError(f"the smallest cut-out must be above 0, to 1; got {self.smallest}.")


@dataclass(frozen=True, eq=False)
class ClipScore:
    """What CLIP thinks of latents: its logit for the texts, the mean over cut-outs.

    Called with latents (B, C, h, w) and sigma, gives (B,): cosine times exp(logit scale), so a
    guidance scale of 1 takes CLIP for the likelihood of the text, given the picture.
    texts: (B, P) or (1, P) unit vectors, see `wanted`. decode must be differentiable. seeds: one
    for each picture; its cut-outs depend on that and on the noise level alone.
    """

    pair: ClipPair
    texts: Tensor
    decode: Decode
    seeds: Sequence[int]
    cut_outs: CutOuts = CutOuts()

    def __call__(self, denoised: Tensor, sigma: Tensor) -> Tensor:
        """The scores (B,), float32."""
        pictures = self.decode(denoised)
        levels = sigma.double().cpu().expand(len(pictures)).tolist()
        views = torch.cat(
            [
                views_of(picture, self.pair, self.cut_outs, seed=seed, sigma=level)
                for picture, seed, level in zip(pictures, self.seeds, levels, strict=True)
            ]
        )
        embeds = self.pair.embed_views(views).unflatten(0, (len(pictures), -1))  # (B, N, P)
        wanted = self.texts.to(embeds).expand(len(pictures), -1)
        cosines: Tensor = (embeds * wanted[:, None]).sum(-1)
        return cosines.mean(1) * math.exp(self.pair.logit_scale)


def wanted(pair: ClipPair, texts: Sequence[tuple[str, float]]) -> Tensor:
    """The one direction (1, P) of several texts with weights, of unit length.

    A negative weight leads away from its text. Raises RequestError for no texts, or weights that
    cancel.
    """
    if not texts:
        raise RequestError("CLIP guidance needs a text; got none.")
    with torch.no_grad():
        embeds = pair.embed_texts([text for text, _ in texts])
    weights = embeds.new_tensor([weight for _, weight in texts])
    total: Tensor = (embeds * weights[:, None]).sum(0, keepdim=True)
    length = total.norm(dim=-1, keepdim=True)
    if float(length) < 1e-6:
        raise RequestError("the weights of the texts of CLIP guidance cancel; change one of them.")
    direction: Tensor = total / length
    return direction


def views_of(
    picture: Tensor, pair: ClipPair, cut_outs: CutOuts, *, seed: int, sigma: float
) -> Tensor:
    """The cut-outs of a picture (3, H, W) as the vision tower takes them: (N, 3, S, S)."""
    height, width = picture.shape[-2:]
    shorter = min(height, width)
    chances = draws(cut_outs.count, seed, sigma).tolist()
    views = []
    for number, (size, down, right) in enumerate(chances):
        share = 1.0 if number < cut_outs.whole else size + (1 - size) * cut_outs.smallest
        side = max(1, round(shorter * share))
        top, left = round(down * (height - side)), round(right * (width - side))
        part = picture[None, :, top : top + side, left : left + side]
        views.append(prepared(part, pair.preparation))
    return torch.cat(views)


def draws(count: int, seed: int, sigma: float) -> Tensor:
    """(count, 3) numbers in [0, 1) that depend on the seed and the noise level alone."""
    digest = blake2b(struct.pack("<qd", seed % 2**63, sigma), digest_size=8).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)
    return torch.rand(count, 3, generator=generator)
