"""All that can be said about a prompt without a model: what `safelight prompt` prints."""

from collections.abc import Sequence
from dataclasses import dataclass

from safelight.text.bpe import Tokenizer
from safelight.text.layout import Reading
from safelight.text.networks import ExtraNetwork
from safelight.text.prompt import parse_prompt
from safelight.text.report import Json, TextReport, reported
from safelight.text.span import Dialect, Emphasis
from safelight.text.styles import Style


@dataclass(frozen=True, slots=True)
class Stretch:
    """One text of a part and the calls of the model at which it is used, both ends included."""

    first: int
    last: int
    text: str
    report: TextReport


@dataclass(frozen=True, slots=True)
class PartInspection:
    """One of the prompts joined by AND, over time."""

    weight: float
    timeline: tuple[Stretch, ...]


@dataclass(frozen=True, slots=True)
class PromptInspection:
    """How a prompt is read, from the syntax down to the tokens."""

    prompt: str
    dialect: Dialect
    emphasis: Emphasis
    calls: int
    parts: tuple[PartInspection, ...]
    networks: tuple[ExtraNetwork, ...]
    notes: tuple[str, ...]

    def to_json(self) -> Json:
        """The inspection as values that JSON has; each text is reported once, by its text."""
        reports = {s.text: s.report for part in self.parts for s in part.timeline}
        return {
            "prompt": self.prompt,
            "dialect": self.dialect,
            "emphasis": self.emphasis,
            "calls": self.calls,
            "parts": [
                {
                    "weight": part.weight,
                    "timeline": [
                        {"first": s.first, "last": s.last, "text": s.text} for s in part.timeline
                    ],
                }
                for part in self.parts
            ],
            "texts": [{"text": text, **report.to_json()} for text, report in reports.items()],
            "networks": [
                {"kind": n.kind, "name": n.name, "arguments": list(n.arguments)}
                for n in self.networks
            ],
            "notes": list(self.notes),
        }


def inspect_prompt(
    text: str,
    *,
    steps: int = 20,
    dialect: Dialect = "a1111",
    emphasis: Emphasis = "original",
    calls_per_step: int = 1,
    earlier_steps: int | None = None,
    styles: Sequence[Style] = (),
    negative: bool = False,
    comma_backtrack: int = 20,
    tokenizer: Tokenizer | None = None,
) -> PromptInspection:
    """How a prompt is read over `steps`; settings as in `parse_prompt` and `Reading`.

    Raises PromptError and RequestError as those do.
    """
    tokenizer = tokenizer or Tokenizer()
    reading = Reading(dialect, emphasis, comma_backtrack)
    prompt = parse_prompt(
        text,
        steps=steps,
        dialect=dialect,
        calls_per_step=calls_per_step,
        earlier_steps=earlier_steps,
        styles=styles,
        negative=negative,
    )
    reports = {own: reported(own, tokenizer, reading) for own in prompt.texts}
    parts = []
    for part in prompt.parts:
        firsts = [1, *(switch.last + 1 for switch in part.switches[:-1])]
        timeline = tuple(
            Stretch(first, switch.last, switch.text, reports[switch.text])
            for first, switch in zip(firsts, part.switches, strict=True)
        )
        parts.append(PartInspection(part.weight, timeline))
    notes = [*prompt.notes, *(note for report in reports.values() for note in report.notes)]
    dropped = max(sum(len(t.ids) for t in report.cut_by_diffusers) for report in reports.values())
    if dropped:
        notes.append(
            f"a Diffusers pipeline would drop {dropped} tokens of this prompt; here all are used."
        )
    return PromptInspection(
        prompt=text,
        dialect=dialect,
        emphasis=emphasis,
        calls=steps * calls_per_step,
        parts=tuple(parts),
        networks=prompt.networks,
        notes=tuple(dict.fromkeys(notes)),
    )
