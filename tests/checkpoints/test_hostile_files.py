"""Hostile files: each ends in one error that names it; nothing runs, grows or hangs."""

import io
import json
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import NamedTuple

import pytest

import hostile_files

MIB = 2**20


class Report(NamedTuple):
    """What happened to one hostile file in `hostile_runner`."""

    label: str
    kind: str
    message: str
    seconds: float
    grown: int
    marker: bool


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Report]:
    folder = tmp_path_factory.mktemp("hostile")
    runner = Path(__file__).parent.parent / "hostile_runner.py"
    done = subprocess.run(
        [sys.executable, "-W", "error", str(runner), str(folder)],
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    found = [Report(**json.loads(line)) for line in done.stdout.splitlines()]
    return {report.label: report for report in found}


LABELS = hostile_files.labels()


@pytest.mark.parametrize(("group", "label"), LABELS, ids=[f"{g}-{n!a}" for g, n in LABELS])
def test_a_hostile_file_is_refused_by_name(
    group: str, label: str, reports: dict[str, Report]
) -> None:
    report = reports[label]
    expected = {"UnsafeFileError"} if group == "code" else {"FileError"}
    assert report.kind in expected, report
    assert label.encode("unicode_escape").decode() in report.message
    assert report.message.isprintable(), "control characters must be escaped"
    assert len(report.message) < 1000
    assert not report.marker, "code in the file ran"
    assert report.seconds < 20
    assert report.grown < 700 * MIB


def test_the_message_names_the_refused_code(reports: dict[str, Report]) -> None:
    named = {"os-system": "os.system", "stack-global-dotted": "os.path.os.system"}
    named |= {"torch-load": "torch.serialization.load", "instance": "os.system"}
    for label, code in named.items():
        assert f"asks to run {code}," in reports[label].message


def test_a_renamed_pickle_is_said_to_be_one(reports: dict[str, Report]) -> None:
    for label in hostile_files.HOSTILE["renamed"]:
        assert "pickle renamed to .safetensors" in reports[label].message


def test_the_generator_writes_code_that_would_run(tmp_path: Path) -> None:
    """Python's own reader runs the payload, so the tests above can fail."""
    marker = tmp_path / hostile_files.MARKER
    for label in ("os-system", "posix-system", "exec", "eval", "stack-global"):
        path = hostile_files.write_hostile(tmp_path, "code", label)
        with zipfile.ZipFile(path) as z:
            data = z.read("archive/data.pkl")

        class Reader(pickle.Unpickler):
            def persistent_load(self, identity: object) -> object:
                return identity

            def find_class(self, module: str, name: str) -> object:
                if module.startswith("torch"):
                    return lambda *_: None
                return super().find_class(module, name)

        Reader(io.BytesIO(data)).load()
        assert marker.exists(), label
        marker.unlink()
