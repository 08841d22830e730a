"""What `safelight teach` does: a config of a few words, and the run that it describes."""

import tempfile
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from safelight.checkpoints.library import find_model
from safelight.checkpoints.load import open_checkpoint
from safelight.cli.training import Wish as Run
from safelight.cli.training import work as train
from safelight.errors import RequestError
from safelight.printable import shown
from safelight.training.config.lessons import Base, lesson
from safelight.training.config.lessons import Wish as Lesson
from safelight.training.config.reading import checked
from safelight.training.config.toml_writing import to_toml
from safelight.training.sources.opening import open_source
from safelight.writing import make_folder, write_text

FILE = "teach.toml"
EMBEDDED = "embedded"
_GIB = 1 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """The command line."""

    pictures: Path
    model: str = EMBEDDED
    kind: str = "lora"
    word: str | None = None
    prompt: str | None = None
    style: bool = False
    masks: str | None = None
    class_prompts: tuple[str, ...] = ()
    class_pictures: Path | None = None
    class_count: int | None = None
    preset: str | None = None
    steps: int | None = None
    rank: int | None = None
    vectors: int = 1
    initial: str | None = None
    rate: float | None = None
    batch: int | None = None
    size: int | None = None
    text: bool = False
    seed: int = 0
    show: tuple[str, ...] = ()
    to: Path | None = None
    name: str | None = None
    layout: str = "kohya"
    until: str | None = None
    check: bool = False
    config_only: bool = False


def work(asked: Asked) -> int:
    """Write the config of what is asked, and run it; gives the exit code.

    Raises RequestError for options that do not fit, what reading the model's header and listing the
    pictures raise, and what training raises.
    """
    folder = asked.to or Path("runs") / _called(asked)
    text = to_toml(lesson(_wish(asked, folder)), _remarks(asked))
    checked(tomllib.loads(text), FILE)
    if asked.check and not asked.config_only:
        return _check(text, asked)
    path = folder / FILE
    _keep(path, text)
    if asked.config_only:
        print(shown(path))
        return 0
    return train(Run(path, until=asked.until))


def _check(text: str, asked: Asked) -> int:
    """Look at everything from a config that is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="safelight-") as place:
        path = Path(place) / FILE
        write_text(path, text)
        return train(Run(path, check=True, until=asked.until))


def _keep(path: Path, text: str) -> None:
    """Write the config; one that is there already must be the same, so that its run goes on."""
    if path.is_file():
        if path.read_text(encoding="utf-8") != text:
            raise RequestError(
                f"{shown(path)} was made of other options; give another folder with --to, the old "
                f"options to go on, or change it by hand and run `safelight train {shown(path)}`"
            )
        return
    make_folder(path.parent)
    write_text(path, text)


def _called(asked: Asked) -> str:
    """The name of the run's folder."""
    word = asked.name or asked.word or asked.pictures.name
    kept = "".join(c if c.isalnum() or c in "-_." else "-" for c in word).strip(".-")
    return f"{kept or 'taught'}-{asked.kind}"


def _wish(asked: Asked, folder: Path) -> Lesson:
    source = open_source(str(asked.pictures))
    captions = [source.example(i).captions for i in range(len(source))]
    if asked.layout not in ("kohya", "diffusers"):
        raise RequestError(f"--layout must be kohya or diffusers; got {shown(asked.layout)}")
    return Lesson(
        pictures=str(asked.pictures),
        kind=asked.kind,
        folder=str(folder),
        base=base_of(asked.model),
        captions=tuple(each[0] for each in captions) if all(captions) else (),
        word=asked.word,
        prompt=asked.prompt,
        style=asked.style,
        class_prompts=asked.class_prompts,
        class_pictures=None if asked.class_pictures is None else str(asked.class_pictures),
        class_count=asked.class_count,
        masks=None if asked.masks == "alpha" else asked.masks,
        alpha=asked.masks == "alpha",
        preset=asked.preset or machine(),
        steps=asked.steps,
        rank=asked.rank,
        vectors=asked.vectors,
        initial=asked.initial,
        rate=asked.rate,
        batch=asked.batch,
        size=asked.size,
        text=asked.text,
        show=asked.show,
        name=asked.name,
        layout=asked.layout,  # type: ignore[arg-type]
        seed=asked.seed,
    )


def base_of(name: str) -> Base:
    """What the header of a model says. Raises as `find_model` and `open_checkpoint`."""
    path = find_model(name)
    with open_checkpoint(path) as checkpoint:
        family = checkpoint.family
        weights = sum(
            part.tensors.info(tensor).nbytes // part.tensors.info(tensor).dtype.itemsize
            for part in checkpoint.parts
            if part.role == "unet"
            for tensor in part.tensors.names
        )
    factor = family.codec.factor * 2 ** (family.backbone.levels - 1)
    return Base(
        name=name if name == EMBEDDED else str(path),
        label=family.label,
        size=family.native_size,
        multiple=factor,
        weights=weights,
        towers=len(family.text.roles),
    )


def machine() -> str:
    """The preset for this machine."""
    if not torch.cuda.is_available():
        return "cpu"
    return "24gb" if torch.cuda.get_device_properties(0).total_memory >= 20 * _GIB else "8gb"


def _remarks(asked: Asked) -> tuple[str, ...]:
    """What stands over the config."""
    told: dict[str, Any] = {"kind": asked.kind, "word": asked.word}
    said = ", ".join(f"{name} {shown(value, 60)}" for name, value in told.items() if value)
    return (
        f"Written by `safelight teach`: {said}.",
        "Every number may be changed; `safelight train` with this file does the same again.",
    )
