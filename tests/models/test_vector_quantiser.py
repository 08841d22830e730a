"""The autoencoder with a codebook, against Diffusers' VQModel, and how its codebook learns."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers.models.autoencoders.vae import VectorQuantizer
from diffusers.models.autoencoders.vq_model import VQModel

from models_tiny import distance, random, randomised
from safelight.errors import CheckpointError
from safelight.models.autoencoder import Codec, CodecConfig
from safelight.models.vector_quantiser import (
    VQ_F4,
    VQ_F8,
    VQ_F8_N256,
    VQ_F16,
    Quantised,
    VectorQuantiser,
    VqAutoencoder,
    VqConfig,
    follow,
    perplexity,
    usage,
    without_averages,
)

TOLERANCE = 1e-4

PLAIN = VqConfig(latent_channels=3, codes=32, widths=(8, 16), layers=1, groups=4)
RICH = VqConfig(
    latent_channels=5, network_channels=4, codes=16, widths=(8, 8, 16), groups=4,
    attention=(2,), in_channels=4, out_channels=2,
)  # fmt: skip
NO_MIDDLE = replace(PLAIN, mid_attention=False, attention=(0, 1))
CASES = {"plain": PLAIN, "attention, own width": RICH, "no middle": NO_MIDDLE}


def oracle_of(config: VqConfig) -> VQModel:
    levels = range(len(config.widths))
    kinds = ["Attn" if level in config.attention else "" for level in levels]
    return VQModel(
        in_channels=config.in_channels,
        out_channels=config.out_channels,
        down_block_types=tuple(f"{kind}DownEncoderBlock2D" for kind in kinds),
        up_block_types=tuple(f"{kind}UpDecoderBlock2D" for kind in reversed(kinds)),
        block_out_channels=config.widths,
        layers_per_block=config.layers,
        latent_channels=config.network_channels or config.latent_channels,
        num_vq_embeddings=config.codes,
        norm_num_groups=config.groups,
        vq_embed_dim=config.latent_channels,
        mid_block_add_attention=config.mid_attention,
    )


@pytest.fixture(scope="module", params=CASES.values(), ids=CASES.keys())
def pair(request: pytest.FixtureRequest) -> tuple[VqAutoencoder, VQModel]:
    theirs = randomised(oracle_of(request.param))
    ours = request.param.build()
    ours.load_state_dict(theirs.state_dict())
    return ours.eval(), theirs


@torch.no_grad()
def test_latents_codes_and_pictures_equal_the_reference(pair):
    ours, theirs = pair
    size = 4 * ours.config.factor
    x = random(2, ours.config.in_channels, size, size).clamp(-1, 1)
    latents = theirs.encode(x).latents
    assert distance(ours.encode(x).mode(), latents) <= TOLERANCE
    codes, _, (_, _, indices) = theirs.quantize(latents)
    quantised = ours.quantize(latents)
    assert torch.equal(quantised.indices.flatten(), indices)
    assert distance(quantised.latents, codes) <= TOLERANCE
    assert distance(ours.decode(latents), theirs.decode(latents).sample) <= TOLERANCE
    assert distance(ours(x).images, theirs(x).sample) <= TOLERANCE


@pytest.mark.parametrize("legacy", [True, False])
def test_the_codebook_loss_and_its_gradients_equal_the_reference(legacy: bool):
    theirs = VectorQuantizer(16, 3, beta=0.25, legacy=legacy)
    ours = VectorQuantiser(16, 3)
    torch.nn.init.normal_(theirs.embedding.weight)
    ours.load_state_dict(theirs.state_dict())
    latents, pull = random(2, 3, 4, 5), random(2, 3, 4, 5, seed=2)
    found = []
    for side in ("ours", "theirs"):
        leaf = latents.clone().requires_grad_()
        if side == "ours":
            quantised = ours(leaf)
            codes, loss = quantised.latents, quantised.loss(0.25, legacy=legacy)
            weight = ours.embedding.weight
        else:
            codes, loss, _ = theirs(leaf)
            weight = theirs.embedding.weight
        (loss + (codes * pull).sum()).backward()
        found.append((loss.detach(), leaf.grad, weight.grad))
    for mine, reference in zip(*found, strict=True):
        assert torch.allclose(mine, reference, rtol=1e-4, atol=1e-6)


def test_beta_weighs_the_commitment_and_in_the_legacy_order_the_codebook():
    raw, codes = torch.zeros(1, 1, 1, 1, requires_grad=True), torch.ones(1, 1, 1, 1)
    quantised = Quantised(raw, raw, codes.requires_grad_(), torch.zeros(1, 1, 1, dtype=torch.int64))
    for legacy, expected in ((False, (-0.5, 2.0)), (True, (-2.0, 0.5))):
        slopes = torch.autograd.grad(quantised.loss(0.25, legacy=legacy), (raw, codes))
        assert tuple(slope.item() for slope in slopes) == expected


def test_the_gradient_of_the_latents_is_that_of_their_codes():
    quantiser = VectorQuantiser(8, 2)
    leaf = random(1, 2, 3, 3).requires_grad_()
    quantised = quantiser(leaf)
    assert torch.allclose(quantised.latents, quantised.codes, atol=1e-6)
    pull = random(1, 2, 3, 3, seed=3)
    (quantised.latents * pull).sum().backward()
    assert torch.equal(leaf.grad, pull)
    assert quantiser.embedding.weight.grad is None


@pytest.mark.parametrize("config", [VQ_F4, VQ_F8, VQ_F8_N256, VQ_F16])
def test_published_shapes_have_the_keys_and_shapes_of_the_reference(config):
    with torch.device("meta"):
        ours, theirs = config.build(), oracle_of(config)
    shapes = {name: tuple(t.shape) for name, t in ours.state_dict().items()}
    assert shapes == {name: tuple(t.shape) for name, t in theirs.state_dict().items()}
    assert config.factor == 2 ** (len(config.widths) - 1)


@torch.no_grad()
def test_a_codec_takes_it_for_any_autoencoder():
    model = PLAIN.build()
    randomised(model)
    codec = Codec(model, CodecConfig(PLAIN, scale=2.0, shift=0.5))
    x = random(2, 3, 8, 8).clamp(-1, 1)
    posterior = codec.encode(x)
    assert torch.equal(posterior.mode(), posterior.sample(torch.Generator().manual_seed(0)))
    assert posterior.mode().shape == (2, 3, 4, 4) and codec.channels == 3
    rebuilt = codec.decode(posterior.mode())
    assert torch.allclose(rebuilt, model(x).images, atol=1e-5)
    assert torch.allclose(model.decode_indices(model.indices(x)), rebuilt, atol=1e-5)


def test_sizes_that_cannot_be_built_are_refused():
    for wrong in ({"codes": 0}, {"attention": (2,)}, {"groups": 3}, {"latent_channels": 0}):
        with pytest.raises(CheckpointError, match="cannot be built"):
            replace(PLAIN, **wrong)


# -- how the codebook learns -----------------------------------------------------------------------


def test_perplexity_counts_the_codes_in_use():
    even, one = torch.arange(8).repeat(5), torch.full((40,), 3)
    assert perplexity(even, 8).item() == pytest.approx(8.0, rel=1e-5)
    assert perplexity(one, 8).item() == pytest.approx(1.0, rel=1e-5)
    assert perplexity(torch.tensor([0, 0, 0, 1]), 99).item() == pytest.approx(
        math.exp(-0.75 * math.log(0.75) - 0.25 * math.log(0.25)), rel=1e-5
    )
    assert usage(torch.tensor([0, 2, 2, 2]), 4).tolist() == [0.25, 0.0, 0.75, 0.0]


def averaging(codes: int = 4) -> VectorQuantiser:
    torch.manual_seed(0)
    quantiser = VectorQuantiser(codes, 2, averages=True)
    quantiser.embedding.weight.copy_(torch.tensor([[2.0, 0], [-2, 0], [0, 2], [0, -9]])[:codes])
    quantiser.averages.sums.copy_(quantiser.embedding.weight)
    return quantiser


def test_averages_follow_the_formula_of_the_paper():
    quantiser, raw = averaging(), random(2, 2, 4, 4)
    counts, sums = quantiser.averages.counts.clone(), quantiser.averages.sums.clone()
    quantised = quantiser(raw)
    rows, indices = raw.movedim(1, -1).reshape(-1, 2), quantised.indices.flatten()
    for code in range(4):
        mine = rows[indices == code]
        counts[code] = 0.9 * counts[code] + 0.1 * len(mine)
        sums[code] = 0.9 * sums[code] + 0.1 * mine.sum(dim=0)
    smooth = (counts + 1e-5) / (counts.sum() + 4e-5) * counts.sum()
    follow(quantiser, quantised, decay=0.9)
    assert torch.allclose(quantiser.averages.counts, counts, atol=1e-6)
    assert torch.allclose(quantiser.embedding.weight, sums / smooth[:, None], atol=1e-5)


def test_codes_come_to_the_means_of_their_latents():
    quantiser = averaging(3)
    centres = torch.tensor([[1.0, 0.2], [-1.0, 0.1], [0.1, 1.5]])
    for step in range(300):
        rng = torch.Generator().manual_seed(step)
        rows = centres.repeat(20, 1) + 0.05 * torch.randn(60, 2, generator=rng)
        follow(quantiser, quantiser(rows.T.reshape(1, 2, 6, 10)), decay=0.95)
    assert torch.allclose(quantiser.embedding.weight, centres, atol=0.02)


def test_a_dead_code_takes_the_place_of_a_latent_and_living_ones_stay():
    quantiser = averaging()
    raw = random(1, 2, 8, 8)  # nothing near the fourth code
    kept = averaging()
    for step in range(100):
        for one, below in ((quantiser, 0.1), (kept, 0.0)):
            generator = torch.Generator().manual_seed(step)
            revived = follow(one, one(raw), decay=0.9, revive_below=below, generator=generator)
            if below == 0.0 or step == 0:
                assert revived.item() == 0
    assert (usage(quantiser(raw).indices, 4) > 0).all()
    assert usage(kept(raw).indices, 4)[3] == 0
    rows = raw.movedim(1, -1).reshape(-1, 2)
    assert torch.cdist(quantiser.embedding.weight, rows).amin(dim=1).max() < 1.0


def test_the_revival_is_the_generators_choice():
    results = []
    for seed in (0, 0, 1):
        quantiser, raw = averaging(), random(1, 2, 8, 8)
        generator = torch.Generator().manual_seed(seed)
        quantised = quantiser(raw)
        revived = follow(quantiser, quantised, revive_below=1e9, generator=generator)
        assert revived.item() == 4
        results.append(quantiser.embedding.weight.clone())
    assert torch.equal(results[0], results[1]) and not torch.equal(results[0], results[2])


def test_averages_stay_float32_and_are_left_out_of_what_is_published():
    model = replace(PLAIN, averages=True).build()
    assert not any(name == "quantize.embedding.weight" for name, _ in model.named_parameters())
    plain = without_averages(model)
    assert plain.state_dict().keys() == oracle_of(PLAIN).state_dict().keys()
    assert plain.config == PLAIN
    x = random(1, 3, 8, 8).clamp(-1, 1)
    assert torch.equal(plain(x).images, model(x).images)
    precious = model.quantize.averages.sums + 1e-4
    model.quantize.averages.sums.copy_(precious)
    model.bfloat16()
    assert torch.equal(model.quantize.averages.sums, precious)
    assert model(x).images.dtype == torch.bfloat16


def _follow_as_one_of_two(rank: int, folder: str) -> None:
    """A process with its half of the rows."""
    torch.set_num_threads(1)
    store = f"file://{folder}/meeting"
    torch.distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=2)
    quantiser = averaging()
    raw = random(4, 2, 4, 4)[2 * rank : 2 * rank + 2]
    generator = torch.Generator().manual_seed(rank)
    follow(quantiser, quantiser(raw), decay=0.5, revive_below=0.7, generator=generator)
    torch.save(quantiser.state_dict(), f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_keep_one_codebook_which_follows_all_latents(tmp_path: Path):
    torch.multiprocessing.spawn(_follow_as_one_of_two, (str(tmp_path),), nprocs=2)
    both = [torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1)]
    assert all(torch.equal(both[0][name], both[1][name]) for name in both[0])
    alone, raw = averaging(), random(4, 2, 4, 4)
    quantised = alone(raw)
    assert not (quantised.indices == 3).any()  # the far code dies and is revived: not compared
    follow(alone, quantised, decay=0.5, revive_below=0.7)
    for name in ("averages.counts", "averages.sums"):
        assert torch.allclose(both[0][name][:3], alone.state_dict()[name][:3], atol=1e-5)
    revived = both[0]["embedding.weight"][3]
    own = raw[:2].movedim(1, -1).reshape(-1, 2)  # the first process drew
    assert torch.cdist(revived[None], own).min() < 1e-3 * revived.norm()
