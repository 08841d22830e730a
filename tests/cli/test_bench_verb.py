"""`safelight bench`: what it refuses, what it shows, and a whole run on a tiny model."""

import json
import sys
from pathlib import Path

import pytest
from rich.console import Console

from cli_tiny import Cli
from safelight.benchmarks import machine
from safelight.cli.bench_table import figure, heading, tables
from safelight.cli.benching import names, size_of
from safelight.errors import RequestError

SMALL = ("--geometry", "tiny", "--size", "64x64", "--rounds", "2", "--threads", "1")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--work", "sleep"), "there is no work 'sleep'; choose from step, decode"),
        (("--work", ","), "no work was asked for"),
        (("--geometry", "sd9"), "there is no geometry 'sd9'; choose from sd15, sdxl"),
        (("--precision", "fp64"), "there is no precision 'fp64'; choose from fp32"),
        (("--engine", "warp"), "there is no engine 'warp'; choose from eager"),
        (("--against", "nobody"), "there is no peer 'nobody'; choose from diffusers"),
        (("--size", "64"), "WIDTHxHEIGHT"),
        (("--geometry", "tiny", "--size", "65x64"), "width must be a multiple of 8"),
        (("--rounds", "0"), "rounds must be at least 1; got 0"),
        (("--threads", "0"), "threads must be at least 1; got 0"),
        (("--geometry", "tiny", "--work", "start", "--preset", "warp"), "there is no preset warp"),
        (("--geometry", "tiny", "--work", "start", "--preset", ","), "no preset was asked for"),
        (
            ("--geometry", "tiny", "--work", "start", "--preset", "none,fast", "--steps", "8"),
            "give --steps above 10",
        ),
        (("--geometry", "tiny", "--preset", "fast"), "preset fast does nothing for step"),
        (("--budget", "nan"), "budget must be seconds above 0"),
        (("--cfg", "0.5"), "cfg must be 1 (no guidance) or more; got 0.5"),
        (("--device", "abacus"), "device must be cpu, cuda or cuda:1"),
        (("-m", "nowhere.safetensors"), "nowhere.safetensors"),
        ((), "carries no model"),
        (
            ("--geometry", "tiny", "--against", "sdcpp", "--peer-python", "/nowhere/python"),
            "does not run as a Python interpreter",
        ),
        (
            ("--geometry", "tiny", "--work", "text", "--against", "diffusers-compiled"),
            "does none of text in fp32",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_timed_is_refused_before_anything_is_built(
    safelight: Cli, place: Path, words: tuple[str, ...], said: str
) -> None:
    ran = safelight("bench", *words)
    assert ran.code == 2 and said in ran.error()
    assert not list(place.iterdir())


def test_a_peer_that_is_not_installed_is_named_with_its_package(
    safelight: Cli, tmp_path: Path
) -> None:
    """An interpreter without any package: ours, told to look nowhere."""
    bare = tmp_path / "python"
    bare.write_text(f'#!/bin/sh\nexec {sys.executable} -I -S "$@"\n')
    bare.chmod(0o755)
    words = ("--geometry", "tiny", "--peer-python", bare, "--against")
    told = safelight("bench", *words, "diffusers").error()
    assert "diffusers is not installed" in told and "pip install torch diffusers" in told
    told = safelight("bench", *words, "sdcpp", "--work", "picture").error()
    assert "pip install stable-diffusion-cpp-python" in told and "--peer-python" in told


def test_too_little_memory_is_said_beforehand(
    safelight: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "available_memory", lambda: 10**8)
    ran = safelight("bench", *SMALL)
    assert ran.code == 2 and "0.1 GB are available" in ran.error() and "--force" in ran.err


def test_a_model_and_a_geometry_are_not_both_timed(safelight: Cli, model: Path) -> None:
    told = safelight("bench", "-m", model, "--geometry", "tiny").error()
    assert "leave one of them out" in told


def test_words_with_commas_are_read_once_each() -> None:
    assert names("step, decode,step") == ("step", "decode") and names("") == ()
    assert size_of("64X128") == (64, 128)
    with pytest.raises(RequestError, match="WIDTHxHEIGHT"):
        size_of("a x b")


# -- tables ----------------------------------------------------------------------------------------

LINES: list[dict[str, object]] = [
    {"kind": "machine", "processor": "A Chip", "threads": 2, "memory_gb": 8, "torch": "2.13",
     "safelight": "1"},
    {"kind": "asked", "size": [512, 512], "guidance": 7, "geometry": "sd15", "batch": 1},
    {"kind": "measured", "work": "step", "precision": "bf16", "contender": "safelight eager bf16",
     "library": "safelight", "unit": "s", "median": 5.0, "low": 4.9, "high": 5.5, "gflop_s": 320.4},
    {"kind": "measured", "work": "step", "precision": "bf16", "contender": "openvino bf16",
     "library": "openvino", "unit": "s", "median": 4.0, "low": 4, "high": 4.25, "gflop_s": 400,
     "apart": 0.0123},
    {"kind": "ratio", "work": "step", "precision": "bf16", "ours": "safelight eager bf16",
     "theirs": "openvino bf16", "median": 1.25, "low": 1.2, "high": 1.3},
    {"kind": "measured", "work": "memory", "precision": "bf16", "contender": "safelight eager bf16",
     "library": "safelight", "unit": "B", "median": 2.5e9, "low": 2.5e9, "high": 2.6e9},
    {"kind": "roofline", "contender": "safelight eager bf16", "step_ms": 5000, "gflop_s": 320,
     "peaks_gflop_s": {"matmul": 394, "convolution": 437},
     "operations": [
         {"kind": "attention", "share_of_time": 0.36, "gflop": 257, "gflop_s": 143,
          "share_of_peak": 0.36},
         {"kind": "outside kernels", "share_of_time": 0.01},
     ]},
]  # fmt: skip


def shown() -> str:
    screen = Console(width=200, record=True, force_terminal=False, quiet=False, file=sys.stderr)
    with screen.capture() as caught:
        screen.print(heading(LINES))
        for table in tables(LINES):
            screen.print(table)
    return caught.get()


def test_the_table_says_who_took_how_long_and_beside_whom() -> None:
    text = shown()
    rows = {line.split("  ")[0]: line for line in text.splitlines()}
    assert "A Chip, 2 threads, 8 GB" in text and "sd15, 512x512, batch 1, guidance" in text
    ours, theirs = (line for line in text.splitlines() if line.startswith("step "))
    assert "5.00 s" in ours and "4.90 s to 5.50 s" in ours and "320" in ours and "1.25" not in ours
    assert "1.250 (1.200 to 1.300)" in theirs and "1.2e-02" in theirs
    assert "2.50 GB" in rows["memory"]


def test_the_roofline_stands_beside_the_peaks() -> None:
    text = shown()
    assert "peaks: matmul 394, convolution 437" in text
    row = next(line for line in text.splitlines() if line.startswith("attention"))
    assert "36.0%" in row and "257.0" in row and "143" in row and row.rstrip().endswith("36%")
    assert "outside kernels" in text and "1.0%" in text


def test_figures_have_units() -> None:
    assert [figure(v, u) for v, u in ((0.0042, "s"), (2e9, "B"), (12.345, "%"))] == [
        "4 ms", "2.00 GB", "12.3 %",
    ]  # fmt: skip


# -- a whole run -----------------------------------------------------------------------------------


@pytest.mark.slow
def test_our_own_works_are_timed_and_every_line_is_written(safelight: Cli, place: Path) -> None:
    works = "step,decode,encode,text,picture,load,start,memory,overhead,roofline,train"
    ran = safelight(
        "bench",
        *SMALL,
        "--work",
        works,
        "--steps",
        "2",
        "--json",
        "runs/a.jsonl",
        "--folder",
        "kept",
    )
    assert ran.code == 0, ran.err
    lines = [json.loads(line) for line in (place / "runs/a.jsonl").read_text().splitlines()]
    assert [lines[0]["kind"], lines[1]["kind"]] == ["machine", "asked"]
    measured = {line["work"]: line for line in lines if line["kind"] == "measured"}
    assert set(measured) | {"roofline"} == set(works.split(","))
    for work, line in measured.items():
        assert line["count"] == 2 and line["median"] > 0, work
        assert work in ran.out
    (roofline,) = [line for line in lines if line["kind"] == "roofline"]
    shares = [row["share_of_time"] for row in roofline["operations"]]
    assert sum(shares) == pytest.approx(1, abs=0.02) and "GFLOP/s" in ran.out
    text = (place / "runs/a.jsonl").read_text()
    assert str(place) not in text and "kept" not in text
    assert (place / "kept/tiny-fp16/model_index.json").is_file()
    again = safelight("bench", *SMALL, "--folder", "kept", "--json", "-", "--budget", "0.001")
    assert [line["kind"] for line in again.json()][2:] == ["left_out"] and again.code == 0
