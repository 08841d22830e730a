"""`--budget` says what it chose and what it expected, or which is the nearest way."""

from pathlib import Path

import pytest

from cli_tiny import SMALL, Cli
from safelight.engines.budget_rates import Rates
from safelight.engines.disturbance import Watch
from safelight.tasks import budget_learning

RATES = Rates(1e11, 2e11, 1e11, 5e10, 1e-4)


@pytest.fixture(autouse=True)
def _rates(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(budget_learning, "measured_rates", lambda dtype, device: RATES)
    monkeypatch.setattr(Watch, "disturbed", lambda watch: False)


@pytest.fixture(autouse=True)
def _cache(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAFELIGHT_CACHE", str(tmp_path / "rates"))


def test_a_budget_says_what_it_chose_and_what_became_of_it(safelight: Cli, model: Path) -> None:
    ran = safelight("generate", "a cat", "-m", model, *SMALL, "--budget", "10min 100GB")
    assert ran.code == 0, ran.err
    first, last = ran.err.splitlines()
    assert first.startswith("budget: within 10 min and 100.0 GB: fp32, all parts in memory;")
    assert last.startswith("budget: took ") and "; predicted were " in last
    plain = safelight("generate", "a cat", "-m", model, *SMALL, "-o", "plain.png", "--json")
    again = safelight("replay", "plain.png", "-m", model)
    assert plain.err == "" and again.out == "identical\n"


def test_a_budget_that_nothing_meets_is_refused_before_anything_is_drawn(
    safelight: Cli, model: Path, place: Path
) -> None:
    error = safelight("generate", "a cat", "-m", model, *SMALL, "--budget", "1MB").error()
    assert error.startswith("nothing draws this within 1 MB; the nearest is ")
    assert "--budget '" in error
    assert not (place / "out").exists()


def test_pictures_of_several_requests_share_the_time(
    safelight: Cli, model: Path, place: Path
) -> None:
    (place / "prompts.txt").write_text("a cat\na dog\na cow\n", "utf-8")
    ran = safelight("generate", "--prompts", "prompts.txt", "-m", model, *SMALL, "--budget", "1min")
    assert ran.code == 0, ran.err
    left = [line.split(":")[1] for line in ran.err.splitlines() if "within" in line]
    seconds = [float(words.split("within ")[1].split()[0]) for words in left]
    assert len(seconds) == 3 and seconds[0] == 60 and seconds[1] <= 60


@pytest.mark.parametrize("verb", ["generate", "edit"])
def test_the_option_is_there_for_verbs_that_draw(safelight: Cli, verb: str) -> None:
    assert "--budget" in safelight(verb, "--help").out
