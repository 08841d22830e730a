"""Latent consistency distillation: a student learns to leap over many steps of its teacher.

At a level of noise the teacher, guided, takes one step of its ODE towards the picture; from there
and from here the student must leap to the same place. So in the end it leaps from anywhere to the
end of the way, and draws in few steps, with the guidance in its weights. Luo et al. 2023
(arXiv:2310.04378), sections 4.2 and 4.3; Song et al. 2023 (arXiv:2303.01469).

In the coordinate x = latents + sigma * noise. Shapes: B pictures, C latent channels, h w latent
height and width.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from safelight.condition import Condition
from safelight.diffusion import loss as losses
from safelight.diffusion.denoiser import Network
from safelight.diffusion.draws import stratified
from safelight.errors import RequestError
from safelight.training.diffusion_task import DiffusionTask, LatentBatch
from safelight.training.draw import Draw
from safelight.training.ema import swapped
from safelight.training.task import Loss
from safelight.training.text_states import TextStates

PLAYER = "student"
SIGMA_DATA = 0.5  # of the boundary condition, as in Song et al. 2023 and every published LCM


@dataclass(frozen=True, slots=True)
class Leaps:
    """How a way is cut up, and how a student's answer is held against the one below it.

    steps: of the teacher's solver, spread evenly over the training's levels. guidance: the
    teacher's scale, drawn evenly between these two. embedding: the student is told the scale.
    huber: where the error stops growing quadratically; None: nowhere. timestep_scaling: how sharply
    the student's answer turns to its input near the end of the way.
    Raises RequestError for numbers that cannot be.
    """

    steps: int = 50
    guidance: tuple[float, float] = (7.5, 7.5)
    embedding: bool = False
    huber: float | None = 0.001
    timestep_scaling: float = 10.0

    def __post_init__(self) -> None:
        if self.steps < 2:
            raise RequestError(f"a solver needs 2 steps or more; got {self.steps}")
        low, high = self.guidance
        if not 0 <= low <= high:
            raise RequestError(f"guidance is a scale, or two that ascend; got {low:g} and {high:g}")
        if self.huber is not None and not self.huber > 0:
            raise RequestError(f"huber must be greater than 0, or left out; got {self.huber}")


@dataclass(frozen=True, slots=True)
class Rung:
    """A level of the way for each row; each (B,) float32 on the device."""

    at: losses.Levels
    skip: Tensor  # of the network's input in its denoised picture, over c_in
    out: Tensor  # of the network's output in it
    keep: Tensor  # of x in the student's answer
    take: Tensor  # of the denoised picture in it


class Student(nn.Module):
    """What learns, and the average of it that is leapt to.

    learner: the module whose weights learn. decay: of the average, once a step; 0 keeps none, and
    what learns is itself leapt to. The average is kept in float32 buffers, so it is saved with the
    weights.
    """

    def __init__(self, learner: nn.Module, decay: float = 0.95) -> None:
        super().__init__()
        self.learner = learner
        self.decay = decay
        self._averaged: list[str] = []
        if decay:
            for name, weight in learner.named_parameters():
                if weight.requires_grad:
                    self._averaged.append(name)
                    self.register_buffer(_named(name), weight.detach().float().clone())
            device = next(learner.parameters()).device
            self.register_buffer("steps", torch.zeros((), dtype=torch.int64, device=device))

    @torch.no_grad()
    def follow(self, step: int) -> None:
        """Take the weights that step `step` begins with into the average, once for each step.

        Whether this was done already stands in a buffer, so a resumed run does neither more nor
        less, and no device waits for another.
        """
        if not self._averaged:
            return
        weights = dict(self.learner.named_parameters())
        done = self.get_buffer("steps")
        due = done < step
        for name in self._averaged:
            average = self.get_buffer(_named(name))
            share = torch.where(due, 1 - self.decay, 0.0).to(average.dtype)
            average.lerp_(weights[name].detach().to(average.dtype), share)
        done.clamp_(min=step)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Inside, the learner holds its average."""
        if not self._averaged:
            yield
            return
        with swapped(self.learner, {n: self.get_buffer(_named(n)) for n in self._averaged}):
            yield


def _named(weight: str) -> str:
    return f"target/{weight.replace('.', '/')}"


@dataclass(frozen=True)
class ConsistencyTask(DiffusionTask):
    """A student that learns from a teacher's steps; see the module.

    network: the student's. teacher: as it was before. untaught: inside, the student's network is
    the teacher, where both are one. Raises RequestError without a text side.
    """

    leaps: Leaps = field(default_factory=Leaps)
    teacher: Network | None = None
    untaught: Callable[[], AbstractContextManager[None]] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.text is None:
            raise RequestError("distillation needs a text side, for the teacher's guidance")
        if (self.teacher is None) == (self.untaught is None):
            raise RequestError("distillation needs a teacher, or the way back to one")
        if self.leaps.steps > len(self.process.sigmas):
            raise RequestError(
                f"the way has {len(self.process.sigmas)} levels, so its solver can have at most as "
                f"many steps; got {self.leaps.steps}"
            )

    @property
    def student(self) -> Student:
        """The student with its average."""
        assert isinstance(self.module, Student)
        return self.module

    def parts(self, player: str) -> tuple[nn.Module, ...]:
        """Nothing is compiled: the same network is asked as teacher and as student."""
        return ()

    def loss(self, player: str, batch: LatentBatch, draw: Draw) -> Loss:
        """How far the student's two answers are apart."""
        if torch.is_grad_enabled():
            self.student.follow(draw.step)
        latents = batch.latents.float()
        index = self.rungs(draw)
        upper, lower = self.rung(index, latents.device), self.rung(index - 1, latents.device)
        scale = self.scales(draw).to(latents.device)
        x = latents + _wide(upper.at.sigma) * self.noise(latents, draw)
        told = self.condition(batch, self._dropped(batch, draw))
        asked = replace(told, guidance=scale) if self.leaps.embedding else told
        with torch.no_grad():
            nearer = self.stepped(x, upper, lower, told, batch.sizes, scale)
            with self.student.averaged():
                wanted = self.leapt(nearer, lower, asked)
        found = self.leapt(x, upper, asked)
        errors = losses.picture_errors(found, wanted, huber=self.leaps.huber)
        if self.leaps.huber is not None:
            errors = errors / (2 * self.leaps.huber)  # sqrt(d² + c²) - c, as published
        with torch.no_grad():
            leap = (found - wanted).square().mean()
        return Loss(errors.mean(), {"mse": leap})

    def rungs(self, draw: Draw) -> Tensor:
        """From which step of the solver each row leaps, 1 to `steps`: (count,) on the CPU."""
        places = torch.randperm(draw.total, generator=draw.generator("level places", "cpu"))
        uniforms = draw.uniform("levels", device="cpu")
        even = stratified(uniforms, places[draw.rows], draw.total)
        return (even * self.leaps.steps).long().clamp(max=self.leaps.steps - 1) + 1

    def scales(self, draw: Draw) -> Tensor:
        """The teacher's guidance scale for each row: (count,) on the CPU."""
        low, high = self.leaps.guidance
        return low + (high - low) * draw.uniform("guidance", device="cpu")

    def rung(self, index: Tensor, device: torch.device) -> Rung:
        """The levels of solver steps (B,); 0 is the end of the way.

        Step k stands at position k * (T // steps) - 1 of the T levels of training; the last leap
        ends at the least of them.
        """
        stride = len(self.process.sigmas) // self.leaps.steps
        position = (index.double() * stride - 1).clamp(min=0)
        sigma = self.process.level(position)
        skip, out, _ = self.process.prediction.scalings(sigma)
        time = position * self.leaps.timestep_scaling
        whole = time.square() + SIGMA_DATA**2
        alpha = (1 + sigma.square()).rsqrt()  # the published condition is on alpha * x
        keep, take = alpha * SIGMA_DATA**2 / whole, time / whole.sqrt()
        at = losses.levels(self.process, sigma, device=device)
        packed = torch.stack([skip, out, keep, take]).float().to(device, non_blocking=True)
        return Rung(at, *packed)

    def stepped(
        self,
        x: Tensor,
        upper: Rung,
        lower: Rung,
        told: Condition,
        sizes: Tensor | None,
        scale: Tensor,
    ) -> Tensor:
        """One step of the guided teacher by DDIM: (B, C, h, w), at the lower level."""
        with self._teaching() as teacher:
            picture = self._denoised(teacher, x, upper, told)
            if self.leaps.guidance != (1.0, 1.0):
                bare = self._denoised(teacher, x, upper, self._silent(len(x), sizes))
                picture = bare + _wide(scale) * (picture - bare)
        return picture + _wide(lower.at.sigma / upper.at.sigma) * (x - picture)

    def leapt(self, x: Tensor, rung: Rung, told: Condition) -> Tensor:
        """Where the student says that the way ends: (B, C, h, w)."""
        picture = self._denoised(self.network, x, rung, told)
        return _wide(rung.keep) * x + _wide(rung.take) * picture

    @contextmanager
    def _teaching(self) -> Iterator[Network]:
        if self.teacher is not None:
            yield self.teacher
            return
        assert self.untaught is not None
        with self.untaught():
            yield self.network

    def _denoised(self, network: Network, x: Tensor, rung: Rung, told: Condition) -> Tensor:
        output = network(_wide(rung.at.c_in) * x, rung.at.time, told)
        return _wide(rung.skip) * x + _wide(rung.out) * output

    def _silent(self, count: int, sizes: Tensor | None) -> Condition:
        """What guidance leads away from, once for each row."""
        assert self.text is not None
        null = self.text.null()
        pooled = None if null.pooled is None else null.pooled.expand(count, -1)
        return self.text.condition(TextStates(null.context.expand(count, -1, -1), pooled), sizes)


def _wide(numbers: Tensor) -> Tensor:
    return numbers[:, None, None, None]
