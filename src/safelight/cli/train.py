"""`safelight train`: an autoencoder, a CLIP, a diffusion model or an evaluator, from a config."""

from pathlib import Path
from typing import Annotated

import typer


def train(
    config: Annotated[Path, typer.Argument(metavar="CONFIG.toml", help="What to train, and on.")],
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="Change a key: training.steps=100; repeatable."
        ),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume/--fresh", help="Go on with the run in the folder, or insist on a new one."
        ),
    ] = True,
    until: Annotated[
        str | None, typer.Option("--until", help="Save and end after this long: 8m, 90s, 2h.")
    ] = None,
    check: Annotated[
        bool,
        typer.Option("--check", help="Look at config, data and model, and train nothing."),
    ] = False,
    export: Annotated[
        str | None,
        typer.Option(
            "--export", metavar="WHICH", help="Write last, a STEP or an average, as power:0.05@500."
        ),
    ] = None,
    to: Annotated[
        Path | None, typer.Option("--to", help="The new folder that --export writes.")
    ] = None,
) -> None:
    """Train what a config says: an autoencoder, a CLIP, a diffusion model, a ControlNet or an
    evaluator.

    A run lies in its folder, and the same command goes on with it. At the end a folder is written
    that `safelight generate -m`, `--vae` or the next recipe take. With torchrun, every process
    takes its rows of each batch.
    """
    from safelight.cli.training import Wish, work

    raise typer.Exit(
        work(
            Wish(
                config,
                tuple(set_ or ()),
                resume=resume,
                until=until,
                check=check,
                export=export,
                to=to,
            )
        )
    )
