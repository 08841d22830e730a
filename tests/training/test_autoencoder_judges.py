"""What an autoencoder's training judges by: pixels, own-CLIP features, the critic."""

import math

import pytest
import torch
from torch import Tensor

from autoencoder_tiny import TOWER, critic, perceptual, pictures
from safelight.errors import RequestError
from safelight.measures.pictures import laplacian_pyramid, ms_ssim
from safelight.models.clip import ClipVision, normalised
from safelight.models.layers import Conv2d
from safelight.training.autoencoder.critic import (
    Averages,
    CriticConfig,
    adaptive_weight,
    hinge,
    lecam,
    r1,
)
from safelight.training.autoencoder.perceptual import PerceptualDistance
from safelight.training.autoencoder.pixels import PixelWeights, pixel_distance


def noisy(x: Tensor, size: float = 0.2) -> Tensor:
    return x + size * torch.randn(x.shape, generator=torch.Generator().manual_seed(9))


# -- pixels ----------------------------------------------------------------------------------------


def test_the_pixel_distance_is_the_weighted_sum_of_its_parts():
    x = pictures(size=32)
    y = noisy(x)
    weights = PixelWeights(l1=2.0, laplacian=3.0, ms_ssim=5.0, squares=7.0, levels=3, window=7)
    bands = zip(laplacian_pyramid(x, 3), laplacian_pyramid(y, 3), strict=True)
    expected = (
        2 * (x - y).abs().mean()
        + 3 * sum((a - b).abs().mean() for a, b in bands)
        + 5 * (1 - ms_ssim(x, y, window=7).mean())
        + 7 * (x - y).square().mean()
    )
    ours = pixel_distance(y, x, weights)
    assert ours.total.item() == pytest.approx(float(expected), rel=1e-5)
    assert ours.l1.item() == pytest.approx((x - y).abs().mean().item(), rel=1e-5)
    assert ours.squares.item() == pytest.approx((x - y).square().mean().item(), rel=1e-5)


def test_equal_pictures_have_no_distance_and_finite_gradients():
    x = pictures(size=16)
    y = x.clone().requires_grad_()
    total = pixel_distance(y, x, PixelWeights()).total
    total.backward()
    assert total.item() == pytest.approx(0.0, abs=1e-5)
    assert y.grad is not None and y.grad.isfinite().all()


def test_pictures_below_the_window_go_without_ms_ssim():
    x = pictures(size=4)
    without = pixel_distance(noisy(x), x, PixelWeights(ms_ssim=0.0)).total
    assert torch.equal(pixel_distance(noisy(x), x, PixelWeights()).total, without)


@pytest.mark.parametrize("wrong", [{"window": 8}, {"window": -1}, {"levels": 0}])
def test_windows_and_pyramids_that_cannot_be_are_refused(wrong: dict[str, int]):
    with pytest.raises(RequestError, match="odd window"):
        PixelWeights(**wrong)


# -- perceptual ------------------------------------------------------------------------------------


def test_the_perceptual_distance_is_of_normalised_patch_tokens():
    distance = perceptual()
    x = pictures()
    y = noisy(x)
    expected = []
    for block in distance.blocks:
        sides = []
        for images in (x, y):
            tokens = distance.tower(normalised(images)).hidden_states[block][:, 1:]
            centred = tokens - tokens.mean(dim=-1, keepdim=True)
            sides.append(centred / (centred.square().mean(dim=-1, keepdim=True) + 1e-5).sqrt())
        expected.append((sides[0] - sides[1]).square().mean())
    assert torch.allclose(distance(y, x), torch.stack(expected).mean(), rtol=1e-4)
    assert distance(x, x).item() == 0.0
    assert distance.name == "own-CLIP perceptual"


def test_its_gradient_reaches_the_pictures_and_never_the_tower():
    distance = perceptual()
    x = pictures(size=24)  # of another size than the tower's
    y = noisy(x).requires_grad_()
    distance(y, x, shift=(1, 2)).backward()
    assert y.grad is not None and y.grad.abs().sum() > 0
    assert all(p.grad is None and not p.requires_grad for p in distance.tower.parameters())


def test_blurring_more_looks_farther_away():
    distance = perceptual()
    x = pictures(size=16)
    sizes = [distance(noisy(x, size), x).item() for size in (0.05, 0.1, 0.3)]
    assert sizes == sorted(sizes) and sizes[0] > 0


def test_a_shift_moves_both_pictures_against_the_patches():
    distance = perceptual()
    x = pictures()
    y = noisy(x)
    rolled = [torch.roll(images, (1, 3), dims=(2, 3)) for images in (y, x)]
    assert torch.equal(distance(y, x, shift=(1, 3)), distance(*rolled))
    assert not torch.equal(distance(y, x), distance(*rolled))


def test_blocks_that_the_tower_has_not_are_refused():
    with pytest.raises(RequestError, match="blocks 1 to 3; got \\[0, 4\\]"):
        PerceptualDistance(ClipVision(TOWER), blocks=(4, 0))


# -- critic ----------------------------------------------------------------------------------------


def test_the_usual_critic_has_half_a_million_weights_and_sees_patches_of_seventy():
    net = CriticConfig().build()
    count = sum(p.numel() for p in net.parameters())
    assert 0.4e6 < count < 0.7e6
    assert net(torch.zeros(1, 3, 128, 128)).shape == (1, 1, 14, 14)
    # Norms would let all of a picture in: without them, only a patch moves its logit.
    plain = CriticConfig(norm="none").build()
    x = torch.randn(1, 3, 128, 128, generator=torch.Generator().manual_seed(0)).requires_grad_()
    plain(x)[0, 0, 7, 7].backward()
    seen = (x.grad[0].abs().sum(dim=0) > 0).nonzero()
    assert (seen.max(dim=0).values - seen.min(dim=0).values + 1).tolist() == [70, 70]


@pytest.mark.parametrize("norm", ["group", "spectral", "none"])
def test_rows_of_a_batch_do_not_see_each_other(norm):
    net = critic(norm)
    x = pictures()
    assert torch.allclose(net(x)[:1], net(x[:1]), atol=1e-5)


def test_spectral_norm_makes_every_largest_singular_value_one():
    net = critic("spectral")
    for _ in range(100):
        net.settle()
    conv = net.layers[1]
    largest = torch.linalg.matrix_norm(conv.weight.flatten(1), ord=2)
    x = torch.randn(1, 8, 8, 8, generator=torch.Generator().manual_seed(1))
    expected = torch.nn.functional.conv2d(
        x, conv.weight / largest, conv.bias, stride=conv.stride, padding=1
    )
    assert torch.allclose(conv(x), expected, atol=1e-4)


def test_looking_changes_nothing_in_the_critic():
    net = critic("spectral")
    before = {name: value.clone() for name, value in net.state_dict().items()}
    net(pictures())
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())


def test_hinge_is_its_formula():
    real, fake = torch.tensor([2.0, 0.0, -1.0]), torch.tensor([-2.0, 0.0, 1.0])
    assert hinge(real, fake).item() == pytest.approx(0.5 * ((0 + 1 + 2) / 3 + (0 + 1 + 2) / 3))


def test_lecam_is_its_formula_and_its_averages_are_float32_whatever_the_critic_is():
    averages = Averages()
    averages.follow(torch.tensor([2.0]), torch.tensor([-1.0]), decay=0.5)
    assert (averages.real.item(), averages.fake.item()) == (1.0, -0.5)
    real, fake = torch.tensor([3.0, -2.0]), torch.tensor([0.0, 2.0])
    expected = (3.5**2 + 0) / 2 + (1.0 + 0) / 2
    assert lecam(real, fake, averages).item() == pytest.approx(expected)
    net = critic().to(torch.bfloat16)
    assert net.averages.real.dtype == torch.float32 and net.conv_out.weight.dtype == torch.bfloat16
    net.averages.real.fill_(1.001)
    assert net.to(torch.bfloat16).averages.real.item() == pytest.approx(1.001, abs=1e-6)


def test_r1_is_the_mean_squared_slope_of_a_patch():
    net = critic("none")
    x = pictures(count=2)
    leaf = x.clone().requires_grad_()
    logits = net(leaf)
    exact = 0.0
    for logit in logits.flatten():
        (slope,) = torch.autograd.grad(logit, leaf, retain_graph=True)
        exact += slope.square().sum().item() / logits.numel()
    rng = torch.Generator().manual_seed(0)
    draws = []
    for _ in range(200):
        signs = torch.randint(2, logits.shape, generator=rng) * 2.0 - 1.0
        draws.append(r1(net, x, signs).item())
    error = torch.tensor(draws).std().item() / math.sqrt(len(draws))
    assert sum(draws) / len(draws) == pytest.approx(exact, abs=4 * error)
    r1(net, x, signs).backward()
    # Neither the last bias nor a slope of the first layer's bias changes an everywhere linear net,
    # but the weights are all asked for less slope.
    assert all(p.grad.abs().sum() > 0 for n, p in net.named_parameters() if n.endswith("weight"))


def test_the_adaptive_weight_is_the_ratio_of_the_gradients_at_the_last_convolution():
    torch.manual_seed(0)
    conv = Conv2d(6, 3, 3, padding=1)
    features, target = torch.randn(2, 6, 8, 8), torch.randn(2, 3, 8, 8)
    images = conv(features)
    losses = ((images - target).abs().mean(), 3.0 * images.square().mean())
    at_weight = [torch.autograd.grad(x, conv.weight, retain_graph=True)[0] for x in losses]
    at_images = [torch.autograd.grad(x, images, retain_graph=True)[0] for x in losses]
    expected = (at_weight[0].norm() / at_weight[1].norm()).item()
    shape = conv.weight.shape
    assert adaptive_weight(features, shape, *at_images).item() == pytest.approx(expected, rel=1e-4)
    half = adaptive_weight(features.bfloat16(), shape, *at_images).item()
    assert half == pytest.approx(expected, rel=0.02)
    none = torch.zeros_like(images)
    assert adaptive_weight(features, shape, at_images[0], none).item() == 1e4
    assert adaptive_weight(features, shape, none, at_images[0]).item() == 0.0


def test_widths_that_the_groups_do_not_divide_are_refused():
    with pytest.raises(RequestError, match=r"got \[30, 64\] and 16 groups"):
        CriticConfig(widths=(30, 64))
