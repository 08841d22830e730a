"""Laws of ControlNets and T2I-Adapters, with Diffusers' as the oracles."""

import copy
from dataclasses import replace

import pytest
import torch
from diffusers.models.controlnets.multicontrolnet import MultiControlNetModel
from torch import Tensor, nn

from controls_tiny import (
    ADAPTERS,
    UNION,
    adapter_twins,
    config,
    controlnet_twins,
    pictures,
    union_twins,
)
from models_tiny import distance
from safelight.condition import Condition, Control
from safelight.errors import CheckpointError, RequestError
from safelight.models.backbone import Backbone
from safelight.models.controlnet import ControlNet, ControlNetConfig, UnionConfig, controlnet_of
from safelight.models.layers import timestep_embedding
from safelight.models.t2i_adapter import T2IAdapter, T2IAdapterConfig
from safelight.models.unet import Residuals
from safelight.models.unet_configs import SD15, SDXL
from unet_published import TINY_CONTEXT, TINY_VECTOR, twins

NAMES = ["sd15", "sd21", "sdxl", "sdxl-refiner", "sd21-unclip-l"]
SIZES = torch.tensor([64.0, 48.0, 16.0])
TIME = torch.tensor([901.0, 123.5])


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def latents(height: int = 16, width: int = 8, batch: int = 2) -> Tensor:
    return normal(batch, 4, height, width, seed=1)


def condition(name: str, batch: int = 2) -> Condition:
    family = twins(name)[0].config
    vector = None
    if family.vector_width is not None and family.vector_module == "class_embedding":
        vector = normal(batch, TINY_VECTOR, seed=3)
    elif family.vector_width is not None:
        sizes = timestep_embedding(SIZES.expand(batch, 3), 4).flatten(1)
        vector = torch.cat([normal(batch, TINY_VECTOR - 12, seed=3), sizes], 1)
    return Condition(normal(batch, 7, TINY_CONTEXT, seed=2), vector)


def told(network: nn.Module, given: Condition) -> dict[str, object]:
    """The condition as Diffusers' networks take it."""
    kwargs: dict[str, object] = {"encoder_hidden_states": given.context}
    if network.config.addition_embed_type == "text_time":  # type: ignore[union-attr]
        assert given.vector is not None
        batch = given.batch
        pooled = given.vector[:, : TINY_VECTOR - 12]
        kwargs["added_cond_kwargs"] = {"text_embeds": pooled, "time_ids": SIZES.expand(batch, 3)}
    elif given.vector is not None:
        kwargs["class_labels"] = given.vector
    return kwargs


def assert_same_residuals(
    ours: Residuals, down: list[Tensor], mid: Tensor, tolerance: float = 1e-4
) -> None:
    assert len(ours.skips) == len(down) and ours.mid is not None
    for mine, theirs in zip((*ours.skips, ours.mid), (*down, mid), strict=True):
        assert theirs.std() > 1e-2
        assert distance(mine, theirs) < tolerance


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_every_family_s_residuals_agree_with_diffusers(name: str) -> None:
    mine, theirs = controlnet_twins(name)
    given, x, image = condition(name), latents(), pictures(2, 3, 128, 64)
    down, mid = theirs(x, TIME, controlnet_cond=image, return_dict=False, **told(theirs, given))
    seen = mine.look(image)
    assert_same_residuals(mine(x, TIME, given.context, given.vector, seen=seen), down, mid)


@pytest.mark.parametrize(
    "changes",
    [{"global_pool_conditions": True}, {"controlnet_conditioning_channel_order": "bgr"}],
    ids=["averaged", "blue first"],
)
@torch.no_grad()
def test_options_agree_with_diffusers(changes: dict[str, object]) -> None:
    mine, theirs = controlnet_twins("sd15", **changes)
    given, x, image = condition("sd15"), latents(), pictures(2, 3, 128, 64)
    down, mid = theirs(x, TIME, controlnet_cond=image, return_dict=False, **told(theirs, given))
    made = mine(x, TIME, given.context, seen=mine.look(image))
    assert_same_residuals(made, down, mid)
    plain = controlnet_twins("sd15")[0]
    other = plain(x, TIME, given.context, seen=plain.look(image))
    assert (
        other.skips[3].shape != made.skips[3].shape
        or distance(other.skips[3], made.skips[3]) > 0.01
    )


@pytest.mark.parametrize("name", ["sd15", "sdxl"])
@torch.no_grad()
def test_two_controls_with_scales_agree_with_diffusers_sum(name: str) -> None:
    unet, their_unet = twins(name)
    nets = {f"net{i}": controlnet_twins(name, seed=i + 1) for i in range(2)}
    images = [pictures(2, 3, 128, 64, seed=i) for i in range(2)]
    scales, given, x = [0.7, 1.3], condition(name), latents()
    both = MultiControlNetModel([theirs for _, theirs in nets.values()])
    down, mid = both(
        x,
        TIME,
        controlnet_cond=images,
        conditioning_scale=scales,
        return_dict=False,
        **told(their_unet, given),
    )
    reference = their_unet(
        x,
        TIME,
        down_block_additional_residuals=down,
        mid_block_additional_residual=mid,
        **told(their_unet, given),
    ).sample
    backbone = Backbone(unet, control_networks={n: mine for n, (mine, _) in nets.items()})
    controls = tuple(Control(n, i, s) for n, i, s in zip(nets, images, scales, strict=True))
    answer = backbone(x, TIME, replace(given, controls=controls))
    assert distance(answer, reference) < 1e-4
    assert distance(answer, backbone(x, TIME, given)) > 0.1


@pytest.mark.parametrize("types", [(0,), (2,)])
@torch.no_grad()
def test_a_union_of_one_picture_agrees_with_diffusers(types: tuple[int, ...]) -> None:
    mine, theirs = union_twins()
    given, x, image = condition("sdxl", 1), latents(batch=1), pictures(1, 3, 128, 64)
    down, mid = _union(theirs, given, x, (image,), types)
    made = mine(x, TIME[:1], given.context, given.vector, seen=mine.look(image, types), types=types)
    assert_same_residuals(made, down, mid)


@torch.no_grad()
def test_a_union_of_two_pictures_agrees_with_diffusers() -> None:
    mine, theirs = union_twins()
    given, x = condition("sdxl", 1), latents(batch=1)
    images, types = [pictures(1, 3, 128, 64, seed=i) for i in range(2)], (2, 0)
    down, mid = _union(theirs, given, x, tuple(images), types)
    seen = mine.look(torch.cat(images, 1), types)
    made = mine(x, TIME[:1], given.context, given.vector, seen=seen, types=types)
    assert_same_residuals(made, down, mid)
    one = mine(
        x, TIME[:1], given.context, given.vector, seen=mine.look(images[0], (2,)), types=(2,)
    )
    assert distance(one.skips[2], made.skips[2]) > 0.01


def _union(
    network: nn.Module,
    given: Condition,
    x: Tensor,
    images: tuple[Tensor, ...],
    types: tuple[int, ...],
) -> tuple[list[Tensor], Tensor]:
    flags = torch.zeros(len(x), UNION.types)
    flags[:, list(types)] = 1
    down, mid = network(
        x,
        TIME[: len(x)],
        controlnet_cond=list(images),
        control_type=flags,
        control_type_idx=list(types),
        return_dict=False,
        **told(network, given),
    )
    return down, mid


@torch.no_grad()
def test_a_picture_of_a_union_does_not_depend_on_its_neighbours() -> None:
    mine, _ = union_twins()
    images = pictures(3, 3, 64, 64)
    together = mine.look(images, (1,))[0]
    alone = torch.cat([mine.look(images[i : i + 1], (1,))[0] for i in range(3)])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", list(ADAPTERS))
@torch.no_grad()
def test_the_features_of_adapters_agree_with_diffusers(name: str) -> None:
    mine, theirs = adapter_twins(name)
    image = pictures(2, mine.channels, 96, 80)
    ours, reference = mine.look(image), theirs(image)
    assert len(ours) == len(reference) == 4
    for feature, other in zip(ours, reference, strict=True):
        assert distance(feature, other) < 1e-4


@pytest.mark.parametrize(
    ("family", "name", "size"),
    [
        ("sd15", "full", (16, 8)),
        ("sd15", "light", (16, 8)),
        ("sd15", "full", (13, 9)),
        ("sd21", "full", (16, 8)),
        ("sdxl", "xl", (16, 8)),
        ("sdxl", "xl", (14, 10)),
    ],
)
@torch.no_grad()
def test_adapters_change_the_network_as_in_diffusers(
    family: str, name: str, size: tuple[int, int]
) -> None:
    unet, their_unet = twins(family)
    mine, theirs = adapter_twins(name)
    given, x = condition(family), latents(*size)
    image = pictures(2, 3, 8 * size[0], 8 * size[1])
    features = [0.8 * feature for feature in theirs(image)]
    reference = their_unet(
        x,
        TIME,
        down_intrablock_additional_residuals=[f.clone() for f in features],
        **told(their_unet, given),
    ).sample
    backbone = Backbone(unet, control_networks={"a": mine})
    answer = backbone(x, TIME, replace(given, controls=(Control("a", image, 0.8),)))
    assert distance(answer, reference) < 1e-4
    assert distance(answer, backbone(x, TIME, given)) > 0.01


@torch.no_grad()
def test_an_adapter_and_a_controlnet_work_together_as_in_diffusers() -> None:
    unet, their_unet = twins("sd15")
    adapter, their_adapter = adapter_twins("full")
    net, their_net = controlnet_twins("sd15")
    given, x, image = condition("sd15"), latents(), pictures(2, 3, 128, 64)
    down, mid = their_net(
        x, TIME, controlnet_cond=image, return_dict=False, **told(their_net, given)
    )
    reference = their_unet(
        x,
        TIME,
        down_block_additional_residuals=down,
        mid_block_additional_residual=mid,
        down_intrablock_additional_residuals=list(their_adapter(image)),
        **told(their_unet, given),
    ).sample
    backbone = Backbone(unet, control_networks={"a": adapter, "b": net})
    both = (Control("a", image), Control("b", image))
    assert distance(backbone(x, TIME, replace(given, controls=both)), reference) < 1e-4


@torch.no_grad()
def test_pictures_looked_at_beforehand_give_the_same_bits() -> None:
    unet, _ = twins("sd15")
    nets = {"a": adapter_twins("full")[0], "b": controlnet_twins("sd15")[0]}
    backbone = Backbone(unet, control_networks=nets)
    given, x, image = condition("sd15"), latents(), pictures(2, 3, 128, 64)
    given = replace(given, controls=(Control("a", image), Control("b", image, 0.5)))
    prepared = backbone.prepared(given)
    assert [len(c.seen) for c in prepared.controls] == [4, 1]
    assert torch.equal(backbone(x, TIME, prepared), backbone(x, TIME, given))


@torch.no_grad()
def test_a_control_of_scale_zero_or_weights_zero_is_no_control_bit_for_bit() -> None:
    unet, _ = twins("sd15")
    net = copy.deepcopy(controlnet_twins("sd15")[0])
    net.conv_in.weight.fill_(torch.nan)  # were it asked, all would be NaN
    backbone = Backbone(unet, control_networks={"a": net})
    given, x, image = condition("sd15"), latents(), pictures(2, 3, 128, 64)
    plain = backbone(x, TIME, given)
    for idle in (Control("a", image, 0.0), Control("a", image, weights=(0.0,) * 13)):
        assert torch.equal(backbone(x, TIME, replace(given, controls=(idle,))), plain)
    loud = replace(given, controls=(Control("a", image),))
    assert not torch.isfinite(backbone(x, TIME, loud)).all()


@torch.no_grad()
def test_weights_count_residuals_one_by_one() -> None:
    unet, _ = twins("sd15")
    net = controlnet_twins("sd15")[0]
    backbone = Backbone(unet, control_networks={"a": net})
    given, x, image = condition("sd15"), latents(), pictures(2, 3, 128, 64)
    weights = tuple(i / 12 for i in range(13))
    control = Control("a", image, 0.5, weights)
    made = net(x, TIME, given.context, seen=net.look(image))
    assert made.mid is not None and net.residuals == 13
    skips = tuple(0.5 * w * r for w, r in zip(weights, made.skips, strict=False))
    direct = unet(x, TIME, given.context, residuals=Residuals(skips, 0.5 * made.mid))
    answer = backbone(x, TIME, replace(given, controls=(control,)))
    torch.testing.assert_close(answer, direct, atol=1e-5, rtol=0)
    short = replace(given, controls=(replace(control, weights=(1.0,) * 12),))
    with pytest.raises(RequestError, match="'a' adds 13 residuals, but 12 weights"):
        backbone(x, TIME, short)


@torch.no_grad()
def test_a_new_controlnet_adds_nothing_and_learns_everywhere() -> None:
    unet, _ = twins("sdxl")
    made = controlnet_of(unet, widths=(4, 6, 8, 10))
    given, x, image = condition("sdxl"), latents(), pictures(2, 3, 128, 64)
    backbone = Backbone(unet, control_networks={"new": made})
    controlled = replace(given, controls=(Control("new", image),))
    assert torch.equal(backbone(x, TIME, controlled), backbone(x, TIME, given))
    with torch.enable_grad():
        for parameter in made.parameters():
            parameter.requires_grad_(True)
        for residual in (*made.controlnet_down_blocks, made.controlnet_mid_block):
            nn.init.normal_(residual.weight, std=0.1)
        nn.init.normal_(made.controlnet_cond_embedding.conv_out.weight, std=0.1)
        backbone(x, TIME, controlled).square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in made.parameters())


@torch.no_grad()
def test_a_controlnet_for_an_inpainting_model_s_latents_takes_the_latents_alone() -> None:
    unet, _ = twins("sd15-inpaint")
    net = controlnet_twins("sd15")[0]
    backbone = Backbone(unet, control_networks={"a": net})
    x, image = latents(), pictures(2, 3, 128, 64)
    given = replace(condition("sd15"), concat=normal(2, 5, 16, 8, seed=9))
    made = net(x, TIME, given.context, seen=net.look(image))
    assert given.concat is not None
    direct = unet(torch.cat([x, given.concat], 1), TIME, given.context, residuals=made)
    answer = backbone(x, TIME, replace(given, controls=(Control("a", image),)))
    assert torch.equal(answer, direct)


def grey_and_coloured() -> tuple[Control, Control]:
    grey = pictures(2, 1, 128, 64)
    return Control("a", grey), Control("a", grey.expand(2, 3, 128, 64))


@torch.no_grad()
def test_an_adapter_of_grey_pictures_takes_coloured_ones() -> None:
    backbone = Backbone(twins("sd15")[0], control_networks={"a": adapter_twins("grey")[0]})
    given, x = condition("sd15"), latents()
    grey, coloured = (backbone(x, TIME, replace(given, controls=(c,))) for c in grey_and_coloured())
    torch.testing.assert_close(grey, coloured, atol=1e-5, rtol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@torch.no_grad()
def test_a_control_network_of_another_type_serves_the_same_unet(dtype: torch.dtype) -> None:
    unet, _ = twins("sdxl")
    given, x, image = condition("sdxl"), latents(), pictures(2, 3, 128, 64)
    answers = []
    for net in (controlnet_twins("sdxl")[0], copy.deepcopy(controlnet_twins("sdxl")[0]).to(dtype)):
        backbone = Backbone(unet, control_networks={"a": net})
        answers.append(backbone(x, TIME, replace(given, controls=(Control("a", image),))))
    assert 0 < distance(answers[1], answers[0]) < 0.2


@pytest.mark.parametrize(
    ("family", "control", "words"),
    [
        ("sd15", Control("b", pictures(1, 3, 128, 64)), r"called 'b' .*attached: a, adapter"),
        ("sd15", Control("a", pictures(1, 3, 64, 64)), "is 64x64, but .* 64x128; resize"),
        ("sd15", Control("a", pictures(1, 4, 128, 64)), "of 3 channels; got 4"),
        ("sd15", Control("a", pictures(1, 3, 128, 64), types=(1,)), "one kind of picture only"),
        ("sd15", Control("union", pictures(1, 3, 128, 64), types=(1,)), "another family: it has"),
        ("sdxl", Control("union", pictures(1, 3, 128, 64)), "which of its 3 types"),
        ("sdxl", Control("union", pictures(1, 3, 128, 64), types=(3,)), "types 0 to 2; got"),
        ("sdxl", Control("union", pictures(1, 3, 128, 64), types=(0, 1)), "of 6 channels; got 3"),
        ("sdxl", Control("adapter", pictures(1, 3, 128, 64)), "another family: its features are"),
        ("sdxl", Control("a", pictures(1, 3, 128, 64)), "levels of 8, 16, 24, 24 channels"),
        ("sdxl", Control("sd21", pictures(1, 3, 128, 64)), "another family"),
    ],
)
def test_a_control_that_does_not_fit_is_refused_in_words(
    family: str, control: Control, words: str
) -> None:
    nets = {
        "a": controlnet_twins("sd15")[0],
        "sd21": controlnet_twins("sd21")[0],
        "union": union_twins()[0],
        "adapter": adapter_twins("full")[0],
    }
    backbone = Backbone(twins(family)[0], control_networks=nets)
    given = replace(condition(family, 1), controls=(control,))
    with pytest.raises(RequestError, match=words) as caught:
        backbone(latents(batch=1), TIME[:1], given)
    assert "\n" not in str(caught.value)


def test_a_text_or_a_vector_of_another_width_is_named() -> None:
    net = controlnet_twins("sdxl")[0]
    with pytest.raises(RequestError, match="reads text 12 wide, and the model 9"):
        net.check_fits(replace(net.config, context_width=9))
    with pytest.raises(RequestError, match="a vector of 20, and the model 7"):
        net.check_fits(replace(net.config, vector_width=7))
    with pytest.raises(RequestError, match="takes 4 channels of latents, and the model 16"):
        net.check_fits(replace(net.config, in_channels=16, out_channels=16))
    net.check_fits(replace(net.config, in_channels=9))


def test_an_xl_adapter_needs_sides_that_are_multiples_of_sixteen() -> None:
    with pytest.raises(RequestError, match="multiples of 16; got 40x32"):
        adapter_twins("xl")[0].look(pictures(1, 3, 32, 40))


@pytest.mark.parametrize(
    ("network", "tensors"),
    [
        (ControlNetConfig(SD15), 340),
        (ControlNetConfig(SDXL), 844),
        (ControlNetConfig(SDXL, union=UnionConfig()), 863),
    ],
    ids=["SD 1.x", "XL", "union"],
)
def test_published_sizes_have_the_published_keys(network: ControlNetConfig, tensors: int) -> None:
    with torch.device("meta"):
        made = ControlNet(network)
    assert len(made.state_dict()) == tensors


@pytest.mark.parametrize(
    ("own", "words"),
    [
        (lambda: T2IAdapterConfig(down=(False,)), "one width and one halving"),
        (lambda: T2IAdapterConfig((6,), (False,), light=True), "multiples of 4"),
        (lambda: ControlNetConfig(SD15, channels=0), "cannot read 0 channels"),
    ],
)
def test_shapes_that_do_not_fit_together_are_refused(own: object, words: str) -> None:
    with pytest.raises(CheckpointError, match=words):
        own()  # type: ignore[operator]


def test_networks_built_on_meta_are_complete_once_their_weights_are_assigned() -> None:
    for mine, make in (
        (union_twins()[0], lambda: ControlNet(config("sdxl", UNION))),
        (adapter_twins("xl")[0], lambda: T2IAdapter(ADAPTERS["xl"][1])),
    ):
        with torch.device("meta"):
            built = make()
        built.load_state_dict(mine.state_dict(), strict=True, assign=True)
        assert not any(t.is_meta for t in [*built.parameters(), *built.buffers()])
