"""The house: a module imports from floors below its own, or its own room without a circle."""

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "src" / "safelight"

FLOORS: dict[str, int] = {
    "ground": 0,
    "diffusion": 1,
    "models": 1,
    "measures": 1,
    "canvas": 1,
    "preprocessors": 1,
    "text": 2,
    "adapters": 2,
    "model": 3,
    "clip": 3,
    "checkpoints": 4,
    "engines": 4,
    "upscalers": 2,
    "embedded": 1,
    "tasks": 5,
    "evaluation": 5,
    "training": 5,
    "merging": 5,
    "benchmarks": 6,
    "bulk": 6,
    "server": 7,
    "cli": 8,
}
ONE_ROOM = {  # files that lie beside the rooms and belong together
    **dict.fromkeys(("errors", "printable", "writing", "condition", "version"), "ground"),
    "families": "model",  # what a model is, and one loaded
}
ORACLES = {"diffusers", "transformers", "accelerate", "peft", "k_diffusion", "open_clip", "lycoris"}


def modules() -> list[Path]:
    return sorted(SOURCE.rglob("*.py"))


def dotted(path: Path) -> str:
    parts = path.relative_to(SOURCE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room(module: str) -> str:
    parts = module.split(".")
    name = parts[1] if len(parts) > 1 else ""
    return ONE_ROOM.get(name, name)


def imports(path: Path) -> set[str]:
    """Every module that a file imports, inside functions too."""
    here = dotted(path) if path.name == "__init__.py" else dotted(path).rpartition(".")[0]
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = here.split(".")[: len(here.split(".")) - node.level + 1] if node.level else []
            stem = ".".join([*base, *([node.module] if node.module else [])])
            found.add(stem)
            found |= {f"{stem}.{name.name}" for name in node.names}
    return found


def inner(path: Path) -> set[str]:
    known = {dotted(p) for p in modules()}
    return {name for name in imports(path) if name in known and name != "safelight"}


@pytest.mark.parametrize("path", modules(), ids=dotted)
def test_a_module_imports_only_from_floors_below_or_its_own_room(path: Path) -> None:
    mine = room(dotted(path))
    if mine in ("", "__main__"):
        return  # the package itself is the roof: it offers what lies on any floor
    assert mine in FLOORS, f"room {mine!r} has no floor: give it one here and in docs/design.md"
    for other in inner(path):
        theirs = room(other)
        allowed = theirs == mine or FLOORS[theirs] < FLOORS[mine]
        assert allowed, f"{dotted(path)} (floor {FLOORS[mine]}) imports {other}"


def test_no_room_has_a_circle() -> None:
    graph = {dotted(p): inner(p) for p in modules()}
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " -> ".join([*path[path.index(module) :], module])
        if module in done:
            return
        for other in sorted(graph[module]):
            if other != module:
                visit(other, (*path, module))
        done.add(module)

    for module in sorted(graph):
        visit(module, ())


@pytest.mark.parametrize("path", modules(), ids=dotted)
def test_no_peer_is_imported(path: Path) -> None:
    assert not {name.split(".")[0] for name in imports(path)} & ORACLES


@pytest.mark.parametrize("path", modules(), ids=dotted)
def test_no_file_is_past_500_lines_or_named_for_nothing(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 500
    assert path.stem not in {"utils", "helpers", "common", "misc"}
