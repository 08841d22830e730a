"""Keys and values kept over steps: the same bits, made once, and never of weights that changed."""

from collections.abc import Callable
from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn

from safelight.models import lanes
from safelight.models.layers import Linear
from safelight.models.text_states import MOST, TextStates, texts_kept
from safelight.models.unet import UNet, UNetConfig

CONFIG = UNetConfig(
    in_channels=4, out_channels=4, channels=(32, 64), depths=((1,), (1,)), heads=(2, 2),
    context_width=48,
)  # fmt: skip


@pytest.fixture
def unet() -> UNet:
    torch.manual_seed(0)
    return UNet(CONFIG).eval()


def text(seed: int, rows: int = 2) -> Tensor:
    return torch.randn(rows, 7, 48, generator=torch.Generator().manual_seed(seed))


def latents(seed: int, rows: int = 2) -> Tensor:
    return torch.randn(rows, 4, 8, 8, generator=torch.Generator().manual_seed(seed))


def keys_of(unet: UNet) -> list[Linear]:
    return [layer for name, layer in unet.named_modules() if name.endswith("attn2.to_k")]


class Counted:
    """How often the keys of a text are made."""

    def __init__(self, unet: UNet, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls = 0
        for layer in keys_of(unet):
            monkeypatch.setattr(layer, "forward", self._noted(layer.forward))

    def _noted(self, forward: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        def noted(x: Tensor) -> Tensor:
            self.calls += 1
            return forward(x)

        return noted


@torch.no_grad()
def steps(unet: UNet, count: int = 3, context: Tensor | None = None) -> list[Tensor]:
    told = text(1) if context is None else context
    return [unet(latents(k), torch.tensor(900.0 - k), told.clone()) for k in range(count)]


def same(one: list[Tensor], other: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_steps_have_the_same_bits_and_keys_are_made_once(
    unet: UNet, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, layers = steps(unet), len(keys_of(unet))
    counted = Counted(unet, monkeypatch)
    with texts_kept([unet]):
        assert same(steps(unet), plain)
        assert counted.calls == layers
    assert unet.text_states is None and "text_states" not in vars(unet)
    assert same(steps(unet), plain)
    assert counted.calls == 4 * layers


def test_each_text_has_its_own_and_the_oldest_goes(
    unet: UNet, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [text(k) for k in range(MOST + 1)]
    plain = [steps(unet, 1, one)[0] for one in texts]
    counted, layers = Counted(unet, monkeypatch), len(keys_of(unet))
    with texts_kept([unet]):
        for _ in range(2):
            assert same([steps(unet, 1, one)[0] for one in texts[:MOST]], plain[:MOST])
        assert counted.calls == MOST * layers
        assert same(steps(unet, 1, texts[MOST]), plain[MOST:])
        assert same(steps(unet, 1, texts[0]), plain[:1])
        assert counted.calls == (MOST + 2) * layers


def test_a_text_that_is_written_into_is_another(unet: UNet) -> None:
    told = text(1)
    with torch.no_grad(), texts_kept([unet]):
        unet(latents(0), torch.tensor(900.0), told)
        told.mul_(2)
        made = unet(latents(0), torch.tensor(900.0), told)
    with torch.no_grad():
        assert torch.equal(made, unet(latents(0), torch.tensor(900.0), told))


class Added(nn.Module):
    def forward(self, x: Tensor, layer: nn.Linear) -> Tensor:
        return 0.5 * x[..., :1].expand(*x.shape[:-1], layer.out_features)


def _delta(unet: UNet) -> None:
    for layer in keys_of(unet):
        layer.deltas["new"] = Added()


def _written(unet: UNet) -> None:
    with torch.no_grad():
        for layer in keys_of(unet):
            layer.weight.mul_(1.5)


def _swapped(unet: UNet) -> None:
    for layer in keys_of(unet):
        layer.weight = nn.Parameter(layer.weight.detach() * 1.5)


def _data_swapped(unet: UNet) -> None:
    for layer in keys_of(unet):
        layer.weight.data = layer.weight.data * 1.5


@pytest.mark.parametrize("change", [_delta, _written, _swapped, _data_swapped])
def test_a_change_of_the_layers_is_noticed(unet: UNet, change: Callable[[UNet], None]) -> None:
    other = deepcopy(unet)
    change(other)
    before, after = steps(unet, 2), steps(other, 2)
    assert not same(before, after)
    with texts_kept([unet]):
        assert same(steps(unet, 2), before)
        change(unet)
        assert same(steps(unet, 2), after)


def test_an_adapter_that_leaves_is_noticed(unet: UNet) -> None:
    plain = steps(unet, 2)
    with texts_kept([unet]):
        steps(unet, 1)
        _delta(unet)
        steps(unet, 1)
        for layer in keys_of(unet):
            del layer.deltas["new"]
        assert same(steps(unet, 2), plain)


def test_a_network_cast_meanwhile_is_asked_again(unet: UNet) -> None:
    wide = deepcopy(unet).double()
    with torch.no_grad(), texts_kept([unet]):
        steps(unet, 1)
        unet.double()
        given = latents(0).double(), torch.tensor(900.0), text(1).double()
        assert torch.equal(unet(*given), wide(*given))


def test_nothing_is_kept_while_gradients_are_recorded(unet: UNet) -> None:
    told = text(1).requires_grad_()
    with texts_kept([unet]):
        for _ in range(2):
            unet(latents(0), torch.tensor(900.0), told).sum().backward()
    assert told.grad is not None
    assert told.grad.abs().sum() > 0
    with torch.no_grad():
        assert TextStates().of(told.detach()) is not None


def test_halves_of_a_batch_find_their_own_texts(
    unet: UNet, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = torch.get_num_threads()
    told, counted = text(3, rows=8), Counted(unet, monkeypatch)
    time = torch.full((8,), 500.0)
    try:
        torch.set_num_threads(2)
        with torch.no_grad():
            plain = [lanes.called(unet, latents(k, 8), time, told) for k in range(2)]
            made = counted.calls
            with texts_kept([unet]):
                kept = [lanes.called(unet, latents(k, 8), time, told) for k in range(2)]
    finally:
        torch.set_num_threads(threads)
    assert same(kept, plain)
    assert counted.calls - made == made // 2


def test_what_keeps_no_texts_is_left_alone(unet: UNet) -> None:
    with texts_kept([nn.Linear(2, 2), object()]):
        assert unet.text_states is None


class Odd(Tensor):
    """Stands for weights in another form, such as bytes with a scale."""


def test_weights_of_another_form_are_asked_each_time(
    unet: UNet, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, layers = steps(unet, 2), keys_of(unet)
    for layer in layers:
        layer.weight = nn.Parameter(layer.weight.detach().as_subclass(Odd), requires_grad=False)
    counted = Counted(unet, monkeypatch)
    with texts_kept([unet]):
        made = steps(unet, 2)
    assert counted.calls == 2 * len(layers)
    torch.testing.assert_close([one.as_subclass(Tensor) for one in made], plain)
