"""The command `safelight`: one verb a file, each imported only when it is asked for."""

import atexit
import importlib
import os
import signal
import sys
import threading
from collections.abc import MutableMapping
from contextlib import suppress
from difflib import get_close_matches
from io import TextIOWrapper
from typing import TYPE_CHECKING, NoReturn

import typer
from typer.core import TyperCommand, TyperGroup

if TYPE_CHECKING:
    from typer._click import HelpFormatter

from safelight.errors import RequestError, SafelightError

VERBS: dict[str, str] = {
    "generate": "Draw pictures from a text.",
    "edit": "Draw on a picture: change it, repaint a part, grow it.",
    "upscale": "Make a picture larger, with or without drawing.",
    "batch": "Draw any number of prompts from a list, on one machine or on Ray.",
    "grid": "Vary any settings into a labelled contact sheet.",
    "replay": "Draw a picture again from the recipe it carries, and compare.",
    "prompt": "Show how a prompt is read: tokens, chunks, weights, schedule.",
    "score": "Tell how well texts fit pictures, by a CLIP.",
    "inspect": "Say what a weights file or a picture is and holds.",
    "convert": "Write a model in another file layout or type.",
    "merge": "Merge models, put adapters into a model, or join adapters.",
    "extract": "Extract as a LoRA what one model learned since another.",
    "resize": "Bring an adapter to another rank.",
    "data": "Look at a training set and pack it.",
    "train": "Train an autoencoder, a CLIP, a diffusion model, a ControlNet or an evaluator.",
    "teach": "Teach a model a thing, a style or a word from a few pictures.",
    "evaluate": "Judge a model's pictures, with ceilings and baselines beside.",
    "bench": "Time drawing and training on this machine, beside other libraries.",
    "serve": "Serve drawing over HTTP: APIs and a page.",
    "mcp": "Offer drawing as tools of the Model Context Protocol.",
    "models": "List the models on this machine.",
    "download": "Fetch a model: the only command that uses the network.",
}

TURNS = "10000"  # that a waiting thread makes before it sleeps; some 20 microseconds
SPOKEN = ("generate", "edit", "upscale", "grid", "prompt")  # verbs whose argument is a prompt


class Verbs(TyperGroup):
    """Commands that are imported on use, so that `--help` stays quick."""

    def list_commands(self, ctx: typer.Context) -> list[str]:  # type: ignore[override]
        return list(VERBS)

    def get_command(self, ctx: typer.Context, cmd_name: str) -> "TyperCommand | TyperGroup | None":  # type: ignore[override]
        return command(cmd_name) if cmd_name in VERBS else None

    def format_commands(self, ctx: typer.Context, formatter: "HelpFormatter") -> None:  # type: ignore[override]
        with formatter.section("Commands"):
            formatter.write_dl(list(VERBS.items()))


class Verb(TyperCommand):
    """A command whose help lists its options by subject."""

    def format_options(self, ctx: typer.Context, formatter: "HelpFormatter") -> None:  # type: ignore[override]
        subjects: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None:
                kind = "Arguments" if parameter.param_type_name == "argument" else "Options"
                subject = getattr(parameter, "rich_help_panel", None) or kind
                subjects.setdefault(subject, []).append(record)
        for subject, records in subjects.items():
            with formatter.section(subject):
                formatter.write_dl(records)


def command(name: str) -> TyperCommand | TyperGroup:
    """The command of one verb, made from the typed function of the same name in its module.

    If the module lists PARTS, the verb is a group of them: `safelight data check`.
    """
    module = importlib.import_module(f"safelight.cli.{name}")
    parts: dict[str, str] = getattr(module, "PARTS", {})
    verbs = typer.Typer(add_completion=False, rich_markup_mode=None)
    if parts:
        verbs.callback()(getattr(module, name))
        for part, meaning in parts.items():
            verbs.command(name=part, cls=Verb, short_help=meaning)(getattr(module, part))
    else:
        verbs.command(name=name, cls=Verb, short_help=VERBS[name])(getattr(module, name))
    made = typer.main.get_command(verbs)
    assert isinstance(made, TyperCommand | TyperGroup)
    return made


def version(asked: bool) -> None:
    if asked:
        from safelight import __version__

        typer.echo(f"safelight {__version__}")
        raise typer.Exit


app = typer.Typer(cls=Verbs, add_completion=False, rich_markup_mode=None)


@app.callback()
def safelight(
    version: bool = typer.Option(
        False, "--version", callback=version, is_eager=True, help="Print the version and stop."
    ),
) -> None:
    """Stable Diffusion that people can trust: same recipe, same picture; nothing silently ignored;
    no network unless you say `download`."""


def main(argv: list[str] | None = None) -> None:
    """Run the command line; the process ends with 0, 1 (failure), 2 (wrong input), 130 (Ctrl-C)."""
    signal.signal(signal.SIGTERM, _terminated)
    share_cores(os.environ)
    code = run(sys.argv[1:] if argv is None else argv)
    leave(code)


def leave(code: int) -> NoReturn:
    """End the process at once, unless threads are at work that it would wait for.

    Freeing weights and graphs one by one before the system frees all of them takes a second for a
    model of SD 1.5's size; and at times PyTorch's threads abort a process of a group that ends,
    though all went well. What was asked to be done at the end (`atexit`) is done.
    """
    main = threading.main_thread()
    if any(not thread.daemon and thread is not main for thread in threading.enumerate()):
        sys.exit(code)
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError, AttributeError):  # nobody reads any more, or there is none
            code = code or 1
    os._exit(code)


def share_cores(environment: MutableMapping[str, str]) -> None:
    """Have threads that wait for each other give their core back soon; torch must not be loaded.

    GNU OpenMP lets them turn round and round for a millisecond, so where another program has one of
    the cores, most of a drawing's time is spent on waiting. Whoever sets the variables is heeded.
    """
    if "OMP_WAIT_POLICY" not in environment:
        environment.setdefault("GOMP_SPINCOUNT", TURNS)


def run(argv: list[str]) -> int:
    """The exit code of one command line. Errors are one line on stderr, never a traceback."""
    _say_everything()
    if os.environ.get("SAFELIGHT_DEBUG"):
        return _invoke(argv)
    try:
        return _invoke(argv)
    except typer.TyperException as error:
        return _usage(error, argv)
    except RequestError as error:
        from safelight.cli.options import in_flags

        return _fail(in_flags(str(error)), error.exit_code)
    except SafelightError as error:
        return _fail(str(error), error.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        print("stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:
        return _unheard()
    except Exception as error:
        if _is_out_of_memory(error):
            return _fail("out of memory; try a smaller --size, --batch 1 or --dtype bf16", 1)
        text = f"{type(error).__name__}: {error}".splitlines()[0]
        return _fail(f"unexpected {text} (set SAFELIGHT_DEBUG=1 to see where)", 1)


def _usage(error: typer.TyperException, argv: list[str]) -> int:
    verb = next((a for a in argv if not a.startswith("-")), "")
    if verb and verb not in VERBS:
        near = get_close_matches(verb, VERBS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else f"; the commands are {', '.join(VERBS)}"
        return _fail(f"there is no command {verb!r}{hint}", 2)
    message = error.format_message().rstrip(".")
    if "unexpected extra argument" in message and verb in SPOKEN:
        message += "; a prompt of several words needs quotation marks around it"
    if verb in SPOKEN and any(a.startswith("-") and " " in a and "=" not in a for a in argv):
        message += (
            f'; write -- before a prompt that begins with a dash: safelight {verb} -- "-a cat"'
        )
    where = f"safelight {verb} --help" if verb else "safelight --help"
    return _fail(f"{message} (see {where})", 2)


def _invoke(argv: list[str]) -> int:
    root = typer.main.get_command(app)
    try:
        with root.make_context("safelight", list(argv) or ["--help"]) as context:
            root.invoke(context)
    except typer.Exit as end:
        return end.exit_code
    return 0


def _terminated(*_: object) -> None:
    """End as Ctrl-C does: what was begun is taken away, what is finished stays."""
    raise SystemExit(128 + signal.SIGTERM)


def _say_everything() -> None:
    """Let a terminal that lacks a character show its number instead of ending the program."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _is_out_of_memory(error: Exception) -> bool:
    """Torch has a class of its own for a GPU's memory, and none for the CPU's."""
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or "DefaultCPUAllocator: can't allocate memory" in str(error)
    )


def _unheard() -> int:
    """Whoever read our output has gone, as `head` does; that is no failure of ours."""
    with suppress(OSError, ValueError):  # else Python complains once more when it ends
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _fail(message: str, code: int) -> int:
    printable = "".join(c if c.isprintable() else repr(c)[1:-1] for c in message)
    print(f"error: {printable}", file=sys.stderr)
    return code
