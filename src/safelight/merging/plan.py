"""What is to be merged, and how: checked before a file is opened, and again with its blocks."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from safelight.errors import RequestError
from safelight.merging.blend import METHODS, Blend, Method
from safelight.merging.weights import Weights, Where
from safelight.models.unet import UNetConfig
from safelight.printable import shown

# The paper of TIES keeps a fifth; of DARE's shares this drops the fewest that its paper tried on
# small models.
DENSITIES = {"ties": 0.2, "dare": 0.5, "dare-ties": 0.5}
NEEDS_BASE = ("difference", "ties", "dare", "dare-ties")
_CLOSE = 1e-6  # weights such as 0.1 + 0.2 + 0.7 add up to 1


PLAIN = Weights()


@dataclass(frozen=True, slots=True)
class Taken:
    """A model that takes part."""

    path: Path
    weights: Weights = PLAIN


@dataclass(frozen=True, slots=True)
class MergePlan:
    """Models, a method and its numbers; `checked_plan` makes one. base is None or the origin."""

    models: tuple[Taken, ...]
    method: Method = "sum"
    base: Path | None = None
    density: float = 1.0
    seed: int = 0

    @property
    def paths(self) -> list[Path]:
        """Every file, the base last."""
        return [model.path for model in self.models] + ([self.base] if self.base else [])

    @property
    def wider(self) -> bool:
        """Whether the first model may have more input channels."""
        return self.method in ("sum", "difference")

    def wheres(self, unet: UNetConfig) -> list[Where]:
        """The weights of every model by place. Raises RequestError for blocks there are not."""
        return [model.weights.where(unet) for model in self.models]

    def blend(self, part: str, name: str, wheres: Sequence[Where]) -> Blend:
        """What becomes of one tensor. Raises RequestError if a sum's weights do not add up to 1."""
        stated = [where(part, name) for where in wheres]
        if self.method == "sum":
            weights = _shares(stated, f"{part}.{name}")
        elif self.method == "slerp":
            weights = _shares([None, 0.5 if stated[1] is None else stated[1]], "")
        else:
            weights = tuple(1.0 if weight is None else weight for weight in stated)
            weights = weights[1:] if self.method == "difference" else weights
        return Blend(self.method, weights, self.density, self.seed)

    def settings(self) -> dict[str, object]:
        """The plan's own numbers, for a recipe."""
        told: dict[str, object] = {"method": self.method}
        if self.method in DENSITIES:
            told["density"] = self.density
        if self.method.startswith("dare"):
            told["seed"] = self.seed
        return told

    def told(self) -> list[tuple[str, dict[str, object]]]:
        """Role and settings of every file, in the order of `paths`; weights left out are stated."""
        plain = self._plain()
        models: list[tuple[str, dict[str, object]]] = [
            ("model", ({} if weight is None else {"weight": weight}) | model.weights.to_json())
            for model, weight in zip(self.models, plain, strict=True)
        ]
        return [*models, ("base", {})] if self.base else models

    def _plain(self) -> list[float | None]:
        """The weight of every model where nothing particular is said; None for one taken whole."""
        stated = [model.weights.weight for model in self.models]
        if self.method == "sum":
            open_places = stated.count(None)
            return list(_shares(stated, "the models")) if open_places else list(stated)
        if self.method == "slerp":
            return list(_shares([None, 0.5 if stated[1] is None else stated[1]], ""))
        rest = [1.0 if weight is None else weight for weight in stated]
        return [None, *rest[1:]] if self.method == "difference" else list(rest)


def checked_plan(
    models: Sequence[Taken],
    method: str = "sum",
    *,
    base: Path | None = None,
    density: float | None = None,
    seed: int | None = None,
    adapted: bool = False,
) -> MergePlan:
    """A plan that holds together. Raises RequestError for what does not fit the method.

    adapted: whether adapters go in too, so that one model is enough.
    """
    if method not in METHODS:
        raise RequestError(f"--method must be {', '.join(METHODS)}; got {shown(method)!r}.")
    if len(models) < (1 if adapted and method == "sum" else 2) and method in ("sum", "slerp"):
        raise RequestError(f"the method {method} takes two models or more; got {len(models)}.")
    if method == "slerp" and len(models) != 2:
        raise RequestError(
            f"the method slerp goes from one model to another; got {len(models)} models."
        )
    if method == "difference" and len(models) < 2:
        raise RequestError(
            "the method difference adds to a first model what others have learned since the base; "
            "give two models or more."
        )
    if (base is None) == (method in NEEDS_BASE):
        raise RequestError(
            f"the method {method} needs the model that the others were trained from; give it with "
            "--base."
            if base is None
            else f"the method {method} has no use for --base; {', '.join(NEEDS_BASE)} have."
        )
    share, start = checked_numbers(method, density, seed)
    _check_first(models, method)
    return MergePlan(tuple(models), method, base, share, start)


def checked_numbers(method: str, density: float | None, seed: int | None) -> tuple[float, int]:
    """Density and seed of a method, its own where none is given. Raises RequestError."""
    if density is not None and method not in DENSITIES:
        raise RequestError(f"--density is for {', '.join(DENSITIES)}; the method is {method}.")
    if density is not None and not 0 < density <= 1:
        raise RequestError(f"--density must be above 0 and at most 1; got {density}.")
    if seed is not None and not method.startswith("dare"):
        raise RequestError(f"--seed is for dare and dare-ties; the method is {method}.")
    return DENSITIES.get(method, 1.0) if density is None else density, seed or 0


def _check_first(models: Sequence[Taken], method: str) -> None:
    """Refuse weights of a first model that the method takes whole, or takes as the rest."""
    if method in ("difference", "slerp") and models[0].weights != PLAIN:
        what = {
            "difference": "is taken whole; the weights are those of the others",
            "slerp": "is where the arc begins; the weight of the second says how far to go",
        }[method]
        raise RequestError(
            f"of the method {method} the first model, {shown(models[0].path.name)}, {what}."
        )


def _shares(stated: Sequence[float | None], place: str) -> tuple[float, ...]:
    """Weights that add up to 1: those without one share what is left."""
    given = math.fsum(weight for weight in stated if weight is not None)
    open_places = sum(weight is None for weight in stated)
    if open_places:
        return tuple((1 - given) / open_places if weight is None else weight for weight in stated)
    if abs(given - 1) > _CLOSE:
        raise RequestError(
            f"the weights of {shown(place)} add up to {given:g}; a sum's add up to 1: leave out "
            "that of one model, which then takes the rest"
        )
    return tuple(weight for weight in stated if weight is not None)
