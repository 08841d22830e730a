"""A small task for the training loop: a noisy regression with a network of some 50,000 weights."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from safelight.training.draw import Draw
from safelight.training.ema import Classic, Power
from safelight.training.settings import Settings
from safelight.training.task import Loss


class Net(nn.Module):
    """Convolution, norm, dropout, embedding and matrices, so that every kind of weight learns."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 24, 3, padding=1)
        self.norm = nn.GroupNorm(4, 24)
        self.middle = nn.Conv2d(24, 64, 3, padding=1)
        self.kinds = nn.Embedding(5, 64)
        self.mix = nn.Linear(64, 128)
        self.wide = nn.Linear(128, 128)
        self.dropout = nn.Dropout(dropout)
        self.out = nn.Linear(128, 3 * 8 * 8)
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x: Tensor, kind: Tensor) -> Tensor:
        if self.training:
            self.seen += 1
        h = self.stem(x.to(self.stem.weight.dtype))
        h = F.silu(self.norm(h.to(self.norm.weight.dtype)))
        h = self.middle(h).mean((2, 3)) + self.kinds(kind)
        h = self.dropout(F.silu(self.wide(F.silu(self.mix(h)))))
        return self.out(h).view(-1, 3, 8, 8).float()


def net(seed: int = 0, dropout: float = 0.0) -> Net:
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        return Net(dropout)


class Steep(torch.autograd.Function):
    """A value and a gradient that is not finite."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, gradient: float) -> Tensor:
        ctx.gradient = gradient
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:  # type: ignore[override]
        return gradient * ctx.gradient, None


def steep(x: Tensor, gradient: float = float("nan")) -> Tensor:
    found: Tensor = Steep.apply(x, gradient)  # type: ignore[no-untyped-call]
    return found


@dataclass
class Pictures:
    """Pictures in memory; remembers which were asked for."""

    count: int = 37
    asked: list[list[int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        generator = torch.Generator().manual_seed(5)
        self.pictures = torch.rand(self.count, 3, 8, 8, generator=generator) * 2 - 1
        self.kinds = torch.randint(0, 5, (self.count,), generator=generator)

    def __len__(self) -> int:
        return self.count

    def batch(self, indices: Sequence[int], draw: Draw) -> tuple[Tensor, Tensor]:
        self.asked.append(list(indices))
        at = torch.tensor(list(indices), dtype=torch.int64)
        return self.pictures[at].to(draw.device), self.kinds[at].to(draw.device)


@dataclass
class Denoising:
    """The network learns to give the picture back from a noisy one."""

    network: nn.Module = field(default_factory=net)
    spoil: Callable[[Tensor, int], Tensor] = lambda loss, step: loss
    noises: dict[int, Tensor] = field(default_factory=dict)

    @property
    def players(self) -> Mapping[str, nn.Module]:
        return {"net": self.network}

    def plays(self, player: str, step: int) -> bool:
        return True

    def loss(self, player: str, batch: tuple[Tensor, Tensor], draw: Draw) -> Loss:
        pictures, kinds = batch
        noise = draw.normal("noise", 3, 8, 8)
        self.noises[draw.step] = noise
        error = (self.network(pictures + noise, kinds) - pictures).square().mean()
        return Loss(self.spoil(error, draw.step), {"error": error.detach()})


class Judge(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3 * 8 * 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.flatten(1).to(self.layer.weight.dtype)).float()


def judge(seed: int = 1) -> Judge:
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        return Judge()


@dataclass
class Duel:
    """Two players: a maker, and a judge who joins at step 2 and plays every second step."""

    maker: nn.Module = field(default_factory=net)
    judge: nn.Module = field(default_factory=lambda: judge())
    log: list[tuple[int, str, bool, bool]] = field(default_factory=list)

    @property
    def players(self) -> Mapping[str, nn.Module]:
        return {"maker": self.maker, "judge": self.judge}

    def plays(self, player: str, step: int) -> bool:
        return player == "maker" or (step >= 2 and step % 2 == 0)

    def loss(self, player: str, batch: tuple[Tensor, Tensor], draw: Draw) -> Loss:
        pictures, kinds = batch
        learns = [next(module.parameters()).requires_grad for module in self.players.values()]
        self.log.append((draw.step, player, learns[0], learns[1]))
        made = self.maker(pictures + draw.normal("noise", 3, 8, 8), kinds)
        if player == "maker":
            return Loss((made - pictures).square().mean() - 0.01 * self.judge(made).mean())
        real, fake = self.judge(pictures), self.judge(made.detach())
        return Loss(F.softplus(-real).mean() + F.softplus(fake).mean())


def settings(**changes: Any) -> Settings:
    """Ten steps of eight pictures, saved only at the end."""
    base: dict[str, Any] = {
        "batch_size": 8,
        "steps": 10,
        "learning_rate": 1e-2,
        "warmup_steps": 3,
        "schedule": "linear",
        "decay_from": 0.5,
        "ema": (Classic(0.99), Power(0.05), Power(0.10)),
        "seed": 3,
        "log_every": 4,
        "save_every": 1e9,
    }
    return Settings(**{**base, **changes})


def files_equal(one: Path, other: Path) -> bool:
    """Whether two checkpoints hold the same tensors, to the bit."""
    from safelight.checkpoints.files import open_weights

    names = sorted(path.name for path in one.glob("*.safetensors"))
    assert names and names == sorted(path.name for path in other.glob("*.safetensors"))
    for name in names:
        with open_weights(one / name) as a, open_weights(other / name) as b:
            if dict(a.header) != dict(b.header):
                return False
            for key in a.header:
                if not torch.equal(
                    a.read(key).view(-1).view(torch.uint8), b.read(key).view(-1).view(torch.uint8)
                ):
                    return False
    return True
