"""Buckets: every picture in the nearest, none dropped, one size a batch, the same for all ranks."""

from collections import Counter
from math import log

import pytest

from safelight.errors import RequestError
from safelight.training.buckets import BucketOrder, Rule, covering, place, warnings
from safelight.training.draw import Draw
from safelight.training.order import Order

A, B, C = (32, 32), (24, 40), (40, 24)


@pytest.mark.parametrize("rule", [Rule(128), Rule(512, 64, 3.0), Rule(64, 16, 1.5), Rule(8, 8, 1)])
def test_buckets_have_whole_multiples_within_area_and_aspect(rule: Rule) -> None:
    buckets = rule.buckets()
    assert (rule.size, rule.size) in buckets and len(set(buckets)) == len(buckets)
    for width, height in buckets:
        assert width % rule.multiple == height % rule.multiple == 0
        assert width * height <= rule.size**2
        assert max(width, height) / min(width, height) <= rule.max_aspect
        assert (height, width) in buckets


def test_buckets_of_512_by_64_are_the_known_ones() -> None:
    wide = {(512, 512), (576, 448), (640, 384), (768, 320)}
    assert {b for b in Rule(512, 64, 2.5).buckets() if b[0] >= b[1]} == wide


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ((100, 8), "multiple of 8; got 100. The nearest are 96 and 104"),
        ((4, 8), "multiple of 8; got 4. The nearest are 8 and 16"),
        ((64, 0), "multiple must be 1 or more"),
        ((64, 8, 0.5), "aspect must be from 1 to 16; got 0.5"),
        ((64, 8, float("nan")), "aspect must be"),
    ],
)
def test_a_rule_that_allows_nothing_is_refused(settings: tuple[int, int], said: str) -> None:
    with pytest.raises(RequestError, match=said):
        Rule(*settings)


@pytest.mark.parametrize("width", range(20, 400, 37))
@pytest.mark.parametrize("height", range(20, 400, 41))
def test_a_picture_covers_the_bucket_nearest_to_its_shape(width: int, height: int) -> None:
    rule = Rule(128, 8, 2.0)
    placed = place((width, height), rule)

    def far(bucket: tuple[int, int]) -> float:
        return abs(log(width / height) - log(bucket[0] / bucket[1]))

    assert far(placed.bucket) == pytest.approx(min(map(far, rule.buckets())))
    assert all(placed.resized[i] >= placed.bucket[i] for i in (0, 1))
    assert any(placed.resized[i] == placed.bucket[i] for i in (0, 1)), "and not larger than needed"
    scale = placed.resized[0] / width
    assert placed.resized[1] == pytest.approx(height * scale, abs=1 + scale)


def test_a_small_picture_keeps_its_size_if_none_is_enlarged() -> None:
    rule = Rule(128, 8, 2.0, upscale=False)
    assert place((50, 61), rule).bucket == (48, 56) and place((50, 61), rule).resized == (50, 61)
    assert place((20, 300), rule).bucket == (16, 32), "within the largest aspect"
    assert place((300, 200), rule) == place((300, 200), Rule(128, 8, 2.0))
    assert place((5, 9), rule).upscaled > 1, "below one multiple there is no other way"


def test_the_crop_reaches_every_place_and_never_beyond() -> None:
    placed = covering((100, 50), (40, 40))
    assert placed.resized == (80, 40)
    assert placed.corner() == (20, 0)
    assert placed.corner(0.0, 0.0) == (0, 0) and placed.corner(0.9999999, 0.9999999) == (40, 0)
    assert {placed.corner(u / 400, 0.3)[0] for u in range(400)} == set(range(41))


def test_sizes_are_in_the_order_of_sdxl() -> None:
    placed = covering((100, 50), (40, 40))
    # original height, width; crop top, left; target height, width
    assert placed.sizes((7, 0)) == (50, 100, 0, 7, 40, 40)


def test_enlarged_and_extreme_pictures_are_named() -> None:
    rule = Rule(64, 8, 2.0)
    sizes = [(64, 64), (32, 32), (900, 100)]
    found = warnings(["fine", "tiny", "long"], [place(s, rule) for s in sizes], rule)
    assert found == (
        "1 of 3 pictures are enlarged: tiny",
        "1 of 3 pictures are longer than 2 to 1 and lose their ends: long",
    )
    assert warnings(["fine"], [place((64, 64), rule)], rule) == ()


@pytest.mark.parametrize("batch", [1, 3, 4, 16])
@pytest.mark.parametrize("counts", [(10, 3, 1), (1,), (5, 5, 5), (2, 17, 4)])
def test_after_n_epochs_every_example_was_seen_n_times_or_a_little_early(
    counts: tuple[int, ...], batch: int
) -> None:
    buckets = [size for size, n in zip((A, B, C), counts, strict=False) for _ in range(n)]
    order = BucketOrder(buckets, batch, seed=7)
    seen: Counter[int] = Counter()
    step = 0
    for epoch in range(4):
        if order.steps(epoch):  # else the epochs before have used it up in filling their batches
            assert order.epoch(step) == epoch
        for _ in range(order.steps(epoch)):
            indices = order.indices(step)
            assert len(indices) == batch and len({buckets[i] for i in indices}) == 1
            assert {order.bucket(step)} == {buckets[i] for i in indices}
            seen.update(indices)
            step += 1
        early = {i: seen[i] - (epoch + 1) for i in range(len(buckets))}
        assert min(early.values()) >= 0, "none is dropped"
        for size in set(buckets):
            members = [i for i, b in enumerate(buckets) if b == size]
            ahead = [early[i] for i in members]
            assert sum(ahead) < batch and max(ahead) - min(ahead) <= 1, "none more than its share"
        assert order.filled(epoch + 1) == sum(early.values())


def test_full_buckets_are_seen_exactly_once_an_epoch() -> None:
    order = BucketOrder([A] * 8 + [B] * 4, 4, seed=0)
    assert [order.steps(e) for e in range(3)] == [3, 3, 3]
    for epoch in range(3):
        seen = [i for step in range(3) for i in order.indices(3 * epoch + step)]
        assert sorted(seen) == list(range(12))


def test_a_step_depends_on_seed_and_number_alone() -> None:
    buckets = [A] * 9 + [B] * 5
    straight = [BucketOrder(buckets, 4, seed=3).indices(s) for s in range(40)]
    order = BucketOrder(buckets, 4, seed=3)
    assert [order.indices(s) for s in reversed(range(40))] == straight[::-1]
    assert [BucketOrder(buckets, 4, seed=3).indices(s) for s in (31, 2)] == [
        straight[31],
        straight[2],
    ]
    assert [BucketOrder(buckets, 4, seed=4).indices(s) for s in range(40)] != straight
    epochs = [sorted(map(tuple, straight[i : i + 4])) for i in (0, 4)]
    assert epochs[0] != epochs[1], "shuffled anew"


def test_all_ranks_have_the_same_size_at_each_step_and_share_its_examples() -> None:
    buckets = [A] * 9 + [B] * 5 + [C]
    order: Order = BucketOrder(buckets, 6, seed=1)
    for step in range(12):
        ranks = [order.indices(step)[Draw(1, step, 6, 2 * r, 2).rows] for r in range(3)]
        assert len({buckets[i] for rows in ranks for i in rows}) == 1
        assert [i for rows in ranks for i in rows] == list(order.indices(step))


def test_weights_say_how_often_an_example_stands_in_the_rounds() -> None:
    weights = [1.0, 2.0, 0.5, 0.0, 0.25, 1.5]
    order = BucketOrder([A] * 3 + [B] * 3, 2, seed=5, weights=weights)
    steps = sum(order.steps(e) for e in range(40))
    seen = Counter(i for step in range(steps) for i in order.indices(step))
    for index, weight in enumerate(weights):
        assert abs(seen[index] - 40 * weight) <= 2, index
    assert BucketOrder([A] * 4, 2, 0, [1.0] * 4).indices(5) == BucketOrder([A] * 4, 2, 0).indices(5)


def test_buckets_smaller_than_a_batch_are_named_with_their_pictures() -> None:
    order = BucketOrder([A] * 4 + [B, C, B], 4, seed=0)
    b, c = order.notes([f"p{i}" for i in range(7)])
    assert "24x40 has fewer pictures (2) than a batch (4)" in b and b.endswith("p4, p6")
    assert "40x24 has fewer pictures (1)" in c and c.endswith("p5")
    assert BucketOrder([A] * 4, 4, seed=0).notes(["p"] * 4) == ()


def test_nothing_to_train_on_is_told() -> None:
    with pytest.raises(RequestError, match="no pictures"):
        BucketOrder([], 4, 0)
    with pytest.raises(RequestError, match="batch size must be 1 or more; got 0"):
        BucketOrder([A], 0, 0)
    with pytest.raises(RequestError, match="every example has weight 0"):
        BucketOrder([A], 1, 0, [0.0])
