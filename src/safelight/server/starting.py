"""What must hold before a server starts: folders, models, threads."""

import shutil
from pathlib import Path

from safelight.checkpoints.library import find_model
from safelight.checkpoints.load import open_checkpoint
from safelight.engines.placement import resolve_device
from safelight.engines.table import AUTO, ENGINES
from safelight.errors import FileError, OutputError, RequestError
from safelight.printable import shown
from safelight.server.registry import Registry
from safelight.server.settings import ServerSettings
from safelight.tasks.placing import check_offload
from safelight.tasks.request import Request
from safelight.writing import make_folder


def default_model(
    settings: ServerSettings, registry: Registry, *, needed: bool = True
) -> str | None:
    """The name of the model of the settings, else the embedded one, else the first there is.

    Raises RequestError or FileError if there is none though one is `needed`, or not the one that
    was named.
    """
    given = settings.model
    if given is None:
        known = registry.on("model")  # the embedded one first
        if not known and needed:
            raise RequestError(
                "there is no model to draw with: this installation carries none, and none was "
                "found; give one with --model, or a folder of them with --models."
            )
        return known[0].name if known else None
    path = Path(given).expanduser()
    if path.exists():
        return next(item.name for item in registry.on("model") if item.path == path)
    if registry.has("model", given):
        return registry.find("model", given).name
    find_model(given, settings.folders)  # tells what there is instead
    raise FileError(f"{shown(given)} is not listed as a model.")


def check_computing(settings: ServerSettings) -> None:
    """Raise RequestError for a device, type, engine or offload that cannot be, or is not here."""
    Request.parse(
        {
            "prompt": "",
            "device": settings.device,
            "dtype": settings.dtype,
            "engine": settings.engine,
            "offload": settings.offload,
        }
    )
    device = resolve_device(settings.device)
    check_offload(settings.engine, settings.offload, device)
    if settings.engine == AUTO:
        raise RequestError(
            "engine auto measures for each size, which a server has no time for; measure once with "
            "`safelight generate --engine auto` and serve with the engine that it names."
        )
    engine = ENGINES.get(settings.engine)
    if engine is not None and (reason := engine.missing()):
        raise RequestError(f"engine {settings.engine} cannot run here: {reason}")


def set_threads(count: int | None) -> None:
    """Torch's threads are set for each thread that computes."""
    if count is not None:
        import torch

        torch.set_num_threads(count)


def check_readable(model: Path) -> None:
    """Raise FileError or CheckpointError for what is no model by its header."""
    with open_checkpoint(model):
        pass


def check_writable(folder: Path) -> None:
    """Make the server's own folder. Raises OutputError if it cannot be written."""
    make_folder(folder)
    probe = folder / ".probe"
    try:
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        raise OutputError(
            f"the folder {shown(folder.parent)} cannot be written to ({error.strerror}); give "
            "another --out."
        ) from None
    shutil.disk_usage(folder)
