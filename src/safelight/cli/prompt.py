"""`safelight prompt`: how a prompt is read."""

from typing import Annotated

import typer


def prompt(
    text: Annotated[str, typer.Argument(help="The prompt.")],
    dialect: Annotated[
        str, typer.Option("--dialect", help="a1111, comfy, compel or plain.")
    ] = "a1111",
    emphasis: Annotated[
        str, typer.Option("--emphasis", help="original, no norm, ignore, none, comfy or compel.")
    ] = "original",
    steps: Annotated[int, typer.Option("--steps", "-s", help="Steps to plan schedules for.")] = 20,
    sampler: Annotated[
        str | None,
        typer.Option("--sampler", help="Count this sampler's calls: some make two a step."),
    ] = None,
    negative: Annotated[
        bool, typer.Option("--as-negative", help="Read it as a negative prompt.")
    ] = False,
    to: Annotated[
        str | None, typer.Option("--to", help="Write it in another dialect instead.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show how a prompt is read: tokens, chunks, weights, schedule.

    With --to it is converted: `safelight prompt "(cat:1.2)" --to compel`.
    """
    from safelight.cli.prompting import convert_prompt, show_prompt

    if to is not None:
        convert_prompt(text, dialect, to, as_json=json)
        return
    show_prompt(
        text,
        dialect=dialect,
        emphasis=emphasis,
        steps=steps,
        sampler=sampler,
        negative=negative,
        as_json=json,
    )
