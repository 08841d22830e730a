"""Laws of the U-Net, with Diffusers' as the oracle for every family."""

import copy
from dataclasses import dataclass, replace

import pytest
import torch
from diffusers.models.attention_processor import PAGCFGIdentitySelfAttnProcessor2_0
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor

from safelight.errors import CheckpointError
from safelight.models.layers import guidance_embedding, timestep_embedding
from safelight.models.unet import Residuals, UNet, UNetConfig, heads_of_width
from safelight.models.unet_configs import SD15, SD21, SDXL, SSD_1B
from unet_published import FAMILIES, TINY_CONTEXT, TINY_VECTOR, tiny, twins

FULL_SIZE = ("sd15", "sd21", "sdxl", "sdxl-refiner", "x4-upscaler", "ssd-1b")


@dataclass(frozen=True)
class Inputs:
    """The same question for both networks."""

    x: Tensor
    time: Tensor
    context: Tensor
    vector: Tensor | None = None
    level: Tensor | None = None
    guidance_scale: Tensor | None = None


def inputs(config: UNetConfig, size: tuple[int, int] = (16, 16), batch: int = 2) -> Inputs:
    generator = torch.Generator().manual_seed(1)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    vector = None
    if config.vector_width is not None and config.vector_module == "class_embedding":
        vector = normal(batch, TINY_VECTOR)
    elif config.vector_width is not None:
        sizes = timestep_embedding(SIZES.expand(batch, 3), 4).flatten(1)
        vector = torch.cat([normal(batch, TINY_VECTOR - 12), sizes], dim=1)
    return Inputs(
        x=normal(batch, config.in_channels, *size),
        time=torch.tensor([999.0, 123.456, 0.25, 500.5])[:batch],
        context=normal(batch, 7, TINY_CONTEXT),
        vector=vector,
        level=None if config.noise_levels is None else torch.tensor([20, 350, 0, 999])[:batch],
        guidance_scale=None
        if config.guidance_width is None
        else torch.tensor([7.5, 1.0, 12.0, 3.0])[:batch],
    )


SIZES = torch.tensor([64.0, 48.0, 16.0])


def ask(network: UNet, given: Inputs, **extra: object) -> Tensor:
    return network(
        given.x,
        given.time,
        given.context,
        given.vector,
        level=given.level,
        guidance_scale=given.guidance_scale,
        **extra,
    )


def ask_diffusers(network: UNet2DConditionModel, given: Inputs, **extra: object) -> Tensor:
    kwargs = dict(extra)
    if network.config.addition_embed_type == "text_time":
        assert given.vector is not None
        kwargs["added_cond_kwargs"] = {
            "text_embeds": given.vector[:, : TINY_VECTOR - 12],
            "time_ids": SIZES.expand(len(given.x), 3),
        }
    elif given.vector is not None:
        kwargs["class_labels"] = given.vector
    elif given.level is not None:
        kwargs["class_labels"] = given.level
    if given.guidance_scale is not None:
        width = network.config.time_cond_proj_dim
        kwargs["timestep_cond"] = guidance_embedding(given.guidance_scale, width)
    return network(given.x, given.time, given.context, **kwargs).sample


def assert_same(mine: Tensor, theirs: Tensor, tolerance: float = 1e-4) -> None:
    """max |difference| is at most `tolerance` standard deviations of the reference."""
    assert mine.shape == theirs.shape
    assert theirs.std() > 0.1, "the oracle's output is too small to tell anything"
    difference = (mine - theirs).abs().max() / theirs.std()
    assert difference <= tolerance, f"{difference:.2e} standard deviations apart"


@pytest.mark.parametrize("name", FAMILIES)
@torch.no_grad()
def test_every_family_agrees_with_diffusers(name: str) -> None:
    mine, theirs = twins(name)
    given = inputs(mine.config)
    assert_same(ask(mine, given), ask_diffusers(theirs, given))


@pytest.mark.parametrize("name", ["sd15", "sdxl", "x4-upscaler", "tiny-sd"])
@pytest.mark.parametrize("size", [(13, 9), (8, 11), (1, 5)])
@torch.no_grad()
def test_odd_sizes_agree_with_diffusers(name: str, size: tuple[int, int]) -> None:
    mine, theirs = twins(name)
    given = inputs(mine.config, size, batch=1)
    answer = ask(mine, given)
    assert answer.shape[2:] == size
    assert_same(answer, ask_diffusers(theirs, given))


@pytest.mark.parametrize("name", FULL_SIZE)
def test_keys_and_shapes_of_the_published_size_are_those_of_diffusers(name: str) -> None:
    family = FAMILIES[name]
    with torch.device("meta"):
        mine = UNet(family.ours).state_dict()
        theirs = UNet2DConditionModel(**family.theirs).state_dict()
    assert {k: v.shape for k, v in mine.items()} == {k: v.shape for k, v in theirs.items()}


@pytest.mark.parametrize(
    ("name", "tensors", "parameters"),
    [
        ("sd15", 686, 859_520_964),
        ("sd21", 686, 865_910_724),
        ("sdxl", 1680, 2_567_463_684),
        ("koala-700m", 584, 782_822_724),
        ("small-sd", 442, 579_384_964),
        ("tiny-sd", 358, 323_384_964),
    ],
)
def test_published_sizes_have_the_published_numbers_of_weights(
    name: str, tensors: int, parameters: int
) -> None:
    with torch.device("meta"):
        network = UNet(FAMILIES[name].ours)
    assert len(network.state_dict()) == tensors
    assert sum(p.numel() for p in network.parameters()) == parameters


def test_a_network_built_on_meta_is_complete_once_its_weights_are_assigned() -> None:
    mine, _ = twins("sdxl")
    with torch.device("meta"):
        built = UNet(mine.config)
    assert all(t.is_meta for t in [*built.parameters(), *built.buffers()])
    built.load_state_dict(mine.state_dict(), strict=True, assign=True)
    given = inputs(mine.config)
    assert torch.equal(ask(built.eval(), given), ask(mine, given))


@torch.no_grad()
def test_the_guidance_scale_reaches_a_distilled_network() -> None:
    mine, theirs = twins("lcm")
    given = inputs(mine.config)
    without = replace(given, guidance_scale=None)
    assert_same(ask(mine, without), ask_diffusers(theirs, without))
    assert (ask(mine, given) - ask(mine, without)).abs().max() > 0.01


@pytest.mark.parametrize("name", ["sd15", "sdxl", "ssd-1b"])
@torch.no_grad()
def test_control_residuals_agree_with_diffusers(name: str) -> None:
    mine, theirs = twins(name)
    given = inputs(mine.config, (9, 16))
    generator = torch.Generator().manual_seed(2)
    shapes = skip_shapes(mine, given)
    residuals = Residuals(
        tuple(torch.randn(shape, generator=generator) for shape in shapes),
        torch.randn(shapes[-1], generator=generator),
    )
    answer = ask(mine, given, residuals=residuals)
    reference = ask_diffusers(
        theirs,
        given,
        down_block_additional_residuals=residuals.skips,
        mid_block_additional_residual=residuals.mid,
    )
    assert_same(answer, reference)
    assert (answer - ask(mine, given)).abs().max() > 0.01


def skip_shapes(network: UNet, given: Inputs) -> list[torch.Size]:
    """Shapes of what the way down leaves, in the order made."""
    shapes = [torch.Size((len(given.x), network.config.channels[0], *given.x.shape[2:]))]
    hooks = [
        block.register_forward_hook(lambda _, __, out: shapes.extend(t.shape for t in out[1]))
        for block in network.down_blocks
    ]
    ask(network, given)
    for hook in hooks:
        hook.remove()
    return shapes


def test_a_residual_too_few_is_refused() -> None:
    mine, _ = twins("sd15")
    given = inputs(mine.config)
    with pytest.raises(ValueError, match="zip"):
        ask(mine, given, residuals=Residuals((torch.zeros(1),)))


# Not the families without a middle: there Diffusers 0.42 scales the first skip too, since it
# multiplies in place and the two are one tensor.
@pytest.mark.parametrize("name", ["sd15", "sdxl", "small-sd"])
@pytest.mark.parametrize("size", [(16, 16), (13, 9)])
@torch.no_grad()
def test_freeu_agrees_with_diffusers(name: str, size: tuple[int, int]) -> None:
    mine, theirs = twins(name)
    given = inputs(mine.config, size)
    b1, b2, s1, s2 = 1.5, 1.6, 0.9, 0.2
    theirs.enable_freeu(s1=s1, s2=s2, b1=b1, b2=b2)
    try:
        reference = ask_diffusers(theirs, given)
    finally:
        theirs.disable_freeu()
    answer = ask(mine, given, freeu=(b1, b2, s1, s2))
    assert_same(answer, reference)
    assert (answer - ask(mine, given)).abs().max() > 0.01


@torch.no_grad()
def test_freeu_with_factors_of_one_changes_nothing() -> None:
    mine, _ = twins("sd15")
    given = inputs(mine.config)
    assert_same(ask(mine, given, freeu=(1.0, 1.0, 1.0, 1.0)), ask(mine, given), 1e-5)


@pytest.mark.parametrize(
    "chosen", [("mid_block.attentions.0",), ("down_blocks.1.attentions.1", "up_blocks.1")]
)
@torch.no_grad()
def test_identity_attention_agrees_with_diffusers(chosen: tuple[str, ...]) -> None:
    mine, theirs = twins("sdxl")
    given = inputs(mine.config, batch=1)
    perturbed = copy.deepcopy(theirs)
    for path, processor in perturbed.attn_processors.items():
        if "attn1" in path and path.startswith(chosen):
            processor = PAGCFGIdentitySelfAttnProcessor2_0()
        perturbed.get_submodule(path.removesuffix(".processor")).set_processor(processor)
    # Diffusers' processor perturbs the last third of its batch.
    thrice = Inputs(*(None if t is None else torch.cat([t] * 3) for t in vars(given).values()))
    reference = ask_diffusers(perturbed, thrice)
    assert_same(ask(mine, given, identity_attention=chosen), reference[2:])
    assert_same(ask(mine, given), reference[:1])
    assert (reference[2:] - reference[:1]).abs().max() > 0.01


def test_self_attentions_names_modules_and_leaves_out_those_that_look_at_the_text_only() -> None:
    for name in ("sd15", "sdxl", "koala-700m", "ssd-1b"):
        mine, _ = twins(name)
        stacks = [n for n, _ in mine.named_modules() if n.rpartition(".")[0].endswith("attentions")]
        assert sorted(mine.self_attentions()) == sorted(stacks)
    upscaler, _ = twins("x4-upscaler")
    assert upscaler.self_attentions() == (
        "down_blocks.3.attentions.0",
        "down_blocks.3.attentions.1",
        "mid_block.attentions.0",
        "up_blocks.0.attentions.0",
        "up_blocks.0.attentions.1",
        "up_blocks.0.attentions.2",
    )


@torch.no_grad()
def test_asking_for_the_map_does_not_change_the_output() -> None:
    for name in ("sd15", "sdxl"):
        mine, _ = twins(name)
        given = inputs(mine.config, (13, 9))
        output, weights = mine.with_attention(given.x, given.time, given.context, given.vector)
        assert torch.equal(output, ask(mine, given))
        shrink = 2 ** (mine.config.levels - 1)
        tokens = -(-13 // shrink) * -(-9 // shrink)
        assert weights.shape == (2, mine.config.heads[-1], tokens, tokens)
        torch.testing.assert_close(weights.sum(-1), torch.ones(weights.shape[:3]))


@torch.no_grad()
def test_the_map_is_that_of_the_middle_s_first_self_attention() -> None:
    mine, theirs = twins("sdxl")
    given = inputs(mine.config)
    attention = theirs.mid_block.attentions[0].transformer_blocks[0].attn1
    seen: list[Tensor] = []
    hook = attention.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    ask_diffusers(theirs, given)
    hook.remove()
    query = attention.head_to_batch_dim(attention.to_q(seen[0]))
    key = attention.head_to_batch_dim(attention.to_k(seen[0]))
    reference = attention.get_attention_scores(query, key).unflatten(0, (2, attention.heads))
    _, weights = mine.with_attention(given.x, given.time, given.context, given.vector)
    torch.testing.assert_close(weights, reference, atol=1e-5, rtol=1e-4)


def test_gradients_reach_every_weight_and_checkpointing_does_not_change_them() -> None:
    mine = copy.deepcopy(twins("sdxl")[0]).train()
    given = inputs(mine.config, (8, 8))
    gradients = []
    for checkpointing in (False, True):
        mine.zero_grad()
        ask(mine, given, checkpointing=checkpointing).square().mean().backward()
        gradients.append({n: p.grad.clone() for n, p in mine.named_parameters()})  # type: ignore[union-attr]
    plain, recomputed = gradients
    assert all(g.abs().max() > 0 for g in plain.values())
    for name, gradient in plain.items():
        torch.testing.assert_close(recomputed[name], gradient, msg=name)


def test_checkpointing_keeps_fewer_activations() -> None:
    mine = copy.deepcopy(twins("sdxl")[0]).train()
    given = inputs(mine.config, (8, 8))
    kept = []
    for checkpointing in (False, True):
        sizes: list[int] = []

        def pack(t: Tensor, sizes: list[int] = sizes) -> Tensor:
            sizes.append(t.numel())
            return t

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            ask(mine, given, checkpointing=checkpointing)
        kept.append(sum(sizes))
    assert kept[1] < kept[0] / 3


@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [(torch.float64, 1e-4), (torch.bfloat16, 0.15), (torch.float16, 0.04)],
)
@pytest.mark.parametrize("name", ["sd15", "sdxl"])
@torch.no_grad()
def test_every_type_and_memory_format_gives_the_same_picture(
    name: str, dtype: torch.dtype, tolerance: float
) -> None:
    mine, _ = twins(name)
    given = inputs(mine.config, (16, 12))
    expected = ask(mine, given)
    cast = copy.deepcopy(mine).to(dtype)
    answer = ask(cast, given)
    assert answer.dtype == dtype
    assert_same(answer.float(), expected, tolerance)
    cast = cast.to(memory_format=torch.channels_last)
    last = ask(cast, replace(given, x=given.x.to(memory_format=torch.channels_last)))
    assert last.is_contiguous(memory_format=torch.channels_last)
    assert_same(last.float(), expected, tolerance)


@torch.no_grad()
def test_channels_last_survives_every_level() -> None:
    mine = copy.deepcopy(twins("sd15")[0]).to(memory_format=torch.channels_last)
    given = inputs(mine.config)
    formats = {}
    for path, module in mine.named_modules():
        if path.rpartition(".")[0].endswith(("resnets", "attentions", "samplers")):
            module.register_forward_hook(
                lambda _, __, out, path=path: formats.update(
                    {path: out.is_contiguous(memory_format=torch.channels_last)}
                )
            )
    ask(mine, replace(given, x=given.x.to(memory_format=torch.channels_last)))
    assert formats
    assert not [path for path, last in formats.items() if not last]


@torch.no_grad()
def test_the_time_is_not_rounded_in_a_half_precision_network() -> None:
    mine = copy.deepcopy(twins("sd15")[0]).to(torch.bfloat16)
    given = inputs(mine.config, batch=1)
    # 999 and 1000 are the same number in bfloat16.
    at = [ask(mine, replace(given, time=torch.tensor([t]))) for t in (999.0, 1000.0)]
    assert not torch.equal(*at)


@pytest.mark.slow
@torch.no_grad()
def test_the_forward_pass_is_one_graph() -> None:
    mine, _ = twins("sdxl")
    given = inputs(mine.config)
    arguments = (given.x, given.time, given.context, given.vector)
    whole = torch.compile(mine, backend="eager", fullgraph=True)
    assert_same(whole(*arguments), mine(*arguments), 1e-5)  # a graph has kernels of its own
    torch.compiler.reset()


@pytest.mark.slow
@torch.no_grad()
def test_the_forward_pass_can_be_exported() -> None:
    mine, _ = twins("sdxl")
    given = inputs(mine.config)
    arguments = (given.x, given.time, given.context, given.vector)
    exported = torch.export.export(mine, arguments)
    torch.testing.assert_close(exported.module()(*arguments), mine(*arguments))


def test_a_network_keeps_nothing_of_what_it_was_told() -> None:
    mine, _ = twins("sdxl")
    given = inputs(mine.config)
    before = ask(mine, given)
    names = mine.self_attentions()
    ask(mine, given, freeu=(1.5, 1.6, 0.9, 0.2), identity_attention=names, checkpointing=True)
    assert torch.equal(ask(mine, given), before)


def test_heads_are_64_wide_from_sd2_on_and_8_in_number_before() -> None:
    assert SD15.heads == (8, 8, 8, 8)
    assert SD21.heads == (5, 10, 20, 20)
    assert SDXL.heads == (5, 10, 20)
    assert heads_of_width((64, 128, 192), 32) == (2, 4, 6)


def test_depths_on_the_way_up_mirror_those_on_the_way_down_unless_given() -> None:
    assert SDXL.depths_up == ((10, 10, 10), (2, 2, 2), (0, 0, 0))
    assert SSD_1B.depths_up == ((4, 4, 10), (2, 1, 1), (0, 0, 0))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"channels": (320, 640)}, "one entry for each level; got 2, 4 and 4"),
        ({"channels": (330, 640, 1280, 1280)}, "330 channels at level 0 are no multiple of 32"),
        ({"mid_depth": -1}, "mid_depth must be None, 0 or positive; got -1"),
        ({"heads": (8, 7, 8, 8)}, "640 channels at level 1 do not divide into 7 heads"),
        ({"depths": ((1, 0), (1, 1), (1, 1), (0, 0))}, "up_depths must be given"),
        ({"up_depths": ((0, 0, 0), (1, 1, 1), (1, 1), (1, 1, 1))}, "one block more"),
        ({"depths": ((-1, -1), (1, 1), (1, 1), (0, 0))}, "all 0 or all positive"),
        (
            {"noise_levels": 10, "vector_width": 8, "vector_module": "class_embedding"},
            "cannot hold both",
        ),
    ],
)
def test_sizes_that_do_not_fit_together_are_refused(change: dict[str, object], words: str) -> None:
    with pytest.raises(CheckpointError, match=words):
        replace(SD15, **change)  # type: ignore[arg-type]


def test_every_tiny_copy_is_a_valid_config() -> None:
    assert all(tiny(family.ours).levels == family.ours.levels for family in FAMILIES.values())
