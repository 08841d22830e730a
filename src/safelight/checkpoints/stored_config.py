"""What Safelight writes into a single file about the model: what shapes alone cannot say.

The metadata entry `safelight.model` of a safetensors file holds the JSON configs of a Diffusers
folder, one for each part. Files of others have none, and then everything is measured.
"""

import json
from collections.abc import Mapping

from safelight.checkpoints.json_object import JsonObject
from safelight.checkpoints.weight_file import WeightFile
from safelight.errors import FileError
from safelight.printable import shown

KEY = "safelight.model"


def stored_configs(file: WeightFile) -> Mapping[str, JsonObject]:
    """The configs by part; empty if the file has none. Raises FileError if they are damaged."""
    text = file.metadata.get(KEY)
    if text is None:
        return {}
    where = f"{shown(file.path)}, metadata {KEY}"
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise FileError(f"{where} is not JSON: {shown(str(error))}") from None
    if not isinstance(values, dict) or not all(isinstance(v, dict) for v in values.values()):
        raise FileError(f"{where} holds no JSON objects")
    return {name: JsonObject(value, f"{where}, {shown(name)}") for name, value in values.items()}


def written_configs(configs: Mapping[str, Mapping[str, object]]) -> dict[str, str]:
    """The metadata that `stored_configs` reads."""
    return {KEY: json.dumps({name: dict(value) for name, value in configs.items()}, sort_keys=True)}
