"""The model that a request asks for, kept while the next requests ask for the same."""

from pathlib import Path
from typing import Literal

from safelight.checkpoints.library import find_model
from safelight.checkpoints.resting import load_resting
from safelight.checkpoints.shelves import addon, find_addon
from safelight.embedded.carried import embedded_folder, is_embedded
from safelight.engines.choice import Choice
from safelight.engines.placement import resolve_device, resolve_dtype
from safelight.engines.table import AUTO, EAGER, engined
from safelight.errors import RequestError
from safelight.model import Model
from safelight.tasks.choosing import chosen_for
from safelight.tasks.lookup import check_tags
from safelight.tasks.named_files import named_files
from safelight.tasks.placing import Opening, check_offload, opened, passes_once
from safelight.tasks.request import Request

NO_MODEL = (
    "no model was given, and Safelight does not carry one of its own yet. Give one with --model: "
    "a .safetensors or .ckpt file, or a Diffusers folder; `safelight models` lists those on this "
    "machine and `safelight download` fetches one."
)


class Models:
    """Loads models on demand and keeps the last one.

    choice: the engine that was chosen for the last model given out; None if none was to be chosen.
    """

    def __init__(self) -> None:
        self.choice: Choice | None = None
        self._key: tuple[object, ...] = ()
        self._model: Model | None = None
        self._paths: dict[str, Path] = {}  # found files by name: a search goes through folders

    def check(self, request: Request) -> None:
        """Look for the files of a request and for its device, without loading anything.

        Raises RequestError if it names no model and none is embedded, a name that leads to several
        files, or a device that is not here, FileError if a file is not there.
        """
        place = self._found(request)[0] if request.needs_model else None
        beside = None if place is None or is_embedded(place) else place
        for file in named_files(request):
            role = file.role.rstrip(" 0123456789")
            if (kind := addon(role)) is not None:
                find_addon(kind, file.name, beside)
            elif not file.is_picture and role not in ("model", "vae"):
                find_model(file.name, what="file")
        check_tags(request, beside)
        check_offload(request.engine, request.offload, resolve_device(request.device))

    def path(self, request: Request) -> Path:
        """The file or folder of a request's model. Raises as `check`."""
        return self._found(request)[0]

    def of(self, request: Request, *, alone: bool = False) -> Model:
        """The model of a request, loaded if it is not the one loaded last.

        A request that names none gets the embedded one. alone: nothing else will be drawn with it,
        so that its parts may come and go at no cost (`placing.passes_once`).
        Raises RequestError if there is none, FileError or CheckpointError if it cannot be read.
        """
        path, vae = self._found(request)
        device = resolve_device(request.device)
        how = Opening(
            dtype=resolve_dtype(request.dtype, device),
            device=device,
            engine=EAGER if request.engine == AUTO else request.engine,
            offload="parts" if alone and passes_once(path, request, device) else request.offload,
            ema=request.ema,
            prediction=request.prediction,
            zero_terminal_snr=request.zero_terminal_snr,
        )
        key = (path, vae, how)
        if self._model is None or key != self._key:
            self._model = None  # let go of the old weights before the new ones are read
            self._model = opened(path, how, vae)
            self._key = key
        if request.engine != AUTO:
            self.choice = None
            return self._model
        self.choice = chosen_for(self._model, request)
        return engined(self._model, self.choice.name)

    def peek(self, request: Request) -> Model:
        """The model of a request with none of its weights read, for plans. Raises as `of`."""
        path, vae = self._found(request)
        model, _ = load_resting(
            path,
            vae=vae,
            ema=request.ema,
            prediction=request.prediction,
            zero_terminal_snr=request.zero_terminal_snr,
        )
        return model

    def _found(self, request: Request) -> tuple[Path, Path | None]:
        """The paths of the model and of another autoencoder."""
        path = embedded_folder() if request.model is None else self._path(request.model, "model")
        if path is None:
            raise RequestError(NO_MODEL)
        return path, None if request.vae is None else self._path(request.vae, "autoencoder")

    def _path(self, name: str, what: Literal["model", "autoencoder"]) -> Path:
        if name not in self._paths:
            self._paths[name] = find_model(name, what=what)
        return self._paths[name]
