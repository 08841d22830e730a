import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from diffusion_lab import CAPTIONS, codec, frozen_text, shapes
from safelight.errors import CheckpointError, NonFiniteError, RequestError
from safelight.training.cache import Store, content_hash
from safelight.training.draw import Draw
from safelight.training.latent_cache import (
    cached_latents,
    cached_states,
    codec_hash,
    text_hash,
    weights_hash,
)
from safelight.training.latent_pool import (
    LatentPool,
    LatentStatistics,
    PoolFacts,
    check_scale,
    encode_pictures,
    encoded,
    load_pool,
    save_pool,
)
from safelight.training.text_states import tokens_of

TEXT = frozen_text()
TOKENS = tokens_of(TEXT.conditioner, CAPTIONS).ids
FACTS = PoolFacts(codec="abc", pixels=(32, 32))


def pictures(count: int, seed: int = 0, side: int = 16) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    return torch.rand(count, 3, side, side, generator=rng) * 2 - 1


# -- batches -------------------------------------------------------------------------------------


def test_a_batch_is_the_rows_asked_for_in_their_order() -> None:
    pool = LatentPool(shapes(8).bfloat16(), TOKENS.int(), sizes=torch.arange(48.0).view(8, 6))
    batch = pool.batch([5, 0, 5], Draw(0, 0, 3))
    assert torch.equal(batch.latents, pool.latents[[5, 0, 5]])
    assert batch.latents.dtype == torch.bfloat16
    assert batch.tokens is not None and torch.equal(batch.tokens, TOKENS[[5, 0, 5]].int())
    assert batch.sizes is not None and batch.sizes[1].tolist() == [0, 1, 2, 3, 4, 5]
    assert len(pool) == 8 and len(batch) == 3


def test_each_of_a_pictures_captions_is_told_as_often_and_drawn_anew_each_step() -> None:
    captions = torch.tensor([[0, 1, 2], [3, 4, 4]], dtype=torch.int32)
    pool = LatentPool(shapes(2), TOKENS, captions)
    told: dict[int, int] = {}
    count = 600
    for step in range(5):
        batch = pool.batch([0] * count, Draw(0, step, count))
        assert batch.tokens is not None
        for row in range(3):
            share = (batch.tokens == TOKENS[row]).all(1).sum().item()
            assert share == pytest.approx(count / 3, abs=60)
            told[row] = told.get(row, 0) + share
    assert sum(told.values()) == 5 * count
    other = pool.batch([1] * count, Draw(0, 0, count)).tokens
    assert other is not None
    assert {tuple(row) for row in other.tolist()} == {tuple(TOKENS[i].tolist()) for i in (3, 4)}


def test_parts_of_a_batch_are_told_what_the_whole_is() -> None:
    captions = torch.arange(8).repeat(8, 1)
    pool = LatentPool(shapes(8), TOKENS, captions)
    whole = pool.batch(list(range(8)), Draw(1, 2, 8)).tokens
    parts = [pool.batch([s, s + 1], Draw(1, 2, 8, s, 2)).tokens for s in range(0, 8, 2)]
    assert whole is not None
    assert torch.equal(torch.cat([p for p in parts if p is not None]), whole)


def test_states_of_captions_take_the_place_of_their_ids() -> None:
    states = TEXT.states(TOKENS)
    captions = torch.arange(8).flip(0)[:, None]
    pool = LatentPool(shapes(8), contexts=states.context, captions=captions)
    batch = pool.batch([0, 3], Draw(0, 0, 2))
    assert batch.tokens is None and batch.context is not None
    assert torch.equal(batch.context, states.context[[7, 4]])


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: LatentPool(torch.zeros(3, 4), TOKENS), r"latents are \(N, C, h, w\)"),
        (lambda: LatentPool(shapes(3), TOKENS), "3 pictures need as many tokens; got 8"),
        (lambda: LatentPool(shapes(3)), "either tokens or contexts"),
        (lambda: LatentPool(shapes(8), TOKENS, ids=("a",)), "8 pictures need as many ids; got 1"),
        (
            lambda: LatentPool(shapes(8), TOKENS, torch.arange(8)),
            r"captions are \(N, V\); got \(8,\)",
        ),
    ],
)
def test_parts_that_do_not_fit_are_refused(make: Callable[[], LatentPool], said: str) -> None:
    with pytest.raises(RequestError, match=said):
        make()


# -- encoding ------------------------------------------------------------------------------------


def test_latents_are_the_codecs_whatever_the_batches() -> None:
    made, images = codec(scale=0.5), pictures(7)
    with torch.no_grad():
        expected = made.encode(images).mode()
    for size in (1, 3, 7):
        latents = encode_pictures(made, images.split(size))
        assert torch.allclose(latents, expected, atol=1e-5)
    assert encode_pictures(made, [images], dtype=torch.float16).dtype == torch.float16


def test_a_sample_depends_on_seed_and_name_alone() -> None:
    made, images = codec(), pictures(4)
    whole = encoded(made, images, "abcd", choice="sample", seed=1)
    alone = encoded(made, images[2:3], "c", choice="sample", seed=1)
    assert torch.allclose(whole[2:3], alone, atol=1e-5)
    assert not torch.allclose(whole, encoded(made, images, "abcd", choice="sample", seed=2))
    # of the posterior: its spread, in units of its deviation, is 1
    posterior = made.encode(images)
    drawn = torch.stack([encoded(made, images, "abcd", choice="sample", seed=s) for s in range(50)])
    unit = (drawn - posterior.mean) / (0.5 * posterior.logvar).exp()
    assert unit.std().item() == pytest.approx(1, abs=0.02)


def test_an_autoencoder_that_makes_nan_is_named() -> None:
    made = codec()
    assert isinstance(made.autoencoder, nn.Module)
    with torch.no_grad():
        next(made.autoencoder.parameters()).fill_(torch.nan)
    with pytest.raises(NonFiniteError, match="the autoencoder makes NaN"):
        encode_pictures(made, [pictures(1)])
    with pytest.raises(RequestError, match="no picture to encode"):
        encode_pictures(codec(), [])


# -- scale ---------------------------------------------------------------------------------------


def test_statistics_are_those_of_all_places_and_pictures() -> None:
    latents = shapes(8) * torch.tensor([1.0, 2.0, 0.5, 1.0])[:, None, None] + 3
    found = LatentStatistics.of(latents, chunk=3)
    assert found.mean == pytest.approx(latents.mean((0, 2, 3)).tolist(), abs=1e-5)
    expected = latents.std((0, 2, 3), correction=0).tolist()
    assert found.std == pytest.approx(expected, rel=1e-4)


def test_latents_of_another_size_are_refused_with_the_likely_reason() -> None:
    unit = shapes(8)
    made = codec(scale=0.18215)
    check_scale(LatentStatistics.of(unit), made)
    with pytest.raises(RequestError, match=r"got channel 0: 0\.182.*They look scaled twice"):
        check_scale(LatentStatistics.of(unit * 0.18215), made)
    with pytest.raises(RequestError, match=r"got channel 0: 5\.4.*They look unscaled"):
        check_scale(LatentStatistics.of(unit / 0.18215), made)
    with pytest.raises(RequestError, match=r"channel 2: 0\.5\. Set the codec's scale to 1 /"):
        check_scale(LatentStatistics.of(unit * torch.tensor([1, 1, 0.5, 1])[:, None, None]), made)


# -- files ---------------------------------------------------------------------------------------


def test_a_saved_pool_is_the_same_again(tmp_path: Path) -> None:
    pool = LatentPool(
        shapes(8).bfloat16(),
        TOKENS.to(torch.int32),
        torch.arange(16).view(8, 2) % 8,
        sizes=torch.ones(8, 6),
        ids=tuple(f"bild {i} ü" for i in range(8)),
    )
    save_pool(tmp_path / "pool.safetensors", pool, FACTS)
    again = load_pool(tmp_path / "pool.safetensors", FACTS)
    assert again.ids == pool.ids
    for name in ("latents", "tokens", "captions", "sizes"):
        assert torch.equal(getattr(again, name), getattr(pool, name))
    assert again.contexts is None


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        (PoolFacts("other", (32, 32)), "made with codec 'abc', and other is asked for"),
        (PoolFacts("abc", (64, 64)), "made with pixels '32x32', and 64x64 is asked for"),
        (PoolFacts("abc", (32, 32), "sample"), "made with choice 'mode', and sample is asked"),
        (PoolFacts("abc", (32, 32), data="new"), "made with data '', and new is asked for"),
    ],
)
def test_a_pool_made_with_something_else_is_refused(
    tmp_path: Path, facts: PoolFacts, said: str
) -> None:
    save_pool(tmp_path / "pool.safetensors", LatentPool(shapes(8), TOKENS), FACTS)
    with pytest.raises(CheckpointError, match=said.replace("'", "'?")):
        load_pool(tmp_path / "pool.safetensors", facts)


def test_a_file_without_latents_is_refused(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"weight": torch.zeros(2)}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"model\.safetensors holds no latents"):
        load_pool(tmp_path / "model.safetensors")


# -- the cache -----------------------------------------------------------------------------------


class Album:
    """Pictures by number that notes which it was asked for."""

    def __init__(self, count: int) -> None:
        self.images = list(pictures(count))
        self.asked: list[int] = []

    @property
    def contents(self) -> list[str]:
        return [content_hash(image.numpy().tobytes()) for image in self.images]

    def load(self, numbers: list[int]) -> Tensor:
        self.asked += numbers
        return torch.stack([self.images[number] for number in numbers])


def test_only_what_changed_is_encoded_again(tmp_path: Path) -> None:
    album, made = Album(6), codec()

    def latents(**options: object) -> list[Tensor]:
        album.asked.clear()
        with Store(tmp_path) as store:
            return cached_latents(store, made, album.contents, album.load, batch=4, **options)  # type: ignore[arg-type]

    first = latents()
    assert album.asked == [0, 1, 2, 3, 4, 5]
    expected = encode_pictures(made, [torch.stack(album.images)], dtype=torch.float16)
    assert torch.allclose(torch.stack(first).float(), expected.float(), atol=1e-2)
    again = latents()
    assert album.asked == []
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    album.images[3] = pictures(1, seed=9)[0]  # edited
    latents()
    assert album.asked == [3]
    album.images[1] = pictures(1, seed=1, side=32)[0]  # another size
    album.images[4] = pictures(1, seed=2, side=32)[0]
    album.asked.clear()
    with Store(tmp_path) as store:
        wide = [album.contents[i] for i in (1, 4)]
        found = cached_latents(store, made, wide, lambda n: album.load([(1, 4)[i] for i in n]))
    assert album.asked == [1, 4] and found[0].shape == (4, 8, 8)
    album.images[1], album.images[4] = pictures(6)[1], pictures(6)[4]
    latents()
    assert album.asked == []
    latents(dtype=torch.float32)
    assert album.asked == [0, 1, 2, 3, 4, 5]
    latents(choice="sample", seed=1)
    assert len(album.asked) == 6
    latents(choice="sample", seed=2)
    assert len(album.asked) == 6
    made = codec(seed=1)  # another autoencoder
    latents()
    assert len(album.asked) == 6
    made = codec(seed=1, scale=0.5)  # the same one, scaled otherwise
    latents()
    assert len(album.asked) == 6


def test_who_asks_is_told_how_many_are_encoded_and_not_of_those_that_were(tmp_path: Path) -> None:
    album, told = Album(7), list[tuple[int, int]]()

    @contextmanager
    def counted(total: int) -> Iterator[Callable[[int], None]]:
        yield lambda done: told.append((done, total))

    with Store(tmp_path) as store:
        few = album.contents[:2]
        cached_latents(store, codec(), few, album.load)
        cached_latents(store, codec(), album.contents, album.load, batch=2, counted=counted)
        assert told == [(2, 5), (4, 5), (5, 5)]
        told.clear()
        cached_latents(store, codec(), album.contents, album.load, counted=counted)
        assert told == []


def test_a_run_that_is_killed_while_it_encodes_loses_a_minute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("safelight.training.latent_cache.KEPT_EVERY", 0.0)
    album = Album(6)

    def load(numbers: list[int]) -> Tensor:
        if numbers[0] >= 4:
            raise KeyboardInterrupt
        return album.load(numbers)

    with Store(tmp_path / "own") as store:
        with pytest.raises(KeyboardInterrupt):
            cached_latents(store, codec(), album.contents, load, batch=2)
        shutil.copytree(tmp_path / "own", tmp_path / "disk")  # before it is closed: as kill -9
    album.asked.clear()
    with Store(tmp_path / "disk") as store:
        cached_latents(store, codec(), album.contents, album.load, batch=2)
    assert album.asked == [4, 5]


def test_states_of_captions_are_made_once_and_are_the_towers(tmp_path: Path) -> None:
    texts = [*CAPTIONS, CAPTIONS[0], "", "  a RED   circle "]
    calls: list[int] = []
    tower = TEXT.conditioner.encoders[0]
    layers = tower.text_model.encoder
    hook = layers.register_forward_pre_hook(lambda _, args: calls.append(len(args[0])))
    with Store(tmp_path) as store:
        states = cached_states(store, TEXT, texts, batch=4)
    # the first caption comes three times: as it is, and in another spelling of the same tokens
    assert sum(calls) == 9
    expected = TEXT.states(tokens_of(TEXT.conditioner, texts).ids).context
    assert torch.allclose(states.context, expected, atol=1e-5)
    calls.clear()
    with Store(tmp_path) as store:
        again = cached_states(store, TEXT, texts)
        assert calls == [] and torch.equal(again.context, states.context)
        cached_states(store, TEXT, ["something new"])
        assert calls == [1]
    hook.remove()
    with Store(tmp_path) as store:
        other = cached_states(store, frozen_text(seed=5), texts)
    assert not torch.allclose(other.context, states.context)


def test_hashes_see_every_weight_and_the_scale() -> None:
    one, other = nn.Linear(3, 2), nn.Linear(3, 2)
    other.load_state_dict(one.state_dict())
    assert weights_hash(one) == weights_hash(other)
    with torch.no_grad():
        other.weight[1, 2] += 1e-6
    assert weights_hash(one) != weights_hash(other)
    assert weights_hash(one) != weights_hash(one.bfloat16())
    assert codec_hash(codec(scale=0.5)) != codec_hash(codec(scale=0.25))
    assert text_hash(frozen_text(0)) == text_hash(frozen_text(0)) != text_hash(frozen_text(1))
