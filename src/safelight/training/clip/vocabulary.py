"""Learning a byte-pair vocabulary in CLIP's format from phrases (Sennrich et al. 2016).

Words are cut and lowered as CLIP's tokenizer does, their bytes written as visible characters, and
the last one marked `</w>`. Then the most frequent pair of neighbours becomes a token, again and
again (arXiv:1508.07909, algorithm 1), with counts kept up to date where a merge changed them.
"""

import heapq
from collections import Counter, defaultdict
from collections.abc import Mapping
from itertools import pairwise

from safelight.errors import RequestError
from safelight.text.bpe import Tokenizer
from safelight.text.cleaning import Cleaning
from safelight.text.vocabulary import WORD_END, Merge, Vocabulary, alphabet

SMALLEST = Vocabulary(()).size
"""Tokens that every vocabulary has: the bytes, the same at the end of a word, start and end."""


def learn_vocabulary(
    phrases: Mapping[str, int], size: int, *, cleaning: Cleaning = "openai"
) -> Vocabulary:
    """A vocabulary of `size` tokens in all.

    phrases: texts and how often each counts. Of pairs that are equally frequent the first in the
    order of their characters wins. There are fewer merges than asked for if the phrases have no
    more pairs. Raises RequestError for a size below the 514 tokens that are always there.
    """
    if size < SMALLEST:
        raise RequestError(
            f"a vocabulary has at least {SMALLEST} tokens (bytes, bytes that end a word, start and"
            f" end of text); got {size}. Give some thousands."
        )
    words = word_counts(phrases, cleaning)
    spelled = {spelling(word): count for word, count in words.items()}
    return Vocabulary(merge_words(spelled, size - SMALLEST))


def word_counts(phrases: Mapping[str, int], cleaning: Cleaning = "openai") -> dict[str, int]:
    """The words of CLIP's pre-tokenization, each with the sum of its phrases' counts."""
    tokenizer = Tokenizer(cleaning)
    counts: Counter[str] = Counter()
    for phrase, count in phrases.items():
        cleaned = tokenizer.clean(phrase)
        start = None
        for piece in tokenizer.pieces(phrase):
            start = piece.start if start is None else start
            if piece.text.endswith(WORD_END):
                counts[cleaned[start : piece.end]] += count
                start = None
    return dict(counts)


def spelling(word: str) -> tuple[str, ...]:
    """A visible character for each byte of a word, the last marked as the end of the word."""
    letters = alphabet()
    symbols = [letters[byte] for byte in word.encode("utf-8")]
    return (*symbols[:-1], symbols[-1] + WORD_END)


def merge_words(words: Mapping[tuple[str, ...], int], count: int) -> tuple[Merge, ...]:
    """Up to `count` merges of words given as symbols, each word with how often it is met."""
    spelled = [list(word) for word in words]
    weights = list(words.values())
    counts: defaultdict[Merge, int] = defaultdict(int)
    places: defaultdict[Merge, set[int]] = defaultdict(set)  # words that may hold the pair
    for at, word in enumerate(spelled):
        for pair in pairwise(word):
            counts[pair] += weights[at]
            places[pair].add(at)
    known = {symbol for word in spelled for symbol in word}
    # Stale entries stay in the heap and are told by their count; a pair whose count sank is put
    # back when it surfaces, one whose count rose was pushed again at once.
    heap = [(-own, pair) for pair, own in counts.items()]
    heapq.heapify(heap)
    merges: list[Merge] = []
    while heap and len(merges) < count:
        negative, pair = heapq.heappop(heap)
        own = counts.get(pair, 0)
        if own != -negative:
            if 0 < own < -negative:
                heapq.heappush(heap, (-own, pair))
            continue
        merged = pair[0] + pair[1]
        if merged in known:
            continue  # the same string by another way would give two ids to one token
        merges.append(pair)
        known.add(merged)
        rising = set()
        for at in sorted(places.pop(pair)):
            for changed, change in _merge_in_word(spelled, at, pair, merged).items():
                counts[changed] += change * weights[at]
                if change > 0:
                    places[changed].add(at)
                    rising.add(changed)
        counts.pop(pair, None)
        for changed in sorted(rising):
            heapq.heappush(heap, (-counts[changed], changed))
    return tuple(merges)


def _merge_in_word(
    spelled: list[list[str]], at: int, pair: Merge, merged: str
) -> Mapping[Merge, int]:
    """Merge a pair from left to right in one word; how often each pair is met more, or less."""
    before = spelled[at]
    after: list[str] = []
    place = 0
    while place < len(before):
        if tuple(before[place : place + 2]) == pair:
            after.append(merged)
            place += 2
        else:
            after.append(before[place])
            place += 1
    if len(after) == len(before):
        return {}
    spelled[at] = after
    change = Counter(pairwise(after))
    change.subtract(Counter(pairwise(before)))
    return change
