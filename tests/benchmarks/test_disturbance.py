"""What else the machine did is seen, and said in words."""

import os
import subprocess
import sys
import time

import pytest

from safelight.benchmarks.disturbance import load_average, pulse, verdict
from safelight.engines.disturbance import Disturbance, Watch, between, moment

TICKS = os.sysconf("SC_CLK_TCK")
linux = pytest.mark.skipif(not os.path.exists("/proc/stat"), reason="this system has no /proc")
QUIET = Disturbance(0.02, 0.0)


def stat(user: float, system: float, idle: float, steal: float) -> str:
    """As /proc/stat has it, of so many seconds."""
    numbers = (user, 0, system, idle, 0, 0, 0, steal, 0, 0)
    return "cpu  " + " ".join(str(round(n * TICKS)) for n in numbers) + "\ncpu0 1 2 3\n"


def stretch(seconds: float, before: str, after: str, own: float) -> Disturbance:
    a, b = moment(before), moment(after)
    return between(a, type(b)(a.wall + seconds, b.busy, b.stolen), own)


def test_others_are_what_was_busy_and_not_our_own() -> None:
    found = stretch(10, stat(100, 10, 50, 1), stat(112, 13, 55, 1), own=11)
    assert found.others == pytest.approx(0.4) and found.stolen == 0


def test_stolen_time_is_a_share_of_all_cores() -> None:
    found = stretch(10, stat(0, 0, 0, 0), stat(5, 0, 0, 2), own=5)
    assert found.others == pytest.approx(0.0)
    assert found.stolen == pytest.approx(2 / (10 * (os.cpu_count() or 1)))


def test_a_system_that_tells_nothing_is_unknown_and_not_quiet() -> None:
    found = between(moment(""), moment(""), 0.0)
    assert found == Disturbance(None, None)
    told = verdict([(1.0, found)], [1.0, 1.0])
    assert not told.noisy and "unknown" in told.words() and told.line()["others_cores"] is None


@linux
def test_a_busy_process_beside_us_is_noticed() -> None:
    """A synthetic load: a process that computes for as long as it is watched."""
    script = "import time\nprint(flush=True)\nend = time.time() + 20\nwhile time.time() < end: pass"
    busy = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
    try:
        assert busy.stdout is not None
        busy.stdout.readline()
        before, own, watch = moment(), time.process_time(), Watch()
        time.sleep(0.4)
        seen = between(before, moment(), time.process_time() - own)
        assert watch.disturbed()
    finally:
        busy.kill()
        busy.wait()
        assert busy.stdout is not None
        busy.stdout.close()
    told = verdict([(0.4, seen)], [pulse()])
    assert (
        told.noisy and "other processes used" in told.words() and "Stop other work" in told.words()
    )


def test_quiet_turns_are_quiet() -> None:
    told = verdict([(1.0, QUIET), (2.0, QUIET)], [1.0, 1.01], [("ours", 0.05)])
    assert not told.noisy and told.words() == "quiet" and told.line()["reasons"] == []


@pytest.mark.parametrize(
    ("seen", "pulses", "unsteady", "said"),
    [
        (Disturbance(0.4, 0.0), [1.0], [], "other processes used 40% of a core"),
        (Disturbance(0.0, 0.05), [1.0], [], "5% of the processors' time was stolen"),
        (QUIET, [1.0, 1.25], [], "the processor's pace changed by 25%"),
        (QUIET, [1.0], [("openvino", 0.3)], "half of openvino's rounds lie 30%"),
    ],
)
def test_each_disturbance_is_named(
    seen: Disturbance, pulses: list[float], unsteady: list[tuple[str, float]], said: str
) -> None:
    told = verdict([(1.0, seen)], pulses, unsteady)
    assert told.noisy and len(told.reasons) == 1 and said in told.words()


def test_long_turns_count_more() -> None:
    told = verdict([(9.0, Disturbance(0.0, 0.0)), (1.0, Disturbance(0.5, 0.0))], [1.0])
    assert told.others == pytest.approx(0.05) and not told.noisy


def test_the_pulse_is_short_and_positive() -> None:
    began = time.perf_counter()
    assert 0 < pulse() < 0.05
    assert time.perf_counter() - began < 1
    assert load_average() is None or load_average() >= 0  # type: ignore[operator]
