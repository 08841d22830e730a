"""What a data set is like, for a person to look at before training."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise

from safelight.training.buckets import BucketOrder, Placement, Rule, Size, place, warnings
from safelight.training.sources.example import Problem, counted
from safelight.training.sources.scan import Scan


@dataclass(frozen=True)
class Lengths:
    """Captions in tokens: how many there are, the shortest to the longest, and which are cut."""

    count: int
    least: int
    median: int
    most: int
    limit: int
    cut: tuple[str, ...]  # ids of the examples with a caption above the limit


@dataclass(frozen=True)
class Survey:
    """A data set in numbers. sizes: how many pictures by their shorter side, up to each bound."""

    name: str
    count: int
    problems: tuple[Problem, ...]
    several: int  # pictures with more than one caption
    sizes: tuple[tuple[str, int], ...]
    buckets: tuple[tuple[Size, int], ...]
    lengths: Lengths | None
    warnings: tuple[str, ...]

    def to_json(self) -> dict[str, object]:
        """All of it in plain types."""
        lengths = self.lengths
        return {
            "name": self.name,
            "pictures": self.count,
            "problems": counted(self.problems),
            "found": [{"kind": p.kind, "where": p.where, "why": p.why} for p in self.problems],
            "several_captions": self.several,
            "shorter_side": dict(self.sizes),
            "buckets": {f"{w}x{h}": count for (w, h), count in self.buckets},
            "caption_tokens": None
            if lengths is None
            else {
                "captions": lengths.count,
                "least": lengths.least,
                "median": lengths.median,
                "most": lengths.most,
                "limit": lengths.limit,
                "cut": list(lengths.cut),
            },
            "warnings": list(self.warnings),
        }


BOUNDS = (64, 128, 256, 384, 512, 768, 1024, 1536, 2048)


def survey(
    scan: Scan,
    rule: Rule,
    tokens: Callable[[str], int],
    *,
    limit: int = 75,
    batch: int | None = None,
) -> Survey:
    """A scanned set in numbers: its sizes, its buckets, and its captions' lengths in tokens.

    tokens: the length of a text for the model's encoder. limit: how many it reads. batch: of which
    size buckets should be. Raises RequestError for a batch below 1.
    """
    places = [place(size, rule) for size in scan.sizes]
    examples = [scan.source.example(i) for i in range(len(scan.source))]
    buckets = Counter(placement.bucket for placement in places)
    ids = [example.id for example in examples]
    small: tuple[str, ...] = ()
    if batch is not None:
        small = BucketOrder([placement.bucket for placement in places], batch, 0).notes(ids)
    lengths = {e.id: [tokens(caption) for caption in e.captions] for e in examples}
    return Survey(
        name=scan.source.name,
        count=len(examples),
        problems=scan.problems,
        several=sum(len(e.captions) > 1 for e in examples),
        sizes=_histogram(places),
        buckets=tuple(sorted(buckets.items(), key=lambda item: (-item[1], item[0]))),
        lengths=_lengths(lengths, limit),
        warnings=(*warnings(ids, places, rule), *small),
    )


def _histogram(places: list[Placement]) -> tuple[tuple[str, int], ...]:
    """How many pictures have a shorter side from one bound up to the next."""
    counts = Counter(sum(min(p.original) >= bound for bound in BOUNDS) for p in places)
    names = [f"below {BOUNDS[0]}"]
    names += [f"{low} to {high - 1}" for low, high in pairwise(BOUNDS)]
    names.append(f"{BOUNDS[-1]} and more")
    return tuple((names[i], counts[i]) for i in sorted(counts))


def _lengths(lengths: Mapping[str, list[int]], limit: int) -> Lengths | None:
    every = sorted(length for own in lengths.values() for length in own)
    if not every:
        return None
    cut = tuple(name for name, own in lengths.items() if any(length > limit for length in own))
    return Lengths(len(every), every[0], every[len(every) // 2], every[-1], limit, cut)
