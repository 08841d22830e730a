"""A model with its own words: saved, loaded, converted and drawn with, by us and by Diffusers."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import nn

from on_disk import altered, assert_equal
from own_model import (
    HINT,
    LINEAR_V,
    PROMPT,
    VISION,
    model_of,
    shipped_family,
    small_family,
    vision_of,
    vocabulary,
)
from safelight.checkpoints.about import FILE, own_hint
from safelight.checkpoints.digest import model_digest, weights_digest
from safelight.checkpoints.hashes import folder_sha256, sha256
from safelight.checkpoints.load import load
from safelight.checkpoints.save import convert, save
from safelight.errors import CheckpointError, FileError, RequestError
from safelight.families import SD15, closest
from safelight.model import Model
from safelight.models.clip import CLIP_L, ClipText
from safelight.tasks.generate import generate
from safelight.tasks.request import Request
from safelight.text.bpe import Tokenizer
from safelight.text.chunks import caption_ids
from safelight.text.vocabulary import CLIP_VOCABULARY, vocabulary_of


def modules(model: Model) -> list[nn.Module]:
    coder = model.codec.autoencoder
    assert isinstance(coder, nn.Module)
    return [model.network.unet, coder, *model.text.encoders]


def assert_same(ours: Model, theirs: Model) -> None:
    for a, b in zip(modules(ours), modules(theirs), strict=True):
        assert_equal(a.state_dict(), b.state_dict())
    assert ours.text.tokenizer == theirs.text.tokenizer
    assert replace(ours.family, name="") == replace(theirs.family, name="")


# -- both layouts ----------------------------------------------------------------------------------


def test_a_folder_comes_back_with_everything_of_its_own(small: Model, folder: Path) -> None:
    loaded = load(folder)
    assert loaded.family.name == "custom-sd15" and loaded.notes == ()
    assert_same(loaded, small)
    assert loaded.text.encoders[0].config == small.text.encoders[0].config
    own, again = (model.text([PROMPT]).context for model in (small, loaded))
    assert torch.equal(own, again)


def test_a_single_file_carries_the_words_the_matrix_and_the_hint(
    small: Model, folder: Path, tmp_path: Path
) -> None:
    one = tmp_path / "one.safetensors"
    save(small, one, "ldm")
    assert_same(load(one), small)
    with safe_open(one, "pt") as file:
        stored = json.loads(file.metadata()["safelight.model"])
    assert vocabulary_of(stored["tokenizer"]["merges"]) == small.family.text.vocabulary
    convert(folder, tmp_path / "two.safetensors", "ldm")
    assert one.read_bytes() == (tmp_path / "two.safetensors").read_bytes()
    convert(one, tmp_path / "back", "diffusers")
    assert_same(load(tmp_path / "back"), small)


def test_published_models_say_nothing_of_words_or_hints(tmp_path: Path) -> None:
    family = replace(small_family(), hint=SD15.hint)
    encoder = replace(family.text.roles[0].encoder, vocabulary=49408, eos_id=49407)
    role = replace(family.text.roles[0], encoder=encoder)
    family = replace(family, text=replace(SD15.text, roles=(role,)))
    save(model_of(family), tmp_path / "one.safetensors", "ldm")
    with safe_open(tmp_path / "one.safetensors", "pt") as file:
        stored = json.loads(file.metadata()["safelight.model"])
    assert stored.keys() == {"unet", "vae", "text_encoder", "scheduler"}
    save(model_of(family), tmp_path / "folder")
    assert not (tmp_path / "folder" / FILE).exists()
    assert load(tmp_path / "folder").text.tokenizer.vocabulary is CLIP_VOCABULARY


def test_a_family_of_the_same_shape_and_other_words_is_not_the_published_one() -> None:
    projected = replace(SD15.text.roles[0], encoder=replace(CLIP_L, projection=768))
    assert closest(SD15.backbone, replace(SD15.text, roles=(projected,))).name == "sd15"
    other = replace(SD15.text, vocabulary=vocabulary(49408 // 4))
    assert closest(SD15.backbone, other).name == "custom-sd15"


# -- tokenizers ------------------------------------------------------------------------------------


def test_transformers_opens_the_tokenizer_and_gives_our_ids(folder: Path) -> None:
    from transformers.models.clip.tokenization_clip import CLIPTokenizer

    theirs = CLIPTokenizer.from_pretrained(folder / "tokenizer")
    own = small_family().text.vocabulary
    ours = Tokenizer("transformers", vocabulary=own)
    texts = [PROMPT, "", "an apple's 25 thing <|endoftext|> x", "zzz qqq the the", "é漢字"]
    told = theirs(texts, padding="max_length", max_length=77, truncation=True)["input_ids"]
    assert told == [list(caption_ids(text, ours)) for text in texts]
    assert (theirs.bos_token_id, theirs.eos_token_id, theirs.pad_token_id) == (698, 699, 699)


def test_a_tokenizer_as_transformers_saves_it_is_read(folder: Path, tmp_path: Path) -> None:
    from transformers.models.clip.tokenization_clip import CLIPTokenizer

    path = altered(folder, tmp_path / "model")
    tokenizer = CLIPTokenizer.from_pretrained(path / "tokenizer")
    shutil.rmtree(path / "tokenizer")
    tokenizer.save_pretrained(path / "tokenizer")
    assert not (path / "tokenizer" / "merges.txt").exists()  # it writes tokenizer.json alone
    assert load(path).text.tokenizer.vocabulary == small_family().text.vocabulary
    json_file = path / "tokenizer" / "tokenizer.json"
    values = json.loads(json_file.read_text())
    values["model"]["merges"] = [" ".join(pair) for pair in values["model"]["merges"]]  # until 2024
    json_file.write_text(json.dumps(values))
    assert load(path).text.tokenizer.vocabulary == small_family().text.vocabulary
    values["model"] |= {"type": "WordPiece"}
    json_file.write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match="700 tokens of a WordPiece tokenizer"):
        load(path)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("merges.txt", "#version: 0.2\na b\nx yz\n", "merges.txt: .*not both known"),
        ("merges.txt", "#version: 0.2\na b\n", "700 tokens and 1 merges"),
        ("vocab.json", '{"a": 0, "b": 1}', "2 tokens and 186 merges"),
    ],
)
def test_files_that_do_not_make_a_vocabulary_are_refused(
    name: str, text: str, said: str, folder: Path, tmp_path: Path
) -> None:
    path = altered(folder, tmp_path / "model")
    (path / "tokenizer" / name).write_text(text)
    with pytest.raises(CheckpointError, match=said):
        load(path)


def test_damaged_merges_are_a_damaged_file(folder: Path, tmp_path: Path) -> None:
    path = altered(folder, tmp_path / "model")
    (path / "tokenizer" / "merges.txt").write_bytes(b"\xff\xfe a")
    with pytest.raises(FileError, match="not text in UTF-8"):
        load(path)


def test_an_encoder_without_its_tokenizer_is_refused(folder: Path, tmp_path: Path) -> None:
    path = altered(folder, tmp_path / "model")
    shutil.rmtree(path / "tokenizer")
    with pytest.raises(CheckpointError, match="reads 700 tokens, but CLIP's tokenizer has 49408"):
        load(path)


def test_a_tokenizer_of_another_model_is_refused(folder: Path, tmp_path: Path) -> None:
    path = altered(folder, tmp_path / "model")
    family = replace(small_family(), text=shipped_family(705).text)
    from safelight.checkpoints.tokenizer_files import write_tokenizer

    shutil.rmtree(path / "tokenizer")
    write_tokenizer(path / "tokenizer", family.text.vocabulary, pad=None)
    with pytest.raises(CheckpointError, match="reads 700 tokens, but the tokenizer has 705"):
        load(path)


# -- hints -----------------------------------------------------------------------------------------


def test_a_stated_hint_is_read_without_the_model(folder: Path, tmp_path: Path) -> None:
    assert own_hint(folder) == HINT == load(folder).family.hint
    convert(folder, tmp_path / "one.safetensors", "ldm")
    assert own_hint(tmp_path / "one.safetensors") == HINT
    path = altered(folder, tmp_path / "model")
    (path / FILE).unlink()
    assert own_hint(path) is None
    assert not load(path).family.hint.stated


def test_a_model_is_drawn_with_as_it_says_and_as_the_user_says_first(folder: Path) -> None:
    hint = own_hint(folder)
    assert hint is not None
    plain = Request.parse({"prompt": PROMPT, "seed": 3, **hint.settings()})
    assert (plain.sampler, plain.schedule, plain.steps, plain.cfg_scale) == (
        "DPM++ 2M", "Karras", 20, 3.0,
    )  # fmt: skip
    asked = Request.parse({"prompt": PROMPT, "seed": 3, **hint.settings(), "steps": 2})
    (picture,) = generate(load(folder), asked)
    assert picture.pixels.shape == (128, 128, 3)
    assert picture.recipe.request.steps == 2 and picture.recipe.request.cfg_scale == 3.0
    settings = replace(HINT, schedule=None).settings()
    assert Request.parse({"prompt": "", **settings}).is_automatic


def test_unknown_hints_are_said_and_wrong_ones_refused(folder: Path, tmp_path: Path) -> None:
    path = altered(folder, tmp_path / "model")

    def state(**changes: object) -> None:
        hint = {"sampler": "Euler a", "schedule": None, "steps": 12, "guidance_scale": 2}
        (path / FILE).write_text(json.dumps({"label": "Mine", "colour": 3, "hint": hint | changes}))

    state(mood="good")
    loaded = load(path)
    assert loaded.family.label == "Mine"
    hint = loaded.family.hint
    assert (hint.sampler, hint.schedule, hint.steps, hint.guidance_scale) == (
        "euler_ancestral", None, 12, 2.0,
    )  # fmt: skip
    assert len(loaded.notes) == 2
    assert "safelight.json says colour, which this version does not know" in loaded.notes[0]
    assert "hint says mood" in loaded.notes[1]
    for wrong, said in (
        ({"sampler": "magic"}, "magic"),
        ({"schedule": "magic"}, "magic"),
        ({"steps": 0}, "1 to 1000"),
        ({"steps": "many"}, "whole number"),
        ({"guidance_scale": 1e9}, "0 to 100"),
    ):
        state(**wrong)
        with pytest.raises(CheckpointError, match=f"safelight.json, hint.*{said}"):
            load(path)
    for text, said in (
        ('{"hint": 3}', "expected an object"),
        ('{"label": "two\\nlines"}', "expected one line"),
        ('{"label": " "}', "expected one line"),
    ):
        (path / FILE).write_text(text)
        with pytest.raises(CheckpointError, match=said):
            own_hint(path)


# -- shards ----------------------------------------------------------------------------------------


def test_no_file_of_weights_is_larger_than_asked_and_all_come_back(
    small: Model, tmp_path: Path
) -> None:
    save(small, tmp_path / "model", max_file_bytes=250_000)
    files = sorted((tmp_path / "model").rglob("*.safetensors"))
    assert max(path.stat().st_size for path in files) <= 250_000
    shards = [path.name for path in files if path.parent.name == "unet"]
    assert len(shards) > 2
    assert shards[0] == f"diffusion_pytorch_model-00001-of-{len(shards):05d}.safetensors"
    assert_same(load(tmp_path / "model"), small)
    convert(tmp_path / "model", tmp_path / "whole", "diffusers")
    assert len(list((tmp_path / "whole").rglob("*.safetensors"))) == 3
    assert_same(load(tmp_path / "whole"), small)
    convert(tmp_path / "whole", tmp_path / "again", "diffusers", max_file_bytes=250_000)
    assert [p.read_bytes() for p in sorted((tmp_path / "again").rglob("*.safetensors"))] == [
        p.read_bytes() for p in files
    ]


def test_diffusers_opens_the_shards(small: Model, tmp_path: Path) -> None:
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
    from transformers.models.clip.modeling_clip import CLIPTextModel

    save(small, tmp_path / "model", max_file_bytes=190_000)
    for kind, role, own in (
        (UNet2DConditionModel, "unet", small.network.unet),
        (AutoencoderKL, "vae", small.codec.autoencoder),
    ):
        assert list((tmp_path / "model" / role).glob("*.index.json"))
        assert isinstance(own, nn.Module)
        theirs = kind.from_pretrained(tmp_path / "model" / role)
        assert_equal(own.state_dict(), theirs.state_dict())
    text = CLIPTextModel.from_pretrained(tmp_path / "model" / "text_encoder")
    ids = torch.tensor([caption_ids(PROMPT, small.text.tokenizer)])
    ours = small.text.encoders[0](ids).final
    assert (text(input_ids=ids).last_hidden_state - ours).abs().max() < 1e-4


def test_a_tensor_larger_than_a_file_and_a_split_single_file_are_refused(
    small: Model, tmp_path: Path
) -> None:
    with pytest.raises(RequestError, match=r"alone takes \d+ bytes; files of at most 20000"):
        save(small, tmp_path / "model", max_file_bytes=20_000)
    with pytest.raises(RequestError, match="cannot be split"):
        save(small, tmp_path / "one.safetensors", "ldm", max_file_bytes=20_000)
    assert not list(tmp_path.iterdir())


# -- hashes ----------------------------------------------------------------------------------------


def test_a_digest_names_the_weights_wherever_they_came_from(
    small: Model, folder: Path, tmp_path: Path
) -> None:
    save(small, tmp_path / "one.safetensors", "ldm")
    own = model_digest(small)
    assert own == model_digest(load(folder)) == model_digest(load(tmp_path / "one.safetensors"))
    assert len({own, model_digest(model_of(small_family(), seed=1)),
                model_digest(load(folder, dtype=torch.float16)),
                model_digest(load(folder, prediction="eps"))}) == 4  # fmt: skip
    assert model_digest(folder) == folder_sha256(folder)
    assert model_digest(tmp_path / "one.safetensors") == sha256(tmp_path / "one.safetensors")
    encoder = small.text.encoders[0]
    digest = weights_digest(encoder)
    changed = ClipText(encoder.config)
    changed.load_state_dict(encoder.state_dict())
    assert weights_digest(changed) == digest
    with torch.no_grad():
        changed.text_model.final_layer_norm.bias[3] += 1e-6
    assert weights_digest(changed) != digest


# -- a true shape ----------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_trained_shape_is_drawn_alike_by_us_and_by_diffusers(tmp_path: Path) -> None:
    from diffusers import DDIMScheduler, StableDiffusionPipeline

    family = shipped_family()
    model = model_of(family)
    path = tmp_path / "model"
    save(model, path, image_encoder=vision_of(VISION), max_file_bytes=15_000_000)
    assert max(p.stat().st_size for p in path.rglob("*.safetensors")) <= 15_000_000
    assert max(p.stat().st_size for p in path.rglob("*")) < 16 * 10**6
    loaded = load(path)
    assert_same(loaded, model)
    found = loaded.family
    assert found.name == "custom-sd15"
    assert (found.backbone, found.text, found.codec) == (family.backbone, family.text, family.codec)
    assert (found.process, found.native_size, found.hint) == (LINEAR_V, 128, HINT)
    assert loaded.process.sigmas[-1] == pytest.approx(157, abs=1)
    theirs = StableDiffusionPipeline.from_pretrained(path, local_files_only=True)
    theirs.set_progress_bar_config(disable=True)
    assert theirs.safety_checker is None
    assert type(theirs.scheduler).__name__ == "DPMSolverMultistepScheduler"
    assert theirs.scheduler.config.use_karras_sigmas  # as the hint says
    assert theirs.image_encoder.config.projection_dim == 256
    theirs.scheduler = DDIMScheduler.from_config(
        theirs.scheduler.config,
        clip_sample=False,
        set_alpha_to_one=True,
        timestep_spacing="leading",
    )
    request = Request.parse(
        {
            "prompt": PROMPT,
            "negative_prompt": "blurry",
            "sampler": "DDIM",
            "schedule": "leading",
            "steps": 4,
            "cfg_scale": 3.0,
            "seed": 5,
            "start": "diffusers",
        }
    )
    (ours,) = generate(loaded, request)
    assert ours.pixels.shape == (128, 128, 3)
    latents = torch.randn(1, 8, 16, 16, generator=torch.Generator().manual_seed(5))
    drawn = theirs(
        PROMPT,
        negative_prompt="blurry",
        num_inference_steps=4,
        guidance_scale=3.0,
        latents=latents,
        output_type="np",
    ).images[0]
    own = torch.from_numpy(ours.pixels) / 255
    assert (own - torch.tensor(drawn)).abs().max() <= 1.01 / 255
