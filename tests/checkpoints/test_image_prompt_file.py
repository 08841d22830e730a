"""IP-Adapters in their files: what is measured, what is refused, and which tower is taken."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from image_prompts_tiny import (
    EMBEDDING,
    SIDE,
    State,
    adapter_state,
    flat,
    vision_tower,
    write_adapter,
)
from models_tiny import random, randomised
from safelight.adapters.image_prompts import cross_attentions
from safelight.checkpoints.image_prompt_file import load_image_prompt, measured_image_prompt
from safelight.checkpoints.kinds import kind_of, made_for
from safelight.checkpoints.measure_vision import measured_vision
from safelight.checkpoints.vision_folder import load_clip_vision, save_clip_vision
from safelight.errors import CheckpointError, FileError, UnsafeFileError
from safelight.models import unet_configs
from safelight.models.clip import CLIP_VISION_H, ClipVision, ClipVisionConfig
from safelight.models.image_prompt import ImagePromptConfig, ImagePromptNet
from safelight.models.unet import UNet, UNetConfig
from unet_published import TINY_CONTEXT, twins

KINDS = ("plain", "plus", "full")


def branches(config: UNetConfig) -> tuple[tuple[int, int], ...]:
    with torch.device("meta"):
        doors = cross_attentions(UNet(config))
    return tuple((n, attention.to_q.out_features) for n, (_, attention) in doors.items())


SD1, XL = branches(unet_configs.SD15), branches(unet_configs.SDXL)

# As published in h94/IP-Adapter: the sizes that its training code states.
PUBLISHED = {
    "ip-adapter_sd15": ImagePromptConfig("plain", 1024, 768, SD1),
    "ip-adapter_sd15_vit-G": ImagePromptConfig("plain", 1280, 768, SD1),
    "ip-adapter-plus_sd15": ImagePromptConfig("plus", 1280, 768, SD1, 16, 768, 4, 12, 3072),
    "ip-adapter-full-face_sd15": ImagePromptConfig("full", 1280, 768, SD1, None),
    "ip-adapter_sdxl": ImagePromptConfig("plain", 1280, 2048, XL),
    "ip-adapter_sdxl_vit-h": ImagePromptConfig("plain", 1024, 2048, XL),
    "ip-adapter-plus-face_sdxl_vit-h": ImagePromptConfig(
        "plus", 1280, 2048, XL, 16, 1280, 4, 20, 5120
    ),
}


@pytest.fixture(scope="module")
def towers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("towers")
    vision_tower().save_pretrained(folder / "right")
    other = ClipVision(ClipVisionConfig(1, 32, 2, 32, "gelu", 24, SIDE, 8))
    save_clip_vision(other, folder / "wrong")
    return folder


@pytest.fixture
def state() -> Callable[[str], dict[str, State]]:
    return lambda kind: adapter_state(kind, twins("sd15")[1])


def test_files_number_sixteen_attentions_of_sd1_and_seventy_of_sdxl() -> None:
    assert [n for n, _ in SD1] == list(range(1, 33, 2))
    assert [n for n, _ in XL] == list(range(1, 141, 2))


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_sizes_are_measured(name: str) -> None:
    config = PUBLISHED[name]
    with torch.device("meta"):
        shapes = {n: tuple(t.shape) for n, t in ImagePromptNet(config).state_dict().items()}
    assert measured_image_prompt(shapes) == config


def test_an_adapter_says_what_it_is_for(state: Callable[[str], dict[str, State]]) -> None:
    shapes = {"image_proj.proj.weight": (3072, 1024), "ip_adapter.1.to_k_ip.weight": (320, 768)}
    assert kind_of(shapes).kind == "ip adapter"
    assert made_for(shapes) == "for SD 1.x (context width 768)"
    own = {name: tuple(t.shape) for name, t in flat(state("plus")).items()}
    assert made_for(own) == f"for a model of its own (context width {TINY_CONTEXT})"


@pytest.mark.parametrize("kind", KINDS)
def test_both_containers_hold_the_same_adapter(
    kind: str, towers: Path, tmp_path: Path, state: Callable[[str], dict[str, State]]
) -> None:
    made = state(kind)
    loaded = [
        load_image_prompt(write_adapter(tmp_path / f"a{suffix}", made), vision=towers / "right")
        for suffix in (".safetensors", ".bin")
    ]
    for adapter in loaded:
        own = adapter.net.state_dict()
        assert own.keys() == flat(made).keys()
        assert all(torch.equal(own[name], t) for name, t in flat(made).items())
    assert loaded[0].name == "a.safetensors"
    assert loaded[0].files == (tmp_path / "a.safetensors", towers / "right")


def test_types_are_as_asked(
    towers: Path, tmp_path: Path, state: Callable[[str], dict[str, State]]
) -> None:
    path = write_adapter(tmp_path / "a.safetensors", state("plain"))
    adapter = load_image_prompt(path, vision=towers / "right", dtype=torch.bfloat16)
    modules: tuple[nn.Module, ...] = (adapter.net, adapter.vision)
    assert {p.dtype for m in modules for p in m.parameters()} == {torch.bfloat16}


@pytest.mark.parametrize("place", ["image_encoder", "../models/image_encoder"])
def test_a_tower_near_the_file_is_found_if_it_fits(
    place: str, towers: Path, tmp_path: Path, state: Callable[[str], dict[str, State]]
) -> None:
    folder = tmp_path / "sdxl_models"
    folder.mkdir()
    path = write_adapter(folder / "a.safetensors", state("plain"))
    with pytest.raises(CheckpointError, match=r"a\.safetensors needs a vision tower: the tower it"):
        load_image_prompt(path)
    save_clip_vision(load_clip_vision(towers / "wrong"), folder / "../sdxl_models/other/x")
    (folder / place).parent.mkdir(exist_ok=True)
    save_clip_vision(load_clip_vision(towers / "right"), folder / place)
    adapter = load_image_prompt(path)
    assert adapter.vision.config.projection == EMBEDDING
    assert adapter.files[1] == folder / place


def test_a_tower_near_the_file_that_does_not_fit_is_named(
    towers: Path, tmp_path: Path, state: Callable[[str], dict[str, State]]
) -> None:
    path = write_adapter(tmp_path / "a.safetensors", state("plus"))
    save_clip_vision(load_clip_vision(towers / "wrong"), tmp_path / "image_encoder")
    with pytest.raises(CheckpointError, match=r"needs a vision tower \(not .*image_encoder\)"):
        load_image_prompt(path)


@pytest.mark.parametrize(
    ("kind", "reads"), [("plain", "embeddings of width 40"), ("plus", "hidden states of width 48")]
)
def test_a_tower_that_does_not_fit_is_refused(
    kind: str, reads: str, towers: Path, tmp_path: Path, state: Callable[[str], dict[str, State]]
) -> None:
    path = write_adapter(tmp_path / "a.safetensors", state(kind))
    with pytest.raises(CheckpointError, match=f"reads {reads}, but those of .*wrong"):
        load_image_prompt(path, vision=towers / "wrong")
    with pytest.raises(CheckpointError, match=f"reads {reads}, but those of the vision tower giv"):
        load_image_prompt(path, vision=load_clip_vision(towers / "wrong"))


def test_published_towers_are_advised_by_name(tmp_path: Path) -> None:
    config = PUBLISHED["ip-adapter_sd15"]
    small = ImagePromptConfig("plain", 1024, 768, ((1, 8),))
    state = randomised(ImagePromptNet(small)).state_dict()
    save_file(state, tmp_path / "a.safetensors")
    assert config.input_width == small.input_width
    with pytest.raises(CheckpointError, match=r"ViT-H/14: the folder models/image_encoder of h94"):
        load_image_prompt(tmp_path / "a.safetensors")


def test_a_tower_in_a_file_without_config_is_measured(
    towers: Path, tmp_path: Path, state: Callable[[str], dict[str, State]]
) -> None:
    """Heads of 64, which shapes do not tell and published towers of that width have."""
    config = ClipVisionConfig(2, 128, 2, 256, "quick_gelu", EMBEDDING, SIDE, 8)
    tower = randomised(ClipVision(config))
    path = write_adapter(tmp_path / "a.safetensors", state("plain"))
    save_file({**tower.state_dict(), "logit_scale": torch.ones(())}, tmp_path / "v.safetensors")
    adapter = load_image_prompt(path, vision=tmp_path / "v.safetensors")
    assert adapter.vision.config == config
    x = random(1, 3, SIDE, SIDE)
    with torch.no_grad():
        torch.testing.assert_close(adapter.vision(x).embeds, tower(x).embeds)


def open_clips_names(state: State) -> State:
    """The same tower as OpenCLIP writes it, with a text tower's odd tensors beside."""
    renamed: State = {"logit_scale": torch.ones(()), "token_embedding.weight": torch.ones(2, 2)}
    for name, tensor in state.items():
        if "self_attn" in name and "out_proj" not in name:
            continue
        if name == "visual_projection.weight":
            renamed["visual.proj"] = tensor.T.contiguous()
            continue
        for ours, theirs in (
            ("vision_model.embeddings.patch_embedding", "conv1"),
            ("vision_model.embeddings.class_embedding", "class_embedding"),
            ("vision_model.embeddings.position_embedding.weight", "positional_embedding"),
            ("vision_model.pre_layrnorm", "ln_pre"),
            ("vision_model.post_layernorm", "ln_post"),
            ("vision_model.encoder.layers", "transformer.resblocks"),
            ("layer_norm", "ln_"),
            ("self_attn.out_proj", "attn.out_proj"),
            ("mlp.fc1", "mlp.c_fc"),
            ("mlp.fc2", "mlp.c_proj"),
        ):
            name = name.replace(ours, theirs)
        renamed[f"visual.{name}"] = tensor
    for i in range(2):
        root = f"vision_model.encoder.layers.{i}.self_attn"
        for kind in ("weight", "bias"):
            stacked = torch.cat([state[f"{root}.{part}_proj.{kind}"] for part in "qkv"])
            renamed[f"visual.transformer.resblocks.{i}.attn.in_proj_{kind}"] = stacked
    return renamed


def test_a_tower_with_open_clips_names_is_read(
    tmp_path: Path, state: Callable[[str], dict[str, State]]
) -> None:
    config = ClipVisionConfig(2, 128, 2, 256, "gelu", EMBEDDING, SIDE, 8)
    tower = randomised(ClipVision(config))
    path = write_adapter(tmp_path / "a.safetensors", state("plain"))
    save_file(open_clips_names(tower.state_dict()), tmp_path / "v.safetensors")
    adapter = load_image_prompt(path, vision=tmp_path / "v.safetensors")
    assert adapter.vision.config == config
    x = random(1, 3, SIDE, SIDE)
    with torch.no_grad():
        torch.testing.assert_close(adapter.vision(x).embeds, tower(x).embeds)


def test_the_widest_towers_have_gelu_and_sixteen_heads() -> None:
    with torch.device("meta"):
        state = ClipVision(CLIP_VISION_H).state_dict()
    shapes = {n: tuple(t.shape) for n, t in state.items()}
    assert measured_vision(shapes, activation="gelu").config == CLIP_VISION_H


def face_id(made: dict[str, State]) -> dict[str, State]:
    projection = {"proj.0.weight": torch.ones(16, 8), "norm.weight": torch.ones(8)}
    return {**made, "image_proj": projection}


def face_id_plus(made: dict[str, State]) -> dict[str, State]:
    return {**made, "image_proj": {"perceiver_resampler.proj_in.weight": torch.ones(4, 4)}}


def face_id_lora(made: dict[str, State]) -> dict[str, State]:
    lora = {"0.to_q_lora.down.weight": torch.ones(4, 4)}
    return {**made, "ip_adapter": {**made["ip_adapter"], **lora}}


@pytest.mark.parametrize("change", [face_id, face_id_plus, face_id_lora])
def test_adapters_that_need_a_face_network_are_refused_by_name(
    change: Callable[[dict[str, State]], dict[str, State]],
    towers: Path,
    tmp_path: Path,
    state: Callable[[str], dict[str, State]],
) -> None:
    path = write_adapter(tmp_path / "a.safetensors", change(state("plain")))
    with pytest.raises(CheckpointError, match=r"FaceID, which needs .* give ip-adapter-plus-face"):
        load_image_prompt(path, vision=towers / "right")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s | {"image_proj.extra": torch.ones(2)}, "1 surplus: image_proj.extra"),
        (lambda s: s | {"ip_adapter.1.to_v_ip.weight": torch.ones(3, 2)}, "1 of another shape"),
        (lambda s: {n: t for n, t in s.items() if "1.to_v_ip" not in n}, "missing"),
        (lambda s: {n: t for n, t in s.items() if "ip_adapter" not in n}, "this is no IP-Adapter"),
        (lambda s: {n: t for n, t in s.items() if "image_proj" not in n}, "of no published kind"),
        (lambda s: s | {"image_proj.proj.weight": torch.ones(3, 2)}, "no tokens of width"),
        (lambda s: s | {"image_proj.norm.weight": torch.full((TINY_CONTEXT,), torch.nan)}, "NaN"),
    ],
)
def test_files_that_do_not_fit_are_refused_by_what_is_wrong(
    change: Callable[[State], State],
    message: str,
    towers: Path,
    tmp_path: Path,
    state: Callable[[str], dict[str, State]],
) -> None:
    path = tmp_path / "a.safetensors"
    save_file(change(flat(state("plain"))), path)
    with pytest.raises((CheckpointError, FileError), match=message):
        load_image_prompt(path, vision=towers / "right")


@pytest.mark.parametrize("part", ["latents", "proj_in.weight", "layers.0.0.to_q.weight"])
def test_a_resampler_that_is_incomplete_is_refused(
    part: str, towers: Path, tmp_path: Path, state: Callable[[str], dict[str, State]]
) -> None:
    whole = flat(state("plus"))
    del whole[f"image_proj.{part}"]
    save_file(whole, tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match=r"a\.safetensors: "):
        load_image_prompt(tmp_path / "a.safetensors", vision=towers / "right")


def test_a_pickle_that_runs_code_is_refused(tmp_path: Path, towers: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (eval, ("1/0",))

    torch.save({"image_proj": Evil(), "ip_adapter": {}}, tmp_path / "a.bin")
    with pytest.raises(UnsafeFileError):
        load_image_prompt(tmp_path / "a.bin", vision=towers / "right")
