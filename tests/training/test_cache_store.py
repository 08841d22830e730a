"""The store gives back what was put, by content; what is edited is made again, and only that."""

import logging
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from safelight.errors import OutputError
from safelight.training.cache import Store, content_hash, key_of
from source_files import write_folder


def entry(number: int) -> dict[str, Tensor]:
    return {"mean": torch.full((2, 3), float(number)), "ids": torch.arange(number)}


def equal(one: Mapping[str, Tensor] | None, two: Mapping[str, Tensor]) -> bool:
    return (
        one is not None
        and one.keys() == two.keys()
        and all(one[n].dtype == two[n].dtype and torch.equal(one[n], two[n]) for n in two)
    )


def keys_in(folder: Path) -> set[str]:
    with Store(folder) as store:
        return store.keys()


def test_what_was_put_comes_back_before_and_after_it_is_written(tmp_path: Path) -> None:
    half = {"a": torch.randn(3).bfloat16(), "empty": torch.empty(0, 4), "scalar": torch.tensor(3)}
    with Store(tmp_path) as store:
        store.put("k", half)
        assert equal(store.get("k"), half) and list(tmp_path.iterdir()) == []
        store.flush()
        assert equal(store.get("k"), half) and len(list(tmp_path.iterdir())) == 1
    with Store(tmp_path) as store:
        assert equal(store.get("k"), half) and "k" in store and len(store) == 1
        assert store.get("other") is None and "other" not in store


def test_a_waiting_entry_is_a_copy(tmp_path: Path) -> None:
    made = torch.zeros(3)
    with Store(tmp_path) as store:
        store.put("k", {"a": made})
        made += 1
        assert equal(store.get("k"), {"a": torch.zeros(3)})


def test_files_are_written_when_they_are_full(tmp_path: Path) -> None:
    with Store(tmp_path, shard_bytes=400) as store:
        for number in range(20):
            store.put(f"k{number}", {"a": torch.zeros(25)})  # 100 bytes
        assert len(list(tmp_path.iterdir())) == 5
    assert keys_in(tmp_path) == {f"k{number}" for number in range(20)}


FACTS = {
    "kind": "latents",
    "content": content_hash(b"picture"),
    "maker": "vae1",
    "size": (128, 128),
    "crop": (0, 0),
    "flip": False,
    "dtype": "float16",
}
OTHER = {
    "kind": "text",
    "content": content_hash(b"another"),
    "maker": "vae2",
    "size": (128, 136),
    "crop": (0, 8),
    "flip": True,
    "dtype": "float32",
}


def test_a_key_depends_on_every_fact_and_on_no_order() -> None:
    keys = {key_of(**FACTS)}  # type: ignore[arg-type]
    keys |= {key_of(**{**FACTS, name: value}) for name, value in OTHER.items()}  # type: ignore[arg-type]
    assert len(keys) == 1 + len(OTHER)
    assert key_of(**dict(reversed(FACTS.items()))) in keys  # type: ignore[arg-type]
    assert key_of("a", "b", "c", x="1") != key_of("a", "b", "c", x=1)


def encoded(store: Store, folder: Path, maker: str, size: int) -> list[str]:
    """Fill the store as a trainer does; the names of the pictures that had to be encoded."""
    made: list[str] = []
    paths = sorted(folder.glob("*.png"))
    keys = [key_of("latents", content_hash(p.read_bytes()), maker, size=size) for p in paths]

    def make(places: list[int]) -> list[dict[str, Tensor]]:
        made.extend(paths[i].stem for i in places)
        return [entry(i) for i in places]

    store.computed(keys, make)
    return made


def test_exactly_what_changed_is_made_again(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "set", {"a": None, "b": None, "c": None})
    with Store(tmp_path / "cache") as store:
        assert encoded(store, folder, "vae", 128) == ["a", "b", "c"]
        assert encoded(store, folder, "vae", 128) == []
    with Store(tmp_path / "cache") as store:
        (folder / "b.png").write_bytes(b"edited")
        assert encoded(store, folder, "vae", 128) == ["b"]
        (folder / "c.png").rename(folder / "d.png")
        assert encoded(store, folder, "vae", 128) == [], "a name is no content"
        assert encoded(store, folder, "vae", 256) == ["a", "b", "d"]
        assert encoded(store, folder, "other", 128) == ["a", "b", "d"]


def test_two_of_the_same_content_are_made_once_and_given_twice(tmp_path: Path) -> None:
    asked: list[list[int]] = []

    def make(places: list[int]) -> list[dict[str, Tensor]]:
        asked.append(places)
        return [entry(i + 5) for i in places]

    with Store(tmp_path) as store:
        store.put("x", entry(1))
        found = store.computed(["y", "x", "y", "z"], make)
    assert asked == [[0, 3]]
    assert all(equal(f, entry(n)) for f, n in zip(found, (5, 1, 5, 8), strict=True))


def test_pruning_leaves_what_is_wanted_and_frees_the_rest(tmp_path: Path) -> None:
    with Store(tmp_path, shard_bytes=400) as store:
        for number in range(12):
            store.put(f"k{number}", {"a": torch.full((25,), float(number))})
        before = sum(path.stat().st_size for path in tmp_path.iterdir())
        kept = {"k0", "k1", "k2", "k3", "k5"}
        assert store.prune({*kept, "unknown"}) == 7
        assert store.keys() == kept and len(list(tmp_path.iterdir())) == 2
        assert sum(path.stat().st_size for path in tmp_path.iterdir()) < before
    with Store(tmp_path) as store:
        assert store.keys() == kept
        assert all(equal(store.get(k), {"a": torch.full((25,), float(k[1:]))}) for k in kept)


def test_a_damaged_file_is_told_and_its_entries_are_made_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with Store(tmp_path, shard_bytes=1) as store:
        store.put("a", entry(1))
        store.put("b", entry(2))
    damaged = next(tmp_path.iterdir())
    damaged.write_bytes(damaged.read_bytes()[:-3])
    with caplog.at_level(logging.WARNING), Store(tmp_path) as store:
        assert len(store) == 1 and damaged.name in caplog.text
        made = store.computed(["a", "b"], lambda places: [entry(p + 1) for p in places])
        assert equal(made[0], entry(1)) and equal(made[1], entry(2))
    assert keys_in(tmp_path) == {"a", "b"}


def test_another_process_finds_what_was_written_since(tmp_path: Path) -> None:
    with Store(tmp_path) as reader, Store(tmp_path) as writer:
        writer.put("k", entry(3))
        writer.flush()
        assert "k" not in reader
        reader.refresh()
        assert equal(reader.get("k"), entry(3))


def test_what_two_processes_wrote_alike_is_kept_once_by_pruning(tmp_path: Path) -> None:
    with Store(tmp_path) as one, Store(tmp_path) as two:
        one.put("k", entry(3))
        two.put("k", entry(3))
    with Store(tmp_path) as store:
        assert len(list(tmp_path.iterdir())) == 2
        assert store.prune({"k"}) == 0
        assert len(list(tmp_path.iterdir())) == 1 and equal(store.get("k"), entry(3))


def test_a_disk_that_is_full_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = SimpleNamespace(free=10)
    with Store(tmp_path) as store:
        store.put("k", entry(3))
        with monkeypatch.context() as full:
            full.setattr("shutil.disk_usage", lambda _: usage)
            with pytest.raises(OutputError, match="10 are free"):
                store.flush()
        assert list(tmp_path.iterdir()) == [] and equal(store.get("k"), entry(3))
    assert keys_in(tmp_path) == {"k"}


def test_an_entry_without_tensors_or_with_a_slash_is_our_own_mistake(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        for key, tensors in (("k", {}), ("a/b", entry(1)), ("k", {"a/b": torch.zeros(1)})):
            with pytest.raises(ValueError, match="an entry needs"):
                store.put(key, tensors)
