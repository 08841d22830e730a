"""What is counted is told at a pace that a log can bear: silence for seconds, then now and then."""

import pytest

from safelight.cli.train_display import EVERY, FIRST_LINE, Counting, Speaker


class Clock:
    """A time that stands still until it is moved."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def told(moments: list[tuple[float, int]], total: int = 100) -> list[str]:
    """The lines of a count that is told at these moments."""
    clock, lines = Clock(), list[str]()
    counting = Counting("encoding pictures", total, lines.append, clock)
    for seconds, done in moments:
        clock.now = 100.0 + seconds
        counting.done(done)
    return lines


def test_a_line_says_how_far_how_fast_and_how_long_yet() -> None:
    (line,) = told([(20.0, 40)])
    assert line == "encoding pictures: 40 of 100, 2 a second, 30 s left"


def test_short_work_is_silent_and_long_work_speaks_at_its_pace() -> None:
    assert told([(1.0, 50), (FIRST_LINE - 1, 100)]) == []
    lines = told([(second, second) for second in range(1, 100)])
    assert len(lines) == 1 + int((99 - FIRST_LINE) // EVERY)


def test_the_end_is_told_if_the_way_was() -> None:
    assert told([(20.0, 40), (21.0, 100)])[1].startswith("encoding pictures: 100 of 100")
    assert len(told([(20.0, 40), (21.0, 100), (22.0, 100)])) == 2, "once"


def test_without_a_terminal_a_speaker_says_lines(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("safelight.cli.train_display.FIRST_LINE", 0.0)
    with Speaker(aloud=True).counted("encoding pictures", 4) as watch:
        watch(2)
    assert capsys.readouterr().out.startswith("encoding pictures: 2 of 4, ")
    with Speaker(aloud=False).counted("encoding pictures", 4) as watch:
        watch(2)
    assert capsys.readouterr().out == ""
