"""What a checkpoint is, and of which family, with the reasons in words."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from safelight.checkpoints.kinds import Kind
from safelight.families import Family
from safelight.models.unet import UNetConfig

Layout = Literal["Diffusers folder", "original single file", "Diffusers names", "original names"]


@dataclass(frozen=True, slots=True)
class Identity:
    """What a file or folder is.

    family: None unless `kind` is "model" or "unet". reason: why this kind and family.
    prediction, prediction_reason: what the U-Net predicts, and how we know.
    notes: guesses and oddities that a user should see.
    """

    kind: Kind
    layout: Layout
    family: Family | None
    reason: str
    prediction: str | None = None
    prediction_reason: str = ""
    notes: tuple[str, ...] = ()


def described(config: UNetConfig) -> str:
    """The traits of a U-Net that tell families apart, in words."""
    depths = ", ".join(str(level[0] if len(set(level)) == 1 else level) for level in config.depths)
    traits: list[str] = [
        f"{config.in_channels} input channels",
        f"{config.channels[0]} model channels",
        f"context width {config.context_width}",
        f"{'linear' if config.linear_projection else 'convolutional'} projections",
        f"transformer depths {depths}",
    ]
    if config.vector_width is not None:
        traits.append(f"a vector of {config.vector_width}")
    if config.noise_levels is not None:
        traits.append(f"a table of {config.noise_levels} noise levels")
    if config.mid_depth is None:
        traits.append("no middle block")
    return ", ".join(traits)


def reason_for(family: Family, evidence: Sequence[str] = ()) -> str:
    """Why this family: the traits of its U-Net and what else was seen."""
    head = "no published family has" if family.name.startswith("custom") else "it has"
    return "; ".join([f"{family.label}: {head} {described(family.backbone)}", *evidence])
