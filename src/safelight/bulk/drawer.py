"""Whoever draws rows: a model, kept from row to row, and a number of threads."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch

from safelight.bulk.manifest import Line
from safelight.bulk.rows import Row, request_of
from safelight.bulk.shards import Job, Told, draw_shard
from safelight.tasks.generate import generate
from safelight.tasks.loading import Models
from safelight.tasks.picture import Picture
from safelight.tasks.supplies import Supplies, check_pictures


@dataclass
class Drawer:
    """Draws rows with the settings of a run."""

    settings: Mapping[str, object]
    seed: int
    models: Models = field(default_factory=Models)
    supplies: Supplies = field(default_factory=Supplies)

    def check(self, row: Row) -> None:
        """Look whether a row can be drawn, without drawing. Raises what drawing it would."""
        request = request_of(row, self.settings, self.seed)
        self.models.check(request)
        check_pictures(request, self.supplies)

    def __call__(self, row: Row) -> Picture:
        """The picture of a row. Raises RequestError, FileError, CheckpointError, ..."""
        self.check(row)
        request = request_of(row, self.settings, self.seed)
        model = self.models.of(request) if request.needs_model else None
        (picture,) = generate(model, request, supplies=self.supplies)
        return picture


def drawer_of(job: Job) -> Drawer:
    """Whoever draws a job in this process, whose threads are set for good."""
    torch.set_num_threads(job.run.threads)
    return Drawer(job.run.settings, job.run.seed)


def draw_here(job: Job, shards: Sequence[str], told: Told) -> Iterator[tuple[str, list[Line]]]:
    """Each shard with its lines, drawn one after another in this process."""
    drawer = drawer_of(job)
    for shard in shards:
        yield shard, draw_shard(job, shard, drawer, told)
