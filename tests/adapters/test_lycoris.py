"""Every kind of LyCORIS on single layers: with its module, a layer says what it says here."""

import logging
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from adapters_tiny import IN, OUT, RANK, WEIGHTS, convolution, filled, linear, seen_by, with_delta
from models_tiny import distance, random
from safelight.adapters.deltas import (
    Butterfly,
    Decomposed,
    Delta,
    Difference,
    Generalised,
    Hadamard,
    Kronecker,
    LowRank,
    NormDifference,
    Orthogonal,
    Scaled,
)
from safelight.models.layers import GroupNorm, LayerNorm

pytest.importorskip("lycoris")
from lycoris.modules.boft import ButterflyOFTModule
from lycoris.modules.diag_oft import DiagOFTModule
from lycoris.modules.full import FullModule
from lycoris.modules.glora import GLoRAModule
from lycoris.modules.ia3 import IA3Module
from lycoris.modules.locon import LoConModule
from lycoris.modules.loha import LohaModule
from lycoris.modules.lokr import LokrModule
from lycoris.modules.norms import NormModule

NEAR = 1e-4
LAYERS = [linear, convolution, lambda: convolution(1, 1)]
each_layer = pytest.mark.parametrize("layer", LAYERS, ids=["linear", "3x3", "1x1"])
each_weight = pytest.mark.parametrize("weight", WEIGHTS)
Named = dict[str, Tensor]


def twin(layer: nn.Module) -> nn.Module:
    """The same layer of torch's own class, which LyCORIS knows."""
    made: nn.Module
    if isinstance(layer, nn.Conv2d):
        made = nn.Conv2d(IN, OUT, layer.kernel_size, layer.stride, layer.padding)
    elif isinstance(layer, nn.GroupNorm):
        made = nn.GroupNorm(layer.num_groups, layer.num_channels, layer.eps)
    elif isinstance(layer, nn.LayerNorm):
        made = nn.LayerNorm(layer.normalized_shape, layer.eps)
    else:
        made = nn.Linear(IN, OUT)
    made.load_state_dict(layer.state_dict())
    return made.eval()


def randomised(module: nn.Module, deviation: float = 0.3) -> Named:
    """The module's own tensors, drawn anew; magnitudes and factors lie around 1."""
    rng = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            around = 1.0 if name in ("dora_scale", "rescale") else 0.0
            parameter.copy_(around + deviation * torch.randn(parameter.shape, generator=rng))
    return {k: v.detach().clone() for k, v in module.state_dict().items()}


def theirs(module: nn.Module, layer: nn.Module, x: Tensor, weight: float) -> Tensor:
    module.multiplier = weight
    module.eval().apply_to()  # type: ignore[operator]
    with torch.no_grad():
        y: Tensor = layer(x)
    return y


def agree(
    layer: nn.Module,
    make: Callable[[nn.Module], nn.Module],
    ours: Callable[[Named, nn.Module], Delta],
    weight: float = 1.0,
    *,
    kept: nn.Module | None = None,
) -> None:
    """Our delta of their tensors changes a layer as their module does."""
    other, x = twin(layer), seen_by(layer)
    plain = layer(x)
    module = make(other)
    named = randomised(module)
    delta = ours(named, module)
    mine = with_delta(layer, x, delta, weight)
    reference = theirs(module, other, x, weight)
    assert distance(mine, reference) <= NEAR
    assert distance(mine, plain) > 0.02
    assert torch.equal(layer(x), plain)


# -- additive kinds --------------------------------------------------------------------------------


@each_weight
@each_layer
@pytest.mark.parametrize("tucker", [False, True])
def test_locon(layer: Callable[[], nn.Module], weight: float, tucker: bool) -> None:
    def ours(t: Named, module: nn.Module) -> Delta:
        mid = t.get("lora_mid.weight")
        return LowRank(t["lora_up.weight"], t["lora_down.weight"], mid, 2.0 / RANK)

    def make(other: nn.Module) -> nn.Module:
        return LoConModule("x", other, lora_dim=RANK, alpha=2.0, use_tucker=tucker)

    agree(layer(), make, ours, weight)


@each_weight
@each_layer
@pytest.mark.parametrize("tucker", [False, True])
def test_loha(layer: Callable[[], nn.Module], weight: float, tucker: bool) -> None:
    def ours(t: Named, module: nn.Module) -> Delta:
        halves = (t[f"hada_{n}"] for n in ("w1_a", "w1_b", "w2_a", "w2_b"))
        return Hadamard(*halves, t1=t.get("hada_t1"), t2=t.get("hada_t2"), scale=6.0 / RANK)

    def make(other: nn.Module) -> nn.Module:
        return LohaModule("x", other, lora_dim=RANK, alpha=6.0, use_tucker=tucker)

    agree(layer(), make, ours, weight)


@each_weight
@each_layer
@pytest.mark.parametrize(
    "settings",
    [{}, {"full_matrix": True}, {"decompose_both": True}, {"use_tucker": True}],
    ids=["one", "whole", "both", "tucker"],
)
def test_lokr(layer: Callable[[], nn.Module], weight: float, settings: dict[str, bool]) -> None:
    def ours(t: Named, module: nn.Module) -> Delta:
        tensors = {n.removeprefix("lokr_"): v for n, v in t.items() if n.startswith("lokr_")}
        return Kronecker(**tensors, scale=module.scale)  # type: ignore[arg-type]

    def make(other: nn.Module) -> nn.Module:
        # A factor of one leaves both products room for their rank.
        factor = 2 if settings.get("decompose_both") else -1
        return LokrModule("x", other, lora_dim=1, alpha=3.0, factor=factor, **settings)

    agree(layer(), make, ours, weight)


@each_weight
@each_layer
def test_full(layer: Callable[[], nn.Module], weight: float) -> None:
    mine, x = layer(), seen_by(layer())
    other = twin(mine)
    module = FullModule("x", other)
    diff, bias = 0.3 * random(*mine.weight.shape), random(OUT, seed=3)  # type: ignore[arg-type]
    module.weight.data, module.bias.data = diff.clone(), bias.clone()
    reference = theirs(module, other, x, weight)
    assert distance(with_delta(mine, x, Difference(diff, bias), weight), reference) <= NEAR


@each_weight
def test_norms(weight: float) -> None:
    cases = (
        (filled(GroupNorm(4, IN, 1e-5)), random(2, IN, 5, 5)),
        (filled(LayerNorm(IN)), random(2, 5, IN)),
    )
    for layer, x in cases:
        other = twin(layer)
        module = NormModule("x", other)
        t = randomised(module)
        mine = with_delta(layer, x, NormDifference(t["w_norm"], t["b_norm"]), weight)
        assert distance(mine, theirs(module, other, x, weight)) <= NEAR
        assert distance(mine, layer(x)) > 0.05


# -- kinds that ask for the weight -----------------------------------------------------------------


@each_layer
@pytest.mark.parametrize("on_out", [True, False], ids=["output", "input"])
@pytest.mark.parametrize("module_class", [LoConModule, LohaModule, LokrModule])
def test_dora(layer: Callable[[], nn.Module], on_out: bool, module_class: type[nn.Module]) -> None:
    def inner(t: Named, scale: float) -> Delta:
        if module_class is LoConModule:
            return LowRank(t["lora_up.weight"], t["lora_down.weight"], scale=scale)
        if module_class is LohaModule:
            halves = (t[f"hada_{n}"] for n in ("w1_a", "w1_b", "w2_a", "w2_b"))
            return Hadamard(*halves, scale=scale)
        tensors = {n.removeprefix("lokr_"): v for n, v in t.items() if n.startswith("lokr_")}
        return Kronecker(**tensors, scale=scale)  # type: ignore[arg-type]

    def ours(t: Named, module: nn.Module) -> Delta:
        over = "output" if on_out else "input"
        assert t["dora_scale"].shape[0 if on_out else 1] == (OUT if on_out else IN)
        return Decomposed(
            inner(t, float(module.scale)),  # type: ignore[arg-type]
            t["dora_scale"],
            over=over,
        )

    def make(other: nn.Module) -> nn.Module:
        return module_class(
            "x", other, lora_dim=2, alpha=1.0, weight_decompose=True, wd_on_out=on_out
        )

    agree(layer(), make, ours)


@each_weight
@each_layer
@pytest.mark.parametrize("on_input", [True, False])
def test_ia3(layer: Callable[[], nn.Module], weight: float, on_input: bool) -> None:
    def ours(t: Named, module: nn.Module) -> Delta:
        return Scaled(t["weight"], on="input" if on_input else "output")

    def make(other: nn.Module) -> nn.Module:
        return IA3Module("x", other, train_on_input=on_input)

    agree(layer(), make, ours, weight)


@each_weight
@each_layer
def test_glora(layer: Callable[[], nn.Module], weight: float) -> None:
    def ours(t: Named, module: nn.Module) -> Delta:
        names = ("a1.weight", "a2.weight", "b1.weight", "b2.weight")
        return Generalised(*(t[n] for n in names), scale=3.0 / RANK)

    def make(other: nn.Module) -> nn.Module:
        return GLoRAModule("x", other, lora_dim=RANK, alpha=3.0)

    agree(layer(), make, ours, weight)


@each_weight
@each_layer
@pytest.mark.parametrize("constraint", [0.0, 0.05])
def test_oft(layer: Callable[[], nn.Module], weight: float, constraint: float) -> None:
    def ours(t: Named, module: nn.Module) -> Delta:
        return Orthogonal(t["oft_blocks"], constraint=float(t["alpha"]) * OUT)

    def make(other: nn.Module) -> nn.Module:
        return DiagOFTModule("x", other, lora_dim=4, constraint=constraint)

    agree(layer(), make, ours, weight)


@each_weight
@each_layer
@pytest.mark.parametrize("constraint", [0.0, 0.05])
def test_boft(layer: Callable[[], nn.Module], weight: float, constraint: float) -> None:
    def ours(t: Named, module: nn.Module) -> Delta:
        assert t["oft_blocks"].shape[0] > 2
        return Butterfly(t["oft_blocks"], constraint=float(t["alpha"]) * OUT)

    def make(other: nn.Module) -> nn.Module:
        return ButterflyOFTModule("x", other, lora_dim=4, constraint=constraint)

    agree(layer(), make, ours, weight)


@each_layer
@pytest.mark.parametrize("module_class", [DiagOFTModule, ButterflyOFTModule])
def test_rotations_that_rescale(
    layer: Callable[[], nn.Module], module_class: type[nn.Module]
) -> None:
    def ours(t: Named, module: nn.Module) -> Delta:
        kind = Orthogonal if module_class is DiagOFTModule else Butterfly
        return kind(t["oft_blocks"], rescale=t["rescale"])

    def make(other: nn.Module) -> nn.Module:
        return module_class("x", other, lora_dim=4, rescaled=True)

    agree(layer(), make, ours)


logging.getLogger("LyCORIS").setLevel(logging.ERROR)
