"""The rest of /api: what there is to draw with, what settings mean, and readers of prompts and
pictures."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, get_args

from fastapi import APIRouter, FastAPI, Query
from starlette.requests import Request as HttpRequest

from safelight.checkpoints.load import open_checkpoint
from safelight.diffusion.samplers import SAMPLERS, resolve_sampler
from safelight.diffusion.schedules import SCHEDULES
from safelight.errors import SafelightError
from safelight.server.bodies import StrictRoute, object_in
from safelight.server.documents import body_of, request_schemas
from safelight.server.jobs import Owner
from safelight.server.native import Asking, picture_in
from safelight.server.refusals import NotAllowed
from safelight.server.registry import Registry, Shelf
from safelight.server.scoring import Judges
from safelight.server.service import Service
from safelight.server.uploads import decoded
from safelight.tasks.metadata.reader import settings_of
from safelight.tasks.named_files import renamed
from safelight.tasks.picture_file import open_picture
from safelight.tasks.recipe import bare_name, pixels_sha256
from safelight.tasks.request import Request
from safelight.text.bpe import Tokenizer
from safelight.text.convert import convert
from safelight.text.inspection import inspect_prompt
from safelight.text.span import DIALECTS, EMPHASES, Dialect, Emphasis

Json = dict[str, object]

TEXTS_SHOWN = 100_000  # characters of a picture's texts that are given out
STEPS_MOST = 1000
SHELVES: Mapping[str, Shelf] = {
    "models": "model",
    "vaes": "vae",
    "loras": "lora",
    "embeddings": "embedding",
    "hypernetworks": "hypernetwork",
    "controls": "control",
    "upscalers": "upscaler",
    "adapters": "adapter",
    "encoders": "encoder",
}


@dataclass(frozen=True, slots=True)
class Explained:
    """A setting of a request in words. field: its dotted name. panel: the subject it belongs to."""

    field: str
    meaning: str
    panel: str


def install(app: FastAPI, service: Service, explained: Sequence[Explained] = ()) -> None:
    """Add the lists and readers. explained: what settings mean, for /api/settings."""
    app.include_router(_lists(service, explained))
    app.include_router(_readers(service))


def _lists(service: Service, explained: Sequence[Explained]) -> APIRouter:
    router = APIRouter(prefix="/api", tags=["lists"], route_class=StrictRoute)

    def shelf(path: str, kind: Shelf) -> None:
        @router.get(f"/{path}", name=path, operation_id=f"list_{path}")
        async def items() -> dict[str, object]:
            """What requests may name, each with its name, kind, size and hash if it is known.

            Files among the models that cannot be read are in `refused` of /api/models, with why.
            """
            found: dict[str, object] = {
                path: [item.to_json() for item in service.registry.on(kind)]
            }
            if kind != "model":
                return found
            refused = [item.to_json() for item in service.registry.refused]
            return found | {"default": service.model, "refused": refused}

    for path, kind in SHELVES.items():
        shelf(path, kind)

    @router.get("/samplers")
    async def samplers() -> dict[str, object]:
        """The samplers, with other programs' names for them and their options."""
        return {
            "samplers": [
                {
                    "name": info.label,
                    "aliases": [info.name, *info.aliases],
                    "meaning": info.meaning,
                    "schedule": SCHEDULES[info.default_schedule].label,
                    "calls_per_step": info.calls_per_step,
                    "stochastic": info.stochastic,
                    "options": [
                        {"name": o.name, "meaning": o.meaning, "default": o.default}
                        for o in info.parameters
                    ],
                }
                for info in SAMPLERS.values()
            ]
        }

    @router.get("/schedules")
    async def schedules() -> dict[str, object]:
        """The spacings of noise levels."""
        return {
            "schedules": [
                {"name": one.label, "aliases": [one.name], "options": list(one.options)}
                for one in SCHEDULES.values()
            ]
        }

    @router.get("/settings")
    async def settings(model: Annotated[str | None, Query(max_length=300)] = None) -> Json:
        """The JSON schema of a request with its defaults, and what each setting means.

        `own` has what the model itself is drawn with where a request leaves it open, by its header;
        model: its name, else the server's own.
        """
        name = service.model if model is None else model
        return {
            "schema": {**request_schemas()},
            "explained": [asdict(one) for one in explained],
            "defaults": Request(prompt="").spelled_out().model_dump(mode="json"),
            "own": await service.aside(lambda: own_of(name, service.registry)),
            "dialects": list(get_args(Dialect)),
        }

    @router.get("/limits")
    async def limits() -> dict[str, object]:
        """How much a request, and an owner, may ask for."""
        own = service.settings
        return {
            "limits": own.limits.to_json(),
            "batch": own.batch,
            "preview_every": own.previews,
        }

    @router.post("/refresh")
    async def refresh() -> dict[str, object]:
        """List models and the like anew."""
        await service.refresh()
        return {"models": len(service.registry.on("model"))}

    @router.post("/model", openapi_extra=body_of("ModelChoice", {}))
    async def use_model(request: HttpRequest) -> dict[str, object]:
        """Draw with this model from now on unless a request names another: {"name": NAME}.

        Answers when it is loaded; one that cannot be read leaves the old one in its place.
        """
        name = (await object_in(request)).get("name")
        if not isinstance(name, str):
            raise NotAllowed("name must be the name of a model.")
        await service.use_model(name)
        return {"model": service.model}

    return router


def _readers(service: Service) -> APIRouter:
    router = APIRouter(prefix="/api", tags=["readers"], route_class=StrictRoute)
    judges = Judges(service.settings.device)
    vocabularies: dict[str, Tokenizer] = {}

    @router.post("/inspect", openapi_extra=body_of("UploadedPicture", {}, form=True, raw=True))
    async def inspect(request: HttpRequest, owner: Asking) -> dict[str, object]:
        """The settings that a picture carries, of whatever program; it is kept as an upload.

        The picture comes as in POST /api/pictures.
        """
        upload = await service.upload(await picture_in(service, request), owner)
        path = service.upload_path(upload.id)
        return upload.to_json() | await service.aside(lambda: read_of(path))

    @router.post("/prompt", openapi_extra=body_of("PromptToRead", {}))
    async def prompt(request: HttpRequest) -> dict[str, object]:
        """How a prompt is read: tokens, chunks, weights, schedule; `to` writes it in a dialect.

        Fields: text, dialect, emphasis, steps, sampler, negative, comma_backtrack, model, to.
        """
        asked = _prompt_of(await object_in(request), service.settings.limits.prompt)
        model = asked.model if asked.model is not None else service.model

        def read() -> dict[str, object]:
            tokenizer = _tokenizer(model, service.registry, vocabularies)
            return _read(asked, tokenizer)

        return await service.aside(read)

    @router.post("/score", openapi_extra=body_of("PicturesToScore", {}))
    async def score(request: HttpRequest, owner: Asking) -> dict[str, object]:
        """How well texts fit pictures: the cosine of a CLIP's vectors, a row for each picture.

        Fields: pictures (ids, or base64), texts, clip (a name; the embedded model's CLIP).
        """
        given = await object_in(request)
        pictures, texts, clip = given.get("pictures"), given.get("texts"), given.get("clip")
        if not (_are_texts(pictures) and _are_texts(texts)):
            raise NotAllowed("pictures and texts must be lists of texts.")
        if clip is not None and not isinstance(clip, str):
            raise NotAllowed("clip must be the name of an encoder or of a model.")
        assert isinstance(pictures, list) and isinstance(texts, list)
        paths = [await _path_of(service, text, owner) for text in pictures]
        return await service.aside(lambda: judges.scores(paths, texts, clip, service.registry))

    return router


def own_of(name: str | None, registry: Registry) -> Json:
    """What a model is drawn with unless a request says: its size, and settings that it states."""
    if name is None or not registry.has("model", name):
        return {}
    try:
        with open_checkpoint(registry.find("model", name).path, own_vae=False) as checkpoint:
            family = checkpoint.family
    except SafelightError:
        return {}  # the file went, or is being written: drawing with it says so
    sides: Json = {"width": family.native_size, "height": family.native_size}
    hint = family.hint
    if not hint.stated:
        return sides
    labels: Json = {"sampler": SAMPLERS[hint.sampler].label}
    if hint.schedule is not None:
        labels["schedule"] = SCHEDULES[hint.schedule].label
    return sides | hint.settings() | labels


async def _path_of(service: Service, text: str, owner: Owner) -> Path:
    """The file of a picture that is named by its id, or given as base64."""
    if len(text) > 64 or text[:5].lower() == "data:":
        upload = await service.upload(decoded(text, service.settings.limits), owner)
        return service.upload_path(upload.id)
    return service.picture_path(text, owner)


def read_of(path: Path) -> dict[str, object]:
    """What a picture tells of how it was drawn; names of files without their folders."""
    opened = open_picture(path)
    found = settings_of(opened)
    request = None if found.request is None else _bare(found.request)
    recipe = None if found.recipe is None else found.recipe.without_folders()
    shown: dict[str, str] = {}
    room = TEXTS_SHOWN
    for name, text in found.texts.items():
        shown[name] = text[:room]
        room -= len(shown[name])
    return {
        "source": found.source,
        "request": None if request is None else request.model_dump(mode="json", exclude_unset=True),
        "recipe": None if recipe is None else recipe.model_dump(mode="json"),
        "pixels_match": None
        if recipe is None
        else pixels_sha256(opened.pixels) == recipe.result.pixels_sha256,
        "model_hash": found.model_hash,
        "notes": list(found.notes),
        "texts": shown,
    }


def _bare(request: Request) -> Request:
    return renamed(request, lambda file: bare_name(file.name))


@dataclass(frozen=True, slots=True)
class _Prompt:
    """A prompt to be read, and how."""

    text: str
    dialect: Dialect
    emphasis: Emphasis
    steps: int
    calls: int
    negative: bool
    comma_backtrack: int
    model: str | None
    to: Dialect | None


def _prompt_of(given: Mapping[str, object], most: int) -> _Prompt:
    """What was asked of a prompt. Raises NotAllowed, RequestError for an unknown sampler."""
    text, model, sampler = given.get("text", ""), given.get("model"), given.get("sampler")
    if not isinstance(text, str) or len(text) > most:
        raise NotAllowed(f"text must be a text of at most {most} characters.")
    for name in ("model", "sampler"):
        if given.get(name) is not None and not isinstance(given[name], str):
            raise NotAllowed(f"{name} must be a name.")
    dialect, to = given.get("dialect", "a1111"), given.get("to")
    emphasis = given.get("emphasis", "original")
    if dialect not in DIALECTS or (to is not None and to not in DIALECTS):
        raise NotAllowed(f"a dialect is {', '.join(DIALECTS)}.")
    if emphasis not in EMPHASES:
        raise NotAllowed(f"an emphasis is {', '.join(EMPHASES)}.")
    negative = given.get("negative", False)
    if not isinstance(negative, bool):
        raise NotAllowed("negative must be true or false.")
    calls = resolve_sampler(sampler).counted_calls if isinstance(sampler, str) else 1
    return _Prompt(
        text=text,
        dialect=dialect,
        emphasis=emphasis,
        steps=_whole(given.get("steps", 20), "steps", 1, STEPS_MOST),
        calls=calls,
        negative=negative,
        comma_backtrack=_whole(given.get("comma_backtrack", 20), "comma_backtrack", 0, 74),
        model=model if isinstance(model, str) else None,
        to=to,
    )


def _whole(value: object, name: str, low: int, high: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise NotAllowed(f"{name} must be a whole number from {low} to {high}.")
    return value


def _read(asked: _Prompt, tokenizer: Tokenizer) -> dict[str, object]:
    if asked.to is not None:
        converted, lost = convert(asked.text, asked.dialect, asked.to)
        return {"prompt": converted, "dialect": asked.to, "notes": list(lost)}
    seen = inspect_prompt(
        asked.text,
        steps=asked.steps,
        dialect=asked.dialect,
        emphasis=asked.emphasis,
        calls_per_step=asked.calls,
        negative=asked.negative,
        comma_backtrack=asked.comma_backtrack,
        tokenizer=tokenizer,
    )
    told = seen.to_json()
    assert isinstance(told, dict)
    return dict(told)


def _tokenizer(model: str | None, registry: Registry, known: dict[str, Tokenizer]) -> Tokenizer:
    """How a model splits texts; by its header alone."""
    if model is None or not registry.has("model", model):
        return Tokenizer()
    item = registry.find("model", model)
    if item.name not in known:
        with open_checkpoint(item.path, own_vae=False) as checkpoint:
            vocabulary = checkpoint.family.text.vocabulary
        known[item.name] = Tokenizer(vocabulary=vocabulary)
    return known[item.name]


def _are_texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)
