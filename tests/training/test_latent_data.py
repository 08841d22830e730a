import logging
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from diffusion_lab import CAPTIONS, codec, conditioner, frozen_text, shapes
from safelight.training.draw import Draw
from safelight.training.latent_data import EncodedPictures, PoolsBySize
from safelight.training.latent_pool import LatentPool
from safelight.training.picture_data import PictureBatch
from safelight.training.text_states import tokens_of

TEXT = frozen_text()
TOKENS = tokens_of(TEXT.conditioner, CAPTIONS).ids


def two_sizes() -> PoolsBySize:
    square = LatentPool(shapes(3), TOKENS[:3])
    wide = LatentPool(torch.cat([shapes(2, seed=1)] * 2, dim=3), TOKENS[3:5])
    return PoolsBySize((square, wide), [(0, 0), (1, 1), (0, 2), (1, 0), (0, 1)])


def test_examples_of_several_sizes_come_from_the_pool_of_theirs() -> None:
    data = two_sizes()
    assert len(data) == 5
    assert data.buckets == [(8, 8), (8, 16), (8, 8), (8, 16), (8, 8)]
    batch = data.batch([3, 1], Draw(0, 0, 2))
    assert torch.equal(batch.latents, data.pools[1].latents[[0, 1]])
    assert batch.tokens is not None and torch.equal(batch.tokens, TOKENS[[3, 4]])
    with pytest.raises(ValueError, match=r"latents of one size; got \[\(8, 8\), \(8, 16\)\]"):
        data.batch([0, 1], Draw(0, 0, 2))


class Album:
    """A `Data` of pictures with captions."""

    def __init__(self, captions: Sequence[str]) -> None:
        rng = torch.Generator().manual_seed(0)
        self.pictures = torch.rand(len(captions), 3, 16, 16, generator=rng) * 2 - 1
        self.captions = captions

    def __len__(self) -> int:
        return len(self.captions)

    def batch(self, indices: Sequence[int], draw: Draw) -> PictureBatch:
        rows = list(indices)
        return PictureBatch(
            self.pictures[rows],
            [self.captions[i] for i in rows],
            torch.arange(6).repeat(len(rows), 1),
            tuple(f"picture {i}" for i in rows),
        )


def test_pictures_are_encoded_as_they_are_asked_for() -> None:
    album, made, text = Album(CAPTIONS), codec(scale=0.5), conditioner()
    data = EncodedPictures(album, made, text, choice="mode")
    batch = data.batch([4, 2], Draw(0, 0, 2))
    with torch.no_grad():
        expected = made.encode(album.pictures[[4, 2]]).mode()
    assert torch.allclose(batch.latents, expected, atol=1e-6)
    assert not batch.latents.requires_grad
    assert batch.tokens is not None and torch.equal(batch.tokens, TOKENS[[4, 2]])
    assert batch.sizes is None and len(data) == 8


def test_samples_are_a_function_of_the_step_whatever_the_parts() -> None:
    data = EncodedPictures(Album(CAPTIONS), codec(), conditioner())

    def latents(step: int, parts: int) -> Tensor:
        size = 8 // parts
        made = [
            data.batch(range(s, s + size), Draw(0, step, 8, s, size)).latents
            for s in range(0, 8, size)
        ]
        return torch.cat(made)

    assert torch.allclose(latents(0, 1), latents(0, 4), atol=1e-5)
    assert not torch.allclose(latents(0, 1), latents(1, 1), atol=1e-2)


def test_captions_that_are_cut_are_counted_and_told_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    data = EncodedPictures(Album(["short", "word " * 90]), codec(), conditioner())
    with caplog.at_level(logging.WARNING):
        for step in range(3):
            data.batch([0, 1], Draw(0, step, 2))
    assert data.cut == {"picture 1": 3}
    assert [r.getMessage() for r in caplog.records] == [
        "the caption of picture 1 is longer than the text encoder reads: 15 tokens left out"
    ]
