"""What a weights file is, by the names and shapes of its tensors: model, LoRA, ControlNet, ..."""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from safelight.checkpoints.keymap import Shape
from safelight.checkpoints.measure_unet import Shapes

Kind = Literal[
    "model",
    "unet",
    "vae",
    "taesd",
    "text encoder",
    "vision encoder",
    "lora",
    "controlnet",
    "controlnet lllite",
    "t2i adapter",
    "ip adapter",
    "textual inversion",
    "hypernetwork",
    "upscaler",
    "motion module",
    "other model",
    "unknown",
]

UNET = "model.diffusion_model."


@dataclass(frozen=True, slots=True)
class Finding:
    """A kind, and the evidence for it in words."""

    kind: Kind
    evidence: str


def kind_of(shapes: Shapes) -> Finding:
    """What a file with these tensors is; "unknown" names a few of its tensors."""
    for kind, test in _TESTS:
        if evidence := test(shapes):
            return Finding(kind, evidence)
    few = ", ".join(sorted(shapes)[:3]) or "no tensor"
    return Finding("unknown", f"none of the known names; it holds {few}")


# What other programs draw with, by a name that only these have.
_OTHERS = {
    "Stable Diffusion 3": r"joint_blocks\.0\.",
    "Flux": r"double_blocks\.0\.(img_attn|img_mod)",
    "Stable Cascade": r"(down_blocks\.0\.0\.channelwise|clip_txt_mapper)",
    "PixArt or Hunyuan-DiT": r"(cap_embedder\.y_embedding|blocks\.0\.cross_attn\.|mlp_t5)",
    "a transformer with Diffusers' names": r"^(\w+\.)*?transformer_blocks\.0\.attn\.to_q\.",
    "Stable Video Diffusion": r"input_blocks\.1\.1\.time_stack\.",
    "a video model": r"(time_mixer|temporal_transformer_blocks)",
    "DeepFloyd or Kandinsky": r"(encoder_hid_proj|add_embedding\.(text_proj|image_proj))",
}

_LORA = re.compile(
    r"(\.lora_(down|up|mid|A|B)\.|\.lora\.(down|up)\.|_lora\.(down|up)\.|\.hada_w[12]_|\.hada_t[12]$"
    r"|\.lokr_w[12]|\.lokr_t2$|\.dora_scale$|\.oft_(blocks|diag)$|\.lora_magnitude_vector"
    r"|^(lora|lycoris|oft)_(unet|te\d?)_|\.on_input$|\.ia3_l$|\.b?oft_R(\.weight)?$)"
)


def _some(names: Iterable[str], pattern: str | re.Pattern[str]) -> str:
    """The first name that matches, or an empty text."""
    compiled = re.compile(pattern)
    return next((name for name in names if compiled.search(name)), "")


def _model(shapes: Shapes) -> str:
    if f"{UNET}input_blocks.0.0.weight" in shapes:
        return f"it holds a U-Net under {UNET}"
    return ""


def _lora(shapes: Shapes) -> str:
    name = _some(shapes, _LORA)
    return f"it holds low-rank changes ({name})" if name else ""


def _controlnet(shapes: Shapes) -> str:
    name = _some(
        shapes,
        r"^(control_model\.|zero_convs\.|input_hint_block\.|controlnet_(cond_embedding|down_blocks"
        r"|mid_block)\.|lora_controlnet$)",
    )
    return f"it holds a control branch ({name})" if name else ""


def _lllite(shapes: Shapes) -> str:
    name = _some(shapes, r"^lllite_unet_")
    return f"it holds ControlNet-LLLite modules ({name})" if name else ""


def _t2i_adapter(shapes: Shapes) -> str:
    name = _some(shapes, r"^(adapter\.)?(body\.\d+\.((resnets|body)\.\d+\.)?block[12]\.)")
    return f"it holds an adapter's feature ladder ({name})" if name else ""


def _ip_adapter(shapes: Shapes) -> str:
    name = _some(shapes, r"^(image_proj|ip_adapter)\.")
    return f"it holds an image-prompt projection ({name})" if name else ""


def _motion(shapes: Shapes) -> str:
    name = _some(shapes, r"motion_modules\.\d+\.temporal_transformer")
    return f"it holds motion modules ({name})" if name else ""


def _other(shapes: Shapes) -> str:
    for what, pattern in _OTHERS.items():
        if name := _some(shapes, pattern):
            return f"it holds {what} ({name})"
    return ""


def _unet(shapes: Shapes) -> str:
    if "input_blocks.0.0.weight" in shapes and "time_embed.0.weight" in shapes:
        return "it holds a U-Net in the original layout, without a prefix, and nothing else"
    if "conv_in.weight" in shapes and _some(shapes, r"^down_blocks\.0\.resnets\.0\.time_emb_proj"):
        return "it holds a U-Net with Diffusers' names, and nothing else"
    return ""


def _vae(shapes: Shapes) -> str:
    for root in ("", "first_stage_model.", "vae."):
        inner = {
            "encoder.down.0.block.0.conv1.weight": "in the original layout",
            "encoder.down_blocks.0.resnets.0.conv1.weight": "with Diffusers' names",
        }
        for name, layout in inner.items():
            if root + name in shapes and f"{root}decoder.conv_in.weight" in shapes:
                return f"it holds an autoencoder {layout}, and no U-Net"
    return ""


def _taesd(shapes: Shapes) -> str:
    name = _some(shapes, r"^(taesd_)?(encoder|decoder)\.(layers\.)?[13]\.(conv\.0\.)?weight$")
    if name:
        return f"it holds a tiny autoencoder ({name})"
    # The two published files have no prefix: an encoder starts at 0, a decoder at 1.
    first = shapes.get("0.weight", shapes.get("1.weight", ()))
    if len(first) == 4 and _some(shapes, r"^[13]\.conv\.0\.weight$"):
        return "it holds one half of a tiny autoencoder (numbered layers of one width)"
    return ""


def _text_encoder(shapes: Shapes) -> str:
    name = _some(shapes, r"(^|\.)(text_model\.)?(embeddings\.)?token_embedding\.weight$")
    return f"it holds a CLIP text encoder ({name}) and no U-Net" if name else ""


def _vision_encoder(shapes: Shapes) -> str:
    name = _some(shapes, r"(^|\.)(vision_model\.embeddings|visual\.conv1\.weight)")
    return f"it holds a CLIP vision encoder ({name})" if name else ""


def _textual_inversion(shapes: Shapes) -> str:
    rows: dict[str, Shape] = {n: s for n, s in shapes.items() if len(s) in (1, 2)}
    if len(shapes) > 4 or len(rows) != len(shapes) or not rows:
        return ""
    widths = {shape[-1] for shape in rows.values()}
    if "emb_params" in rows or _some(rows, r"^string_to_param\.") or widths <= {768, 1024, 1280}:
        lists = "a short list" if len(rows) == 1 else f"{len(rows)} short lists"
        return f"it holds {lists} of token vectors, {sorted(widths)} wide"
    return ""


def _hypernetwork(shapes: Shapes) -> str:
    name = _some(shapes, r"^(320|640|768|1024|1280)\.[01]\.linear")
    return f"it holds a hypernetwork ({name})" if name else ""


def _upscaler(shapes: Shapes) -> str:
    name = _some(
        shapes,
        r"^(params(_ema)?\.)?(model\.0\.weight$|model\.1\.sub\.\d|conv_first\.weight$"
        r"|body\.\d+\.rdb1\.|RRDB_trunk\.|body\.0\.weight$)",
    )
    return f"it holds a picture upscaler ({name})" if name else ""


_CONTEXTS = {768: "SD 1.x", 1024: "SD 2.x", 1280: "the SDXL refiner", 2048: "SDXL"}


_TO_K = re.compile(
    r"attn2[._](processor\.)?to_k(_lora)?\.(weight|lora_down|lora_A|lora\.down|down)"
    r"|^ip_adapter\.\d+\.to_k_ip\.weight$"
)


def made_for(shapes: Shapes) -> str:
    """The models that a file of changes fits, by the width of the text it reads; may be empty."""
    for name, shape in shapes.items():
        reads = _TO_K.search(name)
        if reads and len(shape) in (2, 4):
            width = shape[1]
            return f"for {_CONTEXTS.get(width, 'a model of its own')} (context width {width})"
    widths = {shape[-1] for shape in shapes.values() if len(shape) in (1, 2)}
    if _textual_inversion(shapes) and widths <= _CONTEXTS.keys():
        if widths == {768, 1280}:
            return "for SDXL (token widths 768 and 1280)"
        width = min(widths)
        return f"for {_CONTEXTS[width]} (token width {width})" if len(widths) == 1 else ""
    return ""


# The order matters: a LoRA's names may contain a U-Net's, and an adapter may carry a copy of one.
_TESTS: tuple[tuple[Kind, Callable[[Shapes], str]], ...] = (
    ("lora", lambda shapes: "" if _model(shapes) else _lora(shapes)),
    ("controlnet", _controlnet),
    ("controlnet lllite", _lllite),
    ("ip adapter", _ip_adapter),
    ("t2i adapter", _t2i_adapter),
    ("other model", _other),
    ("motion module", _motion),
    ("model", _model),
    ("unet", _unet),
    ("vae", _vae),
    ("taesd", _taesd),
    ("hypernetwork", _hypernetwork),
    ("text encoder", _text_encoder),
    ("vision encoder", _vision_encoder),
    ("upscaler", _upscaler),
    ("textual inversion", _textual_inversion),  # any few vectors: last, lest it take all
)
