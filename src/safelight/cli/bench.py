"""`safelight bench`: how fast this machine draws and trains, and beside whom."""

from pathlib import Path
from typing import Annotated

import typer


def bench(
    work: Annotated[
        str,
        typer.Option(
            "--work",
            help="step, decode, encode, text, picture, start, load, train, memory, overhead, "
            "roofline; several with commas.",
        ),
    ] = "step",
    geometry: Annotated[
        str | None,
        typer.Option(
            "--geometry",
            help="sd15 or sdxl with weights at random, embedded; tiny and tiny-xl to see whether "
            "it runs [embedded].",
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option("--model", "-m", help="A model to time instead: a file, folder or name."),
    ] = None,
    size: Annotated[
        str | None, typer.Option("--size", help="WIDTHxHEIGHT in pixels [the model's own].")
    ] = None,
    batch: Annotated[int, typer.Option("--batch", "-b", help="Pictures at once.")] = 1,
    guidance: Annotated[
        float,
        typer.Option(
            "--cfg", help="Guidance scale; 1 is none, else every step does twice the work."
        ),
    ] = 7.0,
    steps: Annotated[int, typer.Option("--steps", "-s", help="Of picture, start and memory.")] = 20,
    precision: Annotated[
        str, typer.Option("--precision", help="fp32, bf16, fp16; several with commas.")
    ] = "fp32",
    engine: Annotated[
        str, typer.Option("--engine", help="Of ours; several with commas.")
    ] = "eager",
    offload: Annotated[
        str,
        typer.Option(
            "--offload",
            help="Of ours in picture, start and memory: none, parts, sequential; several with "
            "commas [parts where a process draws one picture].",
        ),
    ] = "auto",
    preset: Annotated[
        str,
        typer.Option(
            "--preset",
            help="Of ours in picture and start, as `safelight generate` takes it: fast; none draws "
            "as peers do; several with commas.",
        ),
    ] = "none",
    against: Annotated[
        str,
        typer.Option(
            "--against",
            help="diffusers, diffusers-compiled, openvino, openvino-int8, sdcpp: peers that take "
            "turns with ours; several with commas.",
        ),
    ] = "",
    threads: Annotated[
        int | None, typer.Option("--threads", help="[OMP_NUM_THREADS, else all cores].")
    ] = None,
    rounds: Annotated[int, typer.Option("--rounds", help="Turns of each contender.")] = 5,
    budget: Annotated[
        float | None,
        typer.Option("--budget", help="Seconds after which no round is begun, but the first two."),
    ] = None,
    device: Annotated[str, typer.Option("--device", help="cpu or cuda.")] = "cpu",
    peer_python: Annotated[
        str | None,
        typer.Option("--peer-python", help="Interpreter that peers are installed in [this one]."),
    ] = None,
    folder: Annotated[
        Path | None,
        typer.Option("--folder", help="Keep models and exports there for the next run."),
    ] = None,
    json: Annotated[
        Path | None,
        typer.Option(
            "--json", help="Also write all numbers there, an object a line; - prints them."
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Even if the memory will probably not be enough.")
    ] = False,
) -> None:
    """Time this machine's work, alone or beside other libraries on the same weights.

    Contenders are processes of their own that take turns, A B A B ...; before they are timed,
    their outputs must agree. Figures are medians over rounds with quartiles, ratios are of turns
    of the same round, ours / theirs: below 1 ours is faster. What disturbed is said, and where
    ours had a preset, which is less work.
    """
    from safelight.cli.benching import Wish, run

    run(
        Wish(
            work=work,
            geometry=geometry,
            model=model,
            size=size,
            batch=batch,
            guidance=guidance,
            steps=steps,
            precision=precision,
            engine=engine,
            offload=offload,
            preset=preset,
            against=against,
            threads=threads,
            rounds=rounds,
            budget=budget,
            device=device,
            peer_python=peer_python,
            folder=folder,
            json=json,
            force=force,
        )
    )
