"""Options that hold several settings in one text: FILE,name=value,name=value."""

import re
from collections.abc import Collection

from safelight.errors import RequestError

CONTROL = (
    "picture",
    "preprocessor",
    "resolution",
    "kind",
    "scale",
    "start",
    "end",
    "mode",
    "resize",
)
IMAGE_PROMPT = ("picture", "vision", "mask", "scale", "start", "end")
REFERENCE = ("fidelity", "weight", "start", "end", "resize")
REGION = ("box", "mask", "negative_prompt", "weight")
NAMED_BOXES = ("all", "left", "right", "top", "bottom", "middle")

_NAME = re.compile(r",(?=\s*[a-z_]{1,40}\s*=)")


def control(text: str) -> dict[str, object]:
    """A `controls` group of a text such as canny.safetensors,picture=a.png,preprocessor=canny.

    What is no setting of a control is an option of its preprocessor. Raises RequestError.
    """
    file, values = _parted(text, "--control", "canny.safetensors,preprocessor=canny,scale=0.8")
    group: dict[str, object] = {"net": file}
    options: dict[str, object] = {}
    for name, value in values:
        into = group if name in CONTROL else options
        if name in into:
            raise RequestError(f"--control: {name} is given twice in {text!r}.")
        into[name] = value if name in CONTROL else _plain(value)
    if options and group.get("preprocessor", "none") == "none":
        raise RequestError(
            f"--control has no setting {next(iter(options))!r}; it takes {', '.join(CONTROL)}, and "
            "the options of a preprocessor if one is named."
        )
    return {**group, "options": options} if options else group


def image_prompt(text: str) -> dict[str, object]:
    """An `image_prompts` group of a text such as ip-adapter.safetensors,picture=a.png,scale=0.6.

    `picture` may be given several times. Raises RequestError.
    """
    file, values = _parted(text, "--image-prompt", "ip-adapter.safetensors,picture=a.png")
    _known([name for name, _ in values], IMAGE_PROMPT, "--image-prompt")
    group: dict[str, object] = {name: value for name, value in values if name != "picture"}
    pictures = [value for name, value in values if name == "picture"]
    if not pictures:
        raise RequestError(f"--image-prompt needs a picture: {file},picture=photo.png")
    return {"adapter": file, "pictures": pictures, **group}


def reference(text: str) -> dict[str, object]:
    """A `references` group of a text such as photo.png,fidelity=0.8. Raises RequestError."""
    file, values = _parted(text, "--reference", "photo.png,fidelity=0.8")
    _known([name for name, _ in values], REFERENCE, "--reference")
    return {"picture": file, **dict(values)}


def region(text: str) -> dict[str, object]:
    """A `regions` group of a text such as left: a red apple, or 0,0,0.5,1,weight=2: a cat.

    What stands before the first colon with a blank behind it is the place: a box, or the file of a
    mask; `weight` and `negative` may follow it. Raises RequestError.
    """
    head, colon, prompt = text.partition(": ")
    place, *parts = _NAME.split(head)
    if not colon or not place.strip():
        raise RequestError(
            "--region must be a place, a colon and words, such as 'left: a red apple', "
            f"'0,0,0.5,1: a red apple' or 'mask.png: a red apple'; got {text!r}."
        )
    values = {name.strip(): value.strip() for name, _, value in (p.partition("=") for p in parts)}
    _known(list(values), ("weight", "negative"), "--region")
    group: dict[str, object] = {"prompt": prompt.strip()}
    place = place.strip()
    is_box = place.lower() in NAMED_BOXES or re.fullmatch(r"[\s\d.,%+-]+", place)
    group["box" if is_box else "mask"] = place
    if "weight" in values:
        group["weight"] = values["weight"]
    if "negative" in values:
        group["negative_prompt"] = values["negative"]
    return group


def _parted(text: str, option: str, example: str) -> tuple[str, list[tuple[str, str]]]:
    file, *parts = _NAME.split(text)
    if not file or re.match(r"[a-z_]{1,40}=", file):
        raise RequestError(f"{option} must begin with a file, such as {example}; got {text!r}.")
    named = [part.partition("=") for part in parts]
    return file, [(name.strip(), value.strip()) for name, _, value in named]


def _known(names: Collection[str], known: Collection[str], option: str) -> None:
    for name in names:
        if name not in known:
            raise RequestError(f"{option} has no setting {name!r}; it takes {', '.join(known)}.")


def _plain(value: str) -> object:
    """A number or truth value where the text is one."""
    if value in ("true", "false"):
        return value == "true"
    if re.fullmatch(r"[+-]?\d{1,9}", value):
        return int(value)
    if re.fullmatch(r"[+-]?(\d{1,9}\.\d{0,9}|\.\d{1,9})", value):
        return float(value)
    return value
