"""Whatever of a model is in memory while it draws, the pictures have the same bits."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from addons_tiny import write_lora, write_word
from cli_tiny import tiny_model
from own_model import model_of, small_family, vision_of
from safelight.checkpoints.save import save
from safelight.engines.offload import Placement
from safelight.engines.table import ENGINES
from safelight.errors import RequestError
from safelight.model import Model
from safelight.tasks import placing
from safelight.tasks.generate import generate
from safelight.tasks.loading import Models
from safelight.tasks.picture import Picture
from safelight.tasks.placing import Opening, opened
from safelight.tasks.recipe import differences
from safelight.tasks.replay import runnable
from safelight.tasks.request import Request
from safelight.tasks.supplies import Supplies

pytestmark = pytest.mark.slow

OFFLOADS = ("parts", "sequential")


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("offloaded")
    save(tiny_model(), folder / "model.safetensors", "ldm")
    save(tiny_model(seed=9), folder / "second.safetensors", "ldm")
    write_lora(folder / "style.safetensors")
    write_word(folder / "glow.safetensors")
    return folder


def asked(shelf: Path, **settings: Any) -> Request:
    return Request.parse(
        {
            "prompt": "a red apple",
            "negative_prompt": "blurry",
            "model": str(shelf / "model.safetensors"),
            "width": 64,
            "height": 64,
            "seed": 5,
            "steps": 2,
            **settings,
        }
    )


def drawn(request: Request, models: Models | None = None) -> list[Picture]:
    models = models or Models()
    picture = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    return list(generate(models.of(request), request, supplies=Supplies({"given": picture})))


def assert_same(a: list[Picture], b: list[Picture]) -> None:
    assert len(a) == len(b) > 0
    for one, other in zip(a, b, strict=True):
        assert np.array_equal(one.pixels, other.pixels)
        assert one.warnings == other.warnings


CASES: dict[str, dict[str, Any]] = {
    "text": {"count": 2},
    "half": {"dtype": "bf16"},
    "picture": {"source": {"picture": "given", "strength": 0.5}},
    "hires": {"hires": {"scale": 1.5, "steps": 1}},
    "regions": {"regions": [{"prompt": "a cat", "box": "left"}]},
    "perturbed": {"guidance": {"pag": {}}},
    "looking into the middle": {"guidance": {"sag": {}}},
    "tiles": {"tiles": {"size": (32, 32)}, "tile_vae": True},
    "reference": {"references": [{"picture": "given"}]},
}


@pytest.mark.parametrize("offload", OFFLOADS)
@pytest.mark.parametrize("name", CASES)
def test_pictures_do_not_depend_on_what_is_in_memory(shelf: Path, name: str, offload: str) -> None:
    request = asked(shelf, **CASES[name])
    assert_same(drawn(request), drawn(request.replace(offload=offload)))


@pytest.mark.parametrize("offload", OFFLOADS)
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("window", [{}, {"start": 0.4}])
def test_adapters_act_on_parts_that_come_and_go(
    shelf: Path, offload: str, dtype: str, window: dict[str, float]
) -> None:
    request = asked(
        shelf,
        dtype=dtype,
        prompt="a red apple, glow",
        loras=[{"file": str(shelf / "style.safetensors"), "weight": 0.8, **window}],
        embeddings=[{"file": str(shelf / "glow.safetensors")}],
    )
    whole = drawn(request)
    models = Models()
    away = request.replace(offload=offload)
    assert_same(whole, drawn(away, models))
    plain = away.replace(loras=())
    # the adapter leaves nothing behind in weights that were read again
    assert_same(drawn(request.replace(loras=())), drawn(plain, models))
    assert_same(whole, drawn(away, models))


@pytest.mark.parametrize("offload", OFFLOADS)
def test_a_refiner_shares_the_placement_of_its_model(shelf: Path, offload: str) -> None:
    request = asked(
        shelf, refiner={"model": str(shelf / "second.safetensors"), "switch": 0.5}, steps=4
    )
    assert_same(drawn(request), drawn(request.replace(offload=offload)))
    assert not np.array_equal(
        drawn(request)[0].pixels, drawn(request.replace(refiner=None))[0].pixels
    )


@pytest.mark.parametrize("offload", OFFLOADS)
def test_no_more_than_one_part_is_in_memory_at_a_step(shelf: Path, offload: str) -> None:
    request = asked(shelf, offload=offload)
    models = Models()
    model = models.of(request)
    assert isinstance(model.placement, Placement)
    seen: list[int] = []

    def look(progress: object) -> None:
        assert isinstance(model.placement, Placement)
        seen.append(model.placement.nbytes)

    assert model.placement.nbytes == 0
    list(generate(model, request, watch_steps=look))
    unet = nbytes(model.network.unet)
    assert seen == [unet] * 2 if offload == "parts" else max(seen) < unet / 4
    coder = model.codec.autoencoder
    assert isinstance(coder, nn.Module)
    assert model.placement.nbytes == nbytes(coder)


def test_the_recipe_names_how_it_was_drawn_and_replay_asks_for_no_more(shelf: Path) -> None:
    (parts,) = drawn(asked(shelf, offload="parts"))
    (none,) = drawn(asked(shelf, offload="none"))
    assert (parts.recipe.request.offload, none.recipe.request.offload) == ("parts", "none")
    assert not differences(parts.recipe, none.recipe)
    assert runnable(parts.recipe.request).offload == "auto"


@pytest.mark.parametrize("offload", OFFLOADS)
def test_a_clip_that_guides_has_network_and_decoder_at_once(
    shelf: Path, tmp_path: Path, offload: str
) -> None:
    save(model_of(small_family()), tmp_path / "clip", image_encoder=vision_of())
    request = asked(shelf, clip=str(tmp_path / "clip"), clip_guidance={"scale": 2, "cut_outs": 2})
    assert_same(drawn(request), drawn(request.replace(offload=offload)))


@pytest.mark.parametrize("engine", ["eager", "int8-weights"])
@pytest.mark.parametrize(
    ("available", "expected"), [(1e12, "none"), (1e6, "parts"), (None, "none")]
)
def test_parts_come_and_go_by_themselves_where_memory_is_short(
    shelf: Path,
    engine: str,
    available: float | None,
    expected: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(placing, "available_bytes", lambda device: available)
    monkeypatch.setattr(placing, "ROOM", 0)
    how = Opening(torch.float32, torch.device("cpu"), engine=engine)
    if engine not in ENGINES:
        pytest.skip(f"there is no engine {engine}")
    assert placing.fitting(shelf / "model.safetensors", how) == expected
    if engine == "eager":
        (picture,) = drawn(asked(shelf))
        assert picture.recipe.request.offload == expected


ONCE: list[tuple[dict[str, Any], str]] = [
    ({}, "parts"),
    ({"engine": "int8-weights"}, "parts"),
    ({"offload": "none"}, "none"),
    ({"offload": "sequential"}, "sequential"),
    ({"count": 2}, "none"),
    ({"best_of": 2, "clip": "clip"}, "none"),
    ({"engine": "compiled"}, "none"),
    ({"source": {"picture": "given"}}, "none"),
    ({"hires": {"scale": 1.5}}, "none"),
    ({"refiner": {"model": "second.safetensors"}}, "none"),
    ({"loras": [{"file": "style.safetensors"}]}, "none"),
]


@pytest.mark.parametrize(("settings", "expected"), ONCE)
def test_parts_come_and_go_where_each_works_once(
    shelf: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any], expected: str
) -> None:
    request = asked(shelf, **settings)
    if request.engine == "compiled" and ENGINES["compiled"].missing():
        pytest.skip("nothing can be compiled here")
    assert Models().of(request, alone=True).placement is None or expected == "sequential"
    monkeypatch.setattr(placing, "LEAST", 0)  # the model here is small
    placement = Models().of(request, alone=True).placement
    assert ("none" if placement is None else placement.kind) == expected
    placement = Models().of(request).placement
    assert ("none" if placement is None else placement.kind) == request.replace(
        offload="none" if request.offload == "auto" else request.offload
    ).offload


def test_one_picture_has_the_same_bits_whatever_is_in_memory(
    shelf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(placing, "LEAST", 0)
    request = asked(shelf)
    model = Models().of(request, alone=True)
    assert isinstance(model.placement, Placement)
    once = list(generate(model, request))
    assert_same(once, drawn(request.replace(offload="none")))
    assert not differences(once[0].recipe, drawn(request)[0].recipe)


def test_what_just_fits_is_counted_in_the_wanted_type(
    shelf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = shelf / "model.safetensors"
    model = tiny_model()
    coder = model.codec.autoencoder
    assert isinstance(coder, nn.Module)
    whole = sum(nbytes(part) for part in (model.network.unet, coder, *model.text.encoders))
    monkeypatch.setattr(placing, "ROOM", 0)
    for dtype, share in ((torch.float32, 1.0), (torch.bfloat16, 0.5)):
        how = Opening(dtype, torch.device("cpu"))
        for slack, expected in ((1.001, "none"), (0.999, "parts")):
            there = whole * share * slack
            monkeypatch.setattr(placing, "available_bytes", lambda device, there=there: there)
            assert placing.fitting(path, how) == expected


def test_an_engine_with_weights_of_its_own_refuses_to_have_them_moved(shelf: Path) -> None:
    how = Opening(torch.float32, torch.device("cpu"), engine="compiled", offload="parts")
    with pytest.raises(RequestError, match="engine compiled keeps its own"):
        opened(shelf / "model.safetensors", how)


class Eights:
    """Takes the U-Net's matrices on their way from the file, and remembers how they came."""

    def __init__(self) -> None:
        self.taken: dict[str, torch.Tensor] = {}

    def wants(self, role: str, module: nn.Module, name: str) -> bool:
        return role == "unet" and name.endswith("to_q.weight")

    def take(self, module: nn.Module, name: str, weight: torch.Tensor) -> None:
        assert module.get_parameter(name).is_meta
        self.taken[name] = weight


def test_a_sink_takes_weights_before_they_take_memory(shelf: Path) -> None:
    from safelight.checkpoints.load import load

    sink = Eights()
    path = shelf / "model.safetensors"
    model: Model = load(path, dtype=torch.bfloat16, sink=sink)
    whole = load(path)
    assert sink.taken
    for name, parameter in model.network.unet.named_parameters():
        own = whole.network.unet.get_parameter(name)
        assert parameter.shape == own.shape and parameter.dtype == torch.bfloat16
        if name in sink.taken:
            assert parameter.is_meta and torch.equal(sink.taken[name], own)
        else:
            assert torch.equal(parameter, own.bfloat16())
    assert sum(
        name.endswith("to_q.weight") for name, _ in whole.network.unet.named_parameters()
    ) == len(sink.taken)


def nbytes(module: nn.Module) -> int:
    return sum(p.numel() * p.element_size() for p in module.parameters())
