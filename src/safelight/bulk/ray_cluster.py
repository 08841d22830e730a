"""Ray for as long as it is needed: a cluster of this machine alone, or one that is joined.

Ray passes pickled objects between its processes and trusts whoever reaches its ports: it is
started on the loopback interface alone, without dashboard, and joined elsewhere only if told.
"""

import logging
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

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
FOLDER_LIMIT = 18  # characters: with ours and Ray's names a socket's path is 89 longer, of 107

INNER = "r"


@contextmanager
def ray_cluster(address: str | None, *, cpus: int) -> Iterator[Any]:
    """Ray itself, started here with so many processors, or joined at an address; ended afterwards.

    Raises RequestError if Ray is not installed, or not there.
    """
    for name, value in (QUIET | (ALONE if address is None else {})).items():
        os.environ.setdefault(name, value)
    if address is None:
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    try:
        import ray
    except ImportError:
        raise RequestError("--ray needs Ray: pip install 'safelight[ray]'") from None
    logging.getLogger("ray").setLevel(logging.ERROR)
    if ray.is_initialized():
        yield ray
        return
    folder = _private_folder() if address is None else None
    try:
        if folder is not None:
            ray.init(
                num_cpus=cpus,
                include_dashboard=False,
                _node_ip_address=LOOPBACK,
                _temp_dir=folder,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
        else:
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, OSError, RuntimeError, ValueError) as error:
        _removed(folder)
        raise RequestError(f"Ray is not there: {str(error).splitlines()[0]}") from None
    try:
        yield ray
    finally:
        ray.shutdown()
        _removed(folder)


def _private_folder() -> str:
    """A folder for Ray's sockets and logs that only this user can reach.

    Ray opens the folder that it is given to everybody, so that lies in one which is not open.
    """
    parent = os.environ.get("RAY_TMPDIR") or tempfile.gettempdir()
    if len(parent) > FOLDER_LIMIT and os.name == "posix":
        parent = "/tmp"
    return str(Path(tempfile.mkdtemp(prefix="safelight-ray-", dir=parent), INNER))


def _removed(folder: str | None) -> None:
    if folder is not None:
        shutil.rmtree(Path(folder).parent, ignore_errors=True)
