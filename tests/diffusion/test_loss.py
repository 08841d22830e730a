import math

import pytest
import torch
from torch import Tensor

from safelight.diffusion.loss import (
    diffusion_loss,
    levels,
    noisy_input,
    offset,
    picture_errors,
    pyramid,
    pyramid_sizes,
    target,
)
from safelight.diffusion.prediction import EDM, EPS, FLOW, X0, V
from safelight.diffusion.process import Process, ddpm, edm, flow
from safelight.diffusion.weights import MinSnr
from safelight.errors import RequestError

PROCESSES = [ddpm(EPS), ddpm(V), ddpm(X0), flow(3.0), edm(EDM), ddpm(V, zero_terminal_snr=True)]
NAMES = ["eps", "v", "x0", "flow", "edm", "zero-snr"]


def normals(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("process", PROCESSES, ids=NAMES)
def test_levels_are_float64_values_rounded_once(process: Process) -> None:
    at = levels(process, process.sigmas, MinSnr())
    assert torch.equal(at.sigma, process.sigmas.float())
    assert torch.equal(at.time, process.time(process.sigmas).float())
    assert torch.equal(at.c_in, process.prediction.scalings(process.sigmas).c_in.float())
    assert torch.equal(at.weight, MinSnr().on(process.prediction, process.sigmas).float())
    assert (levels(process, process.sigmas).weight == 1).all()
    # all thousand training times stay apart, as they would not in bfloat16
    assert len(at.time.unique()) == 1000
    assert all(part.isfinite().all() for part in (at.sigma, at.time, at.c_in, at.weight))


@pytest.mark.parametrize("process", PROCESSES, ids=NAMES)
def test_input_and_target_keep_their_digits_in_float32_at_every_level(process: Process) -> None:
    sigma = process.sigmas[[0, 250, 500, 750, 999]]
    at = levels(process, sigma)
    latents, noise = normals(5, 4, 8, 8), normals(5, 4, 8, 8, seed=1)
    wide = sigma[:, None, None, None]
    exact = process.prediction.target(latents.double(), noise.double(), wide)
    found = target(process, latents, noise, at)
    assert found.dtype == torch.float32
    assert torch.allclose(found.double(), exact, rtol=0, atol=2e-6 * float(exact.abs().max()))
    c_in = process.prediction.scalings(wide).c_in
    seen = noisy_input(latents, noise, at)
    expected = c_in * (latents.double() + wide * noise.double())
    assert torch.allclose(seen.double(), expected, rtol=0, atol=2e-6 * float(expected.abs().max()))


def test_latents_in_bfloat16_are_computed_with_in_float32() -> None:
    process = ddpm(V)
    at = levels(process, process.sigmas[[10, 900]])
    stored, noise = normals(2, 4, 8, 8).bfloat16(), normals(2, 4, 8, 8, seed=1)
    assert torch.equal(noisy_input(stored, noise, at), noisy_input(stored.float(), noise, at))
    assert torch.equal(
        target(process, stored, noise, at), target(process, stored.float(), noise, at)
    )


def test_a_picture_counts_alike_whatever_its_size_and_its_weight_is_its_own() -> None:
    output, wanted = normals(3, 4, 8, 8), normals(3, 4, 8, 8, seed=1)
    errors = picture_errors(output, wanted)
    assert torch.allclose(errors, (output - wanted).square().mean((1, 2, 3)))
    weight = torch.tensor([1.0, 0.0, 3.0])
    expected = (errors[0] + 3 * errors[2]) / 3
    assert torch.allclose(diffusion_loss(output, wanted, weight), expected)
    assert torch.allclose(diffusion_loss(output, wanted), errors.mean())
    large = [t.repeat_interleave(2, 2).repeat_interleave(2, 3) for t in (output, wanted)]
    assert torch.allclose(diffusion_loss(*large, weight), expected)


def test_the_loss_is_float32_whatever_the_networks_type() -> None:
    # 4,000 errors of 2**-8 each: bfloat16 sums would stop growing on the way
    output = torch.full((1, 4, 40, 25), 2.0**-4).bfloat16()
    loss = diffusion_loss(output, torch.zeros_like(output))
    assert loss.dtype == torch.float32 and loss.item() == 2.0**-8


def test_pseudo_huber_is_its_formula_and_keeps_small_errors() -> None:
    d = torch.logspace(-6, 3, 50, dtype=torch.float64)
    c = 0.3
    expected = 2 * c * ((d**2 + c**2).sqrt() - c)
    found = picture_errors(d[:, None], torch.zeros(50, 1), huber=c)
    far = d > 1e-3  # the formula itself loses its digits below
    assert torch.allclose(found[far].double(), expected[far], rtol=1e-5)
    assert torch.allclose(found[~far].double(), d[~far] ** 2, rtol=1e-5)


def test_pyramid_noise_is_made_of_its_levels() -> None:
    assert pyramid_sizes(16, 16) == ((8, 8), (4, 4), (2, 2), (1, 1))
    assert pyramid_sizes(6, 5) == ((3, 3), (2, 2), (1, 1))
    assert pyramid_sizes(1, 1) == ()
    noise = normals(2, 1, 4, 4)
    grids = [normals(2, 1, 2, 2, seed=1), normals(2, 1, 1, 1, seed=2)]
    found = pyramid(noise, grids, 0.5)
    expected = (
        noise
        + 0.5 * grids[0].repeat_interleave(2, 2).repeat_interleave(2, 3)
        + 0.25 * grids[1].expand_as(noise)
    ) / math.sqrt(1 + 0.25 + 0.0625)
    assert torch.allclose(found, expected)
    assert torch.equal(pyramid(noise, grids, 0.0), noise)
    with pytest.raises(RequestError, match=r"must be 0 to 1; got 1\.5"):
        pyramid(noise, grids, 1.5)


def test_offset_noise_shifts_each_channel_of_each_picture_by_its_own() -> None:
    noise, shift = normals(2, 3, 4, 4), normals(2, 3, seed=1)
    moved = offset(noise, shift, 0.1) - noise
    assert torch.allclose(moved, 0.1 * shift[:, :, None, None].expand_as(noise), atol=1e-6)


def test_flow_targets_point_from_latents_to_noise() -> None:
    # one Euler step of the true velocity from t = 1 lands on the latents
    latents, noise = normals(1, 4, 8, 8), normals(1, 4, 8, 8, seed=1)
    process = flow()
    velocity = target(process, latents, noise, levels(process, process.sigmas[-1:]))
    assert process.prediction is FLOW
    assert torch.allclose(noise - velocity, latents, atol=1e-6)
