"""Laws of picture prompts, and agreement with Diffusers' pipelines end to end."""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from diffusers.image_processor import IPAdapterMaskProcessor
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl import (
    StableDiffusionXLPipeline,
)
from diffusers.schedulers.scheduling_euler_discrete import EulerDiscreteScheduler
from PIL import Image
from torch import Tensor
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from image_prompts_tiny import SIDE, State, adapter_state, picture, vision_tower, write_adapter
from models_tiny import distance
from pipelines_tiny import (
    BETAS,
    NEGATIVE,
    PROMPT,
    generator,
    quiet,
    sampled,
    save,
    sd_parts,
    told,
    xl_parts,
)
from safelight.adapters.clip_picture import clip_picture
from safelight.adapters.image_prompts import (
    LAYOUT,
    STYLE,
    ImagePromptAdapter,
    PictureTokens,
    PromptPair,
    attach,
    attached,
    cross_attentions,
    detach,
    place_mask,
    prompt_pair,
    tokens,
)
from safelight.checkpoints.image_prompt_file import load_image_prompt
from safelight.checkpoints.load import load
from safelight.diffusion.denoiser import Denoiser
from safelight.diffusion.guidance import guided
from safelight.diffusion.schedules import SCHEDULES
from safelight.errors import CheckpointError, RequestError
from safelight.model import Model
from safelight.text.spec import Size

pytestmark = pytest.mark.slow

STEPS = 6
KINDS = ("plain", "plus", "full")


@dataclass(frozen=True)
class Twin:
    """A Diffusers pipeline with a vision tower, our model from its folder, and adapters of both."""

    theirs: object
    ours: Model
    states: Mapping[str, dict[str, State]]
    adapters: Mapping[str, ImagePromptAdapter]
    size: Size | None

    def reference(self, names: list[str], **options: object) -> Tensor:
        states = [self.states[name] for name in names]
        self.theirs.load_ip_adapter(states, subfolder="", weight_name=[""] * len(names))  # type: ignore[attr-defined]
        scale = options.pop("scale", 1.0)
        self.theirs.set_ip_adapter_scale(scale)  # type: ignore[attr-defined]
        images = self.theirs(  # type: ignore[operator]
            PROMPT,
            negative_prompt=NEGATIVE,
            width=64,
            height=64,
            num_inference_steps=STEPS,
            generator=generator(5),
            output_type="latent",
            guidance_scale=6.0,
            **options,
        ).images
        assert isinstance(images, Tensor)
        return images

    def drawn(self, pairs: list[PromptPair], scale: float = 6.0) -> Tensor:
        """What our sampler ends on with these picture prompts."""
        model = self.ours
        positive, negative = told(model, self.size)
        positive = replace(positive, image_prompts=tuple(p.positive for p in pairs))
        negative = replace(negative, image_prompts=tuple(p.negative for p in pairs))
        denoise = guided(Denoiser(model.network, model.process), positive, negative, scale)
        sigmas = SCHEDULES["normal"](model.process, STEPS)
        return sampled(model, denoise, sigmas)


@pytest.fixture(scope="module")
def twins(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Twin]:
    made = {}
    extra = {
        "image_encoder": vision_tower(),
        "feature_extractor": CLIPImageProcessorPil(size=SIDE, crop_size=SIDE),
        "scheduler": EulerDiscreteScheduler(**BETAS, timestep_spacing="linspace"),
    }
    for name, parts, kind in (
        ("sd15", sd_parts("sd15"), StableDiffusionPipeline),
        ("sdxl", xl_parts(), StableDiffusionXLPipeline),
    ):
        folder = tmp_path_factory.mktemp(name)
        pipeline = quiet(kind(**{**parts, **extra}))
        ours = load(save(pipeline, folder))
        states = {
            k: adapter_state(k, pipeline.unet, seed)  # type: ignore[attr-defined]
            for seed, k in enumerate(KINDS)
        }
        adapters = {
            k: load_image_prompt(write_adapter(folder / f"{k}{suffix}", states[k]), vision=folder)
            for k, suffix in zip(KINDS, (".safetensors", ".bin", ".safetensors"), strict=True)
        }
        size = Size(64, 64) if name == "sdxl" else None
        made[name] = Twin(pipeline, ours, states, adapters, size)
    return made


def pillow(pixels: np.ndarray) -> Image.Image:
    return Image.fromarray(pixels)


@pytest.mark.parametrize("shape", [(45, 61), (61, 45), (32, 32), (33, 300), (500, 90), (20, 24)])
def test_pictures_are_prepared_as_transformers_does(shape: tuple[int, int]) -> None:
    pixels = picture(3, *shape)
    theirs = CLIPImageProcessorPil(size=SIDE, crop_size=SIDE)(pillow(pixels), return_tensors="pt")
    torch.testing.assert_close(
        clip_picture(pixels, SIDE), theirs["pixel_values"], atol=1e-6, rtol=1e-6
    )


def test_a_thread_of_pixels_is_refused() -> None:
    with pytest.raises(RequestError, match="64 times as long as wide; got 200 x 3"):
        clip_picture(picture(0, 3, 200), SIDE)


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
@pytest.mark.parametrize("kind", KINDS)
def test_one_picture_draws_what_diffusers_draws(
    twins: Mapping[str, Twin], family: str, kind: str
) -> None:
    twin, pixels = twins[family], picture(1)
    theirs = twin.reference([kind], ip_adapter_image=pillow(pixels), scale=0.7)
    adapter = twin.adapters[kind]
    with attached(twin.ours.network.unet, "it", adapter):
        ours = twin.drawn([prompt_pair("it", tokens(adapter, [pixels]), scale=0.7)])
    assert distance(ours, theirs) <= 1e-3
    assert distance(twin.drawn([]), theirs) > 0.1  # the adapter matters


@pytest.mark.parametrize("kind", KINDS)
def test_two_pictures_of_one_adapter_draw_what_diffusers_draws(
    twins: Mapping[str, Twin], kind: str
) -> None:
    twin, shown = twins["sd15"], [picture(1), picture(2, 64, 40)]
    theirs = twin.reference([kind], ip_adapter_image=[[pillow(p) for p in shown]])
    adapter = twin.adapters[kind]
    with attached(twin.ours.network.unet, "it", adapter):
        ours = twin.drawn([prompt_pair("it", tokens(adapter, shown))])
    assert distance(ours, theirs) <= 1e-3


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_two_adapters_draw_what_diffusers_draws(twins: Mapping[str, Twin], family: str) -> None:
    twin, one, two = twins[family], picture(1), picture(2)
    theirs = twin.reference(
        ["plain", "plus"], ip_adapter_image=[pillow(one), pillow(two)], scale=[0.4, 0.9]
    )
    plain, plus, unet = twin.adapters["plain"], twin.adapters["plus"], twin.ours.network.unet
    with attached(unet, "one", plain), attached(unet, "two", plus):
        ours = twin.drawn(
            [
                prompt_pair("one", tokens(plain, [one]), scale=0.4),
                prompt_pair("two", tokens(plus, [two]), scale=0.9),
            ]
        )
    assert distance(ours, theirs) <= 1e-3


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_masks_draw_what_diffusers_draws(twins: Mapping[str, Twin], family: str) -> None:
    twin, shown = twins[family], [picture(1), picture(2)]
    left = np.zeros((64, 64), np.float32)
    left[:, :28] = 1
    masks = [left, 1 - left]
    processed = IPAdapterMaskProcessor().preprocess(
        [pillow(np.uint8(255 * m)) for m in masks], height=64, width=64
    )
    stacked = [processed.reshape(1, 2, 64, 64)]
    theirs = twin.reference(
        ["plain"],
        ip_adapter_image=[[pillow(p) for p in shown]],
        scale=[[0.6, 0.9]],
        cross_attention_kwargs={"ip_adapter_masks": stacked},
    )
    adapter = twin.adapters["plain"]
    with attached(twin.ours.network.unet, "it", adapter):
        ours = twin.drawn(
            [
                prompt_pair(
                    "it", tokens(adapter, [p]), scale=scale, mask=torch.from_numpy(m)[None, None]
                )
                for p, m, scale in zip(shown, masks, (0.6, 0.9), strict=True)
            ]
        )
    assert distance(ours, theirs) <= 1e-3


@pytest.mark.parametrize(
    ("places", "theirs"),
    [
        (STYLE, {"up": {"block_0": [0.0, 1.0, 0.0]}}),
        (
            {**STYLE, **LAYOUT},
            {"down": {"block_2": [0.0, 1.0]}, "up": {"block_0": [0.0, 1.0, 0.0]}},
        ),
        ({"up_blocks.0": 0.3, "mid_block": 0.5}, {"up": {"block_0": [0.3, 0.3, 0.3]}, "mid": 0.5}),
    ],
)
def test_some_places_only_as_in_diffusers(
    twins: Mapping[str, Twin], places: Mapping[str, float], theirs: object
) -> None:
    twin, pixels = twins["sdxl"], picture(1)
    reference = twin.reference(["plain"], ip_adapter_image=pillow(pixels), scale=theirs)
    adapter = twin.adapters["plain"]
    with attached(twin.ours.network.unet, "it", adapter, places=places):
        ours = twin.drawn([prompt_pair("it", tokens(adapter, [pixels]))])
    assert distance(ours, reference) <= 1e-3


def test_detaching_restores_the_output_bit_for_bit(twins: Mapping[str, Twin]) -> None:
    twin = twins["sd15"]
    unet, adapter = twin.ours.network.unet, twin.adapters["plus"]
    before, names = twin.drawn([]), list(unet.state_dict())
    pair = prompt_pair("it", tokens(adapter, [picture(1)]))
    with attached(unet, "it", adapter):
        assert torch.equal(twin.drawn([]), before)  # attached, but nothing asked of it
        assert torch.equal(twin.drawn([prompt_pair("it", pair_tokens(pair), scale=0.0)]), before)
        assert not torch.equal(twin.drawn([pair]), before)
    assert list(unet.state_dict()) == names
    assert torch.equal(twin.drawn([]), before)


def pair_tokens(pair: PromptPair) -> PictureTokens:
    return PictureTokens(pair.positive.tokens, pair.negative.tokens)


def test_it_is_detached_after_an_error_too(twins: Mapping[str, Twin]) -> None:
    unet, adapter = twins["sd15"].ours.network.unet, twins["sd15"].adapters["plain"]
    with pytest.raises(ZeroDivisionError), attached(unet, "it", adapter):
        raise ZeroDivisionError
    assert not any(a.branches for _, a in cross_attentions(unet).values())


def test_it_acts_between_its_noise_levels_only(twins: Mapping[str, Twin]) -> None:
    twin = twins["sd15"]
    adapter, before = twin.adapters["plain"], twin.drawn([])
    made = tokens(adapter, [picture(1)])
    sigmas = SCHEDULES["normal"](twin.ours.process, STEPS)
    with attached(twin.ours.network.unet, "it", adapter):
        always = twin.drawn([prompt_pair("it", made)])
        all_levels = prompt_pair("it", made, high=float(sigmas[0]), low=0.0)
        assert torch.equal(twin.drawn([all_levels]), always)
        never = prompt_pair("it", made, high=float(sigmas[-2]) / 2)
        assert torch.equal(twin.drawn([never]), before)
        late = twin.drawn([prompt_pair("it", made, high=float(sigmas[3]))])
    assert 0 < distance(late, before) < distance(always, before)


def test_a_mask_of_zeros_is_no_prompt_and_of_ones_no_mask(twins: Mapping[str, Twin]) -> None:
    twin = twins["sd15"]
    adapter, before = twin.adapters["plain"], twin.drawn([])
    made = tokens(adapter, [picture(1)])
    with attached(twin.ours.network.unet, "it", adapter):
        none = twin.drawn([prompt_pair("it", made, mask=torch.zeros(1, 1, 8, 8))])
        all_of_it = twin.drawn([prompt_pair("it", made, mask=torch.ones(1, 1, 8, 8))])
        plain = twin.drawn([prompt_pair("it", made)])
    assert torch.equal(none, before)
    assert distance(all_of_it, plain) <= 1e-4


def test_a_mask_shrinks_by_areas() -> None:
    mask = np.zeros((64, 32), np.float32)
    mask[:, :12] = 1
    small = place_mask(mask, (8, 4))
    assert small.shape == (1, 1, 8, 4)
    torch.testing.assert_close(small[0, 0, 3], torch.tensor([1.0, 0.5, 0.0, 0.0]))


def test_an_adapter_of_another_family_names_both(twins: Mapping[str, Twin]) -> None:
    with pytest.raises(CheckpointError, match=r"plain\.safetensors is for .*192.*this model is"):
        attach(twins["sd15"].ours.network.unet, "it", twins["sdxl"].adapters["plain"])


@pytest.mark.parametrize("name", ["", "a.b", "keys", "values"])
def test_names_that_a_door_cannot_have_are_refused(twins: Mapping[str, Twin], name: str) -> None:
    twin = twins["sd15"]
    with pytest.raises(RequestError, match="choose a name without dots"):
        attach(twin.ours.network.unet, name, twin.adapters["plain"])


def test_a_name_is_attached_once_and_a_place_must_exist(twins: Mapping[str, Twin]) -> None:
    unet, adapter = twins["sd15"].ours.network.unet, twins["sd15"].adapters["plain"]
    with attached(unet, "it", adapter), pytest.raises(RequestError, match="already"):
        attach(unet, "it", adapter)
    with pytest.raises(RequestError, match=r"lies in 'up_blocks\.0'; they lie in down_blocks\.0"):
        attach(unet, "it", adapter, places={"up_blocks.0": 1.0})
    detach(unet, "never attached")


def test_no_picture_is_refused(twins: Mapping[str, Twin]) -> None:
    with pytest.raises(RequestError, match="needs a picture"):
        tokens(twins["sd15"].adapters["plain"], [])


def test_types_may_differ_and_the_answer_is_the_networks(twins: Mapping[str, Twin]) -> None:
    twin = twins["sd15"]
    adapter, narrow = twin.adapters["plain"], deepcopy(twin.ours.network.unet).bfloat16()
    model = replace(twin.ours, network=replace(twin.ours.network, unet=narrow))
    pair = prompt_pair("it", tokens(adapter, [picture(1)]))
    with attached(narrow, "it", adapter):
        drawn = replace(twin, ours=model).drawn([pair])
    with attached(twin.ours.network.unet, "it", adapter):
        exact = twin.drawn([pair])
    assert adapter.net.ip_adapter["1"].to_k_ip.weight.dtype == torch.float32
    assert distance(drawn, exact) < 0.3


def test_pictures_of_a_batch_are_told_the_same_and_masks_follow(twins: Mapping[str, Twin]) -> None:
    twin = twins["sd15"]
    unet, adapter = twin.ours.network.unet, twin.adapters["plus"]
    mask = place_mask(np.tri(64, dtype=np.float32), (8, 8))
    pair = prompt_pair("it", tokens(adapter, [picture(1)]), scale=0.8, mask=mask)
    condition = replace(told(twin.ours)[0], image_prompts=(pair.positive,))
    x = torch.randn(2, 4, 8, 8, generator=generator(1))
    with attached(unet, "it", adapter), torch.no_grad():
        both = twin.ours.network(x, torch.tensor(500.0), condition)
        each = [twin.ours.network(x[i : i + 1], torch.tensor(500.0), condition) for i in (0, 1)]
    torch.testing.assert_close(both, torch.cat(each), atol=1e-5, rtol=1e-4)
