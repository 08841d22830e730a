"""What a run of `safelight train` left behind in its folder, as a model's card tells it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from safelight.checkpoints.folders import read_json
from safelight.errors import RequestError
from safelight.printable import shown
from safelight.training import saving
from safelight.training.config.reading import read_config
from safelight.training.journal import Record, read_log
from safelight.training.recipes.record import FILE as RUN

CONFIGS = Path(__file__).resolve().parent
RECIPES = ("clip", "autoencoder", "diffusion", "evaluator")  # a card tells of all four
RESULT = "result.json"
# Where things lie on the machine that trained is nobody's business, and changes no number.
_PLACES = {"folder", "device", "data.path", "data.workers", "model.autoencoder", "model.text"}
_PLACES |= {"loss.image_encoder", "loss.teacher", "cache.folder", "export.folder"}
_PLACES |= {"model.checkpoint", "decoder.teacher"}


@dataclass(frozen=True)
class Run:
    """A run of a stage: its config with dotted names, its log up to the weights taken, its steps.

    plan: the config file in this folder that is nearest to it. recorded: whether the folder kept
    what the run was begun with; without that, the config is the plan's. counted: whether it kept
    how many steps were done; without that, they are the plan's.
    """

    stage: str
    config: Mapping[str, object]
    plan: Path
    recorded: bool
    log: Sequence[Record]
    steps: int
    counted: bool = True

    @property
    def command(self) -> str:
        """What trains it again, in the repository's folder."""
        planned = _flat(read_config(self.plan).model_dump(mode="json"))
        changes = [
            f"--set {name}={json.dumps(value)}"
            for name, value in self.config.items()
            if name not in _PLACES and value is not None and planned.get(name) != value
        ]
        return " ".join(["safelight train", f"scripts/embedded/{self.plan.name}", *changes])

    @property
    def samples(self) -> int:
        """Pictures seen, with repeats."""
        return self.steps * int(str(self.config["training.batch_size"]))

    @property
    def seconds(self) -> float | None:
        """How long it trained; None if the log is lost."""
        times = [record["seconds"] for record in self.log if "seconds" in record]
        return max((float(str(time)) for time in times), default=None)

    @property
    def figures(self) -> dict[str, float]:
        """The last value of every held-out figure."""
        found: dict[str, float] = {}
        for record in self.log:
            found |= {
                name.removeprefix("held_out/"): float(str(value))
                for name, value in record.items()
                if name.startswith("held_out/") and value is not None
            }
        return found

    @property
    def curve(self) -> list[tuple[int, float]]:
        """Samples seen and the held-out loss, in the order of the run."""
        batch = int(str(self.config["training.batch_size"]))
        return [
            (int(str(record["step"])) * batch, float(str(record["held_out/loss"])))
            for record in self.log
            if record.get("held_out/loss") is not None
        ]


def run_of(stage: str, folder: Path, step: int | None = None) -> Run:
    """The run in a folder, up to a step: that of its result or newest checkpoint if none is given.

    stage: one of the four recipes, or a name of one's own for a further run of any recipe.
    A folder of the four that keeps only the result has the plan's config and no log.
    Raises FileError for a record that cannot be read, RequestError for a run of another recipe.
    """
    path = folder / RUN
    recorded = path.is_file()
    if recorded:
        config = _flat(_object(read_json(path).get("config")))
    elif stage in RECIPES:
        config = _flat(read_config(CONFIGS / f"{stage}.toml").model_dump(mode="json"))
    else:
        raise RequestError(f"{shown(folder)} keeps no {RUN}, so nothing is known of this run")
    recipe = str(config.get("recipe"))
    if stage in RECIPES and recipe != stage:
        raise RequestError(f"{shown(folder)} is a run of {shown(recipe)}, not of {stage}")
    log = read_log(folder / "log.jsonl")
    until = step if step is not None else _taken(folder)
    if until is not None:
        log = [record for record in log if int(str(record["step"])) <= until]
    last = max((int(str(record["step"])) for record in log), default=None)
    planned = int(str(config["training.steps"]))
    done = next(number for number in (until, last, planned) if number is not None)
    counted = until is not None or last is not None
    return Run(stage, config, _plan(recipe, config), recorded, log, done, counted)


def _taken(folder: Path) -> int | None:
    """The step of the weights that a finished run wrote, or of its newest checkpoint."""
    if (folder / RESULT).is_file():
        return int(str(read_json(folder / RESULT)["step"]))
    newest = saving.newest(folder)
    return None if newest is None else saving.step_of(newest)


def _plan(recipe: str, config: Mapping[str, object]) -> Path:
    """The config beside this file that differs from a run's in the fewest keys."""
    plans = {path: read_config(path) for path in sorted(CONFIGS.glob("*.toml"))}

    def apart(path: Path) -> int:
        planned = _flat(plans[path].model_dump(mode="json"))
        return sum(config.get(name) != value for name, value in planned.items())

    return min((path for path, plan in plans.items() if plan.recipe == recipe), key=apart)


def _object(value: object) -> Mapping[str, object]:
    return value if isinstance(value, dict) else {}


def _flat(values: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    found: dict[str, object] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            found |= _flat(value, f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = value
    return found
