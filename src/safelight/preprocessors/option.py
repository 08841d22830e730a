"""A setting of a preprocessor that a user may change, with what it takes."""

import math
from dataclasses import dataclass

from safelight.errors import RequestError
from safelight.printable import shown

Value = bool | int | float | str


@dataclass(frozen=True, slots=True)
class Option:
    """One setting. Numbers lie in [low, high], whole ones if the default is; words in `choices`."""

    name: str
    meaning: str
    default: Value
    low: float = -math.inf
    high: float = math.inf
    choices: tuple[str, ...] = ()

    def checked(self, value: object, owner: str) -> Value:
        """The value as the preprocessor takes it. Raises RequestError saying what it takes."""
        if isinstance(self.default, bool):
            if isinstance(value, bool):
                return value
        elif isinstance(self.default, str):
            if isinstance(value, str) and value in self.choices:
                return value
        elif isinstance(value, int | float) and not isinstance(value, bool):
            whole = isinstance(self.default, int)
            if self.low <= value <= self.high and (not whole or float(value).is_integer()):
                return int(value) if whole else float(value)
        given = shown(value, 40) if not isinstance(value, str) else repr(shown(value, 40))
        raise RequestError(f"{owner}: {self.name} must be {self.wanted}; got {given}")

    @property
    def wanted(self) -> str:
        """What the option takes, in words."""
        if isinstance(self.default, bool):
            return "true or false"
        if isinstance(self.default, str):
            return f"one of {', '.join(self.choices)}"
        kind = "a whole number" if isinstance(self.default, int) else "a number"
        return f"{kind} from {self.low:g} to {self.high:g}"
