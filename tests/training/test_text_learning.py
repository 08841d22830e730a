"""Text encoders that learn beside the U-Net, when the whole of a model is fine-tuned."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

import teaching_lab as lab
from diffusion_lab import CAPTIONS, backbone, conditioner, process, shapes
from safelight.checkpoints.load import load
from safelight.diffusion.draws import UniformDraw
from safelight.errors import RequestError
from safelight.training.diffusion_task import DiffusionSettings, DiffusionTask, LatentBatch
from safelight.training.draw import Draw
from safelight.training.loop import train
from safelight.training.text_states import FrozenText, LearningText, tokens_of
from training_tiny import files_equal

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return lab.write_model(tmp_path_factory.mktemp("models") / "own")


@pytest.fixture
def place(tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return lab.furnished(tmp_path, model, monkeypatch)


def values(**changes: Any) -> dict[str, Any]:
    return lab.values("diffusion", text={"learns": True}, **changes)


def task_of(text: FrozenText, dropout: float = 0.0) -> DiffusionTask:
    settings = DiffusionSettings(draw=UniformDraw(), caption_dropout=dropout)
    return DiffusionTask(backbone(1), process(), text, settings)


def test_the_gradient_of_a_tower_is_that_of_autograd_through_it() -> None:
    text = LearningText(conditioner())
    tower = text.conditioner.encoders[0]
    tokens = tokens_of(text.conditioner, CAPTIONS[:4]).ids
    task, given, draw = task_of(text), LatentBatch(shapes(4), tokens), Draw(0, 0, 4)
    loss = task.loss("unet", given, draw).total
    loss.backward()
    ours = {n: p.grad.clone() for n, p in tower.named_parameters() if p.grad is not None}
    tower.zero_grad()
    sigma = task.sigmas(draw)[:, None, None, None]
    noise, at = task.noise(given.latents, draw), process().prediction
    x = ((given.latents + sigma * noise) * at.scalings(sigma).c_in).float()
    context = tower(tokens).final
    answer = backbone(1).unet(x, process().time(task.sigmas(draw)).float(), context)
    wanted = F.mse_loss(answer, at.target(given.latents.double(), noise, sigma).float())
    wanted.backward()
    assert loss.item() == pytest.approx(wanted.item(), rel=1e-4)
    assert "text_model.embeddings.token_embedding.weight" in ours
    for name, weight in tower.named_parameters():
        assert weight.grad is not None
        assert (ours[name] - weight.grad).norm() < 1e-3 * weight.grad.norm() + 1e-9, name


def test_where_nothing_is_said_the_tower_learns_what_nothing_is() -> None:
    text = LearningText(conditioner())
    tower = text.conditioner.encoders[0]
    task = task_of(text, dropout=1.0)
    tokens = tokens_of(text.conditioner, CAPTIONS[:4]).ids
    task.loss("unet", LatentBatch(shapes(4), tokens), Draw(0, 0, 4)).total.backward()
    table = tower.text_model.embeddings.token_embedding.weight.grad
    assert table is not None
    rows = set(table.abs().sum(1).nonzero().flatten().tolist())
    assert rows == set(tokens_of(text.conditioner, [""]).ids.flatten().tolist())


def test_a_learning_text_remembers_nothing_of_the_towers_before() -> None:
    plain = conditioner()
    frozen, learning = FrozenText(plain), LearningText(plain)
    with torch.no_grad():
        before = frozen.null().context, learning.null().context
        assert torch.equal(*before)
        plain.encoders[0].text_model.final_layer_norm.bias.add_(1.0)
        assert torch.equal(frozen.null().context, before[0])
        assert torch.allclose(learning.null().context, before[1] + 1.0, atol=1e-5)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_unet_and_text_learn_together_and_are_written_together(place: Path, precision: str) -> None:
    told = values()
    told["training"] |= {"precision": precision, "learning_rate": 1e-3}
    made = lab.job(told)
    names = {name.split(".")[0] for name, _ in made.task.learner.named_parameters()}
    assert names == {"unet", "text_encoder"}
    folder = lab.trained(told, made)
    before, after = load("old"), load(folder)
    moved = {
        part: any(
            not torch.equal(a, b)
            for a, b in zip(old.state_dict().values(), new.state_dict().values(), strict=True)
        )
        for part, old, new in (
            ("unet", before.network.unet, after.network.unet),
            ("text", before.text.encoders[0], after.text.encoders[0]),
            ("vae", before.codec.autoencoder, after.codec.autoencoder),
        )
    }
    assert moved == {"unet": True, "text": True, "vae": False}
    learned = made.task.learner.state_dict()
    tower = after.text.encoders[0].state_dict()
    assert all(torch.equal(learned[f"text_encoder.{n}"].cpu(), t) for n, t in tower.items())


def test_rates_hold_the_text_back(place: Path) -> None:
    told = values()
    told["training"] |= {"rates": {"text_encoder": 0.0}}
    folder = lab.trained(told)
    old, new = (load(p).text.encoders[0].state_dict() for p in ("old", folder))
    assert all(torch.equal(tensor, new[name]) for name, tensor in old.items())


def test_rates_of_a_unet_that_learns_alone_bear_its_name_or_not(place: Path) -> None:
    results = []
    for name in ("unet.down_blocks", "down_blocks"):
        told = lab.values("diffusion", folder=f"run-{name}")
        told["training"] |= {"rates": {name: 0.0}}
        results.append(load(lab.trained(told)).network.unet.state_dict())
    old = load("old").network.unet.state_dict()
    for name, tensor in old.items():
        assert torch.equal(results[0][name], results[1][name])
        if name.startswith("down_blocks"):
            assert torch.equal(results[0][name], tensor)
    assert not torch.equal(results[0]["conv_in.weight"], old["conv_in.weight"])


def test_a_resumed_run_has_the_same_bits(place: Path) -> None:
    told = values()
    told["training"] |= {"steps": 4, "ema": ["classic:0.9"]}
    made = lab.job(told)
    train(made.task, made.data, made.settings, Path("whole"), order=made.order)
    for steps in (2, 4):
        told["training"]["steps"] = steps
        made = lab.job(told)
        train(made.task, made.data, made.settings, Path("parts"), order=made.order)
    name = "checkpoints/step-00000004"
    assert files_equal(Path("whole") / name, Path("parts") / name)


def test_a_text_that_learns_is_not_sharded(place: Path) -> None:
    told = values()
    told["training"]["parallel"] = "fsdp"
    with pytest.raises(RequestError, match=r"use training\.parallel ddp"):
        lab.job(told)
