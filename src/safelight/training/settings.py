"""What a training run is told: the numbers of the recipe, and how often it saves and speaks."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from fnmatch import fnmatchcase
from math import isfinite, prod
from typing import Literal, TypeVar, get_args

from safelight.errors import RequestError
from safelight.training.ema import EmaKind

OptimizerName = Literal["adamw", "muon", "prodigy", "adamw8bit"]
Precision = Literal["fp32", "tf32", "bf16"]
Schedule = Literal["constant", "linear", "cosine"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """A training run.

    batch_size counts the pictures of one optimizer step over all ranks; each takes its share in
    micro-batches of at most `micro_batch`. learning_rate, betas and weight_decay hold for all
    players, or are mappings from a player's name. rates multiplies the learning rate of the weights
    that a name stands for: a weight's own name, the module it is in, or a pattern with stars; a
    weight that several names fit takes the product.

    The learning rate rises over warmup_steps, and falls to 0 (linear, cosine) from the share
    `decay_from` of the run to its end. weight_decay spares embeddings and all of one dimension.
    fp32 leaves matrix products to PyTorch's defaults, tf32 allows TF32 for them, bf16 keeps the
    networks in bfloat16 and the weights that learn in float32 beside them.

    save_every is in seconds, and the first checkpoint comes after a minute at the latest;
    log_every, validate_every and snapshot_every are in steps (0: never).
    non_finite says what to do when a loss or a gradient is not finite: such a step changes nothing,
    and "stop" ends the run with an error while "skip" counts it and goes on, until 50 in a row are
    bad. Before a run ends so, what it learned is saved; and with compile it first tries to go on
    uncompiled. save_failure says whether a run whose checkpoint could not be written goes on
    ("warn") or ends ("stop").

    Raises RequestError if a value is out of range.
    """

    batch_size: int
    steps: int
    learning_rate: float | Mapping[str, float] = 1e-4
    rates: Mapping[str, float] = field(default_factory=dict)
    micro_batch: int | None = None
    optimizer: OptimizerName = "adamw"
    betas: tuple[float, float] | Mapping[str, tuple[float, float]] = (0.9, 0.99)
    eps: float = 1e-8
    weight_decay: float | Mapping[str, float] = 0.01
    warmup_steps: int = 0
    schedule: Schedule = "constant"
    decay_from: float = 0.0
    clip_norm: float | None = 1.0
    precision: Precision = "fp32"
    compile: bool = False
    channels_last: bool = False
    deterministic: bool = False
    parallel: Literal["ddp", "fsdp"] = "ddp"
    prefetch: bool = False
    ema: tuple[EmaKind, ...] = ()
    snapshot_every: int = 0
    seed: int = 0
    save_every: float = 300.0
    log_every: int = 50
    validate_every: int = 0
    keep: int = 2
    non_finite: Literal["stop", "skip"] = "stop"
    save_failure: Literal["warn", "stop"] = "warn"
    count_flops: bool = False
    tensorboard: bool = False
    wandb: str | None = None  # the project's name

    def __post_init__(self) -> None:
        for name in ("batch_size", "steps", "log_every", "keep"):
            _check(name, getattr(self, name), 1)
        for name in ("warmup_steps", "validate_every", "snapshot_every"):
            _check(name, getattr(self, name), 0)
        if self.micro_batch is not None:
            _check("micro_batch", self.micro_batch, 1)
        for name in (
            "optimizer",
            "precision",
            "schedule",
            "parallel",
            "non_finite",
            "save_failure",
        ):
            _choose(name, getattr(self, name), CHOICES[name])
        for name in ("learning_rate", "weight_decay", "rates"):
            for value in _each(getattr(self, name)):
                _range(name, value, 0.0)
        for betas in _each(self.betas):
            if len(betas) != 2 or not all(0.0 <= beta < 1.0 for beta in betas):
                raise RequestError(f"betas must be two numbers in [0, 1); got {betas}")
        _range("eps", self.eps, 0.0)
        _range("decay_from", self.decay_from, 0.0, 1.0)
        _range("save_every", self.save_every, 0.0)
        if self.clip_norm is not None and not self.clip_norm > 0.0:
            raise RequestError(f"clip_norm must be above 0, or null; got {self.clip_norm}")
        names = [kind.name for kind in self.ema]
        if len(set(names)) != len(names):
            raise RequestError(f"ema names the same average twice: {', '.join(names)}")

    def learning_rate_of(self, player: str) -> float:
        return _value_of("learning_rate", self.learning_rate, player)

    def betas_of(self, player: str) -> tuple[float, float]:
        return _value_of("betas", self.betas, player)

    def weight_decay_of(self, player: str) -> float:
        return _value_of("weight_decay", self.weight_decay, player)

    def rate_of(self, weight: str) -> float:
        """The factor on the learning rate of a weight, by its name in its player."""
        return prod(rate for name, rate in self.rates.items() if stands_for(name, weight))

    def plain(self) -> dict[str, object]:
        """The settings as JSON holds them: numbers, texts, lists and mappings."""
        return {each.name: _plain(getattr(self, each.name)) for each in fields(self)}


CHOICES: Mapping[str, tuple[str, ...]] = {
    "optimizer": get_args(OptimizerName),
    "precision": get_args(Precision),
    "schedule": get_args(Schedule),
    "parallel": ("ddp", "fsdp"),
    "non_finite": ("stop", "skip"),
    "save_failure": ("warn", "stop"),
}

# A run may be resumed with another value of these: they change no number, or the last bits only.
FREE: frozenset[str] = frozenset(
    {"micro_batch", "compile", "deterministic", "parallel", "prefetch", "snapshot_every"}
    | {"save_every", "log_every", "validate_every", "keep", "non_finite", "save_failure"}
    | {"count_flops", "tensorboard", "wandb"}
)
# These may change as long as the learning rates of the steps already done stay what they were.
SCHEDULED: frozenset[str] = frozenset({"steps", "schedule", "decay_from", "warmup_steps"})
# Settings that older runs did not know, as they were for them.
LATER: Mapping[str, object] = {"rates": {}}


def stands_for(name: str, weight: str) -> bool:
    """Whether a name is that of a weight or of a module it is in, or a pattern that fits one."""
    if any(sign in name for sign in "*?["):
        return fnmatchcase(weight, name) or fnmatchcase(weight, f"{name}.*")
    return weight == name or weight.startswith(f"{name}.")


def _plain(value: object) -> object:
    if isinstance(value, Mapping):
        return {name: _plain(inner) for name, inner in value.items()}
    if isinstance(value, tuple):
        return [_plain(inner) for inner in value]
    return getattr(value, "name", value)


def _each(value: T | Mapping[str, T]) -> list[T]:
    return list(value.values()) if isinstance(value, Mapping) else [value]


def _value_of(name: str, value: T | Mapping[str, T], player: str) -> T:
    if not isinstance(value, Mapping):
        return value
    if player not in value:
        raise RequestError(
            f"{name} has no value for the player {player}; it has them for {', '.join(value)}"
        )
    return value[player]


def _check(name: str, value: int, least: int) -> None:
    if value < least:
        raise RequestError(f"{name} must be {least} or more; got {value}")


def _range(name: str, value: float, low: float, high: float | None = None) -> None:
    if not isfinite(value) or value < low or (high is not None and value > high):
        bound = f"{low:g} or more" if high is None else f"in [{low:g}, {high:g}]"
        raise RequestError(f"{name} must be {bound}; got {value}")


def _choose(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise RequestError(f"{name} must be one of {', '.join(choices)}; got {value}")
