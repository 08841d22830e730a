"""Consistency distillation beside the step of Diffusers' LCM scripts, and its laws."""

import copy
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from diffusion_lab import CAPTIONS, backbone, conditioner, process, shapes
from safelight.adapters.targets import targets
from safelight.adapters.trainable import Size, trainable
from safelight.condition import Condition
from safelight.diffusion.prediction import EPS, Prediction, V
from safelight.diffusion.process import Process, ddpm
from safelight.errors import RequestError
from safelight.models.backbone import Backbone
from safelight.training.consistency import PLAYER, ConsistencyTask, Leaps, Student
from safelight.training.diffusion_task import DiffusionSettings, LatentBatch
from safelight.training.draw import Draw
from safelight.training.taught_layers import TaughtLayers, taking_part, untaught
from safelight.training.text_states import FrozenText, tokens_of

ROWS = 4
PLAIN = DiffusionSettings(caption_dropout=0.0)
TEXT = FrozenText(conditioner())
TOKENS = tokens_of(TEXT.conditioner, CAPTIONS).ids


def batch() -> LatentBatch:
    return LatentBatch(shapes(ROWS), TOKENS[:ROWS])


def layers_of(unet: nn.Module) -> TaughtLayers:
    size, rng = Size(rank=2), torch.Generator().manual_seed(0)
    made = trainable(unet, "lora", targets(unet, ["all"]), size=size, generator=rng)
    layers = TaughtLayers({"unet": made})
    with torch.no_grad():
        for weight in layers.parameters():
            weight.add_(0.1 * torch.randn(weight.shape, generator=rng))
    return layers


def lora_task(network: Backbone, schedule: Process, student: Student, leaps: Leaps) -> Any:
    return ConsistencyTask(
        network, schedule, TEXT, PLAIN, student, PLAYER, leaps=leaps,
        untaught=lambda: untaught(network.unet),
    )  # fmt: skip


class Exact:
    """The denoiser of data N(m, d²): what every sampler must agree with."""

    def __init__(self, schedule: Process, mean: float, deviation: float) -> None:
        self.schedule, self.mean, self.deviation = schedule, mean, deviation

    def __call__(self, x: Tensor, time: Tensor, condition: Condition) -> Tensor:
        sigma = self.schedule.sigma_of(time)[:, None, None, None]
        skip, out, c_in = self.schedule.prediction.scalings(sigma)
        whole = x.double() / c_in
        square = self.deviation**2
        picture = (square * whole + sigma.square() * self.mean) / (square + sigma.square())
        return ((picture - skip * whole) / out).float()


# -- beside Diffusers ------------------------------------------------------------------------------


def predicted(kind: str, output: Tensor, x: Tensor, alpha: Tensor, sigma: Tensor) -> Any:
    """Picture and noise of an answer, as the published scripts compute them."""
    if kind == "epsilon":
        return (x - sigma * output) / alpha, output
    return alpha * x - sigma * output, alpha * output + sigma * x


@pytest.mark.parametrize("huber", [0.001, None], ids=["huber", "l2"])
@pytest.mark.parametrize("prediction", [EPS, V], ids=lambda p: p.name)
def test_a_step_is_that_of_diffusers_train_lcm_distill_lora(
    prediction: Prediction, huber: float | None
) -> None:
    from diffusers import DDPMScheduler

    schedule, network = ddpm(prediction), backbone(1)
    network.unet.requires_grad_(False)
    layers = layers_of(network.unet)
    given, draw = batch(), Draw(2, 1, ROWS)
    leaps = Leaps(50, (5.0, 15.0), huber=huber)
    task = lora_task(network, schedule, Student(layers, 0.0), leaps)
    with taking_part({"unet": network.unet}, layers.deltas):
        loss = task.loss(PLAYER, given, draw).total
        loss.backward()
    ours = {n: p.grad.clone() for n, p in layers.named_parameters() if p.grad is not None}
    layers.zero_grad()

    # what their script does; w is their scale, one less than ours
    kind = {"eps": "epsilon", "v": "v_prediction"}[prediction.name]
    scheduler = DDPMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", prediction_type=kind
    )
    cumprods = scheduler.alphas_cumprod
    ratio = 1000 // 50
    steps = (torch.arange(1, 51) * ratio).round().long() - 1
    before = torch.cat([cumprods[:1], cumprods[steps[:-1]]])
    index = task.rungs(draw) - 1
    assert len(set(index.tolist())) == ROWS
    start = steps[index]
    later = (start - ratio).clamp(min=0)
    w = (task.scales(draw) - 1)[:, None, None, None]
    noise, latents = task.noise(given.latents, draw), given.latents
    noisy = scheduler.add_noise(latents, noise, start)

    def rates(times: Tensor) -> tuple[Tensor, Tensor]:
        squared = cumprods[times][:, None, None, None]
        return squared.sqrt(), (1 - squared).sqrt()

    def boundary(times: Tensor) -> tuple[Tensor, Tensor]:
        scaled = 10.0 * times[:, None, None, None].float()
        whole = scaled**2 + 0.5**2
        return 0.5**2 / whole, scaled / whole**0.5

    assert given.tokens is not None
    context, null = TEXT.states(given.tokens).context, TEXT.null().context.expand(ROWS, -1, -1)
    unet = network.unet
    with torch.no_grad():
        said = predicted(kind, unet(noisy, start.float(), context), noisy, *rates(start))
        bare = predicted(kind, unet(noisy, start.float(), null), noisy, *rates(start))
        picture, made = (c + w * (c - u) for c, u in zip(said, bare, strict=True))
        level = before[index][:, None, None, None]
        nearer = level.sqrt() * picture + (1 - level).sqrt() * made
    with taking_part({"unet": unet}, layers.deltas):
        output = unet(noisy, start.float(), context)
        skip, out = boundary(start)
        found = skip * noisy + out * predicted(kind, output, noisy, *rates(start))[0]
        with torch.no_grad():
            output = unet(nearer, later.float(), context)
            skip, out = boundary(later)
            wanted = skip * nearer + out * predicted(kind, output, nearer, *rates(later))[0]
        if huber is None:
            theirs = (found - wanted).square().mean()
        else:
            theirs = (((found - wanted) ** 2 + huber**2).sqrt() - huber).mean()
        theirs.backward()
    assert loss.item() == pytest.approx(theirs.item(), rel=2e-3)
    for name, weight in layers.named_parameters():
        assert weight.grad is not None
        assert (ours[name] - weight.grad).norm() < 5e-3 * weight.grad.norm() + 1e-8, name


# -- laws ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["eps", "v", "linear v"])
def test_a_perfect_student_has_no_loss(name: str) -> None:
    """For Gaussian data the end of the way is known in closed form, from any level."""
    schedule = {"eps": ddpm(EPS), "v": ddpm(V), "linear v": process()}[name]
    mean, deviation = 0.4, 0.7
    exact = Exact(schedule, mean, deviation)

    class Leaping:
        """Answers so that c_skip x + c_out answer is where the exact way ends."""

        def __call__(self, x: Tensor, time: Tensor, condition: Condition) -> Tensor:
            sigma = schedule.sigma_of(time)[:, None, None, None]
            skip, out, c_in = schedule.prediction.scalings(sigma)
            whole = x.double() / c_in
            square = deviation**2
            last = schedule.sigma_min
            narrowed = ((square + last**2) / (square + sigma.square())).sqrt()
            end = mean + (whole - mean) * narrowed
            return ((end - skip * whole) / out).float()

    leaps = Leaps(1000, (1.0, 1.0), huber=None, timestep_scaling=1e4)
    losses = []
    for student in (Leaping(), exact):
        task = ConsistencyTask(
            student, schedule, TEXT, PLAIN, Student(nn.Linear(1, 1), 0.0), PLAYER, leaps=leaps,
            teacher=exact,
        )  # fmt: skip
        losses.append(task.loss(PLAYER, batch(), Draw(0, 0, ROWS)).total.item())
    assert losses[0] < 1e-3 * losses[1]


def test_at_the_end_of_the_way_the_student_answers_with_its_input() -> None:
    schedule = process()
    task = lora_task(backbone(1), schedule, Student(nn.Linear(1, 1), 0.0), Leaps(10))
    rung = task.rung(torch.zeros(2, dtype=torch.long), torch.device("cpu"))
    alpha = (1 + schedule.sigma_min**2) ** -0.5
    assert rung.at.sigma.tolist() == pytest.approx([schedule.sigma_min] * 2)
    assert rung.keep.tolist() == pytest.approx([alpha] * 2)
    assert rung.take.tolist() == [0.0, 0.0]


def test_every_step_of_the_solver_is_leapt_from_and_the_highest_is_the_noisiest() -> None:
    schedule = process()
    task = lora_task(backbone(1), schedule, Student(nn.Linear(1, 1), 0.0), Leaps(10))
    seen = task.rungs(Draw(0, 0, 200))
    assert seen.bincount(minlength=11).tolist() == [0, *[20] * 10]
    top = task.rung(torch.tensor([10]), torch.device("cpu"))
    assert top.at.sigma.item() == pytest.approx(schedule.sigma_max)


def test_parts_of_a_batch_give_the_gradient_of_the_whole() -> None:
    network = backbone(1)
    network.unet.requires_grad_(False)
    layers = layers_of(network.unet)
    task = lora_task(network, process(), Student(layers, 0.0), Leaps(50, (2.0, 8.0)))
    given = batch()
    assert given.tokens is not None

    def gradient(parts: int) -> Tensor:
        layers.zero_grad()
        size = ROWS // parts
        for start in range(0, ROWS, size):
            rows = slice(start, start + size)
            part = LatentBatch(given.latents[rows], given.tokens[rows])  # type: ignore[index]
            (task.loss(PLAYER, part, Draw(1, 3, ROWS, start, size)).total / parts).backward()
        return torch.cat([p.grad.flatten() for p in layers.parameters() if p.grad is not None])

    with taking_part({"unet": network.unet}, layers.deltas):
        whole = gradient(1)
        for parts in (2, 4):
            assert (gradient(parts) - whole).norm() < 1e-3 * whole.norm()


# -- the average that is leapt to ------------------------------------------------------------------


def test_the_average_follows_once_a_step_whatever_the_parts() -> None:
    module = nn.Linear(2, 2, bias=False)
    student = Student(module, 0.9)
    begun = module.weight.detach().clone()
    student.follow(0)
    assert torch.equal(student.get_buffer("target/weight"), begun)
    with torch.no_grad():
        module.weight.add_(1.0)
    for _ in range(3):  # micro-batches of one step
        student.follow(1)
    assert torch.allclose(student.get_buffer("target/weight"), begun + 0.1)
    student.follow(2)
    assert torch.allclose(student.get_buffer("target/weight"), begun + 0.19)
    own = module.weight.detach().clone()
    with student.averaged():
        assert torch.allclose(module.weight, begun + 0.19)
    assert torch.equal(module.weight, own)


def test_a_student_without_an_average_leaps_to_itself() -> None:
    module = nn.Linear(2, 2)
    student = Student(module, 0.0)
    assert not list(student.buffers())
    with student.averaged():
        assert student.state_dict().keys() == {"learner.weight", "learner.bias"}


def test_judging_does_not_move_the_average() -> None:
    network = backbone(1)
    network.unet.requires_grad_(False)
    layers = layers_of(network.unet)
    student = Student(layers, 0.9)
    task = lora_task(network, process(), student, Leaps(10))
    with torch.no_grad():
        for weight in layers.parameters():
            weight.add_(0.5)
    kept = {n: b.clone() for n, b in student.named_buffers()}
    with taking_part({"unet": network.unet}, layers.deltas), torch.no_grad():
        task.loss(PLAYER, batch(), Draw(0, 7, ROWS))
    assert all(torch.equal(b, kept[n]) for n, b in student.named_buffers())


def test_the_target_has_no_gradient_and_the_teacher_learns_nothing() -> None:
    network = backbone(1)
    network.unet.requires_grad_(False)
    layers = layers_of(network.unet)
    task = lora_task(network, process(), Student(layers, 0.5), Leaps(10))
    before = copy.deepcopy(network.unet.state_dict())
    with taking_part({"unet": network.unet}, layers.deltas):
        task.loss(PLAYER, batch(), Draw(0, 3, ROWS)).total.backward()
    assert all(torch.equal(t, before[n]) for n, t in network.unet.state_dict().items())
    assert all(p.grad is not None and p.grad.any() for p in layers.parameters())
    assert all(not b.requires_grad for b in task.student.buffers())


# -- refusals --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"steps": 1}, "2 steps or more"),
        ({"guidance": (5.0, 3.0)}, "two that ascend"),
        ({"guidance": (-1.0, 3.0)}, "two that ascend"),
        ({"huber": 0.0}, "huber must be greater than 0"),
    ],
)
def test_numbers_that_cannot_be_are_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(RequestError, match=words):
        Leaps(**changes)


def test_a_solver_of_more_steps_than_levels_is_refused() -> None:
    with pytest.raises(RequestError, match="at most as many steps"):
        lora_task(backbone(1), process(), Student(nn.Linear(1, 1)), Leaps(1001))


def test_a_task_without_a_teacher_or_a_text_is_refused() -> None:
    student = Student(nn.Linear(1, 1))
    with pytest.raises(RequestError, match="needs a teacher"):
        ConsistencyTask(backbone(1), process(), TEXT, PLAIN, student)
    with pytest.raises(RequestError, match="needs a text side"):
        ConsistencyTask(backbone(1), process(), None, PLAIN, student, untaught=nullcontext)
