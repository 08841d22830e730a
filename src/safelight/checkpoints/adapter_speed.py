"""LoRAs that let a model draw in a few steps, and the settings that they were made for.

They are plain LoRAs: nothing in their tensors tells. Their names do, and those of their folders
and titles. What is found is a note to the user; nothing is changed by it.

Sources: the model cards of latent-consistency/lcm-lora-*, h1t/TCD-*, ByteDance/SDXL-Lightning,
ByteDance/Hyper-SD, tianweiy/DMD2, jasperai/flash-*, wangfuyun/PCM_Weights, stabilityai/sdxl-turbo.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from safelight.diffusion.samplers import SAMPLERS
from safelight.families import SamplerHint
from safelight.printable import shown

_STEPS = re.compile(r"(?<!\d)(\d{1,2})[-_ ]?steps?(?![a-z])")
_MOST_STEPS = 64
_LONGEST = 300  # of a title that is looked at
_PARENTS = 3  # hub files are called the same; their repositories are not


@dataclass(frozen=True, slots=True)
class SpeedHint:
    """A way of distilling, the settings that suit it, and where it was read."""

    method: str
    hint: SamplerHint
    seen_in: str

    @property
    def note(self) -> str:
        """One sentence for the user."""
        hint = self.hint
        schedule = f" --schedule {hint.schedule}" if hint.schedule else ""
        return (
            f"this looks like a LoRA for few steps ({self.method}, by {self.seen_in}); it was made "
            f"for --sampler {hint.sampler}{schedule} --steps {hint.steps} --cfg "
            f"{hint.guidance_scale:g}; nothing was changed"
        )


def speed_hint(path: Path, metadata: Mapping[str, str]) -> SpeedHint | None:
    """The settings for an LCM, TCD, Lightning, Hyper-SD, Turbo, DMD2, Flash or PCM LoRA.

    None if neither its names nor its title speak of any.
    """
    for text, where in _texts(path, metadata):
        for method, pattern, settings in _METHODS:
            if pattern.search(text):
                asked = _STEPS.search(text)
                steps = int(asked[1]) if asked and 1 <= int(asked[1]) <= _MOST_STEPS else None
                return SpeedHint(method, settings(steps, text), where)
    return None


def _texts(path: Path, metadata: Mapping[str, str]) -> Iterable[tuple[str, str]]:
    yield path.stem.lower(), f"its name {shown(path.name, 60)}"
    for key in ("modelspec.title", "ss_output_name"):
        if title := metadata.get(key, ""):
            yield title[:_LONGEST].lower(), f"its title {shown(title, 60)}"
    for folder in path.absolute().parents[:_PARENTS]:
        yield folder.name.lower(), f"its folder {shown(folder.name, 60)}"


Settings = Callable[[int | None, str], SamplerHint]


def _usual(sampler: str, schedule: str | None, usual: int = 4, guidance: float = 1.0) -> Settings:
    assert sampler in SAMPLERS
    return lambda steps, text: SamplerHint(sampler, schedule, steps or usual, guidance)


def _hyper(steps: int | None, text: str) -> SamplerHint:
    if steps == 1:  # the unified LoRA, and those for one step, are for TCD
        return SamplerHint("tcd", None, 1, 1.0)
    guidance = 5.0 if "cfg" in text else 1.0
    return SamplerHint("ddim", "trailing", steps or 8, guidance)


def _pcm(steps: int | None, text: str) -> SamplerHint:
    return SamplerHint("ddim", "trailing", steps or 4, 7.5 if "normalcfg" in text else 1.0)


def _method(name: str, pattern: str, settings: Settings) -> tuple[str, re.Pattern[str], Settings]:
    return name, re.compile(pattern), settings


# Words that styles are called by, too ("lightning", "turbo"), need company.
_METHODS: tuple[tuple[str, re.Pattern[str], Settings], ...] = (
    _method("Hyper-SD", r"hyper[-_ ]?(sd|flux|\d)", _hyper),
    _method(
        "SDXL-Lightning",
        r"(xl|sd)[-_ ]*lightning|lightning[-_ ]*(lora[-_ ]*)?\d+[-_ ]*steps?",
        _usual("euler", "trailing"),
    ),
    _method("PCM", r"(?<![a-z])pcm[-_ ](sd|xl|weights|lora)", _pcm),
    _method("DMD2", r"(?<![a-z])dmd2?(?![a-z])", _usual("lcm", "trailing")),
    _method("Flash Diffusion", r"flash[-_ ]?(sd|pixart|diffusion)", _usual("lcm", "trailing")),
    _method("TCD", r"(?<![a-z])tcd(?![a-z])", _usual("tcd", None)),
    _method("LCM", r"(?<![a-z])lcm(?![a-z])", _usual("lcm", None)),
    _method("Turbo", r"(xl|sd)[-_ ]*turbo|turbo[-_ ]*lora", _usual("euler_ancestral", "trailing")),
)
