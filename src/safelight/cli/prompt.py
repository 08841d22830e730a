"""`safelight prompt`: how a prompt is read."""

from typing import Annotated

import typer

from safelight.cli.shared_options import (
    Dynamic,
    StyleNames,
    Styles,
    WildcardFolder,
)


def prompt(
    text: Annotated[str, typer.Argument(help="The prompt.")],
    dialect: Annotated[
        str, typer.Option("--dialect", help="a1111, comfy, compel or plain.")
    ] = "a1111",
    emphasis: Annotated[
        str, typer.Option("--emphasis", help="original, no norm, ignore, none, comfy or compel.")
    ] = "original",
    model: Annotated[
        str | None,
        typer.Option("--model", "-m", help="Read it with this model's own vocabulary and steps."),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option("--steps", "-s", help="Steps to plan schedules for [the model's, else 20]."),
    ] = None,
    sampler: Annotated[
        str | None,
        typer.Option("--sampler", help="Count this sampler's calls: some make two a step."),
    ] = None,
    negative: Annotated[
        bool, typer.Option("--as-negative", help="Read it as a negative prompt.")
    ] = False,
    comma_backtrack: Annotated[
        int,
        typer.Option("--comma-backtrack", help="How far back a full chunk may end at a comma."),
    ] = 20,
    embedding: Annotated[
        list[str] | None,
        typer.Option("--embedding", help="FILE,word=...: a learned word; repeatable."),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="The picture whose choices are made.")] = 0,
    style: StyleNames = None,
    styles: Styles = None,
    wildcards: WildcardFolder = None,
    dynamic: Dynamic = True,
    to: Annotated[
        str | None, typer.Option("--to", help="Write it in another dialect instead.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show how a prompt is read: tokens, chunks, weights, schedule.

    Styles, {a|b} and __name__ are replaced first, as for a picture of --seed. With --to the prompt
    is converted: `safelight prompt "(cat:1.2)" --to compel`.
    """
    from safelight.cli.prompting import Source, convert_prompt, show_prompt

    source = Source(
        text,
        seed=seed,
        style_names=tuple(style or ()),
        styles=styles,
        wildcards=wildcards,
        dynamic=dynamic,
        negative=negative,
    )
    if to is not None:
        convert_prompt(source, dialect, to, as_json=json)
        return
    show_prompt(
        source,
        dialect=dialect,
        emphasis=emphasis,
        model=model,
        embeddings=tuple(embedding or ()),
        steps=steps,
        sampler=sampler,
        comma_backtrack=comma_backtrack,
        as_json=json,
    )
