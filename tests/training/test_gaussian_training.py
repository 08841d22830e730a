"""Training reaches what is known to be best: on normal data, and on eight pictures by heart."""

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from diffusion_lab import CAPTIONS, backbone, codec, frozen_text, process, shapes
from safelight.condition import Condition
from safelight.diffusion.denoiser import Denoiser
from safelight.diffusion.draws import UniformDraw
from safelight.diffusion.prediction import EDM, EPS, X0, V
from safelight.diffusion.process import Process, ddpm, edm, flow
from safelight.diffusion.weights import Constant, MinSnr, Weight
from safelight.training.diffusion_task import PLAYER, DiffusionSettings, DiffusionTask, LatentBatch
from safelight.training.draw import Draw
from safelight.training.ema import Classic, swapped
from safelight.training.latent_pool import LatentPool
from safelight.training.loop import train
from safelight.training.previews import Previews
from safelight.training.settings import Settings
from safelight.training.text_states import tokens_of
from safelight.training.validation import Validation

MEAN, DEVIATION = 0.7, 0.4
LEVELS = 8
PROCESSES: Mapping[str, Process] = {
    "eps": ddpm(EPS, beta_start=0.02, beta_end=0.6, steps=LEVELS),
    "v": ddpm(V, beta_start=0.02, beta_end=0.6, steps=LEVELS),
    "v, zero terminal SNR": ddpm(
        V, beta_start=0.02, beta_end=0.6, steps=LEVELS, zero_terminal_snr=True
    ),
    "x0": ddpm(X0, beta_start=0.02, beta_end=0.6, steps=LEVELS),
    "flow": flow(2.0, steps=LEVELS),
    "edm": edm(EDM, sigma_min=0.05, sigma_max=10.0, steps=LEVELS),
}


class Linear(nn.Module):
    """A network that is a line of its own at each level: the best answer on normal data is one."""

    def __init__(self, times: Tensor) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.zeros(len(times)))
        self.height = nn.Parameter(torch.zeros(len(times)))
        self.times = times.float()

    def forward(self, x: Tensor, time: Tensor, condition: Condition) -> Tensor:
        level = (time.float()[:, None] - self.times).abs().argmin(1)
        slope, height = (p[level][:, None, None, None] for p in (self.slope, self.height))
        return slope * x + height


def normal_batch(draw: Draw) -> LatentBatch:
    latents = MEAN + DEVIATION * draw.normal("data", 1, 8, 8)
    return LatentBatch(latents, context=torch.zeros(len(latents), 1, 1))


def trained(made: Process, weight: Weight, steps: int = 800) -> tuple[DiffusionTask, float]:
    """A linear network trained on normal data, and its loss over the last steps."""
    network = Linear(made.time(made.sigmas))
    settings = DiffusionSettings(UniformDraw(), weight, caption_dropout=0.0)
    task = DiffusionTask(network, made, None, settings, network)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.05, betas=(0.9, 0.99))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda n: 1 - n / steps)
    late = []
    for step in range(steps):
        draw = Draw(0, step, 64)
        loss = task.loss(PLAYER, normal_batch(draw), draw).total
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step >= steps // 2:
            late.append(loss.item())
    return task, sum(late) / len(late)


@pytest.mark.slow
@pytest.mark.parametrize("weight", [Constant(), MinSnr()], ids=["constant", "min-SNR"])
@pytest.mark.parametrize("name", PROCESSES)
def test_training_on_normal_data_reaches_the_perfect_denoiser(name: str, weight: Weight) -> None:
    made = PROCESSES[name]
    task, loss = trained(made, weight)
    sigma = made.sigmas
    rng = torch.Generator().manual_seed(1)
    spread = (DEVIATION**2 + sigma**2).sqrt()[:, None, None, None]
    x = MEAN + spread * torch.randn(LEVELS, 1, 16, 16, generator=rng, dtype=torch.float64)
    wide = sigma[:, None, None, None]
    best = (DEVIATION**2 * x + wide**2 * MEAN) / (DEVIATION**2 + wide**2)
    with torch.no_grad():
        found = Denoiser(task.network, made)(x, sigma, Condition(torch.zeros(1, 1, 1)))
    # the error that is left, beside the error that cannot be avoided
    posterior = DEVIATION**2 * sigma**2 / (DEVIATION**2 + sigma**2)
    told = weight.on(made.prediction, sigma) > 1e-6  # min-SNR teaches nothing of pure noise
    error = (found - best).square().mean((1, 2, 3))
    assert (error[told] < 2e-3 * posterior[told]).all()
    # and the loss is the known least one
    least = (
        weight.on(made.prediction, sigma) * posterior / made.prediction.scalings(sigma).c_out ** 2
    )
    assert loss == pytest.approx(float(least.mean()), rel=0.02)


# -- eight pictures by heart ---------------------------------------------------------------------


def nearest(drawn: Tensor, known: Tensor) -> list[int]:
    """Which of the known latents each drawn one is nearest to."""
    return torch.cdist(drawn.flatten(1), known.flatten(1)).argmin(1).tolist()


@pytest.mark.slow
def test_eight_pictures_are_learned_by_heart_and_drawn_from_their_captions(tmp_path: Path) -> None:
    known = shapes(8)
    text = frozen_text()
    pool = LatentPool(known, tokens_of(text.conditioner, CAPTIONS).ids)
    network = backbone()
    task = DiffusionTask(network, process(), text, DiffusionSettings())
    validation = Validation(pool, range(8))
    before = validation(task)["held_out/loss"]
    settings = Settings(
        batch_size=16,
        steps=500,
        learning_rate=4e-3,
        warmup_steps=20,
        schedule="linear",
        decay_from=0.5,
        ema=(Classic(0.99),),
    )
    outcome = train(task, pool, settings, tmp_path)
    after = validation(task)["held_out/loss"]
    assert after < 0.15 * before
    previews = Previews(CAPTIONS, 32, 32, steps=12, guidance_scale=2.0)
    made = codec()
    with torch.no_grad(), swapped(network.unet, outcome.averages[PLAYER]["classic:0.99"]):
        drawn = previews.latents(network, process(), text.conditioner, made)
    assert nearest(drawn, known) == list(range(8))
    # near to it, too: most of the picture's own variance is explained
    assert ((drawn - known).square().mean((1, 2, 3)) < 0.3).all()
    # what is said decides: with the captions turned by one, the pictures turn by one
    turned = Previews((*CAPTIONS[1:], CAPTIONS[0]), 32, 32, steps=12, guidance_scale=2.0)
    with torch.no_grad():
        drawn = turned.latents(network, process(), text.conditioner, made)
    assert nearest(drawn, known) == [*range(1, 8), 0]
