"""How a file of weights was made of others, as lines to read."""

from collections.abc import Iterator, Mapping

from rich.filesize import decimal

from safelight.checkpoints.made_by import MadeBy

DIGITS = 12  # of a hash: enough to tell files apart; --json gives them all


def recipe_lines(made: MadeBy) -> Iterator[tuple[str, str]]:
    """What made the file, each input below it, and the recipes of inputs that were made too."""
    yield (
        "made by",
        f"{made.verb} {_stated(made.settings)}".strip() + f", safelight {made.safelight}",
    )
    for each in made.inputs:
        hashed = f"{decimal(each.size)}, sha256 {each.sha256[:DIGITS]}"
        settings = _stated(each.settings)
        yield f"  {each.role}", f"{each.name}, {hashed}" + (f": {settings}" if settings else "")
        if each.recipe is not None:
            yield "    itself made by", f"{each.recipe.get('made_by')} of {_names(each.recipe)}"
    for note in made.notes:
        yield "  note", note


def _stated(settings: Mapping[str, object]) -> str:
    return ", ".join(f"{name} {value}" for name, value in settings.items())


def _names(recipe: Mapping[str, object]) -> str:
    inputs = recipe.get("inputs")
    found = inputs if isinstance(inputs, list) else []
    return ", ".join(str(each.get("name")) for each in found if isinstance(each, dict))
