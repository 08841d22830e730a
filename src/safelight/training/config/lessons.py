"""What `safelight teach` makes of a few words: a whole config, with defaults that were tried.

Published defaults: Hu et al. 2021 and the training scripts of Diffusers (LoRA 1e-4, textual
inversion 5e-4 times a batch of 4, DreamBooth 5e-6, LCM-LoRA 1e-4). Networks of under a hundred
million weights take larger steps; those were found with the model that the package carries.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Literal, get_args

from safelight.errors import RequestError
from safelight.printable import shown
from safelight.training.config.teaching import Kind, Layout

LESSONS: tuple[str, ...] = (*get_args(Kind), "inversion", "lcm")  # "full" is the whole U-Net
SMALL = 100_000_000  # weights of a U-Net below which steps are larger


@dataclass(frozen=True, slots=True)
class Preset:
    """How a run fits a machine. For models of Stable Diffusion's size; small ones fit anyway.

    batch: pictures of a step. micro: of them at once. checkpointing: activations are computed
    again instead of kept. channels_last: weights of convolutions lie in the order in which a CPU
    computes: a step of SD 1.5's LoRA took 0.75 s in place of 1.43 on two cores.
    """

    precision: Literal["fp32", "bf16"]
    batch: int
    micro: int
    checkpointing: bool
    channels_last: bool = False


PRESETS: Mapping[str, Preset] = MappingProxyType(
    {
        "cpu": Preset("bf16", 2, 1, True, channels_last=True),
        "8gb": Preset("bf16", 2, 1, True),
        "24gb": Preset("bf16", 4, 4, False),
    }
)
"""cpu: 24 GB of memory and no GPU. 8gb, 24gb: a GPU of so much memory."""
XL = 2_000_000_000  # weights of a U-Net from which on a model is one of SDXL's size
PREVIEWS = 4  # captions that are drawn while it learns
SMALL_PRESET = Preset("fp32", 8, 8, False)


@dataclass(frozen=True, slots=True)
class Numbers:
    """How fast and how long a kind learns: for large models, and for small ones."""

    rate: float
    steps: int
    small_rate: float
    small_steps: int


NUMBERS: Mapping[str, Numbers] = MappingProxyType(
    {
        "lora": Numbers(1e-4, 1500, 1e-3, 300),
        "locon": Numbers(1e-4, 1500, 1e-3, 300),
        "loha": Numbers(1e-4, 1500, 1e-3, 300),
        "lokr": Numbers(1e-4, 1500, 1e-3, 300),
        "dora": Numbers(1e-4, 1500, 1e-3, 300),
        "ia3": Numbers(5e-3, 1500, 1e-2, 300),
        "glora": Numbers(1e-4, 1500, 1e-3, 300),
        "oft": Numbers(1e-4, 1500, 1e-3, 300),
        "boft": Numbers(1e-4, 1500, 1e-3, 300),
        "inversion": Numbers(2e-3, 2000, 5e-3, 300),
        "full": Numbers(5e-6, 800, 1e-4, 400),
        "lcm": Numbers(1e-4, 2000, 5e-4, 2000),
    }
)


@dataclass(frozen=True, slots=True)
class Base:
    """What is known of the model: from its header alone."""

    name: str  # as the config shall call it
    label: str
    size: int  # pixels
    multiple: int  # of which sides must be
    weights: int  # of its U-Net
    towers: int

    @property
    def small(self) -> bool:
        return self.weights < SMALL


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What a person wants taught; None is what suits the model.

    captions: of the pictures, if each has one; empty if one has none. show: prompts of previews.
    """

    pictures: str
    kind: str
    folder: str
    base: Base
    captions: tuple[str, ...] = ()
    word: str | None = None
    prompt: str | None = None
    style: bool = False
    class_prompts: tuple[str, ...] = ()
    class_pictures: str | None = None
    class_count: int | None = None
    masks: str | None = None
    alpha: bool = False
    preset: str = "cpu"
    steps: int | None = None
    rank: int | None = None
    vectors: int = 1
    initial: str | None = None
    rate: float | None = None
    batch: int | None = None
    size: int | None = None
    text: bool = False
    show: tuple[str, ...] = ()
    name: str | None = None
    layout: Layout = "kohya"
    seed: int = 0


def lesson(wish: Wish) -> dict[str, Any]:
    """The values of a config that teaches what is wished.

    Raises RequestError for an unknown kind or preset, and for pictures without captions and word.
    """
    if wish.kind not in LESSONS:
        raise RequestError(f"kind must be one of {', '.join(LESSONS)}; got {shown(wish.kind)}")
    if wish.preset not in PRESETS:
        raise RequestError(f"preset must be one of {', '.join(PRESETS)}; got {shown(wish.preset)}")
    fits = fitting(wish.preset, wish.kind, wish.base)
    recipe = {"inversion": "textual_inversion", "full": "diffusion", "lcm": "lcm"}
    values: dict[str, Any] = {
        "recipe": recipe.get(wish.kind, "lora"),
        "folder": wish.folder,
        "data": _data(wish),
        "model": {"checkpoint": wish.base.name},
        **_sections(wish),
        "noise": {"checkpointing": fits.checkpointing},
        "training": _training(wish, fits),
        "export": {"name": wish.name, "layout": wish.layout},
    }
    if wish.kind == "full":
        del values["export"]
        values["text"] = {"learns": wish.text}
    prompts = wish.show or _shown(wish)
    if prompts:
        values["previews"] = {"prompts": list(prompts), **_drawn(wish)}
    return values


def fitting(preset: str, kind: str, base: Base) -> Preset:
    """How a kind is taught to a model on such a machine.

    Raises RequestError for what takes more memory than that. The bytes are those of
    `scripts/count_training_memory.py`, at the size that the models were made for.
    """
    if base.small:
        return SMALL_PRESET
    full, large = kind == "full", base.weights > XL
    if full and (large or preset == "8gb"):
        raise RequestError(
            f"preset {preset} has no room for all weights of {shown(base.name)}: the tensors of a "
            f"step take {66 if large else 18} GB; teach it an adapter (--kind lora), or write a "
            "config for a larger machine (safelight train)"
        )
    if large and preset == "8gb":
        raise RequestError(
            f"preset 8gb has no room for {shown(base.name)}: the tensors of a step take 10 GB; "
            "give --preset 24gb on a GPU of 16 GB or more, or --preset cpu"
        )
    found = PRESETS[preset]
    return replace(found, checkpointing=True) if full or large else found


def _data(wish: Wish) -> dict[str, Any]:
    size = wish.size or wish.base.size
    return {
        "path": wish.pictures,
        "size": size,
        "multiple": wish.base.multiple,
        "held_out": 0.0,  # of a few pictures each is needed
        "captions": _captions(wish),
    }


def _captions(wish: Wish) -> dict[str, Any]:
    """What is said of the pictures: their captions with the word before them, or templates."""
    if wish.prompt is not None:
        return {"templates": [_told(wish.prompt, wish.word)]}
    if wish.captions:
        said = wish.word is None or all(wish.word in caption for caption in wish.captions)
        return {"templates": ["{caption}"], "trigger": None if said else wish.word}
    if not wish.word:
        raise RequestError(
            "the pictures have no captions; say what they show with --word, or with --prompt, or "
            "give each a text file of its name"
        )
    word = _escaped(wish.word)
    if wish.style:
        return {"templates": [f"a picture in {word} style", f"{word} style"]}
    return {"templates": [f"a picture of {word}", f"{word}"]}


def _told(prompt: str, word: str | None) -> str:
    """The prompt, with the word where it says {word}."""
    if "{word}" in prompt and not word:
        raise RequestError("--prompt says {word}; give --word, which takes its place")
    return prompt.replace("{word}", _escaped(word or ""))


def _escaped(text: str) -> str:
    return text.replace("{", "{{").replace("}", "}}")


def _sections(wish: Wish) -> dict[str, Any]:
    """What only the recipe of this kind has, and mask and class."""
    found: dict[str, Any] = {}
    if wish.kind == "inversion":
        if not wish.word:
            raise RequestError("--kind inversion teaches a word; give --word")
        told = {"word": wish.word, "vectors": wish.vectors, "initial": wish.initial}
        found["inversion"] = told
    elif wish.kind == "lcm":
        found["adapter"] = {"rank": wish.rank or 64}
        found["distillation"] = {"guidance": 3.0 if wish.base.small else 7.5}
    elif wish.kind != "full":
        found["adapter"] = {
            "kind": wish.kind,
            "rank": wish.rank or (8 if wish.base.small else 16),
            "text": wish.text,
        }
    if wish.masks is not None or wish.alpha:
        found["mask"] = {"folder": wish.masks, "alpha": wish.alpha or None}
    if wish.class_prompts or wish.class_pictures is not None:
        one = wish.class_prompts[0] if len(wish.class_prompts) == 1 else None
        found["prior"] = {
            "prompt": one or list(wish.class_prompts) or None,
            "path": wish.class_pictures,
            "count": wish.class_count,
            **({"guidance_scale": 3.0, "steps": 20} if wish.base.small else {}),
        }
    return found


def _training(wish: Wish, fits: Preset) -> dict[str, Any]:
    numbers = NUMBERS[wish.kind]
    small = wish.base.small
    steps = wish.steps or (numbers.small_steps if small else numbers.steps)
    rate = wish.rate or (numbers.small_rate if small else numbers.rate)
    batch = wish.batch or fits.batch
    return {
        "batch_size": batch,
        "micro_batch": min(fits.micro, batch),
        "steps": steps,
        "learning_rate": rate,
        "warmup_steps": min(20, steps // 10),
        "schedule": "cosine",
        "decay_from": 0.5,
        "precision": fits.precision,
        "channels_last": fits.channels_last,
        "seed": wish.seed,
        "log_every": max(1, steps // 20),
        "validate_every": max(1, steps // 4),
    }


def _shown(wish: Wish) -> tuple[str, ...]:
    """What previews show unless it is said: some of the captions, or the word."""
    if wish.captions and wish.prompt is None:
        before = "" if wish.word is None or wish.word in wish.captions[0] else f"{wish.word}, "
        return tuple(f"{before}{caption}" for caption in wish.captions[:PREVIEWS])
    if wish.word is None:
        return ()
    return (f"a picture in {wish.word} style",) if wish.style else (f"a picture of {wish.word}",)


def _drawn(wish: Wish) -> dict[str, Any]:
    if wish.kind == "lcm":
        return {"steps": 4, "guidance_scale": 1.0, "sampler": "lcm", "schedule": "lcm"}
    return {"guidance_scale": 3.0 if wish.base.small else 7.0}
