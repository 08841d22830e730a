"""Parts of a model are in place while they work and gone while they do not; no bit changes."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from cli_tiny import tiny_model
from safelight.checkpoints.load import load
from safelight.checkpoints.resting import load_resting
from safelight.checkpoints.save import save
from safelight.condition import Condition
from safelight.engines.int8_tensor import Int8Weight
from safelight.engines.int8_weights import Int8Sink, int8_weights, to_int8
from safelight.engines.offload import HostRest, Placement, blocks_of
from safelight.engines.sentinel import watch
from safelight.errors import FileError
from safelight.model import Model

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")


@pytest.fixture(scope="module", params=["model.safetensors", "model"])
def written(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("offload") / str(request.param)
    save(tiny_model(), path, "diffusers" if path.suffix == "" else "ldm", dtype=torch.float16)
    return path


def weights(model: Model) -> Iterator[tuple[str, Tensor]]:
    """All weights of a model, as they are now."""
    coder = model.codec.autoencoder
    assert isinstance(coder, nn.Module)
    for name, part in (
        ("unet", model.network.unet),
        ("vae", coder),
        *((f"text {k}", encoder) for k, encoder in enumerate(model.text.encoders)),
    ):
        for inner, parameter in part.named_parameters():
            yield f"{name}.{inner}", parameter.data


def asked(model: Model) -> Tensor:
    """What the U-Net says of fixed latents."""
    config = model.family.backbone
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, config.in_channels, 8, 8, generator=generator)
    context = torch.randn(1, 77, config.context_width, generator=generator)
    with torch.no_grad():
        return model.network(x, torch.tensor([500.0]), Condition(context))


def nbytes(module: nn.Module) -> int:
    return sum(p.numel() * p.element_size() for p in module.parameters())


# -- weights that lie in a file --------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [None, torch.float32, torch.bfloat16, torch.float16])
def test_brought_weights_are_those_that_loading_reads(
    written: Path, dtype: torch.dtype | None
) -> None:
    model, rests = load_resting(written, dtype=dtype)
    for rest in rests:
        rest.bring()
    read = dict(weights(load(written, dtype=dtype)))
    brought = dict(weights(model))
    assert brought.keys() == read.keys()
    assert all(brought[name].dtype == read[name].dtype for name in read)
    assert all(torch.equal(brought[name], read[name]) for name in read)


def test_a_part_that_is_away_takes_no_memory_and_keeps_its_shapes(written: Path) -> None:
    model, rests = load_resting(written, dtype=torch.bfloat16)
    read = dict(weights(load(written, dtype=torch.bfloat16)))
    for brought in (False, True, False):
        for rest in rests:
            rest.bring() if brought else rest.let_go()
        for name, weight in weights(model):
            assert weight.shape == read[name].shape and weight.dtype == torch.bfloat16
            assert weight.device == CPU
            stored = weight.untyped_storage().nbytes()
            assert stored == (read[name].nbytes if brought else weight.element_size())


def test_weights_that_are_away_are_seen_when_they_are_used(written: Path) -> None:
    model, _ = load_resting(written)
    assert asked(model).isnan().all()


def test_what_was_changed_in_place_stays(written: Path) -> None:
    model, rests = load_resting(written)
    (unet,) = (rest for rest in rests if rest.module is model.network.unet)
    unet.bring()
    with torch.no_grad():
        model.network.unet.conv_in.weight.mul_(2)
    changed = model.network.unet.conv_in.weight.clone()
    unet.let_go()
    unet.bring()
    assert torch.equal(model.network.unet.conv_in.weight, changed)


def test_a_file_that_changed_meanwhile_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save(tiny_model(), path, "ldm", dtype=torch.float16)
    _, (rest, *_) = load_resting(path)
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - 2)
    with pytest.raises(FileError, match="changed while it was read"):
        rest.bring()


def test_another_autoencoder_lies_in_its_own_file(tmp_path: Path, written: Path) -> None:
    other = tmp_path / "other.safetensors"
    save(tiny_model(seed=3), other, "ldm", dtype=torch.float16)
    save(tiny_model(seed=3), tmp_path / "other", "diffusers", dtype=torch.float16)
    vae = tmp_path / "other" / "vae"
    model, rests = load_resting(written, vae=vae)
    for rest in rests:
        rest.bring()
    read = dict(weights(load(written, vae=vae)))
    assert all(torch.equal(weight, read[name]) for name, weight in weights(model))
    assert not torch.equal(
        read["vae.encoder.conv_in.weight"],
        dict(weights(load(written)))["vae.encoder.conv_in.weight"],
    )


# -- one part at a time ----------------------------------------------------------------------------


def test_only_the_part_that_is_needed_is_in_place(written: Path) -> None:
    model, rests = load_resting(written)
    placement = Placement(CPU, rests)
    sizes = {rest.module: rest.nbytes for rest in rests}
    assert placement.nbytes == 0
    for module in (*model.text.encoders, model.network.unet, model.codec.autoencoder):
        assert isinstance(module, nn.Module)
        placement.needed(module)
        assert placement.nbytes == sizes[module] == nbytes(module)


def test_a_list_of_parts_brings_all_that_it_contains(written: Path) -> None:
    model, rests = load_resting(written)
    placement = Placement(CPU, rests)
    placement.needed(nn.ModuleList([*model.text.encoders, model.network.unet]))
    assert placement.nbytes == nbytes(model.network.unet) + sum(
        nbytes(encoder) for encoder in model.text.encoders
    )


def test_what_is_unknown_moves_nothing(written: Path) -> None:
    model, rests = load_resting(written)
    placement = Placement(CPU, rests)
    placement.needed(model.network.unet)
    before = placement.nbytes
    placement.needed(nn.Linear(2, 2))
    assert placement.nbytes == before


def test_a_held_part_stays_until_it_is_released(written: Path) -> None:
    model, rests = load_resting(written)
    placement = Placement(CPU, rests)
    coder = model.codec.autoencoder
    assert isinstance(coder, nn.Module)
    placement.held(model.network.unet)
    placement.needed(coder)
    assert placement.nbytes == nbytes(model.network.unet) + nbytes(coder)
    placement.release()
    placement.needed(coder)
    assert placement.nbytes == nbytes(coder)


def test_the_parts_of_a_further_model_are_looked_after_too(written: Path) -> None:
    model, rests = load_resting(written)
    second, others = load_resting(written)
    placement = Placement(CPU, rests)
    placement.joined(others)
    placement.needed(model.network.unet)
    placement.needed(second.network.unet)
    assert placement.nbytes == nbytes(second.network.unet)
    assert model.network.unet.conv_in.weight.isnan().all()


# -- block by block --------------------------------------------------------------------------------


class Watcher:
    """How many bytes of weights are in place while the blocks of a U-Net work."""

    def __init__(self, placement: Placement, model: Model) -> None:
        self.most = 0
        for _, block in blocks_of(model.network.unet):
            block.register_forward_pre_hook(lambda *_: self.look(placement))

    def look(self, placement: Placement) -> None:
        self.most = max(self.most, placement.nbytes)


def test_sequentially_no_more_than_one_block_is_in_place(written: Path) -> None:
    model, rests = load_resting(written)
    placement = Placement(CPU, rests, sequential=True)
    watcher = Watcher(placement, model)
    placement.needed(model.network.unet)
    blocks = [nbytes(block) for _, block in blocks_of(model.network.unet)]
    rest = nbytes(model.network.unet) - sum(blocks)
    assert placement.nbytes == rest
    whole = asked(load(written))
    assert torch.equal(asked(model), whole)
    assert placement.nbytes == rest
    assert watcher.most == rest + max(blocks)


def test_the_blocks_hold_most_of_a_unet() -> None:
    unet = tiny_model().network.unet
    blocks = sum(nbytes(block) for _, block in blocks_of(unet))
    assert 0.9 * nbytes(unet) < blocks < nbytes(unet)
    paths = [path for path, _ in blocks_of(unet)]
    assert len(paths) == len(set(paths))
    assert all(unet.get_submodule(path) is block for path, block in blocks_of(unet))


def test_a_block_that_fails_is_let_go(written: Path) -> None:
    model, rests = load_resting(written)
    placement = Placement(CPU, rests, sequential=True)
    placement.needed(model.network.unet)
    before = placement.nbytes
    with pytest.raises(Exception):  # noqa: B017, PT011  whatever torch raises
        model.network.unet.down_blocks[0].get_submodule("resnets.0")(torch.ones(1), None)
    assert placement.nbytes == before


def test_a_held_unet_is_whole(written: Path) -> None:
    model, rests = load_resting(written)
    placement = Placement(CPU, rests, sequential=True)
    placement.held(model.network.unet)
    asked(model)
    assert placement.nbytes == nbytes(model.network.unet)
    placement.release()
    assert placement.nbytes < nbytes(model.network.unet)
    assert torch.equal(asked(model), asked(load(written)))


# -- weights that lie in the machine's memory ------------------------------------------------------


class Device:
    """A device of its own memory: what is moved there is a copy, which is counted."""

    def __init__(self) -> None:
        self.moves = 0

    def __call__(self, tensor: Tensor) -> Tensor:
        self.moves += 1
        return tensor.clone()


@pytest.mark.parametrize("sequential", [False, True])
def test_a_device_gets_copies_and_the_machine_keeps_the_weights(sequential: bool) -> None:
    model, device = tiny_model(), Device()
    unet = model.network.unet
    whole = asked(model)
    lying = {name: p.data_ptr() for name, p in unet.named_parameters()}
    placement = Placement(CPU, [HostRest(unet, CPU, move=device)], sequential=sequential)
    placement.needed(unet)
    assert torch.equal(asked(model), whole)
    assert device.moves == len(lying)
    assert (placement.nbytes == nbytes(unet)) != sequential
    if not sequential:
        assert all(p.data_ptr() != lying[name] for name, p in unet.named_parameters())
    placement.release()
    for part in placement._parts:
        part.let_go()
    assert all(p.data_ptr() == lying[name] for name, p in unet.named_parameters())


def test_the_meta_device_takes_no_weight_from_the_machine() -> None:
    unet = tiny_model().network.unet
    before = {name: p.clone() for name, p in unet.named_parameters()}
    rest = HostRest(unet, CPU, move=lambda tensor: torch.empty_like(tensor))
    rest.bring()
    assert not torch.equal(unet.conv_in.weight, before["conv_in.weight"])
    rest.let_go()
    assert all(torch.equal(p, before[name]) for name, p in unet.named_parameters())


def test_what_a_device_changed_is_written_back() -> None:
    unet = tiny_model().network.unet
    rest = HostRest(unet, CPU, move=Device())
    rest.bring()
    with torch.no_grad():
        unet.conv_in.weight.fill_(3)
    rest.let_go()
    assert (unet.conv_in.weight == 3).all()


def test_what_an_adapter_adds_goes_with_the_layer() -> None:
    unet, device = tiny_model().network.unet, Device()
    unet.conv_in.deltas["style"] = nn.Linear(2, 2)
    count = sum(1 for _ in unet.parameters())
    rest = HostRest(unet, CPU, move=device)
    rest.bring()
    assert device.moves == count
    del unet.conv_in.deltas["style"]
    rest.let_go()


# -- with the sentinel -----------------------------------------------------------------------------


@pytest.mark.parametrize("sequential", [False, True])
def test_a_part_raised_to_float32_keeps_its_weights(written: Path, sequential: bool) -> None:
    model, rests = load_resting(written, dtype=torch.float16)
    unet = model.network.unet
    placement = Placement(CPU, rests, sequential=sequential)
    calls: list[torch.dtype] = []

    def call() -> Tensor:
        calls.append(unet.dtype)
        answer = asked(model)
        return answer * torch.inf if unet.dtype == torch.float16 else answer

    with watch(placement) as sentinel:
        result = sentinel.run("U-Net", unet, call)
        assert calls[0] == torch.float16 and calls[-1] == torch.float32
        placement.needed(*model.text.encoders)  # cannot push it out
        assert torch.equal(asked(model), result)
    expected = load(written, dtype=torch.float16)
    expected.network.unet.float()
    assert torch.equal(result, asked(expected))
    placement.needed(*model.text.encoders)
    placement.needed(unet)
    assert unet.dtype == torch.float16
    assert np.isfinite(asked(model).numpy()).all()


# -- with weights that are kept as bytes -----------------------------------------------------------


@pytest.mark.parametrize("sequential", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_kept_as_bytes_come_and_go_like_others(
    written: Path, dtype: torch.dtype, sequential: bool
) -> None:
    whole = int8_weights(load(written, dtype=dtype, sink=Int8Sink()))
    model, rests = load_resting(written, dtype=dtype, sink=Int8Sink(), settle=to_int8)
    placement = Placement(CPU, rests, sequential=sequential)
    for _ in range(2):
        placement.needed(*model.text.encoders)
        (tower,), (expected,) = model.text.encoders, whole.text.encoders
        ids = torch.tensor([[1, 2, 3]])
        with torch.no_grad():
            assert torch.equal(tower(ids).final, expected(ids).final)
        placement.needed(model.network.unet)
        assert not any(isinstance(p, Int8Weight) for p in tower.parameters())
        assert torch.equal(asked(model), asked(whole))
        blocks = [block for _, block in blocks_of(model.network.unet)]
        kept = [isinstance(p, Int8Weight) for block in blocks for p in block.parameters()]
        assert any(kept) != sequential  # block by block, they are gone again
