"""What the store keeps is there again, whatever happened to the process."""

import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from safelight.errors import OutputError
from safelight.server.jobs import (
    Cancelled,
    Done,
    Drawn,
    Event,
    Failure,
    Job,
    Started,
    State,
    Stepped,
)
from safelight.server.kept import Kept, picture_id
from safelight.server.store import Store
from safelight.tasks.request import Request


@pytest.fixture
def store(tmp_path: Path) -> Store:
    (tmp_path / "in").mkdir()
    return Store(tmp_path / "in")


def job(number: int = 1, **changes: object) -> Job:
    made = Job(
        f"{number:016x}", "ann", Request(prompt="a cat", seed=2**64 - 9), number, created=5.0
    )
    return made.changed(**changes)


def kept(number: int, prompt: str, owner: str = "ann", model: str = "tiny") -> Kept:
    id = f"{number:016x}"
    where = ("2026-01-01/x.png", 64, 64, 2**64 - 9)
    return Kept(
        id, "j", number, owner, 1.0 + number, *where, prompt, "", model, 9, "0" * 64, ("w",)
    )


def test_a_job_comes_back_as_it_was(store: Store) -> None:
    failed = job(
        state=State.FAILED,
        failure=Failure("file", "x", 422, "id"),
        warnings=("a", "b"),
        hold="connection",
        tag="task(1)",
        deadline=9.5,
        attempts=1,
    )
    store.write(failed)
    assert store.job(failed.id) == failed
    assert store.tagged("task(1)", "ann") == failed
    assert store.tagged("task(1)", "bob") is None


def test_what_was_left_open_stays_open(store: Store) -> None:
    store.write(job(request=Request(prompt="x", steps=20, seed=1)))
    found = store.job(job().id)
    assert found is not None
    assert found.request.model_fields_set == {"prompt", "steps", "seed"}


def test_events_come_back_but_for_steps(store: Store) -> None:
    bodies = [Started(), Stepped(1, 2), Drawn(0, "p", 7, 64, 64), Cancelled("why")]
    events = [Event(n, "j", float(n), body) for n, body in enumerate(bodies)]
    store.write(events=events)
    assert store.events("j") == [events[0], events[2], events[3]]
    assert store.events("j", 2) == [events[3]]
    store.write(events=[Event(9, "k", 1.0, Done(1.5, ("a", "b")))])
    assert store.events("k")[0].body == Done(1.5, ("a", "b"))


def test_pictures_are_found_by_the_words_of_their_prompts(store: Store) -> None:
    for number, prompt in enumerate(["a red apple", "a green Apple tree", "an old 'house'"]):
        store.write(picture=kept(number, prompt))

    def found(search: str) -> list[int]:
        return [one.index for one in store.gallery(None, search)]

    assert found("apple") == [1, 0]
    assert found("app gre") == [1]
    assert found("red tree") == []
    assert found("tiny") == [2, 1, 0]
    assert found("'house'") == [2] and found("%") == [] and found('"') == []
    assert found('a" OR "b') == []


def test_search_works_without_full_text_search_too(store: Store) -> None:
    store.write(picture=kept(1, "a 100% red apple"))
    store.has_words = False
    assert [p.index for p in store.gallery(None, "RED 100%")] == [1]
    assert store.gallery(None, "r_d") == []


def test_pages_of_the_gallery_meet_without_gap_or_overlap(store: Store) -> None:
    for number in range(7):
        store.write(picture=kept(number, "x", owner="ann" if number % 2 else "bob"))
    seen: list[int] = []
    before = None
    while page := store.gallery(None, before=before, limit=3):
        seen += [one.index for one in page]
        before = page[-1].id
    assert seen == [6, 5, 4, 3, 2, 1, 0]
    assert [one.index for one in store.gallery("ann")] == [5, 3, 1]


def test_a_deleted_picture_is_found_no_more(store: Store) -> None:
    store.write(picture=kept(1, "a cat"))
    store.delete_picture(kept(1, "").id)
    assert store.picture(kept(1, "").id) is None and store.gallery(None, "cat") == []


def test_a_picture_drawn_again_takes_the_place_of_the_first(store: Store) -> None:
    assert picture_id("job", 3) == picture_id("job", 3) != picture_id("job", 4)
    store.write(picture=kept(1, "first"))
    store.write(picture=kept(1, "second"))
    assert [one.prompt for one in store.gallery(None)] == ["second"]
    assert store.gallery(None, "first") == []


def test_the_queue_comes_back_in_order(tmp_path: Path) -> None:
    first = Store(tmp_path)
    for number, state in ((3, State.QUEUED), (1, State.RUNNING), (2, State.DONE)):
        first.write(job(number, state=state))
    first.close()
    second = Store(tmp_path)
    assert [one.number for one in second.unfinished()] == [1, 3]
    assert second.next_number() == 4


def test_a_write_that_fails_half_way_leaves_nothing(store: Store) -> None:
    broken = kept(1, "x").__class__(**{**_values(kept(1, "x")), "width": "wide"})
    with pytest.raises(OutputError):
        store.write(job(), picture=broken)
    assert store.job(job().id) is None and store.gallery(None) == []
    store.write(job())
    assert store.job(job().id) is not None


def _values(one: Kept) -> dict[str, object]:
    return {name: getattr(one, name) for name in one.__slots__}


def test_only_one_server_works_in_a_folder(tmp_path: Path, store: Store) -> None:
    with pytest.raises(OutputError, match="another server works in"):
        Store(tmp_path / "in")
    store.close()
    Store(tmp_path / "in").close()


def test_a_store_of_a_newer_safelight_is_left_alone(tmp_path: Path) -> None:
    Store(tmp_path).close()
    connection = sqlite3.connect(tmp_path / "server.sqlite")
    connection.execute("PRAGMA user_version = 99")
    connection.commit()
    connection.close()
    with pytest.raises(OutputError, match="newer Safelight"):
        Store(tmp_path)


def test_a_request_that_is_not_understood_any_more_fails_its_job_alone(store: Store) -> None:
    store.write(job())
    store._writer.execute("""UPDATE jobs SET request = '{"gone": 1}'""")
    (found,) = store.unfinished() or store.jobs(None)
    assert found.state is State.FAILED
    assert found.failure is not None and "another version" in found.failure.message


KILLED = """
import os, sys
from pathlib import Path
from safelight.server.jobs import Job
from safelight.server.store import Store
from safelight.tasks.request import Request
store = Store(Path(sys.argv[1]))
for number in range(1, 10000):
    store.write(Job(f"{number:016x}", "ann", Request(prompt="x", seed=1), number, created=1.0))
    print(number, flush=True)
"""


@pytest.mark.slow
def test_what_was_written_survives_kill_minus_nine(tmp_path: Path) -> None:
    command = [sys.executable, "-c", KILLED, str(tmp_path)]
    last = 0
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            last = int(line)
            if last == 50:
                process.kill()
    store = Store(tmp_path)
    numbers = [one.number for one in store.unfinished()]
    assert numbers == list(range(1, len(numbers) + 1)) and len(numbers) >= last >= 50
