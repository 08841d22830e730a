"""How well a picture fits its text: cosines, and finding the true caption among others.

Shapes: N pictures, M captions, P width of the joint space, K concepts.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from safelight.errors import RequestError
from safelight.evaluation.intervals import Estimate, Share, bootstrap

CANDIDATES = 100


def clip_score(pictures: Tensor, texts: Tensor, *, seed: int = 0) -> Estimate:
    """The mean of 2.5 max(cos, 0) over pictures and their own texts, (N, P) each.

    Hessel et al. 2021 (arXiv:2104.08718). The joint space is that of the net which also told the
    model what to draw, so it is biased in the model's favour: a secondary number.
    """
    cosines = F.cosine_similarity(pictures.detach().double(), texts.detach().double(), dim=-1)
    return bootstrap(2.5 * cosines.clamp(min=0), seed=seed)


def r_precision(
    pictures: Tensor,
    texts: Tensor,
    own: Sequence[int],
    concepts: Sequence[frozenset[str]],
    *,
    candidates: int = CANDIDATES,
    seed: int = 0,
) -> Share:
    """The share of pictures whose own caption is nearest, of itself and 99 of other concepts.

    pictures (N, P), texts (M, P); own: for each picture its caption's row in texts; concepts: what
    each caption names. A picture with fewer distractors than asked is refused: raises RequestError.
    Xu et al. 2018 (arXiv:1711.10485). The distractors depend on the seed alone.
    """
    known = {name for caption in concepts for name in caption}
    place = {name: column for column, name in enumerate(known)}
    said = torch.zeros(len(concepts), len(place))
    for row, caption in enumerate(concepts):
        said[row, [place[name] for name in caption]] = 1
    chosen = torch.as_tensor(own)
    foreign = said[chosen] @ said.T == 0  # (N, M)
    similar = F.normalize(pictures.double().cpu(), dim=-1) @ F.normalize(texts.double().cpu()).T
    return _first(similar, chosen, foreign, candidates, seed)


def concept_precision(
    logits: Tensor, concept: Sequence[int], *, candidates: int = CANDIDATES, seed: int = 0
) -> Share:
    """The same by the evaluator's logits (N, K): the true concept against 99 others."""
    own = torch.as_tensor(concept)
    foreign = torch.ones_like(logits, dtype=torch.bool, device="cpu")
    foreign[torch.arange(len(own)), own] = False
    return _first(logits.detach().double().cpu(), own, foreign, candidates, seed)


def _first(scores: Tensor, own: Tensor, foreign: Tensor, candidates: int, seed: int) -> Share:
    """How many rows score highest at their own place, among some drawn from the foreign ones."""
    fewest = int(foreign.sum(dim=1).min())
    if fewest < candidates - 1:
        raise RequestError(
            f"{candidates} candidates were asked for, but a picture has only {fewest} captions of "
            f"other concepts; ask for at most {fewest + 1}"
        )
    generator = torch.Generator().manual_seed(seed)
    order = torch.rand(foreign.shape, generator=generator).masked_fill(~foreign, -1.0)
    others = scores.gather(1, order.topk(candidates - 1, dim=1).indices)
    true = scores.gather(1, own[:, None])
    return Share(int((true > others).all(dim=1).sum()), len(scores))
