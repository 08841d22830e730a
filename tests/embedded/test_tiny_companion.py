"""The tiny decoder that goes with the embedded model: drawn with by name, and seen on the way."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from embedded_tiny import package, script, standing_in
from models_tiny import randomised
from own_model import model_of, small_family
from safelight.checkpoints.hashes import sha256
from safelight.checkpoints.library import described, entries, find_model, places
from safelight.checkpoints.load import load, load_autoencoder
from safelight.checkpoints.save import save
from safelight.cli.main import run
from safelight.embedded.carried import COMPANIONS, FOLDER, TINY
from safelight.errors import CheckpointError, RequestError
from safelight.evaluation.report import Report
from safelight.models.taesd import TinyAutoencoder, TinyAutoencoderConfig
from safelight.server.library import Library
from safelight.server.registry import listed
from safelight.tasks.generate import generate
from safelight.tasks.loading import Models
from safelight.tasks.metadata.reader import read_settings
from safelight.tasks.request import Request
from safelight.training.recipes.writing import write_tiny_decoder

SMALL = ("--size", "64x64", "--steps", "2", "--seed", "3")


def write_tiny(path: Path, *, channels: int = 8, levels: int = 4, seed: int = 0) -> Path:
    """A tiny decoder of random weights for the small model's latents."""
    shape = TinyAutoencoderConfig(
        latent_channels=channels, width=8, blocks=(1,) * levels, encodes=False
    )
    made = shape.build()
    randomised(made, seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_tiny_decoder(path, made, torch.float16, {})
    return path


@pytest.fixture(scope="module")
def emoji(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = package(tmp_path_factory)
    write_tiny(folder / COMPANIONS[TINY])
    return folder


@pytest.fixture
def carried(emoji: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    standing_in(emoji, tmp_path, monkeypatch)
    return emoji


def test_it_is_found_by_name_and_told_for_what(carried: Path) -> None:
    assert find_model(TINY, what="autoencoder") == carried / COMPANIONS[TINY]
    (entry,) = [one for one in entries(places()) if one.name == f"{TINY}.safetensors"]
    assert described(entry).what == "taesd for own"


def test_the_server_has_it_among_the_autoencoders(carried: Path) -> None:
    (item,) = [one for one in listed().on("vae") if one.name == TINY]
    assert (item.shelf, item.path) == ("vae", carried / COMPANIONS[TINY])


@pytest.mark.slow
def test_a_picture_drawn_with_it_says_so_and_is_drawn_again(
    carried: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["generate", "a", *SMALL, "--vae", TINY, "-o", "a.png"]) == 0
    assert run(["generate", "a", *SMALL, "-o", "plain.png"]) == 0
    recipe = read_settings(Path("a.png")).recipe
    assert recipe is not None and recipe.request.vae == TINY
    used = recipe.file("vae")
    assert used is not None and used.name == f"{TINY}.safetensors"
    plain = read_settings(Path("plain.png")).recipe
    assert plain is not None and plain.request.vae is None
    with Image.open("a.png") as one, Image.open("plain.png") as other:
        assert one.tobytes() != other.tobytes()
    capsys.readouterr()
    assert run(["replay", "a.png"]) == 0
    assert capsys.readouterr().out == "identical\n"


@pytest.mark.slow
def test_another_decoder_in_its_place_is_named_by_replay(
    carried: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(["generate", "a", *SMALL, "--vae", TINY, "-o", "a.png"]) == 0
    newer = tmp_path / "newer" / FOLDER
    shutil.copytree(carried, newer)
    write_tiny(newer / COMPANIONS[TINY], seed=1)
    monkeypatch.setattr("safelight.embedded.carried.shelf", lambda: newer)
    capsys.readouterr()
    assert run(["replay", "a.png"]) == 1
    told = capsys.readouterr()
    assert "the file for vae is another" in told.err
    assert told.out.startswith("different: ") and "embedded model was replaced" not in told.out


@pytest.mark.parametrize(
    ("settings", "refused"),
    [
        ({"source": {"picture": "photo.png"}}, True),
        ({"hires": {"scale": 2, "upscaler": "lanczos"}}, True),
        ({"hires": {"scale": 2, "upscaler": "Latent"}}, False),
        ({"hires": {"scale": 2, "upscaler": "lanczos", "strength": 0}}, False),
    ],
)
def test_what_needs_latents_of_a_picture_is_refused_before_it_draws(
    carried: Path, settings: dict[str, object], refused: bool
) -> None:
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save("photo.png")
    request = Request.parse(
        {"prompt": "a", "width": 64, "height": 64, "steps": 1, "vae": TINY, **settings}
    )
    steps: list[object] = []
    model = Models().of(request)
    if not refused:
        assert len(list(generate(model, request))) == 1
        return
    with pytest.raises(RequestError, match=f"{TINY} is a decoder alone"):
        list(generate(model, request, watch_steps=steps.append))
    assert not steps


def request_of(**changes: object) -> Request:
    return Request.parse({"prompt": "a", **changes})


def test_previews_of_the_embedded_model_are_by_its_tiny_decoder(carried: Path) -> None:
    request = request_of(model=str(carried))
    loaded = Library(10**9).of("embedded", request)
    seen = loaded.preview
    assert seen is not None and seen.tiny is not None
    latents = torch.randn(8, 4, 6, generator=torch.Generator().manual_seed(0))
    shown = torch.from_numpy(seen.picture(latents).copy()).permute(2, 0, 1).float()
    assert shown.shape == (3, 32, 48)
    own = next(seen.tiny.autoencoder.parameters()).dtype
    for dtype, levels in ((own, 0.51), (torch.float32, 6)):
        tiny = load_autoencoder(carried / COMPANIONS[TINY], dtype=dtype)
        with torch.no_grad():
            wanted = (tiny.decode(latents[None])[0].float().clamp(-1, 1) + 1) * 127.5
        assert (shown - wanted).abs().max() <= levels
    assert seen.pixels(latents).shape == (4, 6, 3), "latents themselves stay a pixel each"
    coarse = replace(seen, tiny=None).jpeg(latents)
    assert seen.jpeg(latents, quick=True) == coarse != seen.jpeg(latents)
    large = torch.zeros(8, 40, 40)
    assert seen.picture(large).shape == (40, 40, 3), "what is large is shown by the matrix"


def test_a_model_drawn_with_it_is_seen_with_it_too(carried: Path) -> None:
    loaded = Library(10**9).of("both", request_of(model=str(carried), vae=str(find_model(TINY))))
    assert loaded.preview is not None and loaded.preview.tiny is loaded.model.codec
    assert loaded.preview.pixels(torch.zeros(8, 2, 2)).shape == (2, 2, 3)


def test_another_model_of_the_same_shape_is_not_shown_by_it(carried: Path, tmp_path: Path) -> None:
    save(model_of(small_family(), seed=1), tmp_path / "other")
    loaded = Library(10**9).of("other", request_of(model=str(tmp_path / "other")))
    assert loaded.preview is not None and loaded.preview.tiny is None


def test_a_damaged_decoder_leaves_the_coarse_previews(
    carried: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "broken" / FOLDER
    shutil.copytree(carried, broken)
    (broken / COMPANIONS[TINY]).write_bytes(b"no weights")
    monkeypatch.setattr("safelight.embedded.carried.shelf", lambda: broken)
    loaded = Library(10**9).of("embedded", request_of(model=str(broken)))
    assert loaded.preview is not None and loaded.preview.tiny is None


@pytest.mark.parametrize(("channels", "levels", "said"), [(4, 4, "channels"), (8, 2, "1/2")])
def test_a_decoder_of_other_latents_is_not_packed(
    tmp_path: Path, channels: int, levels: int, said: str
) -> None:
    given = write_tiny(tmp_path / "given.safetensors", channels=channels, levels=levels)
    with pytest.raises(CheckpointError, match=said):
        script("companions").write_companions(
            model_of(small_family()), tmp_path / "emoji", tiny=given
        )
    assert not (tmp_path / "emoji").exists()


def test_it_is_packed_as_it_is(tmp_path: Path, carried: Path) -> None:
    given = carried / COMPANIONS[TINY]
    model = load(carried, dtype=torch.float32)
    script("companions").write_companions(model, tmp_path / "emoji", tiny=given)
    assert (tmp_path / "emoji" / COMPANIONS[TINY]).read_bytes() == given.read_bytes()
    coder = load_autoencoder(given).autoencoder
    assert isinstance(coder, TinyAutoencoder) and coder.encoder is None


def test_the_card_tells_what_it_is_and_how_near_it_comes(carried: Path, tmp_path: Path) -> None:
    folder = tmp_path / "packed"
    shutil.copytree(carried, folder)
    packing, sections, told = (script(n) for n in ("pack", "sections", "companion_sections"))
    (folder / packing.SUMS).write_text(packing.sums(folder))
    model = load(folder, dtype=torch.float32)
    measured = tmp_path / "measured"
    measured.mkdir()
    (measured / told.MEASURED).write_text(f'{{"tiny": "{sha256(folder / COMPANIONS[TINY])}"}}')
    (measured / told.TABLE).write_text("| | dB |\n|---|---|\n| drawn | 27 |\n")
    records = sections.Records(
        folder, Report("Evaluation", {}, ()), {}, (), {}, measured={TINY: measured}
    )
    text = "\n".join(told.tiny(records, model))
    coder = load_autoencoder(folder / COMPANIONS[TINY]).autoencoder
    count = sum(weight.numel() for weight in coder.parameters())
    assert f"a tiny decoder of {count:,} weights" in text and "| drawn | 27 |" in text
    (measured / told.MEASURED).write_text("{}")
    with pytest.raises(CheckpointError, match="measured with another embedded-tiny"):
        told.tiny(records, model)
    (folder / COMPANIONS[TINY]).unlink()
    assert told.tiny(records, model) == []
