"""Recipes for tests that need one but do not draw."""

from safelight.tasks.recipe import Recipe, Result, Software, UsedFile
from safelight.tasks.request import Request

SOFTWARE = Software(
    safelight="0.1.0", torch="2.13.0", python="3.12.1", device="a CPU", dtype="fp32", threads=2
)
MODEL = UsedFile(role="model", name="tiny, model.safetensors", sha256="6c" * 32, size=4265146304)


def recipe(request: Request | None = None, **changes: object) -> Recipe:
    """A recipe with concrete values; `changes` replace fields of its request or of itself."""
    base = request or Request(prompt="a cat", seed=7, width=64, height=64, model="tiny")
    ours = {name: changes.pop(name) for name in list(changes) if name in Request.model_fields}
    made = Recipe(
        request=base.replace(**ours),
        files=(MODEL,),
        software=SOFTWARE,
        result=Result(pixels_sha256="0" * 64, steps=20, sampler="DPM++ 2M", schedule="karras"),
        seconds=1.5,
    )
    return made.replace(**changes)
