"""An autoencoder in a file or folder of its own: KL in either layout, or a tiny one."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from safelight.checkpoints.files import open_weights
from safelight.checkpoints.folders import find_weights, open_folder
from safelight.checkpoints.json_object import read_object
from safelight.checkpoints.keymap import KeyMap, Row
from safelight.checkpoints.kinds import kind_of
from safelight.checkpoints.measure_autoencoder import measured_autoencoder
from safelight.checkpoints.model_json import VaeJson, vae_from_json
from safelight.checkpoints.parts import Part, Selection
from safelight.checkpoints.rows_autoencoder import autoencoder_rows, diffusers_autoencoder_rows
from safelight.checkpoints.stored_config import stored_configs
from safelight.checkpoints.taesd_file import measured_tiny, tiny_tensors, with_other_half
from safelight.checkpoints.weight_file import WeightFile
from safelight.errors import CheckpointError, FileError
from safelight.families import Family
from safelight.models.autoencoder import AutoencoderConfig
from safelight.models.taesd import TinyAutoencoderConfig
from safelight.printable import shown

STEM = "diffusion_pytorch_model"
PARTS = ("encoder.", "decoder.", "quant_conv.", "post_quant_conv.")
_ROOTS = ("", "first_stage_model.", "vae.")


@dataclass(frozen=True)
class FoundVae:
    """An autoencoder that has been found but not read, and the files it is in."""

    vae: VaeJson
    part: Part
    file: WeightFile
    paths: tuple[Path, ...]


def open_vae(path: Path, variant: str | None = None) -> FoundVae:
    """The autoencoder in a weights file or a folder of Diffusers. Close its `file` after use.

    A folder may be the autoencoder's or the whole model's. Of the two files in which a tiny
    autoencoder is published either will do; the other must lie beside it.
    Raises FileError or CheckpointError if there is none.
    """
    if path.is_dir():
        return _from_folder(path, variant)
    file = open_weights(path)
    try:
        return _from_file(file)
    except CheckpointError as error:
        file.close()
        where = shown(path)
        raise (error if where in str(error) else CheckpointError(f"{where}: {error}")) from None
    except BaseException:
        file.close()
        raise


def with_vae(family: Family, vae: VaeJson, source: str) -> Family:
    """The family with this autoencoder; scale and shift are the family's unless the file says.

    Raises CheckpointError for latents of another number of channels.
    """
    channels, codec = family.backbone.out_channels, family.codec
    if vae.config.latent_channels != channels:
        raise CheckpointError(
            f"{source}: this autoencoder's latents have {vae.config.latent_channels} channels, but "
            f"{family.label} draws latents of {channels}; it belongs to another family"
        )
    return replace(
        family,
        codec=replace(
            codec,
            autoencoder=vae.config,
            scale=codec.scale if vae.scale is None else vae.scale,
            shift=codec.shift if vae.shift is None else vae.shift,
        ),
    )


def vae_part(tensors: Selection, config: AutoencoderConfig | TinyAutoencoderConfig) -> Part:
    """An autoencoder in the original layout or with Diffusers' names of any year."""
    rows: Iterable[Row]
    if isinstance(config, TinyAutoencoderConfig):
        rows = (Row("encoder", "encoder"), Row("decoder", "decoder"))
    elif "encoder.down.0.block.0.conv1.weight" in tensors.names:
        rows = autoencoder_rows(config)
    else:
        old = "encoder.mid_block.attentions.0.query.weight" in tensors.names
        rows = diffusers_autoencoder_rows(config, of_2022=old)
    return Part("vae", config, tensors, KeyMap(rows))


def vae_tensors(file: WeightFile, prefix: str = "") -> Selection:
    """The tensors of a KL autoencoder below a prefix, without what its training left there."""
    below = Selection.below(file, prefix)
    return replace(below, names={n: s for n, s in below.names.items() if n.startswith(PARTS)})


def _from_folder(folder: Path, variant: str | None) -> FoundVae:
    inner = folder if (folder / "config.json").is_file() else folder / "vae"
    if not (inner / "config.json").is_file():
        raise FileError(f"{shown(folder)} holds no autoencoder: neither config.json nor vae/")
    vae = vae_from_json(read_object(inner / "config.json"))
    paths = tuple(find_weights(inner, STEM, variant))
    file = open_folder(inner, STEM, variant)
    return FoundVae(vae, vae_part(Selection.below(file), vae.config), file, paths)


def _from_file(file: WeightFile) -> FoundVae:
    found = kind_of({name: info.shape for name, info in file.header.items()})
    if found.kind == "taesd":
        whole, paths = with_other_half(file)
        try:
            tensors = tiny_tensors(whole)
            tiny = measured_tiny(tensors.shapes)
        except BaseException:
            whole.close()
            raise
        return FoundVae(VaeJson(tiny, 1.0, 0.0), vae_part(tensors, tiny), whole, paths)
    for root in _ROOTS:
        if f"{root}encoder.conv_in.weight" in file.header:
            tensors = vae_tensors(file, root)
            configs = stored_configs(file)
            own = "vae" in configs
            vae = vae_from_json(configs["vae"]) if own else _beside(file.path, tensors)
            return FoundVae(vae, vae_part(tensors, vae.config), file, (file.path,))
    what = "a model without an autoencoder" if found.kind == "model" else found.evidence
    raise CheckpointError(f"this is no autoencoder ({what}); give a VAE file or folder")


def _beside(path: Path, tensors: Selection) -> VaeJson:
    """What the shapes tell, with groups, scale and shift of a config.json beside, if it fits them.

    Only a file that Diffusers named belongs to the config.json beside it.
    """
    beside = path.with_name("config.json")
    if path.name.partition(".")[0] == STEM and beside.is_file():
        stated = vae_from_json(read_object(beside))
        if vae_part(tensors, stated.config).report().sound:
            return stated
    return VaeJson(measured_autoencoder(tensors.shapes), None, None)
