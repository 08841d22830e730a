"""Diffusers as a contender: its own classes on the folder that all contenders open.

python diffusers.pyw            answers lines of JSON (see serving.py)
python diffusers.pyw start '{"work": ...}'    draws one picture, writes a PNG and ends
"""

import functools
import json
import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from serving import TRIAL, Work, neighbour, serve

CLASSES = {"step": "unet", "overhead": "unet", "decode": "vae", "encode": "vae"}
KINDS = {"unet": "UNet2DConditionModel", "vae": "AutoencoderKL"}


def prepared(task):
    began = time.perf_counter()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    import diffusers
    import torch
    from diffusers import DiffusionPipeline

    diffusers.utils.logging.set_verbosity_error()
    diffusers.utils.logging.disable_progress_bar()
    imported = time.perf_counter() - began
    torch.set_num_threads(task["threads"])
    facts = {"diffusers": diffusers.__version__, "torch": torch.__version__}
    if task["work"] == "train":
        call, read = training(task)
        return Work(call, read, waiter(task), facts)
    began = time.perf_counter()
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[
        task["precision"]
    ]
    part = CLASSES.get(task["work"])
    if part is not None:
        kind = getattr(diffusers, KINDS[part])
        module = kind.from_pretrained(task["model"], subfolder=part, torch_dtype=dtype)
        module = module.eval().to(task["device"])
        facts |= {"import_seconds": imported, "load_seconds": time.perf_counter() - began}
        module = compiled(task, module)
        call, read = {"unet": step, "vae": coded}[part](task, module)
    else:
        pipeline = pipe(task, DiffusionPipeline, dtype)
        facts |= {"import_seconds": imported, "load_seconds": time.perf_counter() - began}
        pipeline.unet = compiled(task, pipeline.unet)
        call, read = {"text": text, "load": nothing}.get(task["work"], picture)(task, pipeline)

    trial = None
    if call.__name__ == "draw":
        trial = torch.no_grad()(functools.partial(call, min(TRIAL, task["steps"])))
    return Work(torch.no_grad()(call), read, waiter(task), facts, trial)


def waiter(task):
    import torch

    return torch.cuda.synchronize if task["device"].startswith("cuda") else lambda: None


def compiled(task, module):
    """The module, or what inductor makes of it with its weights folded in."""
    if task["how"] != "compiled":
        return module
    import torch

    torch._inductor.config.freezing = True
    return torch.compile(module, dynamic=False)


def pipe(task, kind, dtype):
    """The pipeline that the folder names, with Euler over evenly spaced times."""
    from diffusers import EulerDiscreteScheduler

    given = {"feature_extractor": None, "image_encoder": None}
    pipeline = kind.from_pretrained(
        task["model"], torch_dtype=dtype, safety_checker=None, **kept(task["model"], given)
    )
    pipeline.set_progress_bar_config(disable=True)
    config = {**pipeline.scheduler.config, "timestep_spacing": "linspace", "steps_offset": 1}
    config.pop("use_karras_sigmas", None)
    pipeline.scheduler = EulerDiscreteScheduler.from_config(config)
    return pipeline.to(task["device"])


def kept(folder, given):
    """Of what would be left out, the parts that the folder's index knows."""
    index = json.loads(Path(folder, "model_index.json").read_text("utf-8"))
    return {name: value for name, value in given.items() if name in index}


def inputs(task, *names):
    import numpy as np
    import torch

    for name in names:
        loaded = np.load(Path(task["inputs"], f"{name}.npy"), allow_pickle=False)
        yield torch.from_numpy(loaded).to(task["device"])


def array(made):
    return made.detach().float().cpu().numpy()


def step(task, unet):
    x, times, context = inputs(task, "latents", "time", "context")
    dtype = unet.dtype
    added = None
    if Path(task["inputs"], "pooled.npy").exists():
        pooled, sizes = inputs(task, "pooled", "sizes")
        added = {"text_embeds": pooled.to(dtype), "time_ids": sizes.to(dtype)}
    x, context = x.to(dtype), context.to(dtype)

    def call():
        return unet(
            x,
            times,
            encoder_hidden_states=context,
            added_cond_kwargs=added,
            return_dict=False,
        )[0]

    return call, array


def coded(task, vae):
    (given,) = inputs(task, "raw" if task["work"] == "decode" else "images")
    given = given.to(vae.dtype)
    if task["work"] == "decode":
        return lambda: vae.decode(given, return_dict=False)[0], array
    return lambda: vae.encode(given).latent_dist.mode(), array


def text(task, pipeline):
    import torch

    guided = task["guidance"] != 1

    def call():
        made = pipeline.encode_prompt(
            prompt=task["prompt"],
            device=task["device"],
            num_images_per_prompt=1,
            do_classifier_free_guidance=guided,
            negative_prompt=task["negative"] if guided else None,
        )
        return torch.cat([one for one in made[:2] if one is not None])

    return call, array


def picture(task, pipeline):
    import numpy as np

    (noise,) = inputs(task, "noise")
    noise = noise.to(pipeline.unet.dtype)

    def draw(steps=task["steps"]):
        return pipeline(
            task["prompt"],
            negative_prompt=task["negative"] if task["guidance"] != 1 else None,
            num_images_per_prompt=task["batch"],
            num_inference_steps=steps,
            guidance_scale=task["guidance"],
            width=task["width"],
            height=task["height"],
            latents=noise,
        ).images

    return draw, lambda pictures: np.stack([np.asarray(one) for one in pictures])


def training(task):
    """Steps of Diffusers' examples on latents and text states that are at hand."""
    import warnings

    import numpy as np
    import torch

    warnings.filterwarnings("ignore", module="accelerate")
    trainers = neighbour("diffusers_trainer")
    latents, states = inputs(task, "train_latents", "train_states")
    given = {
        "batch": task["batch"],
        "bf16": task["precision"] == "bf16",
        "device": torch.device(task["device"]),
    }

    def data(tokenizer):
        return trainers.Encoded(latents.cpu(), states.cpu())

    if task["adapted"]:
        trainer = trainers.LoraTrainer(
            Path(task["model"]), data, rank=16, checkpointing=False, **given
        )
        call = trainer.step
    else:
        trainer = trainers.Trainer(Path(task["model"]), data, ema=False, **given)
        call = functools.partial(trainer.steps, 1)
    learning = [weight for weight in trainer.unet.parameters() if weight.requires_grad]
    sizes = sorted((weight.numel() for weight in learning), reverse=True)
    return call, lambda made: np.asarray(sizes, np.float64)


def nothing(task, pipeline):
    return lambda: None, lambda made: made


def started(task):
    """From nothing to a PNG, for `start`."""
    prepared({**task, "work": "picture"}).call()[0].save(task["png"])


if __name__ == "__main__":
    if sys.argv[1:2] == ["start"]:
        started(json.loads(sys.argv[2]))
    else:
        from profiling import profiled

        serve(prepared, {"profile": profiled})
