"""Reference tokenizers and the odd strings on which ours must agree with them."""

import gzip
import importlib.util
import json
import sys
import types
from pathlib import Path

BPE_FILE = Path(__file__).parents[1] / "src/safelight/text/data/bpe_simple_vocab_16e6.txt.gz"


def transformers_tokenizer():
    """transformers' CLIPTokenizer on the vocabulary that our file of merges spells."""
    from transformers.models.clip.tokenization_clip import CLIPTokenizer

    lines = gzip.decompress(BPE_FILE.read_bytes()).decode("utf-8").split("\n")[1 : 48894 + 1]
    visible = [*range(33, 127), *range(161, 173), *range(174, 256)]
    symbols = [chr(b) for b in visible] + [chr(256 + i) for i in range(256 - len(visible))]
    names = [*symbols, *(s + "</w>" for s in symbols), *(line.replace(" ", "") for line in lines)]
    vocabulary = {name: i for i, name in enumerate([*names, "<|startoftext|>", "<|endoftext|>"])}
    merges = [tuple(line.split(" ")) for line in lines]
    return CLIPTokenizer(vocab=vocabulary, merges=merges)


def open_clip_tokenizer():
    """open_clip's SimpleTokenizer, from its file alone: the package imports torchvision."""
    package = importlib.util.find_spec("open_clip")
    assert package is not None and package.submodule_search_locations, "install open_clip_torch"
    path = Path(package.submodule_search_locations[0]) / "tokenizer.py"
    spec = importlib.util.spec_from_file_location("open_clip_tokenizer_alone", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    assert isinstance(module, types.ModuleType)
    return module.SimpleTokenizer()


def recorded_ids() -> dict[str, list[int]]:
    """Several hundred odd strings, and the ids that open_clip's tokenizer gave them.

    Emoji, scripts of the world, HTML entities, mojibake, ligatures, final sigma, digits,
    contractions, control characters, byte order marks, very long words, special tokens spelled
    out, and random mixtures of these.
    """
    recorded = json.loads((Path(__file__).parent / "text" / "odd_strings.json").read_text())
    return recorded["ids"]


def odd_strings() -> list[str]:
    return list(recorded_ids())
