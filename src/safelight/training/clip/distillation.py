"""Learning language from a sentence encoder, by text alone.

The student's text embedding, through a head that is thrown away later, shall point where the
teacher's vector points; and the cosines within a batch shall be the teacher's (Park et al. 2019,
arXiv:1904.05068; Tung and Mori 2019, arXiv:1907.09682), so that the embedding itself, without the
head, knows what is near to what.

Shapes: N texts of this rank, M of all ranks, P width of the student, W width of the teacher.
"""

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

Matching = Literal["kl", "mse"]


def cosine_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean of 1 - cosine of rows (N, W): 0 where all point the same way, float32."""
    return 1 - F.cosine_similarity(student.float(), teacher.float(), dim=-1).mean()


def matching_loss(
    student: tuple[Tensor, Tensor],
    teacher: tuple[Tensor, Tensor],
    *,
    first: int = 0,
    kind: Matching = "kl",
    temperature: float = 0.1,
) -> Tensor:
    """How far the student's cosines between texts are from the teacher's, float32.

    student, teacher: the own rows (N, P) and those of all ranks (M, P), the own ones from row
    `first` on; a text is never compared with itself. "kl" compares the softmax of cosines over
    `temperature`, and so cares most for near neighbours; "mse" squares the differences.
    """
    ours, theirs = (_cosines(*rows) for rows in (student, teacher))
    columns = torch.arange(ours.shape[1], device=ours.device)
    itself = columns[first : first + len(ours), None] == columns
    if kind == "mse":
        squares = (ours - theirs).square().masked_fill(itself, 0)
        return squares.sum() / (squares.numel() - len(ours))
    # a finite number, not -inf: 0 * (-inf) in the divergence would be NaN
    logs, targets = (
        (c / temperature).masked_fill(itself, -1e4).log_softmax(1) for c in (ours, theirs)
    )
    return F.kl_div(logs, targets, reduction="batchmean", log_target=True)


def _cosines(own: Tensor, all_rows: Tensor) -> Tensor:
    return F.normalize(own.float(), dim=-1) @ F.normalize(all_rows.float(), dim=-1).T
