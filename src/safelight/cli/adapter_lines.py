"""What `safelight inspect` says of a LoRA and its kin."""

from collections.abc import Iterator

from safelight.checkpoints.adapter_inspect import AdapterInspection, Counts
from safelight.checkpoints.adapter_words import share_in_words

SHOWN = 8  # of ranks, words and names on one line
LONGEST = 200  # of a remark that is shown as it stands; all are in the JSON
# Remarks whose content the lines here tell in other words.
TOLD = ("ss_tag_frequency", "ss_dataset_dirs", "ss_bucket_info", "lora_adapter_metadata")


def adapter_lines(seen: AdapterInspection) -> Iterator[tuple[str, str]]:
    """Name and value on a line each; empty values are left out by who prints them."""
    yield "family by its layers", seen.family
    yield "family by its metadata", seen.stated
    yield "kinds", _counted(seen.kinds, "layer")
    yield "ranks", _counted(seen.ranks, "layer")
    yield "alphas", _counted(seen.alphas, "layer")
    parts = [f"{part.name} {part.layers} of {part.whole} layers" for part in seen.parts]
    yield "changes", ", ".join(parts)
    yield "matched", share_in_words(seen.matched, seen.total)
    yield "unmatched", _listed(seen.unmatched)
    yield "embeddings beside it", ", ".join(seen.embeddings)
    yield from _remarks(seen)


def _remarks(seen: AdapterInspection) -> Iterator[tuple[str, str]]:
    remarks = seen.remarks
    yield "title", remarks.title
    yield "author", remarks.author
    yield "license", remarks.license
    yield "about", remarks.description
    if remarks.triggers:
        yield "trigger words", f"{', '.join(remarks.triggers)} ({remarks.triggers_from})"
    yield "words of its captions", _counted(remarks.tags, "")
    yield "trained on", remarks.base_model
    yield "trained as", remarks.network
    yield "training", ", ".join(f"{name} {value}" for name, value in remarks.training)


def _counted(counts: Counts, what: str) -> str:
    """The most frequent, each with its count; a single one of layers needs none."""
    if len(counts) == 1 and what:
        return counts[0][0]
    first = f" {what}s" if what else ""
    told = [f"{word} ({n}{first * (not i)})" for i, (word, n) in enumerate(counts[:SHOWN])]
    more = [f"{len(counts) - SHOWN} more"] if len(counts) > SHOWN else []
    return ", ".join([*told, *more])


def _listed(names: tuple[str, ...]) -> str:
    more = f", and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
