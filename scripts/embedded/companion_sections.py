"""The sections of the embedded model's card on what goes with it: made of records, as the others.

What was measured is a folder that edges.py, few_steps.py or tiny_decoder.py wrote, of the very
files that ship.
"""

from collections.abc import Sequence
from pathlib import Path

from companions import check_tiny, edges_of
from pack import SUMS
from records import Run
from sections import Records, sums_of

from safelight.checkpoints.adapter_load import load_adapter
from safelight.checkpoints.control_about import making_of
from safelight.checkpoints.folders import read_json
from safelight.cli.train_display import duration
from safelight.embedded.carried import COMPANIONS, EDGES, SPEED, TINY
from safelight.errors import CheckpointError, FileError
from safelight.model import Model
from safelight.printable import shown
from safelight.training.journal import Record

MEASURED, TABLE = "settings.json", "table.md"  # in the folder of a measuring script
FIGURES = {
    "held_out/loss": "held-out loss",
    "held_out/loss_without_map": "the same without the map",
    "previews/f1": "edge F1 of 16 previews",
    "previews/f1_without_map": "the same without the map",
}


def edges(records: Records, model: Model) -> list[str]:
    """What the ControlNet for edges is, how it learned and what it does; nothing without one."""
    path = records.folder / COMPANIONS[EDGES]
    making = making_of(path)
    if making is None:
        return []
    network = edges_of(model, path)
    count = sum(weight.numel() for weight in network.parameters())
    run = run_by_recipe(records, "controlnet")
    table = [] if run is None else course(run.log, run)
    return [
        "## Drawing along edges",
        "",
        f"`--control {EDGES}` is a ControlNet of {count:,} weights in {_megabytes(records, path)}. "
        "It makes this model, and no other, draw along the lines of a picture, which are found as "
        f"those that it learned from: {making}. `preprocessor=none` takes a finished map.",
        "",
        "```",
        f'safelight generate "a panda on a green background" --control {EDGES},picture=photo.png',
        "```",
        "",
        *trained(records, "controlnet"),
        "",
        *([*table, ""] if table else []),
        *measured_by(records, EDGES, f"edges.py --cutouts data/emoji-pairs --control {EDGES}"),
    ]


def speed(records: Records, model: Model) -> list[str]:
    """What the LoRA for few steps is, how it learned and what it keeps; nothing without one."""
    path = records.folder / COMPANIONS[SPEED]
    if not path.is_file():
        return []
    found = load_adapter(path, model)
    return [
        "## Drawing in four steps",
        "",
        f"`--lora {SPEED}` lets this model draw in four steps, without guidance: {found.summary}, "
        f"{_megabytes(records, path)}.",
        "",
        "```",
        f'safelight generate "a red apple" --lora {SPEED} --sampler lcm --steps 4 --cfg 1',
        "```",
        "",
        *trained(records, "lcm"),
        "",
        *measured_by(records, SPEED, f"few_steps.py --cutouts data/emoji-pairs --lora {SPEED}"),
    ]


def tiny(records: Records, model: Model) -> list[str]:
    """What the tiny decoder is, how it learned, and how near it comes; nothing without one."""
    path = records.folder / COMPANIONS[TINY]
    if not path.is_file():
        return []
    coder = check_tiny(model, path).autoencoder
    count = sum(weight.numel() for weight in coder.parameters())
    return [
        "## Showing latents quickly",
        "",
        f"`--vae {TINY}` draws with a tiny decoder of {count:,} weights in "
        f"{_megabytes(records, path)}, in the shape of TAESD (Ollin Boer Bohan, MIT; its code and "
        "weights are not used). The server shows previews with it. It has no encoder: a picture "
        "to start from needs the model's own autoencoder. Its weights are under Apache-2.0, as "
        "the others are.",
        "",
        "```",
        f'safelight generate "a red apple" --vae {TINY}',
        "```",
        "",
        *trained(records, "tiny_decoder", "what the model's own decoder makes of"),
        "",
        *measured_by(records, TINY, f"tiny_decoder.py --cutouts data/emoji-pairs --vae {TINY}"),
    ]


def run_by_recipe(records: Records, recipe: str) -> Run | None:
    """The run of a recipe that the records tell of; None if they tell of none."""
    return next((r for r in records.runs.values() if r.config.get("recipe") == recipe), None)


def trained(records: Records, recipe: str, what: str = "from") -> list[str]:
    """One sentence on a companion's training."""
    run = run_by_recipe(records, recipe)
    if run is None:
        return ["Its training is not on record."]
    time = "" if run.seconds is None else f", in {duration(run.seconds)}"
    machine = records.machines.get(run.stage)
    where = "" if machine is None else f" on {machine}"
    scenes = f"{int(str(run.config['data.count'])):,} scenes of the drawings below"
    planned = int(str(run.config["training.steps"]))
    done = f"{run.steps:,} steps" if run.steps == planned else f"{run.steps:,} of {planned:,} steps"
    return [
        f"It learned {what} {scenes}, the model staying as it is: {done} of "
        f"{run.config['training.batch_size']} scenes{time}{where}. The command stands among the "
        "others."
    ]


def course(log: Sequence[Record], run: Run) -> list[str]:
    """What was measured on the way, as a table."""
    moments = [record for record in log if record.get("held_out/loss") is not None]
    if not moments:
        return []
    batch = int(str(run.config["training.batch_size"]))
    samples = " | ".join(f"{int(str(record['step'])) * batch:,}" for record in moments)
    lines = [f"| samples | {samples} |", f"|---|{'---|' * len(moments)}"]
    for name, words in FIGURES.items():
        if all(record.get(name) is not None for record in moments):
            cells = " | ".join(f"{float(str(record[name])):.4g}" for record in moments)
            lines.append(f"| {words} | {cells} |")
    return lines


def measured_by(records: Records, name: str, command: str) -> list[str]:
    """The table of a measuring script, and its command.

    Raises CheckpointError if it was made with another file, FileError if it cannot be read.
    """
    folder = records.measured.get(name)
    if folder is None:
        return ["What it does was not measured."]
    try:
        table = (folder / TABLE).read_text("utf-8").rstrip("\n")
    except OSError as error:
        raise FileError(f"{shown(folder / TABLE)} cannot be read: {error.strerror}") from None
    told = f"{read_json(folder / MEASURED)} {table}"
    own = [digest for file, digest in sums_of(records.folder) if _is_of(file, name)]
    if not any(digest in told for digest in own):
        raise CheckpointError(
            f"{shown(folder)} was measured with another {name} than the one in the package; run "
            f"{command.split()[0]} again"
        )
    return [f"`python scripts/embedded/{command}`:", "", *table.splitlines()]


def _is_of(file: str, name: str) -> bool:
    """Whether a packed file is a companion's weights."""
    place = COMPANIONS[name]
    return file == place or (file.startswith(f"{place}/") and file.endswith(".safetensors"))


def _megabytes(records: Records, path: Path) -> str:
    """The size of a companion's files, as the list of hashes names them."""
    place = path.relative_to(records.folder).as_posix()
    names = [name for name, _ in sums_of(records.folder) if name.startswith(place)]
    if not names:
        raise FileError(f"{shown(records.folder / SUMS)} does not list {place}; run pack.py")
    return f"{sum((records.folder / name).stat().st_size for name in names) / 1e6:.1f} MB"
