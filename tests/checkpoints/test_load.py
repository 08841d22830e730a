"""Every layout gives the weights it was written with, and what does not fit is said in one line."""

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import tiny
from models_tiny import distance, random, randomised
from on_disk import EVERY_FAMILY, OnDisk
from safelight.checkpoints.load import load, load_autoencoder, load_clip
from safelight.checkpoints.safetensors_file import SafetensorsFile
from safelight.checkpoints.save import save
from safelight.checkpoints.vae_file import STEM
from safelight.errors import (
    CheckpointError,
    FileError,
    InputError,
    RequestError,
    UnsafeFileError,
)
from safelight.model import Model
from safelight.models.autoencoder import Autoencoder, AutoencoderConfig, Codec

Get = Callable[[str], OnDisk]
UNET, VAE, TEXT = "model.diffusion_model.", "first_stage_model.", "cond_stage_model.transformer."


def assert_same(ours: nn.Module, theirs: nn.Module) -> None:
    """Bit for bit; Transformers 5 leaves `text_model.` out of some models' names."""
    named = {n.removeprefix("text_model."): t for n, t in ours.state_dict().items()}
    expected = {n.removeprefix("text_model."): t for n, t in theirs.state_dict().items()}
    assert named.keys() == expected.keys()
    for name, tensor in named.items():
        assert torch.equal(tensor, expected[name]), name


def assert_loaded(model: Model, made: tiny.Oracle) -> None:
    assert_same(model.network.unet, made.unet)
    assert isinstance(model.codec.autoencoder, nn.Module)
    assert_same(model.codec.autoencoder, made.vae)
    for ours, theirs in zip(model.text.encoders, made.texts, strict=True):
        assert_same(ours, theirs)


@EVERY_FAMILY
def test_both_layouts_give_the_weights_bit_for_bit(name: str, on_disk: Get) -> None:
    files = on_disk(name)
    for path in (files.folder, files.single):
        model = load(path)
        assert_loaded(model, files.made)
        assert model.report is not None
        assert not model.report.unknown
        assert (model.dtype, model.device.type) == (torch.float32, "cpu")
        assert not any(p.requires_grad for p in model.network.unet.parameters())
        assert not model.network.unet.training


# The other families differ from these in sizes only.
@pytest.mark.parametrize(
    "name", ["sd15", "tiny-sd", "sd2-v", "x4-upscaler", "sdxl", "sdxl-refiner"]
)
@torch.no_grad()
def test_a_loaded_unet_computes_what_diffusers_computes(name: str, on_disk: Get) -> None:
    files = on_disk(name)
    config = (model := load(files.single)).network.unet.config
    x, context = random(2, config.in_channels, 8, 8), random(2, 5, config.context_width)
    time = torch.tensor([17.0, 801.0])
    vector = None if config.vector_width is None else random(2, config.vector_width)
    level = None if config.noise_levels is None else torch.tensor([3, 250])
    ours = model.network.unet(x, time, context, vector, level=level)
    told: dict[str, object] = {"class_labels": level}
    if vector is not None:
        # Diffusers makes the sinusoids itself, so it gets the numbers and we what it makes of them.
        numbers = 6 if model.text.spec.vector == "sdxl" else 5
        sizes = torch.tensor([[64, 48, 0, 4, 64, 48]] * 2)[:, :numbers]
        pooled = vector[:, : config.vector_width - sizes.shape[1] * model.text.spec.size_width]
        told["added_cond_kwargs"] = {"text_embeds": pooled, "time_ids": sizes}
        embedded = files.made.unet.add_time_proj(sizes.flatten()).reshape(2, -1)
        ours = model.network.unet(x, time, context, torch.cat([pooled, embedded], 1))
    theirs = files.made.unet(x, time, context, **told).sample
    assert distance(ours, theirs) <= 1e-4


@pytest.mark.parametrize("name", ["sd15", "x4-upscaler"])
@torch.no_grad()
def test_a_loaded_autoencoder_computes_what_diffusers_computes(name: str, on_disk: Get) -> None:
    files = on_disk(name)
    codec = load(files.single).codec
    images, latents = random(1, 3, 32, 32).clamp(-1, 1), random(1, 4, 4, 4)
    scale = files.made.vae.config.scaling_factor
    encoded = files.made.vae.encode(images).latent_dist.mode() * scale
    assert distance(codec.encode(images).mode(), encoded) <= 1e-4
    decoded = files.made.vae.decode(latents / scale).sample
    assert distance(codec.decode(latents), decoded) <= 1e-4


@pytest.mark.parametrize("name", ["sd15", "sd2-v", "sdxl"])
@torch.no_grad()
def test_loaded_text_encoders_compute_what_transformers_computes(name: str, on_disk: Get) -> None:
    files = on_disk(name)
    ids = torch.randint(0, 49406, (2, 77), generator=torch.Generator().manual_seed(0))
    ids[:, 0], ids[:, 20:] = 49406, 49407
    for ours, theirs in zip(load(files.single).text.encoders, files.made.texts, strict=True):
        expected = theirs(ids, output_hidden_states=True)
        assert distance(ours(ids).final, expected.last_hidden_state) <= 1e-4
        assert distance(ours(ids).hidden_states[-2], expected.hidden_states[-2]) <= 1e-4
        if ours.config.projection is not None:
            assert distance(ours(ids).pooled, expected.text_embeds) <= 1e-4


# -- types -------------------------------------------------------------------------------------


@pytest.mark.parametrize("stored", [torch.float16, torch.bfloat16, torch.float64])
def test_files_of_every_type_are_cast_as_torch_casts(
    stored: torch.dtype, on_disk: Get, tmp_path: Path
) -> None:
    path = tiny.write_single(on_disk("sd15").made, tmp_path / "m.safetensors", stored)
    for wanted in (None, torch.float16):
        unet = load(path, dtype=wanted).network.unet
        assert unet.dtype == (wanted or torch.float32)
        expected = on_disk("sd15").made.unet.state_dict()["conv_in.weight"]
        assert torch.equal(unet.conv_in.weight, expected.to(stored).to(unet.dtype))


def test_a_file_of_mixed_types_becomes_one_type(on_disk: Get, tmp_path: Path) -> None:
    state = load_file(on_disk("sd15").single)
    half = {n: t.half() if n.startswith(UNET) else t for n, t in state.items()}
    save_file(half, tmp_path / "m.safetensors")
    model = load(tmp_path / "m.safetensors", dtype=torch.bfloat16)
    parts = (model.network.unet, model.codec.autoencoder, *model.text.encoders)
    assert {p.dtype for part in parts for p in part.parameters()} == {torch.bfloat16}


def test_weights_of_the_wanted_type_are_mapped_and_the_file_stays_as_it_was(
    on_disk: Get, tmp_path: Path
) -> None:
    path = tmp_path / "m.safetensors"
    path.write_bytes(on_disk("sd15").single.read_bytes())
    before = hashlib.sha256(path.read_bytes()).hexdigest()
    model = load(path)
    with torch.no_grad():
        model.network.unet.conv_in.weight.zero_()
    assert hashlib.sha256(path.read_bytes()).hexdigest() == before


def test_quantised_weights_are_refused(on_disk: Get, tmp_path: Path) -> None:
    state = load_file(on_disk("sd15").single)
    state[f"{UNET}out.2.weight"] = state[f"{UNET}out.2.weight"].to(torch.int8)
    save_file(state, tmp_path / "m.safetensors")
    with pytest.raises(CheckpointError, match=r"out\.2\.weight is stored as torch\.int8"):
        load(tmp_path / "m.safetensors")


def test_weights_that_are_not_numbers_are_refused_by_name(on_disk: Get, tmp_path: Path) -> None:
    state = load_file(on_disk("sd15").single)
    state[f"{UNET}middle_block.2.in_layers.2.weight"][:] = float("nan")
    save_file(state, tmp_path / "m.safetensors")
    with pytest.raises(FileError, match=r"middle_block\.2\.in_layers\.2\.weight holds NaN"):
        load(tmp_path / "m.safetensors")


@pytest.mark.parametrize("count", [1, 1000])
def test_weights_too_large_for_a_type_are_not_called_damaged(
    count: int, on_disk: Get, tmp_path: Path
) -> None:
    state = load_file(on_disk("sd15").single)
    name = next(n for n, t in state.items() if n.startswith(UNET) and t.numel() > 8192)
    state[name].view(-1)[1 : 1 + count] = 70_000.0
    save_file(state, tmp_path / "m.safetensors")
    with pytest.raises(RequestError, match=f"{name} is sound but .* float16: {count} of .*bf16"):
        load(tmp_path / "m.safetensors", dtype=torch.float16)
    assert load(tmp_path / "m.safetensors", dtype=torch.bfloat16).dtype == torch.bfloat16
    state[name].view(-1)[1] = torch.nan
    save_file(state, tmp_path / "n.safetensors")
    if count == 1:
        with pytest.raises(FileError, match=f"{name} holds NaN"):
            load(tmp_path / "n.safetensors", dtype=torch.float16)


# -- norms of another number of groups than 32 ----------------------------------------------------


@pytest.mark.parametrize("kind", ["safetensors", "ckpt"])
def test_a_narrow_file_that_tells_no_groups_is_refused_by_name(
    kind: str, on_disk: Get, tmp_path: Path
) -> None:
    state = load_file(narrow(on_disk, tmp_path / "whole.safetensors"))
    path, vae = tmp_path / f"bare.{kind}", tmp_path / f"vae.{kind}"
    alone = {n.removeprefix(VAE): t for n, t in state.items() if n.startswith(VAE)}
    for target, tensors in ((path, state), (vae, alone)):
        if kind == "ckpt":
            torch.save({"state_dict": tensors}, target)
        else:
            save_file(tensors, target)
    message = r"the autoencoder has 16 channels.*Diffusers folder"
    with pytest.raises(CheckpointError, match=rf"bare\.{kind}: {message}"):
        load(path)
    for source in (vae, path):
        with pytest.raises(CheckpointError, match=rf"{source.stem}\.{kind}: {message}"):
            load(on_disk("sd15").single, vae=source)


def test_an_autoencoder_lent_by_our_own_file_has_its_groups(on_disk: Get, tmp_path: Path) -> None:
    whole = narrow(on_disk, tmp_path / "whole.safetensors")
    coder = load(on_disk("sd15").single, vae=whole).codec.autoencoder
    assert isinstance(coder, Autoencoder) and coder.config.groups == 8
    assert load_autoencoder(whole).config.scale == load(whole).codec.scale


@pytest.mark.parametrize("part", ["unet", "vae"])
@pytest.mark.parametrize("groups", [0, 7])
def test_groups_that_do_not_fit_the_widths_are_refused(
    part: str, groups: int, on_disk: Get, tmp_path: Path
) -> None:
    folder = copied(on_disk("sd15").folder, tmp_path / "folder")
    config = folder / part / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "norm_num_groups": groups}))
    with pytest.raises(CheckpointError, match=rf"{part}/config\.json.*{groups}"):
        load(folder)


def narrow(on_disk: Get, path: Path) -> Path:
    """A model saved by us whose autoencoder has 8 groups and 16 channels."""
    model = load(on_disk("sd15").single)
    config = AutoencoderConfig(widths=(16, 32), layers=1, groups=8)
    coder = randomised(Autoencoder(config))
    assert isinstance(coder, Autoencoder)
    codec = replace(model.family.codec, autoencoder=config)
    save(
        replace(model, family=replace(model.family, codec=codec), codec=Codec(coder, codec)),
        path,
        "ldm",
    )
    return path


def test_a_part_of_a_model_is_sent_to_the_model(on_disk: Get, tmp_path: Path) -> None:
    folder = copied(on_disk("sd15").folder, tmp_path / "folder")
    with pytest.raises(FileError, match=r"part of the model .*folder, so give that") as caught:
        load(folder / "unet")
    assert "safetensors" not in str(caught.value)
    (folder / "model_index.json").unlink()
    with pytest.raises(FileError, match="give a Diffusers folder"):
        load(folder / "unet")


# -- older and other namings ---------------------------------------------------------------------


def variant(
    source: Path, target: Path, change: Callable[[str], str | None], **more: Tensor
) -> Path:
    """The file with names changed; None drops a tensor."""
    state = {new: t for n, t in load_file(source).items() if (new := change(n)) is not None}
    save_file(state | more, target)
    return target


def test_sd1_files_without_text_model_load(on_disk: Get, tmp_path: Path) -> None:
    path = variant(
        on_disk("sd15").single,
        tmp_path / "old.safetensors",
        lambda n: n.replace(f"{TEXT}text_model.", TEXT),
    )
    assert_loaded(load(path), on_disk("sd15").made)


@pytest.mark.parametrize("kind", ["absent", "float"])
def test_position_ids_do_not_matter(kind: str, on_disk: Get, tmp_path: Path) -> None:
    state = load_file(on_disk("sd15").single)
    name = f"{TEXT}text_model.embeddings.position_ids"
    ids = state.pop(name)
    save_file(
        state if kind == "absent" else state | {name: ids.float()}, tmp_path / "m.safetensors"
    )
    assert_loaded(load(tmp_path / "m.safetensors"), on_disk("sd15").made)


def test_tables_and_marks_of_training_are_ignored(on_disk: Get, tmp_path: Path) -> None:
    extra = {
        "alphas_cumprod": torch.ones(10),
        "sqrt_alphas_cumprod": torch.ones(10),
        "posterior_variance": torch.ones(10),
        "model_ema.decay": torch.tensor(0.999),
        "first_stage_model.loss.logvar": torch.zeros(1),
        "stranger.weight": torch.zeros(3),
    }
    path = variant(on_disk("sd15").single, tmp_path / "m.safetensors", lambda n: n, **extra)
    model = load(path)
    assert model.report is not None
    assert set(extra) - {"stranger.weight"} <= set(model.report.ignored)
    assert model.report.unknown == (("stranger", 1),)


def test_folders_of_either_transformers_load(on_disk: Get, tmp_path: Path) -> None:
    """Transformers 4 wrote `text_model.` before the names of a CLIPTextModel, 5 does not."""
    folder = copied(on_disk("sd15").folder, tmp_path / "four")
    weights = folder / "text_encoder" / "model.safetensors"
    state = load_file(weights)
    assert "embeddings.token_embedding.weight" in state
    save_file({f"text_model.{n}": t for n, t in state.items()}, weights)
    assert_loaded(load(folder), on_disk("sd15").made)


def test_autoencoder_folders_of_2022_load(on_disk: Get, tmp_path: Path) -> None:
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    folder = copied(on_disk("sd15").folder, tmp_path / "old")
    weights = folder / "vae" / f"{STEM}.safetensors"
    state = load_file(weights)
    for new, name in old.items():
        state = {
            n.replace(f"attentions.0.{new}.", f"attentions.0.{name}."): t for n, t in state.items()
        }
    assert any("proj_attn" in n for n in state)
    save_file(state, weights)
    assert_loaded(load(folder), on_disk("sd15").made)


def test_variants_and_shards_load(on_disk: Get, tmp_path: Path) -> None:
    made = on_disk("sd15").made
    folder = tiny.write_folder(made, tmp_path / "m", variant="fp16", max_shard_size="3MB")
    assert (folder / "unet" / f"{STEM}.safetensors.index.fp16.json").is_file()
    assert_loaded(load(folder, variant="fp16"), made)
    with pytest.raises(FileError, match="bf16"):
        load(folder, variant="bf16")


def test_pickled_folders_load(on_disk: Get, tmp_path: Path) -> None:
    folder = tiny.write_folder(on_disk("sd15").made, tmp_path / "m", safe_serialization=False)
    text = folder / "text_encoder"
    # Transformers 5 writes safetensors only.
    torch.save(load_file(text / "model.safetensors"), text / "pytorch_model.bin")
    (text / "model.safetensors").unlink()
    assert not list(folder.rglob("*.safetensors"))
    assert_loaded(load(folder), on_disk("sd15").made)


def test_complete_open_clip_towers_lose_their_last_block(on_disk: Get, tmp_path: Path) -> None:
    made = on_disk("sd2-v").made
    prefix = "cond_stage_model.model."
    state = {
        n: t for n, t in load_file(on_disk("sd2-v").single).items() if not n.startswith(prefix)
    }
    inner = {n.removeprefix("text_model."): t for n, t in made.texts[0].state_dict().items()}
    whole = tiny.open_clip_state(inner, whole=True)
    save_file(state | {prefix + n: t.clone() for n, t in whole.items()}, tmp_path / "m.safetensors")
    model = load(tmp_path / "m.safetensors")
    assert_loaded(model, made)
    assert model.report is not None
    assert any("resblocks.2." in name for name in model.report.ignored)


# -- pickles and EMA -----------------------------------------------------------------------------


def with_ema(state: Mapping[str, Tensor], factor: float) -> dict[str, Tensor]:
    live = {n: t for n, t in state.items() if n.startswith(UNET)}
    averaged = {
        "model_ema." + n.removeprefix("model.").replace(".", ""): t * factor
        for n, t in live.items()
    }
    return {**state, **averaged, "model_ema.decay": torch.tensor(0.9999)}


def test_a_ckpt_loads_and_gives_its_averaged_weights_on_request(
    on_disk: Get, tmp_path: Path
) -> None:
    state = with_ema(load_file(on_disk("sd15").single), 0.5)
    path = tmp_path / "model.ckpt"
    torch.save({"state_dict": state, "global_step": 470000}, path)
    assert_loaded(load(path), on_disk("sd15").made)
    averaged = load(path, ema=True)
    ours, live = averaged.network.unet.state_dict(), on_disk("sd15").made.unet.state_dict()
    assert all(torch.equal(ours[name], 0.5 * live[name]) for name in live)
    assert averaged.report is not None
    assert not averaged.report.unknown


def test_averaged_weights_that_are_not_there_are_an_error(on_disk: Get) -> None:
    with pytest.raises(CheckpointError, match="no EMA weights"):
        load(on_disk("sd15").single, ema=True)
    with pytest.raises(CheckpointError, match="EMA"):
        load(on_disk("sd15").folder, ema=True)


class Trap:
    def __reduce__(self) -> tuple[object, ...]:
        return (exec, ("raise SystemExit(99)",))


def test_a_ckpt_that_asks_to_run_code_is_refused(tmp_path: Path) -> None:
    torch.save({"state_dict": {"x": Trap()}}, tmp_path / "evil.ckpt")
    with pytest.raises(UnsafeFileError):
        load(tmp_path / "evil.ckpt")


# -- other autoencoders --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def other_vae() -> nn.Module:
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    return randomised(AutoencoderKL(**tiny.FAMILIES["sd15"].vae), seed=77)


def original_vae(module: nn.Module) -> dict[str, Tensor]:
    out = {}
    for name, tensor in module.state_dict().items():
        theirs, conv = tiny.original_vae_name(name, 4)
        out[theirs] = tensor[:, :, None, None] if conv and tensor.ndim == 2 else tensor
    return out


@pytest.mark.parametrize("kind", ["folder", "weights", "original", "lightning", "prefixed"])
def test_another_autoencoder_replaces_the_models_own(
    kind: str, other_vae: nn.Module, on_disk: Get, tmp_path: Path
) -> None:
    path = tmp_path / "vae.safetensors"
    if kind in ("folder", "weights"):
        other_vae.save_pretrained(tmp_path / "vae")
        path = tmp_path / "vae"
        path = path if kind == "folder" else path / f"{STEM}.safetensors"
    elif kind == "original":
        save_file(original_vae(other_vae), path)
    elif kind == "prefixed":
        save_file({VAE + n: t for n, t in original_vae(other_vae).items()}, path)
    else:
        path = path.with_suffix(".ckpt")
        loss = {"loss.logvar": torch.zeros(1), "loss.discriminator.main.0.weight": torch.ones(2, 2)}
        torch.save({"state_dict": original_vae(other_vae) | loss, "epoch": 3}, path)
    for model in (load(on_disk("sd15").single, vae=path), load(on_disk("sd15").folder, vae=path)):
        assert isinstance(model.codec.autoencoder, nn.Module)
        assert_same(model.codec.autoencoder, other_vae)
        assert_same(model.network.unet, on_disk("sd15").made.unet)
        assert model.codec.scale == 0.18215
        assert [record.role for record in model.files][-1] == "vae"
    codec = load_autoencoder(path)
    assert isinstance(codec.autoencoder, nn.Module)
    assert_same(codec.autoencoder, other_vae)


def test_a_model_without_autoencoder_needs_one_and_says_how(
    other_vae: nn.Module, on_disk: Get, tmp_path: Path
) -> None:
    path = variant(
        on_disk("sd15").single,
        tmp_path / "m.safetensors",
        lambda n: None if n.startswith(VAE) else n,
    )
    with pytest.raises(CheckpointError, match="--vae"):
        load(path)
    save_file(original_vae(other_vae), tmp_path / "vae.safetensors")
    model = load(path, vae=tmp_path / "vae.safetensors")
    assert isinstance(model.codec.autoencoder, nn.Module)
    assert_same(model.codec.autoencoder, other_vae)


def test_an_autoencoder_with_other_latents_is_refused(on_disk: Get, tmp_path: Path) -> None:
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    sixteen = AutoencoderKL(**{**tiny.FAMILIES["sd15"].vae, "latent_channels": 16})
    sixteen.save_pretrained(tmp_path / "vae")
    with pytest.raises(CheckpointError, match=r"16 channels.*latents of 4"):
        load(on_disk("sd15").single, vae=tmp_path / "vae")


def test_an_autoencoder_of_another_scale_is_refused(on_disk: Get) -> None:
    with pytest.raises(CheckpointError, match=r"0\.13025.*0\.18215"):
        load(on_disk("sd15").single, vae=on_disk("sdxl").folder / "vae")


@pytest.mark.parametrize("kind", ["diffusers", "halves", "decoder", "both in one"])
@torch.no_grad()
def test_tiny_autoencoders_load_from_all_their_files(
    kind: str, on_disk: Get, tmp_path: Path
) -> None:
    from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny

    theirs = randomised(AutoencoderTiny())
    state = theirs.state_dict()
    halves = {
        "encoder": {
            n.removeprefix("encoder.layers."): t for n, t in state.items() if "encoder" in n
        },
        "decoder": {
            f"{int(number) + 1}.{rest}": t
            for n, t in state.items()
            if "decoder" in n
            for number, _, rest in [n.removeprefix("decoder.layers.").partition(".")]
        },
    }
    path = tmp_path / "taesd_encoder.safetensors"
    if kind == "diffusers":
        theirs.save_pretrained(tmp_path)
        path = tmp_path
    elif kind == "both in one":
        save_file(
            {f"taesd_{h}.{n}": t for h, part in halves.items() for n, t in part.items()}, path
        )
    else:
        for half, part in halves.items():
            save_file(part, tmp_path / f"taesd_{half}.safetensors")
        path = tmp_path / f"taesd_{'decoder' if kind == 'decoder' else 'encoder'}.safetensors"
    codec = load(on_disk("sd15").single, vae=path).codec
    assert isinstance(codec.autoencoder, nn.Module)
    assert_same(codec.autoencoder, theirs)
    assert (codec.scale, codec.shift) == (1.0, 0.0)
    latents = random(1, 4, 4, 4)
    assert distance(codec.decode(latents), theirs.decode(latents).sample) <= 1e-4


def test_a_tiny_encoder_alone_is_refused(tmp_path: Path) -> None:
    save_file(
        {"0.weight": torch.ones(64, 3, 3, 3), "1.conv.0.weight": torch.ones(64, 64, 3, 3)},
        tmp_path / "taesd_encoder.safetensors",
    )
    with pytest.raises(CheckpointError, match="its decoder is needed too"):
        load_autoencoder(tmp_path / "taesd_encoder.safetensors")


@torch.no_grad()
def test_a_tiny_decoder_alone_shows_latents_and_makes_none(on_disk: Get, tmp_path: Path) -> None:
    """In the names it is published in, with a shape of its own."""
    from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny

    theirs = randomised(
        AutoencoderTiny(
            encoder_block_out_channels=(8,) * 4,
            decoder_block_out_channels=(8,) * 4,
            num_encoder_blocks=(1, 2, 1, 3),
            num_decoder_blocks=(3, 1, 2, 1),
        )
    )
    path = tmp_path / "own.safetensors"
    numbered = {
        f"{int(number) + 1}.{rest}": tensor
        for name, tensor in theirs.decoder.state_dict().items()
        for number, _, rest in [name.removeprefix("layers.").partition(".")]
    }
    save_file(numbered, path)
    model = load(on_disk("sd15").single, vae=path)
    latents = random(1, 4, 4, 4)
    assert distance(model.codec.decode(latents), theirs.decode(latents).sample) <= 1e-4
    assert [file.path for file in model.files if file.role == "vae"] == [path]
    with pytest.raises(RequestError, match="a decoder alone"):
        model.codec.encode(torch.zeros(1, 3, 32, 32))
    with pytest.raises(RequestError, match="half an autoencoder"):
        save(model, tmp_path / "whole")
    assert not (tmp_path / "whole").exists()


def test_a_tiny_decoder_that_lost_layers_is_told(tmp_path: Path) -> None:
    path = tmp_path / "own.safetensors"
    save_file({"1.weight": torch.ones(8, 4, 3, 3), "3.conv.0.weight": torch.ones(8, 8, 3, 3)}, path)
    with pytest.raises(CheckpointError, match=r"own\.safetensors.*some layers are lost"):
        load_autoencoder(path)


@pytest.mark.parametrize("kind", ["folder", "file", "open_clip"])
def test_a_text_encoder_loads_alone(kind: str, on_disk: Get, tmp_path: Path) -> None:
    module = on_disk("sdxl").made.texts[1]
    path = on_disk("sdxl").folder / "text_encoder_2"
    if kind == "file":
        path = path / "model.safetensors"
    elif kind == "open_clip":
        inner = {n.removeprefix("text_model."): t for n, t in module.state_dict().items()}
        path = tmp_path / "clip.safetensors"
        save_file({n: t.clone() for n, t in tiny.open_clip_state(inner).items()}, path)
    assert_same(load_clip(path), module)
    assert load_clip(path, projection=False).text_projection is None


def test_a_missing_projection_is_told(on_disk: Get) -> None:
    with pytest.raises(CheckpointError, match=r"1 missing: text_projection\.weight"):
        load_clip(on_disk("sdxl").folder / "text_encoder")


# -- what does not fit -----------------------------------------------------------------------------


def test_one_error_lists_all_that_does_not_fit(on_disk: Get, tmp_path: Path) -> None:
    state = load_file(on_disk("sd15").single)
    gone = [n for n in state if n.startswith(f"{UNET}middle_block.2.")][:7]
    for name in gone:
        del state[name]
    del state[f"{VAE}quant_conv.bias"]
    state[f"{UNET}out.2.bias"] = torch.zeros(5)
    state[f"{UNET}strange.weight"] = torch.zeros(2)
    save_file(state, tmp_path / "m.safetensors")
    with pytest.raises(CheckpointError) as caught:
        load(tmp_path / "m.safetensors")
    told = str(caught.value)
    assert "Stable Diffusion 1.x" in told
    assert "8 missing: " in told
    assert "and 3 more" in told
    assert f"1 surplus: {UNET}strange.weight" in told
    assert f"1 of another shape: {UNET}out.2.bias is [5] instead of [4]" in told
    assert "\n" not in told


def test_nothing_is_read_before_everything_is_checked(
    on_disk: Get, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = variant(
        on_disk("sd15").single,
        tmp_path / "m.safetensors",
        lambda n: None if n.endswith("decoder.conv_out.bias") else n,
    )

    def read(*_: object, **__: object) -> Tensor:
        raise AssertionError("a tensor was read")

    monkeypatch.setattr(SafetensorsFile, "read", read)
    with pytest.raises(CheckpointError, match=r"1 missing: first_stage_model\.decoder\.conv_out"):
        load(path)


def test_a_unet_without_text_encoder_is_named(on_disk: Get, tmp_path: Path) -> None:
    path = variant(
        on_disk("sd2-v").single,
        tmp_path / "m.safetensors",
        lambda n: None if n.startswith("cond_stage_model") else n,
    )
    with pytest.raises(
        CheckpointError, match=r"no text encoder \(expected cond_stage_model\.model"
    ):
        load(path)


def test_parts_of_two_models_are_refused(on_disk: Get, tmp_path: Path) -> None:
    state = load_file(on_disk("sd15").single)
    for name, tensor in list(state.items()):
        if "attn2.to_k" in name or "attn2.to_v" in name:
            state[name] = torch.zeros(tensor.shape[0], 99)
    save_file(state, tmp_path / "m.safetensors")
    with pytest.raises(CheckpointError, match="99 wide, but the text encoders give 64"):
        load(tmp_path / "m.safetensors")


OTHERS: dict[str, tuple[tiny.State, str]] = {
    "lora": (
        {
            f"lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k.lora_{x}.weight": t
            for x, t in (("down", torch.ones(4, 2048)), ("up", torch.ones(640, 4)))
        },
        r"is a LoRA for SDXL \(context width 2048\), not a model",
    ),
    "controlnet": (
        {"control_model.input_hint_block.0.weight": torch.ones(16, 3, 3, 3)},
        "is a ControlNet, not a model",
    ),
    "textual inversion": ({"emb_params": torch.ones(2, 768)}, r"textual inversion for SD 1\.x"),
    "sd3": (
        {"model.diffusion_model.joint_blocks.0.x_block.mlp.fc1.bias": torch.ones(4)},
        "Stable Diffusion 3",
    ),
    "unknown": ({"a.weight": torch.ones(3, 3, 3)}, "nothing that we know"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_files_given_as_a_model_are_named(name: str, tmp_path: Path) -> None:
    state, message = OTHERS[name]
    save_file(state, tmp_path / "file.safetensors")
    with pytest.raises(CheckpointError, match=message) as caught:
        load(tmp_path / "file.safetensors")
    assert str(tmp_path / "file.safetensors") in str(caught.value)
    assert caught.value.exit_code == 2


def test_an_autoencoder_given_as_a_model_is_sent_to_its_option(
    other_vae: nn.Module, tmp_path: Path
) -> None:
    save_file(original_vae(other_vae), tmp_path / "vae.safetensors")
    with pytest.raises(CheckpointError, match=r"is an autoencoder \(VAE\).*--vae"):
        load(tmp_path / "vae.safetensors")


def test_a_model_given_as_an_autoencoder_lends_its_own(on_disk: Get) -> None:
    model = load(on_disk("sd15").single, vae=on_disk("sd15-inpaint").single)
    assert isinstance(model.codec.autoencoder, nn.Module)
    assert_same(model.codec.autoencoder, on_disk("sd15-inpaint").made.vae)


@pytest.mark.parametrize("kind", ["missing", "empty folder", "folder of files", "truncated"])
def test_paths_that_hold_no_model_are_told(kind: str, on_disk: Get, tmp_path: Path) -> None:
    path, message = tmp_path / "gone.safetensors", "does not exist"
    if kind == "empty folder":
        path, message = tmp_path, "without model_index.json"
    elif kind == "folder of files":
        (tmp_path / "some.safetensors").symlink_to(on_disk("sd15").single)
        path, message = tmp_path, r"did you mean .*some\.safetensors"
    elif kind == "truncated":
        whole = on_disk("sd15").single.read_bytes()
        path, message = tmp_path / "cut.safetensors", "cut.safetensors"
        path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=message):
        load(path)


def test_a_folder_with_a_damaged_config_is_told(on_disk: Get, tmp_path: Path) -> None:
    folder = copied(on_disk("sd15").folder, tmp_path / "m")
    (folder / "unet" / "config.json").write_text('{"block_out_channels": [32, "wide"]}')
    with pytest.raises(CheckpointError, match=r"unet/config\.json: block_out_channels"):
        load(folder)


# -- where it came from ----------------------------------------------------------------------------


def test_the_model_knows_its_files(on_disk: Get) -> None:
    path = on_disk("sd15").single
    [record] = load(path).files
    assert (record.role, record.path, record.size) == ("model", path, path.stat().st_size)
    assert record.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    roles = [record.role for record in load(on_disk("sdxl").folder).files]
    assert sorted(roles) == ["text_encoder", "text_encoder_2", "unet", "vae"]


MEASURE = """
import json, resource, sys, torch
from safelight.checkpoints.load import load
import safelight.tasks.request
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
model = load(sys.argv[1], dtype=torch.bfloat16)
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
parts = (model.network.unet, model.codec.autoencoder, *model.text.encoders)
size = sum(p.numel() * p.element_size() for part in parts for p in part.parameters())
print(json.dumps([after - before, size // 1024]))
"""


@pytest.mark.slow
def test_loading_peaks_at_the_weights_and_half_a_gigabyte(tmp_path: Path) -> None:
    path = full_size_sd15(tmp_path / "sd15.safetensors")
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(path)], capture_output=True, text=True, check=True
    )
    grown, size = json.loads(done.stdout)
    assert size > 2_000_000  # kilobytes: 1.07 thousand million numbers of two bytes
    assert grown <= size + 512 * 1024


def full_size_sd15(path: Path) -> Path:
    """A file of SD 1.5's shapes in half precision, all zeros, most of it a hole on the disk."""
    from safelight.checkpoints.keymap import KeyMap
    from safelight.checkpoints.parts import built
    from safelight.checkpoints.rows_autoencoder import autoencoder_rows
    from safelight.checkpoints.rows_clip import transformers_rows
    from safelight.checkpoints.rows_unet import unet_rows
    from safelight.families import SD15
    from safelight.models.autoencoder import AutoencoderConfig

    vae, text = SD15.codec.autoencoder, SD15.text.roles[0].encoder
    assert isinstance(vae, AutoencoderConfig)
    fields: dict[str, object] = {}
    at = 0
    for prefix, config, rows in (
        (UNET, SD15.backbone, unet_rows(SD15.backbone)),
        (VAE, vae, autoencoder_rows(vae)),
        (TEXT, text, transformers_rows(text)),
    ):
        with torch.device("meta"):
            ours = {n: tuple(t.shape) for n, t in built(config).state_dict().items()}
        for link in KeyMap(rows).links(ours):
            shape = link.op.shape([ours[n] for n in link.ours])
            size = 2 * torch.Size(shape).numel()
            fields[prefix + link.theirs] = {
                "dtype": "F16",
                "shape": shape,
                "data_offsets": [at, at + size],
            }
            at += size
    head = json.dumps(fields).encode()
    with path.open("wb") as file:
        file.write(len(head).to_bytes(8, "little") + head)
        file.truncate(8 + len(head) + at)
    return path


def copied(source: Path, target: Path) -> Path:
    """A copy of a folder whose files may be changed."""
    for path in sorted(source.rglob("*")):
        new = target / path.relative_to(source)
        if path.is_dir():
            new.mkdir(parents=True)
        else:
            new.parent.mkdir(parents=True, exist_ok=True)
            new.write_bytes(path.read_bytes())
    return target
