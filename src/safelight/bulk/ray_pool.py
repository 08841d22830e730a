"""The same on Ray: shards are blocks of a Ray dataset, drawn by actors that keep their model."""

import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safelight.bulk.drawer import Drawer, drawer_of
from safelight.bulk.manifest import Line
from safelight.bulk.ray_cluster import ray_cluster
from safelight.bulk.shards import Job, draw_shard, opened
from safelight.errors import RequestError


class ShardDrawer:
    """An actor: loads the model at its first shard, and draws one shard after another."""

    def __init__(self) -> None:
        self.job: Job | None = None
        self.draw: Drawer | None = None

    def __call__(self, item: dict[str, str]) -> dict[str, Any]:
        if self.job is None or self.draw is None:
            os.chdir(
                item["place"]
            )  # where the driver stands: paths of the command line begin there
            self.job = opened(Path(item["folder"]))
            self.draw = drawer_of(self.job)
        lines = draw_shard(self.job, item["shard"], self.draw)
        return {"shard": item["shard"], "lines": [line.to_json() for line in lines]}


def draw_on_ray(
    job: Job, shards: list[str], *, replicas: int, address: str | None
) -> Iterator[tuple[str, list[Line]]]:
    """Each shard with its lines as it is done; an actor that dies has its shard drawn again.

    address: of a cluster, whose machines see the run's folder; None starts one here.
    Raises RequestError if Ray is not installed or not there.
    """
    with ray_cluster(address, cpus=replicas * job.run.threads):
        try:
            import ray.data
        except ImportError:
            raise RequestError("--ray needs Ray: pip install 'safelight[ray]'") from None
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        ray.data.DataContext.get_current().enable_progress_bars = False
        told = {"folder": str(job.folder), "place": str(Path.cwd())}
        items = [{"shard": shard, **told} for shard in shards]
        drawn = ray.data.from_items(items, override_num_blocks=len(items)).map(
            ShardDrawer,
            compute=ray.data.ActorPoolStrategy(size=min(replicas, len(items))),
            num_cpus=job.run.threads,
        )
        for item in drawn.iter_rows():
            yield item["shard"], [Line.from_json(line) for line in item["lines"]]
