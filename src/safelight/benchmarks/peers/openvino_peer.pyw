"""OpenVINO as a contender: a plain export of Diffusers' model, run by the runtime for one stream.

    python openvino_peer.pyw            answers lines of JSON (see serving.py)
    python openvino_peer.pyw start '{"work": ...}'    draws one picture, writes a PNG and ends

The export is made once, in a process of its own: networks traced as Optimum Intel traces them, with
weights in 16 bits unless fp32 is asked for. Whole pictures are drawn by OpenVINO GenAI's pipeline
from the same export. Nothing of PyTorch is imported when something is timed.

With "int8" in the task's "how" the U-Net of the export is quantised by NNCF after training, as its
makers do it for such networks: weights and activations in eight bits, SmoothQuant, no correction of
biases.
"""

import functools
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from serving import TRIAL, Work, serve

# Through it OpenVINO and NNCF tell their makers over the network what is done with them; they can
# do without
sys.modules["openvino_telemetry"] = None

HINTS = {"fp32": "f32", "bf16": "bf16"}
NETWORKS = {"step": ("unet",), "decode": ("vae_decoder",), "encode": ("vae_encoder",)}
DRAWN = ("picture", "load", "start", "memory")
# What the ranges of activations are found with: the benchmark's inputs at these times, of latents
# a piece, because all that is watched lies in memory together
TIMES = (981, 781, 581, 381, 181)
SIDE = 32


def prepared(task):
    if task["work"] == "export":
        return exported(task)
    began = time.perf_counter()
    import openvino

    facts = {"openvino": openvino.get_version().split("-")[0]}
    if task["work"] in DRAWN:
        import openvino_genai

        facts["openvino_genai"] = openvino_genai.__version__
        facts["import_seconds"] = time.perf_counter() - began
        began = time.perf_counter()
        draw, read = picture(task)
        facts["load_seconds"] = time.perf_counter() - began
        if task["work"] == "load":
            return Work(nothing, facts=facts)
        trial = functools.partial(draw, min(TRIAL, task["steps"]))
        return Work(draw, read, facts=facts, trial=trial)
    return Work(*network(task), facts=facts)


def nothing():
    return None


def properties(task):
    return {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": HINTS[task["precision"]],
        "INFERENCE_NUM_THREADS": task["threads"],
    }


def inputs(task, *names):
    import numpy as np

    return [np.load(Path(task["inputs"], f"{name}.npy"), allow_pickle=False) for name in names]


def asked_of_unet(task):
    """What the U-Net is given, by the names of its inputs."""
    import numpy as np

    x, times, context = inputs(task, "latents", "time", "context")
    given = {
        "sample": x,
        "timestep": times.astype(np.int64),
        "encoder_hidden_states": context,
    }
    if Path(task["inputs"], "pooled.npy").exists():
        given["text_embeds"], given["time_ids"] = inputs(task, "pooled", "sizes")
    return given


def network(task):
    """A call of one network with shapes that are fixed, as a pipeline fixes them."""
    import numpy as np
    import openvino

    (name,) = NETWORKS[task["work"]]
    if name == "unet":
        given = asked_of_unet(task)
    elif name == "vae_decoder":
        given = {"latent_sample": inputs(task, "raw")[0]}
    else:
        given = {"sample": inputs(task, "images")[0]}
    core = openvino.Core()
    model = core.read_model(Path(task["export"], name, "openvino_model.xml"))
    model.reshape({key: value.shape for key, value in given.items()})
    request = core.compile_model(model, "CPU", properties(task)).create_infer_request()

    def call():
        request.infer(given, share_inputs=True, share_outputs=True)
        return request.get_output_tensor(0).data

    if name == "vae_encoder":  # moments: the mean is the first half of the channels
        return call, lambda made: np.array(made[:, : made.shape[1] // 2])
    return call, np.array


def picture(task):
    """The pipeline of OpenVINO GenAI, given the same first noise as everybody."""
    import numpy as np
    import openvino
    import openvino_genai as genai

    class Given(genai.Generator):
        """In place of a random generator."""

        def __init__(self, noise):
            genai.Generator.__init__(self)
            self.noise = noise

        def randn_tensor(self, shape):
            return openvino.Tensor(np.ascontiguousarray(self.noise.reshape(list(shape))))

    (noise,) = inputs(task, "noise")
    pipeline = genai.Text2ImagePipeline(task["export"])
    pipeline.reshape(task["batch"], task["height"], task["width"], task["guidance"])
    pipeline.compile("CPU", **properties(task))
    words = {"negative_prompt": task["negative"]} if task["guidance"] != 1 else {}

    def draw(steps=task["steps"]):
        return pipeline.generate(
            task["prompt"],
            **words,
            width=task["width"],
            height=task["height"],
            num_images_per_prompt=task["batch"],
            num_inference_steps=steps,
            guidance_scale=task["guidance"],
            generator=Given(noise),
        )

    return draw, lambda made: np.array(made.data)


def started(task):
    """From nothing to a PNG, for `start`."""
    from PIL import Image

    draw, _ = picture(task)
    Image.fromarray(draw().data[0]).save(task["png"])


# -- the export ------------------------------------------------------------------------------------


def exported(task):
    """Write those parts of the model that the works need, unless they are there."""
    wanted = {part for work in task["works"] for part in NETWORKS.get(work, ())}
    drawn = any(work in DRAWN for work in task["works"])
    if drawn:
        wanted |= {"unet", "vae_decoder", *texts(task["model"])}
    place = Path(task["export"])
    missing = [
        part for part in sorted(wanted) if not (place / part / "openvino_model.xml").exists()
    ]
    index = place / "model_index.json"
    if missing or (drawn and not index.exists()):
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
        import diffusers

        diffusers.utils.logging.set_verbosity_error()
        diffusers.utils.logging.disable_progress_bar()
        half = task["precision"] != "fp32"
        for part in missing:
            if part == "unet" and "int8" in task["how"]:
                quantised(task, place / part, half)
            else:
                MAKERS[part](Path(task["model"]), place / part, half)
        if drawn and not index.exists():
            write_pipeline(Path(task["model"]), place)
            index.write_text(Path(task["model"], "model_index.json").read_text("utf-8"), "utf-8")
    return Work(nothing)


def converted(module, example, shapes, names, target, half):
    """Trace a module and write it, its inputs and outputs named as pipelines look for them.

    half: keep weights in 16 bits. Tables of frequencies suffer, too, so fp32 has 32.
    """
    import openvino
    import torch

    with torch.no_grad():
        model = openvino.convert_model(
            module.eval(), example_input=example, input=[openvino.PartialShape(s) for s in shapes]
        )
    for port, name in zip(model.inputs, example, strict=True):
        port.get_tensor().set_names({name})
    for port, name in zip(model.outputs, names, strict=True):
        port.get_tensor().set_names({name})
    written(model, target, half)


def written(model, target, half):
    """A model in a folder of its own, whole or not at all."""
    import openvino

    target.mkdir(parents=True, exist_ok=True)
    partial = target / "unfinished.xml"
    openvino.save_model(model, partial, compress_to_fp16=half)
    os.replace(target / "unfinished.bin", target / "openvino_model.bin")
    os.replace(partial, target / "openvino_model.xml")


def configured(source, target):
    """The part's config.json beside it, as pipelines read it."""
    text = (source / "config.json").read_text("utf-8")
    (target / "config.json").write_text(text, "utf-8")


def unet(folder, target, half):
    import torch
    from diffusers import UNet2DConditionModel

    net = UNet2DConditionModel.from_pretrained(folder, subfolder="unet")
    config = net.config
    adds = config.addition_embed_type == "text_time"
    example = {
        "sample": torch.randn(2, config.in_channels, 16, 16),
        "timestep": torch.tensor([700], dtype=torch.int64),
        "encoder_hidden_states": torch.randn(2, 77, config.cross_attention_dim),
    }
    shapes = [[-1, config.in_channels, -1, -1], [-1], [-1, -1, config.cross_attention_dim]]
    if adds:
        width = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
        example |= {"text_embeds": torch.randn(2, width), "time_ids": torch.ones(2, 6)}
        shapes += [[-1, width], [-1, 6]]

    class Asked(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.net = net

        def forward(self, sample, timestep, encoder_hidden_states, text_embeds=None, time_ids=None):
            added = {"text_embeds": text_embeds, "time_ids": time_ids} if adds else None
            return self.net(
                sample, timestep, encoder_hidden_states, added_cond_kwargs=added, return_dict=False
            )[0]

    converted(Asked(), example, shapes, ["out_sample"], target, half)
    configured(folder / "unet", target)


def quantised(task, target, half):
    """The U-Net in eight bits, written where the plain one would be."""
    import nncf
    import numpy as np
    import openvino

    plain = target.with_name("unet-plain")
    told = json.dumps({"model": task["model"], "target": str(plain), "half": half})
    # in a process of its own: tracing leaves gigabytes of memory behind
    subprocess.run([sys.executable, __file__, "plain", told], check=True)
    model = openvino.Core().read_model(plain / "openvino_model.xml")
    given = asked_of_unet(task)
    rows = given["timestep"].shape
    given["sample"] = np.ascontiguousarray(given["sample"][:, :, :SIDE, :SIDE])
    calls = [given | {"timestep": np.full(rows, time, dtype=np.int64)} for time in TIMES]
    model = nncf.quantize(
        model,
        nncf.Dataset(calls),
        subset_size=len(calls),
        model_type=nncf.ModelType.TRANSFORMER,
        advanced_parameters=nncf.AdvancedQuantizationParameters(disable_bias_correction=True),
    )
    written(model, target, half)
    configured(Path(task["model"], "unet"), target)
    del model  # it reads its weights from the plain file
    shutil.rmtree(plain)


def vae_decoder(folder, target, half):
    import torch
    from diffusers import AutoencoderKL

    vae = AutoencoderKL.from_pretrained(folder, subfolder="vae")

    class Decoding(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.vae = vae

        def forward(self, latent_sample):
            return self.vae.decode(latent_sample, return_dict=False)[0]

    channels = vae.config.latent_channels
    example = {"latent_sample": torch.randn(1, channels, 16, 16)}
    converted(Decoding(), example, [[-1, channels, -1, -1]], ["sample"], target, half)
    configured(folder / "vae", target)


def vae_encoder(folder, target, half):
    import torch
    from diffusers import AutoencoderKL

    vae = AutoencoderKL.from_pretrained(folder, subfolder="vae")

    class Encoding(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.vae = vae

        def forward(self, sample):
            return self.vae.encode(sample, return_dict=False)[0].parameters

    example = {"sample": torch.randn(1, 3, 128, 128)}
    converted(Encoding(), example, [[-1, 3, -1, -1]], ["latent_parameters"], target, half)
    configured(folder / "vae", target)


def texts(model):
    """The text encoders of a folder: one, or SDXL's two."""
    names = ("text_encoder", "text_encoder_2")
    return [name for name in names if Path(model, name, "config.json").exists()]


def text_encoder(folder, target, half):
    """States and pooled text; beside SDXL's second encoder the states of all layers, too."""
    import torch
    from transformers import CLIPTextModel, CLIPTextModelWithProjection

    kind = CLIPTextModelWithProjection if target.name.endswith("_2") else CLIPTextModel
    text = kind.from_pretrained(folder, subfolder=target.name, dtype=torch.float32)
    deep = len(texts(folder)) > 1
    first = "text_embeds" if target.name.endswith("_2") else "last_hidden_state"
    second = "last_hidden_state" if target.name.endswith("_2") else "pooler_output"
    names = [first, second]
    if deep:
        names += [f"hidden_states.{i}" for i in range(text.config.num_hidden_layers + 1)]

    class Reading(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.text = text

        def forward(self, input_ids):
            made = self.text(input_ids, output_hidden_states=deep)
            return (made[first], made[second], *(made.hidden_states if deep else ()))

    example = {"input_ids": torch.ones(1, 77, dtype=torch.int64)}
    converted(Reading(), example, [[-1, -1]], names, target, half)
    configured(folder / target.name, target)


MAKERS = {
    "unet": unet,
    "vae_decoder": vae_decoder,
    "vae_encoder": vae_encoder,
    "text_encoder": text_encoder,
    "text_encoder_2": text_encoder,
}


def write_pipeline(folder, place):
    """Tokenizer and scheduler; Euler over evenly spaced times, as everybody has it."""
    import openvino
    from openvino_tokenizers import convert_tokenizer
    from transformers import CLIPTokenizer

    for name in texts(folder):
        name = name.replace("text_encoder", "tokenizer")
        tokenizer = CLIPTokenizer.from_pretrained(folder, subfolder=name)
        target = place / name
        target.mkdir(exist_ok=True)
        openvino.save_model(convert_tokenizer(tokenizer), target / "openvino_tokenizer.xml")
        tokenizer.save_pretrained(target)
    config = json.loads((folder / "scheduler" / "scheduler_config.json").read_text("utf-8"))
    config |= {
        "_class_name": "EulerDiscreteScheduler",
        "timestep_spacing": "linspace",
        "steps_offset": 1,
    }
    config.pop("use_karras_sigmas", None)
    (place / "scheduler").mkdir(exist_ok=True)
    text = json.dumps(config, indent=1)
    (place / "scheduler" / "scheduler_config.json").write_text(text, "utf-8")


if __name__ == "__main__":
    if sys.argv[1:2] == ["plain"]:
        asked = json.loads(sys.argv[2])
        unet(Path(asked["model"]), Path(asked["target"]), asked["half"])
    elif sys.argv[1:2] == ["start"]:
        started(json.loads(sys.argv[2]))
    else:
        serve(prepared)
