"""Laws of the border between a condition and the U-Net."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from safelight.condition import Condition, Control, ImagePrompt, Intervention, stack
from safelight.errors import RequestError
from safelight.models.attention import Attention
from safelight.models.backbone import Backbone
from safelight.models.unet import UNetConfig
from unet_published import TINY_CONTEXT, TINY_VECTOR, twins

TIME = torch.tensor([999.0, 123.456, 0.25])


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def condition(config: UNetConfig, batch: int = 3, latents: int = 4) -> Condition:
    extra = config.in_channels - latents
    return Condition(
        context=normal(batch, 7, TINY_CONTEXT, seed=1),
        vector=None if config.vector_width is None else normal(batch, TINY_VECTOR, seed=2),
        concat=normal(batch, extra, 8, 9, seed=3) if extra else None,
        level=None if config.noise_levels is None else torch.tensor([20, 0, 999])[:batch],
    )


def one(whole: Condition, i: int) -> Condition:
    def row(t: Tensor | None) -> Tensor | None:
        return None if t is None else t[i : i + 1]

    return Condition(
        whole.context[i : i + 1], row(whole.vector), row(whole.concat), row(whole.level)
    )


@pytest.mark.parametrize("name", ["sd15", "sd15-inpaint", "sd2-depth", "sdxl", "x4-upscaler"])
@torch.no_grad()
def test_a_batch_is_its_pictures_made_alone(name: str) -> None:
    network = Backbone(twins(name)[0])
    x, told = normal(3, 4, 8, 9), condition(network.unet.config)
    together = network(x, TIME, told)
    alone = [network(x[i : i + 1], TIME[i : i + 1], one(told, i)) for i in range(3)]
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-4, rtol=0)


@torch.no_grad()
def test_stacked_conditions_are_two_calls_in_one() -> None:
    network = Backbone(twins("sdxl")[0])
    x, first = normal(2, 4, 8, 9), condition(network.unet.config, batch=2)
    second = replace(first, context=-first.context)
    both = network(torch.cat([x, x]), TIME[:1], stack([first, second]))
    apart = torch.cat([network(x, TIME[0], c) for c in (first, second)])
    torch.testing.assert_close(both, apart, atol=1e-4, rtol=0)


@torch.no_grad()
def test_one_condition_and_one_time_serve_a_whole_batch() -> None:
    network = Backbone(twins("sdxl")[0])
    x, told = normal(3, 4, 8, 9), condition(network.unet.config, batch=1)
    repeated = stack([told] * 3)
    assert torch.equal(network(x, TIME[0], told), network(x, TIME[:1].expand(3), repeated))


def test_extra_channels_reach_the_first_convolution_after_the_latents() -> None:
    """Constant planes 1 to 9: latents 1-4, mask 5, masked picture 6-9."""
    network = Backbone(twins("sd15-inpaint")[0])
    planes = torch.arange(1.0, 10.0)[None, :, None, None].expand(1, 9, 8, 8)
    mask, masked = planes[:, 4:5], planes[:, 5:]
    seen: list[Tensor] = []
    hook = network.unet.conv_in.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    told = Condition(normal(1, 7, TINY_CONTEXT), concat=torch.cat([mask, masked], dim=1))
    network(planes[:, :4], TIME[:1], told)
    hook.remove()
    assert torch.equal(seen[0], planes)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@torch.no_grad()
def test_the_answer_is_float32_whatever_the_network_s_type(dtype: torch.dtype) -> None:
    reference = Backbone(twins("sdxl")[0])
    network = Backbone(copy.deepcopy(reference.unet).to(dtype))
    x, told = normal(3, 4, 8, 9), condition(reference.unet.config)
    answer, expected = network(x, TIME, told), reference(x, TIME, told)
    assert answer.dtype == torch.float32
    assert (answer - expected).abs().max() < 0.15 * expected.std()


@torch.no_grad()
def test_interventions_reach_the_network() -> None:
    network = Backbone(twins("sdxl")[0])
    x, told = normal(3, 4, 8, 9), condition(network.unet.config)
    plain = network(x, TIME, told)
    for intervention in (
        Intervention(identity_attention=("mid_block.attentions.0",)),
        Intervention(freeu=(1.5, 1.6, 0.9, 0.2)),
    ):
        direct = network.unet(
            x,
            TIME,
            told.context,
            told.vector,
            identity_attention=intervention.identity_attention,
            freeu=intervention.freeu,
        )
        answer = network(x, TIME, replace(told, intervention=intervention))
        assert torch.equal(answer, direct)
        assert (answer - plain).abs().max() > 0.01
    assert torch.equal(network(x, TIME, told), plain)


@torch.no_grad()
def test_the_attention_map_comes_with_the_same_output() -> None:
    network = Backbone(twins("sdxl")[0])
    x, told = normal(3, 4, 8, 9), condition(network.unet.config)
    output, weights = network.with_attention(x, TIME, told)
    assert torch.equal(output, network(x, TIME, told))
    assert output.dtype == weights.dtype == torch.float32
    assert weights.shape == (3, 2, 2 * 3, 2 * 3)


@pytest.mark.parametrize("name", ["koala-700m", "ssd-1b"])
def test_a_network_without_attention_in_the_middle_says_so(name: str) -> None:
    network = Backbone(twins(name)[0])
    with pytest.raises(RequestError, match="needs attention in the middle"):
        network.with_attention(normal(1, 4, 8, 9), TIME[:1], condition(network.unet.config, 1))


class Mean(nn.Module):
    """A branch that shows every query the mean of the image tokens."""

    def forward(self, query: Tensor, tokens: Tensor) -> Tensor:
        return tokens.mean().expand(query.shape)


@torch.no_grad()
def test_image_prompts_reach_the_branches_of_their_adapter() -> None:
    unet = copy.deepcopy(twins("sd15")[0])
    attention = unet.get_submodule("mid_block.attentions.0.transformer_blocks.0.attn2")
    assert isinstance(attention, Attention)
    attention.branches["portrait"] = Mean()
    network = Backbone(unet)
    x, told = normal(3, 4, 8, 9), condition(unet.config)
    prompt = ImagePrompt("portrait", torch.ones(3, 4, TINY_CONTEXT), scale=0.7)
    plain = network(x, TIME, told)
    shown = network(x, TIME, replace(told, image_prompts=(prompt,)))
    # Attention to ones is the same as a larger bias before the output projection.
    out = attention.to_out[0]
    assert isinstance(out, nn.Linear)
    out.bias += 0.7 * out.weight.sum(1)
    torch.testing.assert_close(shown, network(x, TIME, told), atol=1e-5, rtol=0)
    assert (shown - plain).abs().max() > 0.01


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("sd15", {"context": torch.zeros(1, 7, 9)}, "tokens of width 12; got 9"),
        ("sd15", {"vector": torch.zeros(1, 20)}, "a vector .* of width None; got 20"),
        ("sdxl", {"vector": None}, "a vector .* of width 20; got None"),
        ("sdxl", {"vector": torch.zeros(1, 5)}, "a vector .* of width 20; got 5"),
        ("sd15-inpaint", {"concat": None}, "takes 9 channels; got 4 of latents and 0 of extra"),
        ("sd15", {"concat": torch.zeros(1, 5, 8, 9)}, "takes 4 channels; got 4 .* and 5 of extra"),
        (
            "sd15-inpaint",
            {"concat": torch.zeros(1, 5, 16, 18)},
            "extra condition is 18x16 and the latents are 9x8",
        ),
        ("x4-upscaler", {"level": None}, "must be told the picture's noise level, 0 to 999"),
        ("sd15", {"level": torch.tensor([3])}, "takes none"),
        (
            "koala-700m",
            {"intervention": Intervention(identity_attention=("mid_block",))},
            "no self-attention of this U-Net is called 'mid_block'; choose from down_blocks.1",
        ),
        (
            "sd15",
            {"controls": (Control("canny", torch.zeros(1, 3, 64, 64)),)},
            "no control network called 'canny'",
        ),
        (
            "sd15",
            {"image_prompts": (ImagePrompt("portrait", torch.zeros(1, 4, 12)),)},
            r"no image-prompt adapter called 'portrait' .*attached: none",
        ),
    ],
)
def test_a_condition_for_another_network_is_refused_in_words(
    name: str, change: dict[str, object], words: str
) -> None:
    network = Backbone(twins(name)[0])
    told = replace(condition(network.unet.config, batch=1), **change)  # type: ignore[arg-type]
    with pytest.raises(RequestError, match=words) as caught:
        network(normal(1, 4, 8, 9), TIME[:1], told)
    assert "\n" not in str(caught.value)


def test_checkpointing_gives_the_same_gradients() -> None:
    unet = copy.deepcopy(twins("sd15")[0]).train()
    x, told = normal(2, 4, 8, 8), condition(unet.config, batch=2)
    gradients = []
    for checkpointing in (False, True):
        unet.zero_grad()
        Backbone(unet, checkpointing)(x, TIME[:2], told).square().mean().backward()
        assert unet.conv_in.weight.grad is not None
        gradients.append(unet.conv_in.weight.grad.clone())
    torch.testing.assert_close(*gradients)
