"""Styles and prompt files as A1111 writes them."""

from pathlib import Path

import pytest

from safelight.errors import FileError, PromptError
from safelight.text.promptfile import prompt_lines, read_prompts
from safelight.text.styles import Style, read_styles, styled, write_styles


def test_a_style_wraps_or_is_appended() -> None:
    wrap, add, nothing = (
        Style("w", "art of {prompt}!", "no {prompt}"),
        Style("a", " 4k "),
        Style("n"),
    )
    assert styled("cat", [wrap, add]) == "art of cat!, 4k"
    assert styled("cat", [add, wrap]) == "art of cat, 4k!"
    assert styled("cat", [wrap, add], negative=True) == "no cat"
    assert styled("", [add]) == "4k" and styled(" cat ", [nothing]) == "cat"
    assert styled("a {prompt}", [wrap]) == "art of a {prompt}!"


def test_styles_survive_a_round_trip(tmp_path: Path) -> None:
    styles = [Style("a, b", 'say "hi",\n{prompt}', "bad"), Style("é", "x"), Style("none")]
    write_styles(tmp_path / "styles.csv", styles)
    assert list(read_styles(tmp_path / "styles.csv").values()) == styles


def test_old_tables_remarks_and_short_rows_are_read(tmp_path: Path) -> None:
    path = tmp_path / "styles.csv"
    path.write_text("name,text\na,one\n# remark,x\n,y\nb\n")
    assert read_styles(path) == {"a": Style("a", "one"), "b": Style("b")}


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"a,b\n1,2\n", "name,prompt"), (b"", "name,prompt"), (b"name,\xff", "UTF-8")],
)
def test_what_is_no_table_is_an_error(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "styles.csv"
    path.write_bytes(content)
    with pytest.raises(FileError, match=said):
        read_styles(path)
    with pytest.raises(FileError, match="cannot be read"):
        read_styles(tmp_path / "missing.csv")


def test_lines_are_prompts_or_options(tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    path.write_text(
        "a cat -- with a dash\n\n"
        '--prompt "a dog, (big:1.2)" --negative_prompt blurry bad --steps 30 --cfg-scale 6.5\n'
        "--prompt it\\'s --seed -1 --tiling true --sampler_name 'Euler a'\n"
    )
    lines = read_prompts(path)
    assert [(line.number, dict(line.settings)) for line in lines] == [
        (1, {"prompt": "a cat -- with a dash"}),
        (3, {
            "prompt": "a dog, (big:1.2)", "negative_prompt": "blurry bad", "steps": 30,
            "cfg_scale": 6.5,
        }),
        (4, {"prompt": "it's", "seed": -1, "tiling": True, "sampler_name": "Euler a"}),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("--colour red", "line 1: '--colour' is no option"),
        ("--steps", "--steps needs a value"),
        ("--steps many", "--steps cannot be 'many'"),
        ("--tiling maybe", "--tiling cannot be"),
        ('--prompt "open', "quotation mark"),
        ("--steps 3 4", "'4' is no option"),
    ],
)
def test_a_wrong_line_is_named(line: str, said: str) -> None:
    with pytest.raises(PromptError, match=said):
        prompt_lines(line)


def test_a_file_that_is_no_text_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(FileError, match="UTF-8"):
        read_prompts(tmp_path / "a")
    with pytest.raises(FileError, match="cannot be read"):
        read_prompts(tmp_path)
