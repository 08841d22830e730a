"""What an adapter file says of itself: kohya's `ss_*`, the `modelspec.*` standard, trigger words.

Nothing of it is trusted further than to be shown: texts are bounded, JSON that cannot be read is
left out, and numbers are those of the trainer, not of the tensors.

Sources: kohya-ss/sd-scripts `train_network.py`; the Model Metadata Standard of Stability AI.
"""

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from safelight.adapters.rescalings import Norm
from safelight.checkpoints.folders import read_json
from safelight.errors import FileError
from safelight.printable import shown

Metadata = Mapping[str, str]

# What our own files say: the family in words, and of which weight DoRA takes the norm.
FAMILY = "safelight.family"
DORA_NORM = "safelight.dora_norm"

MOST_TRIGGERS = 8
MOST_TAGS = 20
_MOST_JSON = 8 * 2**20
_NEARLY_ALL = 0.9  # of the captions: what was learned under a word is in nearly every one
_REPEATS = re.compile(r"^\d+_")  # kohya's folders: "10_sks dog" is shown ten times an epoch

_NOTES = (
    (".json", "activation text", "A1111's"),
    (".civitai.info", "trainedWords", "Civitai's"),
)

# Families by what trainers write; the first that fits counts.
_ARCHITECTURES: tuple[tuple[str, str], ...] = (
    (r"^stable-diffusion-v1|^sd_v1|^sd_1|^sd ?1", "Stable Diffusion 1.x"),
    (r"^stable-diffusion-v2|^sd_v2|^sd_2|^sd ?2", "Stable Diffusion 2.x"),
    (r"refiner", "Stable Diffusion XL refiner"),
    (r"^stable-diffusion-xl|^sdxl", "Stable Diffusion XL"),
    (r"^stable-diffusion-3|^sd3|^sd_3", "Stable Diffusion 3"),
    (r"^flux", "Flux"),
)


@dataclass(frozen=True, slots=True)
class Remarks:
    """What a file says, as far as it is of use to who draws with it.

    base: the family in words. base_model: the file that it was trained on. network: the trainer's
    word for its kind. triggers: words to put into the prompt; triggers_from: where they stand.
    tags: words of the captions by how often they stood there, the most frequent first.
    """

    title: str = ""
    author: str = ""
    description: str = ""
    license: str = ""
    base: str = ""
    base_model: str = ""
    network: str = ""
    triggers: tuple[str, ...] = ()
    triggers_from: str = ""
    tags: tuple[tuple[str, int], ...] = ()
    training: tuple[tuple[str, str], ...] = ()  # resolution, steps, ...: name and value


def remarks_of(metadata: Metadata, path: Path | None = None) -> Remarks:
    """What can be read of a file's metadata; empty where it says nothing.

    path: of the file, beside which A1111 and Civitai's tools keep notes of the words that call it.
    """
    tags = _tags(metadata)
    triggers, triggers_from = ((), "") if path is None else words_beside(path)
    if not triggers:
        triggers, triggers_from = _triggers(metadata, tags)
    return Remarks(
        title=_text(metadata, "modelspec.title", "ss_output_name"),
        author=_text(metadata, "modelspec.author"),
        description=_text(metadata, "modelspec.description", "ss_training_comment"),
        license=_text(metadata, "modelspec.license"),
        base=stated_family(metadata),
        base_model=_text(metadata, "ss_sd_model_name"),
        network=_network(metadata),
        triggers=triggers,
        triggers_from=triggers_from,
        tags=tuple(_together(tags.values()).most_common(MOST_TAGS)),
        training=tuple(_training(metadata)),
    )


def stated_family(metadata: Metadata) -> str:
    """The family that the metadata names, in words; empty if it names none."""
    stated = _text(metadata, "modelspec.architecture", "ss_base_model_version").lower()
    for pattern, family in _ARCHITECTURES:
        if re.search(pattern, stated):
            return family
    if metadata.get("ss_v2", "").lower() == "true":
        return "Stable Diffusion 2.x"
    return _text(metadata, FAMILY)


def stated_norm(metadata: Metadata) -> Norm:
    """Of which weight the file says that its DoRA takes the norm; the changed one if nothing."""
    return "base" if metadata.get(DORA_NORM) == "base" else "changed"


def _text(metadata: Metadata, *names: str) -> str:
    """The first of these that says something, on one line; trainers write None for nothing."""
    for name in names:
        value = metadata.get(name, "").strip()
        if value and value.lower() not in ("none", "null"):
            return shown(" ".join(value.split()), 300)
    return ""


def _network(metadata: Metadata) -> str:
    """kohya's module, and the algorithm that LyCORIS was asked for: "lycoris.kohya, lokr"."""
    module = _text(metadata, "ss_network_module")
    arguments = _object(metadata.get("ss_network_args", ""))
    algorithm = arguments.get("algo")
    named = shown(algorithm, 40) if isinstance(algorithm, str) else ""
    return ", ".join(part for part in (module, named) if part)


_TRAINING = (
    ("ss_network_dim", "rank"),
    ("ss_network_alpha", "alpha"),
    ("modelspec.resolution", "resolution"),
    ("ss_resolution", "resolution"),
    ("ss_steps", "steps"),
    ("ss_epoch", "epochs"),
    ("ss_num_train_images", "images an epoch"),
    ("ss_learning_rate", "learning rate"),
    ("ss_optimizer", "optimizer"),
    ("ss_clip_skip", "clip skip"),
    ("ss_noise_offset", "noise offset"),
    ("ss_v_parameterization", "v-prediction"),
    ("modelspec.date", "date"),
)


def _training(metadata: Metadata) -> Iterable[tuple[str, str]]:
    told = set()
    for key, name in _TRAINING:
        value = _text(metadata, key)
        if value and name not in told and value != "False":
            told.add(name)
            yield name, value


# -- words -----------------------------------------------------------------------------------------


def _tags(metadata: Metadata) -> dict[str, Counter[str]]:
    """How often each word of the captions was seen, by the folder of the pictures."""
    found: dict[str, Counter[str]] = {}
    for folder, counts in _object(metadata.get("ss_tag_frequency", "")).items():
        if not isinstance(counts, dict):
            continue
        words: Counter[str] = Counter()
        for tag, count in counts.items():
            word = shown(" ".join(tag.split()), 80)
            if word and isinstance(count, int) and not isinstance(count, bool) and count > 0:
                words[word] += min(count, 10**9)
        found[folder] = words
    return found


def words_beside(path: Path) -> tuple[tuple[str, ...], str]:
    """The words in the notes that A1111 (NAME.json) or Civitai's tools keep beside a file.

    And whose notes they are; empty if there are none, or none that can be read.
    """
    for suffix, key, whose in _NOTES:
        beside = path.with_suffix(suffix)
        try:
            said = read_json(beside).get(key) if beside.is_file() else None
        except (FileError, OSError, ValueError):
            continue
        texts = said if isinstance(said, list) else [said]
        words = [w.strip() for t in texts if isinstance(t, str) for w in t.split(",")]
        if found := [shown(word, 80) for word in words if word]:
            return tuple(dict.fromkeys(found))[:MOST_TRIGGERS], f"{whose} notes beside it"
    return (), ""


def _together(counts: Iterable[Counter[str]]) -> Counter[str]:
    total: Counter[str] = Counter()
    for words in counts:
        total.update(words)
    return total


def _triggers(metadata: Metadata, tags: Mapping[str, Counter[str]]) -> tuple[tuple[str, ...], str]:
    if stated := _text(metadata, "modelspec.trigger_phrase", "modelspec.trigger_words"):
        words = [word.strip() for word in stated.split(",")]
        return tuple(w for w in words if w)[:MOST_TRIGGERS], "the file names them"
    sets = _object(metadata.get("ss_dataset_dirs", ""))
    constant = [word for folder in tags for word in _constant(sets.get(folder), tags[folder])]
    if constant:
        unique = dict.fromkeys(constant)
        return tuple(unique)[:MOST_TRIGGERS], "they stood in nearly all captions"
    folders = [_REPEATS.sub("", name) for name in tags if _REPEATS.match(name)]
    if names := [shown(name, 80) for name in folders if name.strip()]:
        # Pictures without captions are trained under the name of their folder.
        return tuple(dict.fromkeys(names))[:MOST_TRIGGERS], "the pictures' folders are called so"
    return (), ""


def _constant(about: object, words: Counter[str]) -> list[str]:
    """The words of nearly every caption of one folder, the most frequent first."""
    if not words:
        return []
    images = about.get("img_count") if isinstance(about, dict) else None
    whole = images if isinstance(images, int) and images > 0 else max(words.values())
    return [word for word, count in words.most_common() if count >= _NEARLY_ALL * whole]


def _object(text: str) -> dict[str, object]:
    """A JSON object in a text; empty for anything else."""
    if not text or len(text) > _MOST_JSON:
        return {}
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
