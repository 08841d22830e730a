"""A request's guidance settings become one denoiser, and prompts change call by call."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from safelight.condition import Condition
from safelight.diffusion.denoiser import Denoiser
from safelight.diffusion.guidance import guided, linear
from safelight.diffusion.prediction import EPS
from safelight.diffusion.process import ddpm
from safelight.errors import RequestError
from safelight.tasks.request import Guidance
from safelight.tasks.steering import needs_negative, rule_of, steered, timeline

PROCESS = ddpm(EPS)
SIGMAS = torch.tensor([10.0, 5.0, 2.0, 1.0, 0.0], dtype=torch.float64)
X = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
PATTERN = torch.linspace(-1, 1, 64).reshape(8, 8)


def condition(value: float) -> Condition:
    return Condition(torch.full((1, 2, 3), value))


class Toy:
    """A network that answers with its context, and counts the pictures it was asked about."""

    def __init__(self) -> None:
        self.asked = 0

    def __call__(self, x: Tensor, time: Tensor, condition: Condition) -> Tensor:
        self.asked += x.shape[0]
        return 0.1 * x + condition.context.mean((1, 2))[:, None, None, None] * PATTERN


def steer(
    guidance: Guidance, scale: float = 3.0, network: Toy | None = None
) -> Callable[..., Tensor]:
    return steered(
        Denoiser(network or Toy(), PROCESS),
        [(condition(1.0), 1.0)],
        condition(0.0),
        scale,
        guidance,
        rule=rule_of(guidance, EPS),
        sigmas=SIGMAS,
    )


def plain(scale: float) -> Callable[..., Tensor]:
    return guided(Denoiser(Toy(), PROCESS), condition(1.0), condition(0.0), scale, rule=linear)


def test_default_settings_are_plain_guidance() -> None:
    sigma = torch.tensor(2.0, dtype=torch.float64)
    assert torch.equal(steer(Guidance())(X, sigma), plain(3.0)(X, sigma))


@pytest.mark.parametrize(("step", "inside"), [(0, False), (1, True), (2, True), (3, False)])
def test_guidance_works_between_the_given_fractions_of_the_steps(step: int, inside: bool) -> None:
    network = Toy()
    denoise = steer(Guidance(start=0.25, end=0.75), network=network)
    expected = plain(3.0 if inside else 1.0)(X, SIGMAS[step])
    assert torch.allclose(denoise(X, SIGMAS[step]), expected)
    assert network.asked == (2 if inside else 1)  # outside, the negative costs nothing


def test_the_negative_has_no_say_at_scale_1_unless_weights_add_up_to_something_else() -> None:
    assert not needs_negative(1.0, [1.0])
    assert not needs_negative(1.0, [0.4, 0.6])
    assert needs_negative(1.0, [0.5])
    assert needs_negative(2.0, [1.0])


@pytest.mark.parametrize(
    "guidance",
    [
        Guidance(rescale=0.7),
        Guidance(thresholding={"mimic_scale": 2.0, "percentile": 0.9}),
        Guidance(apg={"norm_threshold": 1.0}),
        Guidance(rescale=0.5, apg={"eta": 0.5}),
    ],
)
def test_every_rule_changes_the_estimate_and_leaves_it_finite(guidance: Guidance) -> None:
    sigma = torch.tensor(5.0, dtype=torch.float64)
    result = steer(guidance, 9.0)(X, sigma)
    assert torch.isfinite(result).all()
    assert not torch.allclose(result, plain(9.0)(X, sigma), atol=1e-3)


def test_two_methods_that_both_replace_the_formula_are_refused() -> None:
    with pytest.raises(RequestError, match="choose one"):
        rule_of(Guidance(thresholding={}, apg={}), EPS)
    with pytest.raises(RequestError, match="exclude each other"):
        steer(Guidance(pag={}, sag={}))


def test_a_timeline_asks_each_schedule_for_its_stretch_at_every_call() -> None:
    built = []

    def build(at: tuple[int, ...]) -> Callable[[Tensor, Tensor], Tensor]:
        built.append(at)
        return lambda x, sigma: torch.tensor(at)

    denoise = timeline([[2, 4], [3, 4]], build)
    seen = [tuple(denoise(X, SIGMAS[0]).tolist()) for _ in range(5)]
    assert seen == [(0, 0), (0, 0), (1, 0), (1, 1), (1, 1)]  # the last holds on
    assert built == [(0, 0), (1, 0), (1, 1)]


def test_an_alternation_builds_each_combination_once() -> None:
    built = []
    timeline([[1, 2, 3, 4]], lambda at: built.append(at) or (lambda x, sigma: x))
    assert len(built) == 4
    built.clear()
    timeline([[4], [4]], lambda at: built.append(at) or (lambda x, sigma: x))
    assert built == [(0, 0)]
