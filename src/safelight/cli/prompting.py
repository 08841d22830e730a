"""What `safelight prompt` prints."""

import json

from rich.console import Console
from rich.table import Table
from rich.text import Text

from safelight.cli.telling import console, tell
from safelight.errors import RequestError
from safelight.printable import shown
from safelight.text.convert import convert
from safelight.text.inspection import PartInspection, PromptInspection, inspect_prompt
from safelight.text.report import TextReport, TokenReport
from safelight.text.span import DIALECTS, EMPHASES, Dialect, Emphasis

BAR = 40  # characters of a timeline
TEXT_LIMIT = 50_000


def show_prompt(
    text: str,
    *,
    dialect: str,
    emphasis: str,
    steps: int,
    sampler: str | None,
    negative: bool,
    as_json: bool,
) -> None:
    """Print how a prompt is read. Raises RequestError for an unknown dialect or sampler."""
    calls = 1
    if sampler is not None:
        from safelight.diffusion.samplers import resolve_sampler

        calls = resolve_sampler(sampler).counted_calls
    seen = inspect_prompt(
        text,
        steps=steps,
        dialect=_dialect(dialect),
        emphasis=_emphasis(emphasis),
        calls_per_step=calls,
        negative=negative,
    )
    if as_json:
        print(json.dumps(seen.to_json(), ensure_ascii=False, indent=2))
        return
    told = console()
    for number, part in enumerate(seen.parts, start=1):
        if len(seen.parts) > 1:
            told.print(f"[bold]part {number}[/bold], weight {part.weight:g}")
        _timeline(told, part, seen)
    for network in seen.networks:
        told.print(Text(f"extra network {shown(str(network))}"))
    tell(seen.notes)


def convert_prompt(text: str, source: str, target: str, *, as_json: bool) -> None:
    """Print a prompt in another dialect, and what could not be said there."""
    converted, notes = convert(text, _dialect(source), _dialect(target))
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
