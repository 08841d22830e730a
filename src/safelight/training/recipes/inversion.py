"""The recipe of textual inversion: a model stays as it is, and a word gets vectors of its own."""

from pathlib import Path

from torch import Tensor

from safelight.checkpoints.writing import Entry, write_safetensors
from safelight.errors import RequestError
from safelight.printable import shown
from safelight.training.config.configs import InversionRun
from safelight.training.diffusion_task import DiffusionTask
from safelight.training.draw import Draw
from safelight.training.inversion import (
    PLAYER,
    InvertedText,
    Word,
    begun,
    first_new,
    with_word,
)
from safelight.training.recipes.diffusion import diffusion_settings
from safelight.training.recipes.job import Job, Weights, Workshop
from safelight.training.recipes.learning_data import LearningData, learning_data
from safelight.training.recipes.taught import Taught, file_name, taught
from safelight.training.recipes.watching import watch_of
from safelight.training.recipes.writing import DTYPES
from safelight.version import __version__
from safelight.writing import make_folder

CLIPS = ("clip_l", "clip_g")  # what files of SDXL call the tables of its two towers


def inversion_job(config: InversionRun, workshop: Workshop) -> Job:
    """A word that learns to call for what pictures show.

    Raises what reading data and weights raises, RequestError for what does not fit together.
    """
    section = config.inversion
    found = taught(config, workshop)
    identity = found.identity
    plain = found.text
    word = begun(plain, section.vectors, initial=section.initial, seed=config.training.seed).to(
        workshop.device
    )
    text = with_word(plain, section.word, word)
    model = Taught(found.model, found.network, text, found.codec)
    inverted = InvertedText(text, word)
    task = DiffusionTask(
        model.network,
        model.model.process,
        inverted,
        diffusion_settings(config.noise, scratch=False),
        word,
        PLAYER,
    )
    data = learning_data(config, model.reader, workshop)
    _check_said(data, first_new(text), section.word)
    watch = watch_of(
        config.previews,
        config,
        task,
        model.codec,
        data.held,
        workshop,
        reader=lambda: with_word(plain, section.word, word),
    )
    name = file_name(config, section.word)

    def write(weights: Weights, path: Path) -> list[Path]:
        word.load_state_dict(weights[PLAYER], strict=True)
        make_folder(path)
        file = path / f"{name}.safetensors"
        _write(config, word, file, model.model.family.label)
        return [file]

    learning = f"{section.word!r} stands for {section.vectors} vectors of {len(word.tables)} tables"
    return Job(
        task,
        data.train,
        data.order,
        config.training.settings(),
        write,
        (PLAYER,),
        watch.validate,
        (*data.facts, f"{learning}, for {model.model.family.label}"),
        model.frozen,
        data.kept,
        identity={**identity, **data.identity},
    )


def _check_said(data: LearningData, first: int, word: str) -> None:
    """Raise RequestError if no caption says the word: nothing could be learned."""
    rows = list(data.order.indices(0))
    batch = data.train.batch(rows, Draw(0, 0, len(rows)))
    if batch.tokens is not None and not bool((batch.tokens >= first).any()):
        raise RequestError(
            f"no caption says {shown(word, 60)!r}; say it in the captions, or give "
            f"data.captions.templates such as 'a picture of {shown(word, 60)}'"
        )


def _write(config: InversionRun, word: Word, path: Path, base: str) -> None:
    """The vectors, as A1111 and ComfyUI (kohya) or Diffusers name them."""
    dtype = DTYPES[config.export.dtype or "fp32"]
    tables = [vectors.detach().to("cpu", dtype) for vectors in word.vectors]
    if len(tables) > 1:
        named = dict(zip(CLIPS, tables, strict=True))
    else:
        diffusers = config.export.layout == "diffusers"
        named = {config.inversion.word if diffusers else "emb_params": tables[0]}
    facts = {"format": "pt", "word": config.inversion.word, "base": base}
    write_safetensors(path, [_entry(n, t) for n, t in named.items()], {**facts, **_made(config)})


def _made(config: InversionRun) -> dict[str, str]:
    return {"safelight": __version__, "steps": str(config.training.steps)}


def _entry(name: str, tensor: Tensor) -> Entry:
    return Entry(name, tuple(tensor.shape), tensor.dtype, lambda: tensor)
