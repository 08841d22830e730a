"""Laws of estimates that are used again."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from guidance_toy import NEGATIVE, OTHER, POSITIVE, SD, Toy, latents
from safelight.condition import Condition, expand
from safelight.diffusion.deep_reuse import DeepReuse
from safelight.diffusion.denoiser import Denoiser
from safelight.diffusion.guidance import Perturbation, edited, guided
from safelight.diffusion.guidance.classifier_free import evaluated
from safelight.diffusion.noise import Noise
from safelight.diffusion.reuse import Bounds, Reuse, Savings, clock
from safelight.diffusion.samplers import SAMPLERS
from safelight.diffusion.schedules import karras
from safelight.errors import RequestError

SCALE = 4.0
SIGMAS = karras(SD, 20)
NOTHING = Bounds()


class Perfect:
    """The perfect denoiser of data around a mean, which each condition has its own of."""

    def __init__(self, deviation: float = 0.5) -> None:
        self.deviation, self.asked = deviation, 0

    def __call__(self, x: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        self.asked += len(x)
        told = expand(condition, len(x)).context.mean((1, 2))[:, None, None, None]
        level = sigma.expand(len(x)).to(x)[:, None, None, None] ** 2
        share = self.deviation**2
        return (share * x + level * 4 * told) / (share + level)


def drawn(
    sampler: str = "euler",
    bounds: Bounds = NOTHING,
    *,
    denoiser: Any = None,
    batch: int = 2,
    first: int = 0,
    scale: float = SCALE,
    pictures: Sequence[int] | None = None,
    evaluate: Any = None,
) -> tuple[Tensor, Savings, list[Tensor]]:
    """The result, what was saved, and the guided estimate of each call."""
    seeds = list(pictures or range(first, first + batch))
    noise = Noise(seeds, (4, 6, 6))
    savings, said = Savings(), []
    ask = evaluate or Reuse(
        bounds, savings, last=float(SIGMAS[-2]), scale=scale, pair=(0, 1) if scale != 1 else None
    )
    denoise = guided(
        denoiser or Perfect(),
        POSITIVE,
        NEGATIVE if scale != 1 else None,
        scale,
        evaluate=None if bounds == NOTHING and evaluate is None else ask,
    )

    def watched(x: Tensor, sigma: Tensor) -> Tensor:
        said.append(denoise(x, sigma))
        return said[-1]

    x = float(SIGMAS[0]) * noise()
    options = {"process": SD} if SAMPLERS[sampler].takes_process else {}
    for step in SAMPLERS[sampler].run(watched, x, SIGMAS, noise, **options):
        x = step.x
    return x, savings, said


@pytest.mark.parametrize("sampler", ["euler", "heun", "euler_ancestral", "dpmpp_sde"])
def test_bounds_of_0_are_the_plain_evaluation_bit_for_bit(sampler: str) -> None:
    plain, _, _ = drawn(sampler)
    silent = Reuse(Bounds(), Savings(), last=0.0, scale=SCALE, pair=(0, 1))
    same, _, _ = drawn(sampler, evaluate=silent)
    assert torch.equal(plain, same)


@pytest.mark.parametrize("sampler", ["euler", "dpmpp_2m", "heun", "euler_ancestral", "dpmpp_sde"])
def test_a_larger_bound_never_makes_more_calls(sampler: str) -> None:
    asked = []
    for bound in (0.0, 0.002, 0.01, 0.03, 0.1, 0.3, 1.0):
        network = Perfect()
        drawn(sampler, Bounds(steps=bound), denoiser=network)
        asked.append(network.asked)
    assert asked == sorted(asked, reverse=True) and asked[-1] < asked[0] / 3


def test_a_larger_bound_of_guidance_never_asks_more_negatives() -> None:
    asked = []
    for bound in (0.0, 0.002, 0.01, 0.03, 0.1, 0.3, 1.0):
        network = Perfect()
        drawn("euler", Bounds(guidance=bound), denoiser=network)
        asked.append(network.asked)
    calls = 20 * 2  # of two pictures: the positives are always asked
    assert asked == sorted(asked, reverse=True) and asked[0] == 2 * calls > asked[-1] >= calls


@pytest.mark.parametrize("bound", [0.01, 0.03, 0.1])
@pytest.mark.parametrize("deviation", [0.2, 0.5, 1.0])
def test_what_is_reused_is_within_the_bound_of_what_would_be_said(
    bound: float, deviation: float
) -> None:
    """On data of a normal law, whose estimates are known: the bound is foreseen, and it holds."""
    network = Perfect(deviation)
    savings = Savings()
    ask = Reuse(Bounds(steps=bound), savings, last=float(SIGMAS[-2]), scale=SCALE, pair=(0, 1))
    worst, reused = 0.0, 0

    def watched(
        denoiser: Any, conditions: Any, x: Tensor, sigma: Tensor, *, apart: bool = False
    ) -> list[Tensor]:
        nonlocal worst, reused
        before = network.asked
        answer = ask(denoiser, conditions, x, sigma, apart=apart)
        if network.asked == before:
            reused += 1
            true = evaluated(Perfect(deviation), conditions, x, sigma)  # type: ignore[arg-type]
            off = torch.lerp(answer[0], answer[1], SCALE) - torch.lerp(true[0], true[1], SCALE)
            worst = max(worst, float(off.abs().mean() / x.abs().mean()))
        return answer

    drawn("euler", Bounds(steps=bound), denoiser=network, evaluate=watched, batch=1)
    assert reused > 3 and worst <= 1.1 * bound


@pytest.mark.parametrize("bounds", [Bounds(0.05), Bounds(0.0, 0.05), Bounds(0.03, 0.1)])
@pytest.mark.parametrize("sampler", ["euler", "dpmpp_2m", "heun", "euler_ancestral"])
def test_a_picture_of_a_batch_is_the_picture_alone(sampler: str, bounds: Bounds) -> None:
    together, saved, _ = drawn(sampler, bounds, batch=3)
    for k in range(3):
        alone, own, _ = drawn(sampler, bounds, pictures=[k])
        torch.testing.assert_close(together[k : k + 1], alone, atol=1e-4, rtol=0)
        assert (own.made[0], own.asked[0]) == (saved.made[k], saved.asked[k])


def test_pictures_of_a_batch_are_decided_apart() -> None:
    """One of them stands still, so that it needs no calls; the other one goes on asking."""

    class Uneven(Perfect):
        def __call__(self, x: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
            told = expand(condition, len(x)).context[:, 0, 0]
            said = super().__call__(x, sigma, condition)
            return torch.where(told[:, None, None, None] > 50, torch.ones_like(x), said)

    still = torch.cat([torch.full_like(POSITIVE.context, 99), POSITIVE.context])
    network, savings = Uneven(), Savings()
    ask = Reuse(Bounds(0.01), savings, last=0.0, scale=1.0)
    denoise = guided(network, Condition(still), None, 1, evaluate=ask)  # type: ignore[arg-type]
    x = latents(batch=2)
    for sigma in SIGMAS[:-1]:
        denoise(x * float(sigma), sigma)
    assert savings.made[0] == 2 < savings.made[1] and savings.asked == [20, 20]
    assert network.asked == sum(savings.made)


def test_the_first_two_calls_the_last_and_any_after_the_noise_rose_are_made() -> None:
    network = Perfect()
    ask = Reuse(Bounds(1.0, 1.0), Savings(), last=0.5, scale=SCALE, pair=(0, 1))
    denoise = guided(network, POSITIVE, NEGATIVE, SCALE, evaluate=ask)  # type: ignore[arg-type]
    made = []
    for sigma in (10.0, 8.0, 6.0, 5.0, 7.0, 6.0, 0.5, 0.4):
        before = network.asked
        denoise(latents(batch=1) * sigma, torch.tensor(sigma))
        made.append(network.asked - before)
    assert made[:4] == [2, 2, 0, 0] and made[4] == 2 and made[6:] == [2, 2]


def test_a_second_call_at_a_level_is_reused_only_if_its_input_hardly_changed() -> None:
    network = Perfect()
    ask = Reuse(Bounds(0.05), Savings(), last=0.0, scale=SCALE, pair=(0, 1))
    denoise = guided(network, POSITIVE, NEGATIVE, SCALE, evaluate=ask)  # type: ignore[arg-type]
    x = latents(batch=1)
    for sigma in (0.9, 0.8):
        denoise(x, torch.tensor(sigma))
    before = network.asked
    denoise(x * 1.01, torch.tensor(0.8))
    assert network.asked == before
    denoise(x * 1.2, torch.tensor(0.8))
    assert network.asked == before + 2


def test_the_measured_change_is_that_of_the_estimate() -> None:
    savings = Savings()
    ask = Reuse(Bounds(0.9), savings, last=0.5, scale=SCALE, pair=(0, 1))
    denoise = guided(Perfect(), POSITIVE, NEGATIVE, SCALE, evaluate=ask)  # type: ignore[arg-type]
    x, said = latents(batch=1), []
    for sigma in (0.9, 0.8, 0.7, 0.5):
        said.append(denoise(x * sigma, torch.tensor(sigma)))
    assert torch.equal(said[2], said[1]) and (savings.made, savings.asked) == ([6], [8])
    expected = float((said[3] - said[1]).abs().mean() / (0.5 * x).abs().mean())
    assert savings.change[0] == pytest.approx(expected, rel=1e-4)


def test_guidance_is_left_out_of_the_call_and_not_of_the_result() -> None:
    class Steady(Perfect):
        """Its conditions differ by the same at every level."""

        def __call__(self, x: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
            self.asked += len(x)
            told = expand(condition, len(x)).context.mean((1, 2))[:, None, None, None]
            level = sigma.expand(len(x)).to(x)[:, None, None, None]
            return torch.sin(x / level) * 0.3 + told

    _, _, exact = drawn("euler", denoiser=Steady(), batch=1)
    network = Steady()
    _, _, said = drawn("euler", Bounds(guidance=0.01), denoiser=network, batch=1)
    assert network.asked == 20 + 3  # negatives: the first two calls and the last
    torch.testing.assert_close(torch.stack(said), torch.stack(exact), atol=1e-4, rtol=0)


def test_without_a_negative_and_with_several_positives_estimates_are_reused_too() -> None:
    network, savings = Perfect(), Savings()
    ask = Reuse(Bounds(0.1), savings, last=0.0, scale=SCALE, pair=(0, 1))
    several = [(POSITIVE, 0.7), (OTHER, 0.5)]
    denoise = guided(
        network,
        several,
        NEGATIVE,
        SCALE,
        evaluate=ask,
        perturbation=Perturbation(("mid_block",)),  # type: ignore[arg-type]
    )
    for sigma in SIGMAS[:-1]:
        denoise(latents(batch=1) * float(sigma), sigma)
    assert savings.asked == [20 * 5] and 0 < savings.made[0] < 100
    _, alone, _ = drawn("euler", Bounds(0.1), scale=1.0)
    assert alone.asked == [20, 20] and alone.made[0] < 20


def test_instruct_pix2pix_is_reused_as_a_whole() -> None:
    network, savings = Perfect(), Savings()
    ask = Reuse(Bounds(0.1), savings, last=0.0, scale=7.5, pair=(1, 2))
    denoise = edited(network, POSITIVE, OTHER, NEGATIVE, evaluate=ask)  # type: ignore[arg-type]
    exact = edited(Perfect(), POSITIVE, OTHER, NEGATIVE)  # type: ignore[arg-type]
    x, first = latents(batch=1), SIGMAS[0]
    assert torch.equal(denoise(x, first), exact(x, first))
    for sigma in SIGMAS[1:-1]:
        denoise(x * float(sigma / first), sigma)
    assert savings.asked == [60] and savings.made[0] % 3 == 0 and savings.made[0] < 60


def test_the_clock_runs_steadily_and_falls_with_the_noise() -> None:
    levels = [200.0, 14.0, 3.0, 1.0001, 1.0, 0.9999, 0.3, 0.01]
    times = [clock(level) for level in levels]
    assert times == sorted(times, reverse=True)
    assert clock(1.0) == 0 and abs(times[3] - times[5]) < 1e-3


# --- deep features ------------------------------------------------------------------------------


class Kept:
    def __init__(self, features: Tensor) -> None:
        self.features = features


class Deep(Toy):
    """A toy whose deep part is what its condition says, and whose shallow part is its input."""

    def __init__(self) -> None:
        super().__init__()
        self.whole: list[int] = []

    def with_deep(
        self, x: Tensor, time: Tensor, condition: Condition, *, blocks: int, kept: Kept | None
    ) -> tuple[Tensor, Kept]:
        if kept is None:
            self.whole.append(len(x))
            kept = Kept(self(x, time, condition))
        return x + kept.features, kept


def test_the_deep_part_is_asked_in_every_nth_call_and_the_last() -> None:
    network, savings = Deep(), Savings()
    ask = DeepReuse(3, 1, savings, last=float(SIGMAS[-2]))
    denoise = guided(Denoiser(network, SD), POSITIVE, NEGATIVE, SCALE, evaluate=ask)
    x = latents(batch=2)
    asked = []
    for sigma in SIGMAS[:-1]:
        before = len(network.whole)
        denoise(x * float(sigma), sigma)
        asked.append(len(network.whole) - before)
    assert asked == [1, 0, 0] * 6 + [1, 1]
    assert savings.asked == [40, 40] and savings.shallow == [24, 24]
    assert set(network.whole) == {4} and min(savings.change) > 0


def test_deep_features_of_conditions_do_not_mix() -> None:
    """Calls apart, of other lengths or of other parts keep features of their own."""
    network = Deep()
    longer = Condition(torch.cat([NEGATIVE.context, NEGATIVE.context], 1))
    ask = DeepReuse(5, 1, Savings(), last=0.0)
    denoise = guided(Denoiser(network, SD), POSITIVE, longer, SCALE, evaluate=ask)
    x = latents(batch=1)
    first = denoise(x, torch.tensor(2.0))
    assert torch.equal(denoise(x, torch.tensor(2.0)), first) and len(network.whole) == 2


def test_a_network_without_the_door_is_refused_by_name() -> None:
    ask = DeepReuse(3, 1, Savings(), last=0.0)
    denoise = guided(Denoiser(Toy(), SD), POSITIVE, NEGATIVE, SCALE, evaluate=ask)
    with pytest.raises(RequestError, match=r"--engine eager, or leave reuse\.every out"):
        denoise(latents(), torch.tensor(2.0))
