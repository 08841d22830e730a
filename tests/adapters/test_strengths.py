"""Laws of how strongly adapters act, and what is refused before they do."""

import pytest
import torch
from torch import Tensor

from adapters_tiny import IN, OUT, adapter, linear, lora, network, said, same, state
from models_tiny import random
from safelight.adapters.adapter import Adapter
from safelight.adapters.attach import Mode, attached, merged
from safelight.adapters.deltas import Difference, LowRank
from safelight.adapters.strengths import Strengths
from safelight.errors import CheckpointError, RequestError

# -- strengths -------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["fold", "slot"])
def test_strengths_can_be_set_anew_and_are_as_if_attached_so(mode: Mode) -> None:
    net, x = network(), random(2, 5, IN)
    plain, own = said(net, x), net["first"].weight  # type: ignore[index]
    layer = net["first"]  # type: ignore[index]
    one, two = adapter("one", first=lora(layer)), adapter("two", first=lora(layer, 8))
    parts = {"unet": net}

    def alone(*weights: float) -> Tensor:
        order = [(a, Strengths(w)) for a, w in zip((one, two), weights, strict=True)]
        with attached(parts, order, mode=mode):
            return said(net, x)

    expected = {weights: alone(*weights) for weights in ((1, 0), (0.5, -1), (0, 0), (0, 1))}
    handle = attached(parts, [(one, Strengths(1)), (two, Strengths(0))], mode=mode)
    for weights, reference in expected.items():
        handle.set_strengths([Strengths(w) for w in weights])
        assert torch.equal(said(net, x), reference)
        assert [s.unet for s in handle.strengths] == list(weights)
    handle.set_strengths([Strengths(0), Strengths(0)])
    assert layer.weight is own and torch.equal(said(net, x), plain)
    handle.detach()


class Counting(LowRank):
    """Counts how often it is computed."""

    count = 0

    def changed(self, weight: Tensor, strength: float = 1.0) -> Tensor:
        Counting.count += 1
        return super().changed(weight, strength)


def test_only_layers_whose_strength_moves_are_computed() -> None:
    net = network()
    pairs = [Counting(lora(linear()).up.detach(), lora(linear()).down.detach()) for _ in range(2)]
    on = adapter(first=pairs[0], second=pairs[1])
    Counting.count = 0
    with attached({"unet": net}, [(on, Strengths())]) as handle:
        assert Counting.count == 2
        handle.set_strengths([Strengths()])
        assert Counting.count == 2
        handle.set_strengths([Strengths(blocks={"second": 0.5})])
        assert Counting.count == 3
        handle.set_strengths([Strengths(text=0.1, blocks={"second": 0.5})])
        assert Counting.count == 3
        handle.set_strengths([Strengths(0.0)])
        assert Counting.count == 3


def test_text_and_unet_have_their_own_strengths_and_blocks_multiply() -> None:
    strengths = Strengths(0.5, 0.25, {"down": 2.0, "down.0": 4.0, "text_encoder.layers.1": 3.0})
    assert strengths.of("unet", "mid") == 0.5
    assert strengths.of("unet", "down.1.conv") == 1.0
    assert strengths.of("unet", "down.0.conv") == 2.0
    assert strengths.of("unet", "downs.conv") == 0.5
    assert strengths.of("text_encoder", "layers.1.fc1") == 0.75
    assert strengths.of("text_encoder", "layers.10.fc1") == 0.25
    assert strengths.of("text_encoder_2", "layers.1.fc1") == 0.25


# -- refusals --------------------------------------------------------------------------------------


def test_what_cannot_be_attached_is_refused_before_anything_changes() -> None:
    net = network()
    parts, before = {"unet": net}, state(net)
    good = lora(net["first"])  # type: ignore[index]
    wide = LowRank(random(OUT, 2), random(2, IN + 1))
    cases: list[tuple[Adapter, Strengths, type[Exception], str]] = [
        (
            Adapter("s", {"unet": {"first": good, "third": good}, "text_encoder": {"a": good}}),
            Strengths(),
            CheckpointError,
            r"s changes 2 layers \(of 3\) .*\(unet\).*: unet.third, text_encoder.a; it is for",
        ),
        (
            adapter(first=good, second=wide),
            Strengths(),
            CheckpointError,
            r"LoRA of the adapter style does not fit the layer unet.second, whose weight is "
            r"\[16, 12\]",
        ),
        (
            adapter(first=good, second=Difference(None, random(OUT))),  # it has no bias
            Strengths(),
            CheckpointError,
            "does not fit the layer unet.second",
        ),
        (adapter(first=good, norm=good), Strengths(), CheckpointError, "not fit .* unet.norm"),
        (adapter(first=good), Strengths(float("nan")), RequestError, "must be finite numbers"),
        (adapter(first=good), Strengths(blocks={"firs": 1}), RequestError, "block firs; name"),
        (adapter(first=good, **{"": good}), Strengths(), CheckpointError, "does not have"),
    ]
    for on, strengths, error, message in cases:
        with pytest.raises(error, match=message):
            attached(parts, [(on, strengths)])
        with pytest.raises(error, match=message):
            list(merged(parts, [(on, strengths)]))
        assert same(before, state(net))
    with pytest.raises(RequestError, match="unknown mode 'melt'; choose auto, fold, slot"):
        attached(parts, [], mode="melt")  # type: ignore[arg-type]
    with (
        attached(parts, [(adapter(first=good), Strengths())]) as handle,
        pytest.raises(RequestError, match="2 strengths were given for 1 adapters"),
    ):
        handle.set_strengths([Strengths(), Strengths()])
