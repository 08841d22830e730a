"""What contenders are asked to do: works by name, and the task that goes to their processes."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import MappingProxyType

from safelight.benchmarks.peers.serving import TRIAL
from safelight.tasks.presets import preset_settings

PROMPT = "a lighthouse on a cliff in the evening, waves, a small red boat"
NEGATIVE = "blurry"


@dataclass(frozen=True)
class WorkKind:
    """A work that can be timed.

    fresh: every round is a process of its own. unit: of what is measured. alone: looks into our
    own network and has no peer.
    """

    name: str
    words: str
    fresh: bool = False
    unit: str = "s"
    alone: bool = False


WORKS: Mapping[str, WorkKind] = MappingProxyType(
    {
        work.name: work
        for work in (
            WorkKind("step", "one call of the U-Net"),
            WorkKind("decode", "latents to a picture"),
            WorkKind("encode", "a picture to latents"),
            WorkKind("text", "both prompts to what the network is told"),
            WorkKind("picture", "a picture from a loaded model"),
            WorkKind("train", "a training step"),
            WorkKind("load", "reading the model, in a new process", fresh=True),
            WorkKind("start", "from starting a process to its end, a PNG written", fresh=True),
            WorkKind(
                "memory",
                "most memory that a process takes to draw",
                fresh=True,
                unit="B",
            ),
            WorkKind("overhead", "time of a step outside kernels", unit="%"),
            WorkKind("roofline", "a step beside what the machine can do", unit="%", alone=True),
        )
    }
)


@dataclass(frozen=True)
class Task:
    """All that a contender's process is told. Paths are of files that all contenders share.

    how: the engine of ours, or the way of a peer. model: a Diffusers folder. single: the same
    weights in one file, where a peer reads no folder. inputs: a folder of .npy files. export:
    where a peer keeps what it made of the model.
    """

    work: str
    how: str
    precision: str
    device: str
    threads: int
    model: str
    single: str
    inputs: str
    export: str
    width: int
    height: int
    batch: int  # pictures
    steps: int
    guidance: float
    seed: int
    prompt: str = PROMPT
    negative: str = NEGATIVE
    png: str = ""  # where `start` writes its picture
    adapted: bool = False  # train: a LoRA instead of the whole U-Net
    offload: str = "auto"  # which parts of ours are in memory when; auto: as `ours.opened` says
    preset: str = ""  # with which ours draws; the steps are then its own

    @property
    def recipe(self) -> Mapping[str, object]:
        """Sampler, schedule and steps under the names of a request.

        Euler over evenly spaced times, as all libraries have it, or the preset's.
        """
        exact = {"sampler": "Euler", "schedule": "Uniform", "steps": self.steps}
        return {**exact, **preset_settings(self.preset or None)}

    @property
    def short(self) -> "Task":
        """The same with few steps, by which contenders are checked: rounding adds up over many.

        It has no preset: whoever has one is checked at the recipe of all others.
        """
        return replace(self, steps=min(self.steps, TRIAL), preset="")

    @property
    def guided(self) -> bool:
        return self.guidance != 1

    def line(self) -> dict[str, object]:
        return asdict(self)


def input_file(folder: str | Path, name: str) -> Path:
    """Where an input lies: latents, time, context, pooled, sizes, raw, images, noise."""
    return Path(folder) / f"{name}.npy"
