"""Prompts made to break a parser: nesting, repetition, odd characters, tags and schedules.

A prompt that can be read is drawn; what counts is that it takes seconds and harms nothing.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from server_hostile import DRAWN, JOBS, TXT2IMG, Attack, Target, attacked, table


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory, models: Path) -> Iterator[Target]:
    with attacked(tmp_path_factory.mktemp("prompts"), models) as found:
        yield found


TORTURE: dict[str, str] = {
    "nothing": "",
    "open": "(" * 15_000,
    "closed": ")" * 15_000,
    "balanced": "(" * 7_000 + "a" + ")" * 7_000,
    "square": "[" * 7_000 + "a" + "]" * 7_000,
    "mixed": "([{<" * 4_000,
    "weights": "(a:1.5)" * 2_000,
    "nested-weights": "(" * 2_000 + "a" + ":1.1)" * 2_000,
    "weight-nan": "(a:nan) (b:inf) (c:-inf)",
    "weight-huge": "(a:1e308) (b:" + "9" * 4_000 + ")",
    "weight-negative": "(a:-1e308)",
    "weight-digits": "(a:0." + "0" * 8_000 + "1)",
    "schedules": "[a:b:0.5]" * 1_500,
    "nested-schedules": "[" * 3_000 + "a" + ":b:0.5]" * 3_000,
    "schedule-nan": "[a:b:nan] [a:b:inf] [a:b:-1] [a:b:1e999]",
    "alternate": "[a|b|c|d|e|f]" * 1_000,
    "nested-alternate": "[a|" * 3_000 + "b" + "]" * 3_000,
    "breaks": "BREAK " * 3_000,
    "ands": "a AND " * 2_500,
    "and-weights": "a :1e308 AND b :nan AND c :-5",
    "escapes": "\\" * 15_000,
    "escaped-brackets": "\\(" * 7_000,
    "colons": ":" * 15_000,
    "commas": "," * 15_000,
    "spaces": " " * 15_000 + "a",
    "newlines": "\n" * 15_000,
    "one-word": "a" * 15_000,
    "many-words": "cat " * 4_500,
    "emoji": "😀" * 4_000,
    "joined-emoji": "👩‍👩‍👧‍👦" * 1_500,
    "combining": "a" + "\u0301" * 10_000,
    "zalgo": "".join(chr(0x300 + n % 100) for n in range(10_000)),
    "control-characters": "".join(map(chr, range(32))) * 50,
    "nul": "a\0b",
    "right-to-left": "\u202e" * 5_000,
    "escape-sequence": "\x1b[2J\x1b]0;evil\x07",
    "markup": "<script>alert(1)</script>" * 500,
    "half-tags": "<lora:" * 2_500,
    "tag-without-name": "<lora::> <lora:> <hypernet::1>",
    "end-of-text": "<|endoftext|>" * 1_000,
    "mojibake": "Ã¢â€" * 1_500,
    "template": "{{7*7}} ${7*7} #{7*7} %s%n {0.__class__}",
    "python": "py:__import__('os').system('touch marker')",
    "backtracking": "a:" * 5_000 + "!",
    "regions": "a COL b ROW c " * 1_000,
    "dynamic": "{a|b|{c|d}}" * 1_000,
}


def small(**changes: object) -> dict[str, object]:
    return {"steps": 1, "width": 64, "height": 64, "prompt": "a"} | changes


@table(*(Attack(label, "/api/prompt", {"text": text}) for label, text in TORTURE.items()))
def test_a_prompt_is_read_in_seconds_or_refused(target: Target, attack: Attack) -> None:
    target.survives(attack)


@pytest.mark.slow
@table(*(Attack(label, TXT2IMG, small(prompt=text)) for label, text in TORTURE.items()))
def test_a_prompt_is_drawn_or_refused(target: Target, attack: Attack) -> None:
    target.survives(attack)


@pytest.mark.slow
@table(
    *(
        Attack(f"{word}-{dialect}-{label}", "/api/prompt", {"text": text, word: dialect})
        for label, text in TORTURE.items()
        for word, dialect in (("dialect", "comfy"), ("dialect", "compel"), ("to", "comfy"))
    )
)
def test_prompts_of_other_dialects_are_read_and_written(target: Target, attack: Attack) -> None:
    target.survives(attack)


@table(
    *(
        Attack(f"{door}-{field}", path, {"prompt": "a", field: " AND ".join("a" * 40)} | more)
        for door, path, field, more in (
            ("native", JOBS, "prompt", {}),
            ("native", JOBS, "negative_prompt", {}),
            ("a1111", TXT2IMG, "prompt", {"steps": 1}),
            ("openai", DRAWN, "prompt", {"steps": 1}),
        )
    )
)
def test_each_part_of_a_prompt_is_work_and_their_number_is_bounded(
    target: Target, attack: Attack
) -> None:
    assert "AND" in target.refuses(attack).text


ALONE = ("balanced", "weights", "nested-schedules", "ands", "emoji", "markup", "nul")


@pytest.mark.slow
@table(
    *(
        Attack(f"{door}-{label}", path, {field: TORTURE[label], **more})
        for label in ALONE
        for door, path, field, more in (
            ("negative", TXT2IMG, "negative_prompt", small()),
            ("openai", DRAWN, "prompt", {"size": "64x64", "steps": 1}),
            ("score", "/api/score", "clip", {"pictures": [], "texts": [TORTURE[label]]}),
        )
    )
)
def test_so_is_a_prompt_elsewhere(target: Target, attack: Attack) -> None:
    target.survives(attack)


@table(
    *(
        Attack(f"{door}-{label}", path, body)
        for label, text in (
            ("long", "a" * 20_001),
            ("words", "cat " * 10_000),
            ("megabytes", "A" * 3_000_000),
            ("half-a-pair", "a\ud800b"),
        )
        for door, path, body in (
            ("native", JOBS, {"prompt": text}),
            ("negative", JOBS, {"prompt": "a", "negative_prompt": text}),
            ("hires", JOBS, {"prompt": "a", "hires": {"prompt": text}}),
            ("a1111", TXT2IMG, {"prompt": text}),
            ("openai", DRAWN, {"prompt": text}),
            ("read", "/api/prompt", {"text": text}),
            ("score", "/api/score", {"pictures": ["0" * 64], "texts": [text]}),
        )
        if not (door == "score" and label != "half-a-pair")
    ),
    *(
        Attack(f"kind-{door}-{number}", path, {field: value})
        for number, value in enumerate((None, 1, True, ["a"], {"text": "a"}))
        for door, path, field in (
            ("native", JOBS, "prompt"),
            ("openai", DRAWN, "prompt"),
            ("read", "/api/prompt", "text"),
        )
        if not (door == "openai" and value is not None)
    ),
)
def test_what_is_no_prompt_is_refused(target: Target, attack: Attack) -> None:
    target.refuses(attack)
