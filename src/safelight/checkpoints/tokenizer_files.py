"""A CLIP tokenizer's files as Transformers writes them: its vocabulary, both ways."""

import json
from pathlib import Path

from safelight.checkpoints.json_object import read_object
from safelight.checkpoints.regular_file import RegularFile
from safelight.errors import CheckpointError, FileError
from safelight.printable import shown
from safelight.text.vocabulary import (
    CLIP_VOCABULARY,
    END_TEXT,
    START_TEXT,
    Vocabulary,
    check_ids,
    merges_file,
    vocabulary_of,
)
from safelight.writing import write_text

MAX_MERGES = 32 * 2**20
_FAST = "tokenizer.json"


def read_vocabulary(folder: Path) -> Vocabulary | None:
    """The vocabulary of a tokenizer's folder; None if it holds no tokens.

    `vocab.json` and `merges.txt` are read, or else `tokenizer.json`. CLIP's own with tokens added
    behind it is CLIP's own. Raises CheckpointError for a tokenizer of another kind, FileError for
    damaged files; nothing of them runs.
    """
    if (folder / "vocab.json").is_file():
        ids = read_object(folder / "vocab.json").values
        if _is_clips(ids):
            return CLIP_VOCABULARY
        if (folder / "merges.txt").is_file():
            with_name = folder / "merges.txt"
            return _checked(with_name, _text(with_name), ids)
        if not (folder / _FAST).is_file():
            raise CheckpointError(
                f"{shown(folder / 'vocab.json')} has {len(ids)} tokens; expected CLIP's "
                f"{CLIP_VOCABULARY.size}, or a merges.txt beside it that tells how they are made"
            )
    return _fast(folder / _FAST) if (folder / _FAST).is_file() else None


def write_tokenizer(folder: Path, vocabulary: Vocabulary, *, pad: int | None) -> None:
    """vocab.json, merges.txt and the two small JSON files; `pad` as in `TextRole`."""
    folder.mkdir()
    write_text(folder / "vocab.json", json.dumps(vocabulary.ids, ensure_ascii=False))
    write_text(folder / "merges.txt", merges_file(vocabulary))
    special = {
        "bos_token": START_TEXT,
        "eos_token": END_TEXT,
        "unk_token": END_TEXT,
        "pad_token": END_TEXT if pad is None else vocabulary.tokens[pad],
    }
    write_text(folder / "special_tokens_map.json", json.dumps(special, indent=2))
    config = {
        **special,
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": 77,
        "do_lower_case": True,
        "add_prefix_space": False,
        "errors": "replace",
    }
    write_text(folder / "tokenizer_config.json", json.dumps(config, indent=2))


def _is_clips(ids: dict[str, object] | object) -> bool:
    """Whether CLIP's tokens are there, each with its id, and maybe others behind them."""
    if not isinstance(ids, dict) or len(ids) < CLIP_VOCABULARY.size:
        return False
    own = CLIP_VOCABULARY.ids
    return all(ids.get(token) == number for token, number in own.items())


def _fast(path: Path) -> Vocabulary:
    """The vocabulary in the one file that the `tokenizers` library writes."""
    model = read_object(path).values.get("model")
    kind = model.get("type") if isinstance(model, dict) else None
    ids = model.get("vocab") if isinstance(model, dict) else None
    merges = model.get("merges") if isinstance(model, dict) else None
    if not isinstance(ids, dict):
        raise CheckpointError(f"{shown(path)} is no byte-pair tokenizer: it lists no tokens")
    if _is_clips(ids):
        return CLIP_VOCABULARY
    if kind not in ("BPE", None) or not isinstance(merges, list):
        raise CheckpointError(
            f"{shown(path)} has {len(ids)} tokens of a {shown(kind)} tokenizer; expected CLIP's "
            f"{CLIP_VOCABULARY.size}, or the merges of a byte-pair tokenizer"
        )
    pairs = (
        " ".join(map(str, merge)) if isinstance(merge, list) else str(merge) for merge in merges
    )
    return _checked(path, "\n".join(pairs), ids)


def _checked(path: Path, merges: str, ids: object) -> Vocabulary:
    try:
        vocabulary = vocabulary_of(merges)
        assert isinstance(ids, dict)
        check_ids(vocabulary, ids)
    except CheckpointError as error:
        raise CheckpointError(f"{shown(path)}: {error}") from None
    return vocabulary


def _text(path: Path) -> str:
    file = RegularFile(path)
    try:
        if file.size > MAX_MERGES:
            raise FileError(f"{shown(path)} has {file.size} bytes; at most {MAX_MERGES} are read")
        return file.bytes(0, file.size).decode("utf-8")
    except UnicodeDecodeError:
        raise FileError(f"{shown(path)} is not text in UTF-8") from None
    finally:
        file.close()
