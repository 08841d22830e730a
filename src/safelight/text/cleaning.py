"""What reference tokenizers do to a text before they split it.

"openai" is what CLIP was trained with (OpenAI's tokenizer and open_clip's); "transformers" is the
fast tokenizer of transformers 5, which neither repairs mojibake nor resolves HTML entities.
"""

import html
import re
import unicodedata
from collections.abc import Callable, Mapping
from typing import Literal

Cleaning = Literal["openai", "transformers"]

_WHITE_SPACE = re.compile(r"[\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]+")


def openai(text: str) -> str:
    """Repaired text (ftfy), HTML entities resolved twice, one blank between words, lower case."""
    if not _plain(text):
        import ftfy  # its tables take longer to load than a prompt takes to read

        text = html.unescape(html.unescape(ftfy.fix_text(text)))
    return " ".join(text.split()).lower()


def transformers(text: str) -> str:
    """Composed characters (NFC), one blank for any white space, each letter lowered by itself.

    Lowering each letter by itself is why a final capital sigma stays an ordinary one.
    """
    text = _WHITE_SPACE.sub(" ", unicodedata.normalize("NFC", text))
    return text.lower() if text.isascii() else "".join(map(str.lower, text))


CLEANINGS: Mapping[Cleaning, Callable[[str], str]] = {
    "openai": openai,
    "transformers": transformers,
}


def _plain(text: str) -> bool:
    """Whether the repairs cannot change this text: printable ASCII without entities."""
    return text.isascii() and "&" not in text and text.translate(_BREAKS).isprintable()


_BREAKS = {ord("\n"): " ", ord("\t"): " "}
