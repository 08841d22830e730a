"""Adapters in words: which kinds of change a file holds."""

from collections import Counter
from collections.abc import Iterable

from safelight.checkpoints.adapter_build import DORA
from safelight.checkpoints.adapter_file import Change, Fit
from safelight.checkpoints.parts import listed


def kinds_in(changes: Iterable[Change]) -> tuple[str, ...]:
    """The kinds of these changes as the community calls them, the most frequent first.

    LoCon is a LoRA of convolutions with a kernel; DoRA stands beside what it decomposes.
    """
    counts = Counter(word for change in changes for word in words_of(change))
    return tuple(word for word, _ in counts.most_common())


def words_of(change: Change) -> tuple[str, ...]:
    """The kind of one change in words."""
    word = change.word
    kernel = change.layer.shape[2:]
    if word == "LoRA" and kernel and kernel != (1, 1):
        word = "LoCon"
    decomposed = any(slot in change.group.tensors for slot in DORA)
    return ("DoRA", word) if decomposed else (word,)


def share_in_words(matched: int, total: int) -> str:
    """What matched, as a count and a percentage that is 100 only if all did."""
    share = 100 * matched / max(total, 1)
    percent = f"{share:.0f}" if matched in (0, total) else f"{min(max(share, 0.1), 99.9):.1f}"
    return f"{matched} of {total} tensors ({percent} %)"


def misfits_in_words(fit: Fit) -> str:
    """The layers of another shape: how many, and the first few."""
    count = len(fit.misfits)
    some = listed((str(misfit) for misfit in fit.misfits), 3)
    return f"{count} {'layer has' if count == 1 else 'layers have'} another shape: {some}"
