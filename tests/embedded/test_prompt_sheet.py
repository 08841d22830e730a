"""The fixed sheet: prompts by a rule, each with its seed, drawn as `generate` draws them."""

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from embedded_tiny import script
from own_model import model_of, small_family
from safelight.checkpoints.save import save
from safelight.errors import RequestError
from safelight.tasks.generate import generate
from safelight.tasks.loading import Models
from safelight.text.promptfile import read_prompts
from scenes_tiny import cutouts

sheets = script("sheet")


@pytest.fixture
def carried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    save(model_of(small_family()), tmp_path / "emoji")
    monkeypatch.setattr("safelight.embedded.carried.shelf", lambda: tmp_path / "emoji")
    return tmp_path


def test_the_shipped_prompts_are_sixty_four_with_seeds_in_order() -> None:
    lines = read_prompts(sheets.PROMPTS)
    assert [line.settings["seed"] for line in lines] == list(range(1, 65))
    prompts = [str(line.settings["prompt"]) for line in lines]
    assert len(set(prompts)) == 64
    assert all(set(line.settings) == {"prompt", "seed"} for line in lines)
    assert not any(set(prompt) & sheets.SPECIAL for prompt in prompts)
    text = " ".join(prompts)
    for word in ("background", "style", "two", "three", "left", "above", "small", "large"):
        assert word in text, word


def test_the_rule_gives_the_same_prompts_for_the_same_cutouts() -> None:
    pictures = cutouts()
    prompts = sheets.chosen(pictures)
    assert prompts == sheets.chosen(pictures) and len(prompts) == 64
    held_out = {"dog", "cat"}
    for prompt in prompts[-8:]:
        assert "twemoji" in prompt and any(name in prompt for name in held_out), prompt
    assert sum("twemoji" in p and ("dog" in p or "cat" in p) for p in prompts[:-8]) <= 8


def test_a_prompt_that_a_dialect_would_read_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sheets, "SPECIAL", frozenset("a"))
    with pytest.raises(RequestError, match="would be read as more than words"):
        sheets.chosen(cutouts())


def test_lines_survive_the_file(tmp_path: Path) -> None:
    prompts = ["a woman's sandal", 'two "x-rays", flat', "cat"]
    (tmp_path / "p.txt").write_text(sheets.as_lines(prompts))
    requests = sheets.requests_of(tmp_path / "p.txt", steps=3)
    assert [(r.prompt, r.seed, r.steps) for r in requests] == [
        (prompt, seed, 3) for seed, prompt in enumerate(prompts, start=1)
    ]


def test_the_cells_are_the_pictures_of_generate(
    carried: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (carried / "p.txt").write_text(sheets.as_lines(["a cat", "a red apple", "three dogs"]))
    out = carried / "docs" / "sheet.png"
    args = ["sheet.py", "--prompts", str(carried / "p.txt"), "--out", str(out), "--steps", "1"]
    monkeypatch.setattr("sys.argv", args)
    assert sheets.main() == 0 and str(out) in capsys.readouterr().out
    requests = sheets.requests_of(carried / "p.txt", steps=1)
    (second,) = generate(Models().of(requests[1]), requests[1])
    with Image.open(BytesIO(out.read_bytes())) as page:
        box = (6 + 134, 6, 6 + 134 + 128, 6 + 128)
        assert np.array_equal(np.asarray(page.crop(box)), second.pixels)


def test_without_a_model_it_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["sheet.py", "--out", str(tmp_path / "x.png")])
    assert sheets.main() == 2
    assert "no model was given" in capsys.readouterr().err
    assert not (tmp_path / "x.png").exists()
