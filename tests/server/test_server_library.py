"""Models in memory: their bytes, and what is let go of when they are too many."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from torch import Tensor

from cli_tiny import tiny_model
from safelight.server import library
from safelight.server.library import Library, bytes_of
from safelight.tasks.request import Request


def test_the_bytes_of_a_model_are_those_of_its_weights_and_its_words_are_not_looked_at(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = tiny_model(0)
    looks = 0
    tensors = library._tensors

    def counted(value: object, seen: set[int], depth: int) -> Iterator[Tensor]:
        nonlocal looks
        looks += 1
        return tensors(value, seen, depth)

    monkeypatch.setattr(library, "_tensors", counted)
    size = bytes_of(model)
    modules = (model.text.encoders[0], model.network.unet, model.codec.autoencoder)
    weights = sum(p.nbytes for module in modules for p in module.parameters())
    assert weights <= size < 1.01 * weights
    assert looks < 10_000  # a vocabulary alone has 49,408 tokens, and each a pair it is made of


def test_the_models_used_longest_ago_go_until_the_rest_fit(
    tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sized = 0
    measured = library.bytes_of

    def counted(value: object) -> int:
        nonlocal sized
        sized += 1
        return measured(value)

    monkeypatch.setattr(library, "bytes_of", counted)
    data = (models / "one.safetensors").read_bytes()
    shelf = Library(int(2.5 * len(data)), previews=False)
    for name in "abcd":
        path = tmp_path / f"{name}.safetensors"
        path.write_bytes(data)
        shelf.of(name, Request(prompt="", model=str(path), device="cpu", dtype="fp32"))
    assert shelf.loaded == {"c", "d"}
    assert sized < 8 * 4 * 2  # each model that stays is measured a few times for one that comes
    assert shelf.bytes == shelf.size < shelf.budget
