"""Ours with a preset beside others with the full recipe: less work, and said to be so."""

import sys
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import cast

import numpy as np
import pytest

from bench_fake import SCRIPT, task
from safelight.benchmarks.alike import EQUAL, decibels
from safelight.benchmarks.bench import Asked, bench
from safelight.benchmarks.compare import Comparison, compared
from safelight.benchmarks.contenders import (
    FULL,
    PRESET,
    Contender,
    Peer,
    check_presets,
    contenders,
)
from safelight.benchmarks.ours import command, request
from safelight.benchmarks.peers import serving
from safelight.benchmarks.players import Hall
from safelight.benchmarks.processes import Pool
from safelight.benchmarks.report import Line, lines_of
from safelight.benchmarks.task import WORKS
from safelight.cli.bench_table import caveats
from safelight.cli.wishes import Wishes, requests_of
from safelight.errors import RequestError
from safelight.families import SamplerHint
from safelight.tasks.presets import PRESETS

FAST = replace(task("start"), preset="fast", steps=20, width=64, height=64)


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_draws_what_generate_draws_with_it(name: str) -> None:
    asked = request(replace(FAST, preset=name)).with_known_names()
    (theirs,) = requests_of(Wishes("a cat", {}, preset=name))
    for setting in PRESETS[name]:  # type: ignore[index]
        assert getattr(asked, setting) == getattr(theirs, setting), setting
    assert (asked.cfg_scale, asked.seed, asked.width) == (7.0, 1, 64)
    exact = request(replace(FAST, preset=""))
    assert (exact.sampler, exact.schedule, exact.steps) == ("Euler", "Uniform", 20)


def test_the_command_names_the_preset_and_leaves_the_rest_to_it() -> None:
    words = command(replace(FAST, png="a.png"), "python")
    assert words[words.index("--preset") + 1] == "fast"
    assert not {"--sampler", "--schedule", "--steps"} & set(words)
    exact = command(replace(FAST, preset=""), "python")
    assert "--preset" not in exact and exact[exact.index("--steps") + 1] == "20"
    assert exact[exact.index("--sampler") + 1] == "Euler" and "Uniform" in exact


def test_whoever_has_a_preset_is_checked_at_the_recipe_of_all() -> None:
    assert FAST.short == replace(FAST, preset="").short and FAST.short.steps == serving.TRIAL


@pytest.mark.parametrize("work", WORKS)
def test_a_preset_is_for_ours_and_for_whole_pictures_alone(work: str) -> None:
    who = contenders(work, "fp32", ("eager",), ("diffusers",), presets=(FULL, "fast"))
    names = [one.name for one in who if one.peer is None]
    plain = ["safelight eager fp32"]
    assert names == ([*plain, "safelight eager fast fp32"] if work in PRESET else plain)
    assert all(one.preset == FULL for one in who if one.peer is not None)


def test_several_engines_draw_with_several_presets() -> None:
    who = contenders("start", "bf16", ("eager", "openvino-int8"), (), presets=(FULL, "fast"))
    assert [one.who for one in who] == [
        "safelight eager", "safelight eager fast",
        "safelight openvino-int8", "safelight openvino-int8 fast",
    ]  # fmt: skip


def test_a_preset_that_saves_nothing_is_refused() -> None:
    hint = SamplerHint()
    check_presets((FULL,), ("step",), 1, hint)
    check_presets(("fast",), ("step", "start"), 11, hint)
    for presets, works, steps, said in (
        (("warp",), ("start",), 20, "there is no preset warp; there is fast"),
        (("fast",), ("step", "memory"), 20, "preset fast does nothing for step, memory"),
        (("fast",), ("start",), 10, "draws in 10 steps, and all others would in 10"),
        ((), ("start",), 20, "no preset was asked for"),
    ):
        with pytest.raises(RequestError, match=said):
            check_presets(presets, works, steps, hint)
    with pytest.raises(RequestError, match="made for 4 of its own"):
        check_presets(("fast",), ("start",), 20, SamplerHint(steps=4, stated=True))


# -- timed -----------------------------------------------------------------------------------------


def drawing(folder: Path, name: str, *, shift: int, preset: str | None = None) -> Contender:
    """Its whole picture is 100 and `shift` more, of few steps 100 as everybody's is."""
    script = folder / f"{name}.pyw"
    beside = str(Path(serving.__file__).parent)
    text = SCRIPT.format(beside=beside, seconds=0.001, shift=0, broken=False)
    made = "np.arange(4.0) + 0"
    assert made in text
    picture = "np.tile(np.arange(12, dtype=np.uint8).reshape(1, 2, 2, 3), (1, 4, 4, 1)) * 8"
    text = text.replace(made, f"{picture} + np.uint8({shift})")
    text = text.replace("return Work(call,", f"return Work(call, trial=lambda: {picture},")
    script.write_text(text)
    peer = Peer(name, name, name, "eager", str(script), MappingProxyType({}), frozenset(WORKS))
    if preset is None:
        return Contender("eager", "fp32", peer)
    return Ours("eager", "fp32", preset=preset, script=str(script))


class Ours(Contender):
    """Ours, whose process is a fake."""

    def __init__(self, how: str, precision: str, *, preset: str, script: str) -> None:
        super().__init__(how, precision, preset=preset)
        object.__setattr__(self, "script", script)

    def command(self, python: str) -> list[str]:
        return [sys.executable, str(self.__dict__["script"])]


def run(folder: Path, *who: Contender) -> Comparison:
    with Pool() as pool:
        hall = Hall(sys.executable, folder, pool)
        return compared(list(who), lambda _: task("picture"), rounds=2, hall=hall)


def test_drift_is_told_beside_the_first_who_draws_all_steps(tmp_path: Path) -> None:
    found = run(
        tmp_path,
        drawing(tmp_path, "ours", shift=10, preset="fast"),
        drawing(tmp_path, "first", shift=0),
        drawing(tmp_path, "second", shift=0),
    )
    assert not found.failed
    ours, first, second = found.taken
    assert ours.drift is not None and ours.drift.beside == "first fp32"
    assert ours.drift.psnr == pytest.approx(20 * np.log10(255 / 10), abs=1e-3)
    assert first.drift is None and second.drift is not None and second.drift.psnr == EQUAL
    assert ours.apart is None and first.apart is not None and first.apart.typical == 0

    lines = list(lines_of(found, {}, {"steps": 20}))
    measured = {str(line["contender"]): line for line in lines if line["kind"] == "measured"}
    mine = measured["safelight eager fast fp32"]
    assert mine["same_work"] is False and mine["preset"] == "fast"
    assert mine["recipe"] == dict(PRESETS["fast"]) and mine["psnr_beside"] == "first fp32"
    assert all("same_work" not in measured[f"{name} fp32"] for name in ("first", "second"))
    ratios = [line for line in lines if line["kind"] == "ratio"]
    assert len(ratios) == 2
    assert all(r["same_work"] is False and r["presets"] == ["fast", FULL] for r in ratios)


def test_two_of_ours_with_one_preset_did_the_same_work(tmp_path: Path) -> None:
    one, other = (drawing(tmp_path, name, shift=0, preset="fast") for name in ("a", "b"))
    found = run(tmp_path, one, replace_how(other))
    (ratio,) = [line for line in lines_of(found, {}, {}) if line["kind"] == "ratio"]
    assert "same_work" not in ratio and all(taken.drift is None for taken in found.taken)


def replace_how(one: Contender) -> Contender:
    return Ours("openvino", one.precision, preset=one.preset, script=str(one.__dict__["script"]))


def test_without_a_preset_nobody_draws_once_more(tmp_path: Path) -> None:
    found = run(tmp_path, drawing(tmp_path, "a", shift=0), drawing(tmp_path, "b", shift=50))
    assert not found.failed and all(taken.drift is None for taken in found.taken)
    lines = list(lines_of(found, {}, {}))
    assert not any("psnr" in line or "same_work" in line for line in lines)


def test_the_farthest_picture_counts_and_equal_ones_have_a_number() -> None:
    pictures = np.zeros((2, 4, 4, 3), np.uint8)
    other = pictures.copy()
    assert decibels(pictures, other) == EQUAL
    other[1] += 51
    assert decibels(pictures, other) == pytest.approx(20 * np.log10(5), abs=1e-4)


def test_the_table_says_who_did_less() -> None:
    lines: list[Line] = [
        {"kind": "asked", "steps": 20},
        {"kind": "measured", "work": "start", "contender": "safelight eager fp32"},
        {
            "kind": "measured",
            "work": "start",
            "contender": "safelight eager fast fp32",
            "preset": "fast",
            "recipe": dict(PRESETS["fast"]),
        },
    ]
    (said,) = caveats(lines)
    assert said.startswith("start: safelight eager fast fp32 did not do the same work")
    assert "10 steps of UniPC" in said and "20 of Euler" in said


@pytest.mark.slow
def test_from_start_to_png_a_preset_draws_what_is_like_the_full_recipe(tmp_path: Path) -> None:
    asked = Asked(
        works=("start", "picture"),
        geometry="tiny",
        size=(64, 64),
        steps=11,
        presets=(FULL, "fast"),
        rounds=1,
        threads=1,
        folder=tmp_path,
        force=True,
    )
    lines = list(bench(asked))
    assert not [line for line in lines if line["kind"] == "failed"]
    for work in asked.works:
        full, fast = (ln for ln in lines if ln["kind"] == "measured" and ln["work"] == work)
        assert fast["preset"] == "fast" and "psnr" not in full, work
        assert 50 > cast("float", fast["psnr"]) > 15 and fast["apart"] == 0, work
        (ratio,) = (ln for ln in lines if ln["kind"] == "ratio" and ln["work"] == work)
        assert ratio["presets"] == ["fast", FULL] and ratio["same_work"] is False
