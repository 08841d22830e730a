"""Models in the original layout: everything in one file, each part under its prefix."""

import re
from collections.abc import Mapping
from dataclasses import replace

from safelight.checkpoints.about import about_file
from safelight.checkpoints.checkpoint import Checkpoint, Opened
from safelight.checkpoints.guesses import Guess, asked_for, guessed
from safelight.checkpoints.identity import Identity, reason_for
from safelight.checkpoints.json_object import JsonObject
from safelight.checkpoints.keymap import KeyMap
from safelight.checkpoints.kinds import UNET
from safelight.checkpoints.measure_autoencoder import measured_autoencoder
from safelight.checkpoints.measure_unet import measured_unet
from safelight.checkpoints.model_json import VaeJson, vae_from_json
from safelight.checkpoints.noising_json import with_file_noising
from safelight.checkpoints.parts import Part, Selection
from safelight.checkpoints.rows_unet import unet_rows
from safelight.checkpoints.scheduler_json import hint_from_json, process_from_json
from safelight.checkpoints.single_text import FoundText, find_text
from safelight.checkpoints.stored_config import stored_configs
from safelight.checkpoints.unet_json import unet_from_json
from safelight.checkpoints.vae_file import vae_part, vae_tensors, with_vae
from safelight.checkpoints.weight_file import WeightFile
from safelight.errors import CheckpointError
from safelight.families import Family, closest
from safelight.models.autoencoder import AutoencoderConfig
from safelight.models.unet import UNetConfig
from safelight.printable import shown

VAE = "first_stage_model."
EMA = "model_ema."
# Tables and state of the training code, and marks that were read already.
_IGNORED = re.compile(
    r"^(model_ema\.|loss\.|low_scale_model\.|denoiser\.|alphas_cumprod|betas$|sqrt_|posterior_|log_"
    r"|logvar$|scale_factor$|cond_stage_model\.logit_scale$|first_stage_model\.(loss|model_ema)"
    r"|v_pred$|ztsnr$|edm_mean$|edm_std$|edm_vpred\.)"
)


def open_single(
    file: WeightFile,
    *,
    prediction: str | None = None,
    zero_terminal_snr: bool | None = None,
    ema: bool = False,
    own_vae: bool = True,
) -> Checkpoint:
    """The parts of an opened single file that holds a model.

    ema: take the U-Net from the averaged weights. own_vae: whether the file must hold its
    autoencoder; False if another one will be put in.
    Raises CheckpointError if a part is missing or is no part of a model we know.
    """
    configs = stored_configs(file)
    live = Selection.below(file, UNET)
    backbone = _backbone(live, configs)
    text = find_text(file, backbone, configs)
    guess = _guess(closest(backbone, text.spec), live, configs)
    process = asked_for(guess.process, prediction, zero_terminal_snr)
    family = closest(backbone, text.spec, process)
    unet = Part("unet", backbone, ema_weights(live) if ema else live, KeyMap(unet_rows(backbone)))
    parts = [unet, *text.parts]
    if own_vae:
        vae, part = _vae(file, configs)
        family = with_vae(family, vae, shown(file.path))
        parts.insert(1, part)
    about = about_file(configs)
    family = with_file_noising(about.said_of(_stated(family, configs)), configs)
    taken = {stored for part in parts for stored in part.tensors.names.values()}
    rest = [name for name in file.header if name not in taken]
    unused = tuple(name for name in rest if _unused(name, ema=ema, own_vae=own_vae))
    return Checkpoint(
        source=shown(file.path),
        identity=_identity(family, text, guess if prediction is None else None, about.notes),
        family=family,
        parts=tuple(parts),
        files=(Opened("model", file, (file.path,)),),
        ignored=unused,
        unknown=tuple(sorted(set(rest) - set(unused))),
    )


def _stated(family: Family, configs: Mapping[str, JsonObject]) -> Family:
    """The family with the hint and the native size that the file itself gives, if it does."""
    if "scheduler" in configs:
        family = replace(family, hint=hint_from_json(configs["scheduler"], family.hint))
    if "unet" in configs and configs["unet"].has("sample_size"):
        side = configs["unet"].whole("sample_size") * family.codec.factor
        family = replace(family, native_size=side)
    return family


def ema_weights(live: Selection) -> Selection:
    """The averaged copy of a U-Net: `model_ema.` and the name after `model.`, without its dots.

    Raises CheckpointError if the file holds no such copy.
    """
    stored = {name: EMA + f"diffusion_model.{name}".replace(".", "") for name in live.names}
    found = {name: there for name, there in stored.items() if there in live.file.header}
    if not found:
        raise CheckpointError(
            f"{shown(live.file.path)} holds no EMA weights ({EMA}*); leave the request for them out"
        )
    return Selection(live.file, found)


def _backbone(live: Selection, configs: Mapping[str, JsonObject]) -> UNetConfig:
    if "unet" in configs:
        return unet_from_json(configs["unet"])
    try:
        return measured_unet(live.shapes)
    except CheckpointError as error:
        raise CheckpointError(f"{shown(live.file.path)}: {error}") from None


def _guess(family: Family, live: Selection, configs: Mapping[str, JsonObject]) -> Guess:
    if "scheduler" in configs:
        process = process_from_json(configs["scheduler"])
        return Guess(process, "the file's own config says so")
    return guessed(family, live)


def _vae(file: WeightFile, configs: Mapping[str, JsonObject]) -> tuple[VaeJson, Part]:
    tensors = vae_tensors(file, VAE)
    if not tensors.names:
        raise CheckpointError(
            f"{shown(file.path)} holds no autoencoder (expected {VAE}*); give one with --vae "
            "(vae=... in Python)"
        )
    try:
        vae = (
            vae_from_json(configs["vae"])
            if "vae" in configs
            else VaeJson(measured_autoencoder(tensors.shapes), None, None)
        )
    except CheckpointError as error:
        raise CheckpointError(f"{shown(file.path)}: {error}") from None
    if not isinstance(vae.config, AutoencoderConfig):
        raise CheckpointError(f"{shown(file.path)} must hold a KL autoencoder, not a tiny one")
    return vae, vae_part(tensors, vae.config)


def _unused(name: str, *, ema: bool, own_vae: bool) -> bool:
    live = ema and name.startswith(UNET)
    replaced = not own_vae and name.startswith(VAE)
    return live or replaced or _IGNORED.match(name) is not None


def _identity(
    family: Family, text: FoundText, guess: Guess | None, notes: tuple[str, ...]
) -> Identity:
    """guess: None if the user stated the prediction."""
    prediction = family.process.prediction
    if guess is not None and guess.uncertain:
        notes = (
            f"prediction {prediction} is a guess ({guess.reason}); if pictures come out grey or as "
            f"noise, set the prediction to {'eps' if prediction == 'v' else 'v'}",
            *notes,
        )
    where = " and ".join(f"{prefix}*" for prefix in text.place.prefixes)
    return Identity(
        kind="model",
        layout="original single file",
        family=family,
        reason=reason_for(family, [f"its text encoder is at {where}"]),
        prediction=prediction,
        prediction_reason="asked for" if guess is None else guess.reason,
        notes=notes,
    )
