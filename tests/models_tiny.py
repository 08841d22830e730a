"""Oracle models a thousand times smaller than the published ones, with every weight at random."""

import torch
from torch import Tensor, nn


def randomised(module: nn.Module, seed: int = 0) -> nn.Module:
    """The module with all weights drawn anew, zero-initialised ones too; norms lie around 1."""
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            values = torch.randn(parameter.shape, generator=rng)
            if parameter.ndim > 1:
                parameter.copy_(values * parameter[0].numel() ** -0.5)
            elif name.endswith("weight"):
                parameter.copy_(1 + 0.2 * values)
            else:
                parameter.copy_(0.2 * values)
    return module.eval()


def distance(ours: Tensor, theirs: Tensor) -> float:
    """Largest difference in units of the reference's standard deviation."""
    assert ours.shape == theirs.shape
    return float((ours - theirs).abs().max() / theirs.std())


def random(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))
