"""The model families: what fits together, as plain data.

A family is a U-Net's shape, its text side, its autoencoder and its noise process. Models outside
the table work too if their shapes are consistent: `closest` makes a family of them.

Sources: the `config.json`, `scheduler_config.json` and `model_index.json` files of the models on
the Hugging Face hub, and the yaml files of the original repositories.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Literal

import torch

from safelight.diffusion.prediction import resolve_prediction
from safelight.diffusion.process import BetaSchedule, Process, ddpm, edm, flow
from safelight.models import unet_configs as unets
from safelight.models.autoencoder import KL_F4, KL_F8_SD, KL_F8_SDXL, CodecConfig
from safelight.models.clip import CLIP_L, OPENCLIP_BIGG, OPENCLIP_H
from safelight.models.unet import UNetConfig
from safelight.text.spec import TextRole, TextSpec

Task = Literal["text", "inpaint", "edit", "depth", "variation", "refine", "upscale"]


@dataclass(frozen=True, slots=True)
class ProcessConfig:
    """A noise process as data; `build` makes it. Defaults: every Stable Diffusion up to XL."""

    kind: Literal["ddpm", "edm", "flow"] = "ddpm"
    prediction: str = "eps"
    beta_start: float = 0.00085
    beta_end: float = 0.012
    beta_schedule: BetaSchedule = "scaled_linear"
    trained_betas: tuple[float, ...] | None = None  # replaces the three above
    steps: int = 1000
    zero_terminal_snr: bool = False
    sigma_min: float = 0.002  # edm
    sigma_max: float = 80.0  # edm
    shift: float = 1.0  # flow

    def build(self) -> Process:
        """The process. Raises RequestError if the numbers do not make one."""
        if self.kind == "flow":
            return flow(self.shift, self.steps)
        prediction = resolve_prediction(self.prediction)
        if self.kind == "edm":
            return edm(
                prediction, sigma_min=self.sigma_min, sigma_max=self.sigma_max, steps=self.steps
            )
        betas = self.trained_betas
        return ddpm(
            prediction,
            beta_start=self.beta_start,
            beta_end=self.beta_end,
            beta_schedule=self.beta_schedule,
            steps=self.steps,
            alphas_cumprod=(
                None if betas is None else (1 - torch.tensor(betas, dtype=torch.float64)).cumprod(0)
            ),
            zero_terminal_snr=self.zero_terminal_snr,
        )


@dataclass(frozen=True, slots=True)
class Noising:
    """How the small picture that the x4 upscaler is given is noised, and to which level at most."""

    process: ProcessConfig = ProcessConfig(beta_start=0.0001, beta_end=0.02)
    max_level: int = 350  # as it was trained


@dataclass(frozen=True, slots=True)
class SamplerHint:
    """Settings that suit a model where the user gives none; names are those of `SAMPLERS`.

    schedule None is the sampler's own. stated: whether the model says all of this of itself, so
    that it stands before what a program does unless told.
    """

    sampler: str = "dpmpp_2m"
    schedule: str | None = "karras"
    steps: int = 20
    guidance_scale: float = 7.0
    stated: bool = False

    def settings(self) -> dict[str, object]:
        """The same under the names of a request, to be laid below what a user asks for."""
        return {
            "sampler": self.sampler,
            "schedule": self.schedule or "automatic",
            "steps": self.steps,
            "cfg_scale": self.guidance_scale,
        }


@dataclass(frozen=True, slots=True)
class Family:
    """Everything of a model but its weights.

    task: what the U-Net was trained for, which decides what its extra channels hold.
    native_size: side in pixels of the pictures it was trained on.
    noising: of the small picture, for a U-Net that is told the level of its noise.
    """

    name: str
    label: str
    backbone: UNetConfig
    text: TextSpec
    codec: CodecConfig
    process: ProcessConfig = ProcessConfig()
    native_size: int = 512
    task: Task = "text"
    hint: SamplerHint = SamplerHint()
    noising: Noising | None = None

    @property
    def extra_channels(self) -> int:
        """Input channels of the U-Net besides the latents: what `Condition.concat` must bring."""
        return self.backbone.in_channels - self.codec.channels


SD1_TEXT = TextSpec((TextRole(CLIP_L),))
SD2_TEXT = TextSpec((TextRole(OPENCLIP_H, pad=0),))
_BIGG = TextRole(OPENCLIP_BIGG, hidden=-2, final_norm=False, pad=0, pooled=True, clip_skip=False)
SDXL_TEXT = TextSpec(
    (TextRole(CLIP_L, hidden=-2, final_norm=False, clip_skip=False), _BIGG),
    vector="sdxl",
    force_zeros_for_empty_negative=True,
)
REFINER_TEXT = TextSpec((_BIGG,), vector="refiner")

_XL_HINT = SamplerHint(steps=30, guidance_scale=5.0)
V = ProcessConfig(prediction="v")

SD15 = Family("sd15", "Stable Diffusion 1.x", unets.SD15, SD1_TEXT, KL_F8_SD)
SD15_INPAINT = replace(
    SD15,
    name="sd15-inpaint",
    label="Stable Diffusion 1.x inpainting",
    backbone=unets.SD15_INPAINT,
    task="inpaint",
)
PIX2PIX = replace(
    SD15,
    name="pix2pix",
    label="InstructPix2Pix",
    backbone=unets.PIX2PIX,
    task="edit",
    hint=SamplerHint("euler_ancestral", None, 20, 7.5),
)
SMALL_SD = replace(SD15, name="small-sd", label="Small SD", backbone=unets.SMALL_SD)
BK_SDM_SMALL = replace(SD15, name="bk-sdm-small", label="BK-SDM Small", backbone=unets.BK_SDM_SMALL)
TINY_SD = replace(SD15, name="tiny-sd", label="Tiny SD", backbone=unets.TINY_SD)
LCM_SD15 = replace(
    SD15,
    name="lcm-sd15",
    label="Stable Diffusion 1.x, guidance-distilled (LCM)",
    backbone=replace(unets.SD15, guidance_width=256),
    hint=SamplerHint("lcm", "lcm", 4, 8.0),
)

SD2_BASE = Family("sd2-base", "Stable Diffusion 2.x base", unets.SD21, SD2_TEXT, KL_F8_SD)
SD2_V = replace(
    SD2_BASE, name="sd2-v", label="Stable Diffusion 2.x 768-v", process=V, native_size=768
)
SD2_INPAINT = replace(
    SD2_BASE,
    name="sd2-inpaint",
    label="Stable Diffusion 2 inpainting",
    backbone=unets.SD2_INPAINT,
    task="inpaint",
)
SD2_DEPTH = replace(
    SD2_BASE,
    name="sd2-depth",
    label="Stable Diffusion 2 depth",
    backbone=unets.SD2_DEPTH,
    task="depth",
)
SD21_UNCLIP_L = replace(
    SD2_V,
    name="sd21-unclip-l",
    label="Stable Diffusion 2.1 unCLIP (ViT-L)",
    backbone=unets.SD21_UNCLIP_L,
    task="variation",
)
SD21_UNCLIP_H = replace(
    SD21_UNCLIP_L,
    name="sd21-unclip-h",
    label="Stable Diffusion 2.1 unCLIP (ViT-H)",
    backbone=unets.SD21_UNCLIP_H,
)
X4_UPSCALER = Family(
    "x4-upscaler",
    "Stable Diffusion x4 upscaler",
    unets.X4_UPSCALER,
    SD2_TEXT,
    KL_F4,
    ProcessConfig(prediction="v", beta_start=0.0001, beta_end=0.02),
    task="upscale",
    hint=SamplerHint("ddim", None, 50, 9.0),
    noising=Noising(),  # by the same betas
)

SDXL = Family(
    "sdxl",
    "Stable Diffusion XL",
    unets.SDXL,
    SDXL_TEXT,
    KL_F8_SDXL,
    native_size=1024,
    hint=_XL_HINT,
)
SDXL_INPAINT = replace(
    SDXL,
    name="sdxl-inpaint",
    label="Stable Diffusion XL inpainting",
    backbone=unets.SDXL_INPAINT,
    task="inpaint",
)
SDXL_V = replace(SDXL, name="sdxl-v", label="Stable Diffusion XL, v-prediction", process=V)
SDXL_REFINER = replace(
    SDXL,
    name="sdxl-refiner",
    label="Stable Diffusion XL refiner",
    backbone=unets.SDXL_REFINER,
    text=REFINER_TEXT,
    task="refine",
)
SSD_1B = replace(SDXL, name="ssd-1b", label="Segmind SSD-1B", backbone=unets.SSD_1B)
VEGA = replace(SDXL, name="vega", label="Segmind Vega", backbone=unets.VEGA)
KOALA_1B = replace(SDXL, name="koala-1b", label="KOALA 1B", backbone=unets.KOALA_1B)
KOALA_700M = replace(SDXL, name="koala-700m", label="KOALA 700M", backbone=unets.KOALA_700M)

# Playground's latents are centred and scaled channel by channel (config.json of its vae).
_PLAYGROUND_MEAN = (-1.6574, 1.886, -1.383, 2.5155)
_PLAYGROUND_STD = (8.4927, 5.9022, 6.5498, 5.2299)
PLAYGROUND_25 = replace(
    SDXL,
    name="playground-2.5",
    label="Playground 2.5",
    codec=replace(
        KL_F8_SDXL, scale=tuple(0.5 / std for std in _PLAYGROUND_STD), shift=_PLAYGROUND_MEAN
    ),
    process=ProcessConfig("edm", "edm"),
    hint=SamplerHint("dpmpp_2m", "karras", 50, 3.0),
)
COSXL = replace(
    SDXL,
    name="cosxl",
    label="CosXL",
    process=ProcessConfig("edm", "v", sigma_max=120.0),
)
COSXL_EDIT = replace(
    COSXL,
    name="cosxl-edit",
    label="CosXL Edit",
    backbone=replace(unets.SDXL, in_channels=8),
    task="edit",
)

# Of families with the same shapes the first is the one to believe in without other evidence.
FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        family.name: family
        for family in (
            SD15,
            SD15_INPAINT,
            PIX2PIX,
            SMALL_SD,
            BK_SDM_SMALL,
            TINY_SD,
            LCM_SD15,
            SD2_BASE,
            SD2_V,
            SD2_INPAINT,
            SD2_DEPTH,
            SD21_UNCLIP_L,
            SD21_UNCLIP_H,
            X4_UPSCALER,
            SDXL,
            SDXL_INPAINT,
            SDXL_V,
            SDXL_REFINER,
            SSD_1B,
            VEGA,
            KOALA_1B,
            KOALA_700M,
            PLAYGROUND_25,
            COSXL,
            COSXL_EDIT,
        )
    }
)


def families_of(backbone: UNetConfig) -> tuple[Family, ...]:
    """The families whose U-Net has this shape, likeliest first; empty for a shape of its own."""
    shape = without_idle_options(backbone)
    return tuple(f for f in FAMILIES.values() if without_idle_options(f.backbone) == shape)


def without_idle_options(config: UNetConfig) -> UNetConfig:
    """The same U-Net, without the options that have no effect at a level without attention."""
    return replace(
        config,
        cross_only_levels=tuple(i for i in config.cross_only_levels if any(config.depths[i])),
    )


def closest(backbone: UNetConfig, text: TextSpec, process: ProcessConfig | None = None) -> Family:
    """The family of a U-Net and its text side; of several, the one with such a process.

    Shapes that are not in the table make a custom family, with the ways of the one it resembles in
    its text side: two encoders and a vector as in XL, and so on. The codec is that of the family;
    put in the real one.
    """
    fitting = [f for f in families_of(backbone) if _read_alike(f.text, text)]
    family = (
        min(fitting, key=lambda f: _distance(f.process, process or f.process))
        if fitting
        else _custom(backbone, text)
    )
    return replace(family, backbone=backbone, text=text, process=process or family.process)


def _read_alike(a: TextSpec, b: TextSpec) -> bool:
    """Whether the same encoders read the same ids; a projection that nothing uses is no matter."""
    used = [
        [
            role.encoder if role.pooled else replace(role.encoder, projection=None)
            for role in s.roles
        ]
        for s in (a, b)
    ]
    return used[0] == used[1] and a.vocabulary == b.vocabulary


def _distance(a: ProcessConfig, b: ProcessConfig) -> tuple[bool, bool, bool]:
    return (a.kind != b.kind, a.prediction != b.prediction, a.sigma_max != b.sigma_max)


def _custom(backbone: UNetConfig, text: TextSpec) -> Family:
    alike = _alike(backbone, text)
    tasks: Mapping[int, Task] = {0: alike.task, 5: "inpaint", 4: "edit", 1: "depth"}
    extra = backbone.in_channels - backbone.out_channels
    task = tasks.get(extra, alike.task)
    model = alike if task == alike.task else _of_task(task, alike)
    return replace(
        alike,
        name=f"custom-{model.name}",
        label=f"a model of its own shape, in the manner of {model.label}",
        task=task,
        hint=model.hint,
    )


def _of_task(task: Task, alike: Family) -> Family:
    """The published family of a task, with such text encoders; if there is none, `alike`."""
    found = (f for f in FAMILIES.values() if f.task == task and f.text == alike.text)
    return next(found, alike)


def _alike(backbone: UNetConfig, text: TextSpec) -> Family:
    if backbone.noise_levels is not None:
        return X4_UPSCALER
    if backbone.vector_width is not None and backbone.vector_module == "class_embedding":
        return SD21_UNCLIP_L
    if text.vector != "none":
        return SDXL if text.vector == "sdxl" else SDXL_REFINER
    return SD2_BASE if backbone.linear_projection else SD15
