"""The two players of an autoencoder's training: what moves when, and that it learns."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from autoencoder_tiny import (
    SHAPE,
    VQ_SHAPE,
    autoencoder,
    critic,
    perceptual,
    pictures,
    vq_autoencoder,
)
from safelight.errors import RequestError
from safelight.measures.pictures import psnr
from safelight.training.autoencoder.task import (
    AutoencoderTask,
    CriticPlan,
    LossWeights,
    PictureBatch,
    Robustness,
    as_floats,
)
from safelight.training.draw import Draw
from safelight.training.loop import train
from safelight.training.settings import Settings

NOW = CriticPlan(start=0.0, lead=0, ramp=0)
CALM = Robustness(share=0.0)


def full_task(plan: CriticPlan = NOW, **changes: object) -> AutoencoderTask:
    given = {"critic": critic(), "perceptual": perceptual(), "plan": plan, **changes}
    return AutoencoderTask(autoencoder(), steps=10, **given)


def draw(step: int = 0, total: int = 4, **changes: int) -> Draw:
    return Draw(7, step, total, **changes)


def gradients(module: nn.Module) -> dict[str, Tensor]:
    return {n: p.grad for n, p in module.named_parameters() if p.grad is not None}


def state(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


# -- whose turn it is ------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", ["group", "spectral"])
def test_each_turn_gives_gradients_to_its_player_alone_and_changes_nothing_else(norm):
    task = full_task(critic=critic(norm))
    batch = PictureBatch(pictures())
    others = {"autoencoder": task.critic, "critic": task.autoencoder}
    for player, module in task.players.items():
        before = state(others[player])
        task.loss(player, batch, draw()).total.backward()
        assert all(
            slope.abs().sum() > 0 for n, slope in gradients(module).items() if "to_k" not in n
        )
        assert gradients(others[player]) == {}
        assert equal(before, state(others[player]))
        module.zero_grad()


def test_the_critic_learns_in_its_own_turn_and_the_autoencoder_in_its_own():
    task = full_task()
    optimizers = {n: torch.optim.Adam(m.parameters(), 1e-3) for n, m in task.players.items()}
    for step in range(3):
        for player, module in task.players.items():
            others = [m for name, m in task.players.items() if name != player]
            mine, theirs = state(module), [state(m) for m in others]
            optimizers[player].zero_grad()
            task.loss(player, PictureBatch(pictures()), draw(step)).total.backward()
            optimizers[player].step()
            assert not equal(mine, state(module))
            assert all(equal(a, state(m)) for a, m in zip(theirs, others, strict=True))


def test_the_critic_starts_at_its_share_of_the_run_leads_and_grows():
    plan = CriticPlan(start=0.35, lead=2, ramp=3)
    task = full_task(plan)
    assert [task.plays("critic", step) for step in range(10)] == [False] * 4 + [True] * 6
    assert all(task.plays("autoencoder", step) for step in range(10))
    strengths = [plan.strength(step, 10) for step in range(12)]
    assert strengths == [0.0] * 6 + [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    seen = [task.loss("autoencoder", PictureBatch(pictures()), draw(s)).figures for s in range(10)]
    assert ["adversarial" in figures for figures in seen] == [False] * 6 + [True] * 4


def test_without_a_critic_there_is_one_player():
    task = full_task(critic=None)
    assert list(task.players) == ["autoencoder"]
    assert not task.plays("critic", 9)
    assert "adversarial" not in task.loss("autoencoder", PictureBatch(pictures()), draw()).figures


def test_a_run_without_steps_is_refused():
    with pytest.raises(RequestError, match="at least 1 step; got 0"):
        AutoencoderTask(autoencoder(), steps=0)


# -- the loss --------------------------------------------------------------------------------------


def test_gradients_added_at_the_picture_are_those_of_the_plain_sum():
    task = full_task()
    ours = task.loss("autoencoder", PictureBatch(pictures()), draw())
    ours.total.backward()
    found = gradients(task.autoencoder)
    task.autoencoder.zero_grad()

    rebuilt = task.rebuilt(pictures(), draw())
    prior, _ = task._prior(rebuilt, draw())
    distance, _ = task._distance(rebuilt.images, pictures(), draw())
    fooling = -task.critic(rebuilt.images).mean()
    last = task.autoencoder.decoder.conv_out.weight
    strong, weak = (
        torch.autograd.grad(x, last, retain_graph=True)[0].norm() for x in (distance, fooling)
    )
    weight = (0.5 * strong / weak).item()
    assert ours.figures["adversarial_weight"].item() == pytest.approx(weight, rel=1e-3)
    total = distance + prior + weight * fooling
    assert ours.total.item() == pytest.approx(total.item(), rel=1e-4)
    total.backward()
    for name, slope in gradients(task.autoencoder).items():
        assert torch.allclose(found[name], slope, rtol=2e-3, atol=1e-5), name


def test_a_frozen_last_convolution_is_no_special_case():
    task, frozen = full_task(), full_task()
    last = frozen.autoencoder.decoder.conv_out
    last.requires_grad_(False)
    losses = [t.loss("autoencoder", PictureBatch(pictures()), draw()) for t in (task, frozen)]
    assert losses[0].figures["adversarial_weight"] > 0
    weights = [loss.figures["adversarial_weight"].item() for loss in losses]
    assert weights[0] == pytest.approx(weights[1], rel=1e-5)
    losses[1].total.backward()
    assert last.weight.grad is None and len(gradients(frozen.autoencoder)) > 10


def test_kl_counts_as_nats_per_latent_value():
    task = full_task(critic=None, robustness=CALM)
    x = pictures()
    light, heavy = (
        AutoencoderTask(task.autoencoder, steps=1, weights=LossWeights(kl=kl), robustness=CALM)
        for kl in (0.0, 2.0)
    )
    posterior = task.autoencoder.encode(x)
    nats = 0.5 * (posterior.mean**2 + posterior.logvar.exp() - 1 - posterior.logvar).mean()
    losses = [t.loss("autoencoder", PictureBatch(x), draw()) for t in (light, heavy)]
    assert losses[1].figures["kl"].item() == pytest.approx(nats.item(), rel=1e-4)
    assert (losses[1].total - losses[0].total).item() == pytest.approx(2 * nats.item(), rel=1e-3)


def test_the_figures_are_of_the_reconstruction():
    task = full_task(critic=None)
    figures = task.loss("autoencoder", PictureBatch(pictures()), draw()).figures
    images = task.rebuilt(pictures(), draw()).images
    expected = psnr(images.clamp(-1, 1), pictures()).mean()
    assert figures["psnr"].item() == pytest.approx(expected.item(), rel=1e-5)
    assert figures["l1"].item() == pytest.approx(
        (images - pictures()).abs().mean().item(), rel=1e-5
    )
    assert not any(value.requires_grad for value in figures.values())


def test_bytes_are_pictures_too():
    x = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16).expand(2, 3, 16, 16)
    assert as_floats(x).min() == -1 and as_floats(x).max() == 1
    task = full_task()
    losses = [
        task.loss("autoencoder", PictureBatch(y), draw(total=2)).total for y in (x, as_floats(x))
    ]
    assert torch.equal(*losses)


# -- what is random --------------------------------------------------------------------------------


def test_the_same_step_draws_the_same_and_another_step_does_not():
    task = full_task(critic=None)
    totals = [
        task.loss("autoencoder", PictureBatch(pictures()), draw(step)).total.item()
        for step in (3, 3, 4)
    ]
    assert totals[0] == totals[1] != totals[2]


def test_global_random_numbers_are_neither_used_nor_moved():
    task = full_task(plan=replace(NOW, r1=1.0))
    before = torch.get_rng_state()
    for player in task.players:
        task.loss(player, PictureBatch(pictures()), draw())
    assert torch.equal(before, torch.get_rng_state())


def test_rows_are_the_same_however_a_batch_is_divided():
    task = full_task(critic=None, perceptual=None, robustness=CALM)
    x = pictures()
    task.loss("autoencoder", PictureBatch(x), draw()).total.backward()
    whole = gradients(task.autoencoder)
    task.autoencoder.zero_grad(set_to_none=True)
    for start in (0, 2):
        piece = draw(start=start, count=2)
        part = task.loss("autoencoder", PictureBatch(x[start : start + 2]), piece)
        (0.5 * part.total).backward()
    for name, slope in gradients(task.autoencoder).items():
        assert torch.allclose(whole[name], slope, rtol=1e-3, atol=1e-6), name


def test_half_of_the_rows_are_disturbed_by_the_promised_amount_and_none_in_evaluation():
    task = full_task(critic=None)
    noise = task._disturbance(pictures(400), draw(total=400))
    sizes = noise.flatten(1).std(dim=1)
    some = sizes[sizes > 0]
    assert 0.4 < len(some) / 400 < 0.6
    assert some.min() > 0.03 and some.max() < 0.12 and abs(some.mean() - 0.075) < 0.005
    task.autoencoder.eval()
    assert task._disturbance(pictures(), draw()) is None


def test_validation_asks_without_gradients_and_moves_nothing():
    task = AutoencoderTask(
        vq_autoencoder(replace(VQ_SHAPE, averages=True)), steps=1, critic=critic()
    )
    before = [state(module) for module in task.players.values()]
    with torch.no_grad():
        for player in task.players:
            assert task.loss(player, PictureBatch(pictures()), draw()).total.isfinite()
    assert all(equal(a, state(m)) for a, m in zip(before, task.players.values(), strict=True))


def test_the_critics_regularisers_enter_its_loss():
    x = PictureBatch(pictures())
    plain = full_task(replace(NOW, lecam=0.0)).loss("critic", x, draw())
    assert torch.equal(plain.total.detach(), plain.figures["hinge"])
    with_lecam = full_task(replace(NOW, lecam=1.0)).loss("critic", x, draw())
    assert with_lecam.total > plain.total
    task = full_task(replace(NOW, lecam=0.0, r1=1.0, r1_every=2))
    on, off = (task.loss("critic", x, draw(step)) for step in (2, 3))
    assert on.total.item() == pytest.approx((on.figures["hinge"] + on.figures["r1"]).item())
    assert "r1" not in off.figures
    on.total.backward()
    assert all(p.grad is not None for p in task.critic.parameters())


# -- on the loop -----------------------------------------------------------------------------------


class Pictures:
    """Pictures by number, as the loop asks for them."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor

    def __len__(self) -> int:
        return len(self.tensor)

    def batch(self, indices: Sequence[int], draw: Draw) -> PictureBatch:
        return PictureBatch(self.tensor[list(indices)])


def settings(steps: int, **changes: object) -> Settings:
    rates = {"autoencoder": 2e-3, "critic": 1e-3}
    return Settings(batch_size=4, steps=steps, learning_rate=rates, log_every=2, **changes)


@pytest.mark.parametrize("kind", ["kl", "vq", "vq averages"])
def test_a_resumed_run_is_equal_to_the_unbroken_one(kind: str, tmp_path: Path):
    def task() -> AutoencoderTask:
        shape = replace(VQ_SHAPE, averages=kind == "vq averages")
        model = autoencoder() if kind == "kl" else vq_autoencoder(shape)
        plan = CriticPlan(start=0.25, lead=1, ramp=1)
        return AutoencoderTask(model, steps=6, critic=critic("spectral"), plan=plan)

    data = Pictures(pictures(8))
    unbroken, broken = task(), task()
    train(unbroken, data, settings(6), tmp_path / "a")
    _stopped_after(3, broken, data, tmp_path / "b")
    resumed = task()
    train(resumed, data, settings(6), tmp_path / "b")
    for name, module in unbroken.players.items():
        assert equal(state(module), state(resumed.players[name])), name


def _stopped_after(steps: int, task: AutoencoderTask, data: Pictures, folder: Path) -> None:
    """A run that ends early, as by a deadline."""
    asked = 0
    plays = task.plays

    class Enough(Exception):
        pass

    def counted(player: str, step: int) -> bool:
        nonlocal asked
        asked = max(asked, step)
        if step == steps:
            raise Enough
        return plays(player, step)

    task.plays = counted  # type: ignore[method-assign]
    with pytest.raises(Enough):
        train(task, data, settings(6, save_every=0.0), folder)
    assert asked == steps


@pytest.mark.parametrize("kind", ["kl", "vq averages"])
def test_a_run_in_bfloat16_learns(kind: str, tmp_path: Path):
    model = autoencoder() if kind == "kl" else vq_autoencoder(replace(VQ_SHAPE, averages=True))
    tower = perceptual()
    tower.tower.bfloat16()
    plan = CriticPlan(start=0.5, lead=2, ramp=2)
    task = AutoencoderTask(model, steps=30, critic=critic(), perceptual=tower, plan=plan)
    data = Pictures(pictures())

    def distance() -> float:
        with torch.no_grad():
            return task.loss("autoencoder", PictureBatch(pictures()), draw()).figures["l1"].item()

    before = distance()
    outcome = train(task, data, settings(30, precision="bf16", channels_last=True), tmp_path)
    assert outcome.reason == "finished"
    assert distance() < 0.8 * before
    assert all(p.dtype == torch.float32 for p in model.parameters())


@pytest.mark.slow
def test_compiled_players_give_the_same_losses_and_gradients():
    plain, compiled = (full_task(plan=replace(NOW, r1=1.0)) for _ in range(2))
    torch._dynamo.reset()
    for module in compiled.players.values():
        module.compile(backend="aot_eager", dynamic=False, fullgraph=True)
    for player in plain.players:
        for task in (plain, compiled):
            for name, module in task.players.items():
                module.requires_grad_(name == player)
        for _ in range(2):
            losses = [t.loss(player, PictureBatch(pictures()), draw(16)) for t in (plain, compiled)]
        assert losses[1].total.item() == pytest.approx(losses[0].total.item(), rel=1e-4)
        for loss in losses:
            loss.total.backward()
        found = gradients(compiled.players[player])
        for name, slope in gradients(plain.players[player]).items():
            assert torch.allclose(found[name], slope, rtol=1e-2, atol=1e-5), name
    torch._dynamo.reset()


@pytest.mark.slow
def test_eight_pictures_are_learnt_by_heart_above_thirty_decibels():
    torch.manual_seed(0)
    model = replace(SHAPE, widths=(16, 32), groups=8, latent_channels=8).build()
    steps = 240
    task = AutoencoderTask(model, steps=steps, perceptual=perceptual())
    optimizer = torch.optim.Adam(model.parameters(), 6e-3, betas=(0.9, 0.99))
    x = pictures(8, 32)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 6e-3 * min(1.0, 2 * (1 - step / steps), (step + 1) / 10)
        optimizer.zero_grad()
        task.loss("autoencoder", PictureBatch(x), draw(step, 8)).total.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    model.eval()
    with torch.no_grad():
        posterior = model.encode(x)
        assert psnr(model.decode(posterior.mode()).clamp(-1, 1), x).min() > 30
        drawn = posterior.sample(torch.Generator().manual_seed(0))
        loss = psnr(model.decode(posterior.mode()), x) - psnr(model.decode(drawn), x)
        assert loss.mean() < 3.0
    assert posterior.logvar.min() > -20  # the KL term holds it: nowhere near the clamp at -30
