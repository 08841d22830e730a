"""What `safelight batch` does once it is asked to."""

import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch

from safelight.bulk.drawer import Drawer, draw_here
from safelight.bulk.forms import FORMS
from safelight.bulk.manifest import MANIFEST, Line, Run
from safelight.bulk.rows import read_rows
from safelight.bulk.shards import Job, described, finished, prepared
from safelight.checkpoints.hashes import sha256
from safelight.cli.missing import must_exist
from safelight.cli.progress_bar import bar
from safelight.cli.telling import Told
from safelight.errors import RequestError, SafelightError
from safelight.printable import shown
from safelight.tasks.request import Request
from safelight.version import __version__


@dataclass(frozen=True)
class Cluster:
    """Whether Ray draws, and how."""

    wanted: bool
    replicas: int | None
    address: str | None


def run_batch(
    source: Path,
    folder: Path,
    *,
    settings: Mapping[str, object],
    form: str,
    shard_size: int,
    retry: bool,
    threads: int | None,
    metadata: bool,
    cluster: Cluster,
) -> None:
    """Draw what a run lacks, and write its manifest.

    Raises RequestError, FileError or OutputError for what cannot be asked for, before anything is
    drawn; SafelightError at the end if rows failed.
    """
    if form not in FORMS:
        raise RequestError(f"--form must be {', '.join(FORMS)}; got {form!r}.")
    if not cluster.wanted and (cluster.replicas or cluster.address):
        raise RequestError("--replicas and --ray-address are for Ray; add --ray.")
    usual = json.loads(json.dumps(settings))  # as they will stand in run.json
    before = Run.read(folder)
    seed = _seed(usual.pop("seed", None), before)
    run = Run(
        source.name,
        sha256(must_exist(source, "list of prompts")),
        usual,
        seed,
        form,
        shard_size,
        metadata,
        threads or (before.threads if before else torch.get_num_threads()),
        __version__,
    )
    for row in islice(read_rows(source), 1):  # before anything is written
        Drawer(run.settings, run.seed).check(row)
    job = prepared(source, folder, run)
    left, told = job.left(retry=retry), Told()
    whole = len(job.shards)
    with bar("shards") as progress:
        progress(whole - len(left), whole)
        for number, (_, lines) in enumerate(
            _drawn(job, left, cluster, told), start=whole - len(left) + 1
        ):
            if cluster.wanted:
                for line in lines:
                    _say(line, told)
            progress(number, whole)
    rows, failed = finished(job)
    print(f"{folder / MANIFEST}  {rows - failed} of {rows} rows drawn", flush=True)
    if failed:
        raise SafelightError(
            f"{failed} of {rows} rows were not drawn; {shown(folder / MANIFEST)} says why of each. "
            "--retry draws them again."
        )


def _drawn(
    job: Job, left: list[str], cluster: Cluster, told: Told
) -> Iterator[tuple[str, list[Line]]]:
    if not left:
        return iter(())
    if not cluster.wanted:
        return draw_here(job, left, lambda line: _say(line, told))
    from safelight.bulk.ray_pool import draw_on_ray

    return draw_on_ray(job, left, replicas=cluster.replicas or 2, address=cluster.address)


def _say(line: Line, told: Told) -> None:
    """A picture on the output, a failure beside it, and what is to be said of it but once."""
    if line.error is None:
        print(described(line), flush=True)
        told.of(line)
    else:
        print(described(line), file=sys.stderr, flush=True)


def _seed(given: object, before: Run | None) -> int:
    """The seed of row 0: as told, as in the run that goes on, or a random one."""
    if given is None and before is not None:
        return before.seed
    asked = Request.parse({"prompt": "", **({} if given is None else {"seed": given})})
    seed = asked.resolved().seed
    assert seed is not None
    return seed
