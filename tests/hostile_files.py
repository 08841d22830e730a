"""Files made to break a reader of weights, each written by a small function; see `HOSTILE`.

Those that carry code would create the file `marker` in the folder that they are written to.
"""

import io
import os
import pickle
import socket
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

from forged_safetensors import FORGED
from torch_archives import (
    GOOD,
    MAGIC,
    ORDERED,
    SIX,
    archive,
    call,
    dict_of,
    legacy,
    name,
    program,
    storage,
    tensor,
    text,
    tuple_of,
    whole,
)

MARKER = "marker"

# -- code -----------------------------------------------------------------------------------------


def touch(marker: Path) -> bytes:
    return text(f"touch {marker}")


def python(marker: Path) -> bytes:
    return text(f"open({str(marker)!r}, 'w').close()")


Writer = Callable[[Path], bytes]  # the marker that its code would create -> the bytes of the file


def runs(module: str, attribute: str, argument: Callable[[Path], bytes] = touch) -> Writer:
    return lambda marker: archive(
        program(dict_of(weight=tensor(), x=call(name(module, attribute), argument(marker))))
    )


def old_text(marker: Path) -> bytes:
    return f"cos\nsystem\n(S'touch {marker}'\ntR.".encode()


def instance(marker: Path) -> bytes:
    return f"(S'touch {marker}'\nios\nsystem\n.".encode()


def tar(marker: Path) -> bytes:
    out = io.BytesIO()
    body = program(call(name("os", "system"), touch(marker)))
    with tarfile.open(fileobj=out, mode="w") as t:
        for member in ("sys_info", "pickle", "storages", "tensors"):
            info = tarfile.TarInfo(member)
            info.size = len(body)
            t.addfile(info, io.BytesIO(body))
    return out.getvalue()


def patched(data: bytes, old: bytes, new: bytes, times: int = 1) -> bytes:
    assert old in data and len(old) == len(new)
    return data.replace(old, new, times)


def flagged(data: bytes, bit: int) -> bytes:
    """The archive with a flag bit set on every entry, in both places."""
    out = bytearray(data)
    for magic, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        at = out.find(magic)
        while at >= 0:
            out[at + place] |= bit
            at = out.find(magic, at + 4)
    return bytes(out)


def twice(first: bytes, second: bytes) -> bytes:
    """An archive with two entries of one name: readers disagree about which counts."""
    data = archive(first, more=(("data/0", SIX), ("datb.pkl", second)))
    return data.replace(b"datb.pkl", b"data.pkl")


CODE = {
    "os-system": runs("os", "system"),
    "posix-system": runs("posix", "system"),
    "nt-system": runs("nt", "system"),
    "popen": runs("subprocess", "Popen", lambda m: b"](" + text("touch") + text(str(m)) + b"e"),
    "check-output": runs("subprocess", "check_output"),
    "exec": runs("builtins", "exec", python),
    "eval": runs("builtins", "eval", python),
    "old-eval": runs("__builtin__", "eval", python),
    "compile": runs("builtins", "compile", python),
    "getattr": runs("builtins", "getattr"),
    "import": runs("builtins", "__import__"),
    "import-module": runs("importlib", "import_module"),
    "timeit": runs("timeit", "timeit", python),
    "runpy": runs("runpy", "run_path"),
    "pip-main": runs("pip", "main"),
    "pickle-loads": runs("pickle", "loads"),
    "functools-partial": runs("functools", "partial"),
    "attrgetter": runs("operator", "attrgetter"),
    "rmtree": runs("shutil", "rmtree"),
    "webbrowser": runs("webbrowser", "open"),
    "pty-spawn": runs("pty", "spawn"),
    "cprofile": runs("cProfile", "run", python),
    "asyncio": runs("asyncio.unix_events", "_UnixSubprocessTransport._start"),
    "numpy-runstring": runs("numpy.testing._private.utils", "runstring", python),
    "torch-load": runs("torch.serialization", "load"),
    "torch-hub": runs("torch.hub", "load"),
    "torch-jit": runs("torch.jit", "load"),
    "torch-dotted": runs("torch._utils", "_import_dotted_name"),
    "torch-inductor": runs("torch._inductor.codecache", "compile_file"),
    "almost-lightning": runs("pytorch_lightning_evil", "run"),
    "almost-nn": runs("torch.nnx", "run"),
    "empty-name": runs("", ""),
    "stack-global": lambda m: archive(
        program(text("os") + text("system") + b"\x93" + tuple_of(touch(m)) + b"R", 4)
    ),
    "stack-global-dotted": lambda m: archive(
        program(text("os") + text("path.os.system") + b"\x93" + tuple_of(touch(m)) + b"R", 4)
    ),
    "newobj": lambda m: archive(
        program(name("subprocess", "Popen") + tuple_of(touch(m)) + b"\x81")
    ),
    "newobj-ex": lambda m: archive(
        program(name("subprocess", "Popen") + tuple_of(touch(m)) + b"}\x92")
    ),
    "object": lambda m: archive(program(b"(" + name("os", "system") + touch(m) + b"o")),
    "instance": lambda m: archive(instance(m)),
    "name-only": lambda m: archive(program(dict_of(x=name("os", "system")))),
    "as-key": lambda m: archive(program(b"}" + call(name("os", "system"), touch(m)) + b"Ns")),
    "as-storage": lambda m: archive(program(call(name("os", "system"), touch(m)) + b"Q")),
    "before-the-rest": lambda m: archive(
        program(call(name("os", "system"), touch(m)) + b"0" + GOOD[2:-1])
    ),
    "bare": lambda m: program(call(name("os", "system"), touch(m))),
    "bare-protocol-4": lambda m: program(
        b"\x95" + struct.pack("<Q", 40) + call(name("os", "system"), touch(m)), 4
    ),
    "bare-text": old_text,
    "legacy-system": lambda m: legacy(system=program(call(name("os", "system"), touch(m)))),
    "legacy-data": lambda m: legacy(program(call(name("os", "system"), touch(m)))),
    "legacy-keys": lambda m: legacy(keys=program(call(name("os", "system"), touch(m)))),
    "torchscript": lambda m: archive(more=(("data/0", SIX), ("code/__torch__.py", b"x"))),
}
SNEAKY = {
    "second-program": lambda m: archive(GOOD + program(call(name("os", "system"), touch(m)))),
    "tar": tar,
    "two-pickles": lambda m: twice(GOOD, program(call(name("os", "system"), touch(m)))),
    "two-folders": lambda m: archive(more=(("data/0", SIX), ("other/data.pkl", old_text(m)))),
    "other-pickle": lambda m: archive(more=(("data/0", SIX), ("constants.pkl", old_text(m)))),
    "two-names": lambda m: patched(archive(), b"archive/data.pkl", b"archive/datb.pkl"),
    "encrypted-flag": lambda m: flagged(archive(), 1),
    "masked-flag": lambda m: flagged(archive(), 0x40),
    "extension-opcode": lambda m: archive(program(b"\x82\x01")),
    "text-storage": lambda m: archive(program(b"Pos.system\n")),
    "module-storage": lambda m: archive(
        program(tuple_of(text("module"), text("os"), text("a"), text("b"), text("c")) + b"Q")
    ),
    "call-a-number": lambda m: archive(program(b"K\x01)R")),
    "call-a-dtype": lambda m: archive(program(name("torch", "float32") + b")R")),
    "call-a-storage": lambda m: archive(program(name("torch", "FloatStorage") + b")R")),
    "items-on-a-text": lambda m: archive(program(text("a") + text("k") + b"Ns")),
    "items-on-a-list": lambda m: archive(program(b"]K\x00K\x01s")),
    "items-on-a-tensor": lambda m: archive(program(tensor() + text("k") + b"Ns")),
    "append-to-a-dict": lambda m: archive(program(b"}Na")),
    "state-on-a-tensor": lambda m: archive(program(tensor() + dict_of(a=b"N") + b"b")),
    "rebuild-from-system": lambda m: archive(
        program(
            call(
                name("torch._tensor", "_rebuild_from_type_v2"),
                name("collections", "OrderedDict"),
                b"N",
                b")",
            )
        )
    ),
}

# -- sizes that lie, and bombs --------------------------------------------------------------------


def nested(opener: bytes, closer: bytes, depth: int = 100_000, middle: bytes = b"") -> bytes:
    return archive(program(opener * depth + middle + closer * depth))


def laughs(levels: int = 40) -> bytes:
    """Lists of ten times the list before: 10^40 leaves in a few hundred bytes."""
    body = b"]N" + b"a" + b"q\x00"
    for level in range(levels):
        body += b"](" + b"h" + bytes([level]) + (b"h" + bytes([level])) * 9 + b"e"
        body += b"q" + bytes([level + 1])
    return archive(program(dict_of(weight=tensor(), x=b"(" + body + b"t")))


def copied_sets() -> bytes:
    body = b"](" + b"".join(whole(i) for i in range(100_000)) + b"eq\x00"
    body += (name("builtins", "set") + b"h\x00\x85R") * 20_000
    return archive(program(b"(" + body + b"t"))


def long_names() -> bytes:
    """A long key above a long list: joined names would take 10^12 bytes."""
    key = b"X" + struct.pack("<I", 10**7) + b"k" * 10**7
    return archive(program(b"}" + key + b"](" + b"K\x01" * 100_000 + b"es"))


SHORT = (("data/0", SIX[:-4]),)
LIES: dict[str, Writer] = {
    "storage-10e12": lambda m: archive(program(dict_of(w=tensor(storage("0", 10**12))))),
    "storage-2e63": lambda m: archive(program(dict_of(w=tensor(storage("0", 2**63))))),
    "storage-negative": lambda m: archive(program(dict_of(w=tensor(storage("0", -6))))),
    "storage-missing": lambda m: archive(program(dict_of(w=tensor(storage("7"))))),
    "storage-path": lambda m: archive(program(dict_of(w=tensor(storage("../data.pkl"))))),
    "storage-short": lambda m: archive(more=SHORT),
    "storage-long": lambda m: archive(more=(("data/0", SIX + SIX),)),
    "storage-other-type": lambda m: archive(
        program(dict_of(w=tensor(storage("0", 6, "DoubleStorage"))))
    ),
    "shape-beyond": lambda m: archive(program(dict_of(w=tensor(shape=(3, 3))))),
    "offset-beyond": lambda m: archive(program(dict_of(w=tensor(offset=1)))),
    "offset-negative": lambda m: archive(program(dict_of(w=tensor(offset=-1)))),
    "stride-negative": lambda m: archive(program(dict_of(w=tensor(stride=(-3, 1))))),
    "stride-huge": lambda m: archive(program(dict_of(w=tensor(stride=(2**61, 1))))),
    "shape-huge": lambda m: archive(
        program(dict_of(w=tensor(shape=(2**32, 2**32), stride=(0, 0))))
    ),
    "shape-expanded": lambda m: archive(program(dict_of(w=tensor(shape=(10**12,), stride=(0,))))),
    "shape-text": lambda m: archive(
        program(
            call(
                name("torch._utils", "_rebuild_tensor_v2"),
                *(storage(), whole(0), text("ab"), text("ab"), b"\x89", ORDERED),
            )
        )
    ),
    "shape-true": lambda m: archive(
        program(
            call(
                name("torch._utils", "_rebuild_tensor_v2"),
                *(storage(), whole(0), b"\x88\x85", b"\x88\x85", b"\x89", ORDERED),
            )
        )
    ),
    "rank-100": lambda m: archive(program(dict_of(w=tensor(shape=[1] * 100, stride=[1] * 100)))),
    "ranks-differ": lambda m: archive(program(dict_of(w=tensor(shape=(2, 3), stride=(1,))))),
    "text-2e62": lambda m: archive(b"\x80\x04\x8d" + struct.pack("<Q", 2**62) + b"a."),
    "bytes-2e62": lambda m: archive(b"\x80\x04\x8e" + struct.pack("<Q", 2**62) + b"a."),
    "text-4e9": lambda m: archive(b"\x80\x02X\xff\xff\xff\xffa."),
    "text-negative": lambda m: archive(b"\x80\x02T\xff\xff\xff\xffa."),
    "long-negative": lambda m: archive(b"\x80\x02\x8b\xff\xff\xff\xffa."),
    "long-digits": lambda m: archive(b"\x80\x02L" + b"9" * 100_000 + b"L\n."),
    "long-line": lambda m: archive(b"\x80\x02c" + b"a" * 10**6),
    "nested-tuples": lambda m: nested(b"(", b"t"),
    "nested-lists": lambda m: nested(b"](", b"e"),
    "nested-dicts": lambda m: nested(b"}K\x01", b"s", middle=b"N"),
    "nested-calls": lambda m: nested(name("torch.nn", "A") + b"(", b"tR", 50_000),
    "nested-key": lambda m: archive(program(b"}" + b"(" * 90_000 + b"t" * 90_000 + b"Ns")),
    "nested-set-member": lambda m: archive(
        program(b"\x8f(" + b"(" * 90_000 + b"t" * 90_000 + b"\x90", 4)
    ),
    "endless-list": lambda m: archive(program(dict_of(x=b"]q\x00h\x00a"))),
    "laughs": lambda m: laughs(),
    "copied-sets": lambda m: copied_sets(),
    "long-names": lambda m: long_names(),
    "opcode-flood": lambda m: archive(program(b"N0" * 3_000_000)),
    "open-marks": lambda m: archive(program(b"(" * 1_500_000)),
    "large-pickle": lambda m: archive(program(b"N0" * 10_000_000)),
    "memo-missing": lambda m: archive(program(b"h\x07")),
    "memo-huge": lambda m: archive(program(b"Nr\xff\xff\xff\xffj\xfe\xff\xff\xff")),
    "empty-stack": lambda m: archive(program(b"R")),
    "no-mark": lambda m: archive(program(b"Nt")),
    "no-stop": lambda m: archive(b"\x80\x02N"),
    "only-stop": lambda m: archive(b"."),
    "left-over": lambda m: archive(program(b"NN")),
    "protocol-200": lambda m: archive(b"\x80\xc8N."),
    "unknown-opcode": lambda m: archive(program(b"\xff")),
    "not-utf8": lambda m: archive(b"\x80\x02X\x02\x00\x00\x00\xff\xfe."),
    "odd-items": lambda m: archive(program(b"}(Nu")),
    "deflate-bomb": lambda m: archive(b"\0" * 2**26, method=zipfile.ZIP_DEFLATED),
    "deflated-storage": lambda m: archive(method=zipfile.ZIP_DEFLATED),
    "lzma": lambda m: archive(method=zipfile.ZIP_LZMA),
    "no-pickle": lambda m: archive().replace(b"data.pkl", b"data.txt"),
    "no-folder": lambda m: archive().replace(b"archive/", b"archive_"),
    "big-endian": lambda m: archive().replace(b"little", b"bigbig"),
    "zip-cut": lambda m: archive()[:-10],
    "zip-half": lambda m: archive()[: len(archive()) // 2],
    "zip-comment": lambda m: archive()[:-2] + b"\x04\x00evil",
    "zip-tail": lambda m: archive() + b"evil",
    "zip-prefix": lambda m: archive()[:4] + b"\0" * 26 + archive(),
    "zip-start-only": lambda m: b"PK\x03\x04",
    "zip-nothing": lambda m: b"PK\x03\x04" + b"PK\x05\x06" + b"\0" * 18,
    "zip-count-lies": lambda m: (
        archive()[:-14] + struct.pack("<2H", 60_000, 60_000) + archive()[-10:]
    ),
    "zip-split": lambda m: archive()[:-18] + struct.pack("<2H", 3, 3) + archive()[-14:],
    "zip-64-missing": lambda m: archive()[:-14] + b"\xff" * 4 + archive()[-10:],
    "zip-overlap": lambda m: overlapping(),
    "zip-offset-beyond": lambda m: moved(2**31),
    "legacy-count": lambda m: legacy(tail=struct.pack("<q", 7) + SIX),
    "legacy-count-huge": lambda m: legacy(tail=struct.pack("<q", 2**62) + SIX),
    "legacy-short": lambda m: legacy(tail=struct.pack("<q", 6) + SIX[:-1]),
    "legacy-tail": lambda m: legacy() + b"evil",
    "legacy-keys-other": lambda m: legacy(keys=pickle.dumps(["1"], 2)),
    "legacy-keys-twice": lambda m: legacy(keys=pickle.dumps(["0", "0"], 2)),
    "legacy-keys-none": lambda m: legacy(keys=pickle.dumps(None, 2)),
    "legacy-big-endian": lambda m: legacy(system=pickle.dumps({"little_endian": False}, 2)),
    "legacy-view": lambda m: legacy(
        program(dict_of(w=tensor(storage("0", 6, "FloatStorage", b"K\x01"))))
    ),
    "legacy-two-types": lambda m: legacy(
        program(
            dict_of(
                a=tensor(storage("0", 6, "FloatStorage", b"N")),
                b=tensor(storage("0", 6, "IntStorage", b"N")),
            )
        )
    ),
    "legacy-magic-only": lambda m: MAGIC,
    "bare-dict": lambda m: pickle.dumps({"weight": [1.0, 2.0]}, 2),
    "bare-old-dict": lambda m: pickle.dumps({"weight": [1.0, 2.0]}, 0),
}


def overlapping() -> bytes:
    """Two directory entries that point at one place, under one name in it."""
    data = archive(more=(("data/0", SIX), ("data/1", SIX)))
    first, second = (data.index(b"archive/data/" + n) - 30 for n in (b"0", b"1"))
    out = data.replace(b"archive/data/1", b"archive/data/0")
    at = out.rindex(struct.pack("<L", second) + b"archive/data/0")
    return out[:at] + struct.pack("<L", first) + out[at + 4 :]


def moved(offset: int) -> bytes:
    data = archive()
    at = data.rindex(b"archive/data/0") - 4
    return data[:at] + struct.pack("<L", offset) + data[at + 4 :]


# -- other files -----------------------------------------------------------------------------------

OTHERS: dict[str, Writer] = {
    "empty": lambda m: b"",
    "one-byte": lambda m: b"\x80",
    "zeros": lambda m: b"\0" * 4096,
    "words": lambda m: b"checkpoint:\n  path: somewhere\n",
    "web-page": lambda m: b"<!DOCTYPE html><html><body>Log in</body></html>",
    "lfs-pointer": lambda m: b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n",
    "gguf": lambda m: b"GGUF" + b"\0" * 64,
    "gzip": lambda m: b"\x1f\x8b\x08" + b"\0" * 64,
    "picture": lambda m: b"\x89PNG\r\n\x1a\n" + b"\0" * 64,
}

# -- files that are not files ---------------------------------------------------------------------


def fifo(path: Path) -> None:
    os.mkfifo(path)


def endless(path: Path) -> None:
    path.symlink_to("/dev/zero")


def loop(path: Path) -> None:
    path.symlink_to(path.name)


def dangling(path: Path) -> None:
    path.symlink_to("nowhere")


def folder(path: Path) -> None:
    path.mkdir()


def absent(path: Path) -> None:
    pass


def sock(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))


SPECIAL: dict[str, Callable[[Path], None]] = {
    "fifo": fifo,
    "socket": sock,
    "new\nline\x1b[31m": absent,
    "endless": endless,
    "loop": loop,
    "dangling": dangling,
    "folder": folder,
    "absent": absent,
}

SUFFIX = {"code": ".ckpt", "sneaky": ".pt", "lies": ".ckpt", "forged": ".safetensors"}
HOSTILE: dict[str, dict[str, Writer]] = {
    "code": dict(CODE),
    "sneaky": dict(SNEAKY),
    "lies": LIES,
    "forged": dict(FORGED),
    "renamed": {
        "renamed-zip": CODE["os-system"],
        "renamed-bare": CODE["bare"],
        "renamed-text": CODE["bare-text"],
        "renamed-legacy": CODE["legacy-data"],
        "renamed-good": lambda m: archive(),
    },
    "others": OTHERS,
}


def labels() -> list[tuple[str, str]]:
    """(group, label) of every hostile file, those of SPECIAL included."""
    return [(g, label) for g, files in HOSTILE.items() for label in files] + [
        ("special", label) for label in SPECIAL
    ]


def write_hostile(folder: Path, group: str, label: str) -> Path:
    """Write one hostile file into the folder; its code, if any, would create folder/marker."""
    path = folder / f"{label}{SUFFIX.get(group, '.safetensors')}"
    if group == "special":
        SPECIAL[label](path)
    else:
        path.write_bytes(HOSTILE[group][label](folder / MARKER))
    return path
