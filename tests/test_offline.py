"""No module talks to the network, but the one command that says so."""

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "src" / "safelight"
ALLOWED = SOURCE / "cli" / "download.py"
NETWORK = (
    "aiohttp",
    "asyncio.streams",
    "ftplib",
    "http.client",
    "httpcore",
    "httpx",
    "huggingface_hub",
    "imaplib",
    "poplib",
    "requests",
    "smtplib",
    "socket",
    "socketserver",
    "ssl",
    "telnetlib",
    "torch.hub",
    "urllib.request",
    "urllib3",
    "webbrowser",
    "websockets",
    "xmlrpc",
)
LISTENS = SOURCE / "server" / "running.py"  # has a port of its own, and connects to nobody
# Functions of harmless modules that fetch.
FETCHES = {"load_state_dict_from_url", "download_url_to_file", "open_connection", "from_pretrained"}
# Ways to import that a reader of imports cannot see; each use is looked at and listed here.
DYNAMIC = {
    "__init__.py": "imports the module of its own package that a name lives in",
    "cli/main.py": "imports the verb of its own package that was asked for",
}


def network_imports(tree: ast.AST) -> set[str]:
    """The network modules that some code imports or reaches as an attribute."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Attribute):
            found.add(ast.unparse(node))
    return {
        name for name in found if any(name == n or name.startswith(f"{n}.") for n in NETWORK)
    } | {name for name in found if name.rpartition(".")[2] in FETCHES}


def imports_by_name(tree: ast.AST) -> bool:
    """Whether some code imports what a text names."""
    called = {ast.unparse(n.func) for n in ast.walk(tree) if isinstance(n, ast.Call)}
    return bool({"__import__", "importlib.import_module", "import_module"} & called)


def modules() -> list[Path]:
    return sorted(SOURCE.rglob("*.py"))


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(SOURCE)))
def test_only_download_imports_network_libraries(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = network_imports(tree)
    if path == LISTENS:
        assert not {name for name in found if "connect" in name}
        found = {name for name in found if name.partition(".")[0] != "socket"}
    if path != ALLOWED:
        assert not found
    if str(path.relative_to(SOURCE).as_posix()) not in DYNAMIC:
        assert not imports_by_name(tree), "an import by name hides what is imported"


def test_download_is_the_module_that_does() -> None:
    assert network_imports(ast.parse(ALLOWED.read_text(encoding="utf-8"))) >= {"huggingface_hub"}


@pytest.mark.parametrize(
    "code",
    [
        "import socket",
        "import urllib.request as r",
        "from urllib import request",
        "from urllib.request import urlopen",
        "def f():\n    import requests",
        "from http import client",
        "import torch\ntorch.hub.load('a', 'b')",
        "from torch.hub import load_state_dict_from_url",
        "from huggingface_hub import hf_hub_download",
        "import asyncio\nasyncio.open_connection('a', 1)",
        "X.from_pretrained('a')",
    ],
)
def test_the_test_sees_every_way_to_import_them(code: str) -> None:
    assert network_imports(ast.parse(code))


@pytest.mark.parametrize("code", ["from urllib.parse import quote", "import sockets", "a.socket"])
def test_the_test_lets_the_harmless_pass(code: str) -> None:
    assert not network_imports(ast.parse(code))
