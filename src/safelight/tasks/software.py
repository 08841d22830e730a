"""What computes pictures here: versions, device, number type and threads."""

import platform

import torch

from safelight.tasks.recipe import Software


def software_on(device: torch.device, dtype: str) -> Software:
    """What computes pictures on this device in numbers of this type."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    else:
        name = f"{device.type} {processor()}".strip()
    return Software.here(
        torch=torch.__version__, device=name, dtype=dtype, threads=torch.get_num_threads()
    )


def processor() -> str:
    """The processor's model name and what torch uses of it."""
    capability = torch.backends.cpu.get_cpu_capability()
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            line = next(line for line in file if line.startswith("model name"))
        name = line.partition(":")[2].strip()
    except (OSError, StopIteration):
        name = platform.processor() or platform.machine()
    return f"{name} ({capability})"
