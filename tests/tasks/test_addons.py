"""LoRAs, learned words and hypernetworks act as asked, are in the recipe, and leave no trace."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import nn

from addons_tiny import drawn, write_hypernetwork, write_lora, write_word
from cli_tiny import tiny_model
from safelight.errors import CheckpointError, InputError, RequestError
from safelight.model import Model
from safelight.tasks.adapting import worded
from safelight.tasks.addons import Embedding
from safelight.tasks.generate import generate, settled
from safelight.tasks.picture import Picture
from safelight.tasks.request import Request
from safelight.tasks.supplies import Supplies
from safelight.tasks.word_recording import with_word_maps

Pixels = NDArray[np.uint8]
Draw = Callable[..., Picture]


@pytest.fixture(scope="module")
def model() -> Model:
    return tiny_model()


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder with a library of its own."""
    for name in ("SAFELIGHT_HOME", "HF_HUB_CACHE", "SAFELIGHT_CACHE"):
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def small() -> dict[str, object]:
    return {"width": 64, "height": 64, "steps": 2, "seed": 5}


@pytest.fixture
def draw(model: Model) -> Draw:
    def drew(prompt: str, **settings: object) -> Picture:
        request = Request.parse({"prompt": prompt, **small(), **settings})
        (picture,) = generate(model, request)
        return picture

    return drew


def equal(one: Picture, other: Picture) -> bool:
    return np.array_equal(one.pixels, other.pixels)


def weights(model: Model) -> dict[str, torch.Tensor]:
    parts: list[nn.Module] = [model.network.unet, *model.text.encoders]
    return {f"{k}.{n}": p for k, part in enumerate(parts) for n, p in part.state_dict().items()}


# -- LoRAs -----------------------------------------------------------------------------------------


def test_a_lora_is_the_same_by_option_and_by_tag(draw: Draw, place: Path) -> None:
    file = str(write_lora(place / "loras" / "style.safetensors"))
    by_option = draw("a cat", loras=[{"file": file, "weight": 0.8}])
    by_tag = draw("a cat <lora:style:0.8>")
    assert equal(by_option, by_tag) and not equal(by_option, draw("a cat"))
    assert equal(by_tag, draw("a cat <lyco:style:0.8:0.8>"))
    assert "(100 %)" in by_option.facts[0] and len(by_option.facts) == 1
    assert not by_option.warnings
    used = by_tag.recipe.file("lora")
    assert used is not None and used.name == "style.safetensors"
    assert used == by_option.recipe.file("lora")


def test_the_model_is_as_it_was_after_drawings_and_after_errors(
    draw: Draw, model: Model, place: Path
) -> None:
    before = {name: (id(p), p.clone()) for name, p in weights(model).items()}
    plain = draw("a glow cat")
    write_lora(place / "loras" / "style.safetensors")
    write_hypernetwork(place / "hypernetworks" / "net.pt")
    write_word(place / "embeddings" / "glow.safetensors")
    draw("a glow cat <lora:style:1><hypernet:net:1>")

    def stops(progress: object) -> None:
        raise KeyboardInterrupt

    request = asked_all()
    with pytest.raises(KeyboardInterrupt):
        list(generate(model, request, watch_steps=stops))
    with pytest.raises(RequestError):
        draw("a cat <lora:style:1>", loras=[{"file": "style", "blocks": "IN99:1"}])
    for name, parameter in weights(model).items():
        assert torch.equal(parameter, before[name][1]), name
    assert equal(draw("a glow cat", look_up=False), plain)


def asked_all() -> Request:
    return Request.parse({"prompt": "a glow cat <lora:style:1><hypernet:net:1>", **small()})


def test_weights_of_text_and_blocks_and_steps_each_count(draw: Draw, place: Path) -> None:
    file = str(write_lora(place / "style.safetensors"))
    kinds: dict[str, dict[str, object]] = {
        "whole": {},
        "half": {"weight": 0.5},
        "the text alone": {"weight": 0, "text_weight": 1},
        "the U-Net alone": {"text_weight": 0},
        "the first step": {"end": 0.5},
        "the second step": {"start": 0.5},
        "without the middle": {"blocks": "M00:0"},
        "a block by its path": {"blocks": "up_blocks:0.5"},
    }
    found = {k: draw("a cat", loras=[{"file": file, **own}]) for k, own in kinds.items()}
    found["none"] = draw("a cat")
    assert len({picture.pixels.tobytes() for picture in found.values()}) == len(found)
    tagged = draw("a cat <lora:style:1:0>")
    assert equal(tagged, found["the text alone"])
    nothing = {"file": file, "blocks": ",".join("0" * 10)}
    assert equal(draw("a cat", loras=[nothing]), found["none"])
    twice = draw("a cat", loras=[{"file": file, "weight": 0.5}] * 2)
    assert np.abs(twice.pixels.astype(int) - found["whole"].pixels).max() <= 1


def test_a_window_of_steps_is_a_change_of_model_between_steps(
    draw: Draw, model: Model, place: Path
) -> None:
    """The oracle: the whole LoRA to the first level, and then none from there on."""
    file = str(write_lora(place / "style.safetensors", text=False))
    common = {"sampler": "Euler", "steps": 4}
    whole = draw("a cat", loras=[{"file": file, "end": 1.0}], **common)
    both = draw(
        "a cat",
        loras=[{"file": file, "end": 0.5}, {"file": file, "start": 0.5}],
        **common,
    )
    assert equal(whole, both)


def test_a_tags_file_can_be_given_with_further_settings(draw: Draw, place: Path) -> None:
    file = str(write_lora(place / "far" / "x.safetensors"))
    by_option = draw("a cat", loras=[{"file": file, "weight": 0.7, "end": 0.5}])
    by_tag = draw("a cat <lora:style:0.7>", loras=[{"file": file, "tag": "style", "end": 0.5}])
    assert equal(by_option, by_tag)
    idle = draw("a cat", loras=[{"file": file, "tag": "style"}])
    assert any("which the prompt does not have" in note for note in idle.warnings)
    assert not idle.recipe.request.loras and idle.recipe.file("lora") is None


def test_half_types_draw_with_the_lora_through_its_rank(place: Path) -> None:
    file = str(write_lora(place / "style.safetensors"))
    model = tiny_model()
    lora = Request.parse({"prompt": "a cat", **small(), "loras": [{"file": file}]})
    (full,) = generate(model, lora)
    for part in (model.network.unet, *model.text.encoders):
        part.to(torch.bfloat16)
    plain, half = (
        next(generate(model, request)).pixels.astype(int)
        for request in (lora.replace(loras=()), lora)
    )
    assert np.abs(half - full.pixels).mean() < 0.2 * np.abs(half - plain).mean()
    assert not any(p.dtype == torch.float32 for p in model.network.unet.parameters())


def test_pictures_of_a_session_are_those_drawn_alone(model: Model, place: Path) -> None:
    write_lora(place / "loras" / "style.safetensors")
    write_word(place / "embeddings" / "glow.safetensors")
    prompts = ("a cat <lora:style:0.8>", "a cat", "a glow cat <lora:style:-0.5>", "a glow cat")
    requests = [Request.parse({"prompt": p, **small(), "count": 2}) for p in prompts]
    together = list(generate(model, requests, supplies=Supplies()))
    alone = [p for request in requests for p in generate(model, request)]
    assert len(together) == 8
    assert all(equal(*pair) for pair in zip(together, alone, strict=True))
    assert [p.recipe.request for p in together] == [p.recipe.request for p in alone]
    assert len({picture.pixels.tobytes() for picture in together}) == 8


def test_pictures_computed_together_all_have_the_lora(model: Model, place: Path) -> None:
    write_lora(place / "loras" / "style.safetensors")
    request = Request.parse({"prompt": "a <lora:style:1>", **small(), "count": 2, "exact": False})
    together = list(generate(model, request.replace(batch=2)))
    apart = list(generate(model, request))
    for one, other in zip(together, apart, strict=True):
        assert np.abs(one.pixels.astype(int) - other.pixels).max() <= 2


def test_a_second_pass_has_the_tags_of_its_own_prompt(draw: Draw, place: Path) -> None:
    file = str(write_lora(place / "loras" / "style.safetensors"))
    hires = {"scale": 2.0, "strength": 0.5}
    by_option = draw("a cat", hires=hires, loras=[{"file": file}])
    both = draw("a cat <lora:style:1>", hires=hires)
    first = draw("a cat <lora:style:1>", hires={**hires, "prompt": "a cat"})
    second = draw("a cat", hires={**hires, "prompt": "a cat <lora:style:1>"})
    assert equal(by_option, both)
    assert len({p.pixels.tobytes() for p in (both, first, second)}) == 3
    assert all(p.recipe.file("lora") is not None for p in (both, first, second))


# -- words and hypernetworks -----------------------------------------------------------------------


def test_a_learned_word_is_found_by_its_name_in_either_prompt(draw: Draw, place: Path) -> None:
    plain = draw("a glow cat", negative_prompt="zap")
    file = str(write_word(place / "embeddings" / "Glow.safetensors"))
    found = draw("a glow cat", negative_prompt="zap")
    assert not equal(found, plain)
    assert equal(draw("a glow cat", negative_prompt="zap", look_up=False), plain)
    given = {"file": file, "word": "shine"}
    assert equal(draw("a shine cat", negative_prompt="zap", embeddings=[given]), found)
    comfy = draw("a embedding:Glow cat", negative_prompt="zap", dialect="comfy")
    assert equal(comfy, found)
    (own,) = found.recipe.request.embeddings
    assert Path(own.file).name == "Glow.safetensors" and not found.recipe.request.look_up
    write_word(place / "embeddings" / "zap.safetensors", seed=9)
    assert not equal(draw("a glow cat", negative_prompt="zap"), found)
    # what comes into the folder later is no part of an older recipe
    (again,) = generate(tiny_model(), found.recipe.request)
    assert equal(again, found)


def test_words_are_found_where_schedules_and_weights_say_them(model: Model, place: Path) -> None:
    for name in ("glow", "dull glow", "never", "(odd)"):
        write_word(place / "embeddings" / f"{name}.safetensors")
    prompts = {
        "a (glow:1.2)": {"glow"},
        "a [cat:glow:0.5]": {"glow"},
        "a [cat|dull glow]": {"dull glow"},
        "glowing": set(),
        "a \\(odd\\) AND glow": {"(odd)", "glow"},
        "a # glow": set(),
    }
    for prompt, expected in prompts.items():
        (single,) = settled(Request.parse({"prompt": prompt, **small()}), model)
        assert {one.word for one in single.embeddings} == expected, prompt


def test_a_word_of_another_family_is_text_if_found_and_an_error_if_given(
    draw: Draw, place: Path
) -> None:
    plain = draw("a glow cat")
    file = str(write_word(place / "embeddings" / "glow.safetensors", width=768))
    found = draw("a glow cat")
    assert equal(found, plain) and not found.recipe.request.embeddings
    assert any("is read as plain text" in note for note in found.warnings)
    with pytest.raises(CheckpointError, match=r"for SD 1\.x \(token width 768\), but the loaded"):
        draw("a glow cat", embeddings=[{"file": file}])


def test_a_word_that_no_prompt_says_is_told(draw: Draw, place: Path) -> None:
    file = str(write_word(place / "glow.safetensors"))
    idle = draw("a cat", embeddings=[{"file": file}])
    assert any("no prompt says glow" in note for note in idle.warnings)
    assert equal(idle, draw("a cat"))


def test_a_hypernetwork_is_the_same_by_option_and_by_tag(draw: Draw, place: Path) -> None:
    file = str(write_hypernetwork(place / "hypernetworks" / "style.pt"))
    by_option = draw("a cat", hypernetworks=[{"file": file, "weight": 0.5}])
    by_tag = draw("a cat <hypernet:style:0.5>")
    early = draw("a cat", hypernetworks=[{"file": file, "weight": 0.5, "end": 0.5}])
    assert equal(by_option, by_tag)
    assert len({p.pixels.tobytes() for p in (by_tag, early, draw("a cat"))}) == 3
    used = by_tag.recipe.file("hypernetwork")
    assert used is not None and used.name == "style.pt"


# -- what cannot be used ---------------------------------------------------------------------------

WRONG: dict[str, tuple[dict[str, object], str]] = {
    "a tag without a file": ({"prompt": "a <lora:gone:1>"}, "no LoRA called gone .* are style"),
    "a tag without a name": ({"prompt": "a <lora::1>"}, "names nothing"),
    "a weight that is none": ({"prompt": "a <lora:style:much>"}, "'much' is no weight"),
    "a file that is not there": ({"loras": [{"file": "gone.pt"}]}, "no LoRA called gone"),
    "a weight beside a tag": (
        {"loras": [{"file": "style", "tag": "s", "weight": 2}]},
        "has the weight of its tag",
    ),
    "a block that is none": ({"loras": [{"file": "style", "blocks": "IN99:1"}]}, "IN99 is no b"),
    "blocks unreadable": ({"loras": [{"file": "style", "blocks": "much"}]}, "names with factors"),
    "a number too many": ({"loras": [{"file": "style", "blocks": "1,2"}]}, "2 block weights were"),
    "steps the wrong way": (
        {"loras": [{"file": "style", "start": 0.6, "end": 0.2}]},
        "start must lie before end",
    ),
    "no such word": ({"prompt": "embedding:gone", "dialect": "comfy"}, "inversion called gone"),
    "no such hypernetwork": ({"prompt": "a <hypernet:gone:1>"}, "no hypernetwork called gone"),
    "a word given twice": (
        {"embeddings": [{"file": "word"}, {"file": "other", "word": "Word"}]},
        "two textual inversions are called",
    ),
}


@pytest.mark.parametrize("fault", WRONG)
def test_what_cannot_be_used_is_said(fault: str, draw: Draw, place: Path) -> None:
    write_lora(place / "loras" / "style.safetensors")
    for name in ("word", "other"):
        write_word(place / "embeddings" / f"{name}.safetensors")
    settings, said = WRONG[fault]
    with pytest.raises(InputError, match=said):
        draw(**{"prompt": "a", **settings})


def test_two_files_of_one_name_are_an_error_that_names_them(draw: Draw, place: Path) -> None:
    for seed, folder in enumerate("ab"):
        write_lora(place / "loras" / folder / "style.safetensors", seed=seed)
        write_word(place / "embeddings" / folder / "glow.safetensors", seed=seed)
    with pytest.raises(RequestError, match=r"style may be loras/a/style.* or loras/b/style"):
        draw("a <lora:style:1>")
    with pytest.raises(RequestError, match=r"glow may be embeddings/a/.* or embeddings/b/"):
        draw("a glow")
    draw("a <lora:b/style:1>")


def test_a_word_of_the_vectors_of_other_words_is_those_words_in_picture_and_maps(
    model: Model, place: Path
) -> None:
    ids = torch.tensor([model.text.tokenizer.encode("red blue green")])
    (place / "embeddings").mkdir()
    save_file({"glow": model.text.encoders[0].embed(ids)[0]}, "embeddings/glow.safetensors")
    (learned,), (plain,) = (
        with_word_maps(model, Request.parse({"prompt": prompt, **small()}))
        for prompt in ("glow cat", "red blue green cat")
    )
    assert equal(learned.picture, plain.picture)
    (text,), (other,) = learned.texts, plain.texts
    assert [word.word for word in text.words] == ["glow", "cat"]
    assert np.array_equal(text.words[1].heat, other.words[3].heat)
    shares = [word.share for word in other.words]
    assert text.words[0].share == pytest.approx(sum(shares[:3]))


def test_a_dora_takes_the_norm_that_is_asked_for(draw: Draw, place: Path) -> None:
    state = load_file(write_lora(place / "style.safetensors", text=False))
    for name in [name for name in state if name.endswith("lora_up.weight")]:
        rows = len(state[name])
        magnitude = drawn(rows, rows, 1, scale=0.1) + 1
        state[name.replace("lora_up.weight", "dora_scale")] = magnitude
    save_file(state, place / "dora.safetensors")
    by_norm = [draw("a", loras=[{"file": "dora", "dora": norm}]) for norm in ("changed", "base")]
    assert not equal(*by_norm) and not equal(by_norm[0], draw("a"))
    assert any("norm of the base weight" in note for note in by_norm[1].warnings)


def test_words_that_lie_in_a_loras_file_are_known(draw: Draw, place: Path) -> None:
    state = load_file(write_lora(place / "plain.safetensors"))
    table = load_file(write_word(place / "glow.safetensors"))["emb_params"]
    save_file(state | {"bundle_emb.glow.string_to_param.*": table}, place / "pivotal.safetensors")
    bundled = draw("a glow", loras=[{"file": "pivotal"}])
    apart = draw("a glow", loras=[{"file": "plain"}], embeddings=[{"file": "glow.safetensors"}])
    assert equal(bundled, apart)
    assert not equal(bundled, draw("a glow", loras=[{"file": "plain"}]))


def test_a_further_model_understands_the_words_that_fit_it(model: Model, place: Path) -> None:
    write_word(place / "glow.safetensors")
    write_word(place / "other.safetensors", width=768)
    request = Request(prompt="a", embeddings=(Embedding(file="glow.safetensors"),))
    told = worded(model, request, Supplies())
    assert set(told.text.tokenizer.triggers) == {"glow"} and not model.text.tokenizer.triggers
    request = Request(prompt="a", embeddings=(Embedding(file="other.safetensors"),))
    assert worded(model, request, Supplies()) is model


def test_tags_that_do_nothing_are_told(draw: Draw, place: Path) -> None:
    file = str(write_lora(place / "loras" / "style.safetensors"))
    told = draw("a <lora:style:1:1:4> <magic:wand:1>", negative_prompt="<lora:style:1>").warnings
    for said in ("rank is not cut down", "<magic:wand:1> is of no kind", "act in the prompt only"):
        assert any(said in note for note in told), said
    region = {"prompt": "a dog <lora:style:1>", "box": "left"}
    told = draw("a cat", regions=[region]).warnings
    assert any("was not applied" in note and "whole picture" in note for note in told)
    assert equal(
        draw("a cat <lora:style:1>", regions=[{"prompt": "a dog", "box": "left"}]),
        draw("a cat", regions=[{"prompt": "a dog", "box": "left"}], loras=[{"file": file}]),
    )
