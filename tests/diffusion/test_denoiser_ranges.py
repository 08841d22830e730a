"""The denoiser asks the network only for what acts at the noise level."""

from dataclasses import replace

import torch
from torch import Tensor

from safelight.condition import Condition, Control, ImagePrompt
from safelight.diffusion.denoiser import Denoiser
from safelight.diffusion.prediction import resolve_prediction
from safelight.diffusion.process import ddpm

PROCESS = ddpm(resolve_prediction("eps"))


class Seen:
    """A network that answers with the pictures it was shown, and notes what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, tuple[str, ...]]] = []

    def __call__(self, x: Tensor, time: Tensor, condition: Condition) -> Tensor:
        names = tuple(c.net for c in condition.controls)
        names += tuple(p.adapter for p in condition.image_prompts)
        self.asked.append((len(x), names))
        total = torch.zeros_like(x)
        for control in condition.controls:
            total = total + control.scale * control.image.mean((1, 2, 3))[:, None, None, None]
        return total


def condition(batch: int) -> Condition:
    image = torch.arange(1.0, batch + 1)[:, None, None, None].expand(batch, 3, 8, 8)
    return Condition(
        torch.zeros(batch, 2, 3),
        controls=(Control("early", image, low=2.0), Control("late", image, 10.0, high=2.0)),
        image_prompts=(ImagePrompt("face", torch.zeros(batch, 1, 3), high=1.0),),
    )


def test_what_does_not_act_is_dropped_before_the_network_is_asked() -> None:
    network = Seen()
    denoise = Denoiser(network, PROCESS).given(condition(2))
    for sigma in (9.0, 2.0, 0.5):
        denoise(torch.zeros(2, 4, 2, 2), torch.tensor(sigma, dtype=torch.float64))
    assert network.asked == [(2, ("early",)), (2, ("late",)), (2, ("late", "face"))]


def test_pictures_at_different_levels_have_each_what_acts_at_its_own() -> None:
    network = Seen()
    denoiser = Denoiser(network, PROCESS)
    x = torch.zeros(3, 4, 2, 2)
    sigma = torch.tensor([9.0, 1.5, 4.0])
    together = denoiser(x, sigma, condition(3))
    assert [names for _, names in network.asked] == [("early",), ("late",), ("early",)]
    alone = [
        denoiser(
            x[i : i + 1],
            sigma[i : i + 1],
            replace(
                condition(3),
                context=torch.zeros(1, 2, 3),
                controls=tuple(replace(c, image=c.image[i : i + 1]) for c in condition(3).controls),
                image_prompts=(),
            ),
        )
        for i in range(3)
    ]
    torch.testing.assert_close(together, torch.cat(alone))
    assert len({float(t.mean()) for t in together}) == 3


def test_levels_that_differ_but_act_alike_are_one_call() -> None:
    network = Seen()
    Denoiser(network, PROCESS)(torch.zeros(2, 4, 2, 2), torch.tensor([9.0, 5.0]), condition(2))
    assert network.asked == [(2, ("early",))]
