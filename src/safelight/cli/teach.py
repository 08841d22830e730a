"""`safelight teach`: a model learns a thing, a style or a word from some pictures."""

from pathlib import Path
from typing import Annotated

import typer

WHAT, HOW, CLASS, RUN = "What it learns", "How it learns", "Its class", "The run"


def teach(
    pictures: Annotated[
        Path, typer.Argument(metavar="PICTURES", help="A folder of pictures, or any data set.")
    ],
    model: Annotated[
        str, typer.Option("--model", "-m", help="A file, a folder, or embedded.")
    ] = "embedded",
    kind: Annotated[
        str,
        typer.Option(
            "--kind",
            help="lora, locon, loha, lokr, dora, ia3, glora, oft, boft; inversion; full; lcm.",
        ),
    ] = "lora",
    word: Annotated[
        str | None,
        typer.Option("--word", help="What prompts will call it.", rich_help_panel=WHAT),
    ] = None,
    prompt: Annotated[
        str | None,
        typer.Option(
            "--prompt",
            help="What is said of every picture: 'a photo of {word}'; {caption}, {name} are its.",
            rich_help_panel=WHAT,
        ),
    ] = None,
    style: Annotated[
        bool, typer.Option("--style", help="The word is a style, no thing.", rich_help_panel=WHAT)
    ] = False,
    masks: Annotated[
        str | None,
        typer.Option(
            "--masks",
            help="A folder of masks, white where the subject is; or alpha.",
            rich_help_panel=WHAT,
        ),
    ] = None,
    class_prompts: Annotated[
        list[str] | None,
        typer.Option(
            "--class",
            help="What stays as it is, as 'a photo of a dog': drawn before it learns; repeatable.",
            rich_help_panel=CLASS,
        ),
    ] = None,
    class_pictures: Annotated[
        Path | None,
        typer.Option(
            "--class-pictures", help="Pictures of the class instead.", rich_help_panel=CLASS
        ),
    ] = None,
    class_count: Annotated[
        int | None,
        typer.Option("--class-count", min=1, help="How many are drawn.", rich_help_panel=CLASS),
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option(
            "--preset", help="cpu, 8gb or 24gb; left out, this machine's.", rich_help_panel=HOW
        ),
    ] = None,
    steps: Annotated[int | None, typer.Option("--steps", min=1, rich_help_panel=HOW)] = None,
    rank: Annotated[int | None, typer.Option("--rank", min=1, rich_help_panel=HOW)] = None,
    vectors: Annotated[
        int,
        typer.Option(
            "--vectors", min=1, max=75, help="Of the word of an inversion.", rich_help_panel=HOW
        ),
    ] = 1,
    initial: Annotated[
        str | None,
        typer.Option("--initial", help="A word that an inversion begins as.", rich_help_panel=HOW),
    ] = None,
    learning_rate: Annotated[
        float | None, typer.Option("--learning-rate", min=0.0, rich_help_panel=HOW)
    ] = None,
    batch: Annotated[
        int | None, typer.Option("--batch", min=1, help="Pictures a step.", rich_help_panel=HOW)
    ] = None,
    size: Annotated[
        int | None, typer.Option("--size", min=8, help="Pixels.", rich_help_panel=HOW)
    ] = None,
    text: Annotated[
        bool,
        typer.Option("--text", help="The text encoders learn, too.", rich_help_panel=HOW),
    ] = False,
    seed: Annotated[int, typer.Option("--seed", min=0, rich_help_panel=HOW)] = 0,
    show: Annotated[
        list[str] | None,
        typer.Option("--show", help="A prompt of previews; repeatable.", rich_help_panel=RUN),
    ] = None,
    to: Annotated[
        Path | None,
        typer.Option("--to", "-o", help="The run's folder.", rich_help_panel=RUN),
    ] = None,
    name: Annotated[
        str | None, typer.Option("--name", help="Of the file it writes.", rich_help_panel=RUN)
    ] = None,
    layout: Annotated[
        str,
        typer.Option(
            "--layout",
            help="kohya, or diffusers for lora, locon, dora, loha, lokr.",
            rich_help_panel=RUN,
        ),
    ] = "kohya",
    until: Annotated[
        str | None,
        typer.Option("--until", help="Save and end after: 8m, 90s, 2h.", rich_help_panel=RUN),
    ] = None,
    check: Annotated[
        bool,
        typer.Option("--check", help="Look at everything, and train nothing.", rich_help_panel=RUN),
    ] = False,
    config_only: Annotated[
        bool,
        typer.Option("--config-only", help="Write the config and stop.", rich_help_panel=RUN),
    ] = False,
) -> None:
    """Teach a model a thing, a style or a word from a few pictures.

    The config it makes of its options lies in the run's folder as teach.toml, with every number
    that was chosen, and `safelight train` takes it. What is learned is a small file for `--lora` or
    `--embedding`, in names that other programs read; with --kind full a whole model.
    """
    from safelight.cli.teaching import Asked, work

    asked = Asked(
        pictures=pictures,
        model=model,
        kind=kind,
        word=word,
        prompt=prompt,
        style=style,
        masks=masks,
        class_prompts=tuple(class_prompts or ()),
        class_pictures=class_pictures,
        class_count=class_count,
        preset=preset,
        steps=steps,
        rank=rank,
        vectors=vectors,
        initial=initial,
        rate=learning_rate,
        batch=batch,
        size=size,
        text=text,
        seed=seed,
        show=tuple(show or ()),
        to=to,
        name=name,
        layout=layout,
        until=until,
        check=check,
        config_only=config_only,
    )
    raise typer.Exit(work(asked))
