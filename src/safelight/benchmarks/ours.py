"""Safelight as a contender: the process that does our part of a benchmark.

    python -m safelight.benchmarks.ours

Asked by lines of JSON (`peers.serving`). Nothing heavy is imported before it is asked for, so that
`load` can tell what importing takes.
"""

import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from safelight.benchmarks.peers.serving import Json, Work, serve
from safelight.benchmarks.task import Task, input_file

if TYPE_CHECKING:
    from torch import Tensor

    from safelight.model import Model
    from safelight.tasks.request import Request


def prepared(asked: Json) -> Work:
    """What is timed, made ready. Raises what loading, the engine or the request raise."""
    task = Task(**asked)
    began = time.perf_counter()
    import torch

    from safelight.tasks.loading import Models  # noqa: F401  the import is what is timed

    imported = time.perf_counter() - began
    torch.set_num_threads(task.threads)
    if task.work == "roofline":
        from safelight.benchmarks.peaks import measured_peaks

        return Work(lambda: None, facts={"peaks": measured_peaks(task.precision, task.device)})
    began = time.perf_counter()
    model = opened(task)
    facts: Json = {"import_seconds": imported, "load_seconds": time.perf_counter() - began}
    facts["torch"] = str(torch.__version__)
    call, read = MAKERS[task.work](task, model)
    trial = MAKERS[task.work](task.short, model)[0] if task.work in PICTURES else None
    if task.work != "train":
        call = torch.no_grad()(call)
    return Work(call, read, waiter(task.device), facts, trial)


PARTS: dict[str, str] = {"step": "unet", "overhead": "unet", "decode": "vae", "encode": "vae"}


def opened(task: Task) -> "Model":
    """The model, computed by the engine that the task names, as drawing opens it.

    Of a work on one part only that part's weights are read, where the engine needs no others. Parts
    come and go where the task says so, or for the one picture of `memory`.
    """
    from safelight.tasks.loading import Models

    asked = request(task)
    if task.work in ("picture", "memory"):
        alone = task.work == "memory"
        stays = task.offload == "auto" and not alone
        return Models().of(asked.replace(offload="none") if stays else asked, alone=alone)
    if (part := part_of(task.work, task.how, task.device)) is not None:
        return with_part(asked, part)
    # what learns does so in float32, whatever its products are made in
    whole = task.work == "train" and not task.adapted
    asked = asked.replace(offload="none")
    return Models().of(asked.replace(dtype="fp32") if whole else asked)


def part_of(work: str, how: str, device: str) -> str | None:
    """The only part of a model that a work is on, if the engine needs no others; None if it does.

    Eight bits of activations are found by drawing whole pictures.
    """
    from safelight.engines.table import ENGINES

    engine = ENGINES.get(how)
    alone = engine is not None and (engine.exact or engine.network is not None)
    return PARTS.get(work) if alone and device == "cpu" else None


def with_part(asked: "Request", role: str) -> "Model":
    """The model with the weights of its U-Net ("unet") or autoencoder ("vae") alone."""
    from dataclasses import replace
    from pathlib import Path

    from safelight.checkpoints.resting import load_resting
    from safelight.engines.placement import DTYPES
    from safelight.engines.table import ENGINES, engined, sink_of

    engine = ENGINES[asked.engine]
    assert asked.model is not None
    model, rests = load_resting(
        Path(asked.model),
        dtype=DTYPES[asked.dtype],
        sink=sink_of(asked.engine),
        settle=engine.network,
    )
    part = model.network.unet if role == "unet" else model.codec.autoencoder
    for rest in rests:
        if rest.module is part:
            rest.bring()
    # an engine that takes weights while they are read has all that it can have
    return (
        engined(model, asked.engine)
        if engine.network is None
        else replace(model, engine=asked.engine)
    )


def waiter(device: str) -> Callable[[], None]:
    """Returns when the device is done."""
    import torch

    return torch.cuda.synchronize if device.startswith("cuda") else lambda: None


PICTURES = ("picture", "memory")
Made = tuple[Callable[[], Any], Callable[[Any], Any]]


def _input(task: Task, name: str) -> "Tensor":
    import numpy as np
    import torch

    loaded = np.load(input_file(task.inputs, name), allow_pickle=False)
    return torch.from_numpy(loaded).to(task.device)


def _array(made: "Tensor") -> Any:
    return made.detach().float().cpu().numpy()


def step(task: Task, model: "Model") -> Made:
    """One call of the network; of SDXL, with its vector."""
    from safelight.condition import Condition

    x, time_, context = (_input(task, name) for name in ("latents", "time", "context"))
    vector = None
    if model.family.backbone.vector_width is not None:
        vector = _input(task, "vector")
    condition = Condition(context, vector)
    return lambda: model.network(x, time_, condition), _array


def overhead(task: Task, model: "Model") -> Made:
    """A step whose kernels PyTorch's profiler can tell apart, in a compiled library, too."""
    from safelight.engines.packages import KERNELS_TOLD

    os.environ[KERNELS_TOLD] = "1"  # read when the library is compiled, at the first call
    return step(task, model)


def decode(task: Task, model: "Model") -> Made:
    coded = _input(task, "coded")
    return lambda: model.codec.decode(coded), _array


def encode(task: Task, model: "Model") -> Made:
    """A picture's most probable latents, read as the autoencoder itself has them."""
    from safelight.benchmarks.inputs import raw

    images = _input(task, "images")
    return lambda: model.codec.encode(images).mode(), lambda made: _array(
        raw(model.family, made.cpu())
    )


def text(task: Task, model: "Model") -> Made:
    """Both prompts, or one without guidance."""
    import torch

    from safelight.text.spec import Size

    size = Size(task.width, task.height)

    def call() -> "Tensor":
        made = [model.text.condition(task.prompt, size=size)]
        if task.guided:
            made.append(model.text.condition(task.negative, size=size, negative=True))
        return torch.cat([one.context for one in made])

    return call, _array


def picture(task: Task, model: "Model") -> Made:
    """Pictures from prompts, by the library's own function."""
    import numpy as np

    from safelight.tasks.generate import generate
    from safelight.tasks.supplies import Supplies

    asked, supplies = request(task), Supplies()

    def call() -> Any:
        return list(generate(model, asked, supplies=supplies))

    return call, lambda pictures: np.stack([one.pixels for one in pictures])


def request(task: Task) -> "Request":
    """The task as a request, as the command line would make it."""
    from safelight.tasks.request import Request

    return Request(
        prompt=task.prompt,
        negative_prompt=task.negative if task.guided else "",
        width=task.width,
        height=task.height,
        cfg_scale=task.guidance,
        seed=task.seed,
        noise_source="nv",
        count=task.batch,
        batch=task.batch,
        look_up=False,
    ).replace(
        model=task.model,
        dtype=task.precision,
        device=task.device,
        engine=task.how,
        offload=task.offload,
        **task.recipe,
    )


def command(task: Task, python: str) -> list[str]:
    """The same as a command line, for `start`."""
    drawn = {f"--{name}": str(value) for name, value in task.recipe.items()}
    words = {
        "--model": task.model,
        "--size": f"{task.width}x{task.height}",
        **({"--preset": task.preset} if task.preset else drawn),
        "--cfg": str(task.guidance),
        "--seed": str(task.seed),
        "--noise": "nv",
        "--dtype": task.precision,
        "--device": task.device,
        "--engine": task.how,
        "--out": task.png,
    }
    if task.offload != "auto":
        words["--offload"] = task.offload
    if task.guided:
        words["--negative"] = task.negative
    flat = [word for pair in words.items() for word in pair]
    return [python, "-m", "safelight", "generate", task.prompt, *flat]


def train(task: Task, model: "Model") -> Made:
    from safelight.benchmarks.train_step import training

    return training(task, model)


MAKERS: dict[str, Callable[[Task, "Model"], Made]] = {
    "step": step,
    "decode": decode,
    "encode": encode,
    "text": text,
    "picture": picture,
    "memory": picture,
    "load": lambda task, model: (lambda: None, lambda made: made),
    "overhead": overhead,
    "train": train,
}


def main() -> None:
    from safelight.benchmarks.peers.profiling import profiled

    serve(prepared, {"profile": profiled})


if __name__ == "__main__":
    main()
