"""How much one request, one owner and all of them may ask for; told at /api/limits.

The limits of `Request` itself hold besides: these are the owner's, and smaller.
"""

import re
from dataclasses import asdict, dataclass, fields

from safelight.server.refusals import NotAllowed
from safelight.tasks.large import second_pixels
from safelight.tasks.request import UNKNOWN_SIDE, Request

MEGABYTE = 2**20
PARTS = 32  # of one prompt, joined by AND: each is a call of the network in every step
AND = re.compile(r"\bAND\b")


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds, each with its unit; a request beyond one is refused, and told which and by how much.

    body_bytes: of a request's body. picture_bytes, picture_pixels: of an uploaded picture.
    side, pixels: of a drawn picture, in pixels, the second pass included. steps: of one picture,
        all passes. count: pictures of one job. work: pixels x steps x pictures of one job.
    prompt: characters of all texts of a request together.
    queue: jobs that wait. owner_queue: jobs of one owner that wait or run.
    streams: connections of one owner that follow events at the same time.
    seconds: how long a job may take from its submission, waiting included.
    uploads_bytes: of all uploaded pictures together; the oldest make room.
    """

    body_bytes: int = 32 * MEGABYTE
    picture_bytes: int = 24 * MEGABYTE
    picture_pixels: int = 4096 * 4096
    side: int = 4096
    pixels: int = 2048 * 2048
    steps: int = 200
    count: int = 100
    work: int = 2**34  # about 3,200 pictures of 512 x 512 in 20 steps
    prompt: int = 20_000
    queue: int = 256
    owner_queue: int = 64
    streams: int = 256
    seconds: float = 6 * 3600.0
    uploads_bytes: int = 2048 * MEGABYTE

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not value > 0:
                raise NotAllowed(f"limit {field.name} must be above 0; got {value}.")

    def to_json(self) -> dict[str, float]:
        """Every limit by its name."""
        return asdict(self)

    def check(self, request: Request) -> None:
        """Raise NotAllowed, naming the limit and the value, if a request asks for more."""
        width, height = request.width or UNKNOWN_SIDE, request.height or UNKNOWN_SIDE
        drawn = [("width", width, self.side), ("height", height, self.side)]
        pixels, steps = width * height, request.steps
        work = pixels * steps
        if request.hires is not None:
            second = second_pixels(request.hires, width, height)
            work += second * (request.hires.steps or steps)
            pixels = max(pixels, second)
            drawn.append(("hires.steps", request.hires.steps, self.steps))
        loops = 1 if request.source is None else request.source.loops
        work *= request.count * request.best_of * loops
        parts = max((1 + len(AND.findall(text)) for text in _texts(request)), default=1)
        work *= parts
        texts = sum(len(text) for text in _texts(request))
        for name, value, most in (
            *drawn,
            ("width x height", pixels, self.pixels),
            ("steps", steps, self.steps),
            ("count", request.count, self.count),
            ("the number of parts of a prompt, joined by AND,", parts, PARTS),
            ("width x height x steps x parts of the prompt x pictures", work, self.work),
            ("the length of all texts", texts, self.prompt),
        ):
            if value > most:
                raise NotAllowed(f"{name} is {value}, and this server draws up to {most}.")


def _texts(request: Request) -> list[str]:
    """Every text of a request that is read as a prompt."""
    texts: list[str | None] = [request.prompt, request.negative_prompt]
    if request.hires is not None:
        texts += [request.hires.prompt, request.hires.negative_prompt]
    for region in request.regions:
        texts += [region.prompt, region.negative_prompt]
    if request.extend is not None:
        texts += [
            getattr(request.extend, f"{s}_prompt") for s in ("left", "right", "top", "bottom")
        ]
    if request.clip_guidance is not None:
        texts.append(request.clip_guidance.text)
    return [text for text in texts if text]
