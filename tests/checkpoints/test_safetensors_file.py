"""Safetensors: what the reference reader reads; everything else is refused."""

import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from safelight.checkpoints.files import TensorInfo, open_weights
from safelight.errors import FileError

DTYPES = (
    torch.bool,
    torch.uint8,
    torch.int8,
    torch.int16,
    torch.uint16,
    torch.int32,
    torch.uint32,
    torch.int64,
    torch.uint64,
    torch.float8_e4m3fn,
    torch.float8_e5m2,
    torch.float16,
    torch.bfloat16,
    torch.float32,
    torch.float64,
    torch.complex64,
)


def some(dtype: torch.dtype, *shape: int) -> torch.Tensor:
    return torch.randint(0, 100, shape).to(dtype)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    tensors = {f"t.{dtype}": some(dtype, 3, 5) for dtype in DTYPES}
    tensors |= {"scalar": torch.tensor(2.5), "empty": torch.zeros(0, 4), "ünï": torch.ones(2)}
    safetensors.torch.save_file(tensors, path, {"format": "pt", "note": "line\nbreak"})
    return path


def test_tensors_equal_those_of_the_reference(path: Path) -> None:
    expected = safetensors.torch.load_file(path)
    with open_weights(path) as weights:
        assert weights.container == "safetensors"
        assert weights.metadata == {"format": "pt", "note": "line\nbreak"}
        assert set(weights.header) == set(expected)
        for name, tensor in expected.items():
            assert weights.header[name] == TensorInfo(tuple(tensor.shape), tensor.dtype)
            assert weights.header[name].nbytes == tensor.nbytes
            for read in (weights.read(name), weights.read(name, copy=True)):
                assert read.dtype == tensor.dtype
                raw = [t.reshape(-1).view(torch.uint8).tolist() for t in (read, tensor)]
                assert raw[0] == raw[1]


@pytest.mark.parametrize("wanted", [torch.float32, torch.float16, torch.bfloat16])
def test_a_type_asked_for_equals_converting_afterwards(
    path: Path, wanted: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("safelight.checkpoints.regular_file.BUFFER", 7)  # many small pieces
    with open_weights(path) as weights:
        for name in ("t.torch.float64", "t.torch.bfloat16", "t.torch.int16", "scalar", "empty"):
            expected = weights.read(name).to(wanted)
            read = weights.read(name, dtype=wanted)
            assert read.dtype == wanted
            assert torch.equal(read, expected)


@pytest.mark.parametrize(
    ("stored", "wanted"), [(torch.float16, torch.bfloat16), (torch.bfloat16, torch.float16)]
)
def test_every_number_of_a_narrow_type_is_converted_as_pytorch_does(
    tmp_path: Path, stored: torch.dtype, wanted: torch.dtype
) -> None:
    patterns = torch.arange(-(2**15), 2**15).to(torch.int16).view(stored)
    every = patterns.repeat(5)[:-1].contiguous()  # more than is read at once, and no whole piece
    path = tmp_path / "every.safetensors"
    safetensors.torch.save_file({"every": every}, path)
    with open_weights(path) as weights:
        read = weights.read("every", dtype=wanted)
        with torch.inference_mode():
            assert weights.read("every", dtype=wanted).is_inference()
    expected = every.to(wanted)
    assert torch.equal(read.isnan(), expected.isnan())
    assert torch.equal(read.nan_to_num(nan=0.0), expected.nan_to_num(nan=0.0))


def test_a_tensor_outlives_the_file(path: Path) -> None:
    with open_weights(path) as weights:
        kept = weights.read("t.torch.float32")
        copy = kept.clone()
    path.unlink()
    assert torch.equal(kept, copy)
    with pytest.raises(FileError, match="closed"):
        weights.read("t.torch.float32")


def test_writing_to_a_tensor_does_not_reach_the_file(path: Path) -> None:
    before = path.read_bytes()
    with open_weights(path) as weights:
        weights.read("t.torch.float32").zero_()
    assert path.read_bytes() == before


def test_unaligned_tensors_read_the_same(tmp_path: Path) -> None:
    """Early writers did not pad the header, so numbers may start at any byte."""
    header = b'{"a":{"dtype":"F32","shape":[3],"data_offsets":[0,12]}}'
    for pad in range(4):
        path = tmp_path / f"{pad}.safetensors"
        raw = header + b" " * pad
        path.write_bytes(struct.pack("<Q", len(raw)) + raw + struct.pack("<3f", 1, 2, 3))
        with open_weights(path) as weights:
            assert weights.read("a").tolist() == [1, 2, 3]
            assert weights.read("a").data_ptr() % 4 == 0


def test_the_container_follows_from_the_content_not_from_the_name(path: Path) -> None:
    renamed = path.rename(path.with_suffix(".ckpt"))
    with open_weights(renamed) as weights:
        assert weights.container == "safetensors"


@pytest.mark.parametrize("change", ["shrink", "grow", "rewrite"])
def test_a_file_that_changes_while_open_is_an_error_not_a_crash(path: Path, change: str) -> None:
    with open_weights(path) as weights:
        if change == "shrink":
            os.truncate(path, path.stat().st_size - 8)
        elif change == "grow":
            os.truncate(path, path.stat().st_size + 8)
        else:
            os.utime(path, ns=(0, 0))
        for copy in (False, True):
            with pytest.raises(FileError, match=r"model\.safetensors changed while it was read"):
                weights.read("t.torch.float32", copy=copy)


def test_a_copied_tensor_does_not_depend_on_the_file(path: Path) -> None:
    with open_weights(path) as weights:
        read = weights.read("t.torch.float64", copy=True)
        kept = read.tolist()
    os.truncate(path, 0)
    assert read.tolist() == kept


@settings(
    max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_damage_anywhere_gives_a_file_error_or_what_the_reference_reads(
    path: Path, data: st.DataObject
) -> None:
    raw = bytearray(path.read_bytes())
    header = int.from_bytes(raw[:8], "little")
    for place, value in data.draw(
        st.lists(
            st.tuples(st.integers(0, header + 16), st.integers(0, 255)), min_size=1, max_size=3
        )
    ):
        raw[place] = value
    cut = data.draw(st.one_of(st.just(len(raw)), st.integers(0, len(raw))))
    damaged = path.with_name("damaged.safetensors")
    damaged.write_bytes(raw[:cut])
    try:
        with open_weights(damaged) as weights:
            read = {name: weights.read(name) for name in weights.header}
    except FileError as error:
        said = str(error)
    else:
        said = ""
    if said:
        assert "damaged.safetensors" in said
        assert said.isprintable()
        return
    # What we accept, the reference accepts, and it reads the same names and shapes.
    expected = safetensors.torch.load_file(damaged)
    assert {n: t.shape for n, t in read.items()} == {n: t.shape for n, t in expected.items()}


def test_thousands_of_tensors_are_read(tmp_path: Path) -> None:
    fields = {
        f"t{i}": {"dtype": "U8", "shape": [1], "data_offsets": [i, i + 1]} for i in range(9999)
    }
    raw = json.dumps(fields).encode()
    path = tmp_path / "many.safetensors"
    path.write_bytes(struct.pack("<Q", len(raw)) + raw + bytes(i % 251 for i in range(9999)))
    with open_weights(path) as weights:
        assert len(weights.header) == 9999
        assert weights.read("t9998").item() == 9998 % 251


MEASURE = """
import resource, sys
import torch
from safelight.checkpoints.files import open_weights

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

kept = []
wanted = getattr(torch, sys.argv[2]) if len(sys.argv) > 2 else None
with open_weights(sys.argv[1]) as weights:
    weights.read("small", dtype=wanted)
    before = peak()
    for name in weights.header:
        kept.append(weights.read(name, dtype=wanted))
        kept[-1].sum()
print(peak() - before)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("suffix", "wanted", "bound"),
    [
        (".safetensors", "float16", 112),
        (".safetensors", "float64", 432),
        (".safetensors", "", 216),
        (".ckpt", "float16", 112),
        (".ckpt", "", 216),
    ],
)
def test_reading_peaks_at_the_wanted_type_and_one_buffer(
    tmp_path: Path, suffix: str, wanted: str, bound: int
) -> None:
    """Ten tensors of 20 MiB in float32: no second copy, of the file or of a tensor, piles up."""
    path = tmp_path / f"large{suffix}"
    state = {f"t{i}": torch.ones(5, 2**20) for i in range(10)} | {"small": torch.ones(2)}
    if suffix == ".ckpt":
        torch.save(state, path)
    else:
        safetensors.torch.save_file(state, path)
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(path), *([wanted] if wanted else [])],
        capture_output=True,
        text=True,
        check=True,
    )
    slack = 40  # MiB: the 16 MiB buffer and the allocator
    assert int(done.stdout) < (bound + slack) * 2**20
