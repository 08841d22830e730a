"""Laws of training a ControlNet: what learns, from what, and that it does."""

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import DDPMScheduler
from torch.nn import functional as F

from control_lab import PLAIN, TEXT, Pool, batch, colours, net, outlines, stirred, task_of
from controls_tiny import controlnet_twins
from diffusion_lab import backbone, process, shapes
from safelight.diffusion.draws import UniformDraw
from safelight.diffusion.prediction import EPS
from safelight.diffusion.process import ddpm
from safelight.errors import RequestError
from safelight.models.backbone import Backbone
from safelight.training.control_task import (
    NAME,
    PLAYER,
    ControlBatch,
    ControlTask,
    Uncontrolled,
    controlled,
    shown,
)
from safelight.training.diffusion_task import PLAYER as UNET_PLAYER
from safelight.training.diffusion_task import DiffusionSettings, DiffusionTask, LatentBatch
from safelight.training.draw import Draw
from safelight.training.latent_pool import LatentPool
from safelight.training.loop import train
from safelight.training.settings import Settings
from safelight.training.validation import Validation
from training_tiny import files_equal
from unet_published import TINY_CONTEXT, twins

DRAW = Draw(0, 0, 8)

# -- what learns ---------------------------------------------------------------------------------


def test_at_the_start_the_loss_is_that_of_the_u_net_alone_to_the_last_bit() -> None:
    task = task_of()
    assert isinstance(task.network, Backbone)
    alone = DiffusionTask(backbone(), process(), TEXT, DiffusionSettings(caption_dropout=0.0))
    plain = LatentBatch(batch().latents, PLAIN)
    ours, theirs = task.loss(PLAYER, batch(), DRAW), alone.loss(UNET_PLAYER, plain, DRAW)
    assert torch.equal(ours.total, theirs.total)


def test_the_gradient_reaches_the_control_net_and_nothing_else() -> None:
    task = stirred(task_of())
    assert isinstance(task.network, Backbone)
    task.loss(PLAYER, batch(), DRAW).total.backward()
    gradients = {name: p.grad for name, p in task.learner.named_parameters()}
    # keys and values of the middle's attention, too: nothing of the copy is left out
    assert all(g is not None and g.abs().max() > 0 for g in gradients.values())
    assert all(p.grad is None for p in task.network.unet.parameters())
    assert all(p.grad is None for tower in TEXT.conditioner.encoders for p in tower.parameters())
    assert dict(task.players) == {PLAYER: task.learner}


def test_the_first_gradient_wakes_the_convolutions_that_are_zero() -> None:
    task = task_of()
    task.loss(PLAYER, batch(), DRAW).total.backward()
    awake = {n for n, p in task.learner.named_parameters() if p.grad is not None and p.grad.any()}
    zeros = [n for n, p in task.learner.named_parameters() if n.startswith("controlnet_") and
             "cond_embedding" not in n and not p.any()]  # fmt: skip
    assert len(zeros) == 2 * task.learner.residuals and awake == set(zeros)


@pytest.mark.parametrize("name", ["sd15", "sd21"])
def test_a_steps_gradient_is_that_of_diffusers_training(name: str) -> None:
    ours, theirs = (copy.deepcopy(twin) for twin in twins(name))
    mine, net_of_theirs = (copy.deepcopy(twin) for twin in controlnet_twins(name))
    alphas = DDPMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", num_train_timesteps=1000
    )
    made = ddpm(EPS)
    draw = Draw(7, 3, 3)
    rng = torch.Generator().manual_seed(0)
    latents = torch.randn(3, 4, 16, 8, generator=rng)
    context = torch.randn(3, 7, TINY_CONTEXT, generator=rng)
    maps = torch.rand(3, 3, 128, 64, generator=rng)
    task = ControlTask(
        controlled(Backbone(ours), mine),
        made,
        None,
        DiffusionSettings(draw=UniformDraw(), caption_dropout=0.0),
    )
    loss = task.loss(PLAYER, ControlBatch(latents, context=context, maps=maps), draw)
    loss.total.backward()
    # the step of train_controlnet.py
    time = made.time(task.sigmas(draw)).round().long()
    noise = task.noise(latents, draw)
    noisy = alphas.add_noise(latents, noise, time)
    theirs.requires_grad_(False)
    down, mid = net_of_theirs(
        noisy, time, encoder_hidden_states=context, controlnet_cond=maps, return_dict=False
    )
    answer = theirs(
        noisy,
        time,
        encoder_hidden_states=context,
        down_block_additional_residuals=down,
        mid_block_additional_residual=mid,
        return_dict=False,
    )[0]
    expected = F.mse_loss(answer.float(), noise.float())
    expected.backward()
    assert loss.total.item() == pytest.approx(expected.item(), rel=1e-4)
    gradients = dict(net_of_theirs.named_parameters())
    for name_, parameter in mine.named_parameters():
        wanted = gradients[name_].grad
        assert parameter.grad is not None and wanted is not None
        assert (parameter.grad - wanted).norm() <= 1e-3 * wanted.norm() + 1e-7, name_
    assert len(gradients) == len(list(mine.parameters()))


# -- what it is shown ----------------------------------------------------------------------------


def test_maps_are_shown_in_three_channels_between_zero_and_one() -> None:
    grey = outlines(shapes(2))
    assert grey.shape[1] == 1
    image = shown(grey)
    assert image.shape == (2, 3, 32, 32) and image.dtype == torch.float32
    assert torch.equal(image, grey.float().expand(-1, 3, -1, -1) / 255)
    assert torch.equal(shown(image), image)
    (control,) = task_of().condition(replace(batch(), maps=grey)).controls
    assert (control.net, control.scale) == (NAME, 1.0) and torch.equal(control.image, image)


def test_maps_are_dropped_one_by_one_at_the_share_asked_for() -> None:
    count = 400
    maps = torch.full((count, 1, 1, 1), 255, dtype=torch.uint8)
    given = ControlBatch(torch.zeros(count, 4, 1, 1), PLAIN[:1].expand(count, -1), maps=maps)
    task = task_of(map_dropout=0.25)
    thinned = task._thinned(given, Draw(0, 0, count))
    assert isinstance(thinned, ControlBatch) and thinned.maps is not None
    dropped = (thinned.maps == 0).flatten()
    assert dropped.double().mean().item() == pytest.approx(0.25, abs=0.06)
    later = task._thinned(given, Draw(0, 1, count))
    assert isinstance(later, ControlBatch) and later.maps is not None
    assert ((later.maps == 0).flatten() != dropped).any()
    assert task_of()._thinned(given, Draw(0, 0, count)) is given


def test_the_loss_is_the_same_however_the_batch_is_divided() -> None:
    task = stirred(task_of(map_dropout=0.5, caption_dropout=0.5))
    whole = task.loss(PLAYER, batch(), DRAW).total
    pool = Pool()
    parts = []
    for start in (0, 3):
        draw = Draw(0, 0, 8, start, 3 if start == 0 else 5)
        part = pool.batch(list(range(8))[draw.rows], draw)
        parts.append(task.loss(PLAYER, part, draw).total * len(part) / 8)
    assert sum(parts).item() == pytest.approx(whole.item(), rel=1e-5)  # type: ignore[union-attr]


def test_a_batch_without_maps_is_refused() -> None:
    with pytest.raises(RequestError, match="needs maps; give a ControlBatch"):
        task_of().loss(PLAYER, LatentBatch(shapes(8), PLAIN), DRAW)
    with pytest.raises(RequestError, match="needs maps"):
        task_of(map_dropout=0.5).loss(PLAYER, ControlBatch(shapes(8), PLAIN), DRAW)


def test_maps_of_another_size_are_refused_with_both() -> None:
    task, given = task_of(), batch()
    assert given.maps is not None
    small = replace(given, maps=given.maps[:, :, :16, :16])
    with pytest.raises(RequestError, match="16x16, but the picture to draw is 32x32"):
        task.loss(PLAYER, small, DRAW)


def test_a_share_that_is_none_is_refused() -> None:
    with pytest.raises(RequestError, match=r"map_dropout must be 0 to 1; got 1\.5"):
        task_of(map_dropout=1.5)


def test_a_control_net_of_another_family_is_refused() -> None:
    other, _ = controlnet_twins("sd15")
    with pytest.raises(RequestError, match="made for another family"):
        controlled(backbone(), copy.deepcopy(other))


# -- runs ----------------------------------------------------------------------------------------


def settings(**changes: object) -> Settings:
    told = {"batch_size": 4, "steps": 6, "learning_rate": 1e-3, "log_every": 3, **changes}
    return Settings(**told)  # type: ignore[arg-type]


def test_a_run_that_was_stopped_and_went_on_has_the_same_bits(tmp_path: Path) -> None:
    from safelight.training.ema import Classic

    how = settings(ema=(Classic(0.9),))
    whole = task_of(map_dropout=0.3, caption_dropout=0.3)
    train(whole, Pool(), how, tmp_path / "whole")
    train(task_of(map_dropout=0.3, caption_dropout=0.3), Pool(), settings(steps=3, ema=how.ema),
          tmp_path / "parts")  # fmt: skip
    second = task_of(map_dropout=0.3, caption_dropout=0.3)
    train(second, Pool(), how, tmp_path / "parts")
    assert files_equal(
        tmp_path / "whole/checkpoints/step-00000006", tmp_path / "parts/checkpoints/step-00000006"
    )
    for name, tensor in whole.learner.state_dict().items():
        assert torch.equal(tensor, second.learner.state_dict()[name])


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_training_leaves_the_u_net_as_it_was(tmp_path: Path, precision: str) -> None:
    task = task_of()
    assert isinstance(task.network, Backbone)
    before = copy.deepcopy(task.network.unet.state_dict())
    start = copy.deepcopy(task.learner.state_dict())
    train(task, Pool(), settings(precision=precision), tmp_path)
    after = task.network.unet.state_dict()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    assert not any(p.requires_grad for p in task.network.unet.parameters())
    learned = task.learner.state_dict()
    assert all(not torch.equal(t, learned[n]) for n, t in start.items() if n.startswith("conv_in"))
    assert all(t.dtype == torch.float32 for t in learned.values())


def test_recomputing_activations_changes_no_gradient() -> None:
    tasks = [stirred(task_of()) for _ in range(2)]
    object.__setattr__(tasks[1], "network", replace(tasks[1].network, checkpointing=True))  # type: ignore[type-var]
    for task in tasks:
        task.loss(PLAYER, batch(), DRAW).total.backward()
    pairs = zip(tasks[0].learner.parameters(), tasks[1].learner.parameters(), strict=True)
    for one, other in pairs:
        assert one.grad is not None and other.grad is not None
        assert torch.allclose(one.grad, other.grad, rtol=1e-4, atol=1e-7)


@pytest.mark.slow
def test_overfitted_maps_lower_the_loss_and_wrong_maps_raise_it(tmp_path: Path) -> None:
    # one caption for all: only a map can say which of the eight pictures it is
    base = DiffusionTask(backbone(), process(), TEXT, DiffusionSettings(caption_dropout=0.0))
    pool = LatentPool(shapes(8), PLAIN)
    many = {"batch_size": 8, "log_every": 500}
    train(base, pool, settings(steps=250, learning_rate=4e-3, **many), tmp_path / "base")
    assert isinstance(base.network, Backbone)
    task = task_of(base.network, net(base.network))
    judge = Validation(Pool(colours), range(8), 8)
    without = judge(task, Uncontrolled(task.network))
    assert judge(task) == without
    train(
        task, Pool(colours), settings(steps=150, learning_rate=5e-3, **many), tmp_path / "control"
    )
    assert judge(task, Uncontrolled(task.network)) == without  # the U-Net is what it was
    right, wrong = judge(task), Validation(Pool(colours, turned=3), range(8), 8)(task)
    # the noisier the latents, the more a map tells
    for figure in ("held_out/loss", "held_out/snr_-8_-5", "held_out/snr_-5_-3"):
        assert right[figure] < 0.8 * without[figure] < without[figure] < wrong[figure]
