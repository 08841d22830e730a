"""Settings refuse what cannot be trained with, naming the key and the allowed values."""

from typing import Any

import pytest

from safelight.errors import RequestError
from safelight.training.ema import Classic
from safelight.training.settings import CHOICES, FREE, SCHEDULED
from training_tiny import settings

WRONG: list[tuple[dict[str, Any], str]] = [
    ({"batch_size": 0}, "batch_size must be 1 or more; got 0"),
    ({"steps": 0}, "steps must be 1 or more"),
    ({"micro_batch": 0}, "micro_batch must be 1 or more"),
    ({"warmup_steps": -1}, "warmup_steps must be 0 or more"),
    ({"log_every": 0}, "log_every must be 1 or more"),
    ({"keep": 0}, "keep must be 1 or more"),
    ({"learning_rate": -1.0}, "learning_rate must be 0 or more"),
    ({"learning_rate": {"net": float("nan")}}, "learning_rate must be 0 or more; got nan"),
    ({"betas": (0.9, 1.0)}, "betas must be two numbers in"),
    ({"betas": (0.9,)}, "betas must be two numbers in"),
    ({"decay_from": 1.5}, r"decay_from must be in \[0, 1\]; got 1.5"),
    ({"clip_norm": 0.0}, "clip_norm must be above 0, or null"),
    ({"optimizer": "sgd"}, "optimizer must be one of adamw, muon, prodigy, adamw8bit; got sgd"),
    ({"precision": "fp16"}, "precision must be one of fp32, tf32, bf16; got fp16"),
    ({"schedule": "step"}, "schedule must be one of constant, linear, cosine; got step"),
    ({"non_finite": "ignore"}, "non_finite must be one of stop, skip"),
    ({"ema": (Classic(0.9), Classic(0.9))}, "ema names the same average twice: classic:0.9"),
]


@pytest.mark.parametrize(("changes", "said"), WRONG, ids=lambda v: str(v)[:30])
def test_a_wrong_setting_is_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(RequestError, match=said):
        settings(**changes)


def test_values_may_differ_between_players() -> None:
    given = settings(learning_rate={"a": 1.0, "b": 2.0}, weight_decay={"a": 0.0, "b": 0.1})
    assert (given.learning_rate_of("b"), given.weight_decay_of("a")) == (2.0, 0.0)
    with pytest.raises(RequestError, match="learning_rate has no value for the player c"):
        given.learning_rate_of("c")


def test_every_setting_is_known_to_those_who_compare_and_choose() -> None:
    names = set(settings().plain())
    assert names >= FREE | SCHEDULED | set(CHOICES) and not FREE & SCHEDULED
