"""What nobody thought of: schemathesis makes requests of our own OpenAPI document.

Both kinds are made: those that the document allows, and those that break it in one place. Whatever
comes, the answer is of a status that the document names for that operation, and none is a fault of
the server.
"""

import re
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.errors import Unsatisfiable

from server_fake import FakePainter
from server_live import live

schemathesis = pytest.importorskip("schemathesis", reason="schemathesis is not installed")

SECRETS = re.compile(r"Traceback|site-packages|File \"|/src/safelight|/tmp/")
QUICK, MANY = 2, 8  # requests of each kind and operation


@pytest.fixture(scope="module")
def schema(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The document of a server that draws flat pictures, and requests that go there."""
    folder = tmp_path_factory.mktemp("fuzz")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("SAFELIGHT_HOME", "SAFELIGHT_CACHE", "HF_HUB_CACHE"):
            patch.setenv(name, str(folder / name.lower()))
        with live(folder / "out", FakePainter()) as port:
            yield schemathesis.openapi.from_url(f"http://127.0.0.1:{port}/openapi.json")


def asked(schema: Any, kind: str, count: int) -> list[str]:
    """Make so many requests of every operation; the answers that are wrong, in words."""
    answers = [
        answer
        for result in schema.get_all_operations()
        for answer in of_one(result.ok(), schemathesis.GenerationMode(kind), count)
    ]
    assert len(answers) > 60, "requests were made"
    return [answer for answer in answers if answer]


def of_one(operation: Any, mode: Any, count: int) -> list[str]:
    """What `fault` says of requests of one operation, which are the same in every run."""
    answers: list[str] = []

    @seed(20261123)
    @settings(
        max_examples=count,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def one(case: Any) -> None:
        answers.append(fault(case, operation))

    with suppress(Unsatisfiable):  # an operation that takes nothing cannot be asked wrongly
        one()
    return answers


def fault(case: Any, operation: Any) -> str:
    """What is wrong with the answer to a request; empty if it is as the document says."""
    response = case.call(timeout=20)
    status, text = response.status_code, response.text
    what = f"{operation.method.upper()} {operation.path}: {status}"
    if status >= 500 and status not in (503, 507):
        return f"{what} {text[:300]} for {case.as_curl_command()[:600]}"
    if str(status) not in operation.definition.raw["responses"]:
        return f"{what} is not in the document, for {case.as_curl_command()[:600]}"
    if status >= 400 and (SECRETS.search(text) or len(text) > 3000):
        return f"{what} tells too much: {text[:600]}"
    if status >= 400 and not response.headers["content-type"][0].startswith("application/json"):
        return f"{what} is no JSON"
    return ""


def test_a_few_requests_to_every_operation_are_answered(schema: Any) -> None:
    assert asked(schema, "positive", QUICK) == []


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["positive", "negative"])
def test_many_requests_to_every_operation_are_answered(schema: Any, kind: str) -> None:
    assert asked(schema, kind, MANY) == []
