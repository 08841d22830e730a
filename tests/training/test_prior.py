"""Prior preservation: pictures of the class, drawn once by the model as it was."""

from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import teaching_lab as lab
from safelight.errors import InputError, RequestError
from safelight.training.diffusion_task import LatentBatch
from safelight.training.draw import Draw
from safelight.training.latent_pool import LatentPool
from safelight.training.loop import train
from safelight.training.order import Flat
from safelight.training.prior import PairedOrder, WithPrior, joined
from safelight.training.recipes.estimate import estimate
from safelight.training.recipes.preserving import shares
from safelight.training.text_states import tokens_of
from training_tiny import files_equal

pytestmark = pytest.mark.slow

PRIOR = {"prompt": "a picture of a ball", "count": 3, "steps": 2, "guidance_scale": 2.0}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return lab.write_model(tmp_path_factory.mktemp("models") / "own")


@pytest.fixture
def place(tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return lab.furnished(tmp_path, model, monkeypatch)


def values(recipe: str = "lora", **prior: Any) -> dict[str, Any]:
    return lab.values(recipe, prior={**PRIOR, **prior})


def pool(count: int, first: int = 0) -> LatentPool:
    latents = torch.arange(first, first + count).float()[:, None, None, None].expand(-1, 1, 2, 2)
    return LatentPool(latents, tokens=torch.arange(first, first + count)[:, None])


# -- batches ---------------------------------------------------------------------------------------


def test_a_batch_begins_with_the_subject_and_ends_with_the_class_of_its_size() -> None:
    sizes = ["wide"] * 4 + ["tall"] * 4
    order = PairedOrder(Flat(8, 1, 0), sizes, {"wide": [0, 2], "tall": [1]}, 2, 0)
    seen: Counter[int] = Counter()
    for step in range(16):
        own, *others = order.indices(step)
        assert own < 8 and all(i - 8 in ([0, 2] if own < 4 else [1]) for i in others)
        assert len(others) == 2 and order.indices(step) == [own, *others]
        seen.update(others)
    assert set(seen) == {8, 9, 10}


def test_every_picture_of_the_class_has_its_turn() -> None:
    order = PairedOrder(Flat(2, 2, 0), [0, 0], {0: list(range(5))}, 1, 3)
    found = [order.indices(step)[2] - 2 for step in range(10)]
    assert sorted(found[:5]) == sorted(found[5:]) == [0, 1, 2, 3, 4]


def test_a_size_without_a_picture_of_the_class_is_refused() -> None:
    with pytest.raises(RequestError, match="no picture of the class of the size tall"):
        PairedOrder(Flat(2, 1, 0), ["wide", "tall"], {"wide": [0]}, 1, 0)


def test_rows_are_weighed_so_that_each_kind_has_a_mean_of_its_own() -> None:
    data = WithPrior(pool(4), pool(3, 10), (3, 1), 0.5)
    batch = data.batch([0, 2, 3, 4], Draw(0, 0, 4))
    assert batch.weight is not None
    assert batch.weight.tolist() == pytest.approx([4 / 3] * 3 + [2.0])
    errors = torch.tensor([1.0, 2.0, 3.0, 7.0])
    assert (batch.weight * errors).mean().item() == pytest.approx(2.0 + 0.5 * 7.0)
    assert batch.latents[:, 0, 0, 0].tolist() == [0, 2, 3, 10]


def test_micro_batches_see_the_rows_of_the_whole() -> None:
    def with_captions(count: int, first: int) -> LatentPool:
        base = pool(count, first)
        table = torch.arange(6)[None].expand(count, -1)
        return LatentPool(base.latents, tokens=torch.arange(6)[:, None], captions=table)

    data = WithPrior(with_captions(4, 0), with_captions(3, 10), (3, 3))
    indices = [0, 2, 3, 4, 5, 6]
    whole = data.batch(indices, Draw(5, 2, 6))
    for size in (1, 2, 4):
        parts = [
            data.batch(indices[at : at + size], Draw(5, 2, 6, at, min(size, 6 - at)))
            for at in range(0, 6, size)
        ]
        for name in ("tokens", "weight", "latents"):
            pieces = torch.cat([getattr(part, name) for part in parts])
            assert torch.equal(pieces, getattr(whole, name))


def test_a_mask_of_the_subject_leaves_the_class_whole() -> None:
    one = LatentBatch(torch.zeros(1, 1, 2, 2), mask=torch.full((1, 1, 2, 2), 0.3))
    both = joined(one, LatentBatch(torch.ones(2, 1, 2, 2)))
    assert both.mask is not None
    assert both.mask[:, 0, 0, 0].tolist() == pytest.approx([0.3, 1, 1])


@pytest.mark.parametrize(
    ("count", "sizes", "wanted"),
    [
        (10, [(32, 32)] * 3, {(32, 32): 10}),
        (10, [(32, 32)] * 3 + [(48, 32)], {(32, 32): 8, (48, 32): 2}),
        (1, [(32, 32)] * 9 + [(48, 32)], {(32, 32): 1, (48, 32): 1}),
    ],
)
def test_the_class_is_drawn_in_the_sizes_of_the_subject(
    count: int, sizes: list[tuple[int, int]], wanted: dict[tuple[int, int], int]
) -> None:
    assert shares(count, sizes) == wanted


# -- drawn -----------------------------------------------------------------------------------------


def drawn() -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in Path("run/class").rglob("*.png")}


def test_the_model_draws_its_class_once_and_what_is_there_is_taken(place: Path) -> None:
    lab.job(values())
    first = drawn()
    assert sorted(first) == [f"{n:05}-32x32.png" for n in range(3)]
    assert len(set(first.values())) == 3
    stamps = {p: p.stat().st_mtime_ns for p in Path("run/class").rglob("*.png")}
    lab.job(values(count=4))
    assert {n: first[n] for n in first} == {n: drawn()[n] for n in first} and len(drawn()) == 4
    assert {p: p.stat().st_mtime_ns for p in stamps} == stamps
    next(iter(stamps)).write_bytes(b"half a picture")
    lab.job(values(count=4))
    assert {n: drawn()[n] for n in first} == first


def test_another_prompt_seed_or_model_has_pictures_of_its_own(place: Path) -> None:
    lab.job(values())
    lab.job(values(seed=7))
    lab.job(values(prompt="a ball"))
    assert len(list(Path("run/class").iterdir())) == 3


def test_pictures_drawn_are_those_of_the_untaught_model(place: Path) -> None:
    """Drawn again after an adapter has learned, from a fresh folder: the same bytes."""
    told = values()
    lab.trained(told)
    first = drawn()
    told["prior"]["folder"] = "elsewhere"
    lab.job(told)
    again = {p.name: p.read_bytes() for p in Path("elsewhere").rglob("*.png")}
    assert again == first


@pytest.mark.parametrize("recipe", ["lora", "diffusion", "textual_inversion"])
def test_recipes_learn_beside_their_class_and_resume_bit_equal(place: Path, recipe: str) -> None:
    told = values(recipe, weight=0.5)
    told["training"] |= {"steps": 4, "batch_size": 3}
    made = lab.job(told)
    first = made.data.batch(made.order.indices(0), Draw(0, 0, 3))
    # a third of three rows and more: two of the class, one of the subject
    assert first.weight is not None
    assert first.weight.tolist() == pytest.approx([3.0, 0.75, 0.75])
    train(made.task, made.data, made.settings, Path("whole"), order=made.order)
    for steps in (2, 4):
        told["training"]["steps"] = steps
        made = lab.job(told)
        train(made.task, made.data, made.settings, Path("parts"), order=made.order)
    name = "checkpoints/step-00000004"
    assert files_equal(Path("whole") / name, Path("parts") / name)


def test_a_check_draws_one_and_leaves_nothing_behind(place: Path) -> None:
    with ExitStack() as stack:
        made = lab.job(values(), trial=True, stack=stack)
        assert any("1 was drawn for this check" in fact for fact in made.facts)
        assert estimate(made, torch.device("cpu")).flop > 0
    assert not Path("run").exists()


def test_several_prompts_take_turns_and_each_picture_keeps_its_own(place: Path) -> None:
    prompts = ["a ball", "a red cube"]
    made = lab.job(values(prompt=prompts))
    batch = made.data.batch([0, 6, 7, 8], Draw(0, 0, 4))
    said = tokens_of(made.task.text.conditioner, ["a ball", "a red cube", "a ball"]).ids
    assert batch.tokens is not None and torch.equal(batch.tokens[1:].long(), said)


# -- given -----------------------------------------------------------------------------------------


def test_given_pictures_are_cut_to_the_sizes_of_the_subject(place: Path) -> None:
    Path("class").mkdir()
    for number, size in enumerate([(40, 20), (20, 40), (30, 30)]):
        Image.new("RGB", size, (9 * number, 0, 0)).save(f"class/{number}.png")
    told = lab.values("lora", prior={"path": "class", "prompt": "a ball"})
    made = lab.job(told)
    batch = made.data.batch([0, 6, 7, 8], Draw(0, 0, 4))
    assert batch.latents.shape == (4, 8, 4, 4)
    assert not Path("run/class").is_dir() or not list(Path("run/class").rglob("*.png"))
    assert batch.tokens is not None
    assert torch.equal(batch.tokens[1], batch.tokens[2])


def test_given_pictures_may_have_captions_of_their_own(place: Path) -> None:
    lab.write_subject(place / "class", 3)
    made = lab.job(lab.values("lora", prior={"path": "class"}))
    batch = made.data.batch([0, 6, 7], Draw(0, 0, 3))
    assert batch.tokens is not None and not torch.equal(batch.tokens[1], batch.tokens[2])


def test_a_prior_needs_a_prompt_or_pictures_and_room_in_the_batch(place: Path) -> None:
    with pytest.raises(InputError, match="prior: give prompt"):
        lab.job(lab.values("lora", prior={}))
    told = values()
    told["training"]["batch_size"] = 1
    with pytest.raises(RequestError, match="leaves no row for the subject"):
        lab.job(told)
