"""Where a part of a picture lies, told to the families that were trained with crops."""

from dataclasses import replace

import torch

from safelight.condition import Condition
from safelight.errors import RequestError
from safelight.models.layers import timestep_embedding
from safelight.text.spec import TextSpec


def with_crop(condition: Condition, spec: TextSpec, top: float, left: float) -> Condition:
    """The condition of a part of a picture that lies `top`, `left` pixels from its corner.

    Only the two numbers of the crop in its vector change; families without them are told nothing,
    and the condition stays as it is. Raises RequestError if the vector is not of this family.
    """
    if spec.vector == "none":
        return condition
    vector, width = condition.vector, spec.size_width
    numbers = 6 if spec.vector == "sdxl" else 5  # original, crop; target or aesthetic score
    if vector is None or vector.shape[1] < numbers * width:
        raise RequestError("the condition holds no sizes; it was made for another family.")
    first = vector.shape[1] - numbers * width + 2 * width  # after the original's height and width
    told = timestep_embedding(torch.tensor([top, left]), width).flatten().to(vector)
    changed = vector.clone()
    changed[:, first : first + 2 * width] = told
    return replace(condition, vector=changed)
