"""What `generate` and `grid` share: from what was asked to requests, and from those to files."""

import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from safelight.cli.axes import laid_on
from safelight.cli.prompt_lines import lines_of
from safelight.cli.telling import err, tell
from safelight.errors import FileError, RequestError
from safelight.model import Model
from safelight.tasks.generate import Progress as Drawn
from safelight.tasks.generate import Watch, decoded, generate
from safelight.tasks.loading import Models
from safelight.tasks.metadata.reader import read_settings
from safelight.tasks.picture import FORMATS, Picture
from safelight.tasks.request import Request
from safelight.text.dynamic import expand
from safelight.text.prompt import without_comments
from safelight.text.styles import Style, read_styles, styled
from safelight.text.wildcards import Wildcards


@dataclass(frozen=True)
class Wishes:
    """What a command line asked for, before it is one or several requests."""

    prompt: str
    settings: Mapping[str, object]  # as `Request.parse` takes them
    like: Path | None = None
    prompts: Path | None = None
    style_names: tuple[str, ...] = ()
    styles: Path = Path("styles.csv")
    wildcards: Path | None = None
    dynamic: bool = True


def requests_of(wishes: Wishes) -> list[Request]:
    """The requests, in order. Raises RequestError or FileError for what cannot be used."""
    base = base_settings(wishes)
    lines: list[dict[str, object]] = [{}]
    if wishes.prompts is not None:
        lines, warnings = lines_of(wishes.prompts)
        tell(warnings)
    styles = _styles(wishes)
    found = [
        request for line in lines for request in _expanded(laid_on(base, line), styles, wishes)
    ]
    said = wishes.prompt or wishes.prompts or wishes.like or styles
    if not said:
        raise RequestError(
            'say what to draw: safelight generate "a red apple on a blue background"'
        )
    return found


def draw(
    requests: Sequence[Request],
    *,
    out: Path,
    suffix: str,
    quality: int | None,
    metadata: bool,
    save_steps: bool,
    as_json: bool,
) -> list[Path]:
    """Draw and save all pictures, each as soon as it is finished; returns their files."""
    target = _target(requests, out, suffix)
    models, saved = Models(), []
    for request in requests:
        model = models.of(request)
        tell(model.notes)
        with steps_shown(request, model, save_steps=save_steps) as (watch, previews):
            for picture in generate(model, request, watch_steps=watch):
                if target is not None:
                    path = picture.save(target, metadata=metadata, quality=quality)
                else:
                    path = picture.save_new(out, suffix=suffix, metadata=metadata, quality=quality)
                previews.save(path, model, request)
                report(picture, path, as_json=as_json)
                saved.append(path)
    return saved


def report(picture: Picture, path: Path, *, as_json: bool) -> None:
    """What became of one picture: a line for people, or one JSON object."""
    recipe = picture.recipe
    if as_json:
        print(
            json.dumps(
                {
                    "path": str(path),
                    "seed": recipe.request.seed,
                    "width": recipe.request.width,
                    "height": recipe.request.height,
                    "steps": recipe.result.steps,
                    "sampler": recipe.result.sampler,
                    "schedule": recipe.result.schedule,
                    "seconds": recipe.seconds,
                    "pixels_sha256": recipe.result.pixels_sha256,
                    "warnings": list(picture.warnings),
                }
            ),
            flush=True,
        )
        return
    tell(picture.warnings)
    request, result = recipe.request, recipe.result
    print(
        f"{path}  seed {request.seed}  {request.width}x{request.height}  "
        f"{result.steps} steps of {result.sampler} ({result.schedule})  {recipe.seconds:.1f} s",
        flush=True,
    )


class Previews:
    """The estimates after each step of the pictures being drawn, for --save-steps."""

    def __init__(self, *, wanted: bool) -> None:
        self.wanted = wanted
        self._latents: list[list[Any]] = []
        self._next = 0

    def keep(self, drawn: Drawn) -> None:
        if not self.wanted:
            return
        if drawn.step == 1:
            self._latents, self._next = [[] for _ in range(drawn.pictures)], 0
        for k, steps in enumerate(self._latents):
            steps.append(drawn.denoised[k : k + 1].cpu())

    def save(self, path: Path, model: Model, request: Request) -> None:
        """Write the next picture's estimates to the folder NAME-steps beside its file."""
        if not self.wanted:
            return
        from PIL import Image

        from safelight.engines.sentinel import watch
        from safelight.tasks.picture import to_uint8
        from safelight.tasks.writing import write_whole

        folder = path.with_name(f"{path.stem}-steps")
        import io

        with watch() as sentinel:
            for number, latents in enumerate(self._latents[self._next], start=1):
                image = decoded(model, latents.to(model.device), request, sentinel)
                buffer = io.BytesIO()
                Image.fromarray(to_uint8(image)[0]).save(buffer, "PNG")
                write_whole(folder / f"{number:03}.png", buffer.getvalue())
        self._next += 1


@contextmanager
def steps_shown(
    request: Request, model: Model, *, save_steps: bool = False
) -> Iterator[tuple[Watch, Previews]]:
    """A progress bar on a terminal, with the time a step takes and what is left."""
    previews = Previews(wanted=save_steps)
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[pace]}"),
        TimeRemainingColumn(),
        console=err,
        transient=True,
        disable=not sys.stderr.isatty(),
    )
    with bar:
        task = bar.add_task("drawing", total=None, pace="")
        began = time.perf_counter()

        def watch(drawn: Drawn) -> None:
            nonlocal began
            now = time.perf_counter()
            if drawn.step == 1:
                bar.reset(task)
            last = drawn.first + drawn.pictures
            pictures = f"{drawn.first + 1}" + (f" to {last}" if drawn.pictures > 1 else "")
            bar.update(
                task,
                completed=drawn.step,
                total=drawn.steps,
                description=f"picture {pictures} of {request.count}",
                pace=f"{now - began:.2f} s a step",
            )
            began = now
            previews.keep(drawn)

        yield watch, previews


def base_settings(wishes: Wishes) -> dict[str, object]:
    """Settings of --like, overlaid by what the command line says."""
    settings: dict[str, object] = {}
    if wishes.like is not None:
        found = read_settings(wishes.like)
        tell(found.notes)
        if found.request is None:
            raise FileError(f"{wishes.like} carries no settings to start from.")
        settings = found.request.model_dump(mode="json", exclude_defaults=True)
    settings = laid_on(settings, wishes.settings)
    if wishes.prompt:
        settings["prompt"] = wishes.prompt
    return settings


def _styles(wishes: Wishes) -> list[Style]:
    if not wishes.style_names:
        return []
    table = read_styles(wishes.styles)
    unknown = [name for name in wishes.style_names if name not in table]
    if unknown:
        raise RequestError(
            f"{wishes.styles} has no style {unknown[0]!r}; it has {', '.join(sorted(table))}."
        )
    return [table[name] for name in wishes.style_names]


def _expanded(
    settings: Mapping[str, object], styles: Sequence[Style], wishes: Wishes
) -> list[Request]:
    """One request; or one for each picture, if its prompt makes a choice for each."""
    request = Request.parse({"prompt": "", **settings})
    prompt, negative = request.prompt, request.negative_prompt
    if styles:
        if request.dialect == "a1111":
            prompt, negative = without_comments(prompt)[0], without_comments(negative)[0]
        prompt = styled(prompt, styles)
        negative = styled(negative, styles, negative=True)
        request = request.replace(prompt=prompt, negative_prompt=negative)
    if not wishes.dynamic:
        return [request]
    resolved = request.resolved()
    assert resolved.seed is not None
    lists = Wildcards.of(wishes.wildcards) if wishes.wildcards else None
    singles = [
        single.replace(
            prompt=expand(prompt, resolved.seed + k, lists),
            negative_prompt=expand(negative, resolved.seed + k, lists),
            batch=request.batch,
        )
        for k, single in enumerate(resolved.single(k) for k in range(request.count))
    ]
    if all(s.prompt == prompt and s.negative_prompt == negative for s in singles):
        return [request]
    return singles


def _target(requests: Sequence[Request], out: Path, suffix: str) -> Path | None:
    """The file of a single picture, or None if `out` is a folder."""
    if suffix not in FORMATS:
        raise RequestError(f"--format must be png, jpg or webp; got {suffix[1:]!r}.")
    if out.suffix.lower() not in FORMATS:
        if out.exists() and not out.is_dir():
            raise RequestError(f"--out {out} is a file, but not a picture's; name a folder.")
        return None
    pictures = sum(request.count for request in requests)
    if pictures > 1:
        raise RequestError(
            f"--out {out} is one file and {pictures} pictures were asked for; name a folder."
        )
    return out
