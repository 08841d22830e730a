"""Pictures drawn as ever, and where the words of their prompts acted while they were drawn.

Shapes: h w latent height and width, H W pixels.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from safelight.canvas.region import Region
from safelight.errors import PromptError, RequestError
from safelight.model import Model
from safelight.models.attention import Look
from safelight.models.attention_recorder import AttentionRecorder
from safelight.printable import shown
from safelight.tasks.generate import batches, generate, settled
from safelight.tasks.painting import Progress, Watch
from safelight.tasks.picture import Picture
from safelight.tasks.request import Request
from safelight.tasks.second_pass import growth_of
from safelight.tasks.supplies import Supplies
from safelight.tasks.word_sheet import COLUMNS, Pixels, word_sheet
from safelight.tasks.work import work_of
from safelight.text.bpe import Tokenizer
from safelight.text.layout import Reading
from safelight.text.word_maps import (
    WordMap,
    WordSpan,
    phrases_of,
    token_rows,
    word_maps,
    words_of,
)

NOTHING_ASKED = "no word maps: nothing was drawn, so no word had a say."


@dataclass(frozen=True, eq=False)
class TextMaps:
    """Where the words of one text acted: of a scheduled prompt, or of one with AND, one of several.

    text: what was encoded, with its weights.
    """

    text: str
    words: tuple[WordMap, ...]


@dataclass(frozen=True, eq=False)
class Worded:
    """A picture, and where the words of each of its texts acted.

    texts: in the order of the prompt; none if nothing was drawn, as at strength 0. Texts without
        words, and those that no step came to, are left out.
    region: the part of the picture that the maps lie over; the whole of it but for a masked area.
    """

    picture: Picture
    texts: tuple[TextMaps, ...]
    region: Region

    @property
    def sheets(self) -> list[Pixels]:
        """A sheet for each text, (H, W, 3): see `word_sheet`."""
        return [
            word_sheet(
                self.picture.pixels, t.words, title=t.text, columns=COLUMNS, region=self.region
            )
            for t in self.texts
        ]


def with_word_maps(
    model: Model,
    requests: Request | Sequence[Request],
    *,
    phrases: Sequence[str] = (),
    watch_steps: Watch | None = None,
    supplies: Supplies | None = None,
) -> Iterator[Worded]:
    """The pictures of `generate`, bit for bit, each with its word maps.

    phrases: these instead of every word; of several texts, each shows those that it has. Attention
    is summed over all calls for the picture's own texts, in all passes (loops, hires); negatives do
    not count, nor does a refiner, whose maps would be another network's. The model is left as it
    was.
    Raises PromptError for a phrase that no text of the prompt has, RequestError for a prompt
    without words or a drawing in parts, before it is drawn; and all that `generate` raises.
    """
    given = [requests] if isinstance(requests, Request) else list(requests)
    supplies = supplies or Supplies()
    for request in given:
        refuse_parts(request)
    done = 0
    singles = [single for request in given for single in settled(request, model, supplies)]
    for single in singles:
        _refuse_cut(single, model)
    for batch in batches(singles):
        reading = Reading(batch[0].dialect, batch[0].emphasis, batch[0].comma_backtrack)
        recording = WordRecording(model.text.tokenizer, reading, tuple(phrases))
        observed = replace(model, network=replace(model.network, observer=recording))
        watched = None if watch_steps is None else _counted_on(watch_steps, done)
        drawn = generate(observed, batch, watch_steps=watched, supplies=supplies)
        for number, picture in enumerate(drawn):
            yield worded(picture, recording, number, model, supplies)
        done += len(batch)


def refuse_parts(request: Request) -> None:
    """Raise RequestError for what is not drawn as a whole by one prompt.

    Maps of the parts of a drawing would lie on top of one another.
    """
    if not request.needs_model:
        raise RequestError("word maps are of what is drawn, and nothing is; leave them out.")
    if request.best_of > 1:
        raise RequestError(
            "word maps are of one drawing; draw the best first, then map it: --like PICTURE."
        )
    for name in ("extend", "tiles", "regions"):
        if getattr(request, name):
            raise RequestError(
                f"word maps are of a picture drawn as a whole, and {name} draws it part by part; "
                "leave one of them out."
            )


def _refuse_cut(request: Request, model: Model) -> None:
    """Raise RequestError for a second pass that sees less of the picture than the first."""
    if request.hires is None:
        return
    grown = growth_of(request, model)
    if grown.frame != grown.size:
        raise RequestError(
            "hires.size cuts the picture, and word maps lie over all of it; give hires.scale."
        )


def worded(
    picture: Picture, recording: "WordRecording", number: int, model: Model, supplies: Supplies
) -> Worded:
    """The picture, which was number `number` of its batch, with what was recorded of it."""
    request, factor = picture.recipe.request, model.codec.factor
    assert request.width is not None and request.height is not None
    texts = recording.texts((request.height // factor, request.width // factor), number)
    height, width = picture.pixels.shape[:2]
    region = Region(0, 0, width, height)
    if request.mask is not None:
        region = work_of(request, model, supplies).region
        if _filled_up(region, request, factor):
            size = (request.width, request.height)
            texts = tuple(
                replace(t, words=tuple(_cut(w, size, region) for w in t.words)) for t in texts
            )
    if not texts:
        picture = replace(picture, warnings=(*picture.warnings, NOTHING_ASKED))
    return Worded(picture, texts, region)


@dataclass
class WordRecording:
    """What a network looks at in the texts of one batch; a `TextListener`.

    phrases: what is looked for instead of every word.
    """

    tokenizer: Tokenizer
    reading: Reading
    phrases: tuple[str, ...] = ()
    _heard: "dict[str, _Heard]" = field(default_factory=dict, init=False)

    def told(self, contexts: Mapping[str, Tensor], tokenizer: Tokenizer) -> None:
        """These texts, so read, come next, by contexts (1, L, D). What is known of others is kept.

        Raises PromptError for a phrase that no text has, RequestError without any word.
        """
        self.tokenizer = tokenizer
        for text, context in contexts.items():
            known = self._heard.get(text)
            # a text that a later pass reads in another way has the maps of that pass
            if known is None or not torch.equal(known.context, context):
                tokens = token_rows(text, self.tokenizer, self.reading)
                recorder = AttentionRecorder({text: context})
                self._heard[text] = _Heard(context, self._spans(text), tokens, recorder)
        self._check()

    def wants(self, module: str, cross: bool) -> bool:
        """Cross-attention only."""
        return cross

    def saw(self, look: Look) -> None:
        """Add one attention to the maps of the texts in it."""
        for heard in self._heard.values():
            heard.recorder.saw(look)

    def texts(self, size: tuple[int, int], picture: int) -> tuple[TextMaps, ...]:
        """The maps (h, w) of every text that was asked for when picture number `picture` was drawn.

        Texts without words are left out.
        """
        return tuple(
            TextMaps(
                text,
                tuple(
                    word_maps(
                        heard.recorder,
                        text,
                        heard.spans,
                        size,
                        tokens=heard.tokens,
                        picture=picture,
                    )
                ),
            )
            for text, heard in self._heard.items()
            if heard.spans and heard.recorder.pictures(text) > picture
        )

    def _spans(self, text: str) -> tuple[WordSpan, ...]:
        """The words of a text, or those of the phrases that it has."""
        if not self.phrases:
            return words_of(text, self.tokenizer, self.reading)
        found: list[WordSpan] = []
        for phrase in self.phrases:
            try:
                found += phrases_of(text, [phrase], self.tokenizer, self.reading)
            except PromptError:  # another text may have it: `_check` asks for all
                continue
        return tuple(found)

    def _check(self) -> None:
        had = {span.word for heard in self._heard.values() for span in heard.spans}
        for phrase in self.phrases:
            if phrase not in had:
                words = dict.fromkeys(
                    span.word
                    for text in self._heard
                    for span in words_of(text, self.tokenizer, self.reading)
                )
                raise PromptError(
                    f"the prompt has no {shown(phrase)!r} in it; its words are "
                    f"{shown(', '.join(words)) or 'none'}"
                )
        if not had:
            raise RequestError("the prompt has no words to draw maps of; write a prompt")


@dataclass(frozen=True, eq=False)
class _Heard:
    """A text as the network is told it, where its words and tokens stand, and what was seen."""

    context: Tensor  # (1, L, D)
    spans: tuple[WordSpan, ...]
    tokens: tuple[int, ...]
    recorder: AttentionRecorder


def _filled_up(region: Region, request: Request, factor: int) -> bool:
    """Whether the region was drawn at its own size, filled up to whole latents."""
    assert request.width is not None and request.height is not None
    right, below = request.width - region.width, request.height - region.height
    return (right, below) != (0, 0) and 0 <= right < factor and 0 <= below < factor


def _cut(word: WordMap, size: tuple[int, int], region: Region) -> WordMap:
    """The map over a region, of one over the pixels (width, height) that it was filled up to."""
    heat = Image.fromarray(word.heat).resize(size, Image.Resampling.BICUBIC)
    pixels = np.asarray(heat)[: region.height, : region.width]
    return replace(word, heat=np.ascontiguousarray(pixels.clip(0, 1)))


def _counted_on(watch: Watch, done: int) -> Watch:
    """The same watch, for a batch before which so many pictures were drawn."""

    def at(progress: Progress) -> None:
        watch(replace(progress, first=progress.first + done))

    return at
