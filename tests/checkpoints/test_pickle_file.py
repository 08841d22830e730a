"""PyTorch files: what torch.load(weights_only=True) reads, read without running anything."""

import argparse
import io
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

import hostile_files as hostile
import torch_archives as archives
from safelight.checkpoints.files import open_weights
from safelight.checkpoints.pickle_file import PickleFile
from safelight.checkpoints.regular_file import RegularFile
from safelight.errors import FileError, UnsafeFileError

DTYPES = (
    torch.float64,
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.float8_e4m3fn,
    torch.float8_e5m2,
    torch.int64,
    torch.int32,
    torch.int16,
    torch.int8,
    torch.uint8,
    torch.bool,
)


def opened(path: Path) -> PickleFile:
    return PickleFile(RegularFile(path))


def tensors(dtype: torch.dtype) -> dict[str, Tensor]:
    base = torch.randn(6, 5).mul(3).to(dtype)
    return {
        "plain": base.clone(),
        "transposed": base.t(),
        "part": base[1:3, 2:],
        "stepped": base[::2],
        "shared": base,
        "scalar": base[0, 0].clone(),
        "empty": base[:0],
        "expanded": base[:1].clone().expand(4, 5),
        "channels.last": torch.randn(2, 3, 4, 5).to(dtype).to(memory_format=torch.channels_last),
    }


def bits(tensor: Tensor) -> bytes:
    return tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes()


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_tensors_equal_those_of_torch_load(
    tmp_path: Path, dtype: torch.dtype, legacy: bool
) -> None:
    path = tmp_path / "model.ckpt"
    expected = tensors(dtype)
    torch.save(expected, path, _use_new_zipfile_serialization=not legacy)
    if not (legacy and "float8" in str(dtype)):  # torch cannot read its own file of these
        expected = torch.load(path, weights_only=True)
    with open_weights(path) as weights:
        assert weights.container == "pickle"
        assert list(weights.header) == list(expected)
        for name, tensor in expected.items():
            info = weights.header[name]
            assert (info.shape, info.dtype) == (tuple(tensor.shape), tensor.dtype)
            for read in (weights.read(name), weights.read(name, copy=True)):
                assert read.stride() == tensor.stride() or 0 in read.shape
                assert bits(read) == bits(tensor)
            wide = weights.read(name, dtype=torch.float64)
            assert torch.equal(wide, tensor.to(torch.float64))


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_pickle_protocol_reads_the_same(tmp_path: Path, protocol: int) -> None:
    path = tmp_path / "model.pt"
    saved = tensors(torch.float32)
    torch.save(saved, path, pickle_protocol=protocol)
    with open_weights(path) as weights:
        for name, tensor in saved.items():
            assert torch.equal(weights.read(name), tensor)


def test_a_state_dict_inside_a_checkpoint_gives_bare_names(tmp_path: Path) -> None:
    path = tmp_path / "model.ckpt"
    network = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    optimiser = torch.optim.AdamW(network.parameters())
    network(torch.randn(4, 3)).sum().backward()
    optimiser.step()
    state = {
        "state_dict": network.state_dict(),
        "optimizer_states": [optimiser.state_dict()],
        "global_step": 470_000,
        "epoch": 7,
        "note": "line\nbreak",
    }
    torch.save(state, path)
    with open_weights(path) as weights:
        assert set(weights.header) == set(network.state_dict())
        assert weights.metadata["global_step"] == "470000"
        for name, tensor in network.state_dict().items():
            assert torch.equal(weights.read(name), tensor)


def test_a_bare_state_dict_with_parameters_reads(tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    network = torch.nn.Linear(3, 2)
    parameter = torch.nn.Parameter(torch.randn(2))
    parameter.note = "kept by torch, of no use to us"  # type: ignore[attr-defined]
    torch.save(OrderedDict(network.named_parameters(), noted=parameter), path)
    with open_weights(path) as weights:
        assert torch.equal(weights.read("weight"), network.weight)
        assert torch.equal(weights.read("noted"), parameter)
        assert not weights.read("weight").requires_grad


def test_nested_containers_give_dotted_names(tmp_path: Path) -> None:
    path = tmp_path / "style.pt"
    vectors = torch.randn(2, 768)
    embedding = {
        "string_to_token": {"*": 265},
        "string_to_param": {"*": vectors},
        "name": "style",
        "step": 1000,
        "sd_checkpoint": None,
    }
    torch.save(embedding, path)
    with open_weights(path) as weights:
        assert torch.equal(weights.read("string_to_param.*"), vectors)
        assert weights.metadata["name"] == "style"
        assert weights.metadata["string_to_token.*"] == "265"


def test_an_old_embedding_in_a_parameter_dict_reads(tmp_path: Path) -> None:
    path = tmp_path / "old.pt"
    vectors = torch.nn.Parameter(torch.randn(1, 768))
    torch.save({"string_to_param": torch.nn.ParameterDict({"*": vectors})}, path)
    with opened(path) as weights:
        assert torch.equal(weights.read("string_to_param.*"), vectors)
        assert weights.placeholders == ("torch.nn.modules.container.ParameterDict",)


def test_a_pickled_module_gives_its_state_dict(tmp_path: Path) -> None:
    path = tmp_path / "module.pt"
    network = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    torch.save(network, path)
    with open_weights(path) as weights:
        assert {name: weights.read(name).tolist() for name in weights.header} == {
            name: tensor.tolist() for name, tensor in network.state_dict().items()
        }


def lightning() -> bytes:
    """State as Lightning leaves it in a checkpoint: classes as keys, instances, attribute dicts."""
    made = archives.name("pytorch_lightning.callbacks.model_checkpoint", "ModelCheckpoint")
    kept = archives.name("pytorch_lightning.utilities.parsing", "AttributeDict") + b")\x81"
    config = archives.name("omegaconf.dictconfig", "DictConfig") + b")\x81"
    return archives.program(
        b"}("
        + archives.text("state_dict")
        + archives.dict_of(weight=archives.tensor())
        + archives.text("callbacks")
        + b"}"
        + made
        + archives.dict_of(best=b"N")
        + b"s"
        + archives.text("hyper_parameters")
        + kept
        + b"("
        + archives.text("rate")
        + b"G?\xf0\0\0\0\0\0\0"
        + b"u"
        + archives.text("config")
        + config
        + archives.dict_of(_content=archives.name("typing", "Any"))
        + b"b"
        + b"u"
    )


def test_lightning_state_stays_inert_and_the_weights_load(tmp_path: Path) -> None:
    path = tmp_path / "sd.ckpt"
    path.write_bytes(archives.archive(lightning()))
    with opened(path) as weights:
        assert weights.read("weight").tolist() == [[0, 1, 2], [3, 4, 5]]
        assert (
            "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint" in weights.placeholders
        )


def test_numpy_and_argparse_state_stays_inert(tmp_path: Path) -> None:
    path = tmp_path / "sd.ckpt"
    state = {
        "weight": torch.randn(2),
        "best": np.float64(0.5),
        "table": np.arange(3),
        "arguments": argparse.Namespace(rate=0.1),
        "sizes": {1, 2},
        "where": Path("a"),
        "shape": torch.Size([2]),
        "device": torch.device("cpu"),
        "dtype": torch.float16,
    }
    torch.save(state, path)
    with opened(path) as weights:
        assert set(weights.header) == {"weight"}
        assert "argparse.Namespace" in weights.placeholders


def test_calling_a_placeholder_calls_nothing(tmp_path: Path) -> None:
    """A harmless name called with any arguments, called again, and given state, stays words."""
    marker = tmp_path / hostile.MARKER
    made = archives.call(archives.name("pytorch_lightning.x", "run"), hostile.touch(marker))
    again = made + archives.tuple_of(hostile.touch(marker)) + b"R" + archives.dict_of(a=b"N") + b"b"
    path = tmp_path / "sd.ckpt"
    data = archives.program(archives.dict_of(weight=archives.tensor(), x=again))
    path.write_bytes(archives.archive(data))
    with opened(path) as weights:
        assert list(weights.header) == ["weight"]
    assert not marker.exists()


def test_an_unknown_class_refuses_the_file_by_its_name(tmp_path: Path) -> None:
    path = tmp_path / "own.ckpt"
    path.write_bytes(archives.archive(archives.program(archives.name("my.package", "Thing"))))
    with pytest.raises(UnsafeFileError, match=r"own\.ckpt asks to run my\.package\.Thing"):
        open_weights(path)


def test_a_file_that_torch_would_not_open_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "empty.pt"
    torch.save({}, path)
    with pytest.raises(FileError, match="holds no tensors"):
        open_weights(path)


def test_a_missing_name_is_said(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    torch.save({"a": torch.zeros(1)}, path)
    with open_weights(path) as weights, pytest.raises(FileError, match="no tensor named b"):
        weights.read("b")


def test_the_torch_archive_of_the_generator_is_honest(tmp_path: Path) -> None:
    """The hostile files differ from this one, which torch reads, by their fault alone."""
    for data in (archives.archive(), archives.legacy()):
        path = tmp_path / "good.pt"
        path.write_bytes(data)
        expected = torch.load(path, weights_only=True)["weight"]
        with open_weights(path) as weights:
            assert torch.equal(weights.read("weight"), expected)


def honest(kind: str) -> bytes:
    out = io.BytesIO()
    state = {"state_dict": tensors(torch.float16), "global_step": 3}
    torch.save(state, out, _use_new_zipfile_serialization=kind == "zip")
    return out.getvalue()


HONEST = {kind: honest(kind) for kind in ("zip", "legacy")}


@pytest.mark.parametrize("kind", HONEST)
@settings(
    max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_damage_anywhere_gives_a_file_error_or_numbers(
    tmp_path: Path, kind: str, data: st.DataObject
) -> None:
    raw = bytearray(HONEST[kind])
    # Most faults lie where the structure is: half of the places in the first kilobytes or the end.
    places = st.one_of(
        st.integers(0, len(raw) - 1),
        st.integers(0, 1000),
        st.integers(len(raw) - 1200, len(raw) - 1),
    )
    for place, value in data.draw(
        st.lists(st.tuples(places, st.integers(0, 255)), min_size=1, max_size=4)
    ):
        raw[place] = value
    cut = data.draw(st.one_of(st.just(len(raw)), st.integers(0, len(raw))))
    path = tmp_path / "damaged.ckpt"
    path.write_bytes(raw[:cut])
    try:
        with open_weights(path) as weights:
            for name, info in weights.header.items():
                assert weights.read(name).shape == torch.Size(info.shape)
    except FileError as error:
        said = str(error)
    else:
        return
    assert "damaged.ckpt" in said
    assert said.isprintable()


def test_opcodes_that_python_writes_read_back_the_same(tmp_path: Path) -> None:
    """Plain values through Python's pickler and our machine, for every protocol."""
    from safelight.checkpoints.pickle_machine import Vocabulary, unpickle

    values = [
        {"a": [1, -1, 255, 65_536, 2**40, -(2**70), 1.5, None, True, False]},
        ("text", "ünïcode", b"bytes", (), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)),
        [{1, 2}, frozenset({3}), [], {}, "x" * 300, b"y" * 300],
    ]

    def stored(identity: object) -> object:
        raise ValueError("no storages here")

    vocabulary = Vocabulary({}, lambda what: True, stored)
    for protocol in (4, 5):
        for value in values:
            data = pickle.dumps(value, protocol)
            assert unpickle(data, 0, vocabulary, "x").value == value
    for protocol in (0, 1, 2, 3):
        plain = values[0] | {"t": ("text", (1, 2), [])}  # type: ignore[operator]
        assert unpickle(pickle.dumps(plain, protocol), 0, vocabulary, "x").value == plain


def test_the_storages_of_a_zip_are_used_in_place(tmp_path: Path) -> None:
    """Reading maps: two tensors on one storage share their memory, and the file stays as it was."""
    path = tmp_path / "model.pt"
    base = torch.randn(8)
    torch.save({"a": base[:4], "b": base[2:]}, path)
    before = path.read_bytes()
    with open_weights(path) as weights:
        a, b = weights.read("a"), weights.read("b")
    a[2] = 7.0
    assert b[0] == 7.0
    assert path.read_bytes() == before
    with zipfile.ZipFile(path) as z:
        assert z.testzip() is None
