"""Extra-network tags of a prompt: `<lora:name:0.8>`, cut out of the text and handed on."""

import re
from dataclasses import dataclass

from safelight.errors import PromptError

_OPENING = re.compile(r"<(\w+):")


@dataclass(frozen=True, slots=True)
class ExtraNetwork:
    """One tag `<kind:argument:argument...>`; an argument with one `=` is a named one."""

    kind: str
    arguments: tuple[str, ...]

    @property
    def name(self) -> str:
        """What the tag asks for: the name of the file."""
        return self.positional[0] if self.positional else ""

    @property
    def positional(self) -> tuple[str, ...]:
        return tuple(a for a in self.arguments if a.count("=") != 1)

    @property
    def named(self) -> dict[str, str]:
        pairs = (a.partition("=") for a in self.arguments if a.count("=") == 1)
        return {name: value for name, _, value in pairs}

    @property
    def text_weight(self) -> float:
        """Strength on the text encoder: second argument or `te=`; 1 if left out."""
        return self._number("te", 1, 1.0)

    @property
    def unet_weight(self) -> float:
        """Strength on the U-Net: third argument or `unet=`; that of the text if left out."""
        return self._number("unet", 2, self.text_weight)

    @property
    def dyn(self) -> int | None:
        """Rank to which the network is cut down: fourth argument or `dyn=`."""
        number = self._number("dyn", 3, -1.0)
        return None if number < 0 else int(number)

    def __str__(self) -> str:
        return "<{}>".format(":".join((self.kind, *self.arguments)))

    def _number(self, name: str, place: int, default: float) -> float:
        positional = self.positional
        text = self.named.get(name, positional[place] if len(positional) > place else None)
        if text is None:
            return default
        try:
            number = float(text)
        except ValueError:
            number = float("nan")
        if not abs(number) <= 1e6:
            raise PromptError(f"{self}: {text!r} is no weight. Write for example <lora:name:0.8>.")
        return number


def take_networks(text: str) -> tuple[str, tuple[ExtraNetwork, ...]]:
    """The text without its tags, whose blanks stay, and the tags in their order."""
    kept: list[str] = []
    found: list[ExtraNetwork] = []
    end = 0
    for opening in _OPENING.finditer(text):
        if opening.start() < end:
            continue
        close = text.find(">", opening.end())
        if close < 0:
            break
        if close > opening.end():
            arguments = text[opening.end() : close].split(":")
            found.append(ExtraNetwork(opening[1], tuple(arguments)))
            kept.append(text[end : opening.start()])
            end = close + 1
    kept.append(text[end:])
    return "".join(kept), tuple(found)
