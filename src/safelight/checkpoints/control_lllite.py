"""ControlNet-LLLite in its file: names of layers without dots, told apart by the U-Net's own."""

from collections.abc import Iterable
from functools import lru_cache

from safelight.checkpoints.keymap import KeyMap
from safelight.checkpoints.measure_unet import Shapes
from safelight.checkpoints.parts import listed, shapes_of
from safelight.checkpoints.rows_unet import unet_rows
from safelight.errors import CheckpointError
from safelight.models.lllite import LLLiteConfig, LLLiteModuleConfig
from safelight.models.unet import UNetConfig
from safelight.printable import shown

PREFIX = "lllite_unet_"
_LAYERS = (".to_q", ".to_k", ".to_v")


def measured_lllite(shapes: Shapes, unet: UNetConfig) -> LLLiteConfig:
    """The config that fits these tensors and this U-Net.

    Raises CheckpointError for modules of layers that the U-Net does not have or that are none of
    attention's projections, and for shapes that make no module.
    """
    layers = _layers_by_name(unet)
    names = sorted({name.partition(".")[0] for name in shapes if name.startswith(PREFIX)})
    lost = [shown(name) for name in names if name not in layers]
    if lost or not names:
        raise CheckpointError(
            f"{len(lost)} of the {len(names)} modules of this ControlNet-LLLite are for layers "
            f"that the model's attention does not have: {listed(lost) or 'it has none'}"
        )
    modules = tuple(_module(shapes, name, layers[name]) for name in names)
    widths = shapes_of(unet)
    for module in modules:
        there = widths[f"{module.layer}.weight"][1]
        if module.width != there:
            raise CheckpointError(
                f"{shown(module.name)} of this ControlNet-LLLite is for a layer {module.width} "
                f"wide, but the model's is {there}"
            )
    return LLLiteConfig(unet, modules)


def _module(shapes: Shapes, name: str, layer: str) -> LLLiteModuleConfig:
    first = _shape(shapes, f"{name}.conditioning1.0.weight", 4)
    second = _shape(shapes, f"{name}.conditioning1.2.weight", 4)
    down = _shape(shapes, f"{name}.down.0.weight", 2)
    third = f"{name}.conditioning1.4.weight" in shapes
    depth = 3 if third else (2 if second[-1] == 4 else 1)
    return LLLiteModuleConfig(
        name,
        layer,
        width=down[1],
        picture_width=2 * first[0],
        inner_width=down[0],
        depth=depth,
    )


def _shape(shapes: Shapes, name: str, dims: int) -> tuple[int, ...]:
    shape = shapes.get(name, ())
    if len(shape) != dims:
        raise CheckpointError(
            f"{shown(name)} is {list(shape) or 'missing'}; expected {dims} dimensions"
        )
    return shape


@lru_cache(maxsize=8)
def _layers_by_name(unet: UNetConfig) -> dict[str, str]:
    """Our names of attention's projections by the files': original names with underscores."""
    keymap = KeyMap(unet_rows(unet))
    ours = [n.removesuffix(".weight") for n in _weights(shapes_of(unet))]
    theirs = [link.theirs for link in keymap.links(ours)]
    return {PREFIX + there.replace(".", "_"): own for there, own in zip(theirs, ours, strict=True)}


def _weights(names: Iterable[str]) -> list[str]:
    # The text enters attn2's keys and values, where there is no picture to add.
    return [
        name
        for name in names
        if name.removesuffix(".weight").endswith(_LAYERS)
        and not name.endswith((".attn2.to_k.weight", ".attn2.to_v.weight"))
    ]
