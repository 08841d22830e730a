"""What `safelight prompt` prints."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from safelight.cli.telling import console, tell
from safelight.cli.wishes import Wishes, refuse_idle_options, wording_of
from safelight.errors import RequestError
from safelight.printable import shown
from safelight.tasks.request import Request
from safelight.tasks.settings import SEED_LIMIT
from safelight.text.bpe import Tokenizer
from safelight.text.convert import convert
from safelight.text.inspection import PartInspection, PromptInspection, inspect_prompt
from safelight.text.report import TextReport, TokenReport
from safelight.text.span import DIALECTS, EMPHASES, Dialect, Emphasis

if TYPE_CHECKING:
    from safelight.families import Family

BAR = 40  # characters of a timeline
TEXT_LIMIT = 50_000
BEYOND = 1_000_000  # ids that no vocabulary has


@dataclass(frozen=True)
class Source:
    """A prompt as typed, and what becomes of it before it is read."""

    text: str
    seed: int
    style_names: tuple[str, ...]
    styles: Path | None
    wildcards: Path | None
    dynamic: bool
    negative: bool

    def made(self, dialect: Dialect) -> tuple[str, tuple[str, ...]]:
        """The text that a picture of this seed is drawn from, and a note if it is another.

        Raises RequestError, PromptError or FileError as `safelight generate` does.
        """
        request = Request(
            prompt="" if self.negative else self.text,
            negative_prompt=self.text if self.negative else "",
            dialect=dialect,
            seed=self.seed,
        )
        if request.seed == -1:
            raise RequestError(f"--seed must be from 0 to {SEED_LIMIT - 1}; got -1.")
        wishes = Wishes(
            prompt=self.text,
            settings={},
            style_names=self.style_names,
            styles=self.styles,
            wildcards=self.wildcards,
            dynamic=self.dynamic,
        )
        refuse_idle_options(wishes)
        (request,) = wording_of(wishes).applied(request)
        made = request.negative_prompt if self.negative else request.prompt
        if made == self.text:
            return made, ()
        return made, (
            f"styles and choices are put in as for a picture of seed {self.seed}; another --seed "
            "may choose otherwise, and --no-dynamic reads {a|b} as text.",
        )


def show_prompt(
    source: Source,
    *,
    dialect: str,
    emphasis: str,
    model: str | None,
    embeddings: Sequence[str] = (),
    steps: int | None,
    sampler: str | None,
    comma_backtrack: int,
    as_json: bool,
) -> None:
    """Print how a prompt is read: by a model, if one is named.

    Raises RequestError for an unknown dialect or sampler, FileError or CheckpointError for a model
    that cannot be read; its weights are not.
    """
    known = _dialect(dialect)
    text, notes = source.made(known)
    family, own_steps = (None, 20) if model is None else _reader(model)
    tokenizer = None if family is None else Tokenizer(vocabulary=family.text.vocabulary)
    if embeddings:
        tokenizer = (tokenizer or Tokenizer()).with_triggers(_learned(embeddings, family))
    calls = 1
    if sampler is not None:
        from safelight.diffusion.samplers import resolve_sampler

        calls = resolve_sampler(sampler).counted_calls
    seen = inspect_prompt(
        text,
        steps=own_steps if steps is None else steps,
        dialect=known,
        emphasis=_emphasis(emphasis),
        calls_per_step=calls,
        negative=source.negative,
        comma_backtrack=comma_backtrack,
        tokenizer=tokenizer,
    )
    seen = replace(seen, notes=(*notes, *seen.notes))
    if as_json:
        print(json.dumps(seen.to_json(), ensure_ascii=False, indent=2))
        return
    told = console()
    if notes:
        told.print(Text(shown(text, TEXT_LIMIT), style="bold"))
    for number, part in enumerate(seen.parts, start=1):
        if len(seen.parts) > 1:
            told.print(f"[bold]part {number}[/bold], weight {part.weight:g}")
        _timeline(told, part, seen)
    for network in seen.networks:
        told.print(Text(f"extra network {shown(str(network))}"))
    tell(seen.notes)


def _reader(model: str) -> tuple["Family", int]:
    """What a model is, and how many steps it is drawn with unless told."""
    from safelight.checkpoints.library import find_model
    from safelight.checkpoints.load import open_checkpoint
    from safelight.families import SamplerHint

    with open_checkpoint(find_model(model), own_vae=False) as checkpoint:
        family = checkpoint.family
    steps = (family.hint if family.hint.stated else SamplerHint()).steps
    return family, steps


def _learned(texts: Sequence[str], family: "Family | None") -> dict[str, tuple[int, ...]]:
    """The learned words of files, and ids beyond every vocabulary for their vectors.

    Raises RequestError, FileError or CheckpointError as drawing with them does.
    """
    from safelight.checkpoints.embedding_file import fitting_tables, read_embedding, spoken_words
    from safelight.checkpoints.shelves import find_addon
    from safelight.cli.groups import embedding

    triggers: dict[str, tuple[int, ...]] = {}
    at = BEYOND
    for text in texts:
        group = embedding(text)
        read = read_embedding(find_addon("embedding", str(group["file"]), None))
        if family is not None:
            widths = [role.encoder.width for role in family.text.roles]
            fitting_tables(read, widths, family.label)
        word = group.get("word")
        ids = tuple(range(at, at + read.length))
        triggers |= dict.fromkeys(spoken_words(read, None if word is None else str(word)), ids)
        at += read.length
    return triggers


def convert_prompt(source: Source, dialect: str, target: str, *, as_json: bool) -> None:
    """Print a prompt in another dialect, and what could not be said there."""
    known = _dialect(dialect)
    text, put_in = source.made(known)
    converted, lost = convert(text, known, _dialect(target))
    notes = (*put_in, *lost)
    if as_json:
        print(json.dumps({"prompt": converted, "notes": list(notes)}, ensure_ascii=False))
        return
    print(converted)
    tell(notes)


def _timeline(console: Console, part: PartInspection, seen: PromptInspection) -> None:
    seen_texts: set[str] = set()
    for stretch in part.timeline:
        if len(part.timeline) > 1:
            first = round(BAR * (stretch.first - 1) / seen.calls)
            last = max(first + 1, round(BAR * stretch.last / seen.calls))
            bar = "·" * first + "█" * (last - first) + "·" * (BAR - last)
            line = Text.assemble((bar, "cyan"), f"  calls {stretch.first}-{stretch.last}  ")
            console.print(line.append(shown(stretch.text, TEXT_LIMIT), style="bold"))
        if stretch.text not in seen_texts:
            seen_texts.add(stretch.text)
            _tokens(console, stretch.report)


def _tokens(console: Console, report: TextReport) -> None:
    table = Table(box=None, pad_edge=False, show_header=True, header_style="dim")
    table.add_column("chunk")
    table.add_column("used", justify="right")
    table.add_column("tokens (weight where it is not 1)")
    for number, chunk in enumerate(report.chunks, start=1):
        words = Text()
        for token in chunk.tokens:
            words.append_text(_token(token)).append(" ")
        table.add_row(str(number), f"{chunk.length} of 75", words)
    console.print(table)


def _token(token: TokenReport) -> Text:
    word = shown(token.text.removesuffix("</w>"))
    style = "red" if token.weight > 1 else "blue" if token.weight < 1 else ""
    text = Text(word, style=style)
    if token.weight != 1:
        text.append(f":{token.weight:.3g}", style="dim")
    return text


def _dialect(name: str) -> Dialect:
    if name not in DIALECTS:
        raise RequestError(f"a dialect is {', '.join(DIALECTS)}; got {name!r}.")
    return name


def _emphasis(name: str) -> Emphasis:
    if name not in EMPHASES:
        raise RequestError(f"an emphasis is {', '.join(EMPHASES)}; got {name!r}.")
    return name
