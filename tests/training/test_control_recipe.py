"""The recipe "controlnet": from a config to a folder that others open."""

import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import scenes_tiny
import tiny
import training_runs as runs
from own_model import model_of, small_family
from safelight.checkpoints.control_load import load_control
from safelight.checkpoints.load import load
from safelight.checkpoints.save import save
from safelight.condition import Condition, Control
from safelight.errors import CheckpointError, FileError, InputError, RequestError
from safelight.preprocessors.making import making_from_json
from safelight.preprocessors.maps import control_map
from safelight.training.config.reading import checked
from safelight.training.control_maps import EncodedWithMaps, WithKeptMaps, WithMaps
from safelight.training.control_task import ControlBatch
from safelight.training.draw import Draw
from safelight.training.loop import train
from safelight.training.recipes.building import job_of
from safelight.training.recipes.estimate import estimate
from safelight.training.recipes.exporting import LAST, Which, chosen
from safelight.training.recipes.job import Job, Workshop
from safelight.training.recipes.record import remember
from safelight.training.scenes.cutouts import save_cutouts
from safelight.training.watch import Watch

pytestmark = pytest.mark.slow

SCENES = {
    "kind": "scenes",
    "path": "cutouts.safetensors",
    "size": 64,
    "count": 10,
    "held_out": 0.4,
    "mix": {"single": 1.0},
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model, written once."""
    folder = tmp_path_factory.mktemp("models") / "own"
    save(model_of(small_family()), folder)
    return folder


@pytest.fixture
def place(tmp_path: Path, model: Path) -> Iterator[Path]:
    """A folder to stand in, with shapes and a model."""
    runs.write_shapes(tmp_path / "shapes", 10, 64)
    (tmp_path / "old").symlink_to(model)
    here = Path.cwd()
    os.chdir(tmp_path)
    yield tmp_path
    os.chdir(here)


def values(**changes: Any) -> dict[str, Any]:
    return {
        "recipe": "controlnet",
        "folder": "run",
        "device": "cpu",
        "data": {"path": "shapes", "size": 64, "multiple": 16, "held_out": 0.2},
        "model": {"checkpoint": "old"},
        "control": {"preprocessor": "canny", "widths": [4, 4, 6, 8]},
        "training": {**runs.TRAINING, "steps": 1, "batch_size": 2},
        **changes,
    }


def controlled(**control: Any) -> dict[str, Any]:
    return values(control={"widths": [4, 4, 6, 8], **control})


def job(told: dict[str, Any], warned: list[str] | None = None) -> Job:
    warn = (lambda text: None) if warned is None else warned.append
    return job_of(checked(told, "c.toml"), Workshop(torch.device("cpu"), Path("run"), warn=warn))


def trained(told: dict[str, Any], made: Job | None = None) -> Path:
    found = made or job(told)
    train(found.task, found.data, found.settings, Path("run"), order=found.order)
    (folder,) = found.write(chosen(Path("run"), found.exported, Which(), LAST), Path("run/model"))
    return folder


def maps_of(made: Job, rows: list[int], step: int = 0) -> Tensor:
    batch = made.data.batch(rows, Draw(0, step, len(rows)))
    assert isinstance(batch, ControlBatch) and batch.maps is not None
    return batch.maps


# -- what is written -----------------------------------------------------------------------------


def test_what_was_learned_is_written_for_diffusers_and_for_us(place: Path) -> None:
    from diffusers import ControlNetModel

    made = job(values())
    folder = trained(values(), made)
    learned = made.task.players["controlnet"].state_dict()
    mine = load_control(folder)
    assert all(torch.equal(t, mine.network.state_dict()[n]) for n, t in learned.items())
    assert sum(float(learned[n].abs().sum()) for n in learned if "controlnet_down" in n) > 0
    theirs = ControlNetModel.from_pretrained(folder).eval()
    rng = torch.Generator().manual_seed(0)
    x, maps = torch.randn(1, 8, 8, 8, generator=rng), torch.rand(1, 3, 64, 64, generator=rng)
    context = torch.randn(1, 7, 64, generator=rng)
    with torch.no_grad():
        down, mid = theirs(
            x, torch.tensor([500]), encoder_hidden_states=context, controlnet_cond=maps,
            return_dict=False,
        )  # fmt: skip
        ours = mine.network(x, torch.tensor([500.0]), context, None, seen=mine.network.look(maps))
    assert ours.mid is not None
    for one, other in zip((*ours.skips, ours.mid), (*down, mid), strict=True):
        assert torch.allclose(one, other, atol=1e-5)


def test_the_original_layout_holds_the_same(place: Path) -> None:
    told = values(export={"layout": "ldm", "dtype": "fp16"})
    made = job(told)
    folder = trained(told, made)
    found = load_control(folder / "controlnet.safetensors")
    learned = made.task.players["controlnet"].state_dict()
    assert found.report.layout != "Diffusers folder"
    assert all(torch.equal(t.half(), found.network.state_dict()[n]) for n, t in learned.items())


def test_how_the_maps_were_made_stands_beside_the_weights(place: Path) -> None:
    folder = trained(controlled(preprocessor="Canny", options={"low": 30}, resolution=96))
    told = json.loads((folder / "control.json").read_text())
    assert told == {
        "preprocessor": "canny", "options": {"low": 30, "high": 200}, "resolution": 96,
    }  # fmt: skip
    making = making_from_json(told, "control.json")
    picture = np.asarray(Image.open("shapes/00.png").convert("RGB"))
    wanted = control_map("canny", picture, resolution=96, options={"low": 30}).pixels
    assert np.array_equal(making.map_of(picture).pixels, wanted)


def test_the_model_it_is_for_is_not_changed_and_takes_it(place: Path) -> None:
    before = {p: p.read_bytes() for p in (place / "old").rglob("*") if p.is_file()}
    told = values(training={**runs.TRAINING, "steps": 3, "batch_size": 2, "learning_rate": 1e-2})
    folder = trained(told)
    assert {p: p.read_bytes() for p in (place / "old").rglob("*") if p.is_file()} == before
    model, net = load("old"), load_control(folder).network
    network = replace(model.network, control_networks={"edge": net})
    rng = torch.Generator().manual_seed(0)
    x, context = torch.randn(1, 8, 8, 8, generator=rng), torch.randn(1, 77, 64, generator=rng)
    image = torch.rand(1, 3, 64, 64, generator=rng)
    with torch.no_grad():
        plain = model.network(x, torch.tensor([500.0]), Condition(context))
        led = network(
            x, torch.tensor([500.0]), Condition(context, controls=(Control("edge", image),))
        )
    assert not torch.equal(plain, led)


def test_the_model_that_the_package_carries_is_one_to_follow_maps(
    place: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("safelight.embedded.carried.shelf", lambda: model)
    (weights,) = trained(values(model={"checkpoint": "embedded"})).glob("*.safetensors")
    assert weights.stat().st_size > 0


def test_a_control_net_goes_on_from_a_checkpoint(place: Path) -> None:
    first = trained(values())
    before = load_control(first).network.state_dict()
    told = {**controlled(preprocessor="canny", checkpoint=str(first)), "folder": "next"}
    told["control"].pop("widths")
    made = job(told)
    after = made.task.players["controlnet"].state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sd15", "sd2-v", "sdxl"])
def test_other_families_learn_with_what_they_are_told(place: Path, name: str) -> None:
    tiny.write_folder(tiny.oracle(name), place / "other")
    told = values(model={"checkpoint": "other"})
    told["data"] |= {"multiple": 64}
    found = load_control(trained(told))
    found.network.check_fits(load("other").network.unet.config)


# -- maps ----------------------------------------------------------------------------------------


def square(made: Job) -> list[int]:
    """The examples that fill a square; others go to a wide bucket."""
    data = made.data.pictures if isinstance(made.data, EncodedWithMaps) else made.data.latents
    return [row for row, size in enumerate(data.buckets) if size[0] == size[1]]


def pixels(name: str) -> np.ndarray:
    """A shape as the recipe frames it: wide ones cut to a square."""
    with Image.open(name) as image:
        picture = image.convert("RGB")
    if picture.height != picture.width:
        picture = picture.resize((85, 64), Image.Resampling.LANCZOS).crop((10, 0, 74, 64))
    return np.asarray(picture)


def test_maps_are_those_of_the_pictures_that_the_latents_are_of(place: Path) -> None:
    made = job(values())
    assert isinstance(made.data, WithMaps)
    maps = maps_of(made, square(made))
    assert maps.dtype == torch.uint8 and maps.shape[1:] == (3, 64, 64)
    # every map is the canny of one of the pictures, each of another
    known = {control_map("canny", pixels(p)).pixels.tobytes(): p for p in _square()}
    found = [known[m.permute(1, 2, 0).numpy().tobytes()] for m in maps]
    assert len(found) == len(set(found)) >= 5
    wide = [row for row in range(len(made.data)) if row not in square(made)]
    assert maps_of(made, wide).shape[1:] == (3, 48, 80)


def _square() -> list[str]:
    return [str(p) for p in sorted(Path("shapes").glob("*.png")) if _side(p)]


def _side(path: Path) -> bool:
    with Image.open(path) as image:
        return image.width == image.height


def test_kept_maps_are_the_same_and_take_a_third_where_they_are_grey(place: Path) -> None:
    anew, kept = job(values()), job(controlled(preprocessor="canny", keep=True))
    assert isinstance(kept.data, WithKeptMaps)
    some = square(anew)
    wide = [row for row in range(len(anew.data)) if row not in some]
    for rows in ([some[3], some[0], some[4]], wide):
        assert torch.equal(maps_of(kept, rows).expand(-1, 3, -1, -1), maps_of(anew, rows))
    grey = kept.resident - anew.resident
    assert grey == len(some) * 64 * 64 + len(wide) * 80 * 48
    colours = job(controlled(preprocessor="blur", keep=True))
    assert colours.resident - anew.resident == 3 * grey


def test_latents_and_maps_of_a_mirrored_picture_are_mirrored_together(place: Path) -> None:
    plain = job(values())
    told = values()
    told["data"] |= {"flip": 1.0}
    turned = job(told)
    assert isinstance(turned.data, EncodedWithMaps)
    rows = square(plain)[:3]
    assert square(turned)[:3] == rows
    one, other = maps_of(plain, rows), maps_of(turned, rows)
    # canny breaks ties to one side, so a mirrored picture's edges lie a pixel beside
    near = torch.nn.functional.max_pool2d(one.flip(3).float(), 5, 1, 2)
    assert ((other > 0) <= (near > 0)).all() and not torch.equal(one, other)
    trained(told, turned)


def test_shuffled_maps_are_others_in_every_step(place: Path) -> None:
    made = job(controlled(preprocessor="shuffle"))
    assert not torch.equal(maps_of(made, [0], 0), maps_of(made, [0], 1))
    assert torch.equal(maps_of(made, [0], 1), maps_of(made, [0], 1))
    fixed = job(controlled(preprocessor="shuffle", options={"seed": 4}))
    assert torch.equal(maps_of(fixed, [0], 0), maps_of(fixed, [0], 1))


def test_scenes_are_drawn_for_their_maps(place: Path) -> None:
    save_cutouts(scenes_tiny.cutouts(), place / "cutouts.safetensors")
    told = values(data=SCENES, previews={"prompts": [], "count": 2, "steps": 1})
    told["training"] |= {"validate_every": 1}
    made = job(told)
    maps = maps_of(made, [0, 1, 2, 3])
    assert maps.any(dim=(1, 2, 3)).all() and not torch.equal(maps[0], maps[1])
    kept = job({**told, "control": {**told["control"], "keep": True}})
    assert torch.equal(maps_of(kept, [2, 1]).expand(-1, 3, -1, -1), maps_of(made, [2, 1]))
    trained(told, made)
    with pytest.raises(RequestError, match=r"control\.maps is for pictures; the maps of data of k"):
        job({**told, "control": {"maps": "shapes"}})


# -- finished maps -------------------------------------------------------------------------------


def write_maps(folder: Path) -> None:
    """The shapes in grey, upside down: told from what a preprocessor would make of them."""
    folder.mkdir()
    for path in sorted(Path("shapes").glob("*.png")):
        with Image.open(path) as image:
            turned = image.convert("L").transpose(Image.Transpose.FLIP_TOP_BOTTOM)
        turned.save(folder / path.name)


def test_finished_maps_lie_beside_the_pictures_of_their_names(place: Path) -> None:
    write_maps(place / "maps")
    made = job(controlled(maps="maps"))
    rows = square(made)
    maps = maps_of(made, rows)
    assert (maps == maps[:, :1]).all()
    known = {}
    for name in _square():
        with Image.open(Path("maps") / Path(name).name) as image:
            known[np.asarray(image).tobytes()] = name
    found = [known[m[0].numpy().tobytes()] for m in maps]
    assert len(found) == len(set(found)) >= 5
    # and the latents are those of the pictures, not of the maps
    plain = job(values())
    ours, theirs = (j.data.batch(rows, Draw(0, 0, len(rows))).latents for j in (made, plain))
    assert torch.equal(ours, theirs)
    trained(controlled(maps="maps"), made)
    inverted = job(controlled(maps="maps", preprocessor="invert"))
    assert torch.equal(maps_of(inverted, rows), 255 - maps)


def test_finished_maps_are_cropped_and_mirrored_with_their_pictures(place: Path) -> None:
    (place / "maps").mkdir()
    for path in Path("shapes").glob("*.png"):
        (place / "maps" / path.name).write_bytes(path.read_bytes())
    told = controlled(maps="maps")
    told["data"] |= {"random_crop": True, "flip": 0.5}
    made = job(told)
    assert isinstance(made.data, EncodedWithMaps) and made.data.maps is not None
    rows = square(made)[:4]
    for step in range(4):
        pictures = made.data.pictures.batch(rows, Draw(0, step, 4)).pictures
        maps = maps_of(made, rows, step)
        assert torch.equal(pictures.add(1).mul(127.5).round().to(torch.uint8), maps)


def test_maps_that_are_missing_or_of_another_size_are_named(place: Path) -> None:
    with pytest.raises(FileError, match="maps is not a folder of maps"):
        job(controlled(maps="maps"))
    write_maps(place / "maps")
    (place / "maps/03.png").unlink()
    (place / "maps/07.png").unlink()
    with pytest.raises(FileError, match=r"2 of 10 pictures have no map in maps: 0[37], 0[37]; ea"):
        job(controlled(maps="maps"))
    for name in ("03", "07"):
        Image.new("L", (32, 32)).save(place / f"maps/{name}.png")
    with pytest.raises(FileError, match=r"0[37]\.png is 32x32 and its picture 64x64; give maps"):
        job(controlled(maps="maps"))


def test_a_run_whose_maps_have_changed_is_not_gone_on_with(place: Path) -> None:
    write_maps(place / "maps")
    told = controlled(maps="maps")
    made = job(told)
    train(made.task, made.data, made.settings, Path("run"), order=made.order)
    remember(Path("run"), checked(told, "c.toml"), made)
    kept = controlled(maps="maps", keep=True)  # where maps wait changes no number
    remember(Path("run"), checked(kept, "c.toml"), job(kept))
    Image.new("L", (64, 64)).save(place / "maps/01.png")
    with pytest.raises(RequestError, match="begun with something else: maps was"):
        remember(Path("run"), checked(told, "c.toml"), job(told))


# -- what is looked at ---------------------------------------------------------------------------


class Heard(Watch):
    def __init__(self, made: Job) -> None:
        self.made, self.figures = made, dict[str, float]()

    def validate(self, moment: Any) -> Any:
        self.figures = dict(self.made.look(moment))
        return self.figures


def test_figures_say_what_maps_tell_and_previews_show_them(place: Path) -> None:
    told = values(previews={"count": 2, "steps": 2})
    told["training"] |= {"steps": 2, "validate_every": 1, "learning_rate": 0.0}
    warned: list[str] = []
    made = job(told, warned)
    heard = Heard(made)
    train(made.task, made.data, made.settings, Path("run"), order=made.order, watch=heard)
    figures = heard.figures
    # a ControlNet that learned nothing adds nothing
    assert figures["held_out/loss"] == figures["held_out/loss_without_map"]
    assert figures["previews/f1"] == figures["previews/f1_without_map"]
    with Image.open("run/previews/00000002.png") as sheet:
        assert sheet.width > 2 * 64 and sheet.height > 48  # pairs of map and picture
    learning = values(previews={"count": 2, "steps": 2}, folder="other")
    learning["training"] |= {"steps": 3, "validate_every": 3, "learning_rate": 1e-2}
    made = job(learning)
    heard = Heard(made)
    train(made.task, made.data, made.settings, Path("other"), order=made.order, watch=heard)
    assert heard.figures["held_out/loss_without_map"] == figures["held_out/loss_without_map"]
    assert heard.figures["held_out/loss"] != figures["held_out/loss"]


def test_previews_follow_pictures_that_are_named(place: Path) -> None:
    told = values(
        previews={
            "pictures": ["shapes/01.png", "shapes/04.png"],
            "prompts": ["a red square", "a blue circle"],
            "steps": 1,
        }
    )
    told["training"] |= {"validate_every": 1}
    made = job(told)
    previews = made.look.__self__.previews  # type: ignore[attr-defined]
    wanted = control_map("canny", pixels("shapes/01.png")).pixels
    assert np.array_equal(previews.maps[0].permute(1, 2, 0).numpy(), wanted)
    assert previews.prompts == ("a red square", "a blue circle")


def test_an_estimate_counts_what_learns_and_what_is_frozen(place: Path) -> None:
    made = job(values())
    found = estimate(made, torch.device("cpu"))
    assert set(found.weights) == {"controlnet"} and set(found.losses) == {"controlnet"}
    unet = load("old").network.unet
    assert found.frozen >= sum(p.numel() * 4 for p in unet.parameters())
    assert any("maps: canny, low 100, high 200" in fact for fact in made.facts)


def test_a_run_in_bfloat16_writes_what_it_learned(place: Path) -> None:
    told = values()
    told["training"] |= {"precision": "bf16", "ema": ["classic:0.9"], "channels_last": True}
    made = job(told)
    assert {p.dtype for p in made.frozen[-2].parameters()} == {torch.bfloat16}
    folder = trained(told, made)
    assert load_control(folder).network.dtype == torch.float32


# -- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"control": {"preprocessor": "cany"}}, "choose one of none, invert, canny.*mean canny"),
        ({"control": {}}, "control: give preprocessor, .* or maps"),
        ({"control": {"preprocessor": "canny", "options": {"lo": 1}}}, "no option 'lo'; its opt"),
        ({"control": {"preprocessor": "blur", "options": {"sigma": 0}}}, "sigma must be a number"),
        ({"control": {"preprocessor": "depth"}}, "makes no map of a picture: give finished ones"),
        ({"control": {"preprocessor": "inpaint"}}, "needs masks, which training does not draw"),
        ({"control": {"preprocessor": "invert", "resolution": 64}}, "the same at any; leave it"),
        ({"control": {"preprocessor": "canny", "resolution": 5}}, "control.resolution must be"),
        ({"control": {"preprocessor": "shuffle", "keep": True}}, "another map in every step"),
        ({"control": {"preprocessor": "canny", "dropout": 2}}, "control.dropout must be from 0"),
        ({"control": {"preprocessor": "canny", "map": "x"}}, "control.map is no key here; did you"),
        (
            {"control": {"preprocessor": "canny", "checkpoint": "x", "widths": [4]}},
            "widths are those of the checkpoint",
        ),
        ({"previews": {"prompts": ["a"]}}, "one for each; got 1 and 0"),
        ({"model": {"autoencoder": "x"}}, "model.checkpoint is missing"),
        ({"export": {"layout": "original"}}, "export.layout must be one of 'diffusers', 'ldm'"),
        ({"recipe": "controlnets"}, "did you mean controlnet"),
        ({"process": {"kind": "edm"}}, "process is no key here"),
    ],
)
def test_a_config_that_cannot_be_is_told_by_key(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        checked({**values(), **changes}, "c.toml")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"control": {"preprocessor": "canny", "widths": [4, 4]}},
            r"control\.widths needs 4 numbers, as the latents are 8 times smaller",
        ),
        (
            {"control": {"preprocessor": "canny", "options": {"low": 300}}},
            "low must not be above high; got 300 and 200",
        ),
        ({"data": {"path": "shapes", "size": 64, "multiple": 8}}, r"data\.multiple must be a mul"),
        (
            {"training": {**runs.TRAINING, "parallel": "fsdp"}},
            r"parallel fsdp .* use ddp",
        ),
        ({"previews": {"height": 64}}, r"previews\.height and width are those of the pictures"),
        (
            {"previews": {"pictures": ["shapes/01.png"], "prompts": ["a"], "width": 60}},
            r"previews\.height and width must be multiples of 8; got 64 and 60",
        ),
        ({"noise": {"draw": {"name": "mixd"}}}, "Did you mean mixed"),
    ],
)
def test_what_does_not_fit_together_is_told(
    place: Path, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(RequestError, match=said):
        job({**values(), **changes})


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sd15-inpaint", "x4-upscaler"])
def test_models_that_draw_from_pictures_are_refused_by_name(place: Path, name: str) -> None:
    tiny.write_folder(tiny.oracle(name), place / "other")
    with pytest.raises(RequestError, match="which draws from pictures"):
        job(values(model={"checkpoint": "other"}))


def test_a_control_net_of_another_family_is_refused(place: Path) -> None:
    first = trained(values())
    family = small_family()
    wide = replace(family.backbone, channels=(16, 32), heads=(2, 4))
    save(model_of(replace(family, backbone=wide)), place / "other")
    told = values(
        model={"checkpoint": "other"}, control={"preprocessor": "canny", "checkpoint": str(first)}
    )
    with pytest.raises(CheckpointError, match=r"control\.checkpoint .* another family"):
        job(told)


def test_half_of_the_captions_are_dropped_unless_the_config_says_otherwise(place: Path) -> None:
    assert job(values()).task.settings.caption_dropout == 0.5
    assert job(values(noise={"caption_dropout": 0.1})).task.settings.caption_dropout == 0.1
