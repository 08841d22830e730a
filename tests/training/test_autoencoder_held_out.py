"""Figures of held-out reconstructions, whatever their batches and the state of the run."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from autoencoder_tiny import autoencoder, pictures, vq_autoencoder
from models_tiny import randomised
from safelight.errors import RequestError
from safelight.measures.pictures import psnr, ssim
from safelight.models.vector_quantiser import perplexity
from safelight.training.autoencoder.held_out import HeldOutPictures
from safelight.training.autoencoder.task import AutoencoderTask, PictureBatch
from safelight.training.draw import Draw


class Pictures:
    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor

    def __len__(self) -> int:
        return len(self.tensor)

    def batch(self, indices: Sequence[int], draw: Draw) -> PictureBatch:
        return PictureBatch(self.tensor[list(indices)])


def test_the_figures_are_means_over_the_chosen_pictures_in_any_batches():
    model = autoencoder()
    randomised(model)
    task, x = AutoencoderTask(model, steps=1), pictures(9)
    chosen = [8, 1, 5, 2, 3]
    found = HeldOutPictures(Pictures(x), chosen)(task)
    parts = HeldOutPictures(Pictures(x), chosen, batch=2)(task)
    assert parts == pytest.approx(found, rel=1e-4)
    with torch.no_grad():
        posterior = model.encode(x[chosen])
        rebuilt = model.decode(posterior.mode()).clamp(-1, 1)
    assert found["held_out/psnr"] == pytest.approx(psnr(rebuilt, x[chosen]).mean().item(), rel=1e-5)
    assert found["held_out/ssim"] == pytest.approx(ssim(rebuilt, x[chosen]).mean().item(), rel=1e-4)
    assert found["held_out/l1"] == pytest.approx(
        (rebuilt - x[chosen]).abs().mean().item(), rel=1e-5
    )
    nats = posterior.kl().mean().item() / posterior.mean[0].numel()
    assert found["held_out/kl"] == pytest.approx(nats, rel=1e-5)
    assert 0 < found["held_out/psnr_drawn"] < found["held_out/psnr"]


def test_asking_twice_gives_the_same_and_leaves_the_run_as_it_was():
    task, ask = (
        AutoencoderTask(autoencoder(), steps=1),
        HeldOutPictures(Pictures(pictures()), [0, 1]),
    )
    task.autoencoder.train()
    before = torch.get_rng_state()
    assert ask(task) == ask(task)
    assert torch.equal(before, torch.get_rng_state())
    assert all(part.training for part in task.autoencoder.modules())


def test_a_codebook_is_asked_for_its_use():
    model, x = vq_autoencoder(), pictures()
    found = HeldOutPictures(Pictures(x), range(4))(AutoencoderTask(model, steps=1))
    assert set(found) == {f"held_out/{n}" for n in ("psnr", "ssim", "l1", "perplexity")}
    with torch.no_grad():
        expected = perplexity(model.indices(x), 16).item()
    assert found["held_out/perplexity"] == pytest.approx(expected, rel=1e-5)


def test_no_pictures_are_refused():
    with pytest.raises(RequestError, match="one or more pictures"):
        HeldOutPictures(Pictures(pictures()), [])
