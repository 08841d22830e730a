"""Training steps of both U-Nets, timed in turns."""

import statistics
from collections.abc import Iterator
from typing import Any

import torch
from bench_contenders import tidy
from bench_turns import Line, block
from bench_twins import GIB, Setup, has_diffusers, unet_inputs, unets
from torch import Tensor
from torch.nn import functional as F


def training(setup: Setup, batch: int, rounds: int, steps: int) -> Iterator[Line]:
    """Steps of the whole U-Net: bf16 autocast, mean squared error, fused AdamW.

    There is room for one of them at a time, so each is built anew for its turn.
    """
    names = ["ours", "diffusers"] if has_diffusers() else ["ours"]
    times: dict[str, list[float]] = {name: [] for name in names}
    losses: dict[str, float] = {}
    peaks: dict[str, float | None] = {}
    for _ in range(rounds):
        for name in names:
            tidy(setup)
            if setup.cuda:
                torch.cuda.reset_peak_memory_stats(setup.device)
            losses[name], seconds = trained(setup, name, batch, steps)
            times[name].append(seconds)
            peaks[name] = None
            if setup.cuda:
                peaks[name] = round(torch.cuda.max_memory_allocated(setup.device) / GIB, 3)
    tidy(setup)
    for name in names:
        middle = statistics.median(times[name])
        line: Line = {
            "contender": name,
            "who": name,
            "batch": batch,
            "ms": round(1e3 * middle, 3),
            "ms_min": round(1e3 * min(times[name]), 3),
            "ms_max": round(1e3 * max(times[name]), 3),
            "rounds": rounds,
            "pictures_s": round(batch / middle, 3),
            "peak_gib": peaks[name],
            "first_loss": losses[name],
        }
        if "diffusers" in times:
            line["times_diffusers"] = round(statistics.median(times["diffusers"]) / middle, 4)
            if not abs(losses[name] / losses["diffusers"] - 1) <= 1e-2:
                line = {**line, "error": "other work: the first losses differ"}
        yield line


def trained(setup: Setup, name: str, batch: int, steps: int) -> tuple[float, float]:
    """The first loss, and seconds a step after three that warm up."""
    family = setup.family("sd15")
    pair = unets(setup, family, torch.float32)
    network: Any = pair.ours if name == "ours" else pair.theirs
    del pair
    network.train().requires_grad_(True)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-5, fused=True)
    given = unet_inputs(setup, family, torch.float32, batch, 512)
    target = given.latents.flip(0)

    def step() -> Tensor:
        with torch.autocast(setup.device.type, torch.bfloat16):
            output = network(given.latents, given.time, given.context)
            output = output if isinstance(output, Tensor) else output.sample
        loss = F.mse_loss(output.float(), target)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.detach()

    first = float(step())
    step(), step()
    return first, block(setup, step, steps)
