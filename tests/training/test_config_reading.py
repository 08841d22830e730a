"""A config is read as a whole, and every mistake is named with what may stand there."""

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import training_runs as runs
from safelight.errors import FileError, InputError
from safelight.training.autoencoder.pixels import PixelWeights
from safelight.training.captions import Wording
from safelight.training.config.configs import RECIPES, AutoencoderRun, ClipRun, DiffusionRun
from safelight.training.config.reading import MOST_BYTES, ConfigError, checked, read_config
from safelight.training.config.sections import CaptionSection, TrainingSection
from safelight.training.ema import Classic, Power
from safelight.training.settings import Settings


def wrong(values: dict[str, Any]) -> str:
    with pytest.raises(ConfigError) as caught:
        checked(values, "c.toml")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def changed(values: dict[str, Any], key: str, value: object) -> dict[str, Any]:
    table = values
    *path, last = key.split(".")
    for part in path:
        table = table.setdefault(part, {})
    table[last] = value
    return values


def test_sound_values_are_the_config_of_their_recipe() -> None:
    assert isinstance(checked(runs.autoencoder(), "c"), AutoencoderRun)
    assert isinstance(checked(runs.clip(), "c"), ClipRun)
    assert isinstance(checked(runs.diffusion(), "c"), DiffusionRun)


def test_training_has_every_setting_with_its_default() -> None:
    section = TrainingSection(batch_size=3, steps=5)
    assert set(TrainingSection.model_fields) == {field.name for field in fields(Settings)}
    assert section.settings() == Settings(batch_size=3, steps=5)


def test_captions_have_every_way_of_wording_with_its_default() -> None:
    section = CaptionSection()
    assert set(CaptionSection.model_fields) | {"dropout"} == {f.name for f in fields(Wording)}
    for name in CaptionSection.model_fields:
        assert getattr(section, name) == getattr(Wording(), name)


def test_losses_of_pixels_have_the_defaults_of_the_task() -> None:
    loss = checked(runs.autoencoder(), "c").loss  # type: ignore[union-attr]
    for name in ("l1", "laplacian", "ms_ssim", "squares"):
        assert getattr(loss, name) == getattr(PixelWeights(), name)


def test_values_become_the_loops_own() -> None:
    values = runs.diffusion()
    values["training"] |= {"clip_norm": False, "betas": {"unet": [0.8, 0.9]}}
    settings = checked(values, "c").training.settings()
    assert settings.clip_norm is None
    assert settings.betas == {"unet": (0.8, 0.9)}
    assert settings.ema == (Power(0.1), Classic(0.9))


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("recipe", "autoencodr", "recipe must be one of autoencoder, tiny_decoder, clip, d"),
        ("recipe", "autoencodr", "did you mean autoencoder?"),
        ("foldr", "x", "foldr is no key here; did you mean folder?"),
        ("data.kind", "movies", "data.kind must be one of 'pictures', 'scenes'; got \"movies\""),
        ("data.size", 0, "data.size must be 1 or more; got 0"),
        ("data.size", 32.5, "data.size must be a whole number; got 32.5"),
        ("data.held_out", 1.0, "data.held_out must be 0 or more and less than 1; got 1.0"),
        ("data.background", [0, 0], "data.background.2 is missing"),
        ("data.background", [0, 0, 256], "data.background.2 must be 255 or less; got 256"),
        ("data.captions.templates", [], "data.captions.templates must be a list of 1 or more"),
        ("data.captions.shufle", True, "data.captions.shufle is no key here; did you mean shuffle"),
        ("training.batch_size", True, "training.batch_size must be a whole number; got true"),
        ("training.batch_size", "8", 'training.batch_size must be a whole number; got "8"'),
        ("training.learning_rate", -1.0, "training.learning_rate must be 0 or more"),
        ("training.learning_rate", {"unet": -1.0}, "training.learning_rate.unet must be 0 or more"),
        ("training.learning_rate", float("nan"), "training.learning_rate must be"),
        ("training.optimizer", "adam", "one of 'adamw', 'muon', 'prodigy', 'adamw8bit'"),
        ("training.ema", ["power"], "training.ema: ema must be classic:DECAY or power:SIGMA_REL"),
        ("training.betas", [0.9, 1.0], "training.betas must be two numbers in [0, 1)"),
        ("training.clip_norm", True, "training.clip_norm must be"),
        ("critic", True, "critic must be"),
        ("critic.norm", "batch", "critic.norm must be one of 'group', 'spectral', 'none'"),
        ("autoencoder.widths", [8, "16"], "autoencoder.widths.1 must be a whole number"),
        ("autoencoder", 3, "autoencoder must be a table"),
        ("export.dtype", "fp8", "export.dtype must be one of 'fp32', 'bf16', 'fp16'"),
    ],
)
def test_a_mistake_names_its_key_and_what_may_stand_there(
    key: str, value: object, said: str
) -> None:
    told = wrong(changed(runs.autoencoder(), key, value))
    assert told.startswith("c.toml: ") and said in told, told


@pytest.mark.parametrize("key", ["folder", "data", "data.path", "data.size", "training.steps"])
def test_what_must_be_given_is_named(key: str) -> None:
    values = runs.clip()
    table: dict[str, Any] = values
    *path, last = key.split(".")
    for part in path:
        table = table[part]
    del table[last]
    assert wrong(values) == f"c.toml: {key} is missing"


def test_all_mistakes_are_told_at_once_and_at_most_ten() -> None:
    values = runs.clip()
    values["training"] |= {f"no_such_key_{number}": 1 for number in range(14)}
    told = wrong(values)
    assert told.startswith("c.toml has 14 mistakes: (1) ") and "(10)" in told
    assert "(11)" not in told and told.endswith("and 4 more")


@given(st.dictionaries(st.text(max_size=8), st.integers() | st.text() | st.booleans(), max_size=4))
def test_whatever_stands_in_a_section_is_a_config_or_an_error_in_one_line(
    surplus: dict[str, Any],
) -> None:
    for section in ("data", "training", "clip"):
        values = runs.clip()
        values[section] = {**values[section], **surplus}
        told = ""
        try:
            checked(values, "c.toml")
        except InputError as error:
            told = str(error)
        assert told.isprintable()


def test_changes_are_dotted_keys_with_toml_or_plain_text(tmp_path: Path) -> None:
    path = runs.write_config(tmp_path / "c.toml", runs.diffusion())
    config = read_config(
        path,
        ["training.steps = 9", "data.path=a=b", "model.unet.channels=[32, 64]", "hint.steps=7"],
    )
    assert isinstance(config, DiffusionRun)
    assert config.training.steps == 9 and config.data.path == "a=b" and config.hint.steps == 7
    assert config.model.unet is not None and config.model.unet.channels == (32, 64)


@pytest.mark.parametrize("change", ["", "x", "=3", "a..b=3", "folder.x=3"])
def test_changes_that_are_none_are_told(tmp_path: Path, change: str) -> None:
    path = runs.write_config(tmp_path / "c.toml", runs.clip())
    with pytest.raises(ConfigError, match="--set"):
        read_config(path, [change])


def test_files_that_are_no_config_are_told(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    with pytest.raises(FileError, match="cannot read the config"):
        read_config(path)
    path.write_bytes(b"\xff")
    with pytest.raises(ConfigError, match="not text in UTF-8"):
        read_config(path)
    path.write_text("a = [")
    with pytest.raises(ConfigError, match="is not TOML"):
        read_config(path)
    path.write_bytes(b"#" * (MOST_BYTES + 1))
    with pytest.raises(FileError, match="too large"):
        read_config(path)


PAGES = ("training.md", "finetuning.md")


def test_every_key_stands_in_the_guide() -> None:
    """The guide lists all sections; what it does not say of a key, it does not know of."""
    pages = (Path(__file__).parents[2] / "docs/guide" / page for page in PAGES)
    guide = "".join(page.read_text() for page in pages)
    missing = set()
    for kind in RECIPES.values():
        for name, field in kind.model_fields.items():
            if f"`{name}`" not in guide and f"[{name}]" not in guide:
                missing.add(name)
            inner = getattr(field.annotation, "model_fields", {})
            missing |= {f"{name}.{key}" for key in inner if f"`{key}`" not in guide}
    assert not missing
