"""ComfyUI's graphs are followed back from the saved picture; what is not read is named."""

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safelight.errors import FileError, SafelightError
from safelight.tasks.addons import Hypernetwork, Lora
from safelight.tasks.metadata.comfyui import read_prompt, read_workflow
from safelight.tasks.metadata.reading import Reading
from safelight.tasks.request import FreeU, Guidance, Pag, Request, Sag, Sizes

Node = dict[str, object]


def node(kind: str, **inputs: object) -> Node:
    """One node of the API form."""
    return {"class_type": kind, "inputs": inputs, "_meta": {"title": kind}}


def graph(**changes: Node) -> dict[str, Node]:
    """ComfyUI's default text-to-image graph, with nodes replaced or added ("n3" is node 3)."""
    nodes = {
        "3": node(
            "KSampler", seed=156680208700286, steps=25, cfg=8, sampler_name="euler",
            scheduler="normal", denoise=1, model=["4", 0], positive=["6", 0],
            negative=["7", 0], latent_image=["5", 0],
        ),
        "4": node("CheckpointLoaderSimple", ckpt_name="v1-5-pruned-emaonly.safetensors"),
        "5": node("EmptyLatentImage", width=512, height=768, batch_size=1),
        "6": node("CLIPTextEncode", text="a glass bottle", clip=["4", 1]),
        "7": node("CLIPTextEncode", text="text, watermark", clip=["4", 1]),
        "8": node("VAEDecode", samples=["3", 0], vae=["4", 2]),
        "9": node("SaveImage", filename_prefix="ComfyUI", images=["8", 0]),
    }  # fmt: skip
    return {**nodes, **{name.removeprefix("n"): changed for name, changed in changes.items()}}


def sampler(**inputs: object) -> Node:
    """The default graph's sampler with other inputs."""
    given = graph()["3"]["inputs"]
    assert isinstance(given, dict)
    return node("KSampler", **{**given, **inputs})


def read(**changes: Node) -> tuple[Request, str]:
    """The request of a changed default graph, and its notes as one text."""
    reading = read_prompt(json.dumps(graph(**changes)))
    assert reading.request is not None, reading.notes
    return reading.request, "\n".join(reading.notes)


DEFAULT = Request(
    prompt="a glass bottle",
    negative_prompt="text, watermark",
    dialect="comfy",
    model="v1-5-pruned-emaonly.safetensors",
    width=512,
    height=768,
    seed=156680208700286,
    steps=25,
    sampler="Euler",
    schedule="Uniform",
    cfg_scale=8,
    start="unit",
)


def test_the_default_graph_is_read_without_notes() -> None:
    assert read() == (DEFAULT, "")


@pytest.mark.parametrize(
    ("name", "scheduler", "expected"),
    [
        ("dpmpp_2m_sde_gpu", "karras", ("DPM++ 2M SDE", "Karras")),
        ("uni_pc", "sgm_uniform", ("UniPC", "SGM Uniform")),
        ("ddim", "ddim_uniform", ("DDIM", "DDIM")),
        ("euler_ancestral", "simple", ("Euler a", "Simple")),
        ("heun", "beta", ("Heun", "Beta (timesteps)")),
    ],
)
def test_samplers_and_schedulers_keep_their_meaning(
    name: str, scheduler: str, expected: tuple[str, str]
) -> None:
    request, notes = read(n3=sampler(sampler_name=name, scheduler=scheduler))
    assert (request.sampler, request.schedule) == expected and notes == ""


def test_loaders_and_layers_are_read() -> None:
    request, notes = read(
        n8=node("VAEDecodeTiled", samples=["3", 0], vae=["10", 0]),
        n10=node("VAELoader", vae_name="sub/vae-ft-mse.safetensors"),
        n6=node("CLIPTextEncode", text="a glass bottle", clip=["11", 0]),
        n11=node("CLIPSetLastLayer", stop_at_clip_layer=-2, clip=["4", 1]),
    )
    assert request == DEFAULT.replace(vae="vae-ft-mse.safetensors", clip_skip=2, tile_vae=True)
    assert notes == ""


def test_model_changes_become_guidance() -> None:
    request, notes = read(
        n3=sampler(model=["10", 0]),
        n10=node("RescaleCFG", multiplier=0.7, model=["11", 0]),
        n11=node("FreeU", b1=1.1, b2=1.2, s1=0.9, s2=0.2, model=["12", 0]),
        n12=node("PerturbedAttentionGuidance", scale=2.0, model=["13", 0]),
        n13=node("SelfAttentionGuidance", scale=0.5, blur_sigma=2.0, model=["14", 0]),
        n14=node("ModelSamplingDiscrete", sampling="v_prediction", zsnr=True, model=["4", 0]),
    )
    assert request.guidance == Guidance(
        rescale=0.7,
        freeu=FreeU(b1=1.1, b2=1.2, s1=0.9, s2=0.2),
        pag=Pag(scale=2),
        sag=Sag(scale=0.5),
    )
    assert (request.prediction, request.zero_terminal_snr) == ("v", True)
    assert notes == "blur_sigma 2.0 has no counterpart here and was left out."


def test_loras_act_on_what_their_nodes_feed() -> None:
    strengths = {"strength_model": 0.8, "strength_clip": 0.5}
    request, notes = read(
        n3=sampler(model=["10", 0]),
        n6=node("CLIPTextEncode", text="a glass bottle", clip=["11", 1]),
        n10=node(
            "LoraLoaderModelOnly", lora_name="b.safetensors", strength_model=2, model=["11", 0]
        ),
        n11=node(
            "LoraLoader", lora_name="xl/a.safetensors", **strengths, model=["4", 0], clip=["12", 1]
        ),
        n12=node("LoraLoader", lora_name="c.pt", **strengths, model=["4", 0], clip=["4", 1]),
    )
    assert notes == ""
    assert request == DEFAULT.replace(
        loras=(
            Lora(file="c.pt", weight=0, text_weight=0.5, dora="base"),
            Lora(file="a.safetensors", weight=0.8, text_weight=0.5, dora="base"),
            Lora(file="b.safetensors", weight=2, text_weight=0, dora="base"),
        )
    )


def test_a_hypernetwork_is_read() -> None:
    request, notes = read(
        n3=sampler(model=["10", 0]),
        n10=node("HypernetworkLoader", hypernetwork_name="h.pt", strength=0.6, model=["4", 0]),
    )
    assert notes == ""
    assert request == DEFAULT.replace(hypernetworks=(Hypernetwork(file="h.pt", weight=0.6),))


def test_texts_and_numbers_may_come_from_other_nodes() -> None:
    request, notes = read(
        n3=sampler(seed=["12", 0]),
        n6=node("CLIPTextEncode", text=["10", 0], clip=["4", 1]),
        n10=node("Reroute", any=["11", 0]),
        n11=node("PrimitiveString", value="a glass bottle"),
        n12=node("PrimitiveInt", value=5),
    )
    assert (request, notes) == (DEFAULT.replace(seed=5), "")


@pytest.mark.parametrize(
    ("kind", "inputs"),
    [
        ("ConditioningCombine", {"conditioning_1": ["6", 0], "conditioning_2": ["7", 0]}),
        ("ConditioningConcat", {"conditioning_to": ["6", 0], "conditioning_from": ["7", 0]}),
        ("ConditioningSetArea", {"conditioning": ["6", 0], "width": 64, "height": 64}),
        ("ControlNetApplyAdvanced", {"positive": ["6", 0], "negative": ["7", 0]}),
    ],
)
def test_conditionings_are_passed_by_and_named(kind: str, inputs: dict[str, object]) -> None:
    request, notes = read(n3=sampler(positive=["10", 0]), n10=node(kind, **inputs))
    assert request == DEFAULT and kind in notes


def test_the_second_output_of_a_pair_is_the_negative() -> None:
    request, _ = read(
        n3=sampler(positive=["10", 0], negative=["10", 1]),
        n10=node("ControlNetApplyAdvanced", positive=["6", 0], negative=["7", 0]),
    )
    assert (request.prompt, request.negative_prompt) == ("a glass bottle", "text, watermark")


def test_a_zeroed_negative_is_empty() -> None:
    request, notes = read(
        n3=sampler(negative=["10", 0]), n10=node("ConditioningZeroOut", conditioning=["7", 0])
    )
    assert request.negative_prompt == "" and "zeroed" in notes


def test_sdxl_sizes_are_read() -> None:
    request, notes = read(
        n6=node(
            "CLIPTextEncodeSDXL", width=1024, height=1000, crop_w=8, crop_h=16, target_width=512,
            target_height=768, text_g="a bottle", text_l="glass", clip=["4", 1],
        ),
    )  # fmt: skip
    assert request.prompt == "a bottle" and "texts of the prompt differ" in notes
    assert request.sizes == Sizes(
        original=(1024, 1000), target=(512, 768), crop_left=8, crop_top=16
    )


def test_of_two_passes_the_first_is_read() -> None:
    request, notes = read(
        n8=node("VAEDecode", samples=["10", 0], vae=["4", 2]),
        n10=sampler(seed=1, denoise=0.5, latent_image=["11", 0]),
        n11=node("LatentUpscale", samples=["3", 0], width=1024, height=1536),
    )
    assert request == DEFAULT
    assert "1 later sampling passes" in notes and "LatentUpscale" in notes


def test_another_picture_as_the_start_is_said() -> None:
    request, notes = read(
        n3=sampler(latent_image=["10", 0], denoise=0.6),
        n10=node("VAEEncode", pixels=["11", 0], vae=["4", 2]),
        n11=node("LoadImage", image="x.png"),
    )
    assert request.width is None
    assert "empty latent" in notes and "denoise 0.6" in notes and "'LoadImage'" in notes


def test_parts_of_the_steps_are_said() -> None:
    inputs = {**sampler()["inputs"], "noise_seed": 3, "start_at_step": 5, "end_at_step": 20}  # type: ignore[dict-item]
    request, notes = read(n3=node("KSamplerAdvanced", **inputs))
    assert request.seed == 3
    assert "start_at_step 5" in notes and "end_at_step 20" in notes


def test_the_split_sampler_is_read() -> None:
    request, notes = read(
        n3=node(
            "SamplerCustomAdvanced", noise=["10", 0], guider=["11", 0], sampler=["12", 0],
            sigmas=["13", 0], latent_image=["5", 0],
        ),
        n10=node("RandomNoise", noise_seed=77),
        n11=node("CFGGuider", cfg=4, model=["4", 0], positive=["6", 0], negative=["7", 0]),
        n12=node("KSamplerSelect", sampler_name="dpmpp_2m"),
        n13=node("KarrasScheduler", steps=12, sigma_max=14.6, sigma_min=0.03, rho=6.0),
    )  # fmt: skip
    assert notes == ""
    assert (request.seed, request.cfg_scale, request.steps) == (77, 4, 12)
    assert (request.sampler, request.schedule) == ("DPM++ 2M", "Karras")
    assert request.schedule_options.given() == {"rho": 6, "sigma_max": 14.6, "sigma_min": 0.03}


def test_a_foreign_sampler_with_the_usual_inputs_is_read_with_a_note() -> None:
    inputs = sampler()["inputs"]
    assert isinstance(inputs, dict)
    request, notes = read(n3=node("KSampler (Efficient)", **inputs))
    assert request == DEFAULT and "KSampler (Efficient)" in notes


def test_a_batch_from_one_seed_is_said() -> None:
    request, notes = read(n5=node("EmptyLatentImage", width=512, height=768, batch_size=4))
    assert request == DEFAULT and "batch of 4" in notes


def test_nodes_beside_the_way_are_not_mentioned() -> None:
    assert read(n50=node("Mystery", text="x")) == (DEFAULT, "")


def test_nodes_on_the_way_that_nobody_knows_are_named() -> None:
    _, notes = read(
        n9=node("SaveImage", images=["10", 0]), n10=node("Sharpen", image=["8", 0], radius=2)
    )
    assert "'Sharpen'" in notes


def test_a_saved_picture_wins_over_a_preview() -> None:
    changes = {
        "n1": node("PreviewImage", images=["20", 0]),
        "n20": node("VAEDecode", samples=["21", 0], vae=["4", 2]),
        "n21": sampler(seed=1),
    }
    assert read(**changes) == (DEFAULT, "")


def test_without_a_sampler_there_is_no_request() -> None:
    reading = read_prompt(json.dumps({"1": node("LoadImage", image="x"), "2": node("SaveImage")}))
    assert reading.request is None and "no sampler" in reading.notes[0]


# --- the editor's form ------------------------------------------------------------------------


def workflow(*, mode: int = 0, objects: bool = False) -> dict[str, object]:
    """The default graph as the editor stores it, with a model change that may be bypassed."""

    def entry(
        number: int, kind: str, values: object, *inputs: tuple[str, str, int], **more: object
    ) -> Node:
        slots = [{"name": name, "type": type_, "link": link} for name, type_, link in inputs]
        return {"id": number, "type": kind, "widgets_values": values, "inputs": slots, **more}

    links = [
        [1, 10, 0, 3, 0, "MODEL"], [2, 4, 0, 10, 0, "MODEL"], [3, 4, 1, 6, 0, "CLIP"],
        [4, 4, 1, 7, 0, "CLIP"], [5, 6, 0, 3, 1, "CONDITIONING"], [6, 7, 0, 3, 2, "CONDITIONING"],
        [7, 5, 0, 3, 3, "LATENT"], [8, 3, 0, 8, 0, "LATENT"], [9, 4, 2, 8, 1, "VAE"],
        [10, 8, 0, 9, 0, "IMAGE"],
    ]  # fmt: skip
    names = ("id", "origin_id", "origin_slot", "target_id", "target_slot", "type")
    return {
        "last_node_id": 10,
        "nodes": [
            entry(
                3, "KSampler", [156680208700286, "randomize", 25, 8, "euler", "normal", 1],
                ("model", "MODEL", 1), ("positive", "CONDITIONING", 5),
                ("negative", "CONDITIONING", 6), ("latent_image", "LATENT", 7),
            ),
            entry(4, "CheckpointLoaderSimple", ["v1-5-pruned-emaonly.safetensors"]),
            entry(5, "EmptyLatentImage", [512, 768, 1]),
            entry(6, "CLIPTextEncode", ["a glass bottle"], ("clip", "CLIP", 3)),
            entry(7, "CLIPTextEncode", ["text, watermark"], ("clip", "CLIP", 4)),
            entry(8, "VAEDecode", [], ("samples", "LATENT", 8), ("vae", "VAE", 9)),
            entry(9, "SaveImage", ["ComfyUI"], ("images", "IMAGE", 10)),
            entry(
                10, "RescaleCFG", [0.7], ("model", "MODEL", 2), mode=mode,
                outputs=[{"name": "MODEL", "type": "MODEL", "links": [1]}],
            ),
            entry(11, "Note", ["a remark"]),
        ],
        "links": [dict(zip(names, link, strict=True)) for link in links] if objects else links,
    }  # fmt: skip


@pytest.mark.parametrize("objects", [False, True])
def test_the_editors_form_is_read(objects: bool) -> None:
    reading = read_workflow(json.dumps(workflow(objects=objects)))
    assert reading == Reading("ComfyUI", DEFAULT.replace(guidance=Guidance(rescale=0.7)))


def test_a_bypassed_node_does_nothing() -> None:
    assert read_workflow(json.dumps(workflow(mode=4))) == Reading("ComfyUI", DEFAULT)


def notes_with(number: int, kind: str, values: list[object]) -> tuple[str, ...]:
    """The notes on the editor's graph with the widgets of one node replaced."""
    made = workflow(mode=4)
    nodes = made["nodes"]
    assert isinstance(nodes, list)
    for entry in nodes:
        if entry["id"] == number:
            entry |= {"type": kind, "widgets_values": values}
    return read_workflow(json.dumps(made)).notes


def test_a_value_without_a_known_name_is_said_and_not_dropped() -> None:
    known = [156680208700286, "randomize", 25, 8, "euler", "normal", 1]
    said = "node KSampler has values whose names are not known here: 'tile', 0.25; they were left"
    assert notes_with(3, "KSampler", [*known, "tile", 0.25])[0].startswith(said)
    (note,) = notes_with(3, "KSampler", [*known, *range(9)])
    assert "0, 1, 2, 3, 4, 5, ...; they" in note
    (note,) = notes_with(5, "EmptyLatentImage", [512, 768, 1, True])
    assert "EmptyLatentImage" in note and "True" in note


@pytest.mark.parametrize("control", ["fixed", "randomize", True, False, None])
def test_the_editors_seed_control_is_no_setting(control: object) -> None:
    known = [156680208700286, control, 25, 8, "euler", "normal", 1]
    assert notes_with(3, "KSampler", known) == ()


def test_a_value_in_the_place_of_the_seed_control_is_said_too() -> None:
    (note,) = notes_with(3, "KSampler", [156680208700286, "sideways", 25, 8, "euler", "normal", 1])
    assert "'sideways'" in note


def test_nodes_that_were_not_read_are_named_whole_and_not_by_their_values() -> None:
    (note,) = notes_with(8, "VAEDecodeFancy", [512, 64, "fast"])
    assert note == "nodes that were not read: 'VAEDecodeFancy'."


# --- hostile graphs ---------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["", "[]", "{}", "3", '{"1": 2}', "[" * 99_999, '{"nodes": []}'])
def test_what_is_no_graph_is_a_file_error(text: str) -> None:
    for reader in (read_prompt, read_workflow):
        with pytest.raises(FileError) as caught:
            reader(text)
        assert "\n" not in str(caught.value)


def test_circles_end() -> None:
    prompt, model = node("A", conditioning=["6", 0]), node("B", model=["4", 0], clip=["4", 1])
    reading = read_prompt(json.dumps(graph(n6=prompt, n4=model)))
    assert reading.request is not None and reading.request.prompt == ""


def test_long_chains_end_soon() -> None:
    chain = {
        f"n{number}": node("LoraLoader", lora_name=["99", 0], model=[str(number + 1), 0])
        for number in range(100, 9000)
    }
    text = json.dumps(graph(n3=sampler(model=["100", 0]), n99=node("X", value=["99", 0]), **chain))
    start = time.perf_counter()
    read_prompt(text)
    assert time.perf_counter() - start < 5


LEAF = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
LINKS = st.tuples(st.sampled_from(["3", "4", "5", "6", "8", "9"]), st.integers(-1, 3)).map(list)
VALUES = st.one_of(LEAF, LINKS, st.lists(LEAF, max_size=2), st.dictionaries(st.text(), LEAF))


@given(
    st.dictionaries(
        st.sampled_from(["3", "4", "5", "6", "7", "8", "9"]),
        st.builds(
            lambda kind, inputs: {"class_type": kind, "inputs": inputs},
            st.sampled_from(
                [
                    *("KSampler", "SamplerCustomAdvanced", "CLIPTextEncode", "CLIPTextEncodeSDXL"),
                    *("CheckpointLoaderSimple", "VAEDecode", "SaveImage", "RescaleCFG", "FreeU"),
                    *("ModelSamplingDiscrete", "CLIPSetLastLayer", "EmptyLatentImage", "?\n"),
                ]
            ),
            st.dictionaries(
                st.sampled_from(
                    [
                        *("seed", "steps", "cfg", "sampler_name", "scheduler", "denoise", "model"),
                        *("positive", "negative", "latent_image", "text", "clip", "ckpt_name"),
                        *("samples", "vae", "images", "width", "height", "batch_size", "sigmas"),
                        *("multiplier", "sampling", "zsnr", "stop_at_clip_layer", "start_at_step"),
                    ]
                ),
                VALUES,
            ),
        ),
    )
)
def test_whatever_the_graph_only_our_errors_come_back(nodes: dict[str, object]) -> None:
    try:
        reading = read_prompt(json.dumps(nodes))
    except SafelightError:
        return
    assert all("\n" not in note for note in reading.notes)


ITEM = st.dictionaries(
    st.sampled_from(["id", "type", "mode", "inputs", "outputs", "widgets_values", "link", "name"]),
    st.recursive(LEAF, lambda inner: st.lists(inner, max_size=3) | st.fixed_dictionaries(
        {}, optional={"name": inner, "type": inner, "link": inner}), max_leaves=5),
)  # fmt: skip


@given(st.lists(ITEM), st.lists(st.lists(LEAF, max_size=6) | ITEM))
def test_whatever_the_editor_stored_only_our_errors_come_back(
    nodes: list[object], links: list[object]
) -> None:
    try:
        reading = read_workflow(json.dumps({"nodes": nodes, "links": links}))
    except SafelightError:
        return
    assert reading.source == "ComfyUI"
