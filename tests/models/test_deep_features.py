"""Laws of deep features that are kept from one call to the next."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from controls_tiny import controlnet_twins
from safelight.condition import Condition, Control, Intervention
from safelight.errors import RequestError
from safelight.models.backbone import Backbone
from safelight.models.deep_features import most_blocks, with_deep
from safelight.models.unet import Residuals
from unet_published import TINY_CONTEXT, TINY_VECTOR, twins


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


NAMES = ["sd15", "sdxl", "koala-700m", "tiny-sd", "x4-upscaler"]
TIME = torch.tensor([600.0, 30.0])


def backbone(name: str) -> tuple[Backbone, Tensor, Condition]:
    network = Backbone(twins(name)[0])
    config = network.unet.config
    told = Condition(
        normal(2, 7, TINY_CONTEXT, seed=1),
        None if config.vector_width is None else normal(2, TINY_VECTOR, seed=2),
        normal(2, config.in_channels - 4, 8, 9, seed=3) if config.in_channels > 4 else None,
        None if config.noise_levels is None else torch.tensor([20, 999]),
    )
    return network, normal(2, 4, 8, 9, seed=4), told


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_a_whole_call_is_the_plain_one_bit_for_bit(name: str) -> None:
    network, x, told = backbone(name)
    plain = network(x, TIME, told)
    for blocks in range(1, most_blocks(network.unet) + 1):
        output, _ = network.with_deep(x, TIME, told, blocks=blocks, kept=None)
        assert torch.equal(output, plain)


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_features_of_the_same_call_give_its_answer_again(name: str) -> None:
    network, x, told = backbone(name)
    plain = network(x, TIME, told)
    for blocks in range(1, most_blocks(network.unet) + 1):
        _, kept = network.with_deep(x, TIME, told, blocks=blocks, kept=None)
        again, same = network.with_deep(x, TIME, told, blocks=blocks, kept=kept)
        assert torch.equal(again, plain) and same is kept


@torch.no_grad()
def test_a_shallow_call_sees_the_new_input_and_asks_less() -> None:
    network, x, told = backbone("sd15")
    asked: list[str] = []
    handles = [
        module.register_forward_hook(lambda *_, name=name: asked.append(name))
        for name, module in network.unet.named_modules()
        if name.endswith(("resnets.0", "resnets.1", "resnets.2"))
    ]
    _, kept = network.with_deep(x, TIME, told, blocks=2, kept=None)
    whole = len(asked)
    asked.clear()
    other, _ = network.with_deep(x + 0.5, TIME, told, blocks=2, kept=kept)
    for handle in handles:
        handle.remove()
    assert asked == ["down_blocks.0.resnets.0", "up_blocks.3.resnets.1", "up_blocks.3.resnets.2"]
    assert whole > 3 * len(asked)
    assert not torch.equal(other, network.with_deep(x, TIME, told, blocks=2, kept=kept)[0])


@torch.no_grad()
def test_more_blocks_come_nearer_to_the_whole_call() -> None:
    network, x, told = backbone("sd15")
    moved = x + 0.05 * normal(*x.shape, seed=7)
    plain, far = network(moved, TIME - 5, told), []
    for blocks in range(1, most_blocks(network.unet) + 1):
        _, kept = network.with_deep(x, TIME, told, blocks=blocks, kept=None)
        near, _ = network.with_deep(moved, TIME - 5, told, blocks=blocks, kept=kept)
        far.append(float((near - plain).norm()))
    assert far[-1] < far[0]


@torch.no_grad()
def test_controls_act_in_shallow_calls_and_are_not_asked_again() -> None:
    network, x, told = backbone("sd15")
    asked: list[int] = []
    net = controlnet_twins("sd15")[0]

    class Counted(type(net)):  # type: ignore[misc]
        def forward(self, *given: object, **more: object) -> Residuals:
            asked.append(1)
            return super().forward(*given, **more)

    counted = Counted.__new__(Counted)
    counted.__dict__ = net.__dict__
    network = replace(network, control_networks={"lines": counted})
    image = torch.rand(2, 3, 64, 72, generator=torch.Generator().manual_seed(3))
    told = replace(told, controls=(Control("lines", image),))
    plain = network(x, TIME, told)
    asked.clear()
    output, kept = network.with_deep(x, TIME, told, blocks=2, kept=None)
    again, _ = network.with_deep(x, TIME, told, blocks=2, kept=kept)
    assert torch.equal(output, plain) and torch.equal(again, plain) and len(asked) == 1
    without = replace(told, controls=())
    assert not torch.equal(network.with_deep(x, TIME, without, blocks=2, kept=None)[0], plain)


@torch.no_grad()
def test_perturbed_attention_and_freeu_act_in_shallow_calls() -> None:
    network, x, told = backbone("sd15")
    asked = Intervention(identity_attention=("up_blocks",), freeu=(1.3, 1.4, 0.9, 0.2))
    told = replace(told, intervention=asked)
    plain = network(x, TIME, told)
    _, kept = network.with_deep(x, TIME, told, blocks=1, kept=None)
    assert torch.equal(network.with_deep(x, TIME, told, blocks=1, kept=kept)[0], plain)


def test_blocks_that_are_not_there_are_refused_with_their_number() -> None:
    network, x, told = backbone("sd15")
    for blocks in (0, 4):
        with pytest.raises(RequestError, match="1 to 3 of this U-Net's outermost blocks"):
            network.with_deep(x, TIME, told, blocks=blocks, kept=None)


def test_other_engines_refuse_by_name() -> None:
    network, x, told = backbone("sd15")

    class Other:
        name, extras, frozen = "other", frozenset[str](), True

        def __call__(self, *given: object, **more: object) -> Tensor:
            raise AssertionError

    engined = replace(network, runner=Other())  # type: ignore[arg-type]
    with pytest.raises(RequestError, match="engine other cannot do deep features kept over steps"):
        engined.with_deep(x, TIME, told, blocks=1, kept=None)
    merging = replace(told, intervention=Intervention(merged=0.5))
    with pytest.raises(RequestError, match="engine other cannot do token merging"):
        engined(x, TIME, merging)


@torch.no_grad()
def test_the_middle_function_takes_what_forward_takes() -> None:
    network, x, told = backbone("sdxl")
    unet = network.unet
    expected = unet(x, TIME, told.context, told.vector)
    output, deep = with_deep(unet, x, TIME, told.context, told.vector, blocks=1)
    assert torch.equal(output, expected) and deep.shape[0] == 2
