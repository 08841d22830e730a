"""Compiled graphs on disk: made once by PyTorch's compiler, loaded in a blink ever after.

A package is a shared library without weights, a list of the operators that it calls back, and a
note that says which weights it wants in which form. It is named by a hash of all that it depends on
(`signature`), and lies in a private folder: see there for why, and for what the hashes in the note
are worth.

The library is made by AOTInductor: torch.export, then C++, then the system's compiler.
"""

import json
import os
import shutil
import threading
import time
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from safelight.engines.attention_graph import by_blocks
from safelight.engines.calls import Call, put_together
from safelight.engines.onednn_graph import Packing, by_onednn, can_pack
from safelight.engines.private_folder import ROOM, check_private, digest, workshop
from safelight.errors import FileError, RequestError
from safelight.printable import shown
from safelight.writing import write_whole

FORMAT = 1
MOST = 64  # packages, of some 3 MB each
DAY = 86400.0  # seconds
SUFFIXES = (".so", ".json", ".note")  # library, operators, note; the first two go by these names
NO_OPERATORS = b'{"nodes": []}'
TARGET = "target"  # what the network is called in an exported program
NO_COMPILER = (
    "no C++ compiler was found; install one (Debian and Ubuntu: apt install g++; macOS: "
    "xcode-select --install), name yours by the variable CXX, or draw with --engine eager"
)
_TURN = threading.Lock()  # the compiler keeps settings in the process


@dataclass(frozen=True)
class Package:
    """A compiled graph on disk. wanted: how to pack which weight; None as it is."""

    library: Path
    wanted: Mapping[str, Packing | None]


def compiler() -> str | None:
    """The path of the C++ compiler: CXX, else g++, else clang++; None if there is none."""
    chosen = os.environ.get("CXX")
    return next((found for name in (chosen, "g++", "clang++") if (found := _which(name))), None)


def found_package(folder: Path, key: str) -> Package | None:
    """The package of this key; None if there is none, or it is damaged and was removed.

    Raises FileError if it, or the folder, is open to others.
    """
    check_private(folder)
    paths = [folder / f"{key}{suffix}" for suffix in SUFFIXES]
    if not all(path.exists() for path in paths):
        return None
    for path in paths:
        check_private(path)
    library, operators, note = paths
    try:
        told = json.loads(note.read_text(encoding="utf-8"))
        hashes = [digest(path.read_bytes()) for path in (library, operators)]
        if told["format"] == FORMAT and told["sha256"] == hashes:
            return Package(library, dict(told["wanted"]))
    except (ValueError, KeyError, TypeError):
        pass
    for path in paths:
        path.unlink(missing_ok=True)
    return None


def made_package(folder: Path, key: str, network: nn.Module, method: str, call: Call) -> Package:
    """Compile a method of a network for calls of these shapes, and keep it under this key.

    Raises RequestError without a C++ compiler, or if the compiler fails.
    """
    cxx = compiler()
    if cxx is None:
        raise RequestError(f"engine compiled cannot compile here: {NO_COMPILER}")
    with _TURN, workshop(folder) as room, _settings(room, cxx):
        library, operators, wanted = _compiled(room, network, method, call)
    hashes = [digest(library), digest(operators)]
    note = json.dumps({"format": FORMAT, "sha256": hashes, "wanted": wanted})
    old = os.umask(0o077)
    try:
        for suffix, data in zip(SUFFIXES, (library, operators, note.encode()), strict=True):
            write_whole(folder / f"{key}{suffix}", data)
    finally:
        os.umask(old)
    _tidied(folder)
    return Package(folder / f"{key}{SUFFIXES[0]}", wanted)


def _tidied(folder: Path) -> None:
    """Let go of the oldest packages past `MOST`, and of what a killed compiler left a day ago."""
    libraries = sorted(folder.glob(f"*{SUFFIXES[0]}"), key=lambda path: path.stat().st_mtime)
    for library in libraries[:-MOST]:
        for suffix in SUFFIXES:
            library.with_suffix(suffix).unlink(missing_ok=True)
    for room in folder.glob(f"{ROOM}*"):
        if room.stat().st_mtime < time.time() - DAY:
            shutil.rmtree(room, ignore_errors=True)


class Loaded:
    """A package in memory, with the weights of a network."""

    def __init__(self, package: Package) -> None:
        try:
            self._runner = torch._C._aoti.AOTIModelContainerRunnerCpu(str(package.library), 1)
        except RuntimeError as error:
            raise FileError(
                f"{shown(package.library)} cannot be loaded ({_first_line(error)}); remove it, and "
                "it is made again"
            ) from None
        self._names = {
            fqn: name for name, fqn in self._runner.get_constant_names_to_original_fqns().items()
        }
        self._given: dict[str, Tensor] = {}  # the library keeps addresses only

    def give(self, weights: Mapping[str, Tensor]) -> None:
        """Let it compute with these weights from now on; the first time all must be there."""
        first = not self._given
        self._given.update(weights)
        named = {self._names[fqn]: weight for fqn, weight in weights.items()}
        self._runner.update_constant_buffer(named, False, first, True)

    def run(self, tensors: tuple[Tensor, ...]) -> Tensor:
        """The result for these tensors, of the shapes that it was compiled for."""
        result: Tensor = self._runner.run([tensor.contiguous() for tensor in tensors])[0]
        return result


class _Export(nn.Module):
    """A method of a network as a module that takes nothing but tensors."""

    def __init__(self, network: nn.Module, method: str, skeleton: Any) -> None:
        super().__init__()
        self.target = network
        self.method = method
        self.skeleton = skeleton

    def forward(self, *tensors: Tensor) -> Tensor:
        args, told = put_together(self.skeleton, tensors)
        result: Tensor = getattr(self.target, self.method)(*args, **told)
        return result


@torch.no_grad()
def _compiled(
    room: Path, network: nn.Module, method: str, call: Call
) -> tuple[bytes, bytes, dict[str, Packing | None]]:
    """The library, the operators that it calls back, and how it wants which weight."""
    tensors = tuple(tensor.contiguous() for tensor in call.tensors)
    export = _Export(network, method, call.skeleton)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of PyTorch's own making
        # not strict: as `traces.traced` exports, of a network that is in memory, with no file read
        program = torch.export.export(export, tensors, strict=False)
        dtype = next(network.parameters()).dtype
        by_blocks(program)
        packings = by_onednn(program) if can_pack(dtype) else {}
        path = room / "package.pt2"
        try:
            torch._inductor.aoti_compile_and_package(
                program, package_path=str(path), inductor_configs=options()
            )
        except Exception as error:
            raise RequestError(
                f"engine compiled could not compile this model: {_first_line(error)}; draw with "
                "--engine eager"
            ) from error
    with zipfile.ZipFile(path) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".so"))
        library = archive.read(name)
        name = f"{name.removesuffix('.so')}.json"
        operators = archive.read(name) if name in archive.namelist() else NO_OPERATORS
    wanted = {name.removeprefix(f"{TARGET}."): packings.get(name) for name in _used(program)}
    return library, operators, wanted


def _used(program: ExportedProgram) -> Iterator[str]:
    """The weights that a graph computes with; a network may have others."""
    weights = program.graph_signature.inputs_to_parameters
    for node in program.graph.find_nodes(op="placeholder"):
        if node.users and node.name in weights:
            yield weights[node.name]


OPTIONS: Mapping[str, object] = {
    "aot_inductor.package_constants_in_so": False,
    # else vectors of up to eight numbers are written into the library, whatever weights come later
    "always_keep_tensor_constants": True,
    # One library is made of two files: precompiled headers would cost more than they save.
    "cpp_cache_precompile_headers": False,
    "cpp.dynamic_threads": True,
}


# PyTorch's own variable: kernels in libraries that are compiled from now on tell its profiler of
# themselves, at about a microsecond for each.
KERNELS_TOLD = "TORCHINDUCTOR_CPP_ENABLE_KERNEL_PROFILE"


def options() -> dict[str, object]:
    """The compiler's settings, of which one may be asked for by `KERNELS_TOLD`."""
    told = os.environ.get(KERNELS_TOLD) == "1"
    return {**OPTIONS, **({"cpp.enable_kernel_profile": True} if told else {})}


@contextmanager
def _settings(room: Path, cxx: str) -> Iterator[None]:
    """PyTorch's compiler works in this folder, and with this compiler, while entered.

    By itself it works in a folder of a known name that all users of a machine may make.
    """
    wanted = {"TORCHINDUCTOR_CACHE_DIR": str(room), "TRITON_CACHE_DIR": str(room), "CXX": cxx}
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _which(name: str | None) -> str | None:
    return shutil.which(name) if name else None


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
