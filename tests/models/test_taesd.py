"""The tiny autoencoder, against Diffusers' AutoencoderTiny."""

import pytest
import torch
from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny

from models_tiny import distance, random, randomised
from safelight.errors import RequestError
from safelight.models.autoencoder import Codec, CodecConfig
from safelight.models.taesd import TAESD, TAESD3, TAESDXL, TinyAutoencoderConfig
from safelight.models.tiling import Bands

CASES = {
    "TAESD": TinyAutoencoderConfig(width=8),
    "TAESD3": TinyAutoencoderConfig(width=8, latent_channels=16),
    "factor 4": TinyAutoencoderConfig(width=12, latent_channels=3, blocks=(2, 1, 3)),
}


def oracle_of(config: TinyAutoencoderConfig) -> AutoencoderTiny:
    levels = len(config.blocks)
    return AutoencoderTiny(
        in_channels=config.in_channels,
        out_channels=config.out_channels,
        latent_channels=config.latent_channels,
        encoder_block_out_channels=(config.width,) * levels,
        decoder_block_out_channels=(config.width,) * levels,
        num_encoder_blocks=config.blocks,
        num_decoder_blocks=config.blocks[::-1],
    )


@pytest.fixture(scope="module", params=CASES.values(), ids=CASES.keys())
def pair(request: pytest.FixtureRequest) -> tuple[Codec, AutoencoderTiny]:
    theirs = randomised(oracle_of(request.param))
    codec = CodecConfig(request.param).build()
    codec.autoencoder.load_state_dict(theirs.state_dict())
    return codec, theirs


@torch.no_grad()
def test_latents_and_pictures_equal_the_reference(pair):
    codec, theirs = pair
    images = random(2, 3, 5 * codec.factor, 3 * codec.factor).clamp(-1, 1)
    latents = 4 * random(2, codec.channels, 3, 5)
    assert distance(codec.encode(images).mode(), theirs.encode(images).latents) <= 1e-4
    assert distance(codec.decode(latents), theirs.decode(latents).sample) <= 1e-4


@torch.no_grad()
def test_the_posterior_is_certain(pair):
    codec, _ = pair
    posterior = codec.encode(random(1, 3, 2 * codec.factor, codec.factor))
    assert torch.equal(posterior.sample(torch.Generator().manual_seed(0)), posterior.mode())
    assert posterior.mode().isfinite().all()


@torch.no_grad()
@pytest.mark.parametrize("pixels", [1, 64, 4096])
def test_in_bands_equals_in_one_piece(pair, pixels):
    codec, _ = pair
    images = random(2, 3, 4 * codec.factor, 3 * codec.factor)
    latents = random(2, codec.channels, 4, 3)
    bands = Bands(pixels)
    assert distance(codec.encode(images, tile=bands).mode(), codec.encode(images).mode()) <= 1e-4
    assert distance(codec.decode(latents, tile=bands), codec.decode(latents)) <= 1e-4


@pytest.mark.parametrize("config", [TAESD, TAESDXL, TAESD3])
def test_published_shapes_have_the_keys_and_shapes_of_the_reference(config):
    with torch.device("meta"):
        ours, theirs = config.build().autoencoder, oracle_of(config.autoencoder)
    shapes = {name: tuple(t.shape) for name, t in ours.state_dict().items()}
    assert shapes == {name: tuple(t.shape) for name, t in theirs.state_dict().items()}


def test_the_codec_has_the_face_of_the_large_one():
    codec = TAESD3.build()
    assert (codec.factor, codec.channels, codec.scale, codec.shift) == (8, 16, 1.0, 0.0)
    with pytest.raises(RequestError, match="The nearest are 8 and 16"):
        codec.encode(torch.zeros(1, 3, 8, 9))


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_gives_float32_and_agrees(pair, dtype):
    codec, _ = pair
    half = codec.config.build()
    half.autoencoder.load_state_dict(codec.autoencoder.state_dict())
    half.autoencoder.to(dtype)
    latents = random(1, codec.channels, 3, 3)
    ours = half.decode(latents)
    assert ours.dtype == torch.float32 and distance(ours, codec.decode(latents)) <= 0.2
