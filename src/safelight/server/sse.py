"""Server-sent events of a job: numbered, so that a page that reloads goes on where it was."""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import aclosing, suppress

from starlette.requests import Request as HttpRequest
from starlette.responses import StreamingResponse

from safelight.server.jobs import Event, Owner
from safelight.server.service import Service

BEAT = 15.0  # seconds without an event after which a comment keeps the connection alive
RETRY = 2000  # milliseconds after which a browser comes back
HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}

Told = Callable[[Event], Mapping[str, object] | None]


def after_of(request: HttpRequest) -> int:
    """The number of the last event that the client has: the header Last-Event-ID, or `after`."""
    text = request.headers.get("last-event-id") or request.query_params.get("after") or ""
    digits = text.strip().removeprefix("-")
    return int(text) if digits.isascii() and digits.isdigit() and len(digits) <= 15 else -1


def streamed(
    service: Service, id: str, owner: Owner, after: int = -1, told: Told = Event.to_json
) -> StreamingResponse:
    """A job's events from number `after` on until its last, as an answer.

    told: what the data of an event is; None leaves it out. Raises Unknown at once.
    """
    service.job(id, owner)

    async def lines() -> AsyncIterator[bytes]:
        async with service.following(id, owner):
            yield f"retry: {RETRY}\n\n".encode()
            async with aclosing(with_beats(service.events(id, owner, after))) as events:
                async for event in events:
                    if event is None:
                        yield b": still here\n\n"
                    elif (data := told(event)) is not None:
                        yield block(event.kind, data, event.number)

    return StreamingResponse(lines(), media_type="text/event-stream", headers=HEADERS)


def block(kind: str, data: Mapping[str, object], number: int | None = None) -> bytes:
    """One event as it is sent."""
    own = "" if number is None else f"id: {number}\n"
    return f"{own}event: {kind}\ndata: {json.dumps(data)}\n\n".encode()


async def with_beats(events: AsyncIterator[Event]) -> AsyncGenerator[Event | None]:
    """The events, and None whenever none came for a while."""
    source = aiter(events)
    coming: asyncio.Future[Event] = asyncio.ensure_future(anext(source))
    try:
        while True:
            done, _ = await asyncio.wait([coming], timeout=BEAT)
            if not done:
                yield None
                continue
            try:
                event = coming.result()
            except StopAsyncIteration:
                return
            coming = asyncio.ensure_future(anext(source))
            yield event
    finally:
        coming.cancel()
        with suppress(asyncio.CancelledError, StopAsyncIteration):
            await coming
