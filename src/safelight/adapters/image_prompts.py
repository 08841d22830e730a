"""Picture prompts in a U-Net: tokens of pictures, and branches put in its doors and taken out.

IP-Adapter, Ye et al. 2023 (arXiv:2308.06721). Shapes: H W pixels, h w latent height and width,
T tokens of a picture, D width of the tokens.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from safelight.adapters.clip_picture import clip_picture
from safelight.condition import ImagePrompt
from safelight.errors import CheckpointError, RequestError
from safelight.models.attention import Attention, named_attentions
from safelight.models.clip import ClipVision
from safelight.models.image_prompt import ImagePromptConfig, ImagePromptNet, ScaledBranch
from safelight.models.unet import UNet
from safelight.printable import shown

STYLE: Mapping[str, float] = MappingProxyType({"up_blocks.0.attentions.1": 1.0})
"""The layers of SDXL that carry style (InstantStyle, Wang et al. 2024, arXiv:2404.02733)."""
LAYOUT: Mapping[str, float] = MappingProxyType({"down_blocks.2.attentions.1": 1.0})
"""The layers of SDXL that carry layout (the same)."""

_TEXT_WIDTHS = {768: "SD 1.x", 1024: "SD 2.x", 1280: "the SDXL refiner", 2048: "SDXL"}


@dataclass(frozen=True, eq=False)
class ImagePromptAdapter:
    """A loaded adapter with the vision tower that it reads pictures with.

    name: for people, such as the file's. files: where the weights are from.
    """

    name: str
    net: ImagePromptNet
    vision: ClipVision
    files: tuple[Path, ...] = ()

    @property
    def config(self) -> ImagePromptConfig:
        return self.net.config

    @property
    def tokens_each(self) -> int:
        """T, the tokens of one picture."""
        return self.config.tokens or self.vision.config.tokens


class PictureTokens(NamedTuple):
    """What the positive and the negative condition are told; both (1, n · T, D)."""

    positive: Tensor
    negative: Tensor


class PromptPair(NamedTuple):
    """The picture prompts of the positive and the negative condition."""

    positive: ImagePrompt
    negative: ImagePrompt


@torch.no_grad()
def tokens(adapter: ImagePromptAdapter, pictures: Sequence[NDArray[np.uint8]]) -> PictureTokens:
    """Pictures (H, W, 3) as tokens, one after the other, and the tokens of no picture.

    No picture is an embedding of zeros for a plain adapter, and what the vision tower says of a
    picture of zeros for the others, as Diffusers has it. In float32.
    Raises RequestError without a picture.
    """
    if not pictures:
        raise RequestError("a picture prompt needs a picture; give at least one")
    vision, net = adapter.vision, adapter.net
    where = vision.vision_model.embeddings.class_embedding.device
    side = vision.config.image_size
    images = torch.cat([clip_picture(pixels, side) for pixels in pictures]).to(where)
    features = [_features(adapter, image[None]) for image in images]
    if adapter.config.reads_patches:
        nothing = _features(adapter, torch.zeros_like(images[:1]))
    else:
        nothing = torch.zeros_like(features[0])
    positive = torch.cat([net(one) for one in features], dim=1)
    negative = net(nothing).repeat(1, len(pictures), 1)
    return PictureTokens(positive.float(), negative.float())


def prompt_pair(
    name: str,
    told: PictureTokens,
    *,
    scale: float = 1.0,
    mask: Tensor | None = None,
    high: float = math.inf,
    low: float = -1.0,
) -> PromptPair:
    """The prompts of an attached adapter, one for `Condition.image_prompts` of either side.

    mask: (1, 1, h, w) in 0..1, how much it counts at each place; see `place_mask`. It acts where
    low < sigma <= high.
    """
    positive = ImagePrompt(name, told.positive, scale, mask, high, low)
    return PromptPair(positive, ImagePrompt(name, told.negative, scale, mask, high, low))


def place_mask(mask: NDArray[np.float32], size: tuple[int, int]) -> Tensor:
    """A mask (H, W) in 0..1 at the size (h, w) of the latents, by areas: (1, 1, h, w)."""
    whole = torch.from_numpy(np.ascontiguousarray(mask, dtype=np.float32))[None, None]
    return F.interpolate(whole, size=size, mode="area").clamp(0, 1)


def attach(
    unet: UNet,
    name: str,
    adapter: ImagePromptAdapter,
    *,
    places: Mapping[str, float] | None = None,
) -> None:
    """Put the adapter's branches in the U-Net's doors under a name; no weight changes.

    places: names of modules (or of modules around them) and how much the adapter counts there; it
    counts nothing elsewhere. None: fully everywhere. See STYLE and LAYOUT.
    Raises CheckpointError if it was made for another family, RequestError for a name that is taken
    or cannot be used, or a place that has no cross-attention.
    """
    doors = cross_attentions(unet)
    _check_name(name, doors)
    _check_fit(unet, doors, adapter)
    factors = _factors(doors, places)
    for number, (module, attention) in doors.items():
        if (factor := factors[module]) == 0:
            continue
        branch = adapter.net.branch(number)
        attention.branches[name] = branch if factor == 1 else ScaledBranch(branch, factor)


def detach(unet: UNet, name: str) -> None:
    """Take the branches of that name out; the U-Net is then what it was, bit for bit."""
    for attention in named_attentions(unet).values():
        if name in attention.branches:
            del attention.branches[name]


@contextmanager
def attached(
    unet: UNet,
    name: str,
    adapter: ImagePromptAdapter,
    *,
    places: Mapping[str, float] | None = None,
) -> Iterator[None]:
    """For as long as it is entered, the adapter is attached; see `attach`."""
    attach(unet, name, adapter, places=places)
    try:
        yield
    finally:
        detach(unet, name)


def cross_attentions(unet: UNet) -> dict[int, tuple[str, Attention]]:
    """The attentions to the text, with their names, by the numbers that adapter files give them.

    Files count every attention of a U-Net, in Diffusers' order: on the way down, then up, then in
    the middle.
    """
    order = ("down_blocks", "up_blocks", "mid_block")
    found = sorted(named_attentions(unet).items(), key=lambda x: order.index(x[0].split(".")[0]))
    return {
        number: (module, attention)
        for number, (module, attention) in enumerate(found)
        if module.endswith("attn2")
    }


def _features(adapter: ImagePromptAdapter, images: Tensor) -> Tensor:
    vision = adapter.vision
    dtype = vision.vision_model.embeddings.class_embedding.dtype
    if adapter.config.reads_patches:
        # The state before the last block, so that block need not run.
        return vision(images.to(dtype), depth=vision.config.layers - 1).hidden_states[-1]
    embeds = vision(images.to(dtype)).embeds
    assert embeds is not None, "the loader asks for the projection"
    return embeds


def _check_name(name: str, doors: Mapping[int, tuple[str, Attention]]) -> None:
    if not name or "." in name or hasattr(nn.ModuleDict, name):
        raise RequestError(
            f"a picture adapter cannot be attached as {shown(name)!r}; choose a name without dots"
        )
    if any(name in attention.branches for _, attention in doors.values()):
        raise RequestError(f"a picture adapter is attached as {shown(name)!r} already; detach it")


def _check_fit(
    unet: UNet, doors: Mapping[int, tuple[str, Attention]], adapter: ImagePromptAdapter
) -> None:
    config = adapter.config
    made_for, given = config.context_width, unet.config.context_width
    theirs, ours = dict(config.branches), {n: a.to_q.out_features for n, (_, a) in doors.items()}
    if made_for != given or theirs.keys() != ours.keys():
        raise CheckpointError(
            f"{shown(adapter.name)} is for {_family(made_for)} ({len(theirs)} cross-attentions, "
            f"text width {made_for}), but this model is {_family(given)} ({len(ours)}, {given}); "
            "give an adapter of the model's family"
        )
    if theirs != ours:
        n = next(n for n in ours if ours[n] != theirs[n])
        raise CheckpointError(
            f"{shown(adapter.name)} does not fit this U-Net: {doors[n][0]} is {ours[n]} wide, and "
            f"the adapter's branch {n} is {theirs[n]}"
        )


def _family(context_width: int) -> str:
    return _TEXT_WIDTHS.get(context_width, "a family of its own")


def _factors(
    doors: Mapping[int, tuple[str, Attention]], places: Mapping[str, float] | None
) -> dict[str, float]:
    modules = [module for module, _ in doors.values()]
    if places is None:
        return dict.fromkeys(modules, 1.0)
    factors = dict.fromkeys(modules, 0.0)
    for place, factor in places.items():
        inside = [m for m in modules if m == place or m.startswith(f"{place}.")]
        if not inside:
            raise RequestError(
                f"no cross-attention of this U-Net lies in {shown(place)!r}; "
                f"they lie in {', '.join(dict.fromkeys(_stack(m) for m in modules))}"
            )
        factors |= dict.fromkeys(inside, factor)
    return factors


def _stack(module: str) -> str:
    return module.partition(".transformer_blocks")[0]
