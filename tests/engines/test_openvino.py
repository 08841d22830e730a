"""OpenVINO computes what the modules compute, of every family, and notices when they change."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from autoencoder_tiny import SHAPE, autoencoder
from cli_tiny import tiny_model
from models_tiny import distance, random, randomised
from safelight import families
from safelight.condition import Condition
from safelight.engines import openvino as engine
from safelight.engines import openvino_runtime
from safelight.engines.openvino import CodecRunner, UNetRunner, named
from safelight.engines.openvino_graph import graph_of
from safelight.engines.openvino_ops import phases
from safelight.engines.openvino_shelf import KEPT, serves, signature_of
from safelight.errors import RequestError
from safelight.models.backbone import Backbone
from safelight.models.deltas import LowRank
from safelight.models.layers import wrapped
from safelight.models.runner import extras_asked
from safelight.models.unet import Residuals, UNet, UNetConfig
from safelight.models.unet_blocks import Told
from unet_published import tiny

pytestmark = pytest.mark.slow

FAMILIES = {
    "sd15": families.SD15.backbone,
    "sd15-inpaint": families.SD15_INPAINT.backbone,
    "lcm": families.LCM_SD15.backbone,
    "small-sd": families.SMALL_SD.backbone,
    "sd21": families.SD2_BASE.backbone,
    "sd21-unclip": families.SD21_UNCLIP_L.backbone,
    "sdxl": families.SDXL.backbone,
    "x4-upscaler": families.X4_UPSCALER.backbone,
}


SMALL = UNetConfig(
    channels=(8, 16),
    depths=((1,), (1,)),
    heads=(2, 2),
    context_width=12,
    groups=4,
)
KINDS = {
    "plain": SMALL,
    "inpainting": replace(SMALL, in_channels=9),
    "linear projections": replace(SMALL, linear_projection=True),
    "no middle": replace(SMALL, mid_depth=None, depths=((0,), (1,))),
    "vector": replace(SMALL, vector_width=10),
    "class vector": replace(SMALL, vector_width=10, vector_module="class_embedding"),
    "noise levels": replace(SMALL, noise_levels=400, cross_only_levels=(0,)),
    "distilled guidance": replace(SMALL, guidance_width=6),
}

QUICK = ("inpainting", "vector", "noise levels")


def unet_of(config: UNetConfig, seed: int = 0) -> UNet:
    unet = UNet(config)
    randomised(unet, seed)
    return unet.requires_grad_(False)


def call_of(
    config: UNetConfig, size: tuple[int, int] = (16, 16), batch: int = 2
) -> dict[str, object]:
    """Arguments of a call: fractions of a time, and all that this network is told."""
    return {
        "x": random(batch, config.in_channels, *size, seed=1),
        "time": torch.tensor([999.0, 400.25])[:batch],
        "context": random(batch, 7, config.context_width, seed=2),
        "vector": None
        if config.vector_width is None
        else random(batch, config.vector_width, seed=3),
        "level": None if config.noise_levels is None else torch.tensor([20, 350])[:batch],
        "guidance_scale": None
        if config.guidance_width is None
        else torch.tensor([7.5, 2.0])[:batch],
    }


@pytest.mark.parametrize(
    "kind",
    [pytest.param(k, marks=() if k in QUICK else (pytest.mark.slow,)) for k in KINDS],
)
@torch.no_grad()
def test_every_kind_of_unet_is_what_its_modules_compute(kind: str) -> None:
    unet = unet_of(KINDS[kind])
    call = call_of(KINDS[kind], (6, 8))
    assert distance(UNetRunner(unet)(**call), unet(**call)) < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
@torch.no_grad()
def test_a_unet_of_every_family_is_what_its_modules_compute(name: str) -> None:
    config = tiny(FAMILIES[name])
    unet = unet_of(config)
    call = call_of(config)
    assert distance(UNetRunner(unet)(**call), unet(**call)) < 1e-4


@pytest.mark.parametrize("size", [(9, 14), (24, 8)])
@torch.no_grad()
def test_sizes_that_do_not_halve_evenly_are_enlarged_as_by_the_modules(
    size: tuple[int, int],
) -> None:
    config = SMALL
    unet = unet_of(config)
    call = call_of(config, size, batch=1)
    assert distance(UNetRunner(unet)(**call), unet(**call)) < 1e-4


@torch.no_grad()
def test_bfloat16_loses_no_more_than_pytorchs_does() -> None:
    config = SMALL
    unet = unet_of(config)
    exact = unet(**call_of(config))
    narrow = unet_of(config).bfloat16()
    call = call_of(config)
    cast = {k: v.bfloat16() if k in ("x", "context") else v for k, v in call.items()}  # type: ignore[union-attr]
    theirs = (narrow(**cast).float() - exact).std()
    runner = UNetRunner(narrow)
    if runner.precision != "bf16":
        pytest.skip("this processor does not multiply bfloat16")
    ours = runner(**cast)
    assert ours.dtype == torch.float32
    assert 0 < (ours - exact).std() < 1.5 * theirs


@torch.no_grad()
def test_the_phase_of_late_times_is_not_rounded_to_bfloat16() -> None:
    config = SMALL
    narrow = unet_of(config).bfloat16()
    runner = UNetRunner(narrow)
    call = call_of(config) | {"x": random(2, 4, 16, 16).bfloat16()}
    call["context"] = call["context"].bfloat16()  # type: ignore[union-attr]
    at, near = (runner(**call | {"time": torch.full((2,), t)}) for t in (997.0, 998.0))
    expected = (
        narrow(**call | {"time": torch.full((2,), 997.0)}).float()
        - narrow(**call | {"time": torch.full((2,), 998.0)}).float()
    )
    # rounded to bfloat16 both times are 996 or 1000, and the difference would be none
    assert torch.corrcoef(torch.stack([(at - near).flatten(), expected.flatten()]))[0, 1] > 0.5


def residuals_of(unet: UNet, call: dict[str, object], *, inner: bool) -> Residuals:
    """Residuals of the shapes of a network's own skips and levels."""
    told = Told(F.silu(unet.embedding(call["x"], call["time"])), call["context"])  # type: ignore[arg-type]
    x = unet.conv_in(call["x"])  # type: ignore[arg-type]
    skips, levels = [x], []
    for block in unet.down_blocks:
        x, made = block(x, told)
        skips += made
        levels.append(made[len(block.resnets) - 1])  # type: ignore[arg-type]
    levels.append(x)
    return Residuals(
        tuple(random(*skip.shape, seed=i) for i, skip in enumerate(skips)),
        random(*x.shape, seed=50),
        tuple(random(*one.shape, seed=60 + i) for i, one in enumerate(levels)) if inner else (),
    )


@pytest.mark.slow
@pytest.mark.parametrize("inner", [False, True])
@torch.no_grad()
def test_what_control_networks_add_is_added(inner: bool) -> None:
    config = SMALL
    unet = unet_of(config)
    call = call_of(config)
    added = residuals_of(unet, call, inner=inner)
    runner = UNetRunner(unet)
    assert set(extras_asked({"residuals": added})) <= runner.extras
    expected = unet(**call, residuals=added)
    assert distance(expected, unet(**call)) > 0.1
    assert distance(runner(**call, residuals=added), expected) < 1e-4


@torch.no_grad()
def test_a_graph_that_takes_residuals_serves_calls_without(monkeypatch: pytest.MonkeyPatch) -> None:
    config = SMALL
    unet = unet_of(config)
    call = call_of(config)
    made = counted(monkeypatch)
    runner = UNetRunner(unet)
    runner(**call, residuals=residuals_of(unet, call, inner=False))
    assert distance(runner(**call), unet(**call)) < 1e-4
    assert len(made) == 1


def counted(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Every graph that is made from now on."""
    made: list[object] = []
    own = engine.compiled

    def compiled(graph: object, precision: object) -> object:
        made.append(graph)
        return own(graph, precision)  # type: ignore[arg-type]

    monkeypatch.setattr(engine, "compiled", compiled)
    return made


@pytest.mark.slow
@torch.no_grad()
def test_a_graph_is_made_once_for_each_size_and_few_are_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = SMALL
    runner = UNetRunner(unet_of(config))
    made = counted(monkeypatch)
    sizes = [(8, 8 * (1 + i)) for i in range(KEPT + 1)]
    for _ in range(3):
        runner(**call_of(config, sizes[0]))
    assert len(made) == 1
    for size in sizes[1:]:
        runner(**call_of(config, size))
    runner(**call_of(config, sizes[-1]))
    assert len(made) == KEPT + 1
    runner(**call_of(config, sizes[0]))
    assert len(made) == KEPT + 2


@torch.no_grad()
def test_changed_weights_are_noticed_and_changed_back_too() -> None:
    config = SMALL
    unet = unet_of(config)
    call = call_of(config)
    runner = UNetRunner(unet)
    plain = runner(**call)
    layer = unet.down_blocks[0].attentions[0].transformer_blocks[0].attn1.to_q  # type: ignore[index, union-attr]
    own = layer.weight
    layer.weight = nn.Parameter(3 * own, requires_grad=False)
    assert distance(runner(**call), unet(**call)) < 1e-4 < distance(runner(**call), plain)
    layer.weight = own
    assert distance(runner(**call), plain) < 1e-6
    own.mul_(2)
    assert distance(runner(**call), unet(**call)) < 1e-4 < distance(runner(**call), plain)


@torch.no_grad()
def test_loras_in_slots_are_part_of_the_graph() -> None:
    config = SMALL
    unet = unet_of(config)
    call = call_of(config)
    runner = UNetRunner(unet)
    plain = runner(**call)
    conv = unet.down_blocks[0].resnets[0].conv1  # type: ignore[index, union-attr]
    attention = unet.mid_block.attentions[0].transformer_blocks[0].attn2.to_k  # type: ignore[index, union-attr]
    for layer in (conv, attention):
        out, into = layer.weight.shape[0], layer.weight[0].numel()
        kernel = layer.weight.shape[2:]
        down = random(2, into, seed=5).reshape(2, -1, *kernel)
        layer.deltas["adapter0"] = LowRank(random(out, 2, *[1 for _ in kernel]), down, None, 0.1)
    expected = unet(**call)
    assert distance(expected, plain) > 0.01
    assert distance(runner(**call), expected) < 1e-4
    for layer in (conv, attention):
        del layer.deltas["adapter0"]
    assert distance(runner(**call), plain) < 1e-6


@pytest.mark.slow
@torch.no_grad()
def test_pictures_that_continue_at_their_other_side_do_so_here() -> None:
    config = SMALL
    unet = unet_of(config)
    call = call_of(config)
    runner = UNetRunner(unet)
    plain = runner(**call)
    with wrapped(unet, x=True):
        assert distance(runner(**call), unet(**call)) < 1e-4 < distance(unet(**call), plain)
    assert distance(runner(**call), plain) < 1e-6


def test_a_call_that_needs_a_gradient_is_refused_by_name() -> None:
    config = SMALL
    call = call_of(config)
    call["x"].requires_grad_(True)  # type: ignore[union-attr]
    with pytest.raises(RequestError, match=r"openvino gives no gradients.*--engine eager"):
        UNetRunner(unet_of(config))(**call)


@torch.no_grad()
def test_a_backbone_asks_it_and_refuses_what_it_cannot() -> None:
    config = SMALL
    unet = unet_of(config)
    backbone = Backbone(unet)
    by_engine = replace(backbone, runner=UNetRunner(unet))
    x, time = random(2, 4, 16, 16), torch.tensor([300.0, 300.0])
    condition = Condition(random(1, 7, SMALL.context_width))
    assert distance(by_engine(x, time, condition), backbone(x, time, condition)) < 1e-4
    told = replace(
        condition, intervention=replace(condition.intervention, freeu=(1.1, 1.2, 0.9, 0.2))
    )
    with pytest.raises(RequestError, match="engine openvino cannot do FreeU"):
        by_engine(x, time, told)


def test_an_operator_without_a_translation_is_said_by_name() -> None:
    class Odd(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.erfinv(x)

    with pytest.raises(RequestError, match=r"the operator erfinv.*--engine eager"):
        graph_of(Odd(), {"x": torch.zeros(1, 2, 3, 3)})


def test_a_kernel_after_a_doubling_is_one_of_a_transposed_convolution() -> None:
    weight, x = random(3, 2, 3, 3), random(1, 2, 5, 4, seed=2)
    doubled = F.interpolate(x, scale_factor=2, mode="nearest")
    expected = F.conv2d(doubled, weight, padding=1)
    made = F.conv_transpose2d(x, phases(weight), stride=2, padding=1)
    assert distance(made, expected) < 1e-5


@torch.no_grad()
def test_an_autoencoder_decodes_and_encodes_as_its_modules_do() -> None:
    coder = autoencoder()
    runner = CodecRunner(coder)
    latents = random(2, SHAPE.latent_channels, 5, 6)
    assert distance(runner.decode(latents), coder.decode(latents)) < 1e-4
    images = random(1, 3, 4 * SHAPE.factor, 3 * SHAPE.factor)
    assert distance(runner.moments(images), coder.moments(images)) < 1e-4


@torch.no_grad()
def test_a_whole_model_is_the_same_value_with_other_runners() -> None:
    model = tiny_model()
    by_engine = engine.applied(model)
    assert by_engine.engine == "openvino"
    assert by_engine.network.unet is model.network.unet
    latents = random(1, 4, 8, 8)
    assert distance(by_engine.codec.decode(latents), model.codec.decode(latents)) < 1e-4


def test_without_openvino_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openvino_runtime, "installed", lambda: False)
    assert "safelight[openvino]" in (openvino_runtime.missing() or "")
    with pytest.raises(RequestError, match=r"pip install 'safelight\[openvino\]'"):
        engine.applied(tiny_model())


def test_arithmetic_that_the_processor_lacks_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openvino_runtime, "capabilities", lambda: frozenset({"FP32"}))
    assert "INT8" in (openvino_runtime.missing("INT8") or "")
    assert openvino_runtime.missing() is None
    assert openvino_runtime.precision_of(torch.bfloat16) == "f32"


def test_openvino_is_imported_without_what_reports_its_use(tmp_path: Path) -> None:
    program = (
        "import sys\n"
        "from safelight.engines.openvino_import import openvino\n"
        "assert openvino().Core().available_devices\n"
        "assert 'openvino_telemetry' not in sys.modules\n"
    )
    home = {"HOME": str(tmp_path), "LOCALAPPDATA": str(tmp_path)}
    subprocess.run([sys.executable, "-c", program], env=os.environ | home, check=True)
    assert not list(tmp_path.iterdir())


def test_only_what_is_added_may_be_left_out_of_a_graphs_inputs() -> None:
    config = SMALL
    call = call_of(config)
    plain = signature_of(named(**_of(call), told={}))
    residuals = Residuals((random(1, 2),), None)
    more = signature_of(named(**_of(call), told={"residuals": residuals}))
    assert serves(more, plain) and not serves(plain, more)
    assert not serves(plain, plain[1:])


def _of(call: dict[str, object]) -> dict[str, Tensor]:
    return {name: call[name] for name in ("x", "time", "context", "vector")}  # type: ignore[misc]
