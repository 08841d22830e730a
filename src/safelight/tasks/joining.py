"""Which pictures may share a batch though their prompts differ: each stays what it is alone.

Their conditions are stacked, a row for each picture. A prompt is never padded to the length of
another's: attention sees padding, and the picture would change. So those share a batch whose
prompts take as many chunks and are built alike; all else but seeds must be equal.
"""

from collections.abc import Iterator, Sequence

from safelight.model import Model
from safelight.tasks.generate import batch_limit
from safelight.tasks.request import Request
from safelight.text.networks import ExtraNetwork
from safelight.text.prompt import Prompt, parse_prompt

Build = tuple[tuple[ExtraNetwork, ...], tuple[float, ...], int]


def joined(singles: Sequence[Request], model: Model, most: int) -> Iterator[list[int]]:
    """Numbers of settled single requests that may be drawn together, at most `most` at once.

    In the order of the first of each batch; those that fit nobody are alone.
    """
    open_: list[tuple[Request, Build | None, list[int]]] = []
    for number, single in enumerate(singles):
        room = min(batch_limit(single.replace(batch=most)), most)
        rest, build = _rest(single), _build(single, model)
        for other, others_build, batch in open_:
            same_words = _words(singles[batch[0]]) == _words(single)
            alike = same_words or (build is not None and build == others_build)
            if alike and len(batch) < room and other == rest:
                batch.append(number)
                break
        else:
            open_.append((rest, build, [number]))
    yield from (batch for _, _, batch in open_)


def _rest(single: Request) -> Request:
    """All of a request but its words and seeds."""
    return single.replace(seed=0, subseed=None, prompt="", negative_prompt="")


def _words(single: Request) -> tuple[str, str]:
    return single.prompt, single.negative_prompt


def _build(single: Request, model: Model) -> Build | None:
    """What prompts must have in common: tags, weights of the parts joined by AND, and length.

    None for requests whose words have more to do than to be encoded once: schedules, regions,
    borders with words, guidance or choice by a CLIP.
    """
    if single.regions or single.extend is not None or single.clip_guidance is not None:
        return None
    if single.best_of > 1 or model.network.observer is not None or model.family.task == "edit":
        return None
    positive = parse_prompt(single.prompt, steps=single.steps, dialect=single.dialect)
    negative = parse_prompt(
        single.negative_prompt, steps=single.steps, dialect=single.dialect, negative=True
    )
    if any(len(part.switches) > 1 for part in (*positive.parts, *negative.parts)):
        return None
    weights = tuple(part.weight for part in positive.parts)
    chunks = _chunks(single, model, (positive, negative))
    return None if chunks is None else (positive.networks, weights, chunks)


def _chunks(single: Request, model: Model, prompts: Sequence[Prompt]) -> int | None:
    """Chunks of the longest text, to which the others of its request are filled up.

    None for Compel's blends, which fill several chunks into the place of one.
    """
    reports = [
        model.text.report(
            text,
            dialect=single.dialect,
            emphasis=single.emphasis,
            comma_backtrack=single.comma_backtrack,
        )
        for prompt in prompts
        for text in prompt.texts
    ]
    if any(chunk.choice for report in reports for chunk in report.chunks):
        return None
    return max(len(report.chunks) for report in reports)
