"""Named styles: pieces of prompt in a table, as A1111's `styles.csv` holds them."""

import csv
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from safelight.errors import FileError


@dataclass(frozen=True, slots=True)
class Style:
    """A style; `{prompt}` in its texts is where the user's own text goes."""

    name: str
    prompt: str = ""
    negative_prompt: str = ""


def styled(text: str, styles: Iterable[Style], *, negative: bool = False) -> str:
    """The text with every style applied in turn.

    A style with `{prompt}` wraps the text; any other is appended after a comma.
    """
    for style in styles:
        own = style.negative_prompt if negative else style.prompt
        if "{prompt}" in own:
            text = own.replace("{prompt}", text)
        else:
            text = ", ".join(part for part in (text.strip(), own.strip()) if part)
    return text


def read_styles(path: Path) -> dict[str, Style]:
    """Styles of a CSV file with the columns name, prompt (or text), negative_prompt.

    Rows without a name or whose name starts with `#` are remarks; of two of one name the later
    counts. Raises FileError.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.DictReader(file, restval="")
            fields = rows.fieldnames or ()
            if "name" not in fields or not {"prompt", "text"} & set(fields):
                raise FileError(
                    f"{path}: a table of styles begins with the line"
                    f" name,prompt,negative_prompt; got {','.join(fields) or 'nothing'}."
                )
            styles = [
                Style(
                    row["name"],
                    row.get("prompt") or row.get("text") or "",
                    row.get("negative_prompt") or "",
                )
                for row in rows
                if row["name"] and not row["name"].startswith("#")
            ]
    except OSError as error:
        raise FileError(f"{path}: cannot be read: {error.strerror}.") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise FileError(f"{path}: is no table of styles in UTF-8: {error}.") from None
    return {style.name: style for style in styles}


def write_styles(path: Path, styles: Iterable[Style]) -> None:
    """Write a table that A1111 reads too."""
    with path.open("w", encoding="utf-8-sig", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["name", "prompt", "negative_prompt"])
        writer.writerows((s.name, s.prompt, s.negative_prompt) for s in styles)
