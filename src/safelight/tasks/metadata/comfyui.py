"""From ComfyUI's graph to a request: back from the saved picture along the links.

Core nodes are understood; what else lies on the way is named in the notes.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from safelight.tasks.bounded_json import Json, parse_json
from safelight.tasks.complaint import echo
from safelight.tasks.metadata.comfyui_graph import Graph, Link, Node, api_graph, editor_graph
from safelight.tasks.metadata.reading import Notes, Reading, settled

JSON_LIMIT = 4_000_000  # characters
SHOWN = 6  # values of one node
END_LIMIT, PASS_LIMIT, HOP_LIMIT = 20, 20, 500  # saved pictures, samplers, links in a row
SAVERS = ("SaveImage", "SaveImageWebsocket", "SaveAnimatedWEBP", "PreviewImage")
SAMPLERS = ("KSampler", "KSamplerAdvanced", "SamplerCustom", "SamplerCustomAdvanced")
DECODERS = ("VAEDecode", "VAEDecodeTiled")
PASSING = (
    "Reroute",
    "PrimitiveNode",
    "PrimitiveString",
    "PrimitiveStringMultiline",
    "PrimitiveInt",
)
PREDICTIONS = {"eps": "eps", "v_prediction": "v", "x0": "x0"}
SCHEDULERS = {
    "KarrasScheduler": "karras",
    "ExponentialScheduler": "exponential",
    "PolyexponentialScheduler": "polyexponential",
    "AlignYourStepsScheduler": "align_your_steps",
}
FREEU = ("b1", "b2", "s1", "s2")
LOADERS = ("CheckpointLoaderSimple", "CheckpointLoader", "UNETLoader", "unCLIPCheckpointLoader")
VALUE_NAMES = ("value", "text", "string", "prompt", "seed", "noise_seed", "int", "float", "number")

Before = Callable[[Node, Link], Link | None]  # which way upstream from a node


def read_prompt(text: str) -> Reading:
    """The request of ComfyUI's API form. Raises FileError if the text is not that."""
    return _read(api_graph(parse_json(text, what="ComfyUI's prompt", limit=JSON_LIMIT)))


def read_workflow(text: str) -> Reading:
    """The request of ComfyUI's editor form. Raises FileError if the text is not that."""
    return _read(editor_graph(parse_json(text, what="ComfyUI's workflow", limit=JSON_LIMIT)))


def _read(graph: Graph) -> Reading:
    walk = Walk(graph)
    saved = _saved(graph)
    sampler = walk.sampler_of(saved)
    if sampler is None:
        walk.notes.add("no sampler was found, so nothing can be drawn from this graph.")
        return Reading("ComfyUI", None, walk.notes.told())
    walk.sampling(sampler)
    walk.worn()
    walk.decoding(saved)
    walk.name_unknown(saved)
    walk.name_nameless(saved)
    settings = {"dialect": "comfy", "noise_source": "cpu", **walk.settings}
    return Reading("ComfyUI", settled(settings, walk.notes), walk.notes.told())


def _saved(graph: Graph) -> Link | None:
    """What is saved: the input of a saving node, else of a node that feeds no other."""
    fed = {link.node for node in graph.values() for link in node.links()}
    ends = [name for name, node in graph.items() if name not in fed and any(node.links())]
    ends.sort(key=lambda name: _rank(graph[name].kind))
    for name in ends[:END_LIMIT]:
        if graph.nearest(Link(name, 0), _is_sampler) is not None:
            return Link(name, 0)
    return None


def _rank(kind: str) -> int:
    return SAVERS.index(kind) if kind in SAVERS else len(SAVERS)


def _is_sampler(node: Node) -> bool:
    """A core sampler, or a node with the inputs of one."""
    seeded = "seed" in node.inputs or "noise_seed" in node.inputs
    return node.kind in SAMPLERS or (seeded and {"steps", "cfg"} <= node.inputs.keys())


@dataclass
class Walk:
    """What is learnt on the way back through the graph."""

    graph: Graph
    notes: Notes = field(default_factory=Notes)
    settings: dict[str, object] = field(default_factory=dict)
    understood: set[str] = field(default_factory=set)  # ids of nodes
    loras: dict[str, dict[str, object]] = field(default_factory=dict)  # by the id of their node

    # --- the way back to the first sampler ----------------------------------------------------

    def sampler_of(self, saved: Link | None) -> Node | None:
        """The sampler of the first pass."""
        name = self.graph.nearest(saved, _is_sampler)
        for passes in range(PASS_LIMIT):
            if name is None:
                break
            self.understood.add(name)
            node = self.graph[name]
            before = self.graph.nearest(node.link("latent_image", "latent", "samples"), _is_sampler)
            if before is None or before in self.understood:
                if passes:
                    self.notes.add(f"{passes} later sampling passes were left out.")
                return node
            name = before
        return None

    def sampling(self, node: Node) -> None:
        """All settings of a sampler node and of what feeds it."""
        guider = self._at(node.link("guider")) or node
        schedule = self._at(node.link("sigmas"))
        chosen = self._at(node.link("sampler"))
        noise = self._at(node.link("noise")) or node
        if node.kind not in SAMPLERS:
            self.notes.add(f"node {node.kind[:60]} was read as if it were a KSampler.")
        self.settings["seed"] = self._value(noise, "noise_seed", "seed")
        self.settings["cfg_scale"] = self._value(guider, "cfg")
        self.settings["sampler"] = self._value(chosen or node, "sampler_name", "sampler")
        if guider.kind == "BasicGuider":
            self.settings["cfg_scale"] = 1.0
        self._schedule(schedule or node)
        self._partial(node)
        self._size(node.link("latent_image", "latent", "samples"))
        self.settings["prompt"] = self._prompt(guider.link("positive", "conditioning"), "")
        self.settings["negative_prompt"] = self._prompt(guider.link("negative"), "negative_")
        self._model(guider.link("model") or node.link("model"))

    def _schedule(self, node: Node) -> None:
        self.settings["steps"] = self._value(node, "steps")
        self.settings["schedule"] = SCHEDULERS.get(node.kind) or self._value(node, "scheduler")
        if node.kind == "AlignYourStepsScheduler" and self._value(node, "model_type") == "SDXL":
            self.settings["schedule"] = "align_your_steps_sdxl"
        # ComfyUI scales the noise to unit input variance where it starts at the top level
        lower = self.settings["schedule"] == "ddim_uniform"
        self.settings["start"] = "sigma" if lower else "unit"
        options = {name: self._value(node, name) for name in ("rho", "sigma_min", "sigma_max")}
        given = {name: value for name, value in options.items() if value is not None}
        if given and node.kind in SCHEDULERS:
            self.settings["schedule_options"] = given

    def _partial(self, node: Node) -> None:
        schedule = self._at(node.link("sigmas")) or node
        denoise = self._value(schedule, "denoise")
        if isinstance(denoise, int | float) and denoise < 1:
            self.notes.add(f"denoise {echo(denoise)} was left out: all steps are drawn here.")
        start, end = self._value(node, "start_at_step"), self._value(node, "end_at_step")
        steps = self.settings.get("steps")
        if isinstance(start, int) and start > 0:
            self.notes.add(f"start_at_step {echo(start)} was left out.")
        if isinstance(end, int) and isinstance(steps, int) and end < steps:
            self.notes.add(f"end_at_step {echo(end)} was left out.")

    def _size(self, link: Link | None) -> None:
        name = self.graph.nearest(link, lambda node: {"width", "height"} <= node.inputs.keys())
        if name is None:
            self.notes.add("the drawing did not start from an empty latent; its size is unknown.")
            return
        node = self.graph[name]
        self.understood.add(name)
        self.settings["width"] = self._value(node, "width")
        self.settings["height"] = self._value(node, "height")
        batch = self._value(node, "batch_size")
        if isinstance(batch, int) and batch > 1:
            self.notes.add(
                f"a batch of {min(batch, 10**6)} was drawn from one seed; "
                "only its first picture can be drawn again."
            )

    # --- the prompts --------------------------------------------------------------------------

    def _prompt(self, link: Link | None, side: str) -> str:
        """The text behind a conditioning."""
        for here, node in self._along(link, self._before_conditioning):
            kind = node.kind
            if kind in ("CLIPTextEncodeSDXL", "CLIPTextEncodeSDXLRefiner"):
                return self._sdxl_prompt(node, side)
            if kind == "ConditioningZeroOut":
                self.notes.add(f"the {side}prompt was zeroed out; an empty one is read.")
                return ""
            text = self._text(node)
            if text is not None and node.link("conditioning") is None:
                if kind != "CLIPTextEncode":
                    self.notes.add(f"node {kind[:60]} was read as if it were a CLIPTextEncode.")
                self._clip(node.link("clip"))
                return text
            if kind not in PASSING:
                self.notes.add(f"node {kind[:60]} (output {here.slot}) was passed by.")
        if link is not None:
            self.notes.add(f"no text was found for the {side}prompt.")
        return ""

    def _before_conditioning(self, node: Node, link: Link) -> Link | None:
        sides = ("negative", "positive") if link.slot == 1 else ("positive", "negative")
        names = ("conditioning", "conditioning_to", "conditioning_1", *sides)
        return node.link(*names) or self._only_link(node)

    def _text(self, node: Node) -> str | None:
        text = self._value(node, "text", "prompt", "text_g")
        return text if isinstance(text, str) else None

    def _sdxl_prompt(self, node: Node, side: str) -> str:
        sizes = self.settings.setdefault("sizes", {})
        assert isinstance(sizes, dict)
        if node.kind == "CLIPTextEncodeSDXLRefiner":
            sizes[f"{side}aesthetic_score"] = self._value(node, "ascore")
        original = (self._value(node, "width"), self._value(node, "height"))
        target = (self._value(node, "target_width"), self._value(node, "target_height"))
        for name, pair in (("original", original), ("target", target)):
            if None not in pair:
                sizes[side + name] = pair
        if not side:
            sizes["crop_left"] = self._value(node, "crop_w") or 0
            sizes["crop_top"] = self._value(node, "crop_h") or 0
        self._clip(node.link("clip"))
        first, second = self._value(node, "text_g", "text"), self._value(node, "text_l", "text")
        if first != second:
            self.notes.add(f"the two texts of the {side}prompt differ; the first is read for both.")
        return first if isinstance(first, str) else ""

    # --- the files ----------------------------------------------------------------------------

    def _clip(self, link: Link | None) -> None:
        for here, node in self._along(link, lambda node, _: node.link("clip")):
            layer = self._value(node, "stop_at_clip_layer")
            if node.kind == "CLIPSetLastLayer" and isinstance(layer, int):
                self.settings["clip_skip"] = -layer
            self._lora(here, node, "text_weight", "strength_clip")

    def _lora(self, here: Link, node: Node, weight: str, strength: str) -> None:
        """A node that puts a LoRA on the model or on the text encoder: on those that it feeds."""
        name = self._value(node, "lora_name")
        if isinstance(name, str):
            # ComfyUI has its own norm for DoRA; other LoRAs have none
            fresh = {"file": name, "weight": 0.0, "text_weight": 0.0, "dora": "base"}
            group = self.loras.setdefault(here.node, fresh)
            given = self._value(node, strength, "strength")
            group[weight] = 1.0 if given is None else given

    def worn(self) -> None:
        """The LoRAs that were passed on the way, each after those that it builds on."""
        if self.loras:
            order = sorted(
                self.loras, key=lambda name: len(set(self.graph.upstream(Link(name, 0))))
            )
            self.settings["loras"] = [self.loras[name] for name in order]

    def _model(self, link: Link | None) -> None:
        last = None
        for here, node in self._along(link, lambda node, _: node.link("model")):
            self._model_change(here, node)
            last = node
        name = self._value(last, "ckpt_name", "unet_name") if last is not None else None
        if isinstance(name, str):
            self.settings["model"] = name

    def _model_change(self, here: Link, node: Node) -> None:
        """A node that changes what the model predicts."""
        guidance = self.settings.setdefault("guidance", {})
        assert isinstance(guidance, dict)
        match node.kind:
            case "RescaleCFG":
                guidance["rescale"] = self._value(node, "multiplier")
            case "FreeU":
                guidance["freeu"] = {name: self._value(node, name) for name in FREEU}
            case "PerturbedAttentionGuidance":
                guidance["pag"] = {"scale": self._value(node, "scale")}
            case "SelfAttentionGuidance":
                guidance["sag"] = {"scale": self._value(node, "scale")}
                self.notes.left_out("blur_sigma", self._value(node, "blur_sigma"))
            case "ModelSamplingDiscrete":
                sampling = str(self._value(node, "sampling"))
                self.settings["prediction"] = PREDICTIONS.get(sampling)
                self.settings["zero_terminal_snr"] = self._value(node, "zsnr")
                if PREDICTIONS.get(sampling) is None:
                    self.notes.left_out("sampling", sampling)
            case "LoraLoader" | "LoraLoaderModelOnly":
                self._lora(here, node, "weight", "strength_model")
            case "HypernetworkLoader":
                nets = self.settings.setdefault("hypernetworks", [])
                assert isinstance(nets, list)
                file, weight = (self._value(node, n) for n in ("hypernetwork_name", "strength"))
                nets.insert(0, {"file": file, "weight": 1.0 if weight is None else weight})
            case kind if kind not in LOADERS and kind not in PASSING:
                self.notes.add(f"node {kind[:60]} changes the model and was left out.")

    def decoding(self, saved: Link | None) -> None:
        """The autoencoder that made the picture."""
        name = self.graph.nearest(saved, lambda node: node.kind in DECODERS)
        if name is None:
            return
        self.understood.add(name)
        node = self.graph[name]
        if node.kind == "VAEDecodeTiled":
            self.settings["tile_vae"] = True
        for _, source in self._along(node.link("vae"), lambda node, _: self._only_link(node)):
            vae = self._value(source, "vae_name")
            if isinstance(vae, str):
                self.settings["vae"] = vae

    def name_unknown(self, saved: Link | None) -> None:
        """Note the nodes on the way to the picture that nobody asked."""
        kinds = {
            self.graph[name].kind[:60]
            for name in self.graph.upstream(saved)
            if name not in self.understood and self.graph[name].kind not in (*SAVERS, *PASSING)
        }
        if kinds:
            listed = ", ".join(repr(kind) for kind in sorted(kinds)[:20])
            self.notes.add(f"nodes that were not read: {listed}{', ...' * (len(kinds) > 20)}.")

    def name_nameless(self, saved: Link | None) -> None:
        """Note the values of nodes that were read, where nobody knows what they set."""
        for name in self.graph.upstream(saved):
            node = self.graph[name]
            if node.nameless and name in self.understood:
                values = ", ".join(echo(value) for value in node.nameless[:SHOWN])
                more = ", ..." * (len(node.nameless) > SHOWN)
                self.notes.add(
                    f"node {node.kind[:60]} has values whose names are not known here: {values}"
                    f"{more}; they were left out."
                )

    # --- steps on the way ---------------------------------------------------------------------

    def _at(self, link: Link | None) -> Node | None:
        """The node behind a link and behind any nodes that only hand it on."""
        last = None
        for _, node in self._along(link, lambda node, _: self._only_link(node)):
            last = node
            if node.kind not in PASSING:
                break
        return last

    def _along(self, link: Link | None, before: Before) -> Iterator[tuple[Link, Node]]:
        """Node after node upstream, each once; `before` chooses the way."""
        for _ in range(HOP_LIMIT):  # also the end of a circle
            if link is None or (node := self.graph.at(link)) is None:
                return
            self.understood.add(link.node)
            yield link, node
            link = before(node, link)

    def _only_link(self, node: Node) -> Link | None:
        links = list(node.links())
        return links[0] if len(links) == 1 else None

    def _value(self, node: Node, *names: str) -> Json:
        """The first of the named inputs that is there, fetched from another node if linked."""
        for name in names:
            value = node.inputs.get(name)
            if isinstance(value, Link):
                value = self._fetched(value)
            if value is not None:
                return value
        return None

    def _before_value(self, node: Node, link: Link) -> Link | None:
        return node.link(*VALUE_NAMES) or self._only_link(node)

    def _fetched(self, link: Link) -> Json:
        for _, node in self._along(link, self._before_value):
            for name in VALUE_NAMES:
                value = node.inputs.get(name)
                if value is not None and not isinstance(value, Link):
                    return value
        return None
