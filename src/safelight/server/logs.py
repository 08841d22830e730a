"""What the server writes on stderr: a JSON object a line, control characters escaped, no prompts.

Everything is logged under "safelight.server"; values stand in `extra`.
"""

import asyncio
import json
import logging
import sys
import time
from typing import IO

NAME = "safelight.server"
log = logging.getLogger(NAME)
# What the record of others has besides begins with _ (Ray puts its clock there)
_OWN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
TRACE_LIMIT = 8000


class JsonLines(logging.Formatter):
    """A record as one line of JSON in ASCII: nothing in it can move a terminal's cursor."""

    def format(self, record: logging.LogRecord) -> str:
        told: dict[str, object] = {
            "at": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
            + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "what": record.getMessage(),
        }
        told |= {k: v for k, v in vars(record).items() if k not in _OWN and k[0] != "_"}
        if record.exc_info is not None and record.exc_info[0] is not None:
            told["trace"] = self.formatException(record.exc_info)[-TRACE_LIMIT:]
        return json.dumps(told, default=repr)


def log_to(stream: IO[str] | None = None, level: str = "INFO") -> logging.Handler:
    """Write the server's log, and uvicorn's warnings, to a stream (stderr)."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonLines())
    for name, lowest in ((NAME, level), ("uvicorn.error", "WARNING")):
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.setLevel(lowest)
        logger.propagate = False
    return handler


def heard(done: "asyncio.Future[None]") -> None:
    """Say in the log that an event was not kept; its job itself was kept before."""
    if not done.cancelled() and (error := done.exception()) is not None:
        log.error("an event was not kept", exc_info=error)
