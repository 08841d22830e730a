"""scripts/load_serve.py: a small load on a tiny model, and what it makes of numbers."""

import json
import sys
from pathlib import Path

import pytest

from safelight.tasks.picture import Picture
from safelight.tasks.request import Request
from server_fake import picture_of

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))
import load_client
import load_serve


def png(seed: int, **changes: object) -> bytes:
    picture: Picture = picture_of(Request.parse({"prompt": "x", "seed": seed, **changes}))
    return picture.encoded(".png")


def test_pictures_are_compared_level_by_level() -> None:
    assert load_client.apart(png(1), png(1)) == 0
    assert load_client.apart(png(1), png(2)) == 49
    assert load_client.apart(png(1), png(1, width=72)) == 256


def test_percentiles_are_values_and_growth_leaves_out_the_beginning() -> None:
    values = [float(n) for n in range(100, 0, -1)]
    assert [load_serve.nearest(values, p) for p in (50, 99, 100)] == [50, 99, 100]
    assert load_serve.nearest([3.0], 99) == 3.0 and load_serve.nearest([], 50) == 0.0
    assert load_serve.growth([*[900] * 10, *[1000] * 80, *[1008] * 10]) == 8
    assert load_serve.growth([5]) == 0 and load_serve.growth([5, 9]) == 0


def test_seeds_of_all_clients_differ() -> None:
    plans = load_serve.plans_of(8, 3, None)
    assert len({asked.seed for plan in plans for asked in plan}) == 24


@pytest.mark.slow
def test_a_small_load_gives_each_client_its_own_picture(
    models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = ["--model", "one", "--models", str(models), "--steps", "2", "--batch", "4"]
    ended = load_serve.main([*own, "--clients", "1,4", "--pictures", "2", "--alone", "3"])
    table, line = capsys.readouterr().out.rstrip().rsplit("\n", 1)
    told = json.loads(line)
    assert ended == 0, table
    assert [phase["pictures"] for phase in told["phases"]] == [3, 8]
    assert all(phase["worst"] <= 1 and not phase["lost"] for phase in told["phases"])
    assert len(told["ratio"]["of_rounds"]) == 1 and told["ratio"]["median"] > 0
    assert "clients" in table


@pytest.mark.slow
def test_those_who_hang_up_harm_nobody_and_memory_is_watched(
    models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = ["--model", "one", "--models", str(models), "--batch", "4", "--pictures", "1"]
    assert load_serve.main([*own, "--steps", "40", "--leaving", "4"]) == 0
    told = json.loads(capsys.readouterr().out.rstrip().rsplit("\n", 1)[1])
    assert told["stayed"] == 2 and told["cancelled"] + told["finished"] == 2
    assert told["cancelled"] >= 1 and told["rest_unharmed"] is True
    assert load_serve.main([*own, "--steps", "2", "--clients", "3", "--soak", "4"]) == 0
    told = json.loads(capsys.readouterr().out.rstrip().rsplit("\n", 1)[1])
    assert told["resident_mb"] > 50 and abs(told["grew_mb"]) < 64
