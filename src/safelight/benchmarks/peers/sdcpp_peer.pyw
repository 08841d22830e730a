"""stable-diffusion.cpp as a contender, by its Python binding: whole pictures alone.

    python sdcpp_peer.pyw            answers lines of JSON (see serving.py)
    python sdcpp_peer.pyw start '{"work": ...}'    draws one picture, writes a PNG and ends

It knows the published sizes alone. Its first noise is that of the seed as an NVIDIA GPU draws it,
which all contenders are given.
"""

import functools
import json
import sys
import time
from importlib.metadata import version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from serving import TRIAL, Work, serve

TYPES = {"fp32": "f32", "fp16": "f16", "bf16": "bf16"}


def prepared(task):
    began = time.perf_counter()
    import stable_diffusion_cpp

    facts = {
        "stable-diffusion.cpp": version("stable-diffusion-cpp-python"),
        "import_seconds": time.perf_counter() - began,
    }
    began = time.perf_counter()
    model = stable_diffusion_cpp.StableDiffusion(
        model_path=task["single"],
        n_threads=task["threads"],
        wtype=TYPES[task["precision"]],
        rng_type="cuda",
        vae_decode_only=True,
        verbose=False,
    )
    facts["load_seconds"] = time.perf_counter() - began
    if task["work"] == "load":
        return Work(nothing, facts=facts)
    draw, read = picture(task, model)
    trial = functools.partial(draw, min(TRIAL, task["steps"]))
    return Work(draw, read, facts=facts, trial=trial)


def nothing():
    return None


def picture(task, model):
    import numpy as np

    def draw(steps=task["steps"]):
        return model.generate_image(
            task["prompt"],
            negative_prompt=task["negative"] if task["guidance"] != 1 else "",
            width=task["width"],
            height=task["height"],
            cfg_scale=task["guidance"],
            sample_method="euler",
            scheduler="discrete",
            sample_steps=steps,
            seed=task["seed"],
            batch_count=task["batch"],
        )

    return draw, lambda pictures: np.stack([np.asarray(one.convert("RGB")) for one in pictures])


if __name__ == "__main__":
    if sys.argv[1:2] == ["start"]:
        asked = json.loads(sys.argv[2])
        prepared({**asked, "work": "picture"}).call()[0].save(asked["png"])
    else:
        serve(prepared)
