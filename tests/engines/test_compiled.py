"""A compiled U-Net gives eager's numbers, whatever acts on it, and is compiled once."""

import json
import os
import stat
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from cli_tiny import tiny_model
from models_tiny import distance, random, randomised
from safelight.adapters.adapter import Adapter
from safelight.adapters.attach import attached
from safelight.adapters.strengths import Strengths
from safelight.engines import compiled as subject
from safelight.engines import packages
from safelight.engines.compiled import CompiledUNet, compiled, making, missing
from safelight.engines.packages import compiler
from safelight.engines.work import Work
from safelight.errors import FileError, RequestError
from safelight.models.deltas import LowRank
from safelight.models.unet import Residuals, UNet, UNetConfig
from safelight.tasks.generate import generate
from safelight.tasks.request import Request

TINY = UNetConfig(channels=(16, 32), depths=((1,), (1,)), heads=(2, 2), context_width=64, groups=8)
KINDS = {
    "SD 1.5": TINY,
    "SD 2": replace(TINY, linear_projection=True),
    "SDXL": replace(TINY, linear_projection=True, depths=((0,), (2,)), vector_width=48),
    "inpainting": replace(TINY, in_channels=9),
}
WORK = Work(height=8, width=8, batch=2, calls=20)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache for all tests here: what one of them compiled, the next one finds."""
    return tmp_path_factory.mktemp("shared")


@pytest.fixture(autouse=True)
def cache(shared: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SAFELIGHT_CACHE", str(shared))
    return shared


@pytest.fixture
def no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "compiler", lambda: None)


def network(kind: str = "SD 1.5", dtype: torch.dtype = torch.float32) -> UNet:
    unet = UNet(KINDS[kind]).to(dtype)
    randomised(unet, 1)
    return unet.requires_grad_(False)


def given(unet: UNet, *, height: int = 8, seed: int = 1) -> tuple[Tensor, ...]:
    config, dtype = unet.config, unet.dtype
    call = [
        random(2, config.in_channels, height, 8, seed=seed).to(dtype),
        torch.tensor([10.0, 900.0]),
        random(2, 7, 64, seed=seed + 1).to(dtype),
    ]
    if config.vector_width is not None:
        call.append(random(2, config.vector_width, seed=seed + 2).to(dtype))
    return tuple(call)


def compare(runner: CompiledUNet, unet: UNet, call: tuple[Tensor, ...], **told: object) -> float:
    with torch.no_grad():
        return distance(runner(*call, **told), unet(*call, **told))


def packages_in(cache: Path) -> set[str]:
    return {path.name for path in (cache / "compiled").glob("*.so")}


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("kind", KINDS)
def test_it_gives_what_the_modules_give(kind: str) -> None:
    unet = network(kind)
    runner = CompiledUNet(unet)
    for seed in (1, 5):
        assert compare(runner, unet, given(unet, seed=seed)) < 1e-4


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_in_bfloat16_it_is_as_near_to_float32_as_the_modules_are() -> None:
    unet = network(dtype=torch.bfloat16)
    call = given(unet)
    with torch.no_grad():
        made, eager = CompiledUNet(unet)(*call), unet(*call)
        wide = unet.float()(*(x.float() for x in call))
    off, usual = ((y.float() - wide).pow(2).mean().sqrt() for y in (made, eager))
    assert made.dtype == torch.bfloat16 and float(off) < 1.5 * float(usual)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_another_process_finds_it_and_needs_no_compiler(
    cache: Path, no_compiler: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(packages, "compiler", compiler)
        unet = network()
        compare(CompiledUNet(unet), unet, given(unet))
    before = packages_in(cache)
    other = randomised(network(), 7)  # other weights, the same structure
    assert isinstance(other, UNet)
    assert compare(CompiledUNet(other), other, given(other)) < 1e-4
    assert packages_in(cache) == before
    for path in (cache / "compiled").iterdir():
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path.name


def lora(unet: UNet, path: str) -> Adapter:
    out, inner = unet.get_submodule(path).weight.shape[:2]
    return Adapter(
        "one", {"unet": {path: LowRank(random(out, 4, seed=5), random(4, inner, seed=6))}}
    )


FEED = "down_blocks.0.attentions.0.transformer_blocks.0.ff.net.0.proj"


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_folded_lora_acts_and_goes_without_compiling(cache: Path) -> None:
    unet = network()
    runner, call = CompiledUNet(unet), given(network())
    plain = runner(*call)
    before = packages_in(cache)
    with attached({"unet": unet}, [(lora(unet, FEED), Strengths(0.7))], mode="fold") as on:
        assert compare(runner, unet, call) < 1e-4
        assert distance(runner(*call), plain) > 1e-2
        on.set_strengths([Strengths(0.2)])
        assert compare(runner, unet, call) < 1e-4
    assert torch.equal(runner(*call), plain) and packages_in(cache) == before


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_weight_changed_in_place_is_seen(cache: Path) -> None:
    unet = network()
    runner, call = CompiledUNet(unet), given(network())
    plain = runner(*call)
    with torch.no_grad():
        unet.get_submodule(FEED).weight.mul_(2)  # type: ignore[union-attr,operator]
    assert compare(runner, unet, call) < 1e-4 and not torch.equal(runner(*call), plain)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_lora_in_a_slot_is_compiled_with_it(cache: Path) -> None:
    unet = network()
    runner, call = CompiledUNet(unet), given(network())
    plain = runner(*call)
    with attached({"unet": unet}, [(lora(unet, FEED), Strengths(0.7))], mode="slot"):
        assert compare(runner, unet, call) < 1e-4
        assert distance(runner(*call), plain) > 1e-2
    assert torch.equal(runner(*call), plain)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_what_controls_add_and_settings_are_served() -> None:
    unet = network()
    runner, call = CompiledUNet(unet), given(network())
    for seed in (1, 2):
        skips = tuple(
            random(*shape, seed=seed)
            for shape in ((2, 16, 8, 8), (2, 16, 8, 8), (2, 16, 4, 4), (2, 32, 4, 4))
        )
        told = Residuals(skips=skips, mid=random(2, 32, 4, 4, seed=seed))
        assert compare(runner, unet, call, residuals=told) < 1e-4
    told_so = {"identity_attention": ("mid_block",), "freeu": (1.1, 1.2, 0.9, 0.2)}
    assert compare(runner, unet, call, **told_so) < 1e-4


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_many_tokens_attend_by_our_own_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    unet = network()
    call = given(unet, height=32)  # 256 tokens
    monkeypatch.setattr("safelight.models.cpu_attention.FEWEST_PRODUCTS", 256 * 256 * 8)
    assert compare(CompiledUNet(unet), unet, call) < 1e-4


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_picture_is_the_same_to_the_last_level() -> None:
    request = Request(prompt="a red apple", width=64, height=64, steps=3, seed=1)
    (plain,) = generate(tiny_model(), request)
    other = compiled(tiny_model())
    (made,) = generate(replace(other, engine="eager"), request)
    assert other.engine == "compiled"
    off = torch.tensor(plain.pixels).int() - torch.tensor(made.pixels).int()
    assert int(off.abs().max()) <= 1


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_what_was_compiled_costs_nothing_to_make_again() -> None:
    model = tiny_model()
    assert making(model, replace(WORK, height=16)) > 1
    from safelight.engines.work import example

    with torch.no_grad():
        compiled(model).network(*example(model, WORK))
    assert making(model, WORK) == 0


@pytest.fixture
def forged(cache: Path) -> Path:
    """A package of the right name that somebody else might have laid there."""
    unet = network()
    compare(CompiledUNet(unet), unet, given(unet))
    (name, *_) = packages_in(cache)
    return cache / "compiled" / name


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_library_open_to_others_is_not_loaded(forged: Path) -> None:
    unet = network()
    for path in forged.parent.glob("*.so"):
        path.chmod(0o644)
    try:
        with pytest.raises(FileError, match="open to other users, and compiled code lies there"):
            CompiledUNet(unet)(*given(unet))
    finally:
        for path in forged.parent.glob("*.so"):
            path.chmod(0o600)


def test_a_damaged_package_is_removed_and_counts_as_none(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    note = {"format": 1, "sha256": [packages.digest(b"code"), packages.digest(b"{}")], "wanted": {}}
    for suffix, data in ((".so", b"code"), (".json", b"{}"), (".note", json.dumps(note).encode())):
        path = tmp_path / f"key{suffix}"
        path.write_bytes(data)
        path.chmod(0o600)
    found = packages.found_package(tmp_path, "key")
    assert found is not None and found.library == tmp_path / "key.so"
    (tmp_path / "key.so").write_bytes(b"cod")
    assert packages.found_package(tmp_path, "key") is None
    assert list(tmp_path.iterdir()) == []


def test_old_packages_and_what_a_killed_compiler_left_are_let_go(tmp_path: Path) -> None:
    for number in range(packages.MOST + 2):
        for suffix in packages.SUFFIXES:
            path = tmp_path / f"{number}{suffix}"
            path.write_bytes(b"")
            os.utime(path, (number, number))
    for name, when in (("making-old", 1.0), ("making-new", None)):
        (tmp_path / name).mkdir()
        if when is not None:
            os.utime(tmp_path / name, (when, when))
    packages._tidied(tmp_path)
    left = {path.name for path in tmp_path.iterdir()}
    assert len(left) == packages.MOST * len(packages.SUFFIXES) + 1
    assert not {"0.so", "1.note", "making-old"} & left and {"2.json", "making-new"} <= left


def test_without_a_compiler_the_error_names_the_remedy(
    no_compiler: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SAFELIGHT_CACHE", str(tmp_path))
    unet = network()
    with pytest.raises(
        RequestError, match=r"no C\+\+ compiler was found; install one .*--engine eager"
    ):
        CompiledUNet(unet)(*given(unet))
    monkeypatch.setattr(subject, "compiler", lambda: None)
    assert missing() == packages.NO_COMPILER


class Secretive(nn.Module):
    """Holds a setting that has no plain value."""

    def __init__(self) -> None:
        super().__init__()
        self.how = abs

    def forward(self, x: Tensor, layer: nn.Module) -> Tensor:
        return self.how(layer.applied(x, layer.weight))  # type: ignore[operator]


def test_a_module_that_cannot_be_told_apart_from_others_is_refused_by_name() -> None:
    unet = network()
    unet.conv_in.deltas["one"] = Secretive()
    with pytest.raises(RequestError, match=r"cannot compile this model: Secretive\.how"):
        CompiledUNet(unet)(*given(unet))
