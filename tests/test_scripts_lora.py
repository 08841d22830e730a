"""The scripts about adapters: what they compare is alike, and what they draw is always the same."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

import scenes_tiny
from safelight.training.scenes.cutouts import save_cutouts

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))
import bench_lora
import teaching_pictures


def test_a_summary_holds_medians_of_time_and_peaks_of_memory() -> None:
    def runs(*pairs: tuple[float, float]) -> list[dict[str, float]]:
        return [{"seconds": seconds, "peak_mb": peak} for seconds, peak in pairs]

    told = bench_lora.summary(
        {"ours": runs((1, 100), (2, 90), (9, 80)), "theirs": runs((4, 150), (5, 200), (4, 160))}
    )
    assert told["times_faster"] == 2.0 and told["share_of_memory"] == 0.5
    assert (told["ours_peak_mb"], told["theirs_peak_mb"]) == (100, 200)


@pytest.mark.slow
def test_both_sides_train_the_tiny_shape(tmp_path: Path) -> None:
    asked = ["--shape", "tiny", "--steps", "3", "--out", str(tmp_path / "out.json")]
    subprocess.run([sys.executable, bench_lora.__file__, *asked], check=True)
    told = json.loads((tmp_path / "out.json").read_text())
    assert told["ours_seconds_a_step"] > 0 and told["theirs_peak_mb"] > 0
    assert {side: len(rows) for side, rows in told["runs"].items()} == {"ours": 1, "theirs": 1}


def test_creatures_are_drawn_with_captions_and_always_alike(tmp_path: Path) -> None:
    for name in ("one", "two"):
        teaching_pictures.creatures(tmp_path / name, 4)
    for number, ground in enumerate(("white", "black", "red", "yellow")):
        files = [tmp_path / name / f"{number:02}.png" for name in ("one", "two")]
        assert files[0].read_bytes() == files[1].read_bytes()
        with Image.open(files[0]) as picture:
            assert picture.size == (128, 128)
            assert picture.getpixel((1, 1)) == teaching_pictures.GROUNDS[ground]
        assert files[0].with_suffix(".txt").read_text() == f"a zorb on a {ground} background"


def test_pixel_art_has_one_colour_a_cell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_cutouts(scenes_tiny.cutouts(), tmp_path / "cutouts.safetensors")
    entries = scenes_tiny.cutouts().entries
    style = entries[0].style
    things = tuple(dict.fromkeys(e.name for e in entries if e.style == style))[:3]
    monkeypatch.setattr(teaching_pictures, "THINGS", things)
    teaching_pictures.pixel_art(tmp_path / "out", tmp_path / "cutouts.safetensors", style)
    for path in sorted((tmp_path / "out").glob("*.png")):
        with Image.open(path) as picture:
            cells = picture.resize((16, 16), Image.Resampling.NEAREST)
            again = cells.resize(picture.size, Image.Resampling.NEAREST)
            assert again.tobytes() == picture.tobytes()
    assert len(list((tmp_path / "out").glob("*.txt"))) == 3
