"""Models with a vocabulary of their own, every weight at random: tiny, and of a true shape."""

from collections.abc import Iterator
from itertools import islice
from string import ascii_lowercase

from torch import nn

from models_tiny import randomised
from safelight.families import Family, ProcessConfig, SamplerHint
from safelight.model import Model
from safelight.models.autoencoder import AutoencoderConfig, CodecConfig
from safelight.models.backbone import Backbone
from safelight.models.clip import ClipText, ClipTextConfig, ClipVision, ClipVisionConfig
from safelight.models.unet import UNet, UNetConfig
from safelight.text.conditioner import Conditioner
from safelight.text.spec import TextRole, TextSpec
from safelight.text.vocabulary import Merge, Vocabulary

HINT = SamplerHint("dpmpp_2m", "karras", 20, 3.0, stated=True)
LINEAR_V = ProcessConfig(prediction="v", beta_start=0.0001, beta_end=0.02, beta_schedule="linear")
VISION = ClipVisionConfig(6, 160, 5, 640, "gelu", projection=256, image_size=128, patch=16)
SMALL_VISION = ClipVisionConfig(2, 32, 2, 64, "gelu", projection=24, image_size=32, patch=8)


PROMPT = "a red apple, on the blue 9"


def vocabulary(size: int) -> Vocabulary:
    """A vocabulary of so many tokens: pairs of letters, and words of three."""
    return Vocabulary(tuple(islice(_merges(), size - 514)))


def _merges() -> Iterator[Merge]:
    letters = ascii_lowercase
    yield from ((a, b) for a in letters for b in letters)
    yield from ((a + b, f"{c}</w>") for a in letters for b in letters for c in letters)


def shipped_family(size: int = 6000) -> Family:
    """The shape in which we train: 128 pixels, latents of 8 channels, a small CLIP of its own."""
    words = vocabulary(size)
    text = ClipTextConfig(
        4, 256, 4, 1024, "gelu", projection=256, vocabulary=words.size, eos_id=words.eos
    )
    unet = UNetConfig(
        in_channels=8,
        out_channels=8,
        channels=(128, 192),
        depths=((1, 1), (1, 1)),
        heads=(4, 6),
        context_width=256,
    )
    return Family(
        name="own",
        label="own",
        backbone=unet,
        text=TextSpec((TextRole(text),), vocabulary=words),
        codec=CodecConfig(
            AutoencoderConfig(latent_channels=8, widths=(48, 96, 96, 128), layers=1, groups=16),
            scale=1.0,
        ),
        process=LINEAR_V,
        native_size=128,
        hint=HINT,
    )


def small_family() -> Family:
    """The same structure a hundred times smaller."""
    words = vocabulary(700)
    text = ClipTextConfig(
        2, 64, 4, 64, "gelu", projection=24, vocabulary=words.size, eos_id=words.eos
    )
    unet = UNetConfig(
        in_channels=8,
        out_channels=8,
        channels=(16, 24),
        depths=((1, 1), (1, 1)),
        heads=(2, 3),
        context_width=64,
        groups=8,
    )
    return Family(
        name="own",
        label="own",
        backbone=unet,
        text=TextSpec((TextRole(text),), vocabulary=words),
        codec=CodecConfig(
            AutoencoderConfig(latent_channels=8, widths=(8, 8, 8, 16), layers=1, groups=4),
            scale=1.0,
        ),
        process=LINEAR_V,
        native_size=128,
        hint=HINT,
    )


def model_of(family: Family, seed: int = 0) -> Model:
    """A model of this family."""
    encoders = [ClipText(role.encoder) for role in family.text.roles]
    model = Model(
        family=family,
        text=Conditioner(family.text, encoders),
        network=Backbone(UNet(family.backbone)),
        codec=family.codec.build(),
        process=family.process.build(),
    )
    coder = model.codec.autoencoder
    assert isinstance(coder, nn.Module)
    for number, module in enumerate((*encoders, model.network.unet, coder)):
        randomised(module, 7 * seed + number)
    return model


def vision_of(config: ClipVisionConfig = SMALL_VISION, seed: int = 5) -> ClipVision:
    """A vision tower."""
    tower: ClipVision = randomised(ClipVision(config), seed)
    return tower
