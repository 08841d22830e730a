"""Numbers that are none, too many, too large or of another kind, at the doors of all APIs."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from server_hostile import DRAWN, JOBS, TXT2IMG, WELL, Attack, Target, attacked, table

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory, models: Path) -> Iterator[Target]:
    with attacked(tmp_path_factory.mktemp("numbers"), models) as found:
        yield found


HUGE = 10**400  # no float holds it
NATIVE: dict[str, tuple[object, ...]] = {
    "width": (0, -64, 63, 4097, 2**31, HUGE, 64.5, "64px", [64], {"of": 64}, True),
    "height": (1e308, -1, "1e9"),
    "steps": (0, -1, 201, 2**63, HUGE, 2.5, "many", [2], True),
    "count": (0, -3, 101, 10**9, 1.5),
    "seed": (-2, 2**64, HUGE, 0.5, "a", [1]),
    "subseed": (-2, 2**65),
    "subseed_strength": (-0.1, 1.1, HUGE, "x"),
    "cfg_scale": (-1, 1e30, HUGE, "much", {}, []),
    "clip_skip": (0, -1, 99, 2**70),
    "sampler_options": ([], "eta", {"eta": "x"}, {"eta": HUGE}),
    "guidance": ([], {"rescale": -1}, {"rescale": HUGE}, "x"),
    "hires": ({"scale": 0}, {"scale": 1e9}, {"size": [0, 0]}, {"size": [10**9, 10**9]}, [1]),
    "resize_from": ([0, 0], [-1, 5], [1], [1, 2, 3], "64x64", [HUGE, HUGE]),
    "batch": (0, -1, 2**40),
    "best_of": (0, -1, 10**9),
}
A1111: dict[str, tuple[object, ...]] = {
    "width": (0, -64, 2**31, HUGE, 64.5, "64", [64], True),
    "steps": (0, -1, 100_000, HUGE, "20"),
    "n_iter": (0, -1, 10**9, HUGE),
    "batch_size": (0, -1, 10**9, HUGE),
    "seed": (2**64, HUGE, 1.5, "1"),
    "cfg_scale": (-1, HUGE, "7", 1e300),
    "subseed_strength": (2, HUGE),
    "seed_resize_from_w": (0.5, "x"),
    "eta": (HUGE, "x", [1]),
    "s_noise": (HUGE, "x", {}),
    "denoising_strength": ("x", [0.5]),
    "override_settings": ([1], "x", 5, {"CLIP_stop_at_last_layers": HUGE}),
}
OPENAI: dict[str, tuple[object, ...]] = {
    "n": (0, -1, 11, 10**9, HUGE, 1.5, "x", [1], True),
    "size": ("0x0", "1x1", "999999x999999", "64", "64x", "x64", "-64x64", 64, [64, 64], "٤x٤"),
    "partial_images": (-1, 4, "x", 1),
    "output_compression": (-1, 101, HUGE, "x"),
    "stream": ("yes", 2, [1], {}),
    "output_format": ("gif", "../png", 1, ["png"]),
    "steps": (0, HUGE, "many"),
    "seed": (-2, HUGE, {}),
}
LITERALS = ("NaN", "Infinity", "-Infinity", "1e999", "-1e999", "9" * 5000)
BEYOND: tuple[dict[str, object], ...] = (  # each number may be, their product may not
    {"width": 2048, "height": 2048, "steps": 200, "count": 100},
    {"width": 4096, "height": 4096, "steps": 1},
    {"width": 1024, "height": 1024, "steps": 20, "hires": {"scale": 8, "steps": 1}},
)


def fields(door: str, path: str, values: dict[str, tuple[object, ...]]) -> list[Attack]:
    return [
        Attack(
            f"{door}-{name}-{number}",
            path,
            {"prompt": "a", "steps": 1, "sampler_index": "Euler a"} | {name: value},
        )
        for name, given in values.items()
        for number, value in enumerate(given)
    ]


def written(path: str, name: str, number: int, literal: str) -> Attack:
    body = f'{{"prompt": "a", "{name}": {literal}}}'.encode()
    return Attack(f"{path}-{name}-{number}", path, body)


@table(
    *fields("native", JOBS, NATIVE),
    *fields("a1111", TXT2IMG, {k: v for k, v in A1111.items() if k != "denoising_strength"}),
    *fields("openai", DRAWN, OPENAI),
)
def test_a_number_that_cannot_be_is_refused(target: Target, attack: Attack) -> None:
    target.refuses(attack)


@table(
    *(
        written(path, name, number, literal)
        for path, name in ((JOBS, "cfg_scale"), (TXT2IMG, "seed"), (DRAWN, "n"), (JOBS, "unknown"))
        for number, literal in enumerate(LITERALS)
    )
)
def test_numbers_that_json_does_not_have_are_refused(target: Target, attack: Attack) -> None:
    target.refuses(attack)


@table(*(Attack(str(number), JOBS, {**WELL, **more}) for number, more in enumerate(BEYOND)))
def test_the_work_of_all_numbers_together_is_bounded(target: Target, attack: Attack) -> None:
    assert "up to" in target.refuses(attack).text
