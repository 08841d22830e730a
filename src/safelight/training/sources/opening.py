"""A source from the name of a file or folder, whatever kind it is."""

from pathlib import Path

from safelight.errors import FileError
from safelight.printable import shown
from safelight.training.sources.example import Source
from safelight.training.sources.folder import open_folder
from safelight.training.sources.huggingface import is_dataset, open_dataset
from safelight.training.sources.tables import ENDINGS, STEMS
from safelight.training.sources.webdataset import open_shards, shard_paths


def open_source(
    name: str | Path,
    *,
    caption: str | None = None,
    image: str | None = None,
    split: str | None = None,
) -> Source:
    """The examples of a folder of pictures, tar shards, a table of captions, or a saved dataset.

    caption and image name the columns (or fields) that hold them where the usual names do not;
    split names the part of a dataset that has several. Raises FileError if there is nothing of
    that name, or it is of no kind we know.
    """
    path = Path(name)
    if str(name).endswith(".tar"):
        return open_shards(shard_paths(str(name)), caption=caption)
    if path.is_file() and path.suffix.lower() in ENDINGS:
        return open_folder(path.parent, table=path, file=image, caption=caption)
    if not path.is_dir():
        what = "is no data set we know" if path.exists() else "does not exist"
        raise FileError(
            f"{shown(path)} {what}; expected a folder of pictures, .tar shards, a table "
            f"({', '.join(ENDINGS)}), or a saved dataset"
        )
    if any(path.glob("*.tar")):
        return open_shards(shard_paths(str(path)), caption=caption)
    table = any((path / (stem + ending)).is_file() for stem in STEMS for ending in ENDINGS)
    if is_dataset(path) and not table:
        return open_dataset(path, split=split, image=image, caption=caption)
    return open_folder(path, file=image, caption=caption)
