"""Reference-only control; the oracle is Diffusers' U-Net with attention processors of a bank."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor2_0
from torch import Tensor, nn

from models_tiny import distance
from safelight.condition import Condition, ReferencePicture, expand, stack
from safelight.diffusion.denoiser import Denoiser
from safelight.diffusion.guidance import guided
from safelight.diffusion.prediction import resolve_prediction
from safelight.diffusion.process import ddpm
from safelight.errors import RequestError
from safelight.models.backbone import Backbone
from safelight.models.reference_only import chosen_attentions
from unet_published import TINY_CONTEXT, twins

PROCESS = ddpm(resolve_prediction("eps"))
SIGMA = torch.tensor(3.0, dtype=torch.float64)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


class Bank(AttnProcessor2_0):
    """A1111's `hacked_basic_transformer_inner_forward` for one attn1, as a processor."""

    def __init__(self) -> None:
        super().__init__()
        self.mode, self.bank = "off", []
        self.share: Tensor = torch.ones(1)

    def __call__(
        self,
        attn: nn.Module,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        **_: object,
    ) -> Tensor:
        plain = super().__call__
        if self.mode == "write":
            self.bank.append(hidden_states)
        if self.mode == "read" and self.bank:
            both = plain(attn, hidden_states, torch.cat([hidden_states, *self.bank], 1))
            alone = plain(attn, hidden_states)
            share = self.share[:, None, None]
            self.bank = []
            return share * both + (1 - share) * alone
        return plain(attn, hidden_states, encoder_hidden_states, attention_mask)


def oracle(
    x: Tensor,
    time: Tensor,
    context: Tensor,
    shown: Sequence[Tensor],
    share: Tensor,
    modules: Sequence[str],
) -> Tensor:
    """What Diffusers' tiny SD 1.5 says of x, looking at these noised pictures too."""
    unet = twins("sd15")[1]
    before = unet.attn_processors
    banks = {name: Bank() for name in before if ".attn1." in name}
    unet.set_attn_processor({name: banks.get(name, p) for name, p in before.items()})
    chosen = [banks[f"{name}.processor"] for name in modules]
    try:
        for bank in chosen:
            bank.mode, bank.share = "write", share
        for picture in shown:
            unet(picture, time, context)
        for bank in chosen:
            bank.mode = "read"
        return unet(x, time, context).sample
    finally:
        unet.set_attn_processor(before)


def reference(seed: int = 7, share: float = 1.0, **options: float) -> ReferencePicture:
    return ReferencePicture(
        normal(1, 4, 8, 8, seed=seed),
        normal(1, 4, 8, 8, seed=seed + 1),
        torch.tensor([share]),
        **options,
    )


def conditions() -> tuple[Condition, Condition]:
    return (
        Condition(normal(1, 7, TINY_CONTEXT, seed=1)),
        Condition(normal(1, 7, TINY_CONTEXT, seed=2)),
    )


@pytest.mark.parametrize("weight", [1.0, 0.5])
@pytest.mark.parametrize("fidelity", [0.0, 0.3, 1.0])
@torch.no_grad()
def test_it_does_what_a1111_does(weight: float, fidelity: float) -> None:
    """Both conditions in one call; style fidelity keeps the negative to itself."""
    network = Backbone(twins("sd15")[0])
    denoiser = Denoiser(network, PROCESS)
    positive, negative = conditions()
    own = reference(weight=weight)
    told = (
        replace(positive, references=(own,)),
        replace(negative, references=(replace(own, share=torch.tensor([1 - fidelity])),)),
    )
    x = 3 * normal(1, 4, 8, 8, seed=3)
    answer = guided(denoiser, *told, 6.0)(x, SIGMA)
    c_in = float((1 + SIGMA**2) ** -0.5)
    shown = c_in * (own.latents + 3.0 * own.noise)
    modules = chosen_attentions(network.unet, weight)
    assert len(modules) == (16 if weight == 1 else 8)

    def theirs(x: Tensor, time: Tensor, condition: Condition) -> Tensor:
        is_positive = torch.equal(condition.context, positive.context)
        share = torch.tensor([1.0 if is_positive else 1 - fidelity])
        return oracle(x, time, condition.context, [shown], share, modules)

    expected = guided(Denoiser(theirs, PROCESS), positive, negative, 6.0, apart=True)(x, SIGMA)
    assert distance(answer, expected) < 1e-4
    assert distance(guided(denoiser, positive, negative, 6.0)(x, SIGMA), expected) > 0.01


@torch.no_grad()
def test_several_references_are_looked_at_together() -> None:
    network = Backbone(twins("sd15")[0])
    positive, _ = conditions()
    both = (reference(7, 1.0), reference(9, 0.5))
    x = 3 * normal(1, 4, 8, 8, seed=3)
    told = replace(positive, references=both)
    answer = Denoiser(network, PROCESS)(x, SIGMA, told)
    c_in = float((1 + SIGMA**2) ** -0.5)
    shown = [c_in * (r.latents + 3.0 * r.noise) for r in both]
    modules = chosen_attentions(network.unet, 1.0)

    def theirs(x: Tensor, time: Tensor, condition: Condition) -> Tensor:
        return oracle(x, time, condition.context, shown, torch.tensor([0.75]), modules)

    assert distance(answer, Denoiser(theirs, PROCESS)(x, SIGMA, positive)) < 1e-4


@torch.no_grad()
def test_a_reference_of_share_or_weight_zero_changes_no_bit() -> None:
    denoiser = Denoiser(Backbone(twins("sd15")[0]), PROCESS)
    positive, _ = conditions()
    x = 3 * normal(1, 4, 8, 8, seed=3)
    plain = denoiser(x, SIGMA, positive)
    for idle in (reference(share=0.0), reference(weight=0.0), reference(high=2.0)):
        assert torch.equal(denoiser(x, SIGMA, replace(positive, references=(idle,))), plain)


@torch.no_grad()
def test_one_reference_serves_a_batch_and_each_picture_is_as_if_alone() -> None:
    denoiser = Denoiser(Backbone(twins("sd15")[0]), PROCESS)
    positive, negative = conditions()
    told = stack([positive, negative])
    told = replace(told, references=(reference(),))
    x = 3 * normal(2, 4, 8, 8, seed=3)
    together = denoiser(x, SIGMA, told)
    alone = [
        denoiser(x[i : i + 1], SIGMA, replace(c, references=(reference(),)))
        for i, c in enumerate((positive, negative))
    ]
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-4, rtol=0)
    assert expand(told, 2).references[0].latents.shape[0] == 2


@torch.no_grad()
def test_a_reference_need_not_have_the_drawing_s_size() -> None:
    denoiser = Denoiser(Backbone(twins("sd15")[0]), PROCESS)
    positive, _ = conditions()
    wide = ReferencePicture(normal(1, 4, 8, 16), normal(1, 4, 8, 16), torch.ones(1))
    x = 3 * normal(1, 4, 8, 8, seed=3)
    answer = denoiser(x, SIGMA, replace(positive, references=(wide,)))
    assert distance(answer, denoiser(x, SIGMA, positive)) > 0.01


@torch.no_grad()
def test_an_inpainting_network_is_shown_the_reference_unmasked() -> None:
    network = Backbone(twins("sd15-inpaint")[0])
    seen: list[Tensor] = []
    hook = network.unet.conv_in.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    own = reference()
    positive = replace(conditions()[0], concat=torch.ones(1, 5, 8, 8), references=(own,))
    Denoiser(network, PROCESS)(3 * normal(1, 4, 8, 8), SIGMA, positive)
    hook.remove()
    assert len(seen) == 2 and not seen[0][:, 4].any()
    assert torch.equal(seen[0][:, 5:], own.latents)
    small = replace(own, latents=own.latents[..., :4], noise=own.noise[..., :4])
    with pytest.raises(RequestError, match="is 4x8 latents, and the drawing 8x8"):
        Denoiser(network, PROCESS)(
            normal(1, 4, 8, 8), SIGMA, replace(positive, references=(small,))
        )
