"""What is wrong with a group of settings, in one line a person can act on."""

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from functools import cache

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

SHOWN = 3  # problems told at once; more would not be read
ECHO_LIMIT = 60  # characters of the user's value that are repeated


def complaint(settings: type[BaseModel], error: ValidationError, *, place: str = "") -> str:
    """One line about the first few problems: setting, what is allowed, what was given.

    `place` is written before every setting's name: "guidance." for the settings of that group.
    """
    problems = error.errors(include_url=False)
    unknown = [problem for problem in problems if problem["type"] == "extra_forbidden"]
    if len(unknown) > 1:  # one sentence, so that the list of settings is told once
        names = ", ".join(echo(str(problem["loc"][-1])) for problem in unknown[:SHOWN])
        known = ", ".join(settings.model_fields)
        return (
            f"There are no settings {names}{', ...' * (len(unknown) > SHOWN)}. Known are {known}."
        )
    told = " ".join(_sentence(settings, problem, place) for problem in problems[:SHOWN])
    more = len(problems) - SHOWN
    return f"{told} ({more} more problems.)" if more > 0 else told


def echo(value: object) -> str:
    """The user's value on one line, shortened, with control characters escaped."""
    if isinstance(value, str):
        text = repr(value[: ECHO_LIMIT + 1])
    elif isinstance(value, int) and value.bit_length() > 128:
        return f"a number of {value.bit_length()} bits"
    elif isinstance(value, bool | int | float) or value is None:
        text = repr(value)
    else:
        text = f"a {type(value).__name__}"
    return text if len(text) <= ECHO_LIMIT else text[: ECHO_LIMIT - 3] + "..."


def nearest(name: str, known: Sequence[str]) -> str | None:
    """The known name most like a misspelt one, or None when nothing is near."""
    by_lower = {choice.lower(): choice for choice in known}
    matches = get_close_matches(name[:200].lower(), by_lower, n=1, cutoff=0.6)
    return by_lower[matches[0]] if matches else None


def _sentence(settings: type[BaseModel], problem: ErrorDetails, place: str) -> str:
    where = place + ".".join(str(part) for part in problem["loc"])
    kind, given = problem["type"], problem["input"]
    if kind == "extra_forbidden":
        return _unknown(settings, str(problem["loc"][-1]), place)
    if kind == "missing":
        return f"{where} is missing."
    if kind == "sentence":  # said by a validator that knows several settings
        return problem["msg"]
    if kind == "multiple_of_8":
        return f"{where} {problem['msg']}"
    if kind in ("unstorable", "string_unicode"):
        return f"{where} must not contain a NUL character or half of a surrogate pair."
    if kind == "too_long":
        most, count = problem["ctx"]["max_length"], problem["ctx"].get("actual_length")
        return f"{where} must have at most {most} entries; got {count or 'more'}."
    rule = _rule_at(settings, problem["loc"])
    if kind == "string_too_long" and isinstance(given, str):
        return f"{where} must be {_allowed(rule)}; got {len(given)} characters."
    allowed = _allowed(rule)
    if not allowed:
        return f"{where}: {problem['msg']}; got {echo(given)}."
    return f"{where} must be {allowed}; got {echo(given)}.{_hint(rule, given)}"


def _unknown(settings: type[BaseModel], name: str, place: str) -> str:
    known = list(settings.model_fields)
    match = nearest(name, known)
    remedy = f"Did you mean {place}{match}?" if match else f"Known are {', '.join(known)}."
    return f"There is no setting {echo(place + name)}. {remedy}"


def _hint(rule: Mapping[str, object], given: object) -> str:
    choices = rule.get("enum")
    if isinstance(given, str) and isinstance(choices, list):
        match = nearest(given, [str(choice) for choice in choices])
        return f" Did you mean {match}?" if match else ""
    return ""


def _allowed(rule: Mapping[str, object]) -> str:
    """A JSON schema rule in words: 'a whole number from 1 to 1000'."""
    choices = rule.get("enum")
    if isinstance(choices, list):
        return "one of " + ", ".join(str(choice) for choice in choices)
    low = _bound(rule, "minimum", "exclusiveMinimum")
    high = _bound(rule, "maximum", "exclusiveMaximum")
    limits = f" from {low} to {high}" if low and high else ""
    match rule.get("type"):
        case "integer":
            return f"a whole number{limits}"
        case "number":
            return f"a finite number{limits}"
        case "boolean":
            return "true or false"
        case "array":
            items = rule.get("prefixItems")
            return f"a list of {len(items)} values" if isinstance(items, list) else "a list"
        case "object":
            return "an object of settings"
        case "string" if "pattern" in rule:
            return "auto, cpu, cuda, cuda:N, mps or xpu"
        case "string" if "minLength" in rule:
            return f"text of {rule['minLength']} to {rule['maxLength']} characters"
        case "string" if "maxLength" in rule:
            return f"text of at most {rule['maxLength']} characters"
        case "string":
            return "text"
        case _:
            return ""


def _bound(rule: Mapping[str, object], inclusive: str, exclusive: str) -> str:
    if exclusive in rule:
        return f"{'above' if exclusive == 'exclusiveMinimum' else 'below'} {rule[exclusive]}"
    return str(rule.get(inclusive, ""))


def _rule_at(settings: type[BaseModel], loc: tuple[int | str, ...]) -> Mapping[str, object]:
    """The JSON schema rule of one setting, through nested groups and optional values."""
    rule: Mapping[str, object] = _schema(settings)
    for part in loc:
        rule = _item(settings, rule) if isinstance(part, int) else _property(settings, rule, part)
    return rule


def _property(
    settings: type[BaseModel], rule: Mapping[str, object], name: str
) -> Mapping[str, object]:
    properties = rule.get("properties", {})
    assert isinstance(properties, Mapping)
    return _plain(settings, properties.get(name, {}))


def _item(settings: type[BaseModel], rule: Mapping[str, object]) -> Mapping[str, object]:
    """The rule of a list's items; our pairs have the same rule for both."""
    several = rule.get("prefixItems")
    return _plain(settings, several[0] if isinstance(several, list) else rule.get("items", {}))


def _plain(settings: type[BaseModel], rule: object) -> Mapping[str, object]:
    """The rule itself where the schema says 'see there' or 'this or nothing'."""
    assert isinstance(rule, Mapping)
    either = rule.get("anyOf")
    if isinstance(either, list):
        return _plain(settings, either[0])
    link = rule.get("$ref")
    if isinstance(link, str):
        definitions = _schema(settings)["$defs"]
        assert isinstance(definitions, Mapping)
        return _plain(settings, definitions[link.rpartition("/")[2]])
    return rule


@cache
def _schema(settings: type[BaseModel]) -> Mapping[str, object]:
    return settings.model_json_schema()
