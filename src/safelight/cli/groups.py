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
MERGED = ("weight", "text_weight", "unet", "text", "vae", "blocks")
LORA = ("weight", "text_weight", "tag", "start", "end", "blocks", "dora")
EMBEDDING = ("word",)
HYPERNETWORK = ("weight", "tag", "start", "end")
NAMED_BOXES = ("all", "left", "right", "top", "bottom", "middle")

_NAME = re.compile(r",(?=\s*[a-z_]{1,40}\s*=)")
_WEIGHT = r"[+-]?(?:\d{1,9}\.?\d{0,9}|\.\d{1,9})"
_WEIGHED = re.compile(rf"(?P<file>.+?):(?P<weight>{_WEIGHT})(?::(?P<text_weight>{_WEIGHT}))?")


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


def lora(text: str) -> dict[str, object]:
    """A `loras` group of a text such as style.safetensors:0.8:0.5, the weight and that of the text.

    Settings may follow: style.safetensors:0.8,start=0.2,blocks=IN04:0.5,M00:0. Raises RequestError.
    """
    return _weighed(text, LORA, "--lora", "style.safetensors:0.8")


def hypernetwork(text: str) -> dict[str, object]:
    """A `hypernetworks` group of a text such as style.pt:0.8. Raises RequestError."""
    return _weighed(text, HYPERNETWORK, "--hypernetwork", "style.pt:0.8")


def embedding(text: str) -> dict[str, object]:
    """An `embeddings` group of a text such as easynegative.pt,word=ugly. Raises RequestError."""
    file, values = _parted(text, "--embedding", "easynegative.pt,word=ugly")
    _known([name for name, _ in values], EMBEDDING, "--embedding")
    return {"file": file, **dict(values)}


def _weighed(text: str, known: Collection[str], option: str, example: str) -> dict[str, object]:
    """A group of a file, with one or two weights behind colons, and settings behind commas."""
    file, values = _parted(text, option, example)
    _known([name for name, _ in values], known, option)
    group: dict[str, object] = {"file": file}
    if weighed := _WEIGHED.fullmatch(file):
        group = {name: value for name, value in weighed.groupdict().items() if value is not None}
    for name, value in values:
        if name in group:
            raise RequestError(f"{option}: {name} is given twice in {text!r}.")
        group[name] = value
    _known([name for name in group if name != "file"], known, option)
    return group


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


def merged_model(text: str) -> tuple[str, dict[str, str]]:
    """File and settings of a text such as a.safetensors:0.7, or a.safetensors,weight=0.7,text=0.

    Raises RequestError.
    """
    group = _weighed(text, MERGED, "a model to merge", "a.safetensors:0.7")
    values = {name: str(value) for name, value in group.items()}
    if "text_weight" in values:
        if "text" in values:
            raise RequestError(f"a model to merge: text is given twice in {text!r}.")
        values["text"] = values.pop("text_weight")
    return values.pop("file"), values


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
