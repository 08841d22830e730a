"""CLIP's score of latents: what it sees, in which cut-outs, and that guidance raises it."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from diffusion_lab import codec, shapes
from models_tiny import randomised
from own_model import small_family, vision_of, vocabulary
from safelight.clip.pair import ClipPair
from safelight.clip.preparation import Preparation, prepared
from safelight.clip.score import ClipScore, CutOuts, draws, views_of, wanted
from safelight.diffusion.guidance.clip_guided import GRADIENTS, Gradient, clip_guided
from safelight.diffusion.noise import Noise
from safelight.diffusion.samplers import resolve_sampler
from safelight.errors import RequestError
from safelight.models.clip import ClipText
from safelight.text.bpe import Tokenizer

FEW = CutOuts(4, 1)
SIGMA = torch.tensor(0.8, dtype=torch.float64)
TEXT = "a red apple"


def small_pair() -> ClipPair:
    text = ClipText(small_family().text.roles[0].encoder)
    randomised(text, 4).requires_grad_(False)
    seen = vision_of().requires_grad_(False)
    words = Tokenizer(vocabulary=vocabulary(700))
    return ClipPair("small", text, seen, words, Preparation(32), math.log(20))


PAIR = small_pair()
CODEC = codec()
CODEC.autoencoder.requires_grad_(False)  # type: ignore[attr-defined]


def score(seeds: tuple[int, ...] = (1, 2), cut_outs: CutOuts = FEW) -> ClipScore:
    return ClipScore(PAIR, wanted(PAIR, [(TEXT, 1.0)]), CODEC.decode, seeds, cut_outs)


def test_the_score_of_whole_pictures_is_clips_logit() -> None:
    latents = shapes(2)
    found = score(cut_outs=CutOuts(1, 1))(latents, SIGMA)
    cosines = PAIR.cosines(CODEC.decode(latents), [TEXT])[:, 0]
    assert found.shape == (2,) and torch.allclose(found, 20 * cosines, atol=1e-4)


def test_a_picture_has_its_own_cut_outs_in_any_batch() -> None:
    latents = shapes(3)
    together = score((7, 8, 9))(latents, SIGMA)
    for number, seed in enumerate((7, 8, 9)):
        alone = score((seed,))(latents[number : number + 1], SIGMA)
        assert torch.allclose(alone[0], together[number], atol=1e-4)
    assert not torch.allclose(score((7, 8, 8))(latents, SIGMA)[2], together[2], atol=1e-4)


def test_cut_outs_differ_from_step_to_step_and_from_seed_to_seed() -> None:
    first = draws(5, 3, 1.5)
    assert first.shape == (5, 3) and bool((first >= 0).all()) and bool((first < 1).all())
    assert torch.equal(first, draws(5, 3, 1.5))
    for other in (draws(5, 4, 1.5), draws(5, 3, 1.25), draws(5, -3, 1.5), draws(5, 2**63, 1.5)):
        assert not torch.equal(first, other)
    assert torch.equal(first[:2], draws(2, 3, 1.5))


def test_cut_outs_are_squares_within_the_picture_and_the_first_are_whole() -> None:
    """Seen by a picture whose red is its row and whose green is its column."""
    height, width = 48, 80
    rows, columns = torch.arange(height) / 100, torch.arange(width) / 100
    picture = torch.stack(
        [rows[:, None].expand(-1, width), columns.expand(height, -1), torch.zeros(height, width)]
    )
    plain = replace(PAIR, preparation=Preparation(32, (0.5,) * 3, (0.5,) * 3, "bilinear"))
    cut_outs = CutOuts(40, 4, 0.25)
    views = views_of(picture, plain, cut_outs, seed=1, sigma=0.5)
    assert views.shape == (40, 3, 32, 32)
    share = 100 / height * 32 / 31  # of the shorter side
    tall = (views[:, 0, -1, 16] - views[:, 0, 0, 16]) * share
    wide = (views[:, 1, 16, -1] - views[:, 1, 16, 0]) * share
    assert torch.allclose(tall, wide, atol=0.05)
    assert torch.allclose(tall[:4], torch.ones(4), atol=0.05)
    assert 0.2 < float(tall.min()) < 0.4 and float(tall.std()) > 0.1
    assert float(views[:4, 1].mean((1, 2)).std()) > 0.02  # whole squares lie anywhere along it


def test_the_gradient_reaches_the_latents() -> None:
    latents = shapes(2).requires_grad_()
    (slope,) = torch.autograd.grad(score()(latents, SIGMA).sum(), latents)
    assert bool(torch.isfinite(slope).all()) and float(slope.abs().mean()) > 0


def test_texts_with_weights_make_one_direction() -> None:
    cat, dog = PAIR.embed_texts(["a cat", "a dog"])
    both = wanted(PAIR, [("a cat", 1.0), ("a dog", -0.5)])
    assert both.shape == (1, 24) and math.isclose(float(both.norm()), 1, rel_tol=1e-5)
    assert torch.allclose(both[0], (cat - 0.5 * dog) / (cat - 0.5 * dog).norm(), atol=1e-6)
    with pytest.raises(RequestError, match="needs a text"):
        wanted(PAIR, [])
    with pytest.raises(RequestError, match="cancel"):
        wanted(PAIR, [("a cat", 1.0), ("a cat", -1.0)])


@pytest.mark.parametrize("changed", [{"count": 0}, {"whole": 9}, {"smallest": 0}, {"smallest": 2}])
def test_numbers_that_make_no_cut_outs_are_refused(changed: dict[str, float]) -> None:
    with pytest.raises(RequestError, match="cut-out"):
        CutOuts(**changed)  # type: ignore[arg-type]


@pytest.mark.parametrize("gradient", GRADIENTS)
def test_guided_pictures_fit_their_text_better(gradient: Gradient) -> None:
    """On latents of unit size, whose best denoiser is known."""

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        return x / (1 + sigma.float() ** 2)

    def drawn(scale: float) -> Tensor:
        run = resolve_sampler("euler").run
        guided = clip_guided(denoise, score((5, 6)), scale=scale, gradient=gradient)
        noise = Noise([5, 6], (4, 8, 8))
        levels = torch.logspace(1.3, -1, 15, dtype=torch.float64)
        sigmas = torch.cat([levels, levels.new_zeros(1)])
        x = sigmas[0].float() * noise()
        for step in run(guided, x, sigmas, noise):
            x = step.x
        return PAIR.cosines(CODEC.decode(x), [TEXT])[:, 0].detach()

    plain, little, much = drawn(0), drawn(0.5), drawn(1)
    assert bool((little > plain).all()) and bool((much > little).all())
    assert float((much - plain).min()) > 0.1


def test_prepared_pictures_are_the_ones_that_the_tower_is_shown() -> None:
    picture = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(1)) * 2 - 1
    views = views_of(picture, PAIR, CutOuts(2, 2), seed=0, sigma=1.0)
    assert torch.equal(views[0:1], prepared(picture[None], PAIR.preparation))
    assert torch.equal(views[0], views[1])
