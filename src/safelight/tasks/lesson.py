"""A picture drawn as ever, with every step kept to be looked at: what a lesson is made of.

Shapes: C latent channels, h w latent height and width.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from safelight.errors import RequestError
from safelight.model import Model
from safelight.models.attention import Look
from safelight.models.attention_recorder import AttentionRecorder
from safelight.tasks.painting import Progress
from safelight.tasks.request import Request
from safelight.tasks.word_recording import TextMaps, WordRecording, refuse_parts
from safelight.text.bpe import Tokenizer
from safelight.text.layout import Reading

MOST_STEPS = 100  # of all passes together
MOST_WORDS = 24  # whose maps are kept at each step, of all texts together
MAP_SIDE = 64  # of a word's map at most: finer ones are made smaller


@dataclass(frozen=True, eq=False)
class Moment:
    """One step as it was taken: what its first call asked and was answered.

    sigma: the noise level that it began at. time: what the network was told for it. calls: how
    often the sampler asked. x: (C, h, w) the noisy latents; denoised: (C, h, w) the clean ones that
    were predicted in them. difference: (C, h, w) what the prompt changed in the prediction,
    conditional minus unconditional; None where guidance did not weigh. texts: where the words of
    each text acted in this step alone.
    """

    sigma: float
    time: float
    calls: int
    x: Tensor
    denoised: Tensor
    difference: Tensor | None
    texts: tuple[TextMaps, ...]

    @property
    def noise(self) -> Tensor:
        """(C, h, w) the noise that was predicted: (x - denoised) / sigma."""
        return (self.x - self.denoised) / self.sigma


@dataclass(frozen=True, eq=False)
class _Call:
    x: Tensor
    sigma: float
    denoised: Tensor
    difference: Tensor | None


def refuse_lesson(request: Request) -> None:
    """Raise RequestError for a picture of whose drawing no lesson can be given.

    One that is drawn in parts has no steps of the whole; merged tokens have no place to act in.
    """
    refuse_parts(request)
    if request.token_merging.ratio:
        raise RequestError("a lesson needs all tokens of the picture; leave token merging out.")
    loops = 1 if request.source is None else request.source.loops
    second = 0 if request.hires is None else request.hires.steps or request.steps
    if (steps := request.steps * loops + second) > MOST_STEPS:
        raise RequestError(f"a lesson has up to {MOST_STEPS} steps; this picture takes {steps}.")


class LessonRecording:
    """Watches one picture being drawn: a listener to texts and calls, and a watch of steps.

    Draw with `on(model)` and with `watch` as the watcher: what is drawn has the bits that it has
    without. `moments` then holds one value for each step. Of several AND prompts, the difference is
    that of the first.
    """

    def __init__(self, model: Model, request: Request) -> None:
        """model: what is drawn with. request: the settled request of one picture."""
        reading = Reading(request.dialect, request.emphasis, request.comma_backtrack)
        self.moments: list[Moment] = []
        self._process = model.process
        self._words = _StepWords(model.text.tokenizer, reading)
        self._calls: list[_Call] = []
        self._asked = 0
        self._last: _Call | None = None
        self._difference: Tensor | None = None

    def on(self, model: Model) -> Model:
        """The model, watched."""
        return replace(model, network=replace(model.network, observer=self))

    # -- the observer ------------------------------------------------------------------------------

    def wants(self, module: str, cross: bool) -> bool:
        """Cross-attention only."""
        return self._words.wants(module, cross)

    def saw(self, look: Look) -> None:
        """One attention."""
        self._words.saw(look)

    def told(self, contexts: dict[str, Tensor], tokenizer: Tokenizer) -> None:
        """The texts of the next pass."""
        self._words.told(contexts, tokenizer)

    def weighed(self, positive: Tensor, negative: Tensor) -> None:
        """What the prompt changes in the prediction."""
        self._difference = _kept(positive - negative)

    def called(self, x: Tensor, sigma: Tensor, denoised: Tensor) -> None:
        """One call of the sampler; of a step, the first is shown."""
        self._asked += 1
        if not self._calls:
            self._calls = [_Call(_kept(x), float(sigma), _kept(denoised), self._difference)]
        self._difference = None

    # -- the watch ---------------------------------------------------------------------------------

    def watch(self, progress: Progress) -> None:
        """A step is done. One that asked nothing shows what was asked last; an adaptive sampler may
        take more than `MOST_STEPS`, of which the first are kept."""
        if len(self.moments) == MOST_STEPS:
            return
        call = self._calls[0] if self._calls else self._last
        assert call is not None, "the first step asks"
        time = float(self._process.time(torch.tensor([call.sigma], dtype=torch.float64))[0])
        texts = self._words.taken(_map_size(call.x))
        self.moments.append(
            Moment(call.sigma, time, self._asked, call.x, call.denoised, call.difference, texts)
        )
        self._last, self._calls, self._asked = call, [], 0


@dataclass
class _StepWords(WordRecording):
    """Where words acted, begun anew at every step; a prompt without words is none the worse."""

    def taken(self, size: tuple[int, int]) -> tuple[TextMaps, ...]:
        """The maps (h, w) of what was seen since the last call of this."""
        found, room = [], MOST_WORDS
        for one in self.texts(size, 0):
            found.append(TextMaps(one.text, one.words[:room]))
            room -= len(found[-1].words)
        for text, heard in self._heard.items():
            recorder = AttentionRecorder({text: heard.context})
            self._heard[text] = replace(heard, recorder=recorder)
        return tuple(found)

    def _check(self) -> None:
        """Nothing is asked of the prompt."""


def words_in(moments: Sequence[Moment]) -> list[tuple[str, int, str]]:
    """The words of all steps in order, as (text, number of the word in it, word)."""
    found: dict[tuple[str, int], str] = {}
    for moment in moments:
        for one in moment.texts:
            for number, word in enumerate(one.words):
                found.setdefault((one.text, number), word.word)
    return [(text, number, word) for (text, number), word in found.items()][:MOST_WORDS]


def _map_size(x: Tensor) -> tuple[int, int]:
    """Height and width of latents (C, h, w), made smaller to `MAP_SIDE`."""
    height, width = x.shape[1:]
    shrink = min(1.0, MAP_SIDE / max(height, width))
    return max(round(height * shrink), 1), max(round(width * shrink), 1)


def _kept(tensor: Tensor) -> Tensor:
    """The first picture of a batch as it is now: samplers may go on in place."""
    return tensor[0].detach().to("cpu", torch.float32, copy=True)
