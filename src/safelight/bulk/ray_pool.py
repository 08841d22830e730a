"""The same on Ray: shards are blocks of a Ray dataset, drawn by actors that keep their model.

Ray passes pickled objects between its processes and trusts whoever reaches its ports: it is
started on the loopback interface alone, without dashboard, and joined elsewhere only if told.
"""

import logging
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safelight.bulk.drawer import Drawer, drawer_of
from safelight.bulk.manifest import Line
from safelight.bulk.shards import Job, draw_shard, opened
from safelight.errors import RequestError

LOOPBACK = "127.0.0.1"
QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",  # it would tell its makers how it is used
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_BACKEND_LOG_LEVEL": "fatal",
}
ALONE = {
    # Its name notwithstanding, on every system it makes all of Ray's ports listen on loopback only
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_AUTH_MODE": "token",  # nor may other users of this machine
}


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
    with _cluster(address, cpus=replicas * job.run.threads) as ray:
        told = {"folder": str(job.folder), "place": str(Path.cwd())}
        items = [{"shard": shard, **told} for shard in shards]
        drawn = ray.data.from_items(items, override_num_blocks=len(items)).map(
            ShardDrawer,
            compute=ray.data.ActorPoolStrategy(size=min(replicas, len(items))),
            num_cpus=job.run.threads,
        )
        for item in drawn.iter_rows():
            yield item["shard"], [Line.from_json(line) for line in item["lines"]]


@contextmanager
def _cluster(address: str | None, *, cpus: int) -> Iterator[Any]:
    for name, value in (QUIET | (ALONE if address is None else {})).items():
        os.environ.setdefault(name, value)
    if address is None:
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    try:
        import ray
        import ray.data
    except ImportError:
        raise RequestError("--ray needs Ray: pip install 'safelight[ray]'") from None
    for name in ("ray", "ray.data"):
        logging.getLogger(name).setLevel(logging.ERROR)
    begun = not ray.is_initialized()
    if begun:
        try:
            if address is None:
                ray.init(
                    num_cpus=cpus,
                    include_dashboard=False,
                    _node_ip_address=LOOPBACK,
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                )
            else:
                ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
        except (ConnectionError, OSError, RuntimeError, ValueError) as error:
            raise RequestError(f"Ray is not there: {str(error).splitlines()[0]}") from None
    try:
        ray.data.DataContext.get_current().enable_progress_bars = False
        yield ray
    finally:
        if begun:
            ray.shutdown()
