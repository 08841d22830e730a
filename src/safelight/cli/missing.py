"""Files that a command line names and that must be there."""

from difflib import get_close_matches
from pathlib import Path

from safelight.errors import FileError


def must_exist(path: Path, what: str) -> Path:
    """The path, if there is a file; `what` says what was expected, such as "picture".

    Raises FileError that names the nearest files in its folder.
    """
    if path.is_file():
        return path
    if path.is_dir():
        raise FileError(f"{path} is a folder; give the file of a {what}.")
    folder = path.parent
    if not folder.is_dir():
        raise FileError(f"there is no {what} {path}: the folder {folder} does not exist.")
    names = [entry.name for entry in folder.iterdir() if entry.is_file()]
    near = get_close_matches(path.name, names, n=3)
    hint = (
        f"did you mean {' or '.join(str(folder / name) for name in near)}?"
        if near
        else (f"give the file of a {what}.")
    )
    raise FileError(f"there is no {what} {path}; {hint}")
