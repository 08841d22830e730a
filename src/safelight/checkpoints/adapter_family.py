"""For which models an adapter was made: by the names and shapes of what it changes."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from safelight import families
from safelight.checkpoints.adapter_file import AdapterFile, Fit, fitted
from safelight.checkpoints.adapter_names import layers_of
from safelight.checkpoints.adapter_remarks import stated_family
from safelight.checkpoints.load import open_checkpoint
from safelight.embedded.carried import embedded_folder
from safelight.families import Family

# The likeliest first; models that differ in their input alone have the same layers.
CANDIDATES: tuple[Family, ...] = (
    families.SD15,
    families.SD2_BASE,
    families.SDXL,
    families.SDXL_REFINER,
    families.SSD_1B,
    families.VEGA,
    families.KOALA_1B,
    families.KOALA_700M,
    families.SD21_UNCLIP_L,
    families.X4_UPSCALER,
)
# Adapters of models that we do not draw with, by layers that only these have.
_FOREIGN: tuple[tuple[str, str], ...] = (
    (r"double_blocks[._]\d+[._](img|txt)|single_transformer_blocks|single_blocks[._]\d+", "Flux"),
    (r"joint_blocks|ff_context|norm1_context|attn[._]add_[qkv]_proj", "Stable Diffusion 3"),
    (r"motion_modules", "AnimateDiff"),
    (r"^ip_adapter\.", "an IP-Adapter, which takes a picture as a prompt"),
    (r"^lora_prior_|down_blocks[._]0[._]\d+[._]channelwise", "Stable Cascade"),
    (r"temporal_transformer|time_stack|temp_convs", "a video model"),
    (
        r"^(lora_|lycoris_)?transformer[._]|^(diffusion_model\.)?(blocks|layers)\.\d",
        "a transformer",
    ),
)


@dataclass(frozen=True, slots=True)
class Origin:
    """The family that an adapter's layers are those of, and how they compare with it."""

    family: Family
    fit: Fit

    @property
    def label(self) -> str:
        """The family in words, with the width of the text that tells it."""
        return labelled(self.family)


def labelled(family: Family) -> str:
    """A family in words, with the width of the text that its U-Net reads."""
    return f"{family.label} (context width {family.backbone.context_width})"


def origin_of(opened: AdapterFile) -> Origin | None:
    """The family that has most of an adapter's layers in its shapes; None if none has.

    Looked at are those that are published and that of the embedded model. Of families that fit
    alike, the one that the file's metadata names, else the most common: what fits a distilled SDXL
    fits SDXL, too. It may be one in which the layers have other shapes, if no other has them.
    Raises CheckpointError as `fitted` does.
    """
    best: Origin | None = None
    stated = stated_family(opened.file.metadata)
    own = embedded_family()
    for family in CANDIDATES if own is None else (*CANDIDATES, own):
        found = Origin(family, fitted(opened, layers_of(family)))
        if not (found.fit.changes or found.fit.misfits):
            continue
        if best is None or _rank(found, stated) > _rank(best, stated):
            best = found
        if best.fit.whole and (not stated or _named(best.family, stated)):
            break  # none can fit better
    return best


def embedded_family() -> Family | None:
    """The family of the model that the package carries; None if it carries none."""
    folder = embedded_folder()
    return None if folder is None else _family_in(folder)


@lru_cache(maxsize=4)
def _family_in(folder: Path) -> Family:
    with open_checkpoint(folder) as checkpoint:
        return checkpoint.family


def foreign_origin(modules: Iterable[str]) -> str:
    """A model of another kind whose layers these are, in words; empty for none that we know."""
    names = list(modules)
    for pattern, what in _FOREIGN:
        compiled = re.compile(pattern)
        if any(compiled.search(name) for name in names):
            return what
    return ""


def _rank(origin: Origin, stated: str) -> tuple[int, int, bool]:
    fit = origin.fit
    # Where nothing fits, the family that at least has layers of these names.
    odd = len(fit.misfits) if fit.changes else len(fit.unmatched)
    return (fit.matched + len(fit.idle), -odd, _named(origin.family, stated))


def _named(family: Family, stated: str) -> bool:
    return bool(stated) and f"{family.label} ".startswith(f"{stated} ")
