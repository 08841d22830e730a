"""Prompts from one dialect to another, and notes of what the other cannot say exactly."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from safelight.text.compel import Mixture, read_compel
from safelight.text.layout import spans_of
from safelight.text.networks import ExtraNetwork
from safelight.text.prompt import Part, parse_prompt
from safelight.text.span import Dialect, Span

STEPS = 20  # only to find out whether a text changes over the steps

_NAMES: Mapping[Dialect, str] = {
    "a1111": "A1111",
    "comfy": "ComfyUI",
    "compel": "compel",
    "plain": "plain text",
}
_WAYS: Mapping[Dialect, str] = {
    "a1111": "A1111 multiplies the encoding and restores its mean",
    "comfy": "ComfyUI moves the encoding away from the empty prompt's",
    "compel": "compel moves it too, and hides tokens of a weight below 1",
    "plain": "plain text has no weights",
}

Notes = list[str]


def convert(text: str, source: Dialect, target: Dialect) -> tuple[str, tuple[str, ...]]:
    """The prompt in another dialect, and notes of all that is not exactly the same there.

    Weights are written with up to six digits. Raises PromptError as `parse_prompt` does.
    """
    if source == target:
        return text, ()
    notes: Notes = []
    terms, networks = _read(text, source, target, notes)
    written = _WRITERS[target](terms, notes)
    spans = [span for term in terms for own in term.texts for span in own]
    if any(span.weight != 1 for span in spans) and target != "plain":
        notes.append(
            f"weights act differently: {_WAYS[source]}; {_WAYS[target]}. Pictures will differ."
        )
    written = _with_networks(written, networks, target, notes)
    if target == "a1111" and "#" in written:
        notes.append("A1111 takes # for the start of a comment and has no way to write it.")
    return written, tuple(dict.fromkeys(notes))


def _read(
    text: str, source: Dialect, target: Dialect, notes: Notes
) -> tuple[list[Mixture], tuple[ExtraNetwork, ...]]:
    if source == "compel":
        reading = read_compel(text)
        return [_spaced(term) for term in reading.terms], reading.networks
    prompt = parse_prompt(text, steps=STEPS, dialect=source)
    notes += [note for note in prompt.notes if "comment" in note]
    parts = [_first(part, target, notes) for part in prompt.parts]
    if len(parts) > 1 or prompt.parts[0].weight != 1:
        notes.append(
            f"AND guides by each part apart, which {_NAMES[target]} has no syntax for;"
            " the parts are joined."
        )
    terms: list[Mixture] = []
    for part, own in zip(prompt.parts, parts, strict=True):
        terms += (Mixture((spans,), weight=part.weight) for spans in _at_breaks(own, source))
    return terms, prompt.networks


def _spaced(term: Mixture) -> Mixture:
    """The term with blanks after its spans: compel's are whole words."""
    texts = tuple(
        tuple(Span(f"{span.text} ", span.weight) for span in own[:-1]) + own[-1:]
        for own in term.texts
    )
    return replace(term, texts=texts)


def _first(part: Part, target: Dialect, notes: Notes) -> str:
    if len(part.switches) > 1:
        notes.append(
            f"{_NAMES[target]} cannot change a prompt over the steps;"
            f" only the first of {len(part.switches)} texts was taken."
        )
    return part.switches[0].text


def _at_breaks(text: str, source: Dialect) -> list[tuple[Span, ...]]:
    groups: list[list[Span]] = [[]]
    for span in spans_of(text, source):
        if span.breaks:
            groups.append([])
        else:
            groups[-1].append(span)
    return [tuple(group) for group in groups]


# -- writing ---------------------------------------------------------------------------------------


def _a1111(terms: Sequence[Mixture], notes: Notes) -> str:
    parts = []
    for term in terms:
        if len(term.texts) > 1:
            notes.append("A1111 cannot blend encodings; the texts are joined by AND instead.")
            shares = zip(term.texts, term.shares, strict=True)
            parts.append(
                " AND ".join(f"{_bracketed(t, _a1111_text)} :{share:g}" for t, share in shares)
            )
        else:
            if term.weight != 1:
                notes.append(
                    "A1111 has no weight for a whole chunk; its words are weighted instead."
                )
            spans = [Span(s.text, s.weight * term.weight) for s in term.texts[0]]
            parts.append(_bracketed(spans, _a1111_text))
    return " BREAK ".join(parts)


def _comfy(terms: Sequence[Mixture], notes: Notes) -> str:
    return _flat(terms, notes, "ComfyUI", _comfy_text)


def _plain(terms: Sequence[Mixture], notes: Notes) -> str:
    if any(span.weight != 1 for term in terms for own in term.texts for span in own):
        notes.append("plain text has no weights; they were left out.")
    bare = [
        Mixture(tuple(tuple(Span(s.text) for s in own) for own in term.texts), term.shares)
        for term in terms
    ]
    return _flat(bare, notes, "plain text", str)


def _flat(terms: Sequence[Mixture], notes: Notes, name: str, escape: Callable[[str], str]) -> str:
    if len(terms) > 1:
        notes.append(f"{name} has no syntax for separate chunks; the texts are joined by commas.")
    if any(len(term.texts) > 1 for term in terms):
        notes.append(f"{name} cannot blend encodings; the texts are joined by commas.")
    texts = [
        _bracketed([Span(s.text, s.weight * term.weight) for s in own], escape)
        for term in terms
        for own in term.texts
    ]
    return ", ".join(text.strip() for text in texts if text.strip())


def _compel(terms: Sequence[Mixture], notes: Notes) -> str:
    texts = [_compel_text(term.texts[0], notes) for term in terms]
    weights = [term.weight for term in terms]
    if len(texts) == 1 and weights == [1.0]:
        return texts[0]
    quoted = ", ".join(_quoted(text) for text in texts)
    given = "" if set(weights) == {1.0} else ", ".join(f"{w:g}" for w in weights)
    return f"({quoted}).and({given})"


_WRITERS: Mapping[Dialect, Callable[[Sequence[Mixture], Notes], str]] = {
    "a1111": _a1111,
    "comfy": _comfy,
    "compel": _compel,
    "plain": _plain,
}


def _bracketed(spans: Sequence[Span], escape: Callable[[str], str]) -> str:
    """Text with brackets around what has a weight; blanks at their edges stay outside."""
    written = []
    for at, span in enumerate(spans):
        before = spans[at - 1] if at else None
        text = escape(span.text)
        # Spans of compel and ComfyUI are words of their own even without a blank between them.
        joint = " " if before and _joins(before, span) else ""
        if span.weight == 1 or not text.strip():
            written.append(joint + text)
            continue
        inner = text.strip()
        start = text.index(inner)
        end = text[start + len(inner) :]
        if escape is _comfy_text and not start and "".join(written).endswith("\\"):
            joint = " "  # ComfyUI cannot write a backslash before a bracket that is syntax
        written.append(f"{joint}{text[:start]}({inner}:{span.weight:.6g}){end}")
    return "".join(written)


def _joins(before: Span, span: Span) -> bool:
    """Whether two spans would be read as one text, with nothing between their words."""
    apart = before.text[-1:].isspace() or span.text[:1].isspace()
    return before.weight == span.weight and bool(before.text and span.text) and not apart


def _a1111_text(text: str) -> str:
    """Text without meaning for A1111: a lone backslash vanishes, and so parts words and signs."""
    text = re.sub(r"([\\()\[\]])", r"\\\1", text)
    text = re.sub(r"\b(AND|BREAK)\b", lambda match: f"{match[1][0]}\\{match[1][1:]}", text)
    text = re.sub(r"<(\w+:)", r"<\\\1", text)
    return re.sub(r":(\s*)([-+]?[.\d]+\s*)\Z", r":\1\\\2", text)


def _comfy_text(text: str) -> str:
    return text.replace("(", "\\(").replace(")", "\\)")


def _compel_text(spans: Sequence[Span], notes: Notes) -> str:
    written = []
    for span in spans:
        text = re.sub(r'([()"])', r"\\\1", span.text).strip()
        if not text:
            continue
        if re.search(r"(?:[+-]+(?=[\s,.]|\Z))", text) or (
            span.weight != 1 and re.search("[+=]", text)
        ):
            notes.append(f"compel may take signs in {span.text.strip()[:40]!r} for syntax.")
        written.append(text if span.weight == 1 else f"({text}){_decimal(span.weight, notes)}")
    return " ".join(written)


def _decimal(weight: float, notes: Notes) -> str:
    """A weight as compel reads it after a bracket: with a point, and not below 0."""
    if weight < 0:
        notes.append(f"compel has no weights below 0; {weight:.6g} became 0.")
        weight = 0.0
    text = f"{weight:.6f}".rstrip("0")
    return text + "0" if text.endswith(".") else text


def _quoted(text: str) -> str:
    return '"{}"'.format(re.sub(r'(?<!\\)"', r"\"", text))


def _with_networks(
    text: str, networks: Sequence[ExtraNetwork], target: Dialect, notes: Notes
) -> str:
    if not networks:
        return text
    if target == "a1111":
        return " ".join([text, *map(str, networks)])
    loras = [n for n in networks if n.kind == "lora" and re.fullmatch(r"[\w-]+", n.name)]
    if target == "compel" and len(loras) == len(networks):
        if any(n.text_weight != n.unet_weight for n in loras):
            notes.append("compel gives a LoRA one weight; that of the U-Net was taken.")
        return " ".join([text, *(f"withLora({n.name}, {n.unet_weight:g})" for n in loras)])
    listed = " ".join(map(str, networks))
    notes.append(f"{_NAMES[target]} has no tags for networks; load them yourself: {listed}")
    return text
