"""Builds the shards of emoji pictures with words from pinned packages of the npm registry.

    pip install resvg_py==0.5.0
    python scripts/emoji_pairs.py shards --packages packages --download

Eight styles by six families of artists, RGBA at 128x128 as WebP in plain tar shards
(`STYLE_HEXCODE.webp`, then `.json`), the words of emojibase and emojilib beside each. Nothing is
fetched without `--download`, which calls `npm pack`; every package, fetched or given, must have the
checksum written here. The folder also gets SOURCES.json and SOURCES.md: packages, licences, credits
and counts, to be passed on with the pictures and with what is trained on them.
"""

import argparse
import base64
import hashlib
import json
import os
import re
import subprocess
import sys
import tarfile
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from typing import Any

from emoji_sources import INSTEAD, LEFT_OUT, MORE_WORDS, SHORTCODES, STYLES, WORDS, Package, Style

from safelight.errors import FileError, SafelightError
from safelight.printable import shown
from safelight.training.scenes.catalogue import CORE_GROUPS, HELDOUT_COMBO, TRAIN
from safelight.training.scenes.holdout import digest, held_out_families
from safelight.writing import make_folder, write_text, write_whole

SIDE, DRAWN = 128, 256  # stored; drawn at, before it is reduced
QUALITY = 90
PER_SHARD = 2000
KEYWORDS = 16
MEMBER_LIMIT = 256 << 20  # bytes of one file in a package

Json = dict[str, Any]


def main(arguments: Sequence[str] | None = None) -> int:
    """Build the shards; the exit code is 0, or 1 with a message if that failed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, help="a new folder for the shards")
    parser.add_argument("--packages", type=Path, required=True, help="where the .tgz files lie")
    parser.add_argument("--download", action="store_true", help="fetch what is missing with npm")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--limit", type=int, help="only so many pictures of each style")
    parser.add_argument("--list", action="store_true", help="only tell what would be drawn")
    given = parser.parse_args(arguments)
    try:
        if given.download:
            download(given.packages)
        drawings = [d for style in STYLES for d in matched(style, given.packages)]
        samples = limited(with_words(drawings, given.packages), given.limit)
        if given.list:
            print(json.dumps([words for words, _ in samples], ensure_ascii=False))
            return 0
        make_folder(given.folder)
        count = write_shards(given.folder, drawn(samples, given.packages, given.workers))
        write_sources(given.folder, [words for words, _ in samples])
        print(f"{count} pictures in {shown(given.folder)}")
    except SafelightError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


# Packages ----------------------------------------------------------------------------------------


def download(folder: Path) -> None:
    """Fetch the packages that are missing with `npm pack`. Raises FileError if that fails."""
    make_folder(folder)
    for package in (WORDS, MORE_WORDS, *(style.package for style in STYLES)):
        if (folder / package.file).exists():
            continue
        command = ["npm", "pack", f"{package.name}@{package.version}", "--pack-destination"]
        try:
            subprocess.run([*command, str(folder)], check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError) as error:
            raise FileError(
                f"npm could not fetch {package.name}@{package.version}: {error}"
            ) from None


def opened(package: Package, folder: Path) -> bytes:
    """The bytes of a package, checked. Raises FileError if it is missing or another."""
    path = folder / package.file
    try:
        data = path.read_bytes()
    except OSError as error:
        raise FileError(
            f"{shown(path)} cannot be read ({error.strerror}); give --download to fetch it"
        ) from None
    found = base64.b64encode(hashlib.sha512(data).digest()).decode()
    if found != package.sha512:
        raise FileError(f"{shown(path)} is not {package.name}@{package.version}: other checksum")
    return data


def members(data: bytes, names: Iterable[str]) -> Iterator[tuple[str, bytes]]:
    """Files of a package by their names, read from the stream and never extracted."""
    wanted = set(names)
    with tarfile.open(fileobj=BytesIO(data), mode="r|gz") as archive:
        for member in archive:
            if member.name in wanted and member.isreg():
                if member.size > MEMBER_LIMIT:
                    raise FileError(f"{shown(member.name)} has {member.size} bytes; too many")
                stream = archive.extractfile(member)
                assert stream is not None
                yield member.name, stream.read()


def documents(package: Package, folder: Path, *names: str) -> list[Any]:
    """JSON files of a package; None for one that it does not have."""
    paths = [f"package/{name}" for name in names]
    found = dict(members(opened(package, folder), paths))
    return [json.loads(found[path]) if path in found else None for path in paths]


# Which picture shows which concept ----------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Drawing:
    """A concept in a style: an SVG to be drawn, or a file of the style's package."""

    style: Style
    hexcode: str
    source_name: str
    svg: str | None


def concepts(folder: Path) -> list[Json]:
    """Emojibase's concepts without skin tones, hair and lone letters of flags."""
    (data,) = documents(WORDS, folder, "en/data.json")
    return [entry for entry in data if entry.get("group") not in (None, 2)]


def matched(style: Style, folder: Path) -> list[Drawing]:
    """The drawings of a style; country flags are taken from twemoji only."""
    left_out = LEFT_OUT.get(style.name, frozenset())
    chosen = [
        entry
        for entry in concepts(folder)
        if (entry["group"] != 9 or style.name == "twemoji") and entry["hexcode"] not in left_out
    ]
    if style.name == "fluent-3d":
        return _files(style, folder, chosen)
    (icons,) = documents(style.package, folder, "icons.json")
    codes = documents(WORDS, folder, *(f"en/shortcodes/{name}.json" for name in SHORTCODES))
    names = match_names(chosen, icons, codes, INSTEAD.get(style.name, {}))
    drawings: dict[str, Drawing] = {}
    # A drawing under several names goes to the first: as two concepts it would contradict itself.
    for hexcode, name in sorted(names.items(), key=lambda pair: pair[1]):
        body = icons["icons"][name]["body"]
        drawings.setdefault(body, Drawing(style, hexcode, name, _svg(icons, name)))
    return sorted(drawings.values(), key=lambda drawing: drawing.hexcode)


def match_names(
    chosen: Sequence[Json],
    icons: Json,
    shortcodes: Sequence[Json],
    instead: Mapping[str, str],
) -> dict[str, str]:
    """The icon of each concept by its hexcode; an icon serves one concept.

    `instead` has the first word. Then come icons of the concept's full name, then aliases of that
    name, then short codes. All concepts have their turn in one before the next begins.
    """
    aliases = icons.get("aliases", {})
    found = dict(instead)
    taken = set(instead.values())

    def resolved(name: str) -> str | None:
        while name in aliases:
            name = aliases[name]["parent"]
        return name if name in icons["icons"] else None

    def claim(entry: Json, names: Iterable[str], *, through_aliases: bool = True) -> None:
        if entry["hexcode"] in found:
            return
        for name in names:
            icon = resolved(name) if through_aliases or name in icons["icons"] else None
            if icon is not None and icon not in taken:
                taken.add(icon)
                found[entry["hexcode"]] = icon
                return

    for entry in chosen:
        claim(entry, spellings(entry["label"]), through_aliases=False)
    for entry in chosen:
        claim(entry, spellings(entry["label"]))
    for table in shortcodes:
        for entry in chosen:
            codes = table.get(entry["hexcode"], [])
            for code in [codes] if isinstance(codes, str) else codes:
                claim(entry, spellings(code))
    return found


def spellings(name: str) -> tuple[str, str]:
    """A name as sets of icons write it: with hyphens, and run together; other letters dropped."""
    plain = name.lower().replace("’", "").replace("'", "").encode("ascii", "ignore").decode()
    hyphened = re.sub(r"[^a-z0-9]+", "-", plain).strip("-")
    return hyphened, hyphened.replace("-", "")


def _files(style: Style, folder: Path, chosen: Sequence[Json]) -> list[Drawing]:
    """Drawings that lie in the package as files named by code point."""
    names = {name: code for entry in chosen for code in [entry["hexcode"]] for name in _names(code)}
    there: dict[str, str] = {}
    seen: set[bytes] = set()
    paths = [f"package/assets/{name}" for name in names]
    for path, data in sorted(
        members(opened(style.package, folder), paths), key=lambda m: Path(m[0]).stem
    ):
        content = hashlib.sha512(data).digest()
        if content not in seen:  # one drawing under several names keeps the first
            seen.add(content)
            there.setdefault(names[Path(path).name], Path(path).name)
    return [Drawing(style, code, name, None) for code, name in sorted(there.items())]


def _names(hexcode: str) -> tuple[str, ...]:
    """The file names that a code point may have: with the mark for colour, or without."""
    code = hexcode.lower()
    return f"{code}.webp", f"{code.replace('-fe0f', '')}.webp", f"{code}-fe0f.webp"


def _svg(icons: Json, name: str) -> str:
    icon = icons["icons"][name]
    left, top, width, height = (
        icon.get(key, icons.get(key, default))
        for key, default in (("left", 0), ("top", 0), ("width", 16), ("height", 16))
    )
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="{left} {top} {width} {height}" width="{width}" height="{height}">'
        f"{icon['body']}</svg>"
    )


# Words -------------------------------------------------------------------------------------------


def with_words(drawings: Sequence[Drawing], folder: Path) -> list[tuple[Json, Drawing]]:
    """Each drawing with its words, in the order of the shards: by a digest, so each is a mix."""
    groups, subgroups = _group_names(folder)
    (more,) = documents(MORE_WORDS, folder, "dist/emoji-en-US.json")
    entries = {entry["hexcode"]: entry for entry in concepts(folder)}
    families: dict[str, set[str]] = defaultdict(set)
    for drawing in drawings:
        entry = entries[drawing.hexcode]
        if is_core(entry, groups):
            families[drawing.hexcode].add(drawing.style.family)
    lost = held_out_families(families)
    samples = []
    for drawing in drawings:
        entry, style = entries[drawing.hexcode], drawing.style
        held = lost.get(drawing.hexcode) == style.family
        words: Json = {
            "key": f"{style.name}_{drawing.hexcode.lower()}",
            "name": plain_name(entry["label"]),
            "keywords": keywords(entry, more.get(entry["emoji"], [])),
            "group": groups[str(entry["group"])],
            "subgroup": subgroups[str(entry["subgroup"])],
            "core": is_core(entry, groups),
            "style": style.name,
            "style_words": list(style.words),
            "family": style.family,
            "hexcode": drawing.hexcode,
            "emoji": entry["emoji"],
            "split": HELDOUT_COMBO if held else TRAIN,
            "source": style.package.name,
            "source_name": drawing.source_name,
            "licence": style.licence,
            "credit": style.credit,
        }
        samples.append((words, drawing))
    return sorted(samples, key=lambda sample: digest(sample[0]["key"]))


def limited(
    samples: Sequence[tuple[Json, Drawing]], limit: int | None
) -> list[tuple[Json, Drawing]]:
    """The first samples of each style, or all."""
    seen: Counter[str] = Counter()
    kept = []
    for words, drawing in samples:
        seen[drawing.style.name] += 1
        if limit is None or seen[drawing.style.name] <= limit:
            kept.append((words, drawing))
    return kept


def plain_name(label: str) -> str:
    """A label in lower case with typewriter's apostrophes and no quotation marks."""
    return re.sub("[“”]", "", label.lower()).replace("’", "'")


def keywords(entry: Json, more: Sequence[str]) -> list[str]:
    """Tags of both sources that are plain English letters, without the name itself."""
    found: dict[str, None] = {}
    for word in (*(entry.get("tags") or ()), *more):
        word = word.replace("_", " ")
        if word.isascii() and word != entry["label"].lower():
            found[word] = None
    return list(found)[:KEYWORDS]


def is_core(entry: Json, groups: Mapping[str, str]) -> bool:
    """Whether it is a thing to be drawn by name; clock faces, people and symbols are not."""
    clock = re.search(r"o’clock$|o'clock$|-thirty$", entry["label"]) is not None
    return groups[str(entry["group"])] in CORE_GROUPS and not clock


def _group_names(folder: Path) -> tuple[dict[str, str], dict[str, str]]:
    (meta,) = documents(WORDS, folder, "meta/groups.json")
    return meta["groups"], meta["subgroups"]


# Pictures ----------------------------------------------------------------------------------------


def drawn(
    samples: Sequence[tuple[Json, Drawing]], folder: Path, workers: int
) -> Iterator[tuple[Json, bytes]]:
    """Words and WebP of each sample, in order, drawn by a pool of processes."""
    files: dict[str, bytes] = {}
    for style in STYLES:
        names = [d.source_name for _, d in samples if d.svg is None and d.style == style]
        if names:
            paths = [f"package/assets/{name}" for name in names]
            found = members(opened(style.package, folder), paths)
            files |= {Path(path).name: data for path, data in found}
    if any(d.svg is not None for _, d in samples) and not find_spec("resvg_py"):
        raise SafelightError("SVG is drawn with resvg_py, which is missing: pip install resvg_py")
    tasks = [d.svg if d.svg is not None else files[d.source_name] for _, d in samples]
    with ProcessPoolExecutor(workers) as pool:
        pictures = pool.map(picture, tasks, chunksize=16)
        for (words, _), data in zip(samples, pictures, strict=True):
            yield words, data


def picture(source: str | bytes) -> bytes:
    """An SVG or a picture file as a WebP of 128x128, its clear parts kept clear."""
    from PIL import Image

    if isinstance(source, str):
        import resvg_py  # type: ignore[import-not-found]

        source = bytes(
            resvg_py.svg_to_bytes(
                svg_string=source, width=DRAWN, height=DRAWN, skip_system_fonts=True
            )
        )
    with Image.open(BytesIO(source)) as drawing:
        # Pillow premultiplies here, so that clear pixels do not darken the rim.
        small = drawing.convert("RGBA").resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    stream = BytesIO()
    small.save(stream, "WEBP", quality=QUALITY, method=6)
    return stream.getvalue()


# Shards ------------------------------------------------------------------------------------------


def write_shards(folder: Path, samples: Iterable[tuple[Json, bytes]]) -> int:
    """Write `emoji-00000.tar` and so on; gives the number of pictures. The same each time."""
    count = 0
    shard: list[tuple[Json, bytes]] = []
    for sample in samples:
        shard.append(sample)
        count += 1
        if len(shard) == PER_SHARD:
            write_whole(folder / f"emoji-{(count - 1) // PER_SHARD:05d}.tar", packed(shard))
            shard = []
    if shard:
        write_whole(folder / f"emoji-{(count - 1) // PER_SHARD:05d}.tar", packed(shard))
    return count


def packed(samples: Sequence[tuple[Json, bytes]]) -> bytes:
    """A tar of pictures and words, with no times or owners in it."""
    stream = BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for words, data in samples:
            key = words["key"]
            rest = {name: value for name, value in words.items() if name != "key"}
            text = json.dumps(rest, ensure_ascii=False, sort_keys=True).encode()
            for name, content in ((f"{key}.webp", data), (f"{key}.json", text)):
                member = tarfile.TarInfo(name)
                member.size = len(content)
                archive.addfile(member, BytesIO(content))
    return stream.getvalue()


def write_sources(folder: Path, words: Sequence[Json]) -> None:
    """Write what the pictures come from and whom to credit, for people and for programs."""
    counts = Counter((entry["style"], entry["core"]) for entry in words)
    rows = [
        {
            "style": style.name,
            "pictures": counts[style.name, True] + counts[style.name, False],
            "core": counts[style.name, True],
            "package": f"{style.package.name}@{style.package.version}",
            "sha512": style.package.sha512,
            "licence": style.licence,
            "credit": style.credit,
        }
        for style in STYLES
    ]
    write_text(folder / "SOURCES.json", json.dumps(rows, indent=2, ensure_ascii=False) + "\n")
    lines = [
        "# Where these pictures come from",
        "",
        f"Drawn or scaled to {SIDE}x{SIDE} pixels and stored as WebP; otherwise unchanged.",
        "Names and keywords: emojibase-data (MIT) and emojilib (MIT).",
        "",
        "| style | pictures (core) | package | licence | credit |",
        "|---|---|---|---|---|",
        *(
            f"| {row['style']} | {row['pictures']} ({row['core']}) | {row['package']} | "
            f"{row['licence']} | {row['credit']} |"
            for row in rows
        ),
    ]
    write_text(folder / "SOURCES.md", "\n".join(lines) + "\n")


if __name__ == "__main__":
    sys.exit(main())
