"""Lines of a prompt file as settings of a request."""

from collections.abc import Mapping
from pathlib import Path

from safelight.text.promptfile import Line, Setting, read_prompts

# A1111's names that a request has under another name; the rest of `SAME` are its own
RENAMED = {
    "sd_model": "model",
    "sampler_name": "sampler",
    "sampler_index": "sampler",
    "scheduler": "schedule",
}
SAME = frozenset(
    {
        "prompt",
        "negative_prompt",
        "seed",
        "subseed",
        "subseed_strength",
        "steps",
        "cfg_scale",
        "width",
        "height",
    }
)


def lines_of(path: Path) -> tuple[list[dict[str, object]], list[str]]:
    """The settings of every line, and a warning for each option that nothing is done with.

    Raises FileError and PromptError as `read_prompts`.
    """
    warnings: list[str] = []
    return [_settings(line, path, warnings) for line in read_prompts(path)], warnings


def _settings(line: Line, path: Path, warnings: list[str]) -> dict[str, object]:
    settings: dict[str, object] = {}
    for name, value in line.settings.items():
        if name in RENAMED or name in SAME:
            settings[RENAMED.get(name, name)] = value
        elif name not in ("batch_size", "n_iter") and value is not False:
            warnings.append(f"{path}, line {line.number}: --{name} is not used here")
    settings |= _counts(line.settings)
    return settings


def _counts(given: Mapping[str, Setting]) -> dict[str, object]:
    """A1111's batch size times batch count as a number of pictures."""
    if "batch_size" not in given and "n_iter" not in given:
        return {}
    batch, rounds = int(given.get("batch_size", 1)), int(given.get("n_iter", 1))
    return {"count": batch * rounds, "batch": batch}
