"""A CLIP a thousand times smaller than ours, and batches for it."""

import torch

from safelight.models.clip import ClipTextConfig, ClipVisionConfig
from safelight.training.clip.network import ClipNetwork
from safelight.training.clip.task import ClipBatch

VOCABULARY, SIDE, LENGTH, TEACHER = 60, 16, 8, 12
EOS = VOCABULARY - 1


def tiny_clip(seed: int = 0) -> ClipNetwork:
    text = ClipTextConfig(2, 32, 2, 64, "gelu", 24, VOCABULARY, 16, EOS)
    vision = ClipVisionConfig(2, 32, 2, 64, "gelu", 24, SIDE, 4)
    return ClipNetwork(text, vision, teacher_width=TEACHER, seed=seed)


def tiny_tokens(count: int, rng: torch.Generator, length: int = LENGTH) -> torch.Tensor:
    """Start, 1 to length - 2 tokens, end, and the end again."""
    tokens = torch.randint(0, VOCABULARY - 2, (count, length), generator=rng)
    ends = torch.randint(2, length, (count, 1), generator=rng)
    tokens[:, 0] = VOCABULARY - 2
    return tokens.masked_fill(torch.arange(length) >= ends, EOS)


def tiny_batch(count: int = 8, *, seed: int = 0, pairs: bool = True) -> ClipBatch:
    """Pairs in which rows 0 and 1 show the same and rows 2 and 3 say the same; and phrases."""
    rng = torch.Generator().manual_seed(seed)
    phrases = tiny_tokens(count, rng, LENGTH - 2)
    vectors = torch.nn.functional.normalize(torch.randn(count, TEACHER, generator=rng), dim=-1)
    if not pairs:
        return ClipBatch(phrase_tokens=phrases, phrase_vectors=vectors)
    tokens = tiny_tokens(count, rng)
    tokens[3] = tokens[2]
    groups = torch.arange(count)
    groups[1] = groups[0]
    pictures = torch.rand(count, 3, SIDE, SIDE, generator=rng) * 2 - 1
    return ClipBatch(pictures, tokens, groups, None, phrases, vectors)
