#!/usr/bin/env python3
"""Put the results of `safelight train` into the package, as the model that Safelight carries.

    python scripts/embedded/pack.py --diffusion runs/embedded/diffusion/model \\
        --clip runs/embedded/clip/model --evaluator runs/embedded/evaluator/model \\
        --decoder runs/embedded/decoder/model --edges runs/embedded/edge-control/model --replace

Writes src/safelight/embedded/emoji: U-Net, text tower, autoencoder and tokenizer of the diffusion
model, the vision tower of CLIP, the evaluator, and what goes with the model if it is given: a
ControlNet for edges, a LoRA for few steps and a tiny decoder. All in 16 bits, with SHA256SUMS
beside. The same sources give the same bytes. What was written is read again, compared with the
sources weight by weight, and drawn with, before it takes the place of what is there.
"""

import argparse
import dataclasses
import hashlib
import json
import os
import sys
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from companions import edges_of, write_companions
from torch import Tensor, nn

from safelight.checkpoints.evaluator_folder import load_evaluator, write_evaluator
from safelight.checkpoints.load import load, load_autoencoder
from safelight.checkpoints.save import save
from safelight.checkpoints.vision_folder import load_clip_vision
from safelight.embedded.carried import COMPANIONS, EDGES
from safelight.errors import CheckpointError, OutputError, SafelightError
from safelight.model import Model
from safelight.models.clip import ClipVision
from safelight.printable import shown
from safelight.tasks.generate import generate
from safelight.tasks.request import Request
from safelight.writing import make_folder, write_text

if TYPE_CHECKING:
    from safelight.tasks.painting import Progress

TARGET = Path(__file__).resolve().parents[2] / "src/safelight/embedded/emoji"
SUMS = "SHA256SUMS"
FILE_LIMIT, LIMIT = 16_000_000, 64_000_000  # bytes of one file, and of all weights
WEIGHTS = {".safetensors"}
SHARD = 15_000_000  # bytes of a file of weights; room is left for what hosts count otherwise
PROMPTS = ("a red apple on a blue background", "two cats, flat style")
MAKING = ("encoder.", "quant_conv.")  # the weights of an autoencoder that make latents
STEPS = 8  # of the drawing that is compared
NEAR = 0.03  # deviation of latents drawn with rounded weights, as a share of their own
LEVELS = 3.0  # mean difference of pixels, of 255


@dataclass(frozen=True)
class Source:
    """The folders that `safelight train` wrote."""

    diffusion: Path
    clip: Path
    evaluator: Path
    decoder: Path | None = None  # of an autoencoder whose decoder alone learned on
    edges: Path | None = None  # a ControlNet for edges
    speed: Path | None = None  # a LoRA's file
    tiny: Path | None = None  # a tiny decoder's file


def pack(source: Source, target: Path, *, replace: bool = False) -> list[Path]:
    """Write the model into the folder `target`; gives the files whose bytes were not there before.

    Raises OutputError if there is one already and it is not to be replaced, if it is too large, or
    if it cannot be written; CheckpointError if the parts do not belong together or what was written
    is not what was read. Then nothing is changed.
    """
    if target.exists() and any(target.iterdir()) and not replace:
        raise OutputError(f"{shown(target)} holds a model already; --replace puts another there")
    make_folder(target.parent)
    with tempfile.TemporaryDirectory(prefix=".packing-", dir=target.parent) as place:
        folder = Path(place) / "new"
        model = with_decoder(load(source.diffusion, dtype=torch.float32), source.decoder)
        vision = load_clip_vision(source.clip, dtype=torch.float32)
        check_towers(model, source.clip)
        save(model, folder, dtype=torch.float16, max_file_bytes=SHARD, image_encoder=vision)
        tell_scale(source.clip, folder)
        judge = load_evaluator(source.evaluator)
        write_evaluator(folder / "evaluator", judge.evaluator, judge.labels, dtype=torch.float16)
        write_companions(model, folder, edges=source.edges, speed=source.speed, tiny=source.tiny)
        write_text(folder / SUMS, sums(folder))
        check_sizes(folder)
        check_weights(model, vision, judge.evaluator, folder, source.edges)
        check_drawing(model, load(folder, dtype=torch.float32))
        old = {path.read_bytes() for path in _files(target)} if target.exists() else set()
        fresh = [
            path.relative_to(folder) for path in _files(folder) if path.read_bytes() not in old
        ]
        if target.exists():
            os.replace(target, Path(place) / "old")
        os.replace(folder, target)
    return [target / path for path in fresh]


def with_decoder(model: Model, path: Path | None) -> Model:
    """The model with the decoder of another autoencoder, which must make the same latents."""
    if path is None:
        return model
    codec = load_autoencoder(path, dtype=torch.float32)
    own = {name: w for name, w in _coder(model).state_dict().items() if name.startswith(MAKING)}
    other = _as_module(codec.autoencoder).state_dict()
    if codec.config != model.codec.config or any(
        name not in other or not torch.equal(weight, other[name]) for name, weight in own.items()
    ):
        raise CheckpointError(
            f"{shown(path)} makes other latents than the autoencoder that the diffusion model was "
            "trained with; give one that learned with autoencoder.learns = decoder"
        )
    return dataclasses.replace(model, codec=codec)


def tell_scale(clip: Path, folder: Path) -> None:
    """Write the CLIP's own logit scale beside its vision tower: its weights do not hold it."""
    ours, theirs = (place / "image_encoder" / "config.json" for place in (folder, clip))
    scale = json.loads(theirs.read_text()).get("logit_scale")
    if scale is not None:
        config = {**json.loads(ours.read_text()), "logit_scale": scale}
        write_text(ours, json.dumps(config, indent=2) + "\n")


def check_towers(model: Model, clip: Path) -> None:
    """Raise CheckpointError unless the model reads texts with the tower of this CLIP."""
    from safelight.checkpoints.load import load_clip

    (own,) = model.text.encoders
    theirs = load_clip(clip / "text_encoder", dtype=torch.float32)
    if _unlike(own, theirs):
        raise CheckpointError(
            f"the text tower of the diffusion model is not that of {shown(clip)}, so its vision "
            "tower cannot match texts with pictures; give the CLIP that the model was trained with"
        )


def check_sizes(folder: Path) -> None:
    """Raise OutputError if a file, or all weights, are larger than a repository should hold."""
    sizes = {path: path.stat().st_size for path in _files(folder)}
    for path, size in sizes.items():
        if size >= FILE_LIMIT:
            raise OutputError(f"{shown(path.name)} has {size} bytes; a file may have {FILE_LIMIT}")
    if (total := sum(size for path, size in sizes.items() if path.suffix in WEIGHTS)) >= LIMIT:
        raise OutputError(
            f"the model's weights have {total} bytes, and may have {LIMIT}; train a smaller one"
        )


def check_weights(
    model: Model, vision: ClipVision, judge: nn.Module, folder: Path, edges: Path | None = None
) -> None:
    """Raise CheckpointError unless every weight in the folder is its source's, in 16 bits."""
    written = load(folder, dtype=torch.float32)
    pairs: list[tuple[nn.Module, nn.Module]] = [
        (model.network.unet, written.network.unet),
        (_coder(model), _coder(written)),
        *zip(model.text.encoders, written.text.encoders, strict=True),
        (vision, load_clip_vision(folder, dtype=torch.float32)),
        (judge, load_evaluator(folder / "evaluator").evaluator),
    ]
    if edges is not None:
        pairs.append((edges_of(model, edges), edges_of(written, folder / COMPANIONS[EDGES])))
    for one, other in pairs:
        if name := _unlike(one, other):
            raise CheckpointError(f"{type(one).__name__}: {name} was not written as it was read")
    same = (written.family.process, written.family.hint, written.family.text.vocabulary.digest)
    if same != (model.family.process, model.family.hint, model.family.text.vocabulary.digest):
        raise CheckpointError("process, settings or words were not written as they were read")


def check_drawing(model: Model, written: Model) -> tuple[float, float]:
    """How far what is drawn with the written model is from its source's: latents and pixels.

    The first is the deviation of the difference over that of the latents, the second the mean in
    levels of 255. Raises CheckpointError beyond what rounding to 16 bits explains.
    """
    apart, levels = 0.0, 0.0
    for number, prompt in enumerate(PROMPTS):
        (ours, theirs), (picture, other) = zip(
            *(_drawn(one, prompt, number) for one in (model, written)), strict=True
        )
        apart = max(apart, float((ours - theirs).std() / ours.std()))
        levels = max(levels, float((picture - other).abs().mean()))
    if not (apart <= NEAR and levels <= LEVELS):
        raise CheckpointError(
            f"the written model draws something else: latents differ by {apart:.3g} of their "
            f"deviation (at most {NEAR}), pixels by {levels:.3g} levels (at most {LEVELS})"
        )
    return apart, levels


def sums(folder: Path) -> str:
    """The SHA-256 of every file below a folder, as `sha256sum -c` reads it."""
    lines = [
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(folder).as_posix()}\n"
        for path in _files(folder)
        if path.name != SUMS
    ]
    return "".join(lines)


def _drawn(model: Model, prompt: str, seed: int) -> tuple[Tensor, Tensor]:
    """The last latents and the pixels of a picture."""
    last: list[Tensor] = []

    def keep(progress: "Progress") -> None:
        last[:] = [progress.denoised.float()]

    (picture,) = generate(model, Request(prompt=prompt, steps=STEPS, seed=seed), watch_steps=keep)
    return last[0], torch.from_numpy(picture.pixels.copy()).float()


def _unlike(one: nn.Module, other: nn.Module) -> str:
    """The first weight that is not the same after rounding to 16 bits; "" if there is none."""
    ours, theirs = one.state_dict(), other.state_dict()
    if ours.keys() != theirs.keys():
        return ", ".join(sorted(ours.keys() ^ theirs.keys())[:3])
    for name, tensor in ours.items():
        if not torch.equal(tensor.half(), theirs[name].half()):
            return name
    return ""


def _coder(model: Model) -> nn.Module:
    return _as_module(model.codec.autoencoder)


def _as_module(coder: object) -> nn.Module:
    assert isinstance(coder, nn.Module)
    return coder


def _size(paths: Iterable[Path]) -> int:
    return sum(path.stat().st_size for path in paths)


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*")) if path.is_file())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--diffusion", type=Path, required=True, help="a model of Diffusers' parts")
    parser.add_argument("--clip", type=Path, required=True, help="both towers and the tokenizer")
    parser.add_argument("--evaluator", type=Path, required=True)
    parser.add_argument("--decoder", type=Path, help="an autoencoder whose decoder learned on")
    parser.add_argument("--edges", type=Path, help="a ControlNet that follows Canny's edges")
    parser.add_argument("--speed", type=Path, help="the file of a LoRA for few steps")
    parser.add_argument("--tiny", type=Path, help="the file of a tiny decoder")
    parser.add_argument("--to", type=Path, default=TARGET, help=f"[{TARGET}]")
    parser.add_argument("--replace", action="store_true", help="put it in the place of another")
    given = parser.parse_args()
    try:
        fresh = pack(
            Source(
                given.diffusion,
                given.clip,
                given.evaluator,
                given.decoder,
                given.edges,
                given.speed,
                given.tiny,
            ),
            given.to,
            replace=given.replace,
        )
    except SafelightError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    for path in fresh:
        print(f"{path.stat().st_size:>9}  {path.relative_to(given.to).as_posix()}")
    print(f"{_size(fresh):>9}  new to the repository's history")
    print(
        f"{_size(path for path in _files(given.to) if path.suffix in WEIGHTS):>9}  of weights in "
        f"all, of {LIMIT}; its card is yet to be written: card.py"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
