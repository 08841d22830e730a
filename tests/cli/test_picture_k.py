"""Picture k of a run is the picture made alone with seed + k, bit for bit, in fp32 on the CPU."""

from pathlib import Path

import numpy as np
import pytest

from cli_tiny import Cli, pixels

SIZE = ("--size", "64x64", "--steps", "3")
# One of every kind: deterministic, ancestral, SDE with a Brownian path, restarting, adaptive.
SAMPLERS = (
    *("DPM++ 2M", "Euler a", "DPM++ SDE", "DPM++ 3M SDE", "Restart", "UniPC"),
    *(
        pytest.param(name, marks=pytest.mark.slow)
        for name in ("DPM++ 2M SDE", "DPM2 a", "DDPM", "LCM", "PLMS", "DPM adaptive")
    ),
)


def hashes(safelight: Cli, *args: object) -> list[object]:
    ran = safelight("generate", "a cat", *args, *SIZE, "--json")
    assert ran.code == 0, ran.err
    return [row["pixels_sha256"] for row in ran.json()]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_picture_k_is_the_one_made_alone_with_seed_plus_k(
    safelight: Cli, model: Path, sampler: str
) -> None:
    args = ("-m", model, "--sampler", sampler)
    together = hashes(safelight, *args, "--seed", "40", "--count", "2", "--batch", "2")
    assert len(set(together)) == 2
    assert hashes(safelight, *args, "--seed", "41") == together[1:]


@pytest.mark.parametrize("sampler", ["DPM++ 2M", "Euler a", "DPM++ SDE"])
def test_variations_keep_the_seed_and_count_the_subseed(
    safelight: Cli, model: Path, sampler: str
) -> None:
    args = ("-m", model, "--sampler", sampler, "--seed", "40", "--subseed-strength", "0.3")
    together = hashes(safelight, *args, "--subseed", "7", "--count", "2", "--batch", "2")
    assert len(set(together)) == 2
    assert hashes(safelight, *args, "--subseed", "8") == together[1:]


@pytest.mark.parametrize("options", [("--noise", "nv"), ("--ensd", "31337"), ("--cfg", "1")])
def test_the_law_holds_for_other_noise_and_without_guidance(
    safelight: Cli, model: Path, options: tuple[str, ...]
) -> None:
    args = ("-m", model, "--sampler", "Euler a", *options)
    first, second = hashes(safelight, *args, "--seed", "40", "--count", "2", "--batch", "2")
    assert hashes(safelight, *args, "--seed", "41") == [second] != [first]


@pytest.mark.parametrize("args", [("--dtype", "bf16"), ("--no-exact",)])
def test_elsewhere_a_batch_is_within_one_level(
    safelight: Cli, model: Path, args: tuple[str, ...]
) -> None:
    def run(out: str, *more: object) -> None:
        ran = safelight(
            *("generate", "a cat", "-m", model, *SIZE, "--cfg", "2", *args, *more),
            *("--no-metadata", "--out", out),
        )
        assert ran.code == 0, ran.err

    run("both", "--seed", "40", "--count", "2", "--batch", "2")
    run("one", "--seed", "41")
    apart = np.abs(pixels("both/picture-2.png").astype(int) - pixels("one/picture.png"))
    assert apart.max() <= 1


def test_exact_may_be_asked_for_in_any_type(safelight: Cli, model: Path) -> None:
    args = ("-m", model, "--dtype", "bf16", "--exact")
    together = hashes(safelight, *args, "--seed", "40", "--count", "2", "--batch", "2")
    assert hashes(safelight, *args, "--seed", "41") == together[1:]


def test_a_picture_drawn_in_a_batch_says_so_in_its_recipe(safelight: Cli, model: Path) -> None:
    ran = safelight(
        *("generate", "a cat", "-m", model, *SIZE, "--seed", "1", "--count", "3", "--batch", "2"),
        *("--no-exact", "--json"),
    )
    batches = []
    for row in ran.json():
        seen = safelight("inspect", row["path"], "--json").json()[0]
        batches.append(seen["recipe"]["request"]["batch"])  # type: ignore[index]
    assert batches == [2, 2, 1]
