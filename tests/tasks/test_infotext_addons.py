"""LoRAs, words and hypernetworks in A1111's text: written as tags and hashes, read and proved."""

from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from addons_tiny import write_lora, write_word
from recipes import recipe
from safelight.checkpoints.hashes import content_sha256, sha256
from safelight.errors import FileError
from safelight.tasks.addons import Embedding, Hypernetwork, Lora
from safelight.tasks.metadata.infotext import infotext, parse_infotext
from safelight.tasks.metadata.infotext_request import read_infotext
from safelight.tasks.metadata.reading import Reading, StatedHash
from safelight.tasks.recipe import UsedFile
from safelight.tasks.request import Request
from safelight.tasks.stated import with_stated


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("SAFELIGHT_HOME", "HF_HUB_CACHE", "SAFELIGHT_CACHE"):
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def read(text: str) -> tuple[Request, Reading]:
    reading = read_infotext(text)
    assert reading.request is not None, reading.notes
    return reading.request, reading


def test_what_a_tag_can_say_is_a_tag_and_the_rest_stands_beside() -> None:
    made = recipe(
        prompt="a cat <lora:asked:0.3>",
        loras=(
            Lora(file="/x/asked.safetensors", tag="asked"),
            Lora(file="/x/plain.safetensors", weight=0.8),
            Lora(file="/x/both.pt", weight=0.8, text_weight=0.5),
            Lora(file="/x/late.safetensors", start=0.5),
            Lora(file="/x/odd:name.safetensors"),
        ),
        hypernetworks=(Hypernetwork(file="/x/net.pt", weight=0.5),),
        embeddings=(
            Embedding(file="/x/glow.pt", word="glow"),
            Embedding(file="/x/zap.pt", word="ugly"),
        ),
        look_up=False,
    )
    text = infotext(made.without_folders())
    first = text.splitlines()[0]
    assert first == (
        "a cat <lora:asked:0.3> <lora:plain:0.8> <lora:both:0.5:0.8> <lora:late:1> "
        "<lora:oddname:1> <hypernet:net:0.5>"
    )
    request, reading = read(text)
    assert reading.notes == () and request.prompt == first and request.look_up
    assert request.loras == (
        Lora(file="late.safetensors", tag="late", start=0.5),
        Lora(file="odd:name.safetensors", tag="oddname"),
    )
    assert request.embeddings == (Embedding(file="zap.pt", word="ugly"),)
    assert request.hypernetworks == ()


def test_two_of_one_name_get_two_tags() -> None:
    twice = (Lora(file="a/x.pt", end=0.5), Lora(file="b/x.pt", start=0.5))
    request, _ = read(infotext(recipe(prompt="a", loras=twice).without_folders()))
    assert request.prompt == "a <lora:x:1> <lora:x 2:1>"
    assert [one.tag for one in request.loras] == ["x", "x 2"]


def test_other_dialects_keep_their_groups() -> None:
    groups = (Lora(file="x.pt", weight=0.5),)
    request, _ = read(infotext(recipe(prompt="a", dialect="comfy", loras=groups)))
    assert (request.prompt, request.loras, request.dialect) == ("a", groups, "comfy")


def test_hashes_are_those_of_a1111(place: Path) -> None:
    lora, word = write_lora(place / "style.safetensors"), write_word(place / "glow.safetensors")
    files = (
        UsedFile(
            role="lora",
            name=lora.name,
            sha256=sha256(lora),
            size=1,
            tensors_sha256=content_sha256(lora),
        ),
        UsedFile(role="embedding", name=word.name, sha256=sha256(word), size=1),
    )
    made = recipe(
        prompt="a glow <lora:style:1>",
        loras=(Lora(file="style.safetensors", tag="style"),),
        embeddings=(Embedding(file="glow.safetensors", word="glow"),),
        files=files,
    )
    fields = parse_infotext(infotext(made)).fields
    assert fields["Lora hashes"] == f"style: {content_sha256(lora)[:12]}"
    assert fields["TI hashes"] == f"glow: {sha256(word)[:12]}"
    _, reading = read(infotext(made))
    assert reading.hashes == (
        StatedHash("lora", "style", content_sha256(lora)[:12]),
        StatedHash("embedding", "glow", sha256(word)[:12]),
    )


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("style: 1b2c3d4e5f6a, other one: 0a1b2c3d4e5f", ["style", "other one"]),
        ("a:b: 1b2c3d4e5f6a", ["a:b"]),
        ("short: 1b2c, none:, word: nothexnothex, : 1b2c3d4e5f6a, plain", []),
        ("", []),
    ],
)
def test_lists_of_hashes_are_read_and_others_passed_by(text: str, names: list[str]) -> None:
    line = f'a\nSteps: 1, Sampler: Euler, Seed: 1, Lora hashes: "{text}"'
    assert [one.name for one in read(line)[1].hashes] == names


def test_a_file_is_proved_by_its_hash_and_found_under_another_name(place: Path) -> None:
    own = write_lora(place / "loras" / "style.safetensors")
    stated = StatedHash("lora", "style", content_sha256(own)[:12])
    request = Request(prompt="a <lora:style:1>")
    found = with_stated(request, [stated])
    assert [Path(one.file).name for one in found.request.loras] == ["style.safetensors"]
    assert found.notes == ()
    # another file took its name, and the file itself, whose trainer wrote its hash, another
    save_file(
        load_file(own),
        place / "loras" / "new name.safetensors",
        metadata={"sshs_model_hash": content_sha256(own)},
    )
    own.unlink()
    write_lora(own, seed=5)
    found = with_stated(request, [stated])
    assert [Path(one.file).name for one in found.request.loras] == ["new name.safetensors"]
    (place / "loras" / "new name.safetensors").unlink()
    found = with_stated(request, [stated])
    assert found.request == request
    assert "the LoRA style is another: the picture names the hash" in found.notes[0]
    assert with_stated(Request(prompt="a"), [stated]).notes == ()


def test_a_whole_files_hash_proves_as_well(place: Path) -> None:
    own = write_lora(place / "loras" / "style.safetensors")
    stated = StatedHash("lora", "style", sha256(own)[:10])
    assert with_stated(Request(prompt="a <lora:style:1>"), [stated]).request.loras
    word = write_word(place / "embeddings" / "glow.safetensors")
    stated = StatedHash("embedding", "glow", sha256(word)[:12])
    (one,) = with_stated(Request(prompt="a glow"), [stated]).request.embeddings
    assert one.word == "glow"


def test_a_text_without_files_is_read_all_the_same(place: Path) -> None:
    request, reading = read(
        "a <lora:gone:1>\nSteps: 1, Sampler: Euler, Seed: 1, Lora hashes: gone: 1b2c3d4e5f6a"
    )
    assert with_stated(request, reading.hashes).request == request
    from safelight.tasks.lookup import check_tags

    with pytest.raises(FileError, match="no LoRA called gone"):
        check_tags(request, None)
