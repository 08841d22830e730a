"""What `safelight teach` makes of a few words: whole configs, each of which can be read."""

import tomllib
from typing import Any

import pytest

from safelight.errors import RequestError
from safelight.training.config.configs import DiffusionRun, InversionRun, LcmRun, LoraRun
from safelight.training.config.lessons import LESSONS, NUMBERS, PRESETS, Base, Wish, lesson
from safelight.training.config.reading import checked
from safelight.training.config.toml_writing import to_toml

SMALL = Base("embedded", "Emoji", 128, 16, 13_000_000, 1)
LARGE = Base("model.safetensors", "Stable Diffusion 1.x", 512, 64, 860_000_000, 1)
XL = Base("xl.safetensors", "SDXL", 1024, 32, 2_600_000_000, 2)
RECIPES = {"inversion": InversionRun, "full": DiffusionRun, "lcm": LcmRun}


def wish(**changes: Any) -> Wish:
    told: dict[str, Any] = {
        "pictures": "ball", "kind": "lora", "folder": "run", "base": SMALL, "word": "<ball>",
    }  # fmt: skip
    return Wish(**{**told, **changes})


def read(made: Wish) -> Any:
    """The config, through the text that is written."""
    return checked(tomllib.loads(to_toml(lesson(made))), "teach.toml")


@pytest.mark.parametrize("base", [SMALL, LARGE], ids=["small", "large"])
@pytest.mark.parametrize("kind", LESSONS)
def test_every_kind_makes_a_config_that_is_sound(kind: str, base: Base) -> None:
    config = read(wish(kind=kind, base=base))
    assert isinstance(config, RECIPES.get(kind, LoraRun))
    assert config.data.size == base.size and config.data.multiple == base.multiple
    numbers = NUMBERS[kind]
    wanted = (numbers.small_rate, numbers.small_steps) if base is SMALL else (
        numbers.rate, numbers.steps
    )  # fmt: skip
    assert (config.training.learning_rate, config.training.steps) == wanted


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_is_for_large_models(preset: str) -> None:
    small, large = (read(wish(base=base, preset=preset)) for base in (SMALL, LARGE))
    assert not small.noise.checkpointing and small.training.precision == "fp32"
    assert large.training.precision == "bf16"
    assert large.noise.checkpointing == PRESETS[preset].checkpointing
    assert large.training.micro_batch == PRESETS[preset].micro
    assert large.training.channels_last == (preset == "cpu")


def test_what_has_no_room_is_refused_and_what_is_large_keeps_no_activations() -> None:
    for base, kind, preset in (
        (LARGE, "full", "8gb"),
        (XL, "full", "24gb"),
        (XL, "full", "cpu"),
        (XL, "lora", "8gb"),
    ):
        with pytest.raises(RequestError, match=f"preset {preset} has no room for"):
            lesson(wish(base=base, kind=kind, preset=preset))
    for base, kind in ((LARGE, "full"), (XL, "lora"), (XL, "inversion")):
        assert read(wish(base=base, kind=kind, preset="24gb")).noise.checkpointing
    assert not read(wish(base=SMALL, kind="full", preset="8gb")).noise.checkpointing


def test_captions_are_kept_and_the_word_is_put_first_if_they_lack_it() -> None:
    lacking = read(wish(captions=("a red ball", "a ball")))
    assert lacking.data.captions.trigger == "<ball>"
    assert lacking.previews.prompts[0] == "<ball>, a red ball"
    saying = read(wish(captions=("a <ball>", "the <ball>")))
    assert saying.data.captions.trigger == "" and saying.previews.prompts == (
        "a <ball>",
        "the <ball>",
    )


def test_without_captions_the_word_is_said_in_templates() -> None:
    assert read(wish()).data.captions.templates == ("a picture of <ball>", "<ball>")
    assert "a picture in <ball> style" in read(wish(style=True)).data.captions.templates
    braced = read(wish(word="{x}"))
    assert braced.data.captions.templates[1] == "{{x}}"


def test_a_prompt_says_the_word_and_what_fields_hold() -> None:
    config = read(wish(prompt="{caption} by {word}", captions=("a ball",)))
    assert config.data.captions.templates == ("{caption} by <ball>",)
    with pytest.raises(RequestError, match="give --word"):
        lesson(wish(prompt="a {word}", word=None))
    with pytest.raises(RequestError, match="the pictures have no captions"):
        lesson(wish(word=None))


def test_a_class_and_masks_become_sections() -> None:
    config = read(wish(class_prompts=("a ball",), class_count=7, masks="masks"))
    assert (config.prior.prompt, config.prior.count) == ("a ball", 7)
    assert config.mask.folder == "masks" and not config.mask.alpha
    several = read(wish(class_prompts=("a ball", "a cube")))
    assert several.prior.prompts == ("a ball", "a cube")
    given = read(wish(class_pictures="balls", alpha=True))
    assert given.prior.path == "balls" and given.mask.alpha


def test_numbers_that_are_given_are_taken() -> None:
    config = read(wish(steps=7, rank=3, rate=0.25, batch=5, size=64, seed=9, text=True))
    training = config.training
    assert (training.steps, training.batch_size, training.seed) == (7, 5, 9)
    assert training.learning_rate == 0.25 and config.data.size == 64
    assert config.adapter.rank == 3 and config.adapter.text


def test_a_word_that_learns_begins_as_another_and_has_vectors() -> None:
    config = read(wish(kind="inversion", vectors=3, initial="ball"))
    section = config.inversion
    assert (section.word, section.vectors, section.initial) == ("<ball>", 3, "ball")
    with pytest.raises(RequestError, match="--kind inversion teaches a word"):
        lesson(wish(kind="inversion", word=None, captions=("a",)))


@pytest.mark.parametrize(
    ("changes", "words"),
    [({"kind": "lorra"}, "kind must be one of"), ({"preset": "2gb"}, "preset must be one of")],
)
def test_what_there_is_not_is_named(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(RequestError, match=words):
        lesson(wish(**changes))


AWKWARD = {
    "text": 'a "b" \\ c\n\t\x7f\x01 é 猫', "whole": 3, "share": 1e-05, "yes": True,
    "list": ["a", 1.5, False],
    "table": {"inner": {"a.b": 'x"y', "n": 1}, "with space": "z", "empty": []},
}  # fmt: skip


def test_what_is_written_as_toml_reads_the_same() -> None:
    assert tomllib.loads(to_toml(AWKWARD, ("a remark",))) == AWKWARD
    assert tomllib.loads(to_toml({"a": None, "t": {"b": None, "c": 1}})) == {"t": {"c": 1}}
