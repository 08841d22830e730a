"""How good a CLIP is: what it finds among pictures and captions it never saw, and its words.

Shapes: N pictures or texts, P width of the embeddings.
"""

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from safelight.text.bpe import Tokenizer
from safelight.training.clip.contrastive import caption_keys, recall, right_pairs
from safelight.training.clip.network import ClipNetwork
from safelight.training.clip.phrase_data import token_rows
from safelight.training.clip.task import ClipBatch

WORDS = (
    "puppy", "automobile", "happy", "sad", "kitten", "bicycle", "ocean", "beverage", "fruit",
    "aeroplane", "money", "winter", "angry", "doctor", "night", "insect", "music", "fire",
)  # fmt: skip
"""Words whose nearest names tell whether a text tower learned language."""


@torch.no_grad()
def retrieval(network: ClipNetwork, batches: Iterable[ClipBatch]) -> dict[str, float]:
    """Recall at 1 and 5 among all pairs of the batches: the share of right answers found.

    "text" finds captions for pictures, of which equal ones count once; "picture" finds pictures
    for captions. All that is right counts, as `ClipBatch` says. Unchanged pictures; leaves the
    network as it was. Raises ValueError for a batch without pairs.
    """
    was_training = network.training
    network.eval()
    try:
        found = [_embedded(network, batch) for batch in batches]
    finally:
        network.train(was_training)
    pictures, texts, keys, groups, said = (torch.cat(parts) for parts in zip(*found, strict=True))
    right = right_pairs(groups, said) | (keys[:, None] == keys)
    logits = pictures @ texts.T
    first = _first_of_each(keys)
    result = {"pairs": float(len(keys)), "captions": float(len(first))}
    for count in (1, 5):
        to_texts = recall(logits[:, first], right[:, first], count)
        to_pictures = recall(logits[:, first].T, right[:, first].T, count)
        result[f"text_recall@{count}"] = float(to_texts)
        result[f"picture_recall@{count}"] = float(to_pictures)
    return result


@torch.no_grad()
def text_embeddings(
    network: ClipNetwork,
    tokenizer: Tokenizer,
    texts: Sequence[str],
    *,
    length: int = 77,
    batch: int = 256,
) -> Tensor:
    """Unit vectors (N, P) of texts, float32, on the network's device."""
    device = network.log_scale.device
    parts = []
    for start in range(0, len(texts), batch):
        tokens = token_rows(texts[start : start + batch], tokenizer, length).to(device)
        pooled = network.text(tokens).pooled
        assert pooled is not None
        parts.append(F.normalize(pooled.float(), dim=-1))
    return torch.cat(parts)


def nearest_names(
    network: ClipNetwork,
    tokenizer: Tokenizer,
    names: Sequence[str],
    words: Sequence[str] = WORDS,
    *,
    count: int = 5,
) -> Mapping[str, tuple[str, ...]]:
    """For each word the `count` names whose texts lie nearest to it, the nearest first."""
    among = text_embeddings(network, tokenizer, names)
    cosines = text_embeddings(network, tokenizer, words) @ among.T
    best = cosines.topk(min(count, len(names)), dim=1).indices.tolist()
    return {word: tuple(names[at] for at in row) for word, row in zip(words, best, strict=True)}


def agreement(network: ClipNetwork, tokens: Tensor, vectors: Tensor, batch: int = 512) -> float:
    """The correlation of the network's cosines between phrases with the teacher's, -1 to 1.

    tokens (N, L), vectors (N, W): of phrases that were held out, say. N x N numbers are compared.
    """
    with torch.no_grad():
        parts = [network.text(rows).pooled for rows in tokens.split(batch)]
    own = F.normalize(torch.cat([p for p in parts if p is not None]).float(), dim=-1)
    pairs = torch.triu_indices(len(own), len(own), 1, device=own.device)
    theirs = F.normalize(vectors.float(), dim=-1)
    both = torch.stack([(v @ v.T)[pairs[0], pairs[1]] for v in (own, theirs)])
    return float(torch.corrcoef(both)[0, 1])


def _embedded(network: ClipNetwork, batch: ClipBatch) -> tuple[Tensor, ...]:
    if batch.pictures is None or batch.tokens is None:
        raise ValueError("recall needs batches with pictures and captions")
    # not the call that may be compiled: for these shapes it would be compiled anew
    features = network.forward(batch.pictures, batch.tokens)
    assert features.pictures is not None and features.texts is not None
    pictures, texts = (F.normalize(x.float(), dim=-1) for x in (features.pictures, features.texts))
    keys = caption_keys(batch.tokens)
    groups = keys if batch.groups is None else batch.groups
    said = groups if batch.said is None else batch.said
    return pictures, texts, keys, groups, said


def _first_of_each(keys: Tensor) -> Tensor:
    """Where each different key stands first, in order."""
    earlier = (keys[:, None] == keys).tril(-1).any(1)
    return (~earlier).nonzero().flatten()
