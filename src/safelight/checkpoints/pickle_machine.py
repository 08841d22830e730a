"""Reads the pickle format without running anything: an interpreter that builds only plain values.

A pickle is a program for a small stack machine. Python's own machine imports and calls whatever the
program names; this one knows no import and no call. A name becomes a `Global`, which is only a
record. "Calling" one looks it up in a table of our own functions that build values, or leaves an
inert `Placeholder`; a name in neither place refuses the file. Opcodes are those of pickletools in
the standard library, less the ones that no weights file needs.
"""

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from safelight.errors import FileError, UnsafeFileError
from safelight.printable import shown

MAX_OPCODES = 2_000_000  # a full SDXL training checkpoint takes about 200,000
MAX_TEXT_NUMBER = 64
MAX_LINE = 4_096


@dataclass(frozen=True, slots=True)
class Global:
    """A name of code in a pickle. It is only the name: nothing is looked up."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(eq=False, slots=True)
class Placeholder:
    """What a pickle would have made by calling `what(*args)`: the ingredients, never the dish."""

    what: Global
    args: tuple[object, ...] = ()
    state: object = None
    items: dict[object, object] = field(default_factory=dict)
    elements: list[object] = field(default_factory=list)


Build = Callable[..., object]
COPIED = (list, tuple, dict, set, frozenset)


class Vocabulary(NamedTuple):
    """What a pickle may name.

    builds: functions of ours that make a value from the arguments. inert: says of any other name
    whether it stands for harmless state. stored: makes a value of a persistent id. A build that
    finds its arguments wrong raises TypeError or ValueError.
    """

    builds: Mapping[Global, Build]
    inert: Callable[[Global], bool]
    stored: Callable[[object], object]


class Unpickled(NamedTuple):
    value: object
    end: int  # the position after the program
    placeholders: tuple[str, ...]  # names left inert, in order of appearance


def unpickle(data: bytes, start: int, vocabulary: Vocabulary, where: str) -> Unpickled:
    """The value of the pickle program that starts at `start`, as plain values and placeholders.

    `where` names the file in errors. Raises UnsafeFileError if the program names code that is not
    known to be harmless, and FileError if it is damaged or too large.
    """
    machine = _Machine(data, start, vocabulary, where)
    try:
        value = machine.run()
    except IndexError:
        fault = "it ends too early" if machine.at >= len(data) else "a value is missing"
        raise machine.unsound(fault) from None
    except (TypeError, ValueError, OverflowError) as error:
        raise machine.unsound(shown(str(error))) from None
    return Unpickled(value, machine.at, tuple(machine.placeholders))


class _Machine:
    """The stack machine. Its steps raise plain errors, which `unpickle` puts in words."""

    def __init__(self, data: bytes, start: int, vocabulary: Vocabulary, where: str) -> None:
        self.data, self.at, self.vocabulary, self.where = data, start, vocabulary, where
        self.stack: list[object] = []
        self.marks: list[list[object]] = []  # the stacks below each open mark
        self.memo: dict[int, object] = {}
        self.placeholders: dict[str, None] = {}
        self.left = MAX_OPCODES

    def run(self) -> object:
        while True:
            self.spend(1)
            code = self.data[self.at]
            self.at += 1
            if code == 0x2E:  # STOP
                if self.marks or len(self.stack) != 1:
                    raise ValueError("values left over")
                return self.stack.pop()
            step = STEPS.get(code)
            if step is None:
                raise ValueError(f"opcode {code:#04x}, which weights never need")
            step(self)

    def spend(self, work: int) -> None:
        """Count work, so that a short program cannot copy a long list again and again."""
        self.left -= work
        if self.left < 0:
            raise ValueError(f"more than {MAX_OPCODES} opcodes")

    def unsound(self, fault: str) -> FileError:
        return FileError(
            f"{self.where} is not a sound PyTorch file: {fault} (byte {self.at} of its pickle)"
        )

    # -- reading the program ---------------------------------------------------------------------

    def take(self, count: int) -> bytes:
        if count < 0 or self.at + count > len(self.data):
            raise ValueError(f"a value of {count} bytes where {len(self.data) - self.at} remain")
        self.at += count
        return self.data[self.at - count : self.at]

    def number(self, form: str) -> int:
        value: int = struct.unpack(form, self.take(struct.calcsize(form)))[0]
        return value

    def line(self) -> str:
        end = self.data.find(b"\n", self.at, self.at + MAX_LINE)
        if end < 0:
            raise ValueError("a line without an end")
        return self.take(end + 1 - self.at)[:-1].decode("utf-8")

    # -- the stack -------------------------------------------------------------------------------

    def push(self, value: object) -> None:
        self.stack.append(value)

    def mark(self) -> None:
        self.marks.append(self.stack)
        self.stack = []

    def since_mark(self) -> list[object]:
        found, self.stack = self.stack, self.marks.pop()
        return found

    def remember(self, index: int) -> None:
        if index < 0:
            raise ValueError("a negative memo index")
        self.memo[index] = self.stack[-1]

    def recall(self, index: int) -> None:
        if index not in self.memo:
            raise ValueError(f"a value {index} that was never made")
        self.push(self.memo[index])

    # -- code: names and what stands for calling them --------------------------------------------

    def named(self, module: object, name: object) -> Global:
        if type(module) is not str or type(name) is not str:
            raise ValueError("a name that is not text")
        what = Global(module, name)
        if what not in self.vocabulary.builds:
            if not self.vocabulary.inert(what):
                raise UnsafeFileError(
                    f"{self.where} asks to run {shown(str(what))}, so it was refused and nothing "
                    "of it ran; get the weights as .safetensors from someone you trust"
                )
            self.placeholders[str(what)] = None
        return what

    def made(self, what: object, args: object) -> object:
        if not isinstance(args, tuple):
            raise ValueError("arguments that are not a tuple")
        if isinstance(what, Placeholder):
            return Placeholder(what.what, args)
        if not isinstance(what, Global):
            raise ValueError("a call of something that is not a name")
        build = self.vocabulary.builds.get(what)
        if build is None:
            return Placeholder(what, args)
        self.spend(len(args) + sum(len(part) for part in args if isinstance(part, COPIED)))
        return build(*args)

    def reduce(self) -> None:
        args = self.stack.pop()
        self.push(self.made(self.stack.pop(), args))

    def new_with_keywords(self) -> None:
        keywords, args = self.stack.pop(), self.stack.pop()
        if keywords != {} or not isinstance(args, tuple):
            raise ValueError("keyword arguments")
        self.push(self.made(self.stack.pop(), args))

    def instance(self) -> None:
        what = self.named(self.line(), self.line())
        self.push(self.made(what, tuple(self.since_mark())))

    def build(self) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        if isinstance(target, Placeholder):
            target.state = state
        elif type(target) is not dict:  # an ordered dict may carry attributes; we need none
            raise ValueError(f"state for a {type(target).__name__}")

    # -- containers ------------------------------------------------------------------------------

    def append(self, values: list[object]) -> None:
        target = self.stack[-1]
        if isinstance(target, Placeholder):
            target.elements.extend(values)
        elif type(target) is list:
            target.extend(values)
        else:
            raise ValueError(f"elements for a {type(target).__name__}")

    def set_items(self, flat: list[object]) -> None:
        target = self.stack[-1]
        items = target.items if isinstance(target, Placeholder) else target
        if type(items) is not dict:
            raise ValueError(f"items for a {type(target).__name__}")
        items.update(_pairs(flat))

    def add_items(self, values: list[object]) -> None:
        target = self.stack[-1]
        if type(target) is not set:
            raise ValueError(f"members for a {type(target).__name__}")
        target.update(_key(value) for value in values)


def _pairs(flat: list[object]) -> dict[object, object]:
    if len(flat) % 2:
        raise ValueError("a key without a value")
    return {_key(key): value for key, value in zip(flat[::2], flat[1::2], strict=True)}


SIMPLE_KEYS = (str, bytes, int, float, bool, Global, type(None))


def _key(value: object) -> object:
    """The value if it may be a key: flat, so that hashing cannot recurse without end."""
    if type(value) in SIMPLE_KEYS or isinstance(value, Placeholder):
        return value
    if type(value) is tuple and all(type(part) in SIMPLE_KEYS for part in value):
        return value
    raise ValueError(f"a {type(value).__name__} as a key")


def as_set(values: object = ()) -> set[object]:
    """A set of the values, for `builtins.set` in a pickle."""
    if type(values) not in (list, tuple, set, frozenset):
        raise ValueError("a set of something that is no list")
    return {_key(value) for value in values}  # type: ignore[attr-defined]


def _integer(text: str) -> int | bool:
    if text in ("00", "01"):  # how protocol 0 writes False and True
        return text == "01"
    return _long(text)


def _long(text: str) -> int:
    if len(text) > MAX_TEXT_NUMBER:
        raise ValueError("a number that is too long")
    return int(text.rstrip("L"))


def _little(data: bytes) -> int:
    if len(data) > MAX_TEXT_NUMBER:
        raise ValueError("a number that is too long")
    return int.from_bytes(data, "little", signed=True)


def _old_text(data: bytes) -> str:
    """A Python 2 text, which did not know its encoding."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data.decode("latin-1")


def _quoted(line: str) -> str:
    if len(line) < 2 or line[0] != line[-1] or line[0] not in "'\"" or "\\" in line:
        raise ValueError("a quoted text that is not plain")
    return line[1:-1]


def _protocol(m: _Machine) -> None:
    if m.number("<B") > 5:
        raise ValueError("an unknown pickle protocol")


def _last(m: _Machine, count: int) -> None:
    if len(m.stack) < count:
        raise ValueError("an empty stack")
    found = tuple(m.stack[len(m.stack) - count :])
    del m.stack[len(m.stack) - count :]
    m.push(found)


def _stack_global(m: _Machine) -> None:
    name = m.stack.pop()
    m.push(m.named(m.stack.pop(), name))


def _set_item(m: _Machine) -> None:
    value, key = m.stack.pop(), m.stack.pop()
    m.set_items([key, value])


def _object(m: _Machine) -> None:
    what, *args = m.since_mark()
    m.push(m.made(what, tuple(args)))


Step = Callable[[_Machine], object]
# The opcodes by their byte; the names in the comments are those of pickletools.
STEPS: Mapping[int, Step] = {
    0x80: _protocol,  # PROTO
    0x95: lambda m: m.take(8),  # FRAME: only a hint for buffering
    # constants
    ord("N"): lambda m: m.push(None),
    0x88: lambda m: m.push(True),
    0x89: lambda m: m.push(False),
    ord("I"): lambda m: m.push(_integer(m.line())),
    ord("L"): lambda m: m.push(_long(m.line())),
    ord("J"): lambda m: m.push(m.number("<i")),
    ord("K"): lambda m: m.push(m.number("<B")),
    ord("M"): lambda m: m.push(m.number("<H")),
    0x8A: lambda m: m.push(_little(m.take(m.number("<B")))),  # LONG1
    0x8B: lambda m: m.push(_little(m.take(m.number("<i")))),  # LONG4
    ord("F"): lambda m: m.push(float(m.line())),
    ord("G"): lambda m: m.push(struct.unpack(">d", m.take(8))[0]),
    # texts and bytes
    ord("S"): lambda m: m.push(_quoted(m.line())),
    ord("V"): lambda m: m.push(m.line()),
    ord("T"): lambda m: m.push(_old_text(m.take(m.number("<i")))),
    ord("U"): lambda m: m.push(_old_text(m.take(m.number("<B")))),
    ord("X"): lambda m: m.push(m.take(m.number("<I")).decode("utf-8")),
    0x8C: lambda m: m.push(m.take(m.number("<B")).decode("utf-8")),  # SHORT_BINUNICODE
    0x8D: lambda m: m.push(m.take(m.number("<Q")).decode("utf-8")),  # BINUNICODE8
    ord("B"): lambda m: m.push(m.take(m.number("<I"))),
    ord("C"): lambda m: m.push(m.take(m.number("<B"))),
    0x8E: lambda m: m.push(m.take(m.number("<Q"))),  # BINBYTES8
    0x96: lambda m: m.push(m.take(m.number("<Q"))),  # BYTEARRAY8
    # the stack
    ord("("): lambda m: m.mark(),
    ord("0"): lambda m: m.stack.pop(),
    ord("1"): lambda m: m.since_mark(),
    ord("2"): lambda m: m.push(m.stack[-1]),
    # containers
    ord("]"): lambda m: m.push([]),
    ord("}"): lambda m: m.push({}),
    ord(")"): lambda m: m.push(()),
    0x8F: lambda m: m.push(set()),  # EMPTY_SET
    0x85: lambda m: _last(m, 1),
    0x86: lambda m: _last(m, 2),
    0x87: lambda m: _last(m, 3),
    ord("t"): lambda m: m.push(tuple(m.since_mark())),
    ord("l"): lambda m: m.push(m.since_mark()),
    ord("d"): lambda m: m.push(_pairs(m.since_mark())),
    0x91: lambda m: m.push(frozenset(_key(value) for value in m.since_mark())),  # FROZENSET
    ord("a"): lambda m: m.append([m.stack.pop()]),
    ord("e"): lambda m: m.append(m.since_mark()),
    ord("s"): _set_item,
    ord("u"): lambda m: m.set_items(m.since_mark()),
    0x90: lambda m: m.add_items(m.since_mark()),  # ADDITEMS
    # memory
    ord("p"): lambda m: m.remember(_long(m.line())),
    ord("q"): lambda m: m.remember(m.number("<B")),
    ord("r"): lambda m: m.remember(m.number("<I")),
    0x94: lambda m: m.remember(len(m.memo)),  # MEMOIZE
    ord("g"): lambda m: m.recall(_long(m.line())),
    ord("h"): lambda m: m.recall(m.number("<B")),
    ord("j"): lambda m: m.recall(m.number("<I")),
    # code, which stays words
    ord("c"): lambda m: m.push(m.named(m.line(), m.line())),
    0x93: _stack_global,
    ord("i"): lambda m: m.instance(),
    ord("o"): _object,
    ord("R"): lambda m: m.reduce(),
    0x81: lambda m: m.reduce(),  # NEWOBJ: cls, args
    0x92: lambda m: m.new_with_keywords(),
    ord("b"): lambda m: m.build(),
    ord("Q"): lambda m: m.push(m.vocabulary.stored(m.stack.pop())),  # BINPERSID
}
