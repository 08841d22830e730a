"""Help is quick because nothing heavy is imported for it, and every setting is an option."""

import subprocess
import sys
from pathlib import Path

import pytest

from cli_tiny import process
from safelight.cli.groups import (
    CONTROL,
    EMBEDDING,
    HYPERNETWORK,
    IMAGE_PROMPT,
    LORA,
    REFERENCE,
    REGION,
)
from safelight.cli.main import VERBS, run
from safelight.cli.options import SETTINGS, SIDES, takes_settings
from safelight.tasks.request import Request, Settings

HEAVY = ("torch", "numpy", "PIL", "pydantic", "safetensors", "huggingface_hub")


def imported(code: str) -> set[str]:
    """The heavy packages that a fresh interpreter has loaded after running `code`."""
    tell = f"import sys; print(*[m for m in {HEAVY} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\n{tell}"], capture_output=True, text=True, check=True
    )
    return set(done.stdout.splitlines()[-1].split())


def test_importing_safelight_imports_no_torch() -> None:
    assert imported("import safelight") == set()


def test_help_and_version_import_nothing_heavy_and_wrong_commands_no_torch() -> None:
    for args in (["--help"], ["--version"], []):
        assert imported(f"from safelight.cli.main import run; run({args})") == set(), args
    for args in (["genrate"], ["--foo"]):
        code = f"from safelight.cli.main import run; run({args})"
        assert not imported(code) & {"torch", "numpy", "PIL"}, args


@pytest.mark.parametrize("verb", ["generate", "grid", "replay", "convert", "inspect"])
def test_help_of_a_verb_and_its_usage_errors_import_no_torch(verb: str) -> None:
    code = f"from safelight.cli.main import run; run(['{verb}', '--help']); run(['{verb}', '--x'])"
    assert "torch" not in imported(code)


def test_every_verb_has_help(capsys: pytest.CaptureFixture[str]) -> None:
    for verb in VERBS:
        assert run([verb, "--help"]) == 0
        assert f"Usage: safelight {verb}" in capsys.readouterr().out


def test_nothing_asked_for_is_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert run([]) == 0
    out = capsys.readouterr().out
    assert all(f"  {verb} " in out for verb in VERBS)


def test_the_help_of_generate_lists_its_options_by_subject(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(["generate", "--help"]) == 0
    out = capsys.readouterr().out
    for panel in {setting.panel for setting in SETTINGS}:
        assert f"\n{panel}:\n" in out
    for setting in SETTINGS:
        assert all(part in out for flag in setting.flags for part in flag.split("/"))


def fields(group: type[Settings], place: str = "") -> set[str]:
    """The dotted names of all settings of a request."""
    found: set[str] = set()
    for name, field in group.model_fields.items():
        inner = [
            kind
            for kind in (field.annotation, *getattr(field.annotation, "__args__", ()))
            if isinstance(kind, type) and issubclass(kind, Settings)
        ]
        found |= fields(inner[0], f"{place}{name}.") if inner else {place + name}
    return found


def test_every_setting_of_a_request_is_an_option() -> None:
    elsewhere = {
        "prompt": "prompt",
        "width": "size",
        "height": "size",
        "sizes.crop_left": "crop",
        "sizes.crop_top": "crop",
        **{f"guidance.freeu.{gain}": "freeu" for gain in ("b1", "b2", "s1", "s2")},
        **{f"extend.{side}": "extend" for side in SIDES},
        **{f"regions.{name}": "regions" for name in ("prompt", *REGION)},
        **{f"controls.{name}": "controls" for name in ("net", "options", *CONTROL)},
        **{f"loras.{name}": "loras" for name in ("file", *LORA)},
        **{f"embeddings.{name}": "embeddings" for name in ("file", *EMBEDDING)},
        **{f"hypernetworks.{name}": "hypernetworks" for name in ("file", *HYPERNETWORK)},
        **{f"references.{name}": "references" for name in ("picture", *REFERENCE)},
        **{
            f"image_prompts.{name}": "image_prompts"
            for name in ("adapter", "pictures", *IMAGE_PROMPT)
        },
    }
    flags = {"mask_alpha"}  # a mask without any setting
    options = {setting.field for setting in SETTINGS} | {"prompt"}
    assert {elsewhere.get(field, field) for field in fields(Request)} == options - flags


def test_no_two_options_share_a_flag() -> None:
    flags = [part for s in SETTINGS for flag in s.flags for part in flag.split("/")]
    assert len(flags) == len(set(flags))


def test_options_that_are_not_given_do_not_reach_the_verb() -> None:
    @takes_settings
    def verb(**settings: object) -> dict[str, object]:
        return settings

    assert verb(steps=None, seed=3) == {"seed": 3}


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["genrate"], "there is no command 'genrate'; did you mean 'generate'?"),
        (["xyz"], "there is no command 'xyz'; the commands are generate, edit"),
        (["--foo"], "No such option: --foo (see safelight --help)"),
        (["replay"], "Missing argument 'picture' (see safelight replay --help)"),
    ],
)
def test_a_wrong_command_line_is_one_line_and_2(
    args: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(args) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and said in err


def test_a_real_process_gives_the_same_codes(place: Path) -> None:
    done = process("--version")
    assert (done.returncode, done.stderr) == (0, "") and done.stdout.startswith("safelight ")
    done = process("genrate")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: there is no command 'genrate'; did you mean 'generate'?\n"


def test_a_reader_that_leaves_early_is_no_failure(place: Path) -> None:
    line = f"{sys.executable} -m safelight generate --help; echo code $? >&2"
    done = subprocess.run(
        ["bash", "-c", f"({line}) | head -c 1"], capture_output=True, text=True, check=True
    )
    assert done.stderr == "code 0\n"
