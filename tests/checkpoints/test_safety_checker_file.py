"""Files of safety checkers in the published layouts, and what is none."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from safelight.checkpoints.safety_checker_file import load_safety_checker
from safelight.errors import CheckpointError, FileError
from safelight.models.safety_checker import SafetyChecker
from safety_tiny import published_names, tiny_checker, write_checker


@pytest.fixture(scope="module")
def checker() -> SafetyChecker:
    return tiny_checker(concept=0.1)


def assert_same(ours: SafetyChecker, theirs: SafetyChecker, *, exact: bool = True) -> None:
    assert ours.config == theirs.config
    expected = theirs.state_dict()
    for name, tensor in ours.state_dict().items():
        assert tensor.dtype == torch.float32
        close = 0.0 if exact else 2e-3
        assert torch.allclose(tensor, expected[name], rtol=close, atol=close), name


@pytest.mark.parametrize("file", ["model.safetensors", "model.fp16.safetensors"])
def test_a_folder_is_read_as_such_and_within_its_model(
    tmp_path: Path, checker: SafetyChecker, file: str
) -> None:
    folder = write_checker(tmp_path / "model" / "safety_checker", checker, file)
    for path in (folder, tmp_path / "model"):
        assert_same(load_safety_checker(path), checker)


def test_half_precision_is_read_into_whole(tmp_path: Path, checker: SafetyChecker) -> None:
    folder = write_checker(tmp_path, checker)
    names = {name: tensor.half() for name, tensor in published_names(checker).items()}
    save_file(names, folder / "model.safetensors")
    assert_same(load_safety_checker(folder), checker, exact=False)


def test_the_pickled_file_of_the_first_release_is_read(
    tmp_path: Path, checker: SafetyChecker
) -> None:
    folder = write_checker(tmp_path, checker)
    (folder / "model.safetensors").unlink()
    positions = {"vision_model.vision_model.embeddings.position_ids": torch.arange(17)[None]}
    torch.save(published_names(checker) | positions, folder / "pytorch_model.bin")
    assert_same(load_safety_checker(folder), checker)


@pytest.mark.parametrize("file", ["checker.safetensors", "checker.fp16.safetensors"])
def test_weights_alone_tell_their_shape(tmp_path: Path, checker: SafetyChecker, file: str) -> None:
    save_file(published_names(checker), tmp_path / file)
    assert_same(load_safety_checker(tmp_path / file), checker)


def test_what_diffusers_writes_is_read(tmp_path: Path, checker: SafetyChecker) -> None:
    from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker

    theirs = StableDiffusionSafetyChecker.from_pretrained(write_checker(tmp_path / "a", checker))
    theirs.save_pretrained(tmp_path / "b" / "safety_checker", variant="fp16")
    assert_same(load_safety_checker(tmp_path / "b"), checker)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"visual_projection.weight": None}, "visual_projection.weight"),
        ({"concept_embeds_weights": None}, "concept_embeds_weights"),
        ({"concept_embeds": None}, "no concept_embeds"),
        ({"concept_embeds": torch.ones(17)}, "no concept_embeds"),
        ({"special_care_embeds": torch.ones(3, 25)}, "special_care_embeds"),
        ({"vision_model.vision_model.encoder.layers.1.mlp.fc1.bias": None}, "fc1.bias"),
        ({"stranger.weight": torch.ones(2)}, "stranger.weight"),
        ({"concept_embeds": torch.full((17, 24), torch.nan)}, "concept_embeds"),
    ],
)
def test_weights_that_do_not_fit_are_named(
    tmp_path: Path, checker: SafetyChecker, change: dict[str, torch.Tensor | None], words: str
) -> None:
    folder = write_checker(tmp_path, checker)
    names = {n: t for n, t in (published_names(checker) | change).items() if t is not None}
    save_file(names, folder / "model.safetensors")
    with pytest.raises((CheckpointError, FileError), match=words):
        load_safety_checker(folder)


def test_what_is_no_safety_checker_is_said(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="holds no safety checker: neither"):
        load_safety_checker(tmp_path)
    save_file({"head.weight": torch.ones(2, 2)}, tmp_path / "other.safetensors")
    with pytest.raises(CheckpointError, match="holds no safety checker"):
        load_safety_checker(tmp_path / "other.safetensors")
    with pytest.raises(FileError, match="gone"):
        load_safety_checker(tmp_path / "gone")
