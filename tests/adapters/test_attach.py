"""Laws of adapters on a model: they come, act at their strength, and go without a trace."""

import itertools
import weakref

import pytest
import torch
from torch import Tensor, nn

from adapters_tiny import (
    ADDITIVE,
    IN,
    KINDS,
    OUT,
    WEIGHTS,
    adapter,
    convolution,
    dora,
    filled,
    full,
    ia3,
    kernel_of,
    linear,
    lora,
    network,
    norm_difference,
    oft,
    said,
    same,
    seen_by,
    state,
    tucker_lora,
    with_delta,
)
from models_tiny import distance, random
from safelight.adapters.adapter import Adapter
from safelight.adapters.attach import Mode, attached, merged
from safelight.adapters.deltas import Decomposed, Delta, Difference, Generalised, LowRank
from safelight.adapters.strengths import Strengths
from safelight.models.clip import ClipText, ClipTextConfig
from safelight.models.layers import Conv2d, GroupNorm, Linear, wrapped
from safelight.models.unet import UNet
from unet_published import FAMILIES, randomise, tiny

each_layer = pytest.mark.parametrize("make", [linear, convolution], ids=["linear", "conv"])
each_kind = pytest.mark.parametrize("kind", KINDS)


# -- coming and going ------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["fold", "slot"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_taking_off_leaves_the_very_same_tensors(mode: Mode, dtype: torch.dtype) -> None:
    net, x = network().to(dtype), random(2, 5, IN)
    before, plain, names = state(net), said(net, x), set(net.state_dict())
    layer = net["first"]  # type: ignore[index]
    on = adapter(first=lora(layer), second=lora(layer, 8), norm=norm_difference(OUT))
    with attached({"unet": net}, [(on, Strengths(0.7))], mode=mode):
        assert not torch.equal(said(net, x), plain)
    assert same(before, state(net)) and set(net.state_dict()) == names
    assert torch.equal(said(net, x), plain)


@pytest.mark.parametrize("mode", ["fold", "slot"])
def test_an_exception_takes_them_off_too(mode: Mode) -> None:
    net = network()
    before = state(net)
    on = adapter(first=lora(net["first"]), norm=norm_difference(OUT))  # type: ignore[index]
    with pytest.raises(KeyError), attached({"unet": net}, [(on, Strengths())], mode=mode):
        raise KeyError("on the way")
    assert same(before, state(net))


class Failing(Difference):
    """One that cannot be computed, as when memory is short."""

    def change(self, weight: Tensor, strength: float = 1.0) -> Tensor:
        raise MemoryError("no room")


@pytest.mark.parametrize("mode", ["fold", "slot"])
def test_what_fails_half_way_leaves_nothing_behind(mode: Mode) -> None:
    net = network()
    before = state(net)
    on = adapter(first=lora(net["first"]), second=Failing(torch.ones(OUT, IN)))  # type: ignore[index]
    with pytest.raises(MemoryError):
        attached({"unet": net}, [(on, Strengths())], mode=mode)
    assert same(before, state(net))


def test_taking_off_twice_is_taking_off_once() -> None:
    net = network()
    before = state(net)
    handle = attached({"unet": net}, [(adapter(first=lora(linear())), Strengths())])
    handle.detach()
    handle.detach()
    assert same(before, state(net))


def test_those_put_on_last_are_taken_off_first() -> None:
    net = network()
    before = state(net)
    on = [(adapter(first=lora(linear())), Strengths())]
    below = attached({"unet": net}, on)
    above = attached({"unet": net}, on)
    with pytest.raises(RuntimeError, match="later must be taken off first"):
        below.detach()
    above.detach()
    below.detach()
    assert same(before, state(net))


def test_slots_of_several_attachments_do_not_meet() -> None:
    net, x = network(), random(2, 5, IN)
    on = [(adapter(first=lora(linear())), Strengths())]
    plain = said(net, x)
    below = attached({"unet": net}, on, mode="slot")
    once = said(net, x)
    above = attached({"unet": net}, on, mode="slot")
    assert not torch.allclose(said(net, x), once)
    below.detach()
    assert torch.equal(said(net, x), once)
    above.detach()
    assert torch.equal(said(net, x), plain)


def test_originals_are_kept_once_and_what_was_folded_is_let_go() -> None:
    net = network()
    layer = net["first"]  # type: ignore[index]
    own = layer.weight
    handle = attached({"unet": net}, [(adapter(first=lora(layer)), Strengths())])
    folded = weakref.ref(layer.weight)
    assert folded() is not own
    assert net["second"].weight.data_ptr()  # type: ignore[index]  # not touched, not copied
    handle.set_strengths([Strengths(0.5)])
    assert folded() is None
    handle.detach()
    assert layer.weight is own


# -- what they do ----------------------------------------------------------------------------------


@each_layer
@each_kind
def test_slot_and_fold_say_the_same(make: type[Linear], kind: str) -> None:
    layer = make()
    delta, x = KINDS[kind](layer), seen_by(layer)
    folded, slotted = (with_delta(layer, x, delta, 0.7, mode) for mode in ("fold", "slot"))
    assert distance(slotted, folded) < 1e-5
    assert distance(folded, layer(x)) > 0.05


@each_layer
@each_kind
@pytest.mark.parametrize("weight", WEIGHTS)
def test_merged_tensors_are_those_of_an_attached_model(
    make: type[Linear], kind: str, weight: float
) -> None:
    layer = make()
    parts = {"unet": nn.ModuleDict({"layer": layer})}
    order = [(adapter(layer=KINDS[kind](layer)), Strengths(weight))]
    told = {(t.part, t.name): t.tensor for t in merged(parts, order)}
    with attached(parts, order, mode="fold"):
        there = {("unet", name): p for name, p in parts["unet"].named_parameters()}
    assert told and all(torch.equal(told[name], there[name]) for name in told)
    before = dict(parts["unet"].named_parameters())
    changed = {n for n, p in there.items() if p is not before[n[1]]}
    assert changed == set(told)


@each_kind
def test_no_strength_is_the_model_itself(kind: str) -> None:
    layer = linear()
    x = seen_by(layer)
    assert torch.equal(with_delta(layer, x, KINDS[kind](layer), 0.0), layer(x))
    parts = {"unet": nn.ModuleDict({"layer": layer})}
    assert not list(merged(parts, [(adapter(layer=KINDS[kind](layer)), Strengths(0.0))]))


@each_kind
def test_a_small_strength_is_near_the_model(kind: str) -> None:
    """No kind jumps between nothing and almost nothing."""
    layer = linear()
    x = seen_by(layer)
    assert distance(with_delta(layer, x, KINDS[kind](layer), 1e-4), layer(x)) < 1e-2


@each_layer
@pytest.mark.parametrize("kinds", list(itertools.combinations(ADDITIVE, 2)))
@pytest.mark.parametrize("mode", ["fold", "slot"])
def test_those_that_add_add_in_any_order(
    make: type[Linear], kinds: tuple[str, str], mode: Mode
) -> None:
    layer = make()
    x = seen_by(layer)
    deltas = [KINDS[kind](layer) for kind in kinds]
    there, back = (with_delta(layer, x, d, 0.5, mode) for d in (deltas, deltas[::-1]))
    assert distance(there, back) < 1e-5
    single = [with_delta(layer, x, delta, 0.5, mode) - layer(x) for delta in deltas]
    assert distance(there, layer(x) + sum(single)) < 1e-5


def test_others_act_in_their_order_each_on_what_the_one_before_left() -> None:
    layer = linear()
    first, second = lora(layer), dora(layer)
    weight = layer.weight.clone()
    after = weight + first.change(weight)
    x = seen_by(layer)
    weight = (after + second.change(after)).detach()
    expected = nn.functional.linear(x, weight, layer.bias)
    assert distance(with_delta(layer, x, [first, second]), expected) < 1e-5
    assert distance(with_delta(layer, x, [second, first]), expected) > 0.01


@pytest.mark.parametrize("mode", ["fold", "slot"])
def test_several_loras_of_other_ranks_and_forms_act_together(mode: Mode) -> None:
    layer = convolution()
    x = seen_by(layer)
    deltas: list[Delta] = [lora(layer), lora(layer, 9, rank=2), tucker_lora(layer)]
    expected = layer(x) + sum(with_delta(layer, x, d, 0.4, "fold") - layer(x) for d in deltas)
    assert distance(with_delta(layer, x, deltas, 0.4, mode), expected) < 1e-5


def test_a_lora_in_a_slot_keeps_what_a_half_type_would_round_away() -> None:
    """Each weight moves by less than it is rounded by, but all of them in one direction."""
    width, step = 256, 0.003
    layer = Linear(width, 2, bias=False).to(torch.bfloat16).requires_grad_(False)
    with torch.no_grad():
        layer.weight.copy_(random(2, width).sign() * 1.5)
    delta = LowRank(torch.full((2, 1), step), torch.ones(1, width))
    x = torch.ones(1, width, dtype=torch.bfloat16)
    plain = layer(x)
    folded, auto = (with_delta(layer, x, delta, mode=mode) for mode in ("fold", "auto"))
    assert torch.equal(folded, plain)
    assert torch.allclose((auto - plain).float(), torch.tensor(step * width), rtol=0.1)
    assert auto.dtype == torch.bfloat16
    wide = layer.float()
    assert torch.allclose(
        with_delta(wide, x, delta) - wide(x), torch.tensor(step * width), rtol=1e-3
    )


@pytest.mark.parametrize("mode", ["fold", "slot"])
def test_a_picture_without_ends_has_none_with_an_adapter(mode: Mode) -> None:
    layer = Conv2d(IN, OUT, 3, padding=1).requires_grad_(False)
    x = random(1, IN, 6, 6)
    with wrapped(layer, x=True, y=True):
        rolled = with_delta(layer, x.roll((2, 3), (2, 3)), lora(layer), mode=mode)
        assert torch.allclose(
            rolled, with_delta(layer, x, lora(layer), mode=mode).roll((2, 3), (2, 3)), atol=1e-5
        )


@each_layer
def test_a_linear_and_a_1x1_convolution_take_each_others_tensors(make: type[Linear]) -> None:
    flat, point = linear(), convolution(1, 1)
    with torch.no_grad():
        point.weight.copy_(flat.weight[..., None, None])
        point.bias.copy_(flat.bias)
    of = convolution(1, 1) if make is linear else linear()
    x = random(2, IN, 5, 1)
    for kind in ("lora", "loha", "lokr", "full", "glora"):
        delta = KINDS[kind](of)
        assert delta.fits((OUT, IN)) and delta.fits((OUT, IN, 1, 1))
        for mode in ("fold", "slot"):
            rows = with_delta(flat, x[..., 0].mT, delta, mode=mode)  # type: ignore[arg-type]
            places = with_delta(point, x, delta, mode=mode)  # type: ignore[arg-type]
            assert torch.allclose(rows.mT, places[..., 0], atol=1e-5)


def test_both_norms_of_dora_differ_and_each_is_what_it_says() -> None:
    layer = linear()
    magnitude = 1 + random(OUT, seed=7).abs()
    weight, change = layer.weight, lora(layer).change(layer.weight)
    for norm, of in (("changed", weight + change), ("base", weight)):
        delta = Decomposed(lora(layer), magnitude, norm=norm)  # type: ignore[arg-type]
        expected = (magnitude / of.norm(dim=1))[:, None] * (weight + change)
        assert torch.allclose(weight + delta.change(weight), expected, atol=1e-5)


def test_a_row_of_zeros_has_a_direction_of_zeros_under_dora() -> None:
    layer = linear()
    with torch.no_grad():
        layer.weight[3] = 0
    delta = Decomposed(Difference(torch.zeros(OUT, IN)), torch.ones(OUT))
    assert torch.isfinite(delta.change(layer.weight)).all()


def test_a_channels_last_weight_stays_so() -> None:
    layer = convolution().to(memory_format=torch.channels_last)
    parts = {"unet": nn.ModuleDict({"layer": layer})}
    with attached(parts, [(adapter(layer=lora(layer)), Strengths())]):
        assert layer.weight.is_contiguous(memory_format=torch.channels_last)


@each_kind
@pytest.mark.parametrize("mode", ["fold", "slot"])
def test_adapters_that_were_read_to_another_device_act_where_the_layer_is(
    kind: str, mode: Mode
) -> None:
    layer = convolution()
    delta = KINDS[kind](layer)
    layer.to("meta")
    x = seen_by(layer).to("meta")
    assert with_delta(layer, x, delta, 0.5, mode).device.type == "meta"
    assert all(p.device.type == "cpu" for p in delta.parameters())


# -- fitting --------------------------------------------------------------------------------------


@each_kind
def test_a_kind_fits_its_layer_and_no_other(kind: str) -> None:
    for layer in (linear(), convolution()):
        delta, shape = KINDS[kind](layer), tuple(layer.weight.shape)
        assert delta.fits(shape)
        kernel = kernel_of(layer)
        wrong = [(OUT,), (OUT + 1, IN, *kernel), (0, IN, *kernel), (OUT, IN, 1, 1, 1)]
        if kind not in ("ia3", "oft", "boft"):  # they know one side of a weight only
            wrong += [(OUT, IN + 1, *kernel), (OUT, IN, 5, 5)]
        for other in wrong:
            assert not delta.fits(other), (kind, other)
        change = delta.change(layer.weight)
        assert change.shape == shape and change.dtype == torch.float32
        assert torch.allclose(delta.changed(layer.weight), layer.weight + change, atol=1e-5)


def test_a_group_norm_of_a_unet_is_changed_by_a_difference() -> None:
    norm, x = filled(GroupNorm(4, IN, 1e-5)), random(1, IN, 4, 4)
    difference = norm_difference(IN)
    changed = with_delta(norm, x, difference, 0.5)
    with torch.no_grad():
        norm.weight.add_(0.5 * difference.weight)
        norm.bias.add_(0.5 * difference.bias)
    assert torch.allclose(changed, norm(x), atol=1e-6)


# -- a whole model ---------------------------------------------------------------------------------


@torch.no_grad()
def test_every_kind_on_every_layer_of_a_unet_and_a_text_encoder_comes_and_goes() -> None:
    unet = UNet(tiny(FAMILIES["sdxl"].ours)).eval()
    text = ClipText(ClipTextConfig(2, 16, 2, 24, "gelu", 12, 30, 16, 29)).eval()
    randomise(unet)
    randomise(text)
    parts = {"unet": unet, "text_encoder": text}
    given = (random(1, 4, 8, 8), torch.tensor([500.0]), random(1, 5, 12), random(1, 20))
    ids = torch.tensor([[1, 5, 9, 29]])
    plain, read = unet(*given), text(ids).pooled
    before = {part: state(net) for part, net in parts.items()}
    matrices = {
        part: {p: m for p, m in net.named_modules() if isinstance(m, (Linear, Conv2d))}
        for part, net in parts.items()
    }

    def small(layer: nn.Module) -> LowRank:
        out, inner, *kernel = layer.weight.shape  # type: ignore[union-attr,misc]
        return LowRank(random(out, 2) / 4, random(2, inner, *kernel) / 4)

    def decomposed(layer: nn.Module) -> Delta:
        return Decomposed(small(layer), layer.weight.flatten(1).norm(dim=1) * 1.1)  # type: ignore

    order = [
        (
            Adapter(
                f.__name__,
                {part: {p: f(m) for p, m in ms.items()} for part, ms in matrices.items()},
            ),
            Strengths(0.8, 0.4),
        )
        for f in (small, decomposed)
    ]
    with attached(parts, order):
        assert distance(unet(*given), plain) > 0.05
        assert distance(text(ids).pooled, read) > 0.05
    assert all(same(before[part], state(net)) for part, net in parts.items())
    assert torch.equal(unet(*given), plain) and torch.equal(text(ids).pooled, read)


@torch.no_grad()
def test_ia3_and_oft_leave_what_they_should() -> None:
    """A factor keeps directions, a rotation keeps lengths."""
    weight = linear().weight
    scaled = weight + ia3(linear()).change(weight)
    cosine = nn.functional.cosine_similarity(scaled, weight, dim=1)
    assert torch.allclose(cosine.abs(), torch.ones(OUT), atol=1e-5)
    turned = weight + oft(linear()).change(weight)
    assert torch.allclose(turned.norm(dim=0), weight.norm(dim=0), atol=1e-5)
    assert distance(turned, weight) > 0.1
    assert full(linear()).additive and not oft(linear()).additive


@each_layer
def test_glora_that_leaves_the_weight_alone_is_a_lora_in_either_form(make: type[Linear]) -> None:
    layer = make()
    nothing = torch.zeros(IN, 2), torch.zeros(2, IN)
    for of in (lora(layer), tucker_lora(layer)):
        b1, b2 = of.up.detach(), of.down.detach()
        bm = None if of.mid is None else of.mid.detach()
        delta = Generalised(*nothing, b1, b2, bm=bm, scale=of.scale)
        assert delta.fits(tuple(layer.weight.shape))
        assert torch.allclose(delta.change(layer.weight), of.change(layer.weight), atol=1e-5)
