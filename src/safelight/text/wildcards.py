"""Wildcards: text files of one value a line, named in prompts as `__name__`."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatchcase
from pathlib import Path
from types import MappingProxyType

from safelight.errors import FileError, PromptError

MAX_BYTES = 4 * 2**20
SHOWN = 10  # names of lists in a message


@dataclass(frozen=True)
class Wildcards:
    """Values by name. A name may hold folders (`animals/cats`) and, when asked for, `*`."""

    lists: Mapping[str, tuple[str, ...]]
    source: str = "the lists given"  # where they come from, for messages

    @classmethod
    def of(cls, folder: Path) -> "Wildcards":
        """The `*.txt` files in a folder and below; nothing outside of it is ever read.

        Empty lines and lines that begin with `#` are no values. Raises FileError.
        """
        if not folder.is_dir():
            raise FileError(
                f"{folder} is not a folder; give a folder of .txt lists, such as colour.txt for "
                "__colour__, with a value on each line."
            )
        root = folder.resolve()
        lists = {
            path.relative_to(folder).with_suffix("").as_posix(): tuple(_lines(path))
            for path in sorted(folder.rglob("*.txt"))
            if path.resolve().is_relative_to(root) and path.is_file()
        }
        return cls(MappingProxyType(lists), str(folder))

    def values(self, name: str) -> tuple[str, ...]:
        """The values of one name, or of all names that a pattern with `*` fits, in order.

        Raises PromptError if there are none.
        """
        if name in self.lists:
            return self.lists[name]
        if "*" in name and name.count("*") <= 4:
            found = [own for key, own in sorted(self.lists.items()) if fnmatchcase(key, name)]
            if found:
                return tuple(value for own in found for value in own)
        near = get_close_matches(name, self.lists, n=3)
        if near:
            known = f"did you mean {' or '.join(near)}?"
        elif self.lists:
            some = sorted(self.lists)
            known = f"it has {', '.join(some[:SHOWN])}{', ...' * (len(some) > SHOWN)}."
        else:
            known = "it has no .txt files."
        raise PromptError(f"there is no wildcard __{name}__ in {self.source}; {known}")


def _lines(path: Path) -> Iterator[str]:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise FileError(f"{path}: a file of wildcards may have {MAX_BYTES // 2**20} MiB.")
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise FileError(f"{path}: cannot be read: {error.strerror}.") from None
    except UnicodeDecodeError:
        raise FileError(f"{path}: is no text in UTF-8.") from None
    for line in text.splitlines():
        line = line.strip()
        if line and not line.startswith("#"):
            yield line
