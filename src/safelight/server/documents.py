"""The OpenAPI document: one for all APIs, with the schema of a request and examples."""

from collections.abc import Mapping
from functools import cache
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from safelight.server.a1111.documents import SCHEMAS as A1111
from safelight.tasks.request import Request
from safelight.version import __version__

REF = "#/components/schemas/"
EXAMPLES: Mapping[str, Mapping[str, object]] = {
    "text": {
        "summary": "A picture from a text",
        "value": {"prompt": "a red apple on a table", "steps": 20, "seed": 1},
    },
    "several": {
        "summary": "Four pictures with a negative prompt",
        "value": {"prompt": "a lighthouse", "negative_prompt": "fog", "count": 4, "cfg_scale": 6},
    },
    "picture": {
        "summary": "From an uploaded picture, whose id POST /api/pictures gave",
        "value": {
            "prompt": "the same in winter",
            "source": {"picture": "0" * 64, "strength": 0.6},
        },
    },
}
UPLOAD: Mapping[str, object] = {
    "type": "object",
    "properties": {"picture": {"type": "string", "description": "base64 or a data URI"}},
    "required": ["picture"],
}
PROBLEM: Mapping[str, object] = {
    "type": "object",
    "properties": {
        "error": {
            "type": "object",
            "properties": {
                "kind": {"type": "string", "description": "a word for programs"},
                "message": {"type": "string", "description": "what is wrong and what to do"},
                "id": {"type": ["string", "null"], "description": "of the entry in the log"},
            },
        },
        "detail": {"type": "string"},
    },
}
CHOICES: Mapping[str, Mapping[str, object]] = {
    "ModelChoice": {
        "type": "object",
        "properties": {"name": {"type": "string"}},
        "required": ["name"],
    },
    "KeyGiven": {"type": "object", "properties": {"key": {"type": "string"}}, "required": ["key"]},
    "PictureToTeach": {
        "type": "object",
        "properties": {
            "picture": {"type": "string", "pattern": "^[0-9a-f]{16}$"},
            "again": {"type": "boolean", "default": False},
        },
        "required": ["picture"],
    },
    "PromptToRead": {
        "type": "object",
        "properties": {
            "text": {"type": "string", "maxLength": 20_000},
            "dialect": {"enum": ["a1111", "comfy", "compel", "plain"], "default": "a1111"},
            "emphasis": {"type": "string", "default": "original"},
            "steps": {"type": "integer", "minimum": 1, "maximum": 1000, "default": 20},
            "sampler": {"type": "string"},
            "negative": {"type": "boolean", "default": False},
            "comma_backtrack": {"type": "integer", "minimum": 0, "maximum": 74, "default": 20},
            "model": {"type": "string"},
            "to": {"enum": ["a1111", "comfy", "compel", "plain"]},
        },
        "required": ["text"],
    },
    "PicturesToScore": {
        "type": "object",
        "properties": {
            "pictures": {"type": "array", "items": {"type": "string"}, "maxItems": 64},
            "texts": {"type": "array", "items": {"type": "string"}, "maxItems": 64},
            "clip": {"type": "string"},
        },
        "required": ["pictures", "texts"],
    },
}
REFUSALS = {
    "400": "The body cannot be read.",
    "401": "The key is missing or wrong.",
    "403": "A page of another site asks.",
    "404": "There is no such thing, or it is somebody else's.",
    "408": "The body did not arrive in time.",
    "413": "More bytes than the limit.",
    "415": "Another content type than the endpoint takes.",
    "421": "The request is for another host.",
    "422": "A value cannot be, or is beyond the limits.",
    "429": "The queue is full, or too many wrong keys came; see Retry-After.",
    "431": "The path and headers are too long.",
    "503": "The server is starting or stopping; see Retry-After.",
    "507": "The disk or the memory is full.",
}


def body_of(
    schema: str, examples: Mapping[str, object], *, form: bool = False, raw: bool = False
) -> dict[str, Any]:
    """What an endpoint that reads its own body says of it.

    schema: a name among the components. form, raw: whether it is also taken as a form's file, or as
    the body itself.
    """
    told: dict[str, object] = {"schema": {"$ref": f"{REF}{schema}"}}
    if examples:
        told["examples"] = dict(examples)
    content: dict[str, object] = {"application/json": told}
    binary = {"type": "string", "format": "binary"}
    if form:
        properties = {"type": "object", "properties": {"picture": binary}, "required": ["picture"]}
        content["multipart/form-data"] = {"schema": properties}
    if raw:
        for kind in ("image/png", "image/jpeg", "image/webp"):
            content[kind] = {"schema": binary}
    return {"requestBody": {"required": True, "content": content}}


def document(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document of an app: made once."""
    if app.openapi_schema is None:
        made = get_openapi(
            title="Safelight",
            version=__version__,
            summary="Latent diffusion that people can trust: native, A1111 and OpenAI APIs.",
            routes=app.routes,
        )
        components = made.setdefault("components", {})
        schemas = components.setdefault("schemas", {})
        schemas |= request_schemas()
        schemas |= {"UploadedPicture": dict(UPLOAD), "Problem": dict(PROBLEM)}
        schemas |= {name: dict(schema) for name, schema in {**CHOICES, **A1111}.items()}
        for name in ("HTTPValidationError", "ValidationError"):
            schemas.pop(name, None)
        components["securitySchemes"] = {
            "bearer": {"type": "http", "scheme": "bearer"},
            "basic": {"type": "http", "scheme": "basic"},
        }
        made["security"] = [{}, {"bearer": []}, {"basic": []}]
        for path, operations in made["paths"].items():
            for operation in operations.values():
                _refusals(path, operation)
        app.openapi_schema = made
    return app.openapi_schema


@cache
def request_schemas() -> dict[str, Any]:
    """The schema of `Request` and of its groups, as components."""
    whole = Request.model_json_schema(ref_template=f"{REF}{{model}}")
    groups: dict[str, Any] = whole.pop("$defs", {})
    return {**groups, "Request": whole}


def _refusals(path: str, operation: dict[str, Any]) -> None:
    """Every operation may be refused; each API tells so in its own shape."""
    responses = operation.setdefault("responses", {})
    own = path.startswith("/api")
    schema = {"$ref": f"{REF}Problem"} if own else {"type": "object"}
    for status, meaning in REFUSALS.items():
        told = responses.get(status, {})
        responses[status] = {
            "description": told.get("description") or meaning,
            "content": {"application/json": {"schema": schema}},
        }
