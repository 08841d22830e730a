#!/usr/bin/env python3
"""How a server bears its clients: who gets which picture, how soon, and what batching gives.

    python scripts/load_serve.py                     # 1, 8 and 32 clients, the embedded model
    python scripts/load_serve.py --leaving 32        # every second client hangs up
    python scripts/load_serve.py --soak 600          # ten minutes, and how the memory grew

A server of its own on a free port of this machine. Every client asks for pictures of seeds of its
own, one after another, over the native API; each must be the picture that the server draws of that
request alone (`exact`), within one level of 255. Meanwhile the queue is asked for its state five
times a second. Prints a table and one line of JSON; ends with 1 if a picture was lost or was
another (with --leaving: of those who stayed, while others left too early), a state took 2 seconds,
or the memory grew by more than --growth.
"""

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from load_client import Failed, Server, apart, drawn, jobs_left, left_early, size_of

STATUS_LIMIT = 2.0  # seconds
RATIO = 1.5  # pictures a second of many clients over those of one alone
PROMPTS = ("a red apple", "a cat", "a green car", "two fishes", "a yellow star", "a small house")
LEVELS = 1  # of 255


@dataclass(frozen=True)
class Asked:
    """What a client wants drawn: its seed is nobody else's."""

    seed: int
    steps: int | None

    def body(self, **more: object) -> dict[str, object]:
        """The body of the request."""
        steps = {} if self.steps is None else {"steps": self.steps}
        return {"prompt": PROMPTS[self.seed % len(PROMPTS)], "seed": self.seed, **steps, **more}


@dataclass(frozen=True)
class Phase:
    """What was measured of some clients at once. Times in seconds.

    lost: pictures that did not come. other: those that were another than alone; worst: by how many
    levels at most. p50, p99: from a request to its picture.
    """

    clients: int
    pictures: int
    lost: int
    other: int
    worst: int
    per_second: float
    p50: float
    p99: float
    status_p50: float
    status_p99: float

    @property
    def sound(self) -> bool:
        """Whether each got its own picture, and none waited long for the state."""
        return not self.lost and not self.other and self.status_p99 < STATUS_LIMIT


class Watch:
    """Asks for the queue's state and looks at the server's memory while something else goes on."""

    def __init__(self, server: Server, pause: float = 0.2) -> None:
        self.server, self.pause = server, pause
        self.seconds: list[float] = []
        self.memory: list[int] = []  # bytes
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> "Watch":
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._over.wait(self.pause):
            began = time.perf_counter()
            self.server.get("/api/queue")
            self.seconds.append(time.perf_counter() - began)
            self.memory.append(resident(self.server.pid))


def resident(pid: int) -> int:
    """Bytes of memory that a process holds now; 0 where the system does not tell (no /proc)."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except OSError:
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


def nearest(values: Sequence[float], percent: float) -> float:
    """The percentile of values, one of them (nearest rank); 0 of none."""
    ordered = sorted(values)
    return ordered[max(0, -(-len(ordered) * int(percent) // 100) - 1)] if ordered else 0.0


def growth(memory: Sequence[int]) -> int:
    """Bytes from the second tenth of the looks to the last one: the first one warms up."""
    tenth = max(len(memory) // 10, 1)
    first, last = memory[tenth : 2 * tenth] or memory[:1], memory[-tenth:]
    return int(nearest(last, 50) - nearest(first, 50))


def measured(
    server: Server,
    plans: Sequence[Iterable[Asked]],
    alone: dict[Asked, bytes],
    draw: Callable[[Server, Asked], bytes | None],
) -> Phase:
    """What happens when as many clients as there are plans each carry theirs out."""
    times: list[float] = []
    worst, lost, other = 0, 0, 0
    lock = threading.Lock()

    def client(plan: Iterable[Asked]) -> None:
        nonlocal worst, lost, other
        for asked in plan:
            began = time.perf_counter()
            try:
                found = draw(server, asked)
            except (Failed, OSError) as error:
                with lock:
                    lost += 1
                print(f"seed {asked.seed}: {error}", file=sys.stderr)
                continue
            if found is None:  # it hung up
                continue
            took = time.perf_counter() - began
            levels = apart(found, alone[asked]) if asked in alone else 0
            with lock:
                times.append(took)
                worst, other = max(worst, levels), other + (levels > LEVELS)

    began = time.perf_counter()
    with Watch(server) as watch, ThreadPoolExecutor(len(plans)) as pool:
        list(pool.map(client, plans))
        seconds = time.perf_counter() - began
    return Phase(
        clients=len(plans),
        pictures=len(times),
        lost=lost,
        other=other,
        worst=worst,
        per_second=round(len(times) / seconds, 4),
        p50=round(nearest(times, 50), 3),
        p99=round(nearest(times, 99), 3),
        status_p50=round(nearest(watch.seconds, 50), 4),
        status_p99=round(nearest(watch.seconds, 99), 4),
    )


def plans_of(clients: int, pictures: int, steps: int | None) -> list[list[Asked]]:
    """What each client asks for; the seeds of all differ."""
    return [
        [Asked(seed, steps) for seed in range(client * pictures, (client + 1) * pictures)]
        for client in range(clients)
    ]


def ordinary(server: Server, asked: Asked) -> bytes:
    """The picture of a request that may share a batch."""
    return drawn(server, asked.body())


def references(server: Server, wanted: Sequence[Asked]) -> dict[Asked, bytes]:
    """Every picture as it is drawn alone, one after another."""
    return {asked: drawn(server, asked.body(exact=True)) for asked in wanted}


def under_load(server: Server, args: argparse.Namespace) -> tuple[list[Phase], dict[str, object]]:
    """1, 8, 32 clients, as told."""
    plans = {n: plans_of(n, args.pictures, args.steps) for n in args.clients}
    single = [Asked(seed, args.steps) for seed in range(max(args.pictures, args.alone))]
    wanted = dict.fromkeys([*single, *(one for many in plans.values() for p in many for one in p)])
    alone = references(server, list(wanted))
    rounds = [
        [measured(server, [single] if n == 1 else plans[n], alone, ordinary) for n in args.clients]
        for _ in range(args.rounds)
    ]
    told: dict[str, object] = {}
    if 1 in args.clients and max(args.clients) > 1:
        told |= {"ratio": ratio_of(rounds), "ratio_wanted": RATIO}
    return [phase for one in rounds for phase in one], told


def ratio_of(rounds: Sequence[Sequence[Phase]]) -> dict[str, object]:
    """Pictures a second of most clients over those of one in the same round: of all rounds."""
    rates = [{phase.clients: phase.per_second for phase in one} for one in rounds]
    ratios = sorted(round(rate[max(rate)] / rate[1], 3) for rate in rates)
    return {"median": round(statistics.median(ratios), 3), "of_rounds": ratios}


def half_leaving(server: Server, args: argparse.Namespace) -> tuple[list[Phase], dict[str, object]]:
    """Every second client hangs up, sooner or later: while it waits, or while it is drawn."""
    plans = plans_of(args.leaving, args.pictures, args.steps)
    staying = plans[::2]
    began = time.perf_counter()
    alone = references(server, [asked for plan in staying for asked in plan])
    each = (time.perf_counter() - began) / len(alone)
    width, height = size_of(next(iter(alone.values())))

    def draw(server: Server, asked: Asked) -> bytes | None:
        if asked in alone:
            return ordinary(server, asked)
        # the ways of A1111 would be 512 x 512
        # nobody stays as long as a picture takes alone
        patience = each * (0.2 + 0.2 * (asked.seed % 4))
        left_early(server, asked.body(width=width, height=height), patience)
        return None

    phase = measured(server, plans, alone, draw)
    began = time.perf_counter()
    while jobs_left(server):
        if time.perf_counter() - began > 60:
            raise Failed("a minute later, jobs of clients that hung up still wait or run")
        time.sleep(0.05)
    jobs = server.get("/api/jobs?limit=500")["jobs"]
    states = [job["state"] for job in jobs if job["door"] == "a1111"]
    stayed, cancelled = sum(len(plan) for plan in staying), states.count("cancelled")
    told: dict[str, object] = {
        "stayed": stayed,
        # all of their pictures came, though others left before theirs did
        "rest_unharmed": phase.sound and phase.pictures == stayed and cancelled > 0,
        "cancelled": cancelled,
        "finished": states.count("done"),  # drawn before their clients hung up
        "idle_after": round(time.perf_counter() - began, 2),
    }
    return [phase], told


def soaked(server: Server, args: argparse.Namespace) -> tuple[list[Phase], dict[str, object]]:
    """Clients that never rest, for some seconds."""
    until = time.perf_counter() + args.soak
    clients = max(args.clients)
    pool = plans_of(clients, args.pictures, args.steps)
    alone = references(server, [asked for plan in pool for asked in plan])

    def endless(plan: list[Asked]) -> Iterator[Asked]:
        while True:
            for asked in plan:
                if time.perf_counter() > until:
                    return
                yield asked

    with Watch(server, pause=min(1.0, args.soak / 50)) as watch:
        phase = measured(server, [endless(plan) for plan in pool], alone, ordinary)
    grew = growth(watch.memory)
    told: dict[str, object] = {
        "seconds": round(args.soak, 1),
        "resident_mb": round(watch.memory[-1] / 2**20, 1),
        "grew_mb": round(grew / 2**20, 1),
        "grew_wanted_mb": args.growth,
    }
    return [phase], told


@contextlib.contextmanager
def served(args: argparse.Namespace, folder: Path) -> Iterator[Server]:
    """A server of a process of its own, as long as it is entered."""
    command = [sys.executable, "-m", "safelight", "serve", "--port", "0", "--out", str(folder)]
    command += ["--batch", str(args.batch), "--model", args.model]
    command += ["--preview-every", str(args.preview_every)]
    for models in args.models:
        command += ["--models", str(models)]
    with (folder.parent / "server.log").open("w") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
    assert process.stdout is not None
    try:
        said = process.stdout.readline()
        url = next((word.rstrip(";") for word in said.split() if word.startswith("http")), None)
        if url is None:
            raise Failed((folder.parent / "server.log").read_text()[-2000:])
        server = Server(url, process.pid)
        server.until_ready()
        yield server
    finally:
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()


def table(phases: Sequence[Phase]) -> str:
    """The phases below one another."""
    heads = ["clients", "pictures", "lost", "other", "levels", "per second", "p50 s", "p99 s"]
    heads += ["state p50 s", "state p99 s"]
    rows = [heads, *([str(value) for value in asdict(phase).values()] for phase in phases)]
    widths = [max(len(row[k]) for row in rows) for k in range(len(heads))]
    lines = ["  ".join(c.rjust(w) for c, w in zip(row, widths, strict=True)) for row in rows]
    return "\n".join(lines)


def asked_for(argv: Sequence[str] | None) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    counts = lambda text: [int(part) for part in text.split(",")]  # noqa: E731
    parser.add_argument("--clients", type=counts, default=[1, 8, 32], help="such as 1,8,32")
    parser.add_argument("--pictures", type=int, default=3, help="of each client")
    parser.add_argument("--alone", type=int, default=12, help="pictures of one client alone")
    parser.add_argument("--rounds", type=int, default=1, help="of all numbers of clients in turn")
    parser.add_argument("--steps", type=int, help="of each picture [the model's own]")
    parser.add_argument("--batch", type=int, default=8, help="of the server")
    parser.add_argument("--preview-every", type=int, default=0, help="nobody here asks for any")
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--models", type=Path, action="append", default=[], help="folder of them")
    parser.add_argument("--leaving", type=int, help="so many clients, every second hangs up")
    parser.add_argument("--soak", type=float, help="seconds without rest")
    parser.add_argument("--growth", type=float, default=64.0, help="MB that a soak may add")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, and print what was found."""
    args = asked_for(argv)
    work = soaked if args.soak else half_leaving if args.leaving else under_load
    with tempfile.TemporaryDirectory() as folder, served(args, Path(folder) / "out") as server:
        phases, told = work(server, args)
    print(table(phases))
    sound = all(phase.sound for phase in phases)
    grew = told.get("grew_mb")
    sound &= not isinstance(grew, float) or grew <= args.growth
    sound &= told.get("rest_unharmed", True) is True
    told |= {"sound": sound, "batch": args.batch, "model": args.model, "cores": cores()}
    print(json.dumps({**told, "phases": [asdict(phase) for phase in phases]}))
    return 0 if sound else 1


def cores() -> int:
    """Cores that this process, and the server that it started, may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 0


if __name__ == "__main__":
    sys.exit(main())
