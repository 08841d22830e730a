"""The door through which every request from the network passes: names, pictures, bounds.

What comes out names files by the registry's names and pictures by ids; `portion_of` finds their
paths for the sampling thread. A request that was not let in here is never drawn.
"""

from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import get_args

from safelight.printable import shown
from safelight.server.jobs import Job, Owner
from safelight.server.painter import Portion
from safelight.server.refusals import NotAllowed
from safelight.server.registry import ROLES, Listed, Registry
from safelight.server.settings import ServerSettings
from safelight.tasks.addons import Embedding, Hypernetwork, Lora
from safelight.tasks.lookup import KINDS, tags_of, texts_of
from safelight.tasks.named_files import NamedFile, is_picture, renamed
from safelight.tasks.request import Request
from safelight.tasks.settings import Settings

ID_LENGTH = 64  # of the id of an upload; what is longer is the picture itself
UNKNOWN_TOLD = 20  # unknown fields named in one warning


def request_of(values: Mapping[str, object]) -> tuple[Request, tuple[str, ...]]:
    """A request from a JSON object, and a warning of the fields that there are not.

    Raises RequestError for a value that cannot be.
    """
    known, unknown = pruned(Request, values)
    if not unknown:
        return Request.parse(known), ()
    told = ", ".join(shown(name, 60) for name in unknown[:UNKNOWN_TOLD])
    more = f" and {len(unknown) - UNKNOWN_TOLD} more" if len(unknown) > UNKNOWN_TOLD else ""
    return Request.parse(known), (f"unknown settings were left out: {told}{more}.",)


def pruned(
    kind: type[Settings], values: Mapping[str, object], place: str = ""
) -> tuple[dict[str, object], list[str]]:
    """Only those values that settings have, in groups too, and the dotted names of the others."""
    known: dict[str, object] = {}
    unknown: list[str] = []
    for name, value in values.items():
        field = kind.model_fields.get(name)
        if field is None:
            unknown.append(f"{place}{name}")
            continue
        group = _group(field.annotation)
        if group is not None and isinstance(value, Mapping):
            known[name], others = pruned(group, value, f"{place}{name}.")
            unknown += others
        elif group is not None and isinstance(value, list | tuple):
            items = []
            for number, item in enumerate(value):
                if isinstance(item, Mapping):
                    item, others = pruned(group, item, f"{place}{name}.{number}.")
                    unknown += others
                items.append(item)
            known[name] = items
        else:
            known[name] = value
    return known, unknown


Keep = Callable[[str], Awaitable[str]]  # base64 of a picture -> the id of its upload


async def pictured(
    kind: type[Settings], values: Mapping[str, object], keep: Keep
) -> dict[str, object]:
    """The same values with ids for pictures that were given as base64 or data URIs."""
    found: dict[str, object] = {}
    for name, value in values.items():
        field = kind.model_fields.get(name)
        group = None if field is None else _group(field.annotation)
        if name in kind.roles and is_picture(kind.roles[name]):
            found[name] = await _kept(value, keep)
        elif group is not None and isinstance(value, Mapping):
            found[name] = await pictured(group, value, keep)
        elif group is not None and isinstance(value, list | tuple):
            found[name] = [
                await pictured(group, item, keep) if isinstance(item, Mapping) else item
                for item in value
            ]
        else:
            found[name] = value
    return found


async def _kept(value: object, keep: Keep) -> object:
    if isinstance(value, list | tuple):
        return [await _kept(item, keep) for item in value]
    if isinstance(value, str) and (len(value) > ID_LENGTH or value[:5].lower() == "data:"):
        return await keep(value)
    return value


def _group(annotation: object) -> type[Settings] | None:
    """The group of settings that a field holds, alone, or nothing, or in a list."""
    if isinstance(annotation, type) and issubclass(annotation, Settings):
        return annotation
    return next((g for part in get_args(annotation) if (g := _group(part)) is not None), None)


Pictures = Callable[[str, Owner], Path]  # the file of an id, for who may see it


def let_in(
    request: Request,
    owner: Owner,
    *,
    settings: ServerSettings,
    registry: Registry,
    model: str | None,
    pictures: Pictures,
) -> Request:
    """The request as it is kept: its seed chosen, files by the registry's names, pictures by ids.

    model: what is drawn with if it names none.

    Raises NotAllowed for more than the limits, or another device, type or engine than the
    server's, Unknown for a name or a picture that there is not.
    """
    settings.limits.check(request)
    for name in ("device", "dtype", "engine", "offload"):
        given, own = getattr(request, name), getattr(settings, name)
        if name in request.model_fields_set and given not in ("auto", own):
            raise NotAllowed(f"{name} is the server's choice here ({own}); leave it out.")

    def named(file: NamedFile) -> str:
        if file.is_picture:
            pictures(file.name, owner)
            return file.name
        shelf = ROLES.get(file.role.rstrip(" 0123456789"))
        if shelf is None:
            raise NotAllowed(f"{file.place} cannot be given to a server.")
        if shelf == "encoder" and registry.has("model", file.name):
            return registry.find("model", file.name).name  # a model's folder may hold a CLIP
        return registry.find(shelf, file.name).name

    named_request = renamed(request, named)
    for text in texts_of(named_request):
        for tag in tags_of(text, named_request):
            if (kind := KINDS.get(tag.kind)) is not None:
                registry.find(kind, tag.name)
    if named_request.model is None and named_request.needs_model:
        if model is None:
            raise NotAllowed("name a model: this server draws with none unless told.")
        named_request = named_request.replace(model=model)
    whole = named_request.resolved()
    # Sharing a batch is what makes a server quick; who wants the same bits whatever is drawn beside
    # says so
    return whole.replace(exact=False) if whole.exact is None and settings.batch > 1 else whole


def portion_of(
    job: Job,
    indices: tuple[int, ...],
    *,
    settings: ServerSettings,
    registry: Registry,
    pictures: Callable[[str], Path],
) -> Portion:
    """What of a job is drawn next, its request with real paths, for the sampling thread alone.

    pictures: the file of an id. Learned words that its prompts may say are given with their files;
    the painter keeps those that they do say. Raises Unknown for a file or a picture that has gone
    since.
    """
    request = job.request
    names: dict[str, str] = {}
    needed: dict[str, Path] = {}

    def path_of(item: Listed) -> str:
        names[str(item.path)] = item.name
        return str(item.path)

    def path(file: NamedFile) -> str:
        if file.is_picture:
            needed[file.name] = pictures(file.name)
            return file.name
        shelf = ROLES[file.role.rstrip(" 0123456789")]
        if shelf == "encoder" and registry.has("model", file.name):
            shelf = "model"
        return path_of(registry.find(shelf, file.name))

    given = {one.tag for one in request.loras} | {one.tag for one in request.hypernetworks}
    loras: list[Lora] = []
    hypernetworks: list[Hypernetwork] = []
    for text in texts_of(request):
        for tag in tags_of(text, request):
            kind = KINDS.get(tag.kind)
            if kind is None or tag.name in given:
                continue
            given.add(tag.name)
            file = path_of(registry.find(kind, tag.name))
            if kind == "lora":
                loras.append(Lora(file=file, tag=tag.name))
            else:
                hypernetworks.append(Hypernetwork(file=file, tag=tag.name))
    found = renamed(request, path)
    words = [Embedding(file=path_of(item), word=item.stem) for item in _words(request, registry)]
    whole = found.replace(
        loras=(*found.loras, *loras),
        hypernetworks=(*found.hypernetworks, *hypernetworks),
        embeddings=(*found.embeddings, *words),
        look_up=False,
        device=settings.device,
        dtype=settings.dtype,
        engine=settings.engine,
        offload=settings.offload,
        batch=settings.batch,
    )
    return Portion(job, whole, indices, names, needed)


def _words(request: Request, registry: Registry) -> list[Listed]:
    """Learned words whose letters a prompt has, and which no group names."""
    text = " ".join(texts_of(request)).casefold()
    given = {one.word or one.file.rpartition("/")[2] for one in request.embeddings}
    return [
        item
        for item in registry.on("embedding")
        if item.stem.casefold() in text and item.stem not in given and request.look_up
    ]
