"""Upscalers in files: every published naming, against spandrel; what is refused, and how."""

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

import spandrel_oracle
from models_tiny import distance, random, randomised
from safelight.checkpoints.upscaler_file import load_upscaler
from safelight.errors import CheckpointError, FileError, RequestError, UnsafeFileError
from safelight.models.super_resolution import CompactConfig, RrdbConfig

State = dict[str, Tensor]
PICTURE = torch.rand(1, 3, 16, 20, generator=torch.Generator().manual_seed(3))


@pytest.fixture(scope="module")
def spandrel() -> Iterator[ModuleType]:
    yield spandrel_oracle.imported()
    for name in [n for n in sys.modules if n.partition(".")[0] == "spandrel"]:
        del sys.modules[name]


def rrdb(doublings: int = 2, gather: int = 1, blocks: int = 2) -> State:
    """A small network under BasicSR's names."""
    net = randomised(RrdbConfig(3, 8, 32, blocks, doublings, gather).build())
    return {
        name.replace("conv_up.0", "conv_up1")
        .replace("conv_up.1", "conv_up2")
        .replace("conv_up.2", "conv_up3"): t
        for name, t in net.state_dict().items()
    }


def compact(scale: int = 4) -> State:
    return dict(randomised(CompactConfig(3, 8, 3, scale).build()).state_dict())


def second_release(state: State) -> State:
    """The same under the names of ESRGAN's second release."""
    changes = {
        "conv_body": "trunk_conv",
        "body.": "RRDB_trunk.",
        ".rdb": ".RDB",
        "conv_up": "upconv",
        "conv_hr": "HRconv",
    }
    return {renamed(name, changes): tensor for name, tensor in state.items()}


def first_release(state: State, blocks: int = 2, doublings: int = 2) -> State:
    """The same under the numbers of ESRGAN's first release."""
    changes = {
        "conv_first": "model.0",
        "conv_body": f"model.1.sub.{blocks}",
        **{f"conv_up{i + 1}": f"model.{3 * i + 3}" for i in range(doublings)},
        "conv_hr": f"model.{3 * doublings + 2}",
        "conv_last": f"model.{3 * doublings + 4}",
    }
    named = {}
    for name, tensor in state.items():
        if name.startswith("body."):
            module, _, leaf = name.rpartition(".")
            named[f"model.1.sub.{module[5:].replace('rdb', 'RDB')}.0.{leaf}"] = tensor
        else:
            named[renamed(name, changes)] = tensor
    return named


def renamed(name: str, changes: dict[str, str]) -> str:
    for ours, theirs in changes.items():
        name = name.replace(ours, theirs, 1)
    return name


STATES = {
    "Real-ESRGAN x4": (rrdb(), 4, "ESRGAN"),
    "Real-ESRGAN x2": (rrdb(gather=2), 2, "ESRGAN"),
    "Real-ESRGAN x1": (rrdb(gather=4), 1, "ESRGAN"),
    "ESRGAN, second release": (second_release(rrdb()), 4, "ESRGAN"),
    "ESRGAN, first release": (first_release(rrdb()), 4, "ESRGAN"),
    "ESRGAN x2": (first_release(rrdb(1), doublings=1), 2, "ESRGAN"),
    "ESRGAN x8": (first_release(rrdb(3), doublings=3), 8, "ESRGAN"),
    "ESRGAN x1": (first_release(rrdb(0), doublings=0), 1, "ESRGAN"),
    "compact x4": (compact(), 4, "Real-ESRGAN compact"),
    "compact x2": (compact(2), 2, "Real-ESRGAN compact"),
}


def written(folder: Path, state: State, name: str = "up.safetensors") -> Path:
    path = folder / name
    save_file({key: tensor.contiguous() for key, tensor in state.items()}, path)
    return path


@pytest.mark.parametrize("name", STATES)
def test_every_naming_is_read_and_works_as_in_spandrel(
    name: str, spandrel: ModuleType, tmp_path: Path
) -> None:
    state, scale, architecture = STATES[name]
    ours = load_upscaler(written(tmp_path, state))
    assert (ours.scale, ours.architecture, ours.name) == (scale, architecture, "up.safetensors")
    theirs = spandrel.ModelLoader().load_from_state_dict(dict(state))
    assert theirs.scale == scale
    with torch.no_grad():
        assert distance(ours.network(PICTURE), theirs.model(PICTURE)) <= 1e-4
        assert torch.equal(ours(PICTURE), ours.network(PICTURE).clamp(0, 1))
    assert ours(PICTURE).shape == (1, 3, 16 * scale, 20 * scale)


@pytest.mark.parametrize("gather", [2, 4])
def test_sizes_that_do_not_divide_are_filled_up_and_cut_off_again(
    gather: int, spandrel: ModuleType, tmp_path: Path
) -> None:
    state = rrdb(gather=gather)
    upscaler = load_upscaler(written(tmp_path, state))
    theirs = spandrel.ModelLoader().load_from_state_dict(dict(state)).model
    odd = PICTURE[:, :, :13, :17]
    with torch.no_grad():
        assert distance(upscaler.network(odd), theirs(odd)) <= 1e-4
    assert upscaler(PICTURE[:, :, :1, :2]).shape == (1, 3, 4 // gather, 8 // gather)


@pytest.mark.parametrize("root", ["params", "params_ema"])
def test_pytorch_files_with_the_weights_below_a_name_are_read(root: str, tmp_path: Path) -> None:
    state = rrdb()
    plain = load_upscaler(written(tmp_path, state))(PICTURE)
    torch.save({root: state}, tmp_path / "up.pth")
    assert torch.equal(load_upscaler(tmp_path / "up.pth")(PICTURE), plain)


def test_averaged_weights_come_before_those_of_the_last_step(tmp_path: Path) -> None:
    averaged, last = compact(), {name: 2 * tensor for name, tensor in compact().items()}
    torch.save({"params": last, "params_ema": averaged}, tmp_path / "up.pth")
    expected = load_upscaler(written(tmp_path, averaged))(PICTURE)
    assert torch.equal(load_upscaler(tmp_path / "up.pth")(PICTURE), expected)


def test_half_precision_files_are_read_in_float32_on_the_cpu(tmp_path: Path) -> None:
    half = {name: tensor.half() for name, tensor in compact().items()}
    upscaler = load_upscaler(written(tmp_path, half))
    assert upscaler.dtype == torch.float32
    wide = load_upscaler(
        written(tmp_path, {n: t.float() for n, t in half.items()}, "wide.safetensors")
    )
    assert torch.equal(upscaler(PICTURE), wide(PICTURE))


# -- other architectures --------------------------------------------------------------------------


def other_architecture(spandrel: ModuleType) -> State:
    """SPAN, with the weights of another known scale at random."""
    from spandrel.architectures.SPAN.__arch.span import SPAN

    net = randomised(SPAN(num_in_ch=3, num_out_ch=3, feature_channels=8, upscale=2, norm=False))
    return {name: tensor.contiguous() for name, tensor in net.state_dict().items()}


def test_other_architectures_are_built_by_spandrel_from_what_we_read(
    spandrel: ModuleType, tmp_path: Path
) -> None:
    state = other_architecture(spandrel)
    upscaler = load_upscaler(written(tmp_path, state))
    assert (upscaler.scale, upscaler.architecture) == (2, "SPAN")
    with torch.no_grad():
        theirs = spandrel.ModelLoader().load_from_state_dict(dict(state))(PICTURE)
    assert distance(upscaler(PICTURE), theirs.clamp(0, 1)) <= 1e-5


def test_without_spandrel_the_extra_to_install_is_named(
    spandrel: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path, other_architecture(spandrel))
    monkeypatch.setitem(sys.modules, "spandrel", None)
    with pytest.raises(RequestError, match=r'pip install "safelight\[upscale\]"'):
        load_upscaler(path)


def test_what_nobody_knows_is_refused(spandrel: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no upscaler that is known"):
        load_upscaler(written(tmp_path, {"some.weight": random(5, 7)}))


def test_what_spandrel_trips_over_is_one_line(spandrel: ModuleType, tmp_path: Path) -> None:
    state = other_architecture(spandrel)
    del state["conv_2.eval_conv.bias"]
    with pytest.raises(CheckpointError, match="spandrel cannot build it") as caught:
        load_upscaler(written(tmp_path, state))
    assert "\n" not in str(caught.value)


# -- wrong files ----------------------------------------------------------------------------------


def without(state: State, name: str) -> State:
    return {key: tensor for key, tensor in state.items() if key != name}


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (without(rrdb(), "conv_hr.bias"), "1 missing: conv_hr.bias"),
        (rrdb() | {"extra.weight": random(3)}, "1 surplus: extra.weight"),
        (rrdb() | {"conv_hr.weight": random(8, 7, 3, 3)}, r"conv_hr.weight is \[8, 7, 3, 3\]"),
        (without(rrdb(), "body.0.rdb1.conv5.bias"), "missing"),
        (rrdb() | {"conv_last.weight": random(4, 8, 3, 3)}, "pictures of 4 channels"),
        (rrdb() | {"body.7.rdb1.conv1.weight": random(32, 8, 3, 3)}, "not numbered from 0"),
        (compact() | {"body.8.weight": random(20, 8, 3, 3)}, "20 numbers of 3 channels"),
        (without(rrdb(), "conv_first.weight"), "no convolution conv_first.weight"),
        ({f"params.{k}": t for k, t in rrdb().items()} | {"note": random(2)}, "belong to none"),
    ],
)
def test_tensors_too_few_too_many_or_of_other_shapes_are_named(
    state: State, message: str, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match=message):
        load_upscaler(written(tmp_path, state))


def test_a_model_that_draws_is_no_upscaler(tmp_path: Path) -> None:
    state = {"model.diffusion_model.input_blocks.0.0.weight": random(8, 4, 3, 3)}
    with pytest.raises(CheckpointError, match="no upscaler of pictures: it holds a U-Net"):
        load_upscaler(written(tmp_path, state))


def test_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    state = compact()
    state["body.0.weight"] = torch.full_like(state["body.0.weight"], torch.nan)
    with pytest.raises(FileError, match="NaN or infinity"):
        load_upscaler(written(tmp_path, state))


def test_a_file_that_asks_to_run_code_is_refused(tmp_path: Path) -> None:
    class Hostile:
        def __reduce__(self) -> tuple[object, ...]:
            return (print, ("ran",))

    torch.save({"params_ema": rrdb(), "x": Hostile()}, tmp_path / "up.pth")
    with pytest.raises(UnsafeFileError):
        load_upscaler(tmp_path / "up.pth")


def test_a_missing_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(FileError):
        load_upscaler(tmp_path / "none.pth")
