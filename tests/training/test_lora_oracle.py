"""A step of adapters beside PEFT and the step of Diffusers' training scripts: the same numbers."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from diffusion_lab import CAPTIONS, backbone, conditioner, process, shapes
from models_tiny import random
from safelight.adapters.targets import targets
from safelight.adapters.trainable import Size, trainable
from safelight.diffusion.draws import UniformDraw
from safelight.diffusion.prediction import EPS, Prediction, V
from safelight.diffusion.process import ddpm
from safelight.diffusion.weights import Constant, MinSnr
from safelight.models.backbone import Backbone
from safelight.models.deltas import LowRank
from safelight.training.diffusion_task import DiffusionSettings, DiffusionTask, LatentBatch
from safelight.training.draw import Draw
from safelight.training.prior import WithPrior
from safelight.training.taught_layers import PLAYER, TaughtLayers, taking_part, untaught
from safelight.training.text_states import LearningText, tokens_of
from unet_published import twins

RANK, ALPHA, ROWS = 3, 6.0, 4


def stirred(module: nn.Module, seed: int = 5) -> None:
    """Every weight at random: at the start half of an adapter is zero, and so are its gradients."""
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in module.parameters():
            weight.add_(0.2 * torch.randn(weight.shape, generator=rng))


def far(ours: Tensor, theirs: Tensor) -> float:
    """The length of the difference, in lengths of what it should be."""
    return float((ours - theirs).norm() / theirs.norm())


def taught(network: nn.Module, kind: str = "lora", chosen: tuple[str, ...] = ("attention",)) -> Any:
    size = Size(rank=RANK, alpha=ALPHA)
    rng = torch.Generator().manual_seed(0)
    return trainable(network, kind, targets(network, chosen), size=size, generator=rng)


def batch(width: int) -> tuple[LatentBatch, Tensor]:
    context = random(ROWS, 7, width, seed=3)
    # of 16 x 16: with one place in the middle its self-attention would have nothing to learn
    return LatentBatch(random(ROWS, 4, 16, 16, seed=4), context=context), context


def peft_twin(name: str) -> tuple[Backbone, TaughtLayers, nn.Module]:
    """Our network with an adapter that takes part, and Diffusers' with the same one of PEFT."""
    from peft import LoraConfig

    ours, theirs = (copy.deepcopy(each) for each in twins(name))
    ours.requires_grad_(False)
    theirs.requires_grad_(False)
    config = LoraConfig(
        r=RANK, lora_alpha=ALPHA, init_lora_weights="gaussian",
        target_modules=["to_k", "to_q", "to_v", "to_out.0"],
    )  # fmt: skip
    theirs.add_adapter(config)
    layers = TaughtLayers({"unet": taught(ours)})
    stirred(layers)
    known = dict(theirs.named_parameters())
    with torch.no_grad():
        for path, delta in layers.deltas["unet"].items():
            assert isinstance(delta, LowRank)
            for half, weight in (("A", delta.down), ("B", delta.up)):
                known[f"{path}.lora_{half}.default.weight"].copy_(weight)
    assert len(layers.deltas["unet"]) == sum(".lora_A." in n for n in known)
    return Backbone(ours), layers, theirs


@pytest.mark.parametrize("weight", [Constant(), MinSnr(5.0)], ids=["plain", "min-snr"])
@pytest.mark.parametrize(("name", "prediction"), [("sd15", EPS), ("sd21", V)])
def test_a_step_is_that_of_diffusers_train_text_to_image_lora(
    name: str, prediction: Prediction, weight: Any
) -> None:
    from diffusers import DDPMScheduler
    from diffusers.training_utils import compute_snr

    network, layers, theirs = peft_twin(name)
    given, context = batch(network.unet.config.context_width)
    schedule = ddpm(prediction)
    settings = DiffusionSettings(draw=UniformDraw(), weight=weight, caption_dropout=0.0)
    task = DiffusionTask(network, schedule, None, settings, layers, PLAYER)
    draw = Draw(2, 1, ROWS)
    with taking_part({"unet": network.unet}, layers.deltas):
        loss = task.loss(PLAYER, given, draw).total
        loss.backward()

    # what their script does, line by line
    kind = {"eps": "epsilon", "v": "v_prediction"}[prediction.name]
    scheduler = DDPMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", prediction_type=kind
    )
    noise = task.noise(given.latents, draw)
    timesteps = schedule.time(task.sigmas(draw)).round().long()
    noisy = scheduler.add_noise(given.latents, noise, timesteps)
    target = noise if kind == "epsilon" else scheduler.get_velocity(given.latents, noise, timesteps)
    answer = theirs(noisy, timesteps, context, return_dict=False)[0]
    if isinstance(weight, Constant):
        wanted = F.mse_loss(answer.float(), target.float(), reduction="mean")
    else:
        snr = compute_snr(scheduler, timesteps)
        least = torch.stack([snr, 5.0 * torch.ones_like(snr)], dim=1).min(dim=1)[0]
        weights = least / (snr if kind == "epsilon" else snr + 1)
        each = F.mse_loss(answer.float(), target.float(), reduction="none").mean((1, 2, 3))
        wanted = (each * weights).mean()
    wanted.backward()

    assert loss.item() == pytest.approx(wanted.item(), rel=1e-4)
    known = dict(theirs.named_parameters())
    for path, delta in layers.deltas["unet"].items():
        assert isinstance(delta, LowRank) and delta.up.grad is not None
        for half, mine in (("A", delta.down.grad), ("B", delta.up.grad)):
            theirs_grad = known[f"{path}.lora_{half}.default.weight"].grad
            assert mine is not None and theirs_grad is not None
            assert far(mine, theirs_grad) < 1e-3, path
    assert all(p.grad is None for p in network.unet.parameters() if not p.requires_grad)


def test_dreambooth_weighs_the_class_as_diffusers_script_does() -> None:
    """The oracle: chunks of one batch, the subject's first, each with a mean of its own."""
    network = backbone(1)
    own, other = shapes(4, 1), shapes(4, 2)
    context = random(8, 7, 32, seed=3)

    class Fixed:
        def __init__(self, latents: Tensor, context: Tensor) -> None:
            self.latents, self.context = latents, context

        def __len__(self) -> int:
            return len(self.latents)

        def batch(self, indices: Any, draw: Draw) -> LatentBatch:
            rows = torch.tensor(list(indices))
            return LatentBatch(self.latents[rows], context=self.context[rows])

    data = WithPrior(Fixed(own, context[:4]), Fixed(other, context[4:]), (4, 4), 0.7)
    settings = DiffusionSettings(draw=UniformDraw(), caption_dropout=0.0)
    task = DiffusionTask(network, process(), None, settings)
    draw = Draw(0, 0, 8)
    loss = task.loss("unet", data.batch(range(8), draw), draw).total

    latents = torch.cat([own, other])
    sigma = task.sigmas(draw)[:, None, None, None]
    noise = task.noise(latents, draw)
    at = process().prediction
    x = (latents + sigma * noise) * at.scalings(sigma).c_in
    target = at.target(latents.double(), noise.double(), sigma).float()
    answer = network.unet(x.float(), process().time(task.sigmas(draw)).float(), context)
    (a, b), (c, d) = answer.chunk(2), target.chunk(2)
    wanted = F.mse_loss(a, c) + 0.7 * F.mse_loss(b, d)
    assert loss.item() == pytest.approx(wanted.item(), rel=1e-4)


KINDS = ["lora", "loha", "lokr", "dora", "ia3", "glora", "oft", "full"]


@pytest.mark.parametrize("kind", KINDS)
def test_the_gradient_of_each_kind_is_that_of_the_weights_it_makes(kind: str) -> None:
    """The oracle: the network called with other weights, W + change(W), through autograd."""
    text = conditioner()
    tower, unet = text.encoders[0], backbone(2).unet
    for module in (tower, unet):
        module.requires_grad_(False)
    chosen = ("attention", "*.conv1", "*.ff.net.2")
    deltas = {"unet": taught(unet, kind, chosen), "text_encoder": taught(tower, kind)}
    layers = TaughtLayers(deltas)
    stirred(layers)
    networks = {"unet": unet, "text_encoder": tower}
    settings = DiffusionSettings(draw=UniformDraw(), caption_dropout=0.0)
    task = DiffusionTask(
        Backbone(unet), process(), LearningText(text), settings, layers, PLAYER
    )  # fmt: skip
    given = LatentBatch(shapes(ROWS), tokens_of(text, CAPTIONS[:ROWS]).ids)
    draw = Draw(2, 1, ROWS)
    with taking_part(networks, deltas):
        loss = task.loss(PLAYER, given, draw).total
        loss.backward()
    ours = {n: p.grad.clone() for n, p in layers.named_parameters() if p.grad is not None}
    layers.zero_grad()
    assert given.tokens is not None

    def changed(part: str) -> dict[str, Tensor]:
        network, made = networks[part], {}
        for path, delta in deltas[part].items():
            layer = network.get_submodule(path)
            made[f"{path}.weight"] = layer.weight + delta.change(layer.weight)
            moved = delta.bias_change(layer.bias)
            if moved is not None:
                made[f"{path}.bias"] = layer.bias + moved
        return made

    context = functional_call(tower, changed("text_encoder"), (given.tokens,)).final
    sigma = task.sigmas(draw)[:, None, None, None]
    noise = task.noise(given.latents, draw)
    at = process().prediction
    x = ((given.latents + sigma * noise) * at.scalings(sigma).c_in).float()
    times = process().time(task.sigmas(draw)).float()
    answer = functional_call(unet, changed("unet"), (x, times, context))
    target = at.target(given.latents.double(), noise.double(), sigma).float()
    wanted = F.mse_loss(answer, target)
    wanted.backward()
    assert loss.item() == pytest.approx(wanted.item(), rel=1e-4)
    named = dict(layers.named_parameters())
    assert ours.keys() == named.keys()
    for name, mine in ours.items():
        theirs = named[name].grad
        assert theirs is not None
        assert (mine - theirs).norm() < 1e-3 * theirs.norm() + 1e-7, name


def test_a_network_that_unlearns_for_a_moment_is_the_one_it_was() -> None:
    unet = backbone(2).unet
    x, time, context = shapes(2), torch.tensor([300.0, 700.0]), random(2, 7, 32)
    with torch.no_grad():
        plain = unet(x, time, context)
        for kind in ("lora", "dora"):
            layers = TaughtLayers({"unet": taught(unet, kind)})
            stirred(layers)
            with taking_part({"unet": unet}, layers.deltas):
                led = unet(x, time, context)
                with untaught(unet):
                    assert torch.equal(unet(x, time, context), plain)
                assert torch.equal(unet(x, time, context), led)
            assert not torch.equal(led, plain)
            assert torch.equal(unet(x, time, context), plain)


def test_dropout_hides_inputs_while_learning_and_none_while_judging() -> None:
    unet = backbone(2).unet
    x, time, context = shapes(2), torch.tensor([300.0, 700.0]), random(2, 7, 32)
    layers = TaughtLayers({"unet": taught(unet)})
    stirred(layers)
    with torch.no_grad():
        with taking_part({"unet": unet}, layers.deltas):
            whole = unet(x, time, context)
        with taking_part({"unet": unet}, layers.deltas, dropout=0.5):
            layers.train()
            torch.manual_seed(0)
            one = unet(x, time, context)
            other = unet(x, time, context)
            torch.manual_seed(0)
            assert torch.equal(unet(x, time, context), one)
            assert not torch.equal(one, other) and not torch.equal(one, whole)
            layers.eval()
            assert torch.equal(unet(x, time, context), whole)
