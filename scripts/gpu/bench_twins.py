"""Our networks and Diffusers' with the very same tensors at random, and where they are timed."""

import json
import platform
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

import safelight
from safelight.benchmarks.geometry import SHADE, UNIT, scale_to, small
from safelight.benchmarks.inputs import inputs
from safelight.benchmarks.turns import calls_of
from safelight.checkpoints.model_json import vae_to_json
from safelight.checkpoints.unet_json import unet_to_json
from safelight.engines.placement import DTYPES
from safelight.families import FAMILIES, Family
from safelight.models.unet import UNet

GIB = 1 << 30
BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


# -- where and how ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Setup:
    """What all cases share: where they run, how large, and how often."""

    device: torch.device
    small: bool
    rounds: int
    seconds: float  # of a round

    @property
    def cuda(self) -> bool:
        return self.device.type == "cuda"

    def family(self, name: str) -> Family:
        return small(FAMILIES[name]) if self.small else FAMILIES[name]

    def side(self, pixels: int) -> int:
        """The side of latents for pictures of this size."""
        return pixels // (64 if self.small else 8)

    def dtype(self, name: str) -> torch.dtype:
        """A dry run computes fp16 in bf16, for which CPUs have kernels."""
        return DTYPES[name if self.cuda else "bf16"]

    def compile_options(self, mode: str | None) -> dict[str, Any]:
        """A dry run without a GPU traces and does not build kernels."""
        if not self.cuda:
            return {"backend": "eager"}
        return {} if mode is None else {"mode": mode}

    def calls(self, seconds: float) -> int:
        """How many calls of so many seconds make a round."""
        return calls_of(seconds, self.seconds)

    def wait(self) -> None:
        if self.cuda:
            torch.cuda.synchronize(self.device)


@cache
def has_diffusers() -> bool:
    """Whether Diffusers can be imported; if not, the reason is printed once."""
    try:
        import diffusers

        for name in ("UNet2DConditionModel", "AutoencoderKL"):
            getattr(diffusers, name)  # imported when first asked for
    except Exception as error:
        say({"note": f"diffusers cannot be imported, only ours is timed: {first_line(error)}"})
        return False
    diffusers.utils.logging.set_verbosity_error()
    return True


def utilisation() -> str | None:
    """What the driver says of the GPU's load before anything is timed."""
    command = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return ", ".join(found.stdout.split("\n")).strip(", ") or None


def machine(setup: Setup) -> dict[str, object]:
    """What every line says of where it was measured."""
    facts: dict[str, object] = {
        "gpu": torch.cuda.get_device_name(setup.device) if setup.cuda else "none: a dry run",
        "gpu_busy_before": utilisation() if setup.cuda else None,
        "small": setup.small,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "safelight": safelight.__version__,
        "diffusers": None,
    }
    if has_diffusers():
        import diffusers

        facts["diffusers"] = diffusers.__version__
    return facts


# -- the same network twice ------------------------------------------------------------------------


@dataclass(frozen=True)
class Pair:
    """Our module and Diffusers' on the same tensors; `theirs` is None without Diffusers."""

    ours: nn.Module
    theirs: nn.Module | None


def unets(setup: Setup, family: Family, dtype: torch.dtype) -> Pair:
    ours = built(setup, lambda: UNet(family.backbone), dtype)
    given = unet_inputs(setup, family, dtype, batch=2, pixels=512)
    answer = ours(given.latents, given.time, given.context, given.vector)
    scale_to(ours.conv_out, answer, UNIT)
    if not has_diffusers():
        return Pair(ours, None)
    from diffusers import UNet2DConditionModel

    sample = family.native_size // family.codec.factor
    json = unet_to_json(family.backbone, sample_size=sample, size_width=family.text.size_width)
    return Pair(ours, twin(ours, UNet2DConditionModel, json))


def autoencoders(setup: Setup, family: Family, dtype: torch.dtype) -> Pair:
    ours: Any = built(setup, lambda: family.codec.autoencoder.build(), dtype)
    latents = noise(setup, dtype, 1, family.codec.channels, setup.side(512), setup.side(512))
    scale_to(ours.decoder.conv_out, ours.decode(latents), SHADE)
    if not has_diffusers():
        return Pair(ours, None)
    from diffusers import AutoencoderKL

    json = vae_to_json(family.codec, native_size=family.native_size)
    return Pair(ours, twin(ours, AutoencoderKL, json))


def built(setup: Setup, make: Callable[[], Any], dtype: torch.dtype) -> Any:
    """A module for inference with the same weights at random at every call."""
    torch.manual_seed(0)
    with torch.device(setup.device):
        module = make()
    return module.to(dtype).eval().requires_grad_(False)


def twin(ours: nn.Module, kind: Any, json: Mapping[str, object]) -> nn.Module:
    """Diffusers' class with our tensors, not copies of them."""
    with torch.device("meta"):
        theirs: nn.Module = kind.from_config(dict(json))
    theirs.load_state_dict(ours.state_dict(), assign=True)
    return theirs.eval().requires_grad_(False)


@dataclass(frozen=True)
class UnetInputs:
    """What both U-Nets are asked."""

    latents: Tensor
    time: Tensor
    context: Tensor
    vector: Tensor | None  # for ours: pooled text and the sinusoids of the sizes
    added: dict[str, Tensor] | None  # the same for Diffusers


def unet_inputs(
    setup: Setup, family: Family, dtype: torch.dtype, batch: int, pixels: int
) -> UnetInputs:
    side = setup.side(pixels) * family.codec.factor
    made = inputs(family, (side, side), batch=batch, guided=False, seed=0)

    def there(name: str) -> Tensor:
        return made[name].to(setup.device, dtype)

    vector = added = None
    if "vector" in made:
        vector = there("vector")
        added = {"text_embeds": there("pooled"), "time_ids": there("sizes")}
    time_ = made["time"].to(setup.device)
    return UnetInputs(there("latents"), time_, there("context"), vector, added)


def noise(setup: Setup, dtype: torch.dtype, *shape: int) -> Tensor:
    """The same unit normals at every call for the same shape."""
    drawn = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    return drawn.to(setup.device, dtype)


def say(line: Mapping[str, object]) -> None:
    print(json.dumps(line), flush=True)


def first_line(error: BaseException) -> str:
    text = str(error).strip().split("\n")[0]
    return f"{type(error).__name__}: {text[:300]}"
