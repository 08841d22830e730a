"""What an evaluation asks, and that its pictures are those of `safelight generate`."""

from collections import Counter
from pathlib import Path

import pytest
import torch
from torch import Tensor

from cli_tiny import tiny_model
from safelight.cli.evaluate_drawing import Drawing
from safelight.cli.evaluate_questions import SPLITS, asked, splits_of
from safelight.cli.evaluate_running import sweeps_of, world_of
from safelight.cli.evaluate_scenes import rendered, varied
from safelight.errors import RequestError
from safelight.evaluation.composition import CATEGORIES, category_of
from safelight.model import Model
from safelight.tasks.generate import generate
from safelight.tasks.request import Request, SamplerOptions
from safelight.training.scenes.book import SceneBook
from safelight.training.scenes.holdout import background_held_out
from scenes_tiny import STYLES, THINGS, cutouts

KNOWN = {*THINGS, *STYLES}
PROMPTS = ("a red apple", "three (cats), flat style", "a dog left of a pizza")


@pytest.fixture(scope="module")
def small() -> Model:
    return tiny_model(4)


def test_every_category_is_asked_alike_often_and_every_prefix_is_balanced() -> None:
    items = asked(cutouts(), ("seen",), 60, seed=1, known=KNOWN)
    counts = Counter(item.question.category for item in items)
    assert counts == dict.fromkeys(CATEGORIES, 10)
    assert Counter(i.question.category for i in items[:12]) == dict.fromkeys(CATEGORIES, 2)
    for item in items:
        assert item.question.prompt == item.scene.caption
        assert item.question.facts == item.scene.facts


def test_held_out_splits_share_the_other_half_and_ask_what_they_hold_out() -> None:
    splits = ("seen", "heldout_combo", "heldout_background", "heldout_count", "heldout_pairs")
    pictures = cutouts()
    items = asked(pictures, splits, 80, seed=3, known=KNOWN)
    assert Counter(i.question.split for i in items) == {"seen": 40, **dict.fromkeys(splits[1:], 10)}
    entries = pictures.catalogue.entries
    for item in items:
        facts = item.question.facts
        shown = [entries[layer.cutout] for layer in item.scene.layers]
        match item.question.split:
            case "heldout_combo":
                assert facts.style is not None and shown[0].split == "heldout_combo"
            case "heldout_background":
                assert facts.background is not None
                assert background_held_out(facts.hexcodes[0], facts.background)
            case "heldout_pairs":
                assert item.question.category == category_of(facts)
                assert item.question.category in ("two objects", "position")
            case "seen":
                assert all(entry.split == "train" for entry in shown)


def test_questions_depend_on_the_seed_alone() -> None:
    one, same, other = (
        [i.question.prompt for i in asked(cutouts(), ("seen",), 24, seed=s, known=KNOWN)]
        for s in (1, 1, 2)
    )
    assert one == same != other


def test_only_kinds_of_scenes_that_were_shown_are_asked() -> None:
    splits = ("seen", "heldout_combo", "heldout_pairs", "heldout_count")
    items = asked(cutouts(), splits, 40, seed=1, known=KNOWN, kinds=["single"])
    assert {item.question.split for item in items} == {"seen", "heldout_combo"}
    assert {item.question.category for item in items} == {"single object", "style"}
    assert {item.scene.kind for item in items} == {"single"}
    with pytest.raises(RequestError, match="no split of --splits can be asked"):
        asked(cutouts(), ("heldout_pairs",), 4, seed=1, known=KNOWN, kinds=["single"])


def test_a_world_is_that_of_a_training_config_of_scenes(tmp_path: Path) -> None:
    config = tmp_path / "world.toml"
    data = 'kind = "scenes"\npath = "x"\nsize = 64\nstyles = ["noto"]\nmix = { single = 1.0 }\n'
    head, tail = 'recipe = "evaluator"\nfolder = "x"\n', "[training]\nsteps = 1\nbatch_size = 1\n"
    config.write_text(f"{head}[data]\n{data}{tail}")
    world = world_of(config)
    assert world.styles == ("noto",)
    assert world.mix == {"single": 1.0}
    data = 'path = "x"\nsize = 64\n'
    config.write_text(f'recipe = "autoencoder"\nfolder = "x"\n[data]\n{data}{tail}')
    with pytest.raises(RequestError, match="its data are no scenes"):
        world_of(config)


def test_only_what_the_judge_knows_is_asked() -> None:
    known = KNOWN - {"1F34E", "twemoji"}
    for item in asked(cutouts(), ("seen",), 30, seed=1, known=known):
        assert "1F34E" not in item.question.facts.hexcodes
        assert item.question.facts.style != "twemoji"
    with pytest.raises(RequestError, match="the evaluator knows too few of these cut-outs"):
        asked(cutouts(), ("seen",), 6, seed=1, known=set())


def test_splits_and_sweeps_are_read() -> None:
    assert splits_of(" seen, heldout_combo,") == ("seen", "heldout_combo")
    assert set(splits_of(",".join(SPLITS))) == set(SPLITS)
    for wrong in ("", "seen,seen", "train"):
        with pytest.raises(RequestError, match="--splits"):
            splits_of(wrong)
    given = sweeps_of(["guidance=1,2.5", "steps=5,10"])
    assert given == {"guidance": (1.0, 2.5), "steps": (5.0, 10.0)}
    with pytest.raises(RequestError, match="2 splits; give --count 2"):
        asked(cutouts(), ("seen", "heldout_combo"), 1, seed=1, known=KNOWN)


@pytest.mark.parametrize("scale", [1.0, 4.0])
@pytest.mark.parametrize("sampler", ["DPM++ 2M", "Euler a"])
def test_a_batch_of_prompts_gives_the_pictures_of_each_drawn_alone(
    small: Model, scale: float, sampler: str
) -> None:
    request = Request(prompt="", width=32, height=32, steps=3, cfg_scale=scale, sampler=sampler)
    seeds = (7, 2**31, 9)
    together = Drawing(small, request)(PROMPTS, seeds)
    alone = [alone_of(small, request, p, s) for p, s in zip(PROMPTS, seeds, strict=True)]
    levels = (together - torch.stack(alone)).abs() * 127.5
    assert float(levels.max()) <= 1.01, "bytes differ by the last level at most"
    assert float((levels > 0.5).float().mean()) < 0.01
    assert float((alone[0] - alone[2]).abs().max()) > 0.05, "prompts and seeds matter"


def test_what_cannot_share_a_batch_is_drawn_alone(small: Model) -> None:
    quick = SamplerOptions(rtol=1, atol=1)
    request = Request(prompt="", width=32, height=32, sampler="DPM adaptive", sampler_options=quick)
    pictures = Drawing(small, request)(PROMPTS[:2], (1, 2))
    assert torch.equal(pictures[1], alone_of(small, request, PROMPTS[1], 2))


def test_pictures_to_compare_with_show_every_cutout_once_before_any_twice() -> None:
    scenes = SceneBook(cutouts(), 1, {"single": 1.0}).scenes(range(400))
    distinct = len({scene.layers[0].cutout for scene in scenes})
    assert distinct == 34
    chosen = varied(scenes, 100)
    assert len({scene.layers[0].cutout for scene in chosen}) == len(chosen) == distinct
    assert len(varied(scenes, 10)) == 10
    alone = [scene for scene in scenes if scene.layers[0].cutout == scenes[0].layers[0].cutout]
    assert len(varied(alone * 20, 100)) == 20, "a threshold needs twenty"


def test_real_renderings_have_the_levels_of_files() -> None:
    items = asked(cutouts(), ("seen",), 6, seed=1, known=KNOWN)
    pictures = rendered([item.scene for item in items], cutouts(), 32)
    levels = (pictures + 1) * 127.5
    assert float((levels - levels.round()).abs().max()) < 1e-3
    assert float(pictures.min()) >= -1 and float(pictures.max()) <= 1


def alone_of(model: Model, request: Request, prompt: str, seed: int) -> Tensor:
    (picture,) = generate(model, request.replace(prompt=prompt, seed=seed, dialect="plain"))
    return torch.from_numpy(picture.pixels.copy()).movedim(-1, 0).float() / 127.5 - 1
