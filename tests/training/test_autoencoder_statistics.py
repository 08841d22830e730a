"""Moments of latents over a whole set, and their normalisation folded into the weights."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from autoencoder_tiny import SHAPE, pictures
from models_tiny import randomised
from safelight.errors import NonFiniteError, RequestError
from safelight.models.autoencoder import Autoencoder, AutoencoderConfig, Posterior
from safelight.training.autoencoder.statistics import (
    LatentSums,
    folded,
    latent_statistics,
    latents_of_colour,
)


def random_autoencoder(config: AutoencoderConfig = SHAPE) -> Autoencoder:
    model = config.build()
    randomised(model)
    return model


@torch.no_grad()
def encoded(model: Autoencoder, x: Tensor) -> Posterior:
    return model.encode(x)


def test_moments_equal_numpys_over_all_pictures_at_once():
    model, x = random_autoencoder(), pictures(10)
    found = latent_statistics(model.encode, x.split(4))
    whole = encoded(model, x)
    means = whole.mean.movedim(1, -1).flatten(0, 2).double().numpy()
    noise = whole.logvar.double().exp().mean(dim=(0, 2, 3)).numpy()
    covariance = np.cov(means.T, bias=True) + np.diag(noise)
    deviation = np.sqrt(np.diag(covariance))
    assert found.pictures == 10
    assert np.allclose(found.mean, means.mean(axis=0), atol=1e-6)
    assert np.allclose(found.deviation, deviation, rtol=1e-6)
    assert np.allclose(found.correlation, covariance / np.outer(deviation, deviation), atol=1e-6)
    assert np.allclose(found.posterior_deviation, np.sqrt(noise), rtol=1e-6)
    assert found.nats == pytest.approx(float(whole.kl().mean()) / whole.mean[0].numel(), rel=1e-5)
    between = np.abs(found.correlation.numpy() - np.eye(4)).max()
    assert found.most_correlated == pytest.approx(between, abs=1e-6)


def test_moments_are_those_of_draws():
    model, x = random_autoencoder(), pictures(32)
    found = latent_statistics(model.encode, [x])
    posterior, rng = encoded(model, x), torch.Generator().manual_seed(0)
    drawn = torch.cat([posterior.sample(rng) for _ in range(64)])
    assert torch.allclose(drawn.std(dim=(0, 2, 3)).double(), found.deviation, rtol=0.01)
    assert torch.allclose(drawn.mean(dim=(0, 2, 3)).double(), found.mean, atol=0.05)


def test_a_large_mean_costs_no_digits_of_the_deviation():
    rng = torch.Generator().manual_seed(0)
    mean = 1000 + 0.01 * torch.randn(4, 2, 16, 16, generator=rng)
    sums = LatentSums()
    for part in mean.split(1):
        sums.add(Posterior(part, torch.full_like(part, -math.inf)))
    expected = mean.double().std(dim=(0, 2, 3), correction=0)
    assert torch.allclose(sums.statistics().deviation, expected, rtol=1e-5)


def test_signal_and_bits_are_those_of_a_gaussian_channel():
    rng = torch.Generator().manual_seed(0)
    mean = 3.0 * torch.randn(8, 1, 32, 32, generator=rng)
    sums = LatentSums()
    sums.add(Posterior(mean, torch.full_like(mean, 2 * math.log(0.5))))
    found = sums.statistics()
    ratio = float(mean.double().var(correction=0)) / 0.25
    assert found.signal_to_noise.item() == pytest.approx(10 * math.log10(ratio), rel=1e-5)
    assert found.bits.item() == pytest.approx(0.5 * math.log2(1 + ratio), rel=1e-5)
    assert "| 0 | " in found.report() and "Over 8 pictures" in found.report()


def test_nothing_and_what_is_not_finite_are_refused():
    with pytest.raises(RequestError, match="at least 1 picture"):
        LatentSums().statistics()
    sums = LatentSums()
    sums.add(Posterior(torch.full((1, 2, 2, 2), math.nan), torch.zeros(1, 2, 2, 2)))
    with pytest.raises(NonFiniteError, match="NaN or infinite"):
        sums.statistics()


# -- folding ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("convs", [True, False])
def test_folded_latents_have_mean_zero_and_deviation_one_and_pictures_stay(convs: bool):
    config = replace(SHAPE, quant_conv=convs, post_quant_conv=convs)
    model, x = random_autoencoder(config), pictures(12)
    before = latent_statistics(model.encode, [x])
    result = folded(model, before.mean, before.deviation)
    after = latent_statistics(result.encode, [x])
    assert torch.allclose(after.mean, torch.zeros(4).double(), atol=1e-5)
    assert torch.allclose(after.deviation, torch.ones(4).double(), atol=1e-5)
    assert torch.allclose(after.correlation, before.correlation, atol=1e-5)
    assert torch.allclose(after.signal_to_noise, before.signal_to_noise, atol=1e-4)
    noise = torch.randn(12, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    old, new = encoded(model, x), encoded(result, x)
    with torch.no_grad():
        for latents, same in ((old.mode(), new.mode()), (old.sample(noise), new.sample(noise))):
            assert torch.allclose(model.decode(latents), result.decode(same), atol=1e-5)
    shift, scale = before.mean[:, None, None].float(), before.deviation[:, None, None].float()
    assert torch.allclose(new.mean, (old.mean - shift) / scale, atol=1e-5)
    assert torch.allclose(new.logvar, old.logvar - 2 * scale.log(), atol=1e-4)
    assert result.config.quant_conv and result.config.post_quant_conv


def test_folding_changes_a_copy_and_other_weights_stay():
    model = random_autoencoder()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    result = folded(model, torch.ones(4), torch.full((4,), 2.0))
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    changed = {n for n, v in result.state_dict().items() if not torch.equal(before[n], v)}
    assert {name.partition(".")[0] for name in changed} == {"quant_conv", "post_quant_conv"}


def test_one_colour_can_be_put_at_zero():
    model = random_autoencoder()
    white = latents_of_colour(model, 16)
    result = folded(model, white, torch.full((4,), 2.0))
    assert torch.allclose(latents_of_colour(result, 16), torch.zeros(4).double(), atol=1e-5)
    black = latents_of_colour(model, 16, (-1.0, -1.0, -1.0))
    expected = (black - white) / 2.0
    assert torch.allclose(latents_of_colour(result, 16, (-1.0, -1.0, -1.0)), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("shift", "deviation", "message"),
    [
        (torch.zeros(4), torch.tensor([1.0, 0.0, 1.0, 1.0]), "positive deviations"),
        (torch.zeros(4), torch.tensor([1.0, math.nan, 1.0, 1.0]), "positive deviations"),
        (torch.zeros(3), torch.ones(4), "4 channels"),
        (torch.zeros(()), torch.ones(()), "4 channels"),
    ],
)
def test_numbers_that_cannot_be_folded_are_refused(shift: Tensor, deviation: Tensor, message: str):
    with pytest.raises(RequestError, match=message):
        folded(random_autoencoder(), shift, deviation)
