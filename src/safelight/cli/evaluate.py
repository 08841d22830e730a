"""`safelight evaluate`: how good the pictures of a model are, in numbers with their limits."""

from pathlib import Path
from typing import Annotated

import typer

from safelight.cli.shared_options import (
    AsJson,
)

SPLITS = "seen,heldout_combo,heldout_background,heldout_pairs,heldout_recolour,heldout_count"
QUESTIONS = "What is asked"
NETS = "Who judges"
DRAWING = "The drawing"
MODEL = "The model"


def evaluate(
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="The model to be judged [embedded].")
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder of the report.")] = Path(
        "report"
    ),
    cutouts: Annotated[
        list[Path] | None,
        typer.Option(
            "--cutouts",
            help="Cut-outs that scenes are made of: .tar shards, or a .safetensors file.",
            rich_help_panel=QUESTIONS,
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            "--data",
            help="Instead: captions with pictures, as `safelight data` reads them.",
            rich_help_panel=QUESTIONS,
        ),
    ] = None,
    splits: Annotated[
        str,
        typer.Option(
            "--splits", help="What is seen, and what is held out.", rich_help_panel=QUESTIONS
        ),
    ] = SPLITS,
    count: Annotated[
        int, typer.Option("--count", "-c", help="How many prompts.", rich_help_panel=QUESTIONS)
    ] = 300,
    seed: Annotated[
        int,
        typer.Option(
            "--seed",
            help="Of the questions; picture k has seed + k.",
            rich_help_panel=QUESTIONS,
        ),
    ] = 1,
    training_seed: Annotated[
        int,
        typer.Option(
            "--training-seed",
            help="Of the scenes that the model was trained on.",
            rich_help_panel=QUESTIONS,
        ),
    ] = 20,
    world: Annotated[
        Path | None,
        typer.Option(
            "--world",
            help="A training config: ask only of the things, styles and kinds of scenes it shows.",
            rich_help_panel=QUESTIONS,
        ),
    ] = None,
    quick: Annotated[
        bool,
        typer.Option(
            "--quick", help="64 prompts, and composition alone.", rich_help_panel=QUESTIONS
        ),
    ] = False,
    memory: Annotated[
        bool,
        typer.Option(
            "--memory/--no-memory",
            help="Look for copies of training pictures.",
            rich_help_panel=QUESTIONS,
        ),
    ] = True,
    evaluator: Annotated[
        Path | None,
        typer.Option(
            "--evaluator",
            help="The folder of the judge [MODEL/evaluator].",
            rich_help_panel=NETS,
        ),
    ] = None,
    clip: Annotated[
        Path | None,
        typer.Option(
            "--clip",
            help="A folder with CLIP's towers, for the text match [MODEL, if it has them].",
            rich_help_panel=NETS,
        ),
    ] = None,
    features: Annotated[
        Path | None,
        typer.Option(
            "--features",
            help="With --data: an evaluator or a CLIP vision tower, whose features are compared.",
            rich_help_panel=NETS,
        ),
    ] = None,
    guidance: Annotated[
        float | None,
        typer.Option("--guidance", help="Guidance scale [the model's].", rich_help_panel=DRAWING),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(
            "--steps", "-s", help="Sampling steps [the model's].", rich_help_panel=DRAWING
        ),
    ] = None,
    sampler: Annotated[
        str | None,
        typer.Option("--sampler", help="The sampler [the model's].", rich_help_panel=DRAWING),
    ] = None,
    schedule: Annotated[
        str | None,
        typer.Option(
            "--schedule", help="Spacing of the noise levels [the model's].", rich_help_panel=DRAWING
        ),
    ] = None,
    side: Annotated[
        int | None,
        typer.Option("--side", help="Pixels of a side [the model's].", rich_help_panel=DRAWING),
    ] = None,
    batch: Annotated[
        int, typer.Option("--batch", help="Pictures drawn at once.", rich_help_panel=DRAWING)
    ] = 16,
    sweep: Annotated[
        list[str] | None,
        typer.Option(
            "--sweep",
            help="guidance=1,2,3,5 or steps=5,10,20: the same prompts at each. Repeatable.",
            rich_help_panel=DRAWING,
        ),
    ] = None,
    dtype: Annotated[
        str, typer.Option("--dtype", help="auto, fp32, bf16 or fp16.", rich_help_panel=MODEL)
    ] = "auto",
    device: Annotated[
        str, typer.Option("--device", help="auto, cpu, cuda, cuda:1, ...", rich_help_panel=MODEL)
    ] = "auto",
    json: AsJson = False,
) -> None:
    """Judge a model's pictures, with ceilings, floors and baselines beside every number.

    With --cutouts the prompts are captions of scenes whose facts are known: objects, counts,
    colours, places and styles are checked, on seen and on held-out combinations. With --data they
    are the captions of pictures, and sets of pictures are compared.
    The folder of the report holds report.md, report.json and sheets of pictures.
    """
    from safelight.cli.evaluate_running import Wanted, evaluated

    evaluated(
        Wanted(
            model=model,
            out=out,
            cutouts=tuple(cutouts or ()),
            data=data,
            splits=splits,
            count=count,
            seed=seed,
            training_seed=training_seed,
            world=world,
            quick=quick,
            memory=memory,
            evaluator=evaluator,
            clip=clip,
            features=features,
            drawing={
                "cfg_scale": guidance,
                "steps": steps,
                "sampler": sampler,
                "schedule": schedule,
                "width": side,
                "height": side,
                "dtype": dtype,
                "device": device,
            },
            batch=batch,
            sweep=tuple(sweep or ()),
        ),
        in_json=json,
    )
