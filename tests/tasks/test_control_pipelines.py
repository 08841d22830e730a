"""Controls end to end, from saved folders to latents, against Diffusers' pipelines."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import pytest
import torch
from diffusers.models.adapter import MultiAdapter
from diffusers.models.adapter import T2IAdapter as TheirAdapter
from diffusers.models.controlnets.controlnet import ControlNetModel
from diffusers.models.controlnets.controlnet_union import ControlNetUnionModel
from diffusers.pipelines.controlnet.pipeline_controlnet import StableDiffusionControlNetPipeline
from diffusers.pipelines.controlnet.pipeline_controlnet_sd_xl import (
    StableDiffusionXLControlNetPipeline,
)
from diffusers.pipelines.controlnet.pipeline_controlnet_union_sd_xl import (
    StableDiffusionXLControlNetUnionPipeline,
)
from diffusers.pipelines.t2i_adapter.pipeline_stable_diffusion_adapter import (
    StableDiffusionAdapterPipeline,
)
from diffusers.pipelines.t2i_adapter.pipeline_stable_diffusion_xl_adapter import (
    StableDiffusionXLAdapterPipeline,
)
from diffusers.schedulers.scheduling_euler_discrete import EulerDiscreteScheduler
from torch import nn

from controls_tiny import ADAPTERS, controlnet_json, pictures
from models_tiny import distance, randomised
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
from safelight.checkpoints.control_load import load_control
from safelight.checkpoints.load import load
from safelight.condition import Control
from safelight.diffusion.denoiser import Denoiser
from safelight.diffusion.guidance import guided
from safelight.diffusion.schedules import SCHEDULES
from safelight.model import Model
from safelight.models.control_modes import ControlMode, sigma_range, steering
from safelight.text.spec import Size

pytestmark = pytest.mark.slow

TOLERANCE = 1e-3  # of the reference's standard deviation, after ten steps
STEPS = 10
FAMILIES = {"sd1": "sd15", "sd2": "sd21", "sdxl": "sdxl"}


@dataclass(frozen=True)
class Twin:
    """One tiny family's parts on Diffusers' side, ours loaded from them, and control networks."""

    parts: dict[str, object]
    model: Model
    theirs: dict[str, nn.Module]
    ours: dict[str, nn.Module]

    def attached(self) -> Model:
        network = replace(self.model.network, control_networks=self.ours)
        return replace(self.model, network=network)


def their_controls(family: str) -> dict[str, nn.Module]:
    json = controlnet_json(FAMILIES[family])
    xl = family == "sdxl"
    json |= {"cross_attention_dim": 192 if xl else 64}
    if xl:
        json |= {"addition_time_embed_dim": 8, "projection_class_embeddings_input_dim": 40 + 6 * 8}
    made: dict[str, nn.Module] = {
        "canny": randomised(ControlNetModel(**json), 11),
        "depth": randomised(ControlNetModel(**json), 12),
        "shuffle": randomised(ControlNetModel(**json, global_pool_conditions=True), 13),
    }
    if xl:
        union = ControlNetUnionModel(
            **json,
            num_control_type=6,
            num_trans_channel=8,
            num_trans_head=2,
            num_proj_channel=8,
        )
        made["union"] = randomised(union, 14)
    kind, own = ADAPTERS["xl" if xl else "full"]
    for name, seed in (("pose", 15), ("sketch", 16)):
        adapter = TheirAdapter(
            channels=list(own.channels), downscale_factor=own.unshuffle, adapter_type=kind
        )
        made[name] = randomised(adapter, seed)
    return made


@pytest.fixture(scope="module")
def twin(tmp_path_factory: pytest.TempPathFactory):
    made: dict[str, Twin] = {}

    def get(family: str) -> Twin:
        if family not in made:
            root = tmp_path_factory.mktemp(family)
            linspace = EulerDiscreteScheduler(**BETAS, timestep_spacing="linspace")
            parts = xl_parts() if family == "sdxl" else sd_parts(FAMILIES[family])
            parts |= {"scheduler": linspace}
            theirs = their_controls(family)
            ours = {}
            for name, network in theirs.items():
                network.save_pretrained(root / name)  # type: ignore[operator]
                ours[name] = load_control(root / name).network
            pipeline = _controlled(family, parts, theirs["canny"])
            made[family] = Twin(parts, load(save(pipeline, root / "model")), theirs, ours)
        return made[family]

    return get


def _controlled(family: str, parts: dict[str, object], control: object) -> object:
    kind = (
        StableDiffusionXLControlNetPipeline
        if family == "sdxl"
        else StableDiffusionControlNetPipeline
    )
    return quiet(kind(**parts, controlnet=control))


def _adapted(family: str, parts: dict[str, object], adapter: object) -> object:
    kind = StableDiffusionXLAdapterPipeline if family == "sdxl" else StableDiffusionAdapterPipeline
    return quiet(kind(**parts, adapter=adapter))


def reference(pipeline: object, image: object, **options: object) -> torch.Tensor:
    place = "control_image" if "Union" in type(pipeline).__name__ else "image"
    latents = pipeline(  # type: ignore[operator]
        PROMPT,
        negative_prompt=NEGATIVE,
        width=64,
        height=64,
        num_inference_steps=STEPS,
        generator=generator(5),
        guidance_scale=6.0,
        output_type="latent",
        **{place: image},
        **options,
    ).images
    assert isinstance(latents, torch.Tensor)
    return latents


def drawn(twin: Twin, controls: Sequence[Control], mode: ControlMode = "balanced") -> torch.Tensor:
    model = twin.attached()
    size = Size(64, 64) if model.family.text.vector == "sdxl" else None
    positive, negative = told(model, size)
    steered = [steering(mode, model.network.control_networks[c.net]) for c in controls]
    own = tuple(replace(c, weights=s.weights) for c, s in zip(controls, steered, strict=True))
    below = tuple(c for c, s in zip(own, steered, strict=True) if s.on_negative)
    positive, negative = (
        model.network.prepared(replace(told, controls=mine))
        for told, mine in ((positive, own), (negative, below))
    )
    denoise = guided(Denoiser(model.network, model.process), positive, negative, 6.0)
    return sampled(model, denoise, sigmas(model))


def sigmas(model: Model) -> torch.Tensor:
    return SCHEDULES["normal"](model.process, STEPS)


def between(model: Model, start: float, end: float) -> dict[str, float]:
    high, low = sigma_range(sigmas(model).tolist(), start, end)
    return {"high": high, "low": low}


IMAGE, OTHER = pictures(1, 3, 64, 64), pictures(1, 3, 64, 64, seed=6)


@pytest.mark.parametrize("family", list(FAMILIES))
def test_one_controlnet_agrees_with_diffusers(twin, family: str) -> None:
    own = twin(family)
    pipeline = _controlled(family, own.parts, own.theirs["canny"])
    theirs = reference(pipeline, IMAGE, controlnet_conditioning_scale=0.8)
    assert distance(drawn(own, [Control("canny", IMAGE, 0.8)]), theirs) < TOLERANCE
    assert distance(drawn(own, []), theirs) > 0.05


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_two_controlnets_in_ranges_agree_with_diffusers(twin, family: str) -> None:
    own = twin(family)
    pipeline = _controlled(family, own.parts, [own.theirs["canny"], own.theirs["depth"]])
    theirs = reference(
        pipeline,
        [IMAGE, OTHER],
        controlnet_conditioning_scale=[0.8, 1.1],
        control_guidance_start=[0.0, 0.3],
        control_guidance_end=[0.6, 1.0],
    )
    controls = [
        Control("canny", IMAGE, 0.8, **between(own.model, 0.0, 0.6)),
        Control("depth", OTHER, 1.1, **between(own.model, 0.3, 1.0)),
    ]
    assert distance(drawn(own, controls), theirs) < TOLERANCE
    always = [replace(c, high=math.inf, low=-1.0) for c in controls]
    assert distance(drawn(own, always), theirs) > 0.05


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_guess_mode_agrees_with_diffusers(twin, family: str) -> None:
    own = twin(family)
    pipeline = _controlled(family, own.parts, own.theirs["canny"])
    theirs = reference(pipeline, IMAGE, guess_mode=True)
    assert distance(drawn(own, [Control("canny", IMAGE)], "guess"), theirs) < TOLERANCE


def test_a_shuffle_controlnet_acts_on_the_positive_only_as_in_diffusers(twin) -> None:
    own = twin("sd1")
    pipeline = _controlled("sd1", own.parts, own.theirs["shuffle"])
    theirs = reference(pipeline, IMAGE)
    assert distance(drawn(own, [Control("shuffle", IMAGE)]), theirs) < TOLERANCE


@pytest.mark.parametrize("types", [(3,), (1, 4)])
def test_a_union_agrees_with_diffusers(twin, types: tuple[int, ...]) -> None:
    own = twin("sdxl")
    pipeline = StableDiffusionXLControlNetUnionPipeline(**own.parts, controlnet=own.theirs["union"])
    images = [IMAGE, OTHER][: len(types)]
    theirs = reference(
        quiet(pipeline), images if len(types) > 1 else IMAGE, control_mode=list(types)
    )
    control = Control("union", torch.cat(images, 1), types=types)
    assert distance(drawn(own, [control]), theirs) < TOLERANCE


@pytest.mark.parametrize("family", list(FAMILIES))
def test_an_adapter_agrees_with_diffusers(twin, family: str) -> None:
    own = twin(family)
    pipeline = _adapted(family, own.parts, own.theirs["pose"])
    theirs = reference(pipeline, IMAGE, adapter_conditioning_scale=0.7)
    assert distance(drawn(own, [Control("pose", IMAGE, 0.7)]), theirs) < TOLERANCE
    assert distance(drawn(own, []), theirs) > 0.01


def test_two_adapters_agree_with_diffusers(twin) -> None:
    own = twin("sd1")
    both = MultiAdapter([own.theirs["pose"], own.theirs["sketch"]])
    pipeline = _adapted("sd1", own.parts, both)
    theirs = reference(pipeline, [IMAGE, OTHER], adapter_conditioning_scale=[0.7, 0.4])
    controls = [Control("pose", IMAGE, 0.7), Control("sketch", OTHER, 0.4)]
    assert distance(drawn(own, controls), theirs) < TOLERANCE


def test_a_scale_of_zero_draws_the_same_bits_as_no_control(twin) -> None:
    own = twin("sd1")
    idle = [Control("canny", IMAGE, 0.0), Control("pose", IMAGE, 0.0)]
    assert torch.equal(drawn(own, idle), drawn(own, []))


@pytest.mark.parametrize("mode", ["prompt", "control"])
def test_the_modes_of_a1111_weigh_residuals_and_leave_out_the_negative(
    twin, mode: ControlMode
) -> None:
    """The same from Diffusers' pieces, one call at a time."""
    own = twin("sd1")
    model = own.attached()
    control = Control("canny", IMAGE, 0.9)
    answer = drawn(own, [control], mode)
    weights = [0.9 * 0.825 ** (12 - i) for i in range(13)]
    unet, net = own.parts["unet"], own.theirs["canny"]
    positive, negative = told(model)

    def asked(x, time, context, *, controlled: bool):
        extra = {}
        if controlled:
            down, mid = net(x, time, context, IMAGE, return_dict=False)
            extra = {
                "down_block_additional_residuals": [
                    d * w for d, w in zip(down, weights, strict=False)
                ],
                "mid_block_additional_residual": mid * weights[-1],
            }
        return unet(x, time, context, **extra).sample  # type: ignore[operator]

    def network(x, time, condition):
        mine = torch.equal(condition.context[0], positive.context[0])
        return asked(x, time, condition.context, controlled=mine or mode == "prompt")

    denoiser = Denoiser(network, model.process)
    denoise = guided(denoiser, positive, negative, 6.0, apart=True)
    assert distance(answer, sampled(model, denoise, sigmas(model))) < TOLERANCE
