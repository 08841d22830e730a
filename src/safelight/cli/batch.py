"""`safelight batch`: any number of prompts."""

from pathlib import Path
from typing import Annotated

import typer

from safelight.cli.options import request_mapping, takes_settings
from safelight.cli.shared_options import Metadata


@takes_settings
def batch(
    prompts: Annotated[
        Path,
        typer.Argument(help="A .txt with a prompt a line, or .jsonl, .csv, .parquet with columns."),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder of the run.")] = Path("run"),
    form: Annotated[
        str, typer.Option("--form", help="folder, webdataset or parquet: how pictures are kept.")
    ] = "folder",
    shard: Annotated[
        int, typer.Option("--shard", min=1, max=100_000, help="Rows that are kept together.")
    ] = 100,
    retry: Annotated[bool, typer.Option("--retry", help="Draw rows again that failed.")] = False,
    threads: Annotated[
        int | None,
        typer.Option("--threads", min=1, max=256, help="Of each drawing [PyTorch's own number]."),
    ] = None,
    ray: Annotated[bool, typer.Option("--ray", help="Draw in several processes, on Ray.")] = False,
    replicas: Annotated[
        int | None,
        typer.Option("--replicas", min=1, max=10_000, help="Processes with a model each [2]."),
    ] = None,
    ray_address: Annotated[
        str | None,
        typer.Option("--ray-address", help="A cluster to join [one of this machine alone]."),
    ] = None,
    metadata: Metadata = True,
    **settings: object,
) -> None:
    """Draw every row of a list of prompts, and write one manifest.

    A row is one picture; columns are settings, and options are the settings of rows that have
    none. Row k without a seed gets --seed + k. A run that was stopped goes on when it is asked for
    again, and draws nothing twice.
    """
    from safelight.cli.batching import Cluster, run_batch

    run_batch(
        prompts,
        out,
        settings=request_mapping(settings),
        form=form,
        shard_size=shard,
        retry=retry,
        threads=threads,
        metadata=metadata,
        cluster=Cluster(ray, replicas, ray_address),
    )
