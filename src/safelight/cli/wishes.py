"""From what a command line asked for to requests: --like, prompt files, styles, dynamic prompts."""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from safelight.cli.axes import laid_on
from safelight.cli.missing import must_exist
from safelight.cli.telling import tell
from safelight.errors import FileError, ReplayError, RequestError
from safelight.tasks.metadata.reader import Found, read_settings
from safelight.tasks.presets import preset_settings
from safelight.tasks.prompt_lines import lines_of
from safelight.tasks.request import Request
from safelight.text.dynamic import expand
from safelight.text.prompt import without_comments
from safelight.text.styles import Style, read_styles, styled
from safelight.text.wildcards import Wildcards

_WILDCARD = re.compile(r"__[^\s_](?:[^\s_{}|]|_(?!_)){0,200}__")
STYLES = Path("styles.csv")  # A1111's name for it


@dataclass(frozen=True)
class Wishes:
    """What a command line asked for, before it is one or several requests."""

    prompt: str | None  # None: not given; "" is a prompt without words
    settings: Mapping[str, object]  # as `Request.parse` takes them
    like: Path | None = None
    prompts: Path | None = None
    style_names: tuple[str, ...] = ()
    styles: Path | None = None
    wildcards: Path | None = None
    dynamic: bool = True
    preset: str | None = None


@dataclass(frozen=True)
class Wording:
    """What is done to the text of a request before it is drawn."""

    styles: tuple[Style, ...] = ()
    lists: Wildcards | None = None
    dynamic: bool = True

    def applied(self, request: Request) -> list[Request]:
        """The request; or one for each picture, if its prompt makes a choice for each."""
        request = self._styled(request)
        prompt, negative = request.prompt, request.negative_prompt
        if not self.dynamic:
            return [request]
        if self.lists is None and (found := _WILDCARD.search(f"{prompt} {negative}")):
            tell([f"{found[0]} is read as text: --wildcards names no folder of lists."])
        resolved = request.resolved()
        assert resolved.seed is not None
        singles = [
            single.replace(
                prompt=expand(prompt, resolved.seed + k, self.lists),
                negative_prompt=expand(negative, resolved.seed + k, self.lists),
                batch=request.batch,
            )
            for k, single in enumerate(resolved.single(k) for k in range(request.count))
        ]
        if all(s.prompt == prompt and s.negative_prompt == negative for s in singles):
            return [request]
        return singles

    def _styled(self, request: Request) -> Request:
        if not self.styles:
            return request
        prompt, negative = request.prompt, request.negative_prompt
        if request.dialect == "a1111":
            prompt, negative = without_comments(prompt)[0], without_comments(negative)[0]
        return request.replace(
            prompt=styled(prompt, self.styles),
            negative_prompt=styled(negative, self.styles, negative=True),
        )


def requests_of(wishes: Wishes) -> list[Request]:
    """The requests, in order. Raises RequestError or FileError for what cannot be used."""
    refuse_idle_options(wishes)
    wording = wording_of(wishes)
    if wishes.prompt is None and not (wishes.prompts or wishes.like or wording.styles):
        raise RequestError(
            'say what to draw: safelight generate "a red apple on a blue background"'
        )
    base = base_settings(wishes)
    lines: list[dict[str, object]] = [{}]
    if wishes.prompts is not None:
        lines, warnings = lines_of(must_exist(wishes.prompts, "list of prompts"))
        tell(warnings)
        if not lines:
            raise FileError(f"{wishes.prompts} holds no prompt; write one on each line.")
    requests = [Request.parse({"prompt": "", **laid_on(base, line)}) for line in lines]
    return [single for request in requests for single in wording.applied(request)]


def refuse_idle_options(wishes: Wishes) -> None:
    """Raises RequestError for an option that would do nothing."""
    for useless, why in idle_options(wishes):
        raise RequestError(f"{useless} does nothing {why}; leave it out.")


def idle_options(wishes: Wishes) -> Iterator[tuple[str, str]]:
    """Options that another one, or the lack of one, keeps from doing anything."""
    if wishes.prompt is not None and wishes.prompts:
        yield "the prompt", "beside --prompts, whose lines are the prompts"
    if wishes.wildcards and not wishes.dynamic:
        yield "--wildcards", "with --no-dynamic"
    if wishes.styles and not wishes.style_names:
        yield "--styles", "without --style"
    if wishes.preset and {"sampler", "steps"} <= set(wishes.settings):
        yield "--preset", "beside --sampler and --steps"
    varied = "subseed_strength" in wishes.settings or wishes.like or wishes.prompts
    if "subseed" in wishes.settings and not varied:
        yield "--subseed", "without --subseed-strength"


def base_settings(wishes: Wishes, *, varied: Collection[str] = ()) -> dict[str, object]:
    """Settings of --like, overlaid by what the command line says.

    Files that an axis of a grid gives, by its name in `varied`, are not looked for. Raises
    FileError for a picture without settings, or whose model is not here.
    """
    settings: dict[str, object] = {}
    if wishes.like is not None:
        from safelight.families import SamplerHint

        found = read_settings(must_exist(wishes.like, "picture"))
        tell(found.notes)
        if found.request is None:
            raise FileError(f"{wishes.like} carries no settings to start from.")
        request = _with_files(wishes.like, found, wishes.settings, varied)
        # a picture's own settings stand before the model's, also where they are the defaults
        settings = {
            **request.model_dump(mode="json", include=set(SamplerHint().settings())),
            **request.model_dump(mode="json", exclude_defaults=True, exclude={"look_up"}),
        }
    settings = laid_on(laid_on(settings, preset_settings(wishes.preset)), wishes.settings)
    if wishes.prompt is not None:
        settings["prompt"] = wishes.prompt
    return settings


def _with_files(
    picture: Path, found: Found, given: Mapping[str, object], varied: Collection[str]
) -> Request:
    """A picture's request with real paths for its files, looked for as `safelight replay` does.

    Not looked for are those that the command line gives, or an axis of a grid.
    """
    from safelight.tasks.named_files import NamedFile, named_files, renamed
    from safelight.tasks.replay import hashes_of, located, other_files
    from safelight.tasks.stated import with_stated

    assert found.request is not None
    hashes, folders = hashes_of(found), (picture.parent, Path())
    models: list[Path] = []  # beside which LoRAs and words lie

    def place(file: NamedFile) -> str:
        if file.place in varied or _is_given(given, file.place.split(".")):
            return file.name
        try:
            wanted, near = hashes.get(file.role), models[0] if models else None
            path = located(file.role, file.name, wanted, folders, near=near)
        except ReplayError as error:
            raise FileError(f"--like {picture}: {error}") from None
        if file.role == "model":
            models.append(path)
        return str(path)

    request = renamed(found.request, place)
    files: dict[str, str | None] = {"vae": None}
    for file in named_files(request):
        if file.place not in varied and not _is_given(given, file.place.split(".")):
            files[file.role] = file.name
    tell(list(other_files(files, hashes)))
    stated = with_stated(request, found.hashes, models[0] if models else None)
    tell(stated.notes)
    return stated.request


def _is_given(settings: object, place: Sequence[str]) -> bool:
    """Whether settings say something at this place; a list of groups is replaced as a whole."""
    for name in place:
        if isinstance(settings, list | tuple):
            return True
        if not isinstance(settings, Mapping) or name not in settings:
            return False
        settings = settings[name]
    return True


def wording_of(wishes: Wishes) -> Wording:
    """The styles and lists that were named, read from their files.

    Choices of a prompt that comes from --like were made when its picture was drawn.
    """
    lists = None if wishes.wildcards is None else Wildcards.of(wishes.wildcards)
    spoken = wishes.prompt is not None or wishes.prompts is not None
    written = spoken or "negative_prompt" in wishes.settings
    dynamic = wishes.dynamic and (wishes.like is None or written)
    return Wording(tuple(_styles(wishes)), lists, dynamic)


def _styles(wishes: Wishes) -> Sequence[Style]:
    if not wishes.style_names:
        return ()
    if wishes.styles is None and not STYLES.exists():
        raise FileError(
            f"there is no table of styles to take {wishes.style_names[0]!r} from: no {STYLES} is "
            "in this folder; give one with --styles FILE.csv, of columns name,prompt,"
            "negative_prompt."
        )
    path = must_exist(wishes.styles or STYLES, "table of styles")
    table = read_styles(path)
    unknown = [name for name in wishes.style_names if name not in table]
    if unknown:
        known = ", ".join(sorted(table)) or "none"
        raise RequestError(f"{path} has no style {unknown[0]!r}; it has {known}.")
    return [table[name] for name in wishes.style_names]
