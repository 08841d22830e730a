"""Adapters of PEFT on Diffusers' U-Nets and Transformers' CLIP: ours say what theirs say."""

import copy
from collections.abc import Callable, Sequence
from functools import cache

import peft
import pytest
import torch
from peft.tuners.boft import layer as boft_layer
from peft.tuners.boft.layer import BOFTLayer
from peft.tuners.ia3.layer import IA3Layer
from peft.tuners.loha.layer import LoHaLayer
from peft.tuners.lokr.layer import LoKrLayer
from peft.tuners.lora.layer import LoraLayer
from peft.tuners.oft.layer import OFTLayer
from torch import Tensor, nn
from transformers.models.clip.configuration_clip import CLIPTextConfig
from transformers.models.clip.modeling_clip import CLIPTextModelWithProjection

from adapters_tiny import IN, OUT, WEIGHTS, convolution, linear, seen_by, with_delta
from models_tiny import distance, random, randomised
from safelight.adapters.adapter import Adapter
from safelight.adapters.attach import Mode, attached
from safelight.adapters.deltas import (
    Butterfly,
    Decomposed,
    Delta,
    Hadamard,
    Kronecker,
    LowRank,
    Orthogonal,
    Scaled,
)
from safelight.adapters.rotations import packed_size
from safelight.adapters.strengths import Strengths
from safelight.models.clip import ClipText, ClipTextConfig
from safelight.models.layers import timestep_embedding
from safelight.models.unet import UNet
from unet_published import FAMILIES, tiny, twins

pytestmark = pytest.mark.slow

NEAR = 1e-4
A = "default"
ATTENTION = ["to_q", "to_k", "to_v", "to_out.0"]
ALL = [*ATTENTION, "proj_in", "proj_out", "net.0.proj", "net.2", "time_emb_proj", "conv1", "conv2"]
ALL += ["conv_shortcut", "downsamplers.0.conv", "upsamplers.0.conv", "conv_in", "conv_out"]


def injected(model: nn.Module, config: peft.PeftConfig, deviation: float = 0.2) -> nn.Module:
    """A copy of the model with PEFT's adapter in it, all of its tensors at random."""
    other = copy.deepcopy(model)
    peft.inject_adapter_in_model(config, other, A)
    rng = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for name, parameter in other.named_parameters():
            if f".{A}" in name:
                around = 1.0 if "magnitude" in name or "boft_s" in name or "ia3" in name else 0.0
                noise = torch.randn(parameter.shape, generator=rng)
                parameter.copy_(around + deviation * noise)
    return other.eval()


def layers_of(model: nn.Module, kind: type) -> dict[str, nn.Module]:
    return {name: m for name, m in model.named_modules() if isinstance(m, kind)}


def weighted(model: nn.Module, kind: type, weight: float) -> nn.Module:
    for layer in layers_of(model, kind).values():
        layer.set_scale(A, weight)  # type: ignore[operator]
    return model


def low_rank(layer: nn.Module) -> LowRank:
    up, down = layer.lora_B[A].weight, layer.lora_A[A].weight  # type: ignore[index,union-attr]
    return LowRank(own(up), own(down), scale=layer.lora_alpha[A] / layer.r[A])  # type: ignore


def own(tensor: Tensor) -> Tensor:
    return tensor.detach().clone()


def parameters(layer: nn.Module, prefix: str) -> dict[str, Tensor]:
    """PEFT keeps a dictionary of parameters under each name."""
    return {
        name.removeprefix(prefix).removesuffix(f".{A}"): own(p)
        for name, p in layer.named_parameters()
        if name.startswith(prefix) and name.endswith(f".{A}")
    }


@cache
def said_by(family: str) -> tuple[tuple[Tensor, ...], dict[str, object], dict[str, object]]:
    x, time, context = random(2, 4, 8, 8), torch.tensor([801.0, 20.5]), random(2, 5, 12)
    if FAMILIES[family].ours.vector_width is None:
        return (x, time, context), {}, {}
    pooled, sizes = random(2, 8, seed=8), random(2, 3, seed=9).abs() * 100
    vector = torch.cat([pooled, timestep_embedding(sizes, 4).flatten(1)], dim=1)
    told = {"added_cond_kwargs": {"text_embeds": pooled, "time_ids": sizes}}
    return (x, time, context), {"vector": vector}, told


def compare(
    family: str,
    config: peft.PeftConfig,
    kind: type,
    ours: Callable[[nn.Module], Delta],
    *,
    weights: Sequence[float] = (1.0,),
    mode: Mode = "auto",
) -> None:
    """Our U-Net with our deltas of their tensors, beside theirs with PEFT's."""
    mine, plain = own_unet(family), twins(family)[1]
    theirs = injected(plain, config)
    deltas = {name: ours(layer) for name, layer in layers_of(theirs, kind).items()}
    assert deltas
    given, vector, told = said_by(family)
    parts = {"unet": mine}
    with torch.no_grad():
        base = mine(*given, **vector)
        for weight in weights:
            if len(weights) > 1:
                weighted(theirs, kind, weight)
            reference = theirs(*given, **told).sample
            order = [(Adapter("a", {"unet": deltas}), Strengths(weight))]
            with attached(parts, order, mode=mode):
                answer = mine(*given, **vector)
            assert distance(answer, reference) <= NEAR
            assert distance(answer, base) > 0.01
        assert torch.equal(mine(*given, **vector), base)


@cache
def own_unet(family: str) -> UNet:
    made = UNet(tiny(FAMILIES[family].ours)).eval().requires_grad_(False)
    made.load_state_dict(twins(family)[0].state_dict())
    return made


# -- U-Nets ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "mode"), [("sd15", "fold"), ("sd15", "slot"), ("sd21", "fold"), ("sdxl", "slot")]
)
def test_lora_on_every_layer_of_a_unet(family: str, mode: Mode) -> None:
    config = peft.LoraConfig(r=3, lora_alpha=2, target_modules=ALL)
    compare(family, config, LoraLayer, low_rank, weights=WEIGHTS, mode=mode)


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_dora(family: str) -> None:
    def ours(layer: nn.Module) -> Delta:
        magnitude = own(layer.lora_magnitude_vector[A].weight)  # type: ignore
        return Decomposed(low_rank(layer), magnitude)

    config = peft.LoraConfig(r=3, lora_alpha=2, target_modules=ALL, use_dora=True)
    compare(family, config, LoraLayer, ours)


@pytest.mark.parametrize("tucker", [True, False])
def test_loha(tucker: bool) -> None:
    def ours(layer: nn.Module) -> Delta:
        return Hadamard(**parameters(layer, "hada_"), scale=5 / 3)  # type: ignore[arg-type]

    config = peft.LoHaConfig(r=3, alpha=5, target_modules=ALL, use_effective_conv2d=tucker)
    compare("sd15", config, LoHaLayer, ours, weights=WEIGHTS)


@pytest.mark.parametrize(
    "settings",
    [{}, {"decompose_both": True, "r": 1, "decompose_factor": 2}, {"use_effective_conv2d": True}],
    ids=["one", "both", "tucker"],
)
def test_lokr(settings: dict[str, int]) -> None:
    def ours(layer: nn.Module) -> Delta:
        scale = layer.alpha[A] / layer.r[A]  # type: ignore[index]
        return Kronecker(**parameters(layer, "lokr_"), scale=scale)  # type: ignore[arg-type]

    config = peft.LoKrConfig(**{"r": 1, **settings}, alpha=3, target_modules=ALL)
    compare("sd15", config, LoKrLayer, ours, weights=WEIGHTS)


def test_ia3() -> None:
    def ours(layer: nn.Module) -> Delta:
        factors, inner = own(layer.ia3_l[A]).flatten() - 1, layer.is_feedforward  # type: ignore
        if inner:
            return Scaled(factors, on="input")
        return Scaled(factors, scales_bias=True)

    config = peft.IA3Config(
        target_modules=[*ATTENTION, "net.0.proj", "net.2", "conv1", "conv2", "time_emb_proj"],
        feedforward_modules=["net.0.proj", "net.2", "conv2"],
    )
    compare("sd15", config, IA3Layer, ours)


@pytest.mark.parametrize("settings", [{"use_cayley_neumann": False}, {}, {"block_share": True}])
@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_oft(family: str, settings: dict[str, bool]) -> None:
    exact = not settings.get("use_cayley_neumann", True)

    def ours(layer: nn.Module) -> Delta:
        rotation = layer.oft_R[A]  # type: ignore[index]
        terms = None if exact else rotation.num_cayley_neumann_terms
        return Orthogonal.packed(own(rotation.weight), terms=terms)

    config = peft.OFTConfig(
        oft_block_size=4, target_modules=[*ATTENTION, "proj_in", "net.2"], **settings
    )
    compare(family, config, OFTLayer, ours)


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_boft(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # It would look for a compiler for CUDA; without one it has a single factor.
    monkeypatch.setattr(boft_layer, "get_fbd_cuda", lambda: None)

    def ours(layer: nn.Module) -> Delta:
        return Butterfly.of_peft(own(layer.boft_R[A]), own(layer.boft_s[A]))  # type: ignore[index]

    config = peft.BOFTConfig(boft_block_size=4, target_modules=[*ATTENTION, "proj_in", "conv1"])
    compare(family, config, BOFTLayer, ours)


# -- CLIP ------------------------------------------------------------------------------------------

TEXT = ClipTextConfig(
    layers=2, width=32, heads=4, mlp_width=48, projection=24, vocabulary=50, eos_id=49
)


@pytest.mark.parametrize("mode", ["fold", "slot"])
@pytest.mark.parametrize("weight", WEIGHTS)
def test_lora_on_a_text_encoder(weight: float, mode: Mode) -> None:
    settings = CLIPTextConfig(
        vocab_size=50,
        hidden_size=32,
        intermediate_size=48,
        projection_dim=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        hidden_act=TEXT.activation,
        eos_token_id=49,
        bos_token_id=0,
    )
    plain = randomised(CLIPTextModelWithProjection(settings))
    mine = ClipText(TEXT).eval().requires_grad_(False)
    mine.load_state_dict(plain.state_dict())
    names = ["q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"]
    theirs = injected(plain, peft.LoraConfig(r=3, lora_alpha=2, target_modules=names))
    deltas = {name: low_rank(layer) for name, layer in layers_of(theirs, LoraLayer).items()}
    weighted(theirs, LoraLayer, weight)
    ids = torch.tensor([[0, 5, 17, 33, 49, 49]])
    adapter = Adapter("a", {"text_encoder": deltas})
    with torch.no_grad():
        reference = theirs(ids).text_embeds
        base = mine(ids).pooled
        order = [(adapter, Strengths(unet=7.0, text=weight))]
        with attached({"text_encoder": mine}, order, mode=mode):
            answer = mine(ids).pooled
    assert distance(answer, reference) <= NEAR
    assert distance(answer, base) > 0.01


# -- single layers ---------------------------------------------------------------------------------


def one_layer(layer: nn.Module) -> nn.Module:
    made = nn.Linear(IN, OUT) if isinstance(layer, nn.Linear) else nn.Conv2d(IN, OUT, 3, 2, 1)
    made.load_state_dict(layer.state_dict())
    return nn.ModuleDict({"layer": made}).requires_grad_(False)


@pytest.mark.parametrize("make", [linear, convolution])
@pytest.mark.parametrize("terms", [None, 1, 2, 3, 4, 5, 6])
def test_oft_merged(make: Callable[[], nn.Module], terms: int | None) -> None:
    """On kernels of PEFT's OFT, a forward pass adds overlaps that merging does not; this is merged.

    It also merges the rotation from the other side than its forward pass does; both agree here,
    as either is the other with the sign of Q turned.
    """
    layer = make()
    settings = {"use_cayley_neumann": terms is not None, "num_cayley_neumann_terms": terms or 5}
    config = peft.OFTConfig(oft_block_size=4, target_modules=["layer"], **settings)
    theirs = injected(one_layer(layer), config)
    rotation = theirs["layer"].oft_R[A]  # type: ignore[index]
    delta = Orthogonal.packed(own(rotation.weight), terms=terms)
    matrix = rotation.get_weight()
    turned = (layer.weight.flatten(1) @ matrix.mT).reshape(layer.weight.shape)  # type: ignore
    assert torch.allclose(layer.weight + delta.change(layer.weight), turned, atol=1e-5)


@pytest.mark.parametrize("factors", [1, 2, 3, 4])
def test_a_butterfly_of_peft_has_its_factors_and_their_permutations(factors: int) -> None:
    """Which PEFT can only run on a GPU; its own functions for the permutations can run here."""
    size, count = 4, 8
    length = size * count
    blocks, layer = 0.3 * random(factors, count, size, size), nn.Linear(length, 6, bias=False)
    maker = BOFTLayer(layer)
    matrix = torch.eye(length)
    for factor in range(factors):
        permuted = maker.block_butterfly_perm(length, count // 2**factor, size // 2, factors - 1)
        p = maker.perm2mat(permuted)
        turned = torch.block_diag(*maker.cayley_batch(blocks[factor]))
        matrix = (p @ turned @ p.mT) @ matrix
    scale = 1 + 0.2 * random(6, 1, seed=2)
    weight = layer.weight.detach()
    reference = (matrix @ weight.mT).mT * scale
    delta = Butterfly.of_peft(blocks, scale)
    assert delta.fits((6, length))
    assert torch.allclose(weight + delta.change(weight), reference, atol=1e-5)


@pytest.mark.parametrize("weight", WEIGHTS)
@pytest.mark.parametrize("make", [linear, convolution])
def test_a_strength_of_dora_goes_part_of_the_way_to_what_peft_makes(
    make: Callable[[], nn.Module], weight: float
) -> None:
    layer = make()
    x = seen_by(layer)
    config = peft.LoraConfig(r=3, lora_alpha=2, target_modules=["layer"], use_dora=True)
    theirs = injected(one_layer(layer), config)["layer"]  # type: ignore[index]
    delta = Decomposed(low_rank(theirs), own(theirs.lora_magnitude_vector[A].weight))
    with torch.no_grad():
        reference = torch.lerp(layer(x), theirs(x), weight)
    assert distance(with_delta(layer, x, delta, weight), reference) <= NEAR


def test_the_size_of_a_packed_matrix_is_told_by_its_entries() -> None:
    assert [packed_size(n) for n in (0, 1, 3, 6, 10, 28)] == [1, 2, 3, 4, 5, 8]
    assert packed_size(2) == packed_size(4) == packed_size(5) == 0
