"""The engine that is done soonest is chosen, by figures that are remembered."""

import json
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from cli_tiny import tiny_model
from safelight.engines.choice import (
    FILE,
    Candidate,
    Choice,
    Figures,
    best,
    candidates,
    chosen,
    key_of,
    read_book,
    write_book,
)
from safelight.engines.disturbance import Watch
from safelight.engines.table import EAGER
from safelight.engines.work import Work, example
from safelight.errors import RequestError
from safelight.model import Model
from safelight.models.runner import Extra

WORK = Work(height=8, width=8, batch=2, calls=20)


@dataclass
class Clock:
    """Time that passes only where a stand-in says so."""

    at: float = 0.0

    def __call__(self) -> float:
        return self.at


@dataclass
class Pretending:
    """A runner that takes a given time, and more in its first call."""

    clock: Clock
    call: float
    ready: float = 0.0
    name: str = "pretending"
    extras: frozenset[Extra] = frozenset()
    frozen: bool = False
    asked: int = 0

    def __call__(
        self, x: Tensor, time: Tensor, context: Tensor, vector: Tensor | None = None, **told: object
    ) -> Tensor:
        self.clock.at += self.call + (0 if self.asked else self.ready)
        self.asked += 1
        return x


@dataclass
class Workshop:
    """Engines that pretend, and how often each was put on."""

    clock: Clock = field(default_factory=Clock)
    applied: list[str] = field(default_factory=list)

    def model(self, call: float = 10.0) -> Model:
        model = tiny_model()
        return replace(model, network=replace(model.network, runner=Pretending(self.clock, call)))

    def candidate(
        self,
        name: str,
        call: float,
        *,
        ready: float = 0.0,
        making: float = 0.0,
        missing: str | None = None,
        extras: frozenset[Extra] = frozenset(),
        fails: bool = False,
    ) -> Candidate:
        made: list[bool] = []

        def apply(model: Model) -> Model:
            self.applied.append(name)
            if fails:
                raise RequestError("it cannot")
            first = ready if made or not making else ready + making
            made.append(True)
            runner = Pretending(self.clock, call, first, extras=extras)
            return replace(model, network=replace(model.network, runner=runner))

        def to_make(model: Model, work: Work) -> float:
            return 0.0 if made else making

        return Candidate(name, apply, lambda: missing, to_make)


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workshop:
    monkeypatch.setenv("SAFELIGHT_CACHE", str(tmp_path))
    monkeypatch.setattr(Watch, "disturbed", lambda watch: False)
    return Workshop()


def choose(shop: Workshop, *engines: Candidate, work: Work = WORK, limit: float = 1e6) -> Choice:
    return chosen(shop.model(), work, engines, limit=limit, now=shop.clock)


def test_the_quickest_is_chosen_and_said_with_its_figures(shop: Workshop) -> None:
    choice = choose(shop, shop.candidate("quick", 4), shop.candidate("slow", 20))
    assert choice.name == "quick"
    assert str(choice) == (
        "engine quick: 80.0 s for 20 calls of the U-Net against eager 200 s, slow 400 s"
    )


def test_eager_stays_where_nothing_saves_enough(shop: Workshop) -> None:
    assert choose(shop, shop.candidate("near", 9.9)).name == EAGER
    assert choose(shop, shop.candidate("none", 1, missing="no such thing")).name == EAGER
    assert choose(shop).why.endswith("the only one that can")


def test_what_getting_ready_takes_counts_and_pays_off_over_many_calls(shop: Workshop) -> None:
    engine = shop.candidate("late", 5, ready=60)
    assert choose(shop, engine, work=replace(WORK, calls=10)).name == EAGER
    assert choose(shop, engine, work=replace(WORK, calls=20)).name == "late"


def test_what_takes_longer_to_make_than_all_of_the_work_is_not_even_tried(shop: Workshop) -> None:
    choice = choose(shop, shop.candidate("heavy", 1, making=500))
    assert (choice.name, shop.applied) == (EAGER, [])
    assert "heavy would take about 500 s to get ready" in choice.why
    choice = choose(shop, shop.candidate("heavy", 1, making=500), work=replace(WORK, calls=100))
    assert choice.name == "heavy"  # and now it is made, so the next short work has it, too
    assert shop.applied == ["heavy", "heavy"]


def test_an_engine_that_was_made_meanwhile_is_chosen_for_little_work(shop: Workshop) -> None:
    engine = shop.candidate("heavy", 1, making=500)
    assert choose(shop, engine, work=replace(WORK, calls=100)).name == "heavy"
    assert choose(shop, engine, work=replace(WORK, calls=2)).name == "heavy"


def test_measuring_ends_at_its_limit(shop: Workshop) -> None:
    choice = choose(shop, shop.candidate("first", 12), shop.candidate("second", 1), limit=50)
    assert shop.applied == ["first"] and choice.name == EAGER
    assert "second would take too long to measure" in choice.why


def test_figures_are_remembered_and_nothing_is_measured_twice(shop: Workshop) -> None:
    engine = shop.candidate("quick", 4)
    first = choose(shop, engine)
    passed = shop.clock.at
    assert choose(shop, engine) == first
    assert shop.clock.at == passed and shop.applied == ["quick"]


def test_another_size_or_type_is_measured_anew(shop: Workshop) -> None:
    model = tiny_model()
    keys = {
        key_of(model, WORK),
        key_of(model, replace(WORK, height=16)),
        key_of(model, replace(WORK, batch=4)),
    }
    model.network.unet.to(torch.bfloat16)
    assert len({*keys, key_of(model, WORK)}) == 4
    assert key_of(tiny_model(), WORK) == key_of(tiny_model(1), replace(WORK, calls=7))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        '{"format": 1}',
        '{"format": 1, "measured": {"a": {"b": [1]}}}',
        '{"format": 1, "measured": {"a": {"b": [0, NaN]}}}',
        '{"format": 2, "measured": {}}',
    ],
)
def test_a_broken_file_is_made_anew(shop: Workshop, tmp_path: Path, text: str) -> None:
    engine = shop.candidate("quick", 4)
    choose(shop, engine)
    path = tmp_path / "engines" / FILE
    path.write_text(text)
    assert choose(shop, engine).name == "quick"
    assert shop.applied == ["quick", "quick"]
    assert json.loads(path.read_text())["measured"]


def test_an_engine_that_cannot_do_what_is_asked_or_fails_is_left_out(shop: Workshop) -> None:
    asking = replace(WORK, asked=frozenset({"ControlNets"}))
    plain = shop.candidate("plain", 1)
    able = shop.candidate("able", 5, extras=frozenset({"ControlNets"}))
    broken = shop.candidate("broken", 1, fails=True)
    assert choose(shop, plain, able, broken, work=asking).name == "able"


def test_an_engine_remembered_for_plain_work_is_not_taken_for_more(shop: Workshop) -> None:
    plain = shop.candidate("plain", 1)
    assert choose(shop, plain).name == "plain"
    asking = replace(WORK, asked=frozenset({"ControlNets"}))
    assert choose(shop, plain, work=asking).name == EAGER


def test_only_the_last_figures_are_kept(tmp_path: Path) -> None:
    book = {str(i): {EAGER: Figures(0, 1)} for i in range(300)}
    write_book(tmp_path / FILE, book)
    kept = read_book(tmp_path / FILE)
    assert len(kept) == 256 and "299" in kept and "0" not in kept


def test_the_choice_is_pure() -> None:
    figures = {EAGER: Figures(0, 2), "b": Figures(10, 1), "c": Figures(0, 1.5)}
    assert best(figures, 100, {}).name == "b"
    assert best(figures, 8, {}).name == "c"
    assert best(figures, 100, {"b": 1000.0}).name == "c"


def test_the_table_offers_eager_and_only_exact_engines() -> None:
    names = [one.name for one in candidates()]
    assert EAGER in names and not any("int8" in name for name in names)


@torch.no_grad()
def test_the_example_is_a_call_that_the_network_takes() -> None:
    model = tiny_model()
    x, time, condition = example(model, WORK)
    assert model.network(x, time, condition).shape == (2, 4, 8, 8)
    again = example(model, WORK)
    assert torch.equal(x, again[0]) and torch.equal(condition.context, again[2].context)


def test_what_was_measured_on_a_busy_machine_is_used_and_not_remembered(
    shop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Watch, "disturbed", lambda watch: True)
    for times in (1, 2):
        assert choose(shop, shop.candidate("quick", 4)).name == "quick"
        assert shop.applied == ["quick"] * times
    monkeypatch.setattr(Watch, "disturbed", lambda watch: False)
    for _ in range(2):
        assert choose(shop, shop.candidate("quick", 4)).name == "quick"
        assert shop.applied == ["quick"] * 3
