"""CLIP's tokenizer as the files that Transformers reads, from the vocabulary we ship."""

import json
from pathlib import Path

from safelight.text.bpe import merges, token_text, vocabulary
from safelight.text.spec import BOS, EOS
from safelight.writing import write_text


def write_tokenizer(folder: Path, *, pad: int) -> None:
    """vocab.json, merges.txt and the two small JSON files; `pad` is the id of the padding."""
    folder.mkdir()
    tokens = vocabulary()
    start, end = token_text(BOS), token_text(EOS)
    ids = {token: i for i, token in enumerate(tokens)}
    write_text(folder / "vocab.json", json.dumps(ids, ensure_ascii=False))
    write_text(folder / "merges.txt", "\n".join(["#version: 0.2", *merges(), ""]))
    special = {
        "bos_token": start,
        "eos_token": end,
        "unk_token": end,
        "pad_token": tokens[pad],
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
