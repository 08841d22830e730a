"""Models as Diffusers folders: one sub-folder for each part, described by JSON files."""

from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from safelight.checkpoints.about import about_folder
from safelight.checkpoints.checkpoint import Checkpoint, Opened
from safelight.checkpoints.folders import find_weights, open_folder
from safelight.checkpoints.guesses import asked_for
from safelight.checkpoints.identity import Identity, reason_for
from safelight.checkpoints.json_object import JsonObject, read_object
from safelight.checkpoints.keymap import KeyMap, Row
from safelight.checkpoints.measure_clip import IDLE
from safelight.checkpoints.model_json import clip_from_json, is_projected, vae_from_json
from safelight.checkpoints.noising_json import with_folder_noising
from safelight.checkpoints.parts import Part, Role, Selection
from safelight.checkpoints.rows_clip import transformers_rows
from safelight.checkpoints.scheduler_json import hint_from_json, process_from_json
from safelight.checkpoints.single_text import has_vector_of_text, spec_of
from safelight.checkpoints.tokenizer_files import read_vocabulary
from safelight.checkpoints.unet_json import unet_from_json
from safelight.checkpoints.vae_file import STEM, FoundVae, open_vae, with_vae
from safelight.errors import CheckpointError, FileError
from safelight.families import (
    REFINER_TEXT,
    SD1_TEXT,
    SD2_TEXT,
    SDXL_TEXT,
    Family,
    ProcessConfig,
    closest,
)
from safelight.models.unet import UNetConfig
from safelight.printable import shown
from safelight.text.spec import TextRole, TextSpec
from safelight.text.vocabulary import CLIP_VOCABULARY, END_TEXT, Vocabulary

INDEX = "model_index.json"
# Parts that we build, and the classes that they may be.
_CLASSES = {
    "unet": ("UNet2DConditionModel",),
    "vae": ("AutoencoderKL", "AutoencoderTiny"),
    "text_encoder": ("CLIPTextModel", "CLIPTextModelWithProjection"),
    "text_encoder_2": ("CLIPTextModel", "CLIPTextModelWithProjection"),
}
# Parts without which a model of these classes draws something else; others we can leave out.
_ELSEWHERE = {
    "transformer": "a transformer (Stable Diffusion 3, Flux or newer)",
    "prior": "a prior (unCLIP, Stable Cascade)",
    "text_encoder_3": "a T5 text encoder",
    "motion_adapter": "a motion adapter",
    "movq": "Kandinsky's autoencoder",
    "vqvae": "a vector-quantised autoencoder",
}


def open_diffusers(
    folder: Path,
    *,
    prediction: str | None = None,
    zero_terminal_snr: bool | None = None,
    variant: str | None = None,
    own_vae: bool = True,
) -> Checkpoint:
    """The parts of a model in a Diffusers folder.

    own_vae: whether its autoencoder is wanted; False if another one will be put in.
    Raises CheckpointError for classes and options that we do not have, FileError for lost files.
    """
    index = read_object(folder / INDEX)
    _check_classes(index)
    opened: list[Opened] = []
    try:
        return _opened(
            folder,
            index,
            opened,
            variant,
            own_vae=own_vae,
            prediction=prediction,
            zero_terminal_snr=zero_terminal_snr,
        )
    except BaseException:
        for each in opened:
            each.file.close()
        raise


def is_diffusers_folder(path: Path) -> bool:
    """Whether a folder holds a model in Diffusers' layout."""
    return (path / INDEX).is_file()


def _opened(
    folder: Path,
    index: JsonObject,
    opened: list[Opened],
    variant: str | None,
    *,
    own_vae: bool,
    prediction: str | None,
    zero_terminal_snr: bool | None,
) -> Checkpoint:
    backbone = unet_from_json(read_object(folder / "unet" / "config.json"))
    file = open_folder(folder / "unet", STEM, variant)
    opened.append(Opened("unet", file, tuple(find_weights(folder / "unet", STEM, variant))))
    unet = Part("unet", backbone, Selection.below(file), KeyMap([Row("", "")]))
    texts = tuple(
        _text(folder, role, index, backbone, opened, variant)
        for role in _text_roles(index, backbone)
    )
    spec = _spec(folder, index, backbone, texts)
    scheduler = _scheduler(folder)
    stated = process_from_json(scheduler) if scheduler else ProcessConfig()
    family = closest(backbone, spec, asked_for(stated, prediction, zero_terminal_snr))
    if scheduler:
        family = replace(family, hint=hint_from_json(scheduler, family.hint))
    family = with_folder_noising(family, folder, index)
    parts = [unet, *texts]
    if own_vae:
        vae = _vae(folder, variant)
        opened.append(Opened("vae", vae.file, vae.paths))
        family = with_vae(family, vae.vae, shown(folder / "vae"))
        parts.insert(1, vae.part)
    else:
        family = _with_own_scale(folder, family)
    about = about_folder(folder)
    family = about.said_of(replace(family, native_size=_native_size(folder, family)))
    return Checkpoint(
        source=shown(folder),
        identity=_identity(index, family, scheduler, prediction, about.notes),
        family=family,
        parts=tuple(parts),
        files=tuple(opened),
    )


def _with_own_scale(folder: Path, family: Family) -> Family:
    """The family with the scale of the folder's own autoencoder, which another takes the place of.

    The U-Net was trained on latents of that scale, whatever decodes them. An autoencoder that is
    missing or not supported leaves the family as it is: it may be why another is put in.
    """
    with suppress(FileError, CheckpointError):
        own = vae_from_json(read_object(folder / "vae" / "config.json"))
        return with_vae(family, own, shown(folder / "vae"))
    return family


def _check_classes(index: JsonObject) -> None:
    for name, what in _ELSEWHERE.items():
        if _class(index, name):
            raise CheckpointError(
                f"{index.source}: {shown(index.values.get('_class_name'))} needs {what}, which is "
                f"not supported ({name}: {_class(index, name)})"
            )
    for name, known in _CLASSES.items():
        kind = _class(index, name)
        if kind and kind not in known:
            raise CheckpointError(
                f"{index.source}: {name} is {kind}, which is not supported; expected "
                f"{' or '.join(known)}"
            )
    if not _class(index, "unet"):
        raise CheckpointError(f"{index.source} names no U-Net; this is no model that draws")


def _class(index: JsonObject, name: str) -> str:
    """The class of a part, shown safely; empty if the part is absent or null."""
    entry = index.values.get(name)
    named = isinstance(entry, list) and len(entry) == 2 and isinstance(entry[1], str)
    return shown(entry[1], 80) if named and isinstance(entry, list) else ""


def _text_roles(index: JsonObject, backbone: UNetConfig) -> tuple[Role, ...]:
    every: tuple[Role, ...] = ("text_encoder", "text_encoder_2")
    there = tuple(role for role in every if _class(index, role))
    if not there:
        raise CheckpointError(
            f"{index.source} names no text encoder; the U-Net reads text "
            f"{backbone.context_width} wide, so the folder is incomplete"
        )
    return there


def _text(
    folder: Path,
    role: Role,
    index: JsonObject,
    backbone: UNetConfig,
    opened: list[Opened],
    variant: str | None,
) -> Part:
    json = read_object(folder / role / "config.json")
    file = open_folder(folder / role, "model", variant)
    opened.append(Opened(role, file, tuple(find_weights(folder / role, "model", variant))))
    tensors = Selection.below(file)
    last = role == "text_encoder_2" or not _class(index, "text_encoder_2")
    pooled = has_vector_of_text(backbone) and last
    # Pipelines that read hidden states name the class without the matrix: from the other they would
    # take the matrix's output instead. So the part's own config says whether it is there.
    stated = is_projected(json) or _class(index, role) == "CLIPTextModelWithProjection"
    with_matrix = stated and "text_projection.weight" in tensors.names
    config = clip_from_json(json, projected=pooled or with_matrix)
    bare = "embeddings.token_embedding.weight" in tensors.names
    idle = IDLE if config.projection is not None else (*IDLE, "text_projection.")
    return Part(role, config, tensors, KeyMap(transformers_rows(config, bare=bare)), idle)


def _vocabulary(folder: Path, texts: tuple[Part, ...]) -> Vocabulary:
    """The one vocabulary of all tokenizers; CLIP's where a folder holds no tokens."""
    names = [part.role.replace("text_encoder", "tokenizer") for part in texts]
    found = [read_vocabulary(folder / name) or CLIP_VOCABULARY for name in names]
    if any(vocabulary != found[0] for vocabulary in found):
        raise CheckpointError(
            f"{shown(folder)}: {' and '.join(names)} have different vocabularies, of "
            f"{' and '.join(str(v.size) for v in found)} tokens; encoders of one model share theirs"
        )
    return found[0]


def _spec(
    folder: Path, index: JsonObject, backbone: UNetConfig, texts: tuple[Part, ...]
) -> TextSpec:
    if len(texts) == 2:
        base = SDXL_TEXT
    elif has_vector_of_text(backbone):
        base = REFINER_TEXT
    else:
        base = SD2_TEXT if backbone.linear_projection else SD1_TEXT
    spec = spec_of(base, texts, backbone, _vocabulary(folder, texts), shown(folder))
    return replace(
        spec,
        force_zeros_for_empty_negative=index.flag(
            "force_zeros_for_empty_prompt", base.force_zeros_for_empty_negative
        ),
        roles=tuple(
            _padded(role, folder / part.role.replace("text_encoder", "tokenizer"))
            for role, part in zip(spec.roles, texts, strict=True)
        ),
    )


def _padded(role: TextRole, folder: Path) -> TextRole:
    """The role with the padding that the tokenizer states, if it is one of the two there are."""
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        if not (folder / name).is_file():
            continue
        pad = read_object(folder / name).values.get("pad_token")
        text = pad.get("content") if isinstance(pad, dict) else pad
        if text in ("!", END_TEXT):
            return replace(role, pad=0 if text == "!" else None)
    return role


def _scheduler(folder: Path) -> JsonObject | None:
    path = folder / "scheduler" / "scheduler_config.json"
    return read_object(path) if path.is_file() else None


def _vae(folder: Path, variant: str | None) -> FoundVae:
    if not (folder / "vae").is_dir():
        raise FileError(
            f"{shown(folder)} holds no autoencoder (vae/); give one with --vae (vae=... in Python)"
        )
    return open_vae(folder / "vae", variant)


def _native_size(folder: Path, family: Family) -> int:
    """Side in pixels from the U-Net's sample size; a pair of sizes leaves the family's."""
    size = read_object(folder / "unet" / "config.json").values.get("sample_size")
    whole = isinstance(size, int) and not isinstance(size, bool) and 0 < size <= 1024
    return size * family.codec.factor if whole and isinstance(size, int) else family.native_size


def _identity(
    index: JsonObject,
    family: Family,
    scheduler: JsonObject | None,
    prediction: str | None,
    notes: tuple[str, ...],
) -> Identity:
    if prediction is not None:
        why = "asked for"
    elif scheduler is not None:
        why = "scheduler_config.json says so"
    else:
        why = "there is no scheduler_config.json"
        guess = "prediction eps is a guess: the folder holds no scheduler_config.json"
        notes = (guess, *notes)
    pipeline = shown(index.values.get("_class_name", "an unnamed pipeline"), 80)
    return Identity(
        kind="model",
        layout="Diffusers folder",
        family=family,
        reason=reason_for(family, [f"model_index.json names {pipeline}"]),
        prediction=family.process.prediction,
        prediction_reason=why,
        notes=notes,
    )
