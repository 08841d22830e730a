"""The KL autoencoder and the codec, against Diffusers' AutoencoderKL."""

import math
from dataclasses import replace

import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

from models_tiny import distance, random, randomised
from safelight.errors import RequestError
from safelight.models.autoencoder import (
    KL_F4,
    KL_F8_SD,
    KL_F8_SD3,
    KL_F8_SDXL,
    Autoencoder,
    AutoencoderConfig,
    Codec,
    CodecConfig,
    Posterior,
)

TOLERANCE = 1e-4

FACTOR_8 = CodecConfig(AutoencoderConfig(widths=(8, 16, 24, 24), groups=4), scale=0.18215)
FACTOR_4 = CodecConfig(AutoencoderConfig(widths=(8, 16, 24), layers=1, groups=8), scale=0.08333)
SD3_LIKE = CodecConfig(
    AutoencoderConfig(
        latent_channels=16,
        widths=(8, 8, 16, 16),
        groups=4,
        quant_conv=False,
        post_quant_conv=False,
    ),
    scale=1.5305,
    shift=0.0609,
)
MIXED = CodecConfig(
    AutoencoderConfig(
        in_channels=4, out_channels=2, latent_channels=3, widths=(8, 12), groups=4,
        mid_attention=False, post_quant_conv=False,
    ),
    scale=0.5,
)  # fmt: skip

CASES = {"factor 8": FACTOR_8, "factor 4": FACTOR_4, "SD3": SD3_LIKE, "mixed": MIXED}


def oracle_of(config: CodecConfig) -> AutoencoderKL:
    shape = config.autoencoder
    assert isinstance(shape, AutoencoderConfig)
    levels = len(shape.widths)
    return AutoencoderKL(
        in_channels=shape.in_channels,
        out_channels=shape.out_channels,
        latent_channels=shape.latent_channels,
        block_out_channels=shape.widths,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        layers_per_block=shape.layers,
        norm_num_groups=shape.groups,
        use_quant_conv=shape.quant_conv,
        use_post_quant_conv=shape.post_quant_conv,
        mid_block_add_attention=shape.mid_attention,
        scaling_factor=config.scale,
        shift_factor=config.shift,
    )


@pytest.fixture(scope="module", params=CASES.values(), ids=CASES.keys())
def pair(request: pytest.FixtureRequest) -> tuple[Codec, AutoencoderKL]:
    theirs = randomised(oracle_of(request.param))
    codec = request.param.build()
    codec.autoencoder.load_state_dict(theirs.state_dict())
    return codec, theirs


@pytest.fixture(scope="module")
def codec() -> Codec:
    built = FACTOR_8.build()
    randomised(built.autoencoder)
    return built


def images(codec: Codec, rows: int, columns: int, batch: int = 2) -> torch.Tensor:
    channels = codec.config.autoencoder.in_channels
    return random(batch, channels, rows * codec.factor, columns * codec.factor).clamp(-1, 1)


@torch.no_grad()
def test_posterior_equals_the_reference_in_scaled_latents(pair):
    codec, theirs = pair
    x = images(codec, 5, 3)
    ours, reference = codec.encode(x), theirs.encode(x).latent_dist
    scale, shift = theirs.config.scaling_factor, theirs.config.shift_factor or 0.0
    noise = random(*ours.mean.shape, seed=2)
    drawn = reference.mean + reference.std * noise
    assert distance(ours.mode(), (reference.mode() - shift) * scale) <= TOLERANCE
    assert distance(ours.sample(noise), (drawn - shift) * scale) <= TOLERANCE
    assert distance(ours.logvar - 2 * math.log(scale), reference.logvar) <= TOLERANCE


@torch.no_grad()
def test_decoded_pictures_equal_the_reference(pair):
    codec, theirs = pair
    latents = random(2, codec.channels, 3, 7)
    raw = latents / theirs.config.scaling_factor + (theirs.config.shift_factor or 0.0)
    assert distance(codec.decode(latents), theirs.decode(raw).sample) <= TOLERANCE


@torch.no_grad()
def test_sizes_that_are_no_multiple_of_the_factor_encode_as_in_the_reference(pair):
    codec, theirs = pair
    x = images(codec, 4, 4)[:, :, 1:, :-1]
    ours = codec.autoencoder.moments(x)
    reference = theirs.encode(x).latent_dist.parameters
    assert distance(ours, reference) <= TOLERANCE


@torch.no_grad()
def test_kl_equals_the_reference(pair):
    codec, theirs = pair
    x = images(codec, 2, 3)
    reference = theirs.encode(x).latent_dist.kl()
    torch.testing.assert_close(codec.autoencoder.encode(x).kl(), reference, rtol=1e-5, atol=1e-5)


def test_kl_of_the_unit_normal_is_zero_and_grows_with_the_square_of_the_mean():
    zero = torch.zeros(2, 4, 3, 3)
    assert torch.equal(Posterior(zero, zero).kl(), torch.zeros(2))
    assert torch.equal(Posterior(zero + 2, zero).kl(), torch.full((2,), 0.5 * 4 * 36))


def test_samples_have_the_moments_of_the_posterior():
    mean, logvar = torch.full((1, 1, 200, 200), 3.0), torch.full((1, 1, 200, 200), math.log(4.0))
    drawn = Posterior(mean, logvar).sample(torch.Generator().manual_seed(0))
    assert abs(drawn.mean().item() - 3) < 0.05 and abs(drawn.std().item() - 2) < 0.05


def test_log_variance_is_clamped_but_an_overflow_stays_visible():
    moments = torch.tensor([0.0, 0.0, 0.0, -99.0, 99.0, math.inf]).reshape(1, 6, 1, 1)
    posterior = Posterior.from_moments(moments)
    assert posterior.logvar.flatten()[:2].tolist() == [-30.0, 20.0]
    assert posterior.sample(torch.zeros(1, 3, 1, 1)).isfinite().flatten().tolist() == [1, 1, 0]


@pytest.mark.parametrize(
    ("config", "tensors"), [(KL_F8_SD, 248), (KL_F8_SDXL, 248), (KL_F4, 204), (KL_F8_SD3, 244)]
)
def test_published_shapes_have_the_keys_and_shapes_of_the_reference(config, tensors):
    with torch.device("meta"):
        ours, theirs = config.build().autoencoder, oracle_of(config)
    shapes = {name: tuple(t.shape) for name, t in ours.state_dict().items()}
    assert shapes == {name: tuple(t.shape) for name, t in theirs.state_dict().items()}
    assert len(shapes) == tensors
    assert all(t.is_meta for t in (*ours.parameters(), *ours.buffers()))


def test_published_factors_and_channels():
    codecs = (KL_F8_SD, KL_F8_SDXL, KL_F4, KL_F8_SD3)
    assert [c.factor for c in codecs] == [8, 8, 4, 8]
    assert [c.channels for c in codecs] == [4, 4, 4, 16]


@torch.no_grad()
def test_a_model_built_on_meta_works_once_its_weights_are_assigned(codec):
    with torch.device("meta"):
        empty = FACTOR_8.build()
    empty.autoencoder.load_state_dict(codec.autoencoder.state_dict(), assign=True)
    empty.autoencoder.train(codec.autoencoder.training)
    latents = random(1, 4, 2, 2)
    assert torch.equal(empty.decode(latents), codec.decode(latents))


@pytest.mark.parametrize(
    ("height", "width", "message"),
    [
        (16, 515, "width must be a multiple of 8; got 515. The nearest are 512 and 520."),
        (12, 16, "height must be a multiple of 8; got 12. The nearest are 8 and 16."),
        (16, 5, "width must be a multiple of 8; got 5. Use 8."),
        (0, 8, "height must be a multiple of 8; got 0. Use 8."),
    ],
)
def test_wrong_sizes_are_refused_with_the_nearest_right_ones(codec, height, width, message):
    with pytest.raises(RequestError) as error:
        codec.encode(torch.zeros(1, 3, height, width))
    assert str(error.value) == message


def test_latents_of_another_autoencoder_are_refused(codec):
    with pytest.raises(RequestError, match="have 4 channels; got 16"):
        codec.decode(torch.zeros(1, 16, 2, 2))


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.bfloat16, 0.2), (torch.float16, 0.03), (torch.float64, 1e-4)]
)
@torch.no_grad()
def test_every_type_takes_and_gives_float32_and_agrees(codec, dtype, tolerance):
    other = FACTOR_8.build()
    other.autoencoder.load_state_dict(codec.autoencoder.state_dict())
    other.autoencoder.to(dtype)
    x, latents = images(codec, 3, 4), random(2, 4, 3, 4)
    assert other.dtype == dtype
    for ours, reference in (
        (other.encode(x).mean, codec.encode(x).mean),
        (other.decode(latents), codec.decode(latents)),
    ):
        assert ours.dtype == torch.float32
        assert distance(ours, reference) <= tolerance


@torch.no_grad()
def test_overflow_in_half_precision_is_not_hidden(codec):
    blown = FACTOR_8.build()
    blown.autoencoder.load_state_dict(codec.autoencoder.state_dict())
    blown.autoencoder.decoder.conv_out.weight.mul_(1e6)
    blown.autoencoder.encoder.conv_out.weight.mul_(1e6)
    blown.autoencoder.half()
    assert not blown.decode(random(1, 4, 2, 2)).isfinite().all()
    posterior = blown.encode(images(codec, 2, 2, batch=1))
    assert not posterior.sample(random(1, 4, 2, 2)).isfinite().all()


@torch.no_grad()
def test_scale_and_shift_map_the_raw_latents(codec):
    shifted = Codec(codec.autoencoder, replace(codec.config, scale=2.0, shift=0.5))
    x = images(codec, 2, 2)
    raw = codec.autoencoder.encode(x)
    torch.testing.assert_close(shifted.encode(x).mean, (raw.mean - 0.5) * 2)
    latents = random(1, 4, 2, 2)
    torch.testing.assert_close(
        shifted.decode((latents - 0.5) * 2), codec.autoencoder.decode(latents)
    )


@torch.no_grad()
def test_scale_and_shift_of_every_channel_map_that_channel(codec):
    scales, shifts = (0.5, 2.0, 1.0, 0.1), (0.0, -1.0, 3.0, 0.25)
    each = Codec(codec.autoencoder, replace(codec.config, scale=scales, shift=shifts))
    x, latents = images(codec, 2, 2), random(1, 4, 2, 2)
    for channel, (scale, shift) in enumerate(zip(scales, shifts, strict=True)):
        one = Codec(codec.autoencoder, replace(codec.config, scale=scale, shift=shift))
        ours, alone = each.encode(x), one.encode(x)
        torch.testing.assert_close(ours.mean[:, channel], alone.mean[:, channel])
        torch.testing.assert_close(ours.logvar[:, channel], alone.logvar[:, channel])
    raw = torch.stack(
        [latents[:, i] / scales[i] + shifts[i] for i in range(4)], dim=1
    )  # (B, C, h, w)
    torch.testing.assert_close(each.decode(latents), codec.autoencoder.decode(raw))


@torch.no_grad()
def test_training_forward_reconstructs_from_the_mode_or_a_draw():
    model = Autoencoder(FACTOR_4.autoencoder)
    randomised(model)
    x, noise = random(2, 3, 8, 8), random(2, 4, 2, 2)
    mode, drawn = model(x), model(x, noise)
    assert torch.equal(mode.images, model.decode(mode.posterior.mode()))
    assert torch.equal(drawn.images, model.decode(mode.posterior.sample(noise)))
    assert torch.equal(drawn.images, model.decoder.conv_out(drawn.features))


@torch.no_grad()
def test_a_disturbance_is_counted_in_deviations_of_each_channel():
    model = Autoencoder(FACTOR_4.autoencoder)
    randomised(model)
    x, disturbance = random(2, 3, 8, 8), random(2, 4, 2, 2)
    rebuilt = model(x, disturbance=disturbance)
    latents = rebuilt.posterior.mode()
    deviation = latents.std(dim=(0, 2, 3), correction=0)[:, None, None]
    assert torch.allclose(
        rebuilt.images, model.decode(latents + deviation * disturbance), atol=1e-5
    )


def test_gradients_reach_every_weight():
    model = Autoencoder(FACTOR_4.autoencoder)
    randomised(model)
    rebuilt = model(random(2, 3, 8, 8), random(2, 4, 2, 2))
    (rebuilt.images.square().mean() + rebuilt.posterior.kl().mean()).backward()
    silent = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    # A bias of the keys moves all scores of a query alike, so softmax does not see it.
    assert [n for n in silent if not n.endswith("to_k.bias")] == []
