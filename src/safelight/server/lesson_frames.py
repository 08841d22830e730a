"""What was watched of a drawing as pictures, numbers and sentences: a lesson.

Shapes: C latent channels, h w latent height and width, H W pixels.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from safelight.engines.sentinel import watch
from safelight.model import Model
from safelight.server.previews import Preview
from safelight.tasks.lesson import Moment, words_in
from safelight.tasks.painting import decoded
from safelight.tasks.picture import to_uint8
from safelight.tasks.request import Request
from safelight.tasks.word_sheet import heated

Pixels = NDArray[np.uint8]

SIDE = 256  # of a decoded picture at most
QUALITY = 90
DECODED = 1024 * 1024  # pixels up to which every step is decoded; beyond, the matrix must do
PANELS = ("latents", "predicted", "noise", "guidance")

SENTENCES: Mapping[str, str] = {
    "sigma": "Sigma is how strong the noise is against the picture; every step leads from one "
    "level down to the next.",
    "latents": "What the network is given at the start of this step: the picture so far and noise "
    "of strength sigma, each square one place of the latents, in the colours of a matrix fitted to "
    "this model's autoencoder.",
    "predicted": "The clean picture that the network sees in these latents, decoded: the best "
    "guess so far, soft at first because many pictures would fit.",
    "noise": "The noise that the network sees in them, (latents - predicted) / sigma, in the "
    "colours of the same matrix; the step takes a part of it away.",
    "guidance": "Where the prompt changes the prediction in this step: the estimate with it minus "
    "the one without, from the least place (dark) to the most (bright); the guidance scale "
    "multiplies this.",
    "words": "Where the network looked for this word in this step alone: attention over all layers "
    "and heads, from the least place (dark) to the most (bright); the share is the word's part of "
    "what went to the prompt.",
}
LARGE_PREDICTED = (
    "The clean picture that the network sees in these latents, in the colours of the same matrix: "
    "a picture as large as this is not decoded at every step."
)
UNWEIGHED = (
    "Nothing to show: here the network was asked with the prompt alone, as it is at guidance scale "
    "1 and outside of the steps in which guidance works."
)


@dataclass(frozen=True, eq=False)
class Lesson:
    """One drawing, step by step.

    told: numbers and sentences, as JSON. pictures: WebP files by name, "STEP-PANEL": of each step
        (from 1) "latents", "predicted", "noise", "guidance" where there is any, and "word-K".
    """

    told: Mapping[str, Any]
    pictures: Mapping[str, bytes]


@torch.no_grad()
def lesson_of(
    model: Model,
    preview: Preview,
    moments: Sequence[Moment],
    request: Request,
    going_on: Callable[[], object] = lambda: None,
) -> Lesson:
    """The lesson of a drawing whose settled request and moments are given.

    going_on: called before each step is decoded; what it raises ends the work.
    """
    words = words_in(moments)
    number = {(text, place): k for k, (text, place, _) in enumerate(words)}
    pictures: dict[str, bytes] = {}
    steps: list[dict[str, object]] = []
    matrix = False
    for step, moment in enumerate(moments, start=1):
        going_on()
        guess, by_matrix = _predicted(model, preview, moment, request)
        matrix |= by_matrix
        shown: dict[str, bytes] = {
            "latents": _exact(preview.pixels(moment.x / (1 + moment.sigma**2) ** 0.5)),
            "predicted": _small(guess),
            "noise": _exact(preview.pixels(moment.noise)),
        }
        if moment.difference is not None:
            heat = moment.difference.square().mean(0).sqrt().numpy()
            shown["guidance"] = _small(heated(guess, heat))
        shares: dict[str, float] = {}
        for text in moment.texts:
            for place, word in enumerate(text.words):
                k = number.get((text.text, place))
                if k is not None:
                    shares[str(k)] = round(word.share, 4)
                    shown[f"word-{k}"] = _small(heated(guess, word.heat))
        pictures |= {f"{step}-{panel}": data for panel, data in shown.items()}
        steps.append(_told(step, len(moments), moment) | {"shares": shares})
    sentences = dict(SENTENCES, unweighed=UNWEIGHED)
    if matrix:
        sentences["predicted"] = LARGE_PREDICTED
    told: dict[str, Any] = {
        "steps": steps,
        "words": [{"text": text, "word": word} for text, _, word in words],
        "sentences": sentences,
    }
    return Lesson(told, pictures)


def _told(step: int, steps: int, moment: Moment) -> dict[str, object]:
    """The numbers of a step, and what they say."""
    asked = "" if moment.calls == 1 else f"; it asks {moment.calls} times, and the first is shown"
    if moment.calls == 0:
        asked = "; it asks nothing, and what was asked last is shown"
    return {
        "step": step,
        "sigma": _short(moment.sigma),
        "time": _short(moment.time),
        "calls": moment.calls,
        "noise": _short(_size(moment.noise)),
        "guidance": None if moment.difference is None else _short(_size(moment.difference)),
        "sentence": f"Step {step} of {steps} begins with noise {moment.sigma:.3g} times as strong "
        f"as the picture; the network is told time {moment.time:.4g}{asked}.",
    }


def _predicted(
    model: Model, preview: Preview, moment: Moment, request: Request
) -> tuple[Pixels, bool]:
    """The clean picture that was predicted, (H, W, 3) of up to `SIDE`; whether by the matrix."""
    height, width = (side * model.codec.factor for side in moment.denoised.shape[1:])
    by_matrix = height * width > DECODED
    if by_matrix:
        pixels = preview.pixels(moment.denoised)
    else:
        with watch(model.placement) as sentinel:
            latents = moment.denoised[None].to(model.device)
            pixels = to_uint8(decoded(model, latents, request, sentinel))[0]
    shrink = min(1.0, SIDE / max(height, width))
    size = (max(round(width * shrink), 1), max(round(height * shrink), 1))
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC)), by_matrix


def _small(pixels: Pixels) -> bytes:
    return _webp(pixels, quality=QUALITY)


def _exact(pixels: Pixels) -> bytes:
    """Each latent a pixel, without loss: who looks enlarges them."""
    return _webp(pixels, lossless=True)


def _webp(pixels: Pixels, **how: object) -> bytes:
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, "WEBP", method=2, **how)
    return buffer.getvalue()


def _size(x: Tensor) -> float:
    """The root mean square."""
    return float(x.square().mean().sqrt())


def _short(value: float) -> float:
    """Five digits: finite, for JSON has nothing else."""
    return float(f"{value:.5g}") if np.isfinite(value) else 0.0
