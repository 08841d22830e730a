"""A recording gives what the modules give, and is made anew when what it reads has moved."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import pytest
import torch
from torch import Tensor, nn

from cli_tiny import tiny_model
from models_tiny import random
from safelight.engines.recorded import KEPT, RecordedUNet, missing, recorded
from safelight.errors import RequestError
from safelight.models.layers import wrapped
from safelight.models.unet import Residuals, UNet
from safelight.tasks.generate import generate
from safelight.tasks.request import Request

NO_CUDA = pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")


@dataclass
class Tape:
    """Stands for a CUDA graph: bound to the memory that the call read, it writes one output."""

    work: Callable[[], Tensor]
    output: Tensor

    def replay(self) -> None:
        self.output.copy_(self.work())


@dataclass
class Taping:
    """A recorder that counts, and keeps the weights as they were when it recorded."""

    made: list[Tape] = field(default_factory=list)

    def __call__(self, work: Callable[[], Tensor]) -> Tape:
        self.made.append(Tape(work, work()))
        return self.made[-1]


def given(height: int = 8, batch: int = 2, seed: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    return (
        random(batch, 4, height, 8, seed=seed),
        torch.linspace(10, 900, batch),
        random(batch, 7, 64, seed=seed + 1),
    )


@pytest.fixture
def unet() -> UNet:
    return tiny_model().network.unet


@torch.no_grad()
def test_what_it_gives_is_what_the_modules_give_each_time(unet: UNet) -> None:
    taping = Taping()
    runner = RecordedUNet(unet, taping)
    for seed in (1, 5, 9):
        assert torch.equal(runner(*given(seed=seed)), unet(*given(seed=seed)))
    assert len(taping.made) == 1


@torch.no_grad()
def test_a_result_is_not_overwritten_by_the_next_one(unet: UNet) -> None:
    runner = RecordedUNet(unet, Taping())
    first = runner(*given(seed=1))
    kept = first.clone()
    runner(*given(seed=5))
    assert torch.equal(first, kept)


@torch.no_grad()
def test_each_size_has_its_recording_and_the_oldest_is_let_go(unet: UNet) -> None:
    taping = Taping()
    runner = RecordedUNet(unet, taping)
    for height in (8, 10, 8, 10):
        runner(*given(height))
    assert len(taping.made) == 2
    for batch in range(1, KEPT + 1):
        runner(*given(12, batch))
    runner(*given(8))
    assert len(taping.made) == 2 + KEPT + 1
    runner.release()
    runner(*given(8))
    assert len(taping.made) == 2 + KEPT + 2


@torch.no_grad()
def test_a_weight_that_moved_is_recorded_anew_and_one_that_changed_in_place_is_not(
    unet: UNet,
) -> None:
    taping = Taping()
    runner = RecordedUNet(unet, taping)
    before = runner(*given())
    unet.conv_in.weight.mul_(1.5)
    assert not torch.equal(runner(*given()), before) and len(taping.made) == 1
    unet.conv_in.weight = nn.Parameter(unet.conv_in.weight.clone(), requires_grad=False)
    assert torch.equal(runner(*given()), unet(*given())) and len(taping.made) == 2


class Adds(nn.Module):
    def forward(self, x: Tensor, layer: nn.Module) -> Tensor:
        return layer.applied(x, layer.weight)  # type: ignore[no-any-return,operator]


@torch.no_grad()
def test_what_acts_in_a_slot_and_a_joined_border_are_recorded_apart(unet: UNet) -> None:
    taping = Taping()
    runner = RecordedUNet(unet, taping)
    plain = runner(*given())
    unet.conv_in.deltas["one"] = Adds()
    assert torch.equal(runner(*given()), unet(*given())) and len(taping.made) == 2
    del unet.conv_in.deltas["one"]
    assert torch.equal(runner(*given()), plain) and len(taping.made) == 2
    with wrapped(unet, x=True):
        assert torch.equal(runner(*given()), unet(*given())) and len(taping.made) == 3


@torch.no_grad()
def test_what_controls_add_is_an_input(unet: UNet) -> None:
    taping = Taping()
    runner = RecordedUNet(unet, taping)
    for seed in (1, 2):
        mid = random(2, 32, 4, 4, seed=seed)
        told = Residuals(mid=mid)
        assert torch.equal(runner(*given(), residuals=told), unet(*given(), residuals=told))
    assert len(taping.made) == 1


@torch.no_grad()
def test_settings_that_are_no_tensors_are_recorded_apart(unet: UNet) -> None:
    taping = Taping()
    runner = RecordedUNet(unet, taping)
    for freeu in ((1.1, 1.2, 0.9, 0.2), (1.3, 1.4, 0.9, 0.2)):
        assert torch.equal(runner(*given(), freeu=freeu), unet(*given(), freeu=freeu))
    assert len(taping.made) == 2


def test_a_call_that_cannot_be_recorded_is_an_error_that_says_so(unet: UNet) -> None:
    def refusing(work: Callable[[], Tensor]) -> Tape:
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    with pytest.raises(RequestError, match=r"recorded could not .* capturing; draw with --engine"):
        RecordedUNet(unet, refusing)(*given())


def test_a_picture_is_the_same_bit_for_bit() -> None:
    model = tiny_model()
    request = Request(prompt="a red apple", width=64, height=64, steps=3, seed=1)
    (plain,) = generate(model, request)
    runner = RecordedUNet(model.network.unet, Taping())
    (other,) = generate(replace(model, network=replace(model.network, runner=runner)), request)
    assert (plain.pixels == other.pixels).all()


@NO_CUDA
def test_without_cuda_it_is_missing_and_refused_by_name() -> None:
    reason = missing()
    assert reason is not None and "no CUDA device" in reason
    with pytest.raises(RequestError, match="engine recorded needs a CUDA device"):
        recorded(tiny_model())


@pytest.mark.gpu
@torch.no_grad()
def test_a_cuda_graph_gives_the_bits_of_the_modules() -> None:
    unet = tiny_model().network.unet.cuda().half()
    runner = RecordedUNet(unet)
    for seed in (1, 5):
        x, time, context = given(seed=seed)
        call = x.cuda().half(), time.cuda(), context.cuda().half()
        assert torch.equal(runner(*call), unet(*call))
