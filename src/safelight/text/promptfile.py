"""Files of prompts: one a line, or A1111's lines of options, `--prompt "a cat" --steps 30`."""

import re
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from safelight.errors import FileError, PromptError

Setting = str | int | float | bool


def _truth(text: str) -> bool:
    words = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
    return words[text.lower()]


# A1111's names ("Prompts from file or textbox").
OPTIONS: Mapping[str, Callable[[str], Setting]] = MappingProxyType(
    {
        "sd_model": str,
        "outpath_samples": str,
        "outpath_grids": str,
        "prompt_for_display": str,
        "prompt": str,
        "negative_prompt": str,
        "styles": str,
        "seed": int,
        "subseed": int,
        "subseed_strength": float,
        "seed_resize_from_h": int,
        "seed_resize_from_w": int,
        "sampler_index": int,
        "sampler_name": str,
        "scheduler": str,
        "batch_size": int,
        "n_iter": int,
        "steps": int,
        "cfg_scale": float,
        "width": int,
        "height": int,
        "restore_faces": _truth,
        "tiling": _truth,
        "do_not_save_samples": _truth,
        "do_not_save_grid": _truth,
    }
)
_FREE = ("prompt", "negative_prompt")  # take words up to the next option, quoted or not


@dataclass(frozen=True, slots=True)
class Line:
    """One line: its number from 1, and its settings under A1111's names, `prompt` among them."""

    number: int
    settings: Mapping[str, Setting]


def read_prompts(path: Path) -> list[Line]:
    """The prompts of a file in UTF-8. Raises FileError, and PromptError for a line of options."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise FileError(f"{path}: cannot be read: {error.strerror}.") from None
    except UnicodeDecodeError:
        raise FileError(f"{path}: is no text in UTF-8.") from None
    return prompt_lines(text, name=str(path))


def prompt_lines(text: str, *, name: str = "prompts") -> list[Line]:
    """The prompts of a text; empty lines are skipped. `name` stands in error messages."""
    lines = []
    for number, line in enumerate(re.split(r"\r\n|\r|\n", text), start=1):
        line = line.strip()
        if line.startswith("--"):
            lines.append(Line(number, MappingProxyType(_options(line, f"{name}, line {number}"))))
        elif line:
            lines.append(Line(number, MappingProxyType({"prompt": line})))
    return lines


def _options(line: str, place: str) -> dict[str, Setting]:
    try:
        words = shlex.split(line)
    except ValueError as error:
        raise PromptError(f"{place}: a quotation mark has no partner ({error}).") from None
    settings: dict[str, Setting] = {}
    at = 0
    while at < len(words):
        name = words[at].removeprefix("--").replace("-", "_")
        if not words[at].startswith("--") or name not in OPTIONS:
            raise PromptError(
                f"{place}: {words[at][:40]!r} is no option. Known are {', '.join(OPTIONS)}."
            )
        end = at + 1
        while end < len(words) and name in _FREE and not words[end].startswith("--"):
            end += 1
        if name not in _FREE:
            end = min(at + 2, len(words))
        if end == at + 1:
            raise PromptError(f"{place}: --{name} needs a value.")
        value = " ".join(words[at + 1 : end])
        try:
            settings[name] = OPTIONS[name](value)
        except (ValueError, KeyError):
            raise PromptError(f"{place}: --{name} cannot be {value[:40]!r}.") from None
        at = end
    return settings
