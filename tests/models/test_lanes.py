"""Halves of a batch beside each other: the same rows, nothing left changed, nobody overlooked."""

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from safelight.condition import Condition
from safelight.models import lanes
from safelight.models.backbone import Backbone
from safelight.models.unet import UNet, UNetConfig

CONFIG = UNetConfig(
    in_channels=4,
    out_channels=4,
    channels=(32, 64),
    depths=((1,), (0,)),
    heads=(2, 2),
    context_width=16,
)


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def unet() -> UNet:
    torch.manual_seed(0)
    return UNet(CONFIG).eval()


def given(rows: int, size: int = 8) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(rows)
    x = torch.randn(rows, 4, size, size, generator=generator)
    return x, torch.linspace(1, 900, rows), torch.randn(rows, 5, 16, generator=generator)


class Listed(nn.Module):
    """Notes which thread it works on, and with how many of the processor's.

    together: how many calls must have begun before one ends.
    """

    def __init__(self, together: int = 1) -> None:
        super().__init__()
        self.seen: list[tuple[str, int]] = []
        self.met = threading.Barrier(together, timeout=10)

    def forward(self, x: Tensor, time: Tensor, context: Tensor, *more: object) -> Tensor:
        self.met.wait()
        self.seen.append((threading.current_thread().name, torch.get_num_threads()))
        return x + time[:, None, None, None] + context.sum()


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("rows", [4, 5, 7, 16])
def test_rows_are_those_of_the_halves_in_order(unet: UNet, rows: int) -> None:
    x, time, context = given(rows)
    with torch.inference_mode():
        made = lanes.called(unet, x, time, context, None)
        half = rows // 2
        apart = [
            unet(x[part], time[part], context[part]) for part in (slice(half), slice(half, 99))
        ]
    torch.testing.assert_close(made, torch.cat(apart), atol=1e-5, rtol=1e-5)
    assert made.is_inference()


@pytest.mark.usefixtures("two_threads")
def test_each_lane_has_its_share_and_threads_are_left_as_they_were() -> None:
    network = Listed(together=2)
    with torch.no_grad():
        lanes.called(network, *given(4))
    assert [threads for _, threads in network.seen] == [1, 1]
    assert len({name for name, _ in network.seen}) == 2
    found: list[int] = []
    another = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
    another.start()
    another.join()
    assert [torch.get_num_threads(), *found] == [2, 2]


@pytest.mark.usefixtures("two_threads")
def test_what_is_one_for_all_goes_to_each() -> None:
    x = torch.zeros(4, 1, 1, 1)
    with torch.no_grad():
        made = lanes.called(Listed(), x, torch.tensor([3.0]), torch.tensor(2.0))
    assert made.flatten().tolist() == [5.0] * 4


@pytest.mark.usefixtures("two_threads")
def test_a_lane_that_fails_says_so() -> None:
    def failing(x: Tensor) -> Tensor:
        if x[0] > 1:
            raise ValueError("the second half")
        return x

    with pytest.raises(ValueError, match="second half"):
        lanes.called(failing, torch.arange(4.0))


@pytest.mark.usefixtures("two_threads")
def test_a_plain_call_of_enough_rows_is_served(unet: UNet) -> None:
    with torch.no_grad():
        assert lanes.serve(unet, given(8)[0], {"residuals": None, "images": ()})
        assert not lanes.serve(unet, given(7)[0], {})
        wide, small = (given(2, size)[0].bfloat16() for size in (40, 32))
        assert lanes.serve(unet, wide, {})
        assert not lanes.serve(unet, small, {})
        assert not lanes.serve(unet, wide.float(), {})


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize(
    "told",
    [{"images": (1,)}, {"level": torch.zeros(8)}, {"freeu": (1.0, 1.0, 1.0, 1.0)}],
    ids=lambda told: next(iter(told)),
)
def test_a_call_that_is_told_more_is_left_whole(unet: UNet, told: dict[str, object]) -> None:
    with torch.no_grad():
        assert not lanes.serve(unet, given(8)[0], told)


class Odd(Tensor):
    """Stands for weights in another form, such as bytes with a scale."""


@pytest.mark.usefixtures("two_threads")
def test_weights_in_another_form_are_not_widened_twice(unet: UNet) -> None:
    layer = unet.conv_in
    weight = layer.weight.detach()
    with torch.no_grad():
        layer.weight = nn.Parameter(weight.as_subclass(Odd), requires_grad=False)
        assert not lanes.serve(unet, given(8)[0], {})
        layer.weight = nn.Parameter(weight)
        assert lanes.serve(unet, given(8)[0], {})


def _hook(unet: UNet) -> Callable[[], None]:
    return unet.conv_in.register_forward_hook(lambda *_: None).remove


def _pre_hook(unet: UNet) -> Callable[[], None]:
    return unet.conv_out.register_forward_pre_hook(lambda *_: None).remove


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("watch", [_hook, _pre_hook])
def test_layers_that_are_watched_work_one_after_the_other(
    unet: UNet, watch: Callable[[UNet], Callable[[], None]]
) -> None:
    with torch.no_grad():
        remove = watch(unet)
        assert not lanes.serve(unet, given(8)[0], {})
        remove()
        assert lanes.serve(unet, given(8)[0], {})


@pytest.mark.usefixtures("two_threads")
def test_nothing_is_split_where_gradients_are_recorded_or_one_thread_works(unet: UNet) -> None:
    assert not lanes.serve(unet, given(8)[0], {})
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert not lanes.serve(unet, given(8)[0], {})
    torch.set_num_threads(1)
    with torch.no_grad():
        assert not lanes.serve(unet, given(8)[0], {})


@pytest.mark.usefixtures("two_threads")
def test_the_backbone_gives_the_same_rows_in_lanes(
    unet: UNet, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, time, context = given(9)
    backbone, condition = Backbone(unet), Condition(context=context)
    halves: list[int] = []
    forward = unet.forward

    def noted(x: Tensor, *more: Tensor, **told: object) -> Tensor:
        halves.append(len(x))
        return forward(x, *more, **told)  # type: ignore[arg-type]

    monkeypatch.setattr(unet, "forward", noted)
    with torch.no_grad():
        made = backbone(x, time, condition)
        monkeypatch.setattr(lanes, "FEWEST", 99)
        whole = replace(backbone)(x, time, condition)
    assert halves == [4, 5, 9]
    torch.testing.assert_close(made, whole, atol=1e-5, rtol=1e-5)
