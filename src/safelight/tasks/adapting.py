"""What a request puts on its model: opened, checked, worn while it draws, and taken off again.

A model is shared by the requests of a session, so it is changed for one pass alone and left as it
was, also after an error. What acts in some of the steps is turned on and off between them, by noise
level; the words are read with all of it.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor, nn

from safelight.adapters.adapter import UNET, Adapter, by_text_part
from safelight.adapters.attach import Attachment, attached
from safelight.adapters.blocks import block_weights
from safelight.adapters.strengths import Strengths
from safelight.checkpoints.adapter_load import load_adapter
from safelight.checkpoints.embedding_file import EmbeddingFile, embedding_for, read_embedding
from safelight.checkpoints.hashes import content_sha256, sha256
from safelight.checkpoints.hypernetwork_file import load_hypernetwork
from safelight.checkpoints.shelves import Addon, find_addon
from safelight.diffusion.denoiser import Denoise
from safelight.diffusion.samplers import resolve_sampler
from safelight.diffusion.schedules import resolve_schedule
from safelight.errors import CheckpointError
from safelight.families import SamplerHint
from safelight.model import Model
from safelight.models.control_modes import sigma_range
from safelight.models.hypernetwork import Dose, Hypernetwork, nudge_of
from safelight.printable import shown
from safelight.tasks.addons import Lora, read_blocks
from safelight.tasks.engaging import check_moving
from safelight.tasks.lookup import KINDS, near, spoken, tags_of
from safelight.tasks.recipe import UsedFile
from safelight.tasks.request import Request
from safelight.tasks.supplies import Supplies
from safelight.text.embeddings import Embedding
from safelight.text.networks import ExtraNetwork


@dataclass(frozen=True, eq=False)
class Worn:
    """An adapter, and how strongly it acts where low < sigma <= high; beyond, on the text alone."""

    adapter: Adapter
    strengths: Strengths
    high: float
    low: float

    def at(self, sigma: float) -> Strengths:
        """The strengths at a noise level."""
        if self.low < sigma <= self.high:
            return self.strengths
        return replace(self.strengths, unet=0.0)


@dataclass(frozen=True, eq=False)
class WornHypernetwork:
    """A hypernetwork, and how strongly it acts where low < sigma <= high."""

    network: Hypernetwork
    strength: float
    high: float
    low: float

    def at(self, sigma: float) -> float:
        """The strength at a noise level."""
        return self.strength if self.low < sigma <= self.high else 0.0


@dataclass(frozen=True, eq=False)
class Outfit:
    """All that a pass puts on its model, opened.

    facts: what a user should see that warns of nothing, as a file all of which has a place.
    """

    adapters: tuple[Worn, ...] = ()
    words: tuple[Embedding, ...] = ()
    hypernetworks: tuple[WornHypernetwork, ...] = ()
    files: tuple[UsedFile, ...] = ()
    notes: tuple[str, ...] = ()
    facts: tuple[str, ...] = ()

    @property
    def moves(self) -> bool:
        """Whether some of it acts in a part of the steps only."""
        windows = [(one.high, one.low) for one in self.adapters]
        windows += [(one.high, one.low) for one in self.hypernetworks]
        return not all(high == float("inf") and low < 0 for high, low in windows)

    @contextmanager
    def on(self, model: Model) -> Iterator["Dressed"]:
        """The model with all of it on, until this is left; then it is as it was, bit for bit.

        Raises CheckpointError for an adapter that does not fit, RequestError for a block that the
        model has not.
        """
        if not (self.adapters or self.words or self.hypernetworks):
            yield Dressed(model, self)
            return
        doses = [Dose(one.network, one.strength) for one in self.hypernetworks]
        network = model.network
        if doses:
            network = replace(network, nudges=(*network.nudges, nudge_of(doses)))
        text = model.text.with_embeddings(self.words) if self.words else model.text
        dressed = replace(model, network=network, text=text)
        if not self.adapters:
            yield Dressed(dressed, self, doses=doses)
            return
        order = [(one.adapter, one.strengths) for one in self.adapters]
        parts, placement = parts_of(model), model.placement
        if placement is not None:
            touched = {part for adapter, _ in order for part, _, _ in adapter}
            placement.held(*(parts[part] for part in touched if part in parts))
        with attached(parts, order) as attachment:
            if placement is not None and not attachment.folds:
                placement.release()
            yield Dressed(dressed, self, attachment, doses)


NOTHING_ON = Outfit()


@dataclass(frozen=True, eq=False)
class Dressed:
    """A model with an outfit on."""

    model: Model
    outfit: Outfit
    attachment: Attachment | None = None
    doses: Sequence[Dose] = ()

    def turned(self, denoise: Denoise) -> Denoise:
        """The denoiser, before each call of which everything acts as it is to at that level."""
        outfit = self.outfit
        if not outfit.moves:
            return denoise
        check_moving(self.model)

        def turned(x: Tensor, sigma: Tensor) -> Tensor:
            level = float(sigma.max())
            if self.attachment is not None:
                self.attachment.set_strengths([one.at(level) for one in outfit.adapters])
            for dose, one in zip(self.doses, outfit.hypernetworks, strict=True):
                dose.strength = one.at(level)
            return denoise(x, sigma)

        return turned


def parts_of(model: Model) -> dict[str, nn.Module]:
    """The networks of a model that adapters change, by the names of the parts."""
    return {UNET: model.network.unet, **by_text_part(model.text.encoders)}


def outfit_of(request: Request, model: Model, sigmas: Tensor, supplies: Supplies) -> Outfit:
    """What a request, whose names were looked up, puts on its model at these levels (N + 1,).

    Raises FileError or CheckpointError for a file that cannot be used with this model, RequestError
    or PromptError for a weight or block that cannot be.
    """
    tags = [tag for tag in tags_of(request.prompt, request) if tag.kind in KINDS]
    if not (request.loras or request.embeddings or request.hypernetworks or tags):
        return NOTHING_ON
    wardrobe = _Wardrobe(request, model, supplies, [float(sigma) for sigma in sigmas])
    adapters = [
        one
        for lora in request.loras
        for one in wardrobe.lora(lora, [t for t in tags if KINDS[t.kind] == "lora"])
    ]
    hypernetworks = [
        one
        for group in request.hypernetworks
        for one in wardrobe.hypernetwork(
            group.file,
            _asked(group.tag, [t for t in tags if KINDS[t.kind] == "hypernetwork"]),
            group.weight,
            (group.start, group.end),
        )
    ]
    words = [wardrobe.word(one.file, one.word) for one in request.embeddings]
    return Outfit(
        tuple(adapters),
        (*words, *wardrobe.bundled),
        tuple(hypernetworks),
        tuple(wardrobe.files),
        (*wardrobe.notes, *_idle(request, model, words)),
        tuple(wardrobe.facts),
    )


def worded(model: Model, request: Request, supplies: Supplies) -> Model:
    """A further model, such as a refiner, that understands those learned words that fit it."""
    words = []
    for one in request.embeddings:
        read = _read(find_addon("embedding", one.file, near(model)), supplies)
        with suppress(CheckpointError):
            words.append(embedding_for(model, read, one.word))
    return replace(model, text=model.text.with_embeddings(words)) if words else model


def _asked(tag: str | None, tags: Sequence[ExtraNetwork]) -> list[ExtraNetwork] | None:
    """The tags that ask for a group; None if it needs none."""
    return None if tag is None else [one for one in tags if one.name == tag]


def _idle(request: Request, model: Model, words: Sequence[Embedding]) -> Iterator[str]:
    """What to say of words that were given and that no prompt says."""
    if not words:
        return
    said = spoken(request, model.text.tokenizer, [w for one in words for w in one.words])
    for one in words:
        if not said & set(one.words):
            asked = " or ".join(shown(word) for word in one.words)
            yield f"no prompt says {asked}, so its vectors do nothing."


class _Wardrobe:
    """Opens the files of one request, and keeps what is to be said of them."""

    def __init__(
        self, request: Request, model: Model, supplies: Supplies, sigmas: list[float]
    ) -> None:
        self.request, self.model, self.supplies, self.sigmas = request, model, supplies, sigmas
        self.files: list[UsedFile] = []
        self.notes: list[str] = []
        self.facts: list[str] = []
        self.bundled: list[Embedding] = []  # words that lie in a LoRA's file

    def lora(self, lora: Lora, tags: Sequence[ExtraNetwork]) -> list[Worn]:
        """The adapter of a group, once for each tag that asks for it."""
        path = self.found("lora", lora.file)
        key = ("lora", path, lora.dora, self.model.family, self.model.device)
        loaded = self.supplies.kept(key, lambda: load_adapter(path, self.model, norm=lora.dora))
        whole = loaded.matched == loaded.total
        (self.facts if whole else self.notes).append(f"{loaded.summary}.")
        heeded = loaded.speed is not None and _heeded(loaded.speed.hint, self.request)
        self.notes += [
            f"{shown(loaded.adapter.name)}: {note}."
            for note in loaded.notes
            if not (heeded and loaded.speed is not None and note == loaded.speed.note)
        ]
        self.bundled += [embedding_for(self.model, e, e.token) for e in loaded.embeddings]
        high, low = sigma_range(self.sigmas, lora.start, lora.end)
        blocks = _blocks(lora.blocks, self.model)
        text = lora.weight if lora.text_weight is None else lora.text_weight
        asked = _asked(lora.tag, tags)
        weights = (
            [(lora.weight, text)]
            if asked is None
            else [(tag.unet_weight, tag.text_weight) for tag in asked]
        )
        self.notes += [
            f"{shown(str(tag))}: its rank is not cut down; the whole LoRA acts."
            for tag in asked or ()
            if tag.dyn is not None
        ]
        return [
            Worn(loaded.adapter, Strengths(unet, text, blocks), high, low) for unet, text in weights
        ]

    def hypernetwork(
        self,
        file: str,
        asked: Sequence[ExtraNetwork] | None,
        weight: float,
        window: tuple[float, float],
    ) -> list[WornHypernetwork]:
        """The hypernetwork of a group, once for each tag that asks for it."""
        path = self.found("hypernetwork", file)
        key = ("hypernetwork", path, self.model.family, self.model.dtype, self.model.device)
        network = self.supplies.kept(key, lambda: load_hypernetwork(path, self.model))
        high, low = sigma_range(self.sigmas, *window)
        weights = [weight] if asked is None else [tag.text_weight for tag in asked]
        return [WornHypernetwork(network, each, high, low) for each in weights]

    def word(self, file: str, word: str | None) -> Embedding:
        """The learned word of a group."""
        read = _read(self.found("embedding", file), self.supplies)
        return embedding_for(self.model, read, word)

    def found(self, kind: Addon, file: str) -> Path:
        """The file that a group names, remembered for the recipe."""
        path = find_addon(kind, file, near(self.model))
        plain = kind == "lora" and path.suffix.lower() == ".safetensors"
        self.files.append(
            UsedFile(
                role=kind,
                name=path.name,
                sha256=sha256(path),
                size=path.stat().st_size,
                tensors_sha256=content_sha256(path) if plain else None,
            )
        )
        return path


def _heeded(hint: SamplerHint, request: Request) -> bool:
    """Whether a request draws as a LoRA for few steps was made to be drawn with."""
    sampler = resolve_sampler(hint.sampler)
    usual = hint.schedule or sampler.default_schedule
    return (
        resolve_sampler(request.sampler) is sampler
        and (request.steps, request.cfg_scale) == (hint.steps, hint.guidance_scale)
        and (request.is_automatic or resolve_schedule(request.schedule).name == usual)
    )


def _read(path: Path, supplies: Supplies) -> EmbeddingFile:
    return supplies.kept(("embedding", path), lambda: read_embedding(path))


def _blocks(text: str | None, model: Model) -> dict[str, float]:
    """Factors by block, as an adapter takes them. Raises RequestError."""
    return {} if text is None else block_weights(parts_of(model), read_blocks(text))
