"""Processes that take turns: checked against each other, timed, and ended whatever happens."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bench_fake import contender, task
from safelight.benchmarks.alike import Apart
from safelight.benchmarks.compare import Comparison, Taken, compared, judged
from safelight.benchmarks.contenders import PEERS, Contender, absent
from safelight.benchmarks.players import Hall, Player, Turn
from safelight.benchmarks.processes import ContenderError, Pool, Process, finished, last_line
from safelight.benchmarks.report import KINDS, lines_of, told
from safelight.engines.disturbance import Disturbance


def run(tmp_path: Path, *who: Contender, work: str = "step", rounds: int = 3) -> Comparison:
    with Pool() as pool:
        hall = Hall(sys.executable, tmp_path, pool)
        return compared(list(who), lambda _: task(work), rounds=rounds, hall=hall)


def test_equal_outputs_are_timed_in_turns(tmp_path: Path) -> None:
    quick, slow = contender(tmp_path, "quick"), contender(tmp_path, "slow", seconds=0.02)
    found = run(tmp_path, quick, slow)
    assert not found.failed and [len(one.turns) for one in found.taken] == [3, 3]
    first, second = found.taken
    assert second.spread.median >= 0.02 > first.spread.median
    assert first.apart is None and second.apart is not None and second.apart.typical == 0
    assert second.player.calls < first.player.calls
    assert second.player.facts["fake"] == "1.0" and "load_seconds" not in second.player.facts


def test_whoever_does_other_work_is_not_timed(tmp_path: Path) -> None:
    right, wrong = contender(tmp_path, "right"), contender(tmp_path, "wrong", shift=0.1)
    found = run(tmp_path, right, wrong)
    assert [one.contender.name for one in found.taken] == ["right fp32"]
    assert "other work" in found.failed["wrong fp32"] and "right fp32" in found.failed["wrong fp32"]


def test_one_who_fails_is_named_and_the_others_go_on(tmp_path: Path) -> None:
    found = run(tmp_path, contender(tmp_path, "sound"), contender(tmp_path, "ill", broken=True))
    assert "ValueError: it is broken" in found.failed["ill fp32"]
    assert [len(one.turns) for one in found.taken] == [3]
    alone = run(tmp_path, contender(tmp_path, "ill", broken=True))
    assert not alone.taken and list(alone.failed) == ["ill fp32"]


def test_when_time_is_up_two_rounds_are_taken_all_the_same(tmp_path: Path) -> None:
    with Pool() as pool:
        hall = Hall(sys.executable, tmp_path, pool)
        who = [contender(tmp_path, "one")]
        found = compared(who, lambda _: task(), rounds=9, hall=hall, over=lambda: True)
    assert len(found.taken[0].turns) == 2


def test_works_of_fresh_processes(tmp_path: Path) -> None:
    one = contender(tmp_path, "one")
    loads = run(tmp_path, one, work="load", rounds=2).taken[0]
    assert loads.values == [0.5, 0.5] and loads.turns[0].detail["import_seconds"] == 0.1
    memory = run(tmp_path, one, work="memory", rounds=2).taken[0]
    assert all(5e6 < value < 5e9 for value in memory.values)


def test_shares_are_read_from_the_profile(tmp_path: Path) -> None:
    (taken,) = run(tmp_path, contender(tmp_path, "one"), work="overhead", rounds=2).taken
    assert taken.values == [25.0, 25.0]


def test_a_process_is_kept_from_work_to_work(tmp_path: Path) -> None:
    one = contender(tmp_path, "one")
    with Pool() as pool:
        ids = []
        for _ in range(2):
            with pool.process("one", "one", one.command(sys.executable), 1) as process:
                ids.append(process._process.pid)
        with (
            pytest.raises(KeyError),
            pool.process("one", "one", one.command(sys.executable), 1) as process,
        ):
            raise KeyError
        assert process._process.poll() is not None
    assert ids[0] == ids[1] == process._process.pid


def test_a_process_that_dies_tells_its_last_words() -> None:
    command = [sys.executable, "-c", "raise SystemExit('no such library')"]
    with (
        pytest.raises(ContenderError, match="ended with code 1: no such library"),
        Process("someone", command, 1) as process,
    ):
        process.ask("prepare", task={})
    with pytest.raises(ContenderError, match="could not be started"):
        Process("someone", ["/nowhere/python"], 1)


def test_a_command_must_make_its_picture(tmp_path: Path) -> None:
    made = tmp_path / "a.png"
    made.write_bytes(b"an older one")
    with pytest.raises(ContenderError, match="ended with code 0: it said nothing"):
        finished("someone", [sys.executable, "-c", ""], 1, made=made)
    assert last_line("one\n  \ntwo\n\n") == "two"


# -- what is made of it ----------------------------------------------------------------------------


def taken(name: str, *values: float, away: Apart | None = None) -> Taken:
    who = Contender("eager", "fp32", None if name == "ours" else PEERS[name])
    turns = [Turn(value, value, Disturbance(0.0, 0.0)) for value in values]
    player = Player(who, lambda: turns[0], lambda: None, {"torch": "2.13"})
    return Taken(player, turns, away)


def comparison(*who: Taken) -> Comparison:
    return Comparison("step", "fp32", who, judged(who, [1.0]), {"sdcpp fp32": "it is ill"})


def test_ratios_are_ours_over_theirs_round_by_round() -> None:
    found = comparison(taken("ours", 1, 2, 30), taken("diffusers", 2, 4, 60))
    ((ours, theirs, ratio),) = found.pairs()
    assert (ours.contender.name, theirs.contender.name) == (
        "safelight eager fp32",
        "diffusers fp32",
    )
    assert ratio.median == ratio.most == 0.5


def test_every_line_is_of_a_known_kind_and_stands_alone() -> None:
    found = comparison(
        taken("ours", 1, 2, 3), taken("diffusers", 2, 2, 2, away=Apart(1e-6, 1e-5, 1e-3))
    )
    common: dict[str, object] = {"geometry": "tiny", "size": [64, 64]}
    lines = list(lines_of(found, {"linear": 4_000_000_000}, common))
    kinds = [line["kind"] for line in lines]
    assert kinds == ["measured", "measured", "ratio", "failed", "noise"] and set(kinds) <= set(
        KINDS
    )
    assert all(line["geometry"] == "tiny" and line["work"] == "step" for line in lines)
    ours, theirs = lines[:2]
    assert (ours["median"], ours["rounds"], ours["gflop_s"]) == (2.0, [1, 2, 3], 2.0)
    assert "apart" not in ours and theirs["apart_allowed"] == 1e-3 and theirs["torch"] == "2.13"
    assert lines[2]["ours"] == "safelight eager fp32" and lines[2]["rounds"] == [0.5, 1.0, 1.5]
    assert lines[4]["noisy"] is True  # half of ours lie 50 % apart


def test_reasons_name_no_folder() -> None:
    said = told("OSError: no file /home/me/unet/model.bin (see https://a.b/c, 1/2)")
    assert said == "OSError: no file model.bin (see https://a.b/c, 1/2)"
    assert told("x '/tmp/bench/y.xml'") == "x 'y.xml'" and told("ours / theirs") == "ours / theirs"


def test_who_was_asked_for_and_is_absent_is_named() -> None:
    assert list(absent("step", "bf16", ["eager"], ["diffusers", "openvino"])) == []
    assert list(absent("text", "bf16", ["eager"], ["openvino"])) == [
        "openvino is not timed at text"
    ]
    assert list(absent("step", "fp16", [], ["openvino"])) == ["openvino is not timed in fp16"]
    assert list(absent("roofline", "fp32", ["warp"], [])) == [
        "engine warp is not timed at roofline, for which PyTorch must run the network"
    ]


def test_stable_diffusion_cpp_is_asked_for_the_same_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The script beside a stand-in for the library, which takes what 0.4.7 takes."""
    (tmp_path / "stable_diffusion_cpp.py").write_text(STAND_IN)
    about = tmp_path / "stable_diffusion_cpp_python-0.4.7.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: x\nVersion: 0.4.7\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    peer = PEERS["sdcpp"]
    asked = replace(task("picture"), steps=7, single="a.safetensors", batch=2, width=16)
    command = [sys.executable, str(peer.path)]
    with Process("sdcpp", command, 1) as process:
        facts = process.ask("prepare", task=asked.line())["facts"]
        assert facts["stable-diffusion.cpp"] == "0.4.7"
        process.ask("output", path=str(tmp_path / "short.npy"))
        assert process.ask("run", calls=1)["seconds"] >= 0
    assert np.load(tmp_path / "short.npy").shape == (2, 8, 16, 3)
    calls = [json.loads(line) for line in (tmp_path / "calls").read_text().splitlines()]
    made, short, long = calls
    assert made == {
        "model_path": "a.safetensors", "n_threads": 1, "wtype": "f32", "rng_type": "cuda",
        "vae_decode_only": True, "verbose": False,
    }  # fmt: skip
    assert (short["sample_steps"], long["sample_steps"]) == (2, 7)
    assert long["cfg_scale"] == 7.0 and long["sample_method"] == "euler" and long["seed"] == 1
    told_start = replace(asked, work="start", png=str(tmp_path / "a.png"))
    finished(
        "sdcpp", [*command, "start", json.dumps(told_start.line())], 1, made=tmp_path / "a.png"
    )


STAND_IN = """
import json
from pathlib import Path
from PIL import Image

def note(told):
    with (Path(__file__).parent / "calls").open("a") as file:
        file.write(json.dumps(told) + "\\n")

class StableDiffusion:
    def __init__(self, **told):
        note(told)

    def generate_image(self, prompt, negative_prompt="", **told):
        note(told)
        return [Image.new("RGB", (told["width"], told["height"]))] * told["batch_count"]
"""


def test_an_array_goes_through_a_process_unchanged(tmp_path: Path) -> None:
    one = contender(tmp_path, "one", shift=0.5)
    with Process("one", one.command(sys.executable), 1) as process:
        process.ask("prepare", task=task().line())
        process.ask("output", path=str(tmp_path / "made.npy"))
        assert process.ask("run", calls=2)["seconds"] >= 0
        with pytest.raises(ContenderError, match="KeyError"):
            process.ask("dance")
        process.ask("rest")
        with pytest.raises(ContenderError, match="nothing was prepared"):
            process.ask("run", calls=1)
    assert np.array_equal(np.load(tmp_path / "made.npy"), [0.5, 1.5, 2.5, 3.5])
