"""Recipes on scenes and pictures: what they give the loop, and what they write."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import scenes_tiny
import training_runs as runs
from safelight.checkpoints.evaluator_folder import load_evaluator
from safelight.checkpoints.load import load, load_autoencoder
from safelight.errors import FileError, RequestError
from safelight.models.vector_quantiser import VqAutoencoder
from safelight.training.clip.contrastive import UNSAID
from safelight.training.clip.teacher import Teacher, write_teacher
from safelight.training.config.reading import ConfigError, checked
from safelight.training.draw import Draw
from safelight.training.latent_data import EncodedPictures
from safelight.training.loop import train
from safelight.training.recipes.building import job_of
from safelight.training.recipes.estimate import estimate
from safelight.training.recipes.exporting import LAST, Which, chosen, which
from safelight.training.recipes.job import Job, Workshop
from safelight.training.recipes.latents import Reworded
from safelight.training.recipes.rows import KeptPairs, Labelled
from safelight.training.scenes.cutouts import save_cutouts

pytestmark = pytest.mark.slow

SCENES = {
    "kind": "scenes",
    "path": "cutouts.safetensors",
    "size": 32,
    "count": 12,
    "held_out": 0.5,
    "mix": {"single": 0.5, "count": 0.5},
}


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """A folder to stand in, with shapes and cut-outs."""
    runs.write_shapes(tmp_path / "shapes", 16)
    save_cutouts(scenes_tiny.cutouts(), tmp_path / "cutouts.safetensors")
    here = Path.cwd()
    os.chdir(tmp_path)
    yield tmp_path
    os.chdir(here)


def shop(folder: str = "run", warned: list[str] | None = None, **more: Any) -> Workshop:
    warn = (lambda text: None) if warned is None else warned.append
    return Workshop(torch.device("cpu"), Path(folder), warn=warn, **more)


def job(values: dict[str, Any], workshop: Workshop | None = None) -> Job:
    return job_of(checked(values, "c.toml"), workshop or shop(values["folder"]))


def trained(values: dict[str, Any], workshop: Workshop | None = None) -> list[Path]:
    """Train, and write what came of it."""
    made = job(values, workshop)
    folder = Path(values["folder"])
    train(made.task, made.data, made.settings, folder, order=made.order)
    kinds = made.settings.ema
    default = kinds[0].name if kinds else LAST
    return made.write(chosen(folder, made.exported, Which(), default), folder / "model")


def parts() -> None:
    """An autoencoder and a CLIP, trained for a few steps."""
    for make in (runs.autoencoder, runs.clip):
        values = make()
        values["training"] |= {"steps": 2}
        trained(values)


# -- the split -------------------------------------------------------------------------------------


def held(values: dict[str, Any]) -> set[str]:
    from safelight.training.config.sections import PictureSection
    from safelight.training.recipes.pictures import open_pictures

    section = PictureSection(**values["data"])
    found = open_pictures(section, shop(), captions=True)
    ids = {found.held.source.example(i).id for i in range(len(found.held))}
    others = {found.train.source.example(i).id for i in range(len(found.train))}
    assert not ids & others and len(ids) + len(others) == len(list(Path("shapes").glob("*.png")))
    return ids


def test_held_out_pictures_stay_so_whatever_else_there_is(place: Path) -> None:
    values = runs.clip()
    before = held(values)
    assert before
    for index in range(4):
        (place / "shapes" / f"{index:02}.png").unlink()
        (place / "shapes" / f"{index:02}.txt").unlink()
    assert held(values) == {name for name in before if int(name) > 3}


def test_a_copy_falls_on_the_side_of_its_original(place: Path) -> None:
    values = runs.clip()
    for name in sorted(held(values)):
        for suffix in (".png", ".txt"):
            data = (place / "shapes" / f"{name}{suffix}").read_bytes()
            (place / "shapes" / f"copy-{name}{suffix}").write_bytes(data)
    after = held(values)
    assert {f"copy-{n}" for n in after if not n.startswith("copy")} <= after


def test_a_held_out_share_that_leaves_nothing_is_told(place: Path) -> None:
    values = runs.clip()
    values["data"] |= {"held_out": 0.999999, "held_out_at_most": 99}
    with pytest.raises(FileError, match=r"lower data\.held_out"):
        job(values)


def test_nothing_held_out_is_said(place: Path) -> None:
    warned: list[str] = []
    values = runs.clip()
    values["data"] |= {"held_out": 1e-9}
    job(values, shop(warned=warned))
    assert any("no picture is held out" in text for text in warned)


# -- scenes ----------------------------------------------------------------------------------------


def test_an_evaluator_of_scenes_is_trained_and_written(place: Path) -> None:
    values = {
        "recipe": "evaluator",
        "folder": "run",
        "data": {k: v for k, v in SCENES.items() if k != "mix"},
        "evaluator": {"widths": [8, 8, 8, 8], "image_size": 32},
        "training": {**runs.TRAINING, "steps": 2},
    }
    (folder,) = trained(values)
    loaded = load_evaluator(folder)
    assert len(loaded.labels.concepts) == 12 and loaded.labels.styles[0] == "fluent-3d"


def test_an_evaluator_goes_on_from_a_folder_of_the_same_things(place: Path) -> None:
    values = {
        "recipe": "evaluator",
        "folder": "run",
        "data": {k: v for k, v in SCENES.items() if k != "mix"},
        "evaluator": {"widths": [8, 8, 8, 8], "image_size": 32},
        "training": {**runs.TRAINING, "steps": 2},
    }
    (folder,) = trained(values)
    first = load_evaluator(folder)
    going = {**values, "folder": "further", "evaluator": {"checkpoint": str(folder)}}
    task = job(going).task
    assert task.evaluator.config == first.evaluator.config
    for name, weight in first.evaluator.state_dict().items():
        assert torch.equal(task.evaluator.state_dict()[name], weight), name
    (again,) = trained(going)
    moved = load_evaluator(again).evaluator.state_dict()["stem.weight"]
    assert not torch.equal(moved, first.evaluator.stem.weight)
    values = json.loads((folder / "config.json").read_text())
    values["concepts"][0] = "something else"
    (folder / "config.json").write_text(json.dumps(values))
    with pytest.raises(RequestError, match="give the cut-outs that it was trained on"):
        job(going)


@pytest.mark.parametrize(("share", "further"), [(0.0, 0), (0.5, 6)])
def test_an_evaluator_also_sees_the_drawings_that_models_never_do(
    place: Path, share: float, further: int
) -> None:
    values = {
        "recipe": "evaluator",
        "folder": "run",
        "data": {k: v for k, v in SCENES.items() if k != "mix"},
        "evaluator": {"widths": [8, 8, 8, 8], "image_size": 32, "held_out_drawings": share},
        "training": runs.TRAINING,
    }
    made = job(values)
    assert isinstance(made.data, Labelled)
    assert len(made.data) == 12 + further
    entries = scenes_tiny.cutouts().entries
    concepts = sorted({entry.hexcode for entry in entries})
    styles = sorted({entry.style for entry in entries})
    hidden = {(e.hexcode, e.style) for e in entries if e.split == "heldout_combo"}
    shown = [
        (concepts[concept], styles[style]) in hidden
        for concept, style in zip(made.data.concept.tolist(), made.data.style.tolist(), strict=True)
    ]
    assert shown == [False] * 12 + [True] * further


def test_clip_of_scenes_knows_what_captions_leave_unsaid(place: Path) -> None:
    values = {**runs.clip(), "data": {**SCENES, "style_named": 0.0}}
    made = job(values)
    assert isinstance(made.data, KeptPairs)
    assert (made.data.said[:, 2] == UNSAID).all()
    assert ((made.data.said == made.data.seen) | (made.data.said == UNSAID)).all()
    assert trained(values)[0].is_dir()


def test_cut_outs_that_are_not_there_are_told_with_where_to_get_them(place: Path) -> None:
    values = {**runs.clip(), "data": {**SCENES, "path": "nowhere"}}
    with pytest.raises(FileError, match=r"nowhere does not exist.*emoji_pairs\.py"):
        job(values)


def test_scenes_held_out_are_further_pages_of_the_book(place: Path) -> None:
    from safelight.training.config.sections import SceneSection
    from safelight.training.recipes.scenes import open_scenes

    section = SceneSection(**SCENES)
    found = open_scenes(section, shop())
    longer = open_scenes(section.model_copy(update={"count": 18, "held_out": 0.0}), shop())
    assert longer.train.captions == found.train.captions + found.held.captions
    assert len(set(found.train.keys) & set(found.held.keys)) == 0
    drawn = found.load(found.train)([3, 5])
    whole = longer.load(longer.train)([3, 5])
    assert torch.equal(drawn, whole)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"styles": ["notto"]}, "did you mean noto?"),
        ({"groups": ["food"]}, r"data\.groups: no cut-out is of 'food'"),
        ({"concepts": ["dragon"]}, r"data\.concepts: no cut-out is of 'dragon'"),
        ({"concepts": 99}, "asks for 99 concepts that all 3 styles draw; there are 12"),
        (
            {"concepts": ["fog"], "mix": {"count": 1.0}},
            "no cut-out serves for scenes of kind count",
        ),
    ],
)
def test_a_choice_of_cutouts_that_cannot_be_is_told(
    place: Path, change: dict[str, Any], said: str
) -> None:
    with pytest.raises(RequestError, match=said):
        job({**runs.clip(), "data": {**SCENES, **change}})


def test_a_choice_of_concepts_and_styles_is_all_that_is_drawn(place: Path) -> None:
    data = {**SCENES, "concepts": ["dog", "red apple"], "styles": ["noto"], "mix": {"single": 1.0}}
    made = job({**runs.clip(), "data": data})
    assert any("2 cut-outs of 2 concepts in 1 styles: noto" in fact for fact in made.facts)


# -- diffusion -------------------------------------------------------------------------------------


def test_latents_are_kept_and_not_made_twice(place: Path) -> None:
    parts()
    values = runs.diffusion()
    counted: list[int] = []

    from contextlib import contextmanager

    @contextmanager
    def counting(text: str, total: int) -> Iterator[Any]:
        yield lambda done: counted.append(done) if text == "encoding pictures" else None

    first = job(values, shop("runs/diffusion", counted=counting))
    assert counted
    counted.clear()
    again = job(values, shop("runs/diffusion", counted=counting))
    assert not counted
    draw = Draw(0, 0, 4)
    rows = list(first.order.indices(0))
    one, other = (j.data.batch(rows, draw) for j in (first, again))
    assert torch.equal(one.latents, other.latents) and torch.equal(one.tokens, other.tokens)


def test_captions_are_drawn_from_all_templates(place: Path) -> None:
    parts()
    values = runs.diffusion()
    values["data"] |= {"captions": {"templates": ["{caption}", "see {caption}"]}}
    made = job(values)
    seen = {tuple(made.data.batch([0], Draw(0, step, 1)).tokens[0].tolist()) for step in range(20)}
    assert len(seen) == 2


def test_shuffled_captions_are_made_anew_on_kept_latents(place: Path) -> None:
    parts()
    values = runs.diffusion()
    for path in Path("shapes").glob("*.txt"):
        path.write_text("one, two, three, four")
    values["data"] |= {"captions": {"shuffle": True}}
    made = job(values)
    assert isinstance(made.data, Reworded)
    batches = [made.data.batch([0], Draw(0, step, 1)) for step in range(8)]
    assert len({tuple(b.tokens[0].tolist()) for b in batches}) > 3
    assert all(torch.equal(b.latents, batches[0].latents) for b in batches)


def test_flips_are_encoded_as_they_come(place: Path) -> None:
    parts()
    values = runs.diffusion()
    values["data"] |= {"flip": 0.5}
    values["training"] |= {"steps": 2}
    assert isinstance(job(values).data, EncodedPictures)
    (folder,) = trained(values)
    assert load(folder).family.label == "a model of our own"


@pytest.mark.parametrize(
    ("process", "kind"),
    [
        ({"prediction": "eps"}, "ddpm"),
        ({"kind": "flow", "shift": 2.0}, "flow"),
        ({"kind": "edm"}, "edm"),
    ],
)
def test_a_model_from_scratch_says_its_process(
    place: Path, process: dict[str, Any], kind: str
) -> None:
    parts()
    values = {**runs.diffusion(), "process": process}
    values["training"] |= {"steps": 2}
    (folder,) = trained(values)
    assert load(folder).family.process.kind == kind


def test_diffusion_of_scenes_runs(place: Path) -> None:
    parts()
    values = {**runs.diffusion(), "data": SCENES}
    values["training"] |= {"steps": 2}
    (folder,) = trained(values)
    assert load(folder).family.native_size == 32


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("data", {"path": "shapes", "size": 32, "multiple": 2}, r"data\.multiple must be a mult"),
        ("noise", {"draw": {"name": "mixd"}}, "Did you mean mixed"),
        ("noise", {"weight": {"name": "p2", "options": {"g": 1}}}, "has no option 'g'"),
        (
            "process",
            {"kind": "edm", "prediction": "x0"},
            "process.prediction x0 is not for kind edm",
        ),
    ],
)
def test_a_diffusion_that_cannot_be_is_told(
    place: Path, key: str, value: object, said: str
) -> None:
    parts()
    with pytest.raises(RequestError, match=said):
        job({**runs.diffusion(), key: value})


# -- autoencoders and CLIP -------------------------------------------------------------------------


def test_a_vq_autoencoder_is_what_diffusers_opens(place: Path) -> None:
    from diffusers.models.autoencoders.vq_model import VQModel

    values = runs.autoencoder()
    values["autoencoder"] |= {"kind": "vq", "codes": 16, "latent_channels": 3}
    values["training"] |= {"steps": 2}
    made = job(values)
    train(made.task, made.data, made.settings, Path("run"), order=made.order)
    weights = chosen(Path("run"), made.exported, Which(), LAST)
    (folder,) = made.write(weights, Path("run/model"))
    ours = made.task.players["autoencoder"]
    assert isinstance(ours, VqAutoencoder)
    theirs = VQModel.from_pretrained(folder)
    pictures = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        latents = ours.eval().moments(pictures)
        expected = theirs.encode(pictures).latents
        assert torch.allclose(latents, expected, atol=1e-4)
        assert torch.allclose(ours.decode(latents), theirs.decode(latents).sample, atol=1e-4)


def test_an_autoencoder_goes_on_from_a_checkpoint_at_its_scale(place: Path) -> None:
    values = runs.autoencoder()
    values["training"] |= {"steps": 2}
    (first,) = trained(values)
    values = {**runs.autoencoder(), "folder": "next"}
    values["autoencoder"] = {"checkpoint": str(first)}
    values["training"] |= {"steps": 2}
    (second,) = trained(values)
    assert (second / "config.json").read_text() == (first / "config.json").read_text()


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_decoder_learns_alone(place: Path, precision: str) -> None:
    values = runs.autoencoder()
    values["training"] |= {"steps": 2}
    (first,) = trained(values)
    values = {**runs.autoencoder(), "folder": "next"}
    values["autoencoder"] = {"checkpoint": str(first), "learns": "decoder"}
    values["training"] |= {"steps": 2, "precision": precision}
    (second,) = trained(values)
    before, after = (
        load_autoencoder(path, dtype=torch.float32).autoencoder.state_dict()
        for path in (first, second)
    )
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert "decoder.conv_out.weight" in changed
    assert not [name for name in changed if name.startswith(("encoder.", "quant_conv."))]


def test_a_decoder_alone_needs_a_checkpoint(place: Path) -> None:
    values = runs.autoencoder()
    values["autoencoder"] |= {"learns": "decoder"}
    with pytest.raises(ConfigError, match="learns: a decoder learns alone only from a checkpoint"):
        job(values)


def test_perceptual_needs_its_judge(place: Path) -> None:
    values = {**runs.autoencoder(), "loss": {"perceptual": 0.5}}
    with pytest.raises(RequestError, match=r"loss\.perceptual needs loss\.image_encoder"):
        job(values)


def test_clip_judges_the_autoencoders_likeness(place: Path) -> None:
    clip = runs.clip()
    clip["training"] |= {"steps": 2}
    trained(clip)
    values = {**runs.autoencoder(), "loss": {"image_encoder": "runs/clip/model"}}
    found = estimate(job(values), torch.device("cpu"))
    assert found.frozen > 0 and set(found.losses) == {"autoencoder", "critic"}


def test_a_teacher_stands_beside_the_pairs(place: Path) -> None:
    vectors = torch.nn.functional.normalize(torch.randn(6, 8), dim=-1)
    phrases = ("a dog", "a cat", "a cow", "a pig", "a hen", "an ox")
    write_teacher(Path("teacher.safetensors"), Teacher(phrases, vectors), {})
    values = {**runs.clip(), "loss": {"teacher": "teacher.safetensors", "phrases": 2}}
    made = job(values)
    batch = made.data.batch(list(made.order.indices(0)), Draw(0, 0, 4))
    assert batch.phrase_vectors.shape == (8, 8)
    assert any("6 phrases of a teacher, 2 to each pair" in fact for fact in made.facts)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"vision": {"patch": 7}}, r"data\.size must be a multiple of clip\.vision\.patch"),
        ({"text": {"width": 30, "heads": 4}}, r"clip\.text\.width must be a multiple"),
        ({"vocabulary": "shapes"}, "shapes holds none"),
    ],
)
def test_a_clip_that_cannot_be_is_told(place: Path, change: dict[str, Any], said: str) -> None:
    with pytest.raises((RequestError, FileError), match=said):
        job({**runs.clip(), "clip": {**runs.clip()["clip"], **change}})


def test_captions_that_are_cut_are_told(place: Path) -> None:
    (place / "shapes/00.txt").write_text("word " * 90)
    warned: list[str] = []
    values = {**runs.clip(), "clip": {**runs.clip()["clip"], "caption_tokens": 16}}
    job(values, shop(warned=warned))
    assert any("captions are longer than 16 tokens" in text for text in warned)


# -- which weights ---------------------------------------------------------------------------------


def test_which_weights_a_text_names() -> None:
    assert which("last") == Which("last") and which("12") == Which(step=12)
    assert which("power:0.05@7") == Which("power:0.05", 7) and which("@7") == Which(step=7)
    for text in ("", "best", "power:x", "1.5", "power:0.05@"):
        with pytest.raises(RequestError, match="--export takes"):
            which(text)


def test_an_average_that_was_not_kept_comes_from_snapshots(place: Path) -> None:
    values = runs.clip()
    values["training"] |= {"ema": ["power:0.05", "power:0.1"], "snapshot_every": 2}
    made = job(values)
    train(made.task, made.data, made.settings, Path("run"), order=made.order)
    at = chosen(Path("run"), made.exported, Which("power:0.1", 6), LAST)["clip"]
    other = chosen(Path("run"), made.exported, Which("power:0.07", 6), LAST)["clip"]
    earlier = chosen(Path("run"), made.exported, Which("power:0.1", 4), LAST)["clip"]
    assert at.keys() == other.keys() == earlier.keys()
    assert not all(torch.equal(at[name], other[name]) for name in at)
    assert not all(torch.equal(at[name], earlier[name]) for name in at)
