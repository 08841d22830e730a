"""Texts from files made fit for a message: one line, no control characters, bounded."""

import os
import reprlib


def shown(text: object, limit: int = 240) -> str:
    """The text with control characters escaped and its middle left out past `limit` characters.

    Names in a file and names of files may hold newlines or terminal escapes; printed raw they
    could rewrite the screen of the reader.
    """
    raw = os.fspath(text) if isinstance(text, os.PathLike) else text
    flat = raw if isinstance(raw, str) else reprlib.repr(raw)
    if len(flat) > limit:
        flat = f"{flat[: limit // 2]}...{flat[-limit // 2 :]}"
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in flat)
