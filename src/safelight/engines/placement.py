"""Which device and which number type a model runs in."""

import torch

from safelight.errors import RequestError

DTYPES: dict[str, torch.dtype] = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}


def resolve_device(name: str) -> torch.device:
    """The device of a name; "auto" takes CUDA, then XPU, then MPS, then the CPU.

    Raises RequestError if this machine or this build of torch has no such device.
    """
    if name == "auto":
        return next((torch.device(kind) for kind in ("cuda", "xpu", "mps") if _has(kind)), CPU)
    device = torch.device(name)
    if not _has(device.type):
        here = [kind for kind in ("cuda", "xpu", "mps", "cpu") if _has(kind)]
        raise RequestError(
            f"device {name!r} is not available here; this machine and this build of torch have "
            f"{', '.join(here)}."
        )
    if device.index is not None and device.index >= _count(device.type):
        raise RequestError(f"device {name!r} does not exist; there are {_count(device.type)}.")
    return device


def resolve_dtype(name: str, device: torch.device) -> torch.dtype:
    """The number type of a name; "auto" is float32 on the CPU and float16 elsewhere.

    float32 on the CPU makes a picture repeat bit for bit; bf16 is quicker where the CPU has it.
    """
    if name == "auto":
        return torch.float32 if device.type == "cpu" else torch.float16
    return DTYPES[name]


def dtype_name(dtype: torch.dtype) -> str:
    """The short name of a number type: fp32, bf16, fp16."""
    return next(name for name, known in DTYPES.items() if known == dtype)


CPU = torch.device("cpu")


def _has(kind: str) -> bool:
    match kind:
        case "cpu":
            return True
        case "cuda":
            return torch.cuda.is_available()
        case "xpu":
            return torch.xpu.is_available()
        case "mps":
            return torch.backends.mps.is_available()
    return False


def _count(kind: str) -> int:
    match kind:
        case "cuda":
            return torch.cuda.device_count()
        case "xpu":
            return torch.xpu.device_count()
    return 1
