"""What a request asks of a model and its engine that they cannot do: said before it is drawn."""

from collections.abc import Iterator

from safelight.errors import RequestError
from safelight.model import Model
from safelight.models.runner import Extra, check_extras
from safelight.models.taesd import TinyAutoencoder
from safelight.printable import shown
from safelight.tasks.large import LATENT_UPSCALERS
from safelight.tasks.request import Request


def check_engine(model: Model, request: Request) -> None:
    """Raise RequestError if the model's engine cannot do what the request asks."""
    runner = model.network.runner
    if runner is not None:
        check_extras(runner.name, runner.extras, list(extras_of(request, model)))


def check_encodes(model: Model, request: Request) -> None:
    """Raise RequestError if latents of a picture are wanted of a decoder alone."""
    coder, hires = model.codec.autoencoder, request.hires
    again = hires is not None and hires.strength > 0 and hires.upscaler not in LATENT_UPSCALERS
    if not isinstance(coder, TinyAutoencoder) or coder.config.encodes:
        return
    if request.source is not None or again:
        way = "take a latent upscaler or leave --vae out" if again else "leave --vae out"
        raise RequestError(
            f"{shown(request.vae or 'the autoencoder')} is a decoder alone, which makes no latents "
            f"of pictures; {way}"
        )


def check_moving(model: Model) -> None:
    """Raise RequestError if adapters move between steps and the engine keeps its own weights."""
    runner = model.network.runner
    if runner is not None and runner.frozen:
        raise RequestError(
            f"engine {runner.name} keeps weights of its own, and these adapters act in a part of "
            "the steps only; leave out their start and end, or draw with --engine eager"
        )


def extras_of(request: Request, model: Model) -> Iterator[Extra]:
    """What a request asks of a U-Net besides the plain call, as far as it tells."""
    if request.image_prompts:
        yield "image prompts"
    if request.references:
        yield "reference-only control"
    if request.controls:
        yield "ControlNets"
    if request.hypernetworks:
        yield "hypernetworks and LLLite"
    if request.guidance.pag is not None:
        yield "perturbed attention"
    if request.guidance.sag is not None:
        yield "self-attention guidance"
    if request.guidance.freeu is not None:
        yield "FreeU"
    if request.token_merging.ratio:
        yield "token merging"
    if request.reuse.every > 1:
        yield "deep features kept over steps"
    if model.network.observer is not None:
        yield "word maps"
