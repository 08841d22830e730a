"""What is exchanged in an exported network leaves its answer as it was."""

import pytest
import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.nn import functional as F

from cli_tiny import tiny_model
from models_tiny import distance, random
from safelight.engines.attention_graph import by_blocks
from safelight.engines.onednn_graph import by_onednn, can_pack, packed
from safelight.models.attention import Attention
from safelight.models.cpu_product import READY
from safelight.models.layers import Conv2d, Linear

ONEDNN = pytest.mark.skipif(not can_pack(torch.float32), reason="needs oneDNN")


def exported(module: nn.Module, *args: Tensor) -> ExportedProgram:
    with torch.no_grad():
        return torch.export.export(module.eval().requires_grad_(False), args, strict=False)


def targets(program: ExportedProgram) -> list[str]:
    return [str(node.target) for node in program.graph.nodes if node.op == "call_function"]


@ONEDNN
@pytest.mark.slow
@torch.no_grad()
@pytest.mark.filterwarnings("ignore::FutureWarning")  # of PyTorch's own making
def test_onednn_computes_every_product_and_convolution_of_a_unet() -> None:
    unet = tiny_model().network.unet
    call = random(2, 4, 8, 8), torch.tensor([10.0, 900.0]), random(2, 7, 64, seed=2)
    program = exported(unet, *call)
    packings = by_onednn(program)
    layers = {n for n, m in unet.named_modules() if isinstance(m, Linear | Conv2d)}
    assert {name.removesuffix(".weight") for name in packings} == layers
    assert not {"aten.linear.default", "aten.conv2d.default"} & set(targets(program))
    assert distance(program.module()(*call), unet(*call)) < 1e-5


@ONEDNN
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.no_grad()
def test_a_packed_weight_gives_the_same_result(dtype: torch.dtype) -> None:
    if not can_pack(dtype):
        pytest.skip("needs a processor with this type")
    ops = torch.ops.mkldnn
    x, weight, bias = (
        random(*s, seed=i).to(dtype) for i, s in enumerate([(40, 32), (64, 32), (64,)])
    )
    tail = (bias, "none", [], "")
    plain = ops._linear_pointwise(x, weight, *tail)
    made = ops._linear_pointwise(x, packed(weight, {"linear": 40}), *tail)
    torch.testing.assert_close(made, plain, rtol=1e-2, atol=1e-2 if dtype.itemsize == 2 else 1e-5)
    x, weight, bias = (
        random(*s, seed=i).to(dtype) for i, s in enumerate([(2, 8, 9, 9), (16, 8, 3, 3), (16,)])
    )
    where = [[1, 1], [2, 2], [1, 1], 1]
    tail = (bias, *where, "none", [], "")
    made = ops._convolution_pointwise(x, packed(weight, {"conv": [*where, [2, 8, 9, 9]]}), *tail)
    plain = F.conv2d(x, weight, bias, stride=2, padding=1)
    torch.testing.assert_close(made, plain, rtol=1e-2, atol=1e-2 if dtype.itemsize == 2 else 1e-5)


class Twice(nn.Module):
    """One weight for two sizes, and one that is made in the graph."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.other = Linear(8, 8), Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        y = self.layer(x) + self.layer(x[:1])
        return y + F.linear(x, 2 * self.other.weight)


@ONEDNN
@torch.no_grad()
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_a_weight_of_two_sizes_or_of_the_graph_is_left_as_it_is() -> None:
    module, x = Twice(), random(4, 8)
    program = exported(module, x)
    assert by_onednn(program) == {}
    assert targets(program).count("mkldnn._linear_pointwise.default") == 2
    assert targets(program).count("aten.linear.default") == 1
    torch.testing.assert_close(program.module()(x), module(x))


@pytest.mark.skipif(not READY, reason="needs oneDNN")
@pytest.mark.parametrize("tokens", [4, 64])
@torch.no_grad()
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_only_many_tokens_attend_by_our_kernel(
    tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("safelight.models.cpu_attention.FEWEST_PRODUCTS", 64 * 64 * 8)
    module, x = Attention(16, 2), random(2, tokens, 16)
    program = exported(module, x)
    by_blocks(program)
    assert ("safelight.attention.default" in targets(program)) is (tokens == 64)
    assert distance(program.module()(x), module(x)) < 1e-5
