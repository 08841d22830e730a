"""The model that a request asks for, kept while the next requests ask for the same."""

from pathlib import Path

from safelight.checkpoints.library import find_model
from safelight.checkpoints.load import load
from safelight.engines.placement import resolve_device, resolve_dtype
from safelight.errors import RequestError
from safelight.model import Model
from safelight.tasks.request import Request

NO_MODEL = (
    "no model was given, and Safelight does not carry one of its own yet. Give one with --model: "
    "a .safetensors or .ckpt file, or a Diffusers folder; `safelight models` lists those on this "
    "machine and `safelight download` fetches one."
)


class Models:
    """Loads models on demand and keeps the last one."""

    def __init__(self) -> None:
        self._key: tuple[object, ...] = ()
        self._model: Model | None = None

    def of(self, request: Request) -> Model:
        """The model of a request, loaded if it is not the one loaded last.

        Raises RequestError if none was named, FileError or CheckpointError if it cannot be read.
        """
        if request.model is None:
            raise RequestError(NO_MODEL)
        device = resolve_device(request.device)
        dtype = resolve_dtype(request.dtype, device)
        key = (
            request.model,
            request.vae,
            request.ema,
            request.prediction,
            request.zero_terminal_snr,
            str(dtype),
            str(device),
        )
        if self._model is None or key != self._key:
            self._model = None  # let go of the old weights before the new ones are read
            self._model = load(
                find_model(request.model),
                vae=None if request.vae is None else Path(request.vae),
                ema=request.ema,
                prediction=request.prediction,
                zero_terminal_snr=request.zero_terminal_snr,
                dtype=dtype,
                device=device,
            )
            self._key = key
        return self._model
