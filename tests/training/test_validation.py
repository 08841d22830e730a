import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from diffusion_lab import CAPTIONS, backbone, codec, conditioner, frozen_text, process, shapes
from safelight.condition import Condition
from safelight.diffusion.prediction import V
from safelight.diffusion.weights import MinSnr
from safelight.errors import RequestError
from safelight.training.diffusion_task import PLAYER, DiffusionSettings, DiffusionTask
from safelight.training.draw import Draw
from safelight.training.latent_pool import LatentPool
from safelight.training.previews import Previews, write_sheet
from safelight.training.text_states import tokens_of
from safelight.training.validation import BINS, Validation, judging

TEXT = frozen_text()
POOL = LatentPool(shapes(8), tokens_of(TEXT.conditioner, CAPTIONS).ids)


def task_of(**settings: object) -> DiffusionTask:
    return DiffusionTask(backbone(), process(), TEXT, DiffusionSettings(**settings))  # type: ignore[arg-type]


# -- held-out loss -------------------------------------------------------------------------------


def test_figures_are_a_function_of_weights_and_seed_alone() -> None:
    task, judge = task_of(), Validation(POOL, range(8))
    figures = judge(task)
    assert judge(task) == figures
    assert Validation(POOL, range(8), seed=1)(task) != figures
    with torch.no_grad():
        task.learner.conv_out.weight += 0.01  # type: ignore[union-attr, operator]
    assert judge(task) != figures
    bins = [f"held_out/snr_{low:g}_{high:g}" for low, high in pairwise(BINS)]
    assert list(figures) == ["held_out/loss", *bins]
    assert len(figures) == 9


def test_figures_do_not_depend_on_the_batch() -> None:
    task = task_of(weight=MinSnr())
    whole = Validation(POOL, range(8))(task)
    for size in (3, 8):
        parts = Validation(POOL, range(8), batch=size)(task)
        assert parts == pytest.approx(whole, rel=1e-5)


def test_training_is_bit_equal_with_and_without_validation() -> None:
    made = codec()

    def trained(judged: bool) -> Tensor:
        task = task_of()
        optimizer = torch.optim.SGD(task.learner.parameters(), lr=0.1)
        torch.manual_seed(1)
        for step in range(3):
            draw = Draw(0, step, 4)
            optimizer.zero_grad()
            task.loss(PLAYER, POOL.batch([0, 1, 2, 3], draw), draw).total.backward()
            optimizer.step()
            if judged:
                Validation(POOL, range(8))(task)
                previews().pictures(task.network, process(), TEXT.conditioner, made)
        weights = torch.cat([p.detach().flatten() for p in task.learner.parameters()])
        assert weights.isfinite().all()
        return torch.cat([weights, torch.random.get_rng_state()])

    assert torch.equal(trained(True), trained(False))


class Gaussian:
    """The perfect v network for latents whose every number is N(0, 1) apart from all others."""

    def __call__(self, x: Tensor, time: Tensor, condition: Condition) -> Tensor:
        # c_in x has unit variance, and v is independent of it: nothing is to be known
        return torch.zeros_like(x)


def test_figures_of_a_known_law_are_its_known_loss() -> None:
    # v = (noise - sigma latents) / sqrt(1 + sigma²) has variance 1 and is independent of x
    rng = torch.Generator().manual_seed(0)
    pool = LatentPool(torch.randn(64, 4, 8, 8, generator=rng), contexts=torch.zeros(64, 1, 8))
    settings = DiffusionSettings(caption_dropout=0.0, weight=MinSnr())
    learner = torch.nn.Linear(1, 1)
    task = DiffusionTask(Gaussian(), process(), None, settings, learner)
    figures = Validation(pool, range(64), batch=16)(task)
    for name, value in figures.items():
        if name != "held_out/loss":
            assert value == pytest.approx(1, abs=0.03), name
    # the loss itself has the task's weight and its law of levels
    levels = settings.draw(process(), (torch.arange(20_000).double() + 0.5) / 20_000)
    expected = MinSnr().on(V, levels).mean().item()
    assert figures["held_out/loss"] == pytest.approx(expected, rel=0.05)


def test_each_bin_asks_at_its_own_levels() -> None:
    seen: list[Tensor] = []

    class Watching(Gaussian):
        def __call__(self, x: Tensor, time: Tensor, condition: Condition) -> Tensor:
            seen.append(time)
            return super().__call__(x, time, condition)

    task = DiffusionTask(Watching(), process(), TEXT, module=torch.nn.Linear(1, 1))
    Validation(POOL, range(8))(task)
    assert len(seen) == 9
    for times, (low, high) in zip(seen[1:], pairwise(BINS), strict=True):
        log_snr = -2 * process().sigma_of(times).log()
        least = -2 * math.log(process().sigma_max)
        assert log_snr.min() >= max(low, least) - 1e-3
        assert log_snr.max() <= max(high, least) + 1e-3
        if low > least:  # spread evenly over the bin
            places = ((log_snr - low) / (high - low) * 8).clamp(0, 7.99).floor()
            assert torch.equal(places.sort().values, torch.arange(8.0, dtype=torch.float64))


def test_captions_are_not_dropped_and_the_modes_return_even_after_an_error() -> None:
    told: list[Tensor] = []

    class Broken:
        def __call__(self, x: Tensor, time: Tensor, condition: Condition) -> Tensor:
            told.append(condition.context)
            assert not module.training and not torch.is_grad_enabled()
            raise RuntimeError("broken")

    module = torch.nn.Sequential(torch.nn.Linear(1, 1), torch.nn.Dropout())
    module[1].eval()
    settings = DiffusionSettings(caption_dropout=1.0)
    with pytest.raises(RuntimeError, match="broken"):
        Validation(POOL, range(8))(DiffusionTask(Broken(), process(), TEXT, settings, module))
    assert module.training and module[0].training and not module[1].training
    assert torch.is_grad_enabled()
    assert torch.equal(told[0], TEXT.states(POOL.batch(range(8), Draw(0, 0, 8)).tokens).context)  # type: ignore[arg-type]


@pytest.mark.slow
def test_a_compiled_module_is_judged_without_being_compiled_anew() -> None:
    graphs: list[object] = []

    def backend(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> object:
        graphs.append(graph)
        return graph.forward

    class Noisy(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = torch.nn.Linear(2, 2)
            self.dropout = torch.nn.Dropout(0.5)

        def forward(self, x: Tensor) -> Tensor:
            return self.dropout(self.inner(x))

    module = Noisy()
    module.compile(backend=backend)
    x = torch.ones(4, 2)
    module(x)
    compiled = len(graphs)
    assert compiled >= 1
    with judging(module):
        for size in (1, 2, 3):
            assert torch.equal(module(x[:size]), module.inner(x[:size]))
    assert len(graphs) == compiled
    module(x)
    assert len(graphs) == compiled


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"indices": ()}, "needs one or more examples"),
        ({"batch": 0}, "batches of 1 or more"),
        ({"bins": (1.0, 1.0)}, r"ascending edges in log-SNR; got \[1\.0, 1\.0\]"),
    ],
)
def test_a_validation_of_nothing_is_refused(options: dict[str, object], said: str) -> None:
    with pytest.raises(RequestError, match=said):
        Validation(**{"data": POOL, "indices": range(8), **options})  # type: ignore[arg-type]


# -- previews ------------------------------------------------------------------------------------


def previews(**options: object) -> Previews:
    return Previews(**{"prompts": CAPTIONS[:3], "height": 16, "width": 24, "steps": 3, **options})  # type: ignore[arg-type]


def test_previews_are_the_same_pictures_whatever_the_batch() -> None:
    network, text, made = backbone(), conditioner(), codec()
    whole = previews().pictures(network, process(), text, made)
    assert whole.shape == (3, 3, 16, 24)
    assert whole.min() >= -1 and whole.max() <= 1
    for size in (1, 2):
        parts = previews(batch=size).pictures(network, process(), text, made)
        assert torch.allclose(parts, whole, atol=1e-4)
    assert not torch.allclose(previews(seed=7).pictures(network, process(), text, made), whole)


def test_previews_are_what_the_model_draws_for_users() -> None:
    # the same numbers as the plan of a request: sampler, schedule, noise, guidance, empty negative
    from safelight.diffusion.denoiser import Denoiser
    from safelight.diffusion.guidance import guided
    from safelight.diffusion.noise import Noise
    from safelight.diffusion.samplers import SAMPLERS
    from safelight.diffusion.schedules import SCHEDULES

    network, text = backbone(), conditioner()
    sigmas = SCHEDULES["karras"](process(), 3)
    noise = Noise([5], (4, 4, 6))
    told = text.condition(CAPTIONS[2], dialect="plain")
    nothing = text.condition("", dialect="plain", negative=True)
    denoise = guided(Denoiser(network, process()), told, nothing, 3.0)
    with torch.no_grad():
        *_, last = SAMPLERS["dpmpp_2m"].run(denoise, noise() * float(sigmas[0]), sigmas, noise)
        drawn = previews(seed=3).latents(network, process(), text, codec())
    assert torch.allclose(drawn[2:3], last.x, atol=1e-4)


def test_a_sheet_holds_every_picture_in_its_place(tmp_path: Path) -> None:
    colours = torch.linspace(-1, 1, 5)[:, None, None, None].expand(5, 3, 16, 24)
    write_sheet(tmp_path / "sheet.png", colours, list(CAPTIONS[:5]), columns=2)
    page = np.asarray(Image.open(tmp_path / "sheet.png"))
    assert page.shape == (4 + 3 * (16 + 14 + 4), 4 + 2 * (24 + 4), 3)
    for number in range(5):
        top, left = 4 + number // 2 * 34 + 14, 4 + number % 2 * 28
        expected = round((float(colours[number, 0, 0, 0]) + 1) * 127.5)
        cell = page[top : top + 16, left : left + 24]
        assert (np.abs(cell.astype(int) - expected) <= 1).all()
    assert [p.name for p in tmp_path.iterdir()] == ["sheet.png"]


def test_previews_of_nothing_are_refused() -> None:
    with pytest.raises(RequestError, match="one or more prompts"):
        previews(prompts=())
