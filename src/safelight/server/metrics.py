"""What operators watch, in Prometheus' text format."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from safelight.server.memory import available, resident

STEPS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
JOBS = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 900.0, 3600.0)
ANSWERS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)


class Metrics:
    """The figures of one server; `text` writes them down."""

    content_type = CONTENT_TYPE_LATEST

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.waiting = Gauge("safelight_queue_length", "Jobs that wait.", registry=registry)
        self.running = Gauge("safelight_running", "Jobs being drawn now.", registry=registry)
        self.pictures = Counter("safelight_pictures", "Pictures finished.", registry=registry)
        self.jobs = Counter(
            "safelight_jobs", "Jobs that are over, by state.", ["state"], registry=registry
        )
        self.errors = Counter(
            "safelight_errors",
            "Failed jobs and refused requests, by kind.",
            ["kind"],
            registry=registry,
        )
        self.step_seconds = Histogram(
            "safelight_step_seconds",
            "Seconds of one sampling step of a batch.",
            buckets=STEPS,
            registry=registry,
        )
        self.job_seconds = Histogram(
            "safelight_job_seconds",
            "Seconds from submission to the end of a job.",
            buckets=JOBS,
            registry=registry,
        )
        self.wait_seconds = Histogram(
            "safelight_wait_seconds",
            "Seconds from submission to the start of a job.",
            buckets=JOBS,
            registry=registry,
        )
        self.batch_pictures = Histogram(
            "safelight_batch_pictures",
            "Pictures of a turn.",
            buckets=(1, 2, 4, 8, 16, 32, 64),
            registry=registry,
        )
        self.answer_seconds = Histogram(
            "safelight_answer_seconds",
            "Seconds until an answer began, by path and status.",
            ["route", "status"],
            buckets=ANSWERS,
            registry=registry,
        )
        self.streams = Gauge(
            "safelight_streams", "Connections that follow jobs.", registry=registry
        )
        self.painters = Gauge(
            "safelight_painters",
            "Processes that draw, by what they do: free, drawing, loading or dead.",
            ["state"],
            registry=registry,
        )
        self.deaths = Counter(
            "safelight_painter_deaths", "Deaths of replicas that draw.", registry=registry
        )
        self.cache_hits = Gauge(
            "safelight_model_cache_hits", "Turns whose model was in memory.", registry=registry
        )
        self.cache_misses = Gauge(
            "safelight_model_cache_misses", "Turns whose model had to be read.", registry=registry
        )
        self.model_bytes = Gauge(
            "safelight_model_bytes", "Bytes of the models in memory.", registry=registry
        )
        resident_bytes = Gauge(
            "safelight_resident_bytes", "Memory of the process.", registry=registry
        )
        resident_bytes.set_function(resident)
        free = Gauge(
            "safelight_available_bytes",
            "Memory that can still be taken; -1: unknown.",
            registry=registry,
        )
        free.set_function(lambda: -1 if (left := available()) is None else left)

    def text(self) -> bytes:
        """All of them, as /metrics answers."""
        return generate_latest(self.registry)
