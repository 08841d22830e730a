"""Safelight as tools of the Model Context Protocol: draw, draw on a picture, compare with words.

Pictures go by the ids that earlier answers named, or as base64: never as paths, for who asks is a
program that reads what strangers wrote.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from mcp.server.mcpserver import Context, Image, MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp.types import ToolAnnotations
from pydantic import Field

from safelight.errors import InputError
from safelight.server.jobs import LOCAL, Drawn, Job, State, Stepped
from safelight.server.refusals import Refused
from safelight.server.scoring import Judges
from safelight.server.service import Service
from safelight.server.uploads import decoded
from safelight.version import __version__

ABOUT = (
    "Draws pictures with Stable Diffusion on this machine. Every answer names its pictures by ids, "
    "which edit and score take. The embedded model draws emoji-like things at 128x128: a thing, a "
    "colour of background, a style."
)
DRAWS = ToolAnnotations(read_only_hint=False, destructive_hint=False, open_world_hint=False)
LOOKS = ToolAnnotations(read_only_hint=True, open_world_hint=False)

Prompt = Annotated[str, Field(max_length=20_000)]
Count = Annotated[int, Field(ge=1, le=8, description="pictures; each has the next seed")]
Side = Annotated[int | None, Field(ge=64, le=4096, description="pixels; the model's own if absent")]
Seed = Annotated[int | None, Field(ge=0, lt=2**63, description="random if absent")]
Picture = Annotated[str, Field(description="the id of an earlier picture, or base64 of one")]
More = Annotated[
    dict[str, Any] | None,
    Field(description="any further setting, such as {'sampler': 'Euler a', 'cfg_scale': 5}"),
]


def tools(service: Service) -> MCPServer[Any]:
    """The server of tools on a started service."""
    server: MCPServer[Any] = MCPServer("safelight", instructions=ABOUT, version=__version__)
    judges = Judges(service.settings.device)

    @server.tool(title="Draw from a text", annotations=DRAWS, structured_output=False)
    async def generate(
        prompt: Prompt,
        context: Context[Any],
        negative_prompt: Prompt = "",
        width: Side = None,
        height: Side = None,
        steps: Annotated[int | None, Field(ge=1, le=200)] = None,
        seed: Seed = None,
        count: Count = 1,
        model: Annotated[str | None, Field(description="a name that models lists")] = None,
        settings: More = None,
    ) -> list[Any]:
        """Draw pictures of what a text says."""
        named = {"width": width, "height": height, "steps": steps, "seed": seed, "model": model}
        given = {"prompt": prompt, "negative_prompt": negative_prompt, "count": count, **named}
        return await _drawn(service, context, _whole(given, settings))

    @server.tool(title="Draw on a picture", annotations=DRAWS, structured_output=False)
    async def edit(
        picture: Picture,
        prompt: Prompt,
        context: Context[Any],
        strength: Annotated[
            float | None, Field(ge=0, le=1, description="0 returns the picture, 1 draws it anew")
        ] = None,
        mask: Annotated[
            str | None, Field(description="id or base64 of a picture: white is painted")
        ] = None,
        mask_text: Annotated[
            str | None, Field(max_length=2000, description="words for the part that is painted")
        ] = None,
        extend: Annotated[
            dict[str, int] | None,
            Field(description="pixels to grow by: left, right, top, bottom"),
        ] = None,
        seed: Seed = None,
        count: Count = 1,
        settings: More = None,
    ) -> list[Any]:
        """Change a picture, a part of it, or grow it beyond its borders. What lies outside a mask
        stays as it is, to the last bit."""
        source: dict[str, object] = {"picture": await _kept(service, picture)}
        if strength is not None:
            source["strength"] = strength
        given: dict[str, object] = {"prompt": prompt, "source": source, "seed": seed}
        given |= {"count": count, "extend": extend}
        if mask is not None:
            given["mask"] = {"picture": await _kept(service, mask)}
        elif mask_text is not None:
            given["mask"] = {"text": mask_text}
        return await _drawn(service, context, _whole(given, settings))

    @server.tool(title="Compare pictures with words", annotations=LOOKS, structured_output=False)
    async def score(
        pictures: Annotated[list[str], Field(min_length=1, max_length=16)],
        texts: Annotated[list[str], Field(min_length=1, max_length=32)],
    ) -> str:
        """How well each text fits each picture: cosines of a CLIP, a row for each picture."""
        try:
            ids = [await _kept(service, picture) for picture in pictures]
            paths = [service.picture_path(id, LOCAL) for id in ids]
            found = await service.aside(lambda: judges.scores(paths, texts, None, service.registry))
        except (Refused, InputError) as error:
            raise ToolError(str(error)) from None
        return json.dumps({"pictures": ids, "texts": texts, **found})

    @server.tool(title="List the models", annotations=LOOKS, structured_output=False)
    async def models() -> str:
        """The models and LoRAs that may be named."""
        shelves = {"models": service.registry.on("model"), "loras": service.registry.on("lora")}
        told = {name: [item.to_json() for item in items] for name, items in shelves.items()}
        return json.dumps({**told, "default": service.model})

    return server


def _whole(given: Mapping[str, object], more: Mapping[str, object] | None) -> dict[str, object]:
    return {**{name: v for name, v in given.items() if v is not None}, **(more or {})}


async def _kept(service: Service, picture: str) -> str:
    """The id of a picture; one in base64 is kept first. Raises ToolError saying what is wrong."""
    try:
        if len(picture) > 64 or picture[:5].lower() == "data:":
            return (await service.upload(decoded(picture, service.settings.limits), LOCAL)).id
        service.picture_path(picture, LOCAL)
    except (Refused, InputError) as error:
        raise ToolError(str(error)) from None
    return picture


async def _drawn(
    service: Service, context: Context[Any], settings: Mapping[str, object]
) -> list[Any]:
    """The pictures of a request, and a line that tells ids, seeds and warnings."""
    try:
        asked = service.asked(settings)
        job = await service.submit(asked.request, LOCAL, door="mcp", warnings=asked.warnings)
    except (Refused, InputError) as error:
        raise ToolError(str(error)) from None
    try:
        async for event in service.events(job.id, LOCAL):
            if isinstance(event.body, Stepped):
                await context.report_progress(event.body.progress, 1.0)
            elif isinstance(event.body, Drawn):
                await context.report_progress(1.0, 1.0)
    except BaseException:  # the call was cancelled: so is the job
        await service.cancel(job.id, LOCAL, "the caller went away")
        raise
    over = service.job(job.id, LOCAL)
    if over.state is not State.DONE:
        raise ToolError(over.failure.message if over.failure else over.reason or "cancelled")
    return [*await _images(service, over), _told(over)]


async def _images(service: Service, job: Job) -> Sequence[Image]:
    ids = [id for _, id in job.pictures]
    return [Image(data=await service.picture_bytes(id, LOCAL), format="png") for id in ids]


def _told(job: Job) -> str:
    seed = job.request.seed
    assert seed is not None
    drawn = [{"id": id, "seed": seed + index} for index, id in job.pictures]
    return json.dumps({"pictures": drawn, "warnings": list(job.warnings)})
