"""What computes a model may be exchanged: it is asked for the plain work, and refused the rest."""

from dataclasses import dataclass, field, replace
from typing import get_args

import pytest
import torch
from torch import Tensor

from cli_tiny import tiny_model
from safelight.engines.table import EAGER, ENGINES, engined
from safelight.errors import RequestError
from safelight.model import Model
from safelight.models.autoencoder import Coder
from safelight.models.runner import Extra
from safelight.models.unet import UNet
from safelight.tasks.generate import generate
from safelight.tasks.request import EngineName, Request

ASKING: dict[str, dict[str, object]] = {
    "perturbed attention": {"guidance": {"pag": {}}},
    "self-attention guidance": {"guidance": {"sag": {}}},
    "FreeU": {"guidance": {"freeu": {"b1": 1.1, "b2": 1.2, "s1": 0.9, "s2": 0.2}}},
    "hypernetworks and LLLite": {"hypernetworks": [{"file": "some.pt"}]},
    "image prompts": {"image_prompts": [{"adapter": "some.bin", "pictures": ["some.png"]}]},
    "reference-only control": {"references": [{"picture": "some.png"}]},
    "ControlNets": {"controls": [{"net": "some.safetensors", "picture": "some.png"}]},
}


@dataclass
class Standing:
    """Stands for the modules that it was made from, and counts how often it was asked."""

    unet: UNet
    coder: Coder
    broken: bool = False
    frozen: bool = True
    extras: frozenset[Extra] = frozenset()
    name: str = "standing"
    calls: list[str] = field(default_factory=list)

    def __call__(self, *args: Tensor, **told: object) -> Tensor:
        self.calls.append("unet")
        return self._result(self.unet(*args, **told))

    def decode(self, latents: Tensor) -> Tensor:
        self.calls.append("decode")
        return self._result(self.coder.decode(latents))

    def moments(self, images: Tensor) -> Tensor:
        self.calls.append("moments")
        return self._result(self.coder.moments(images))

    def _result(self, result: Tensor) -> Tensor:
        return result * float("nan") if self.broken else result


def engaged(model: Model, **options: object) -> tuple[Model, Standing]:
    made = Standing(model.network.unet, model.codec.autoencoder, **options)
    network = replace(model.network, runner=made)
    codec = replace(model.codec, runner=made)
    return replace(model, network=network, codec=codec), made


@pytest.fixture(scope="module")
def model() -> Model:
    return tiny_model()


SMALL = {"prompt": "a", "steps": 3, "seed": 1, "width": 64, "height": 64}


def asked(**settings: object) -> Request:
    return Request.parse(SMALL | settings)


def test_every_engine_of_the_table_may_be_asked_for_and_no_other() -> None:
    assert set(get_args(EngineName)) - {"auto"} == set(ENGINES)
    assert all(engine.name == name for name, engine in ENGINES.items())


def test_eager_is_the_model_itself(model: Model) -> None:
    assert engined(model, EAGER) is model


def test_an_engine_that_nobody_knows_is_refused_with_those_there_are(model: Model) -> None:
    with pytest.raises(RequestError, match=r"no engine 'warp'.*eager"):
        engined(model, "warp")


def test_a_runner_draws_the_picture_of_its_modules_and_is_asked_for_all_of_it(model: Model) -> None:
    other, runner = engaged(model)
    (plain,), (drawn,) = generate(model, asked()), generate(other, asked())
    assert (plain.pixels == drawn.pixels).all()
    assert runner.calls.count("unet") == 3 and runner.calls.count("decode") == 1
    assert drawn.recipe.request.engine == EAGER


@pytest.mark.parametrize(("what", "settings"), ASKING.items(), ids=ASKING)
def test_what_an_engine_cannot_do_is_said_before_anything_is_drawn(
    what: str, settings: dict[str, object], model: Model
) -> None:
    other, runner = engaged(model)
    with pytest.raises(RequestError, match=rf"engine standing cannot do {what}.* --engine eager"):
        list(generate(other, asked(**settings)))
    assert not runner.calls


def test_an_engine_that_makes_nan_is_named_and_its_modules_draw(model: Model) -> None:
    other, _ = engaged(model, broken=True)
    (plain,), (drawn,) = generate(model, asked()), generate(other, asked())
    assert (plain.pixels == drawn.pixels).all()
    told = " ".join(drawn.warnings)
    assert "engine standing made NaN" in told and "at step 3" in told and "VAE decoder" in told


def test_bands_and_joined_ends_are_the_modules_own_work(model: Model) -> None:
    other, runner = engaged(model)
    latents = torch.zeros(1, model.codec.channels, 8, 8)
    assert torch.equal(other.codec.decode(latents), model.codec.decode(latents))
    assert runner.calls == ["decode"]
    (drawn,) = generate(other, asked(tile_vae=True))
    assert runner.calls.count("decode") == 1 and drawn.pixels.shape == (64, 64, 3)
