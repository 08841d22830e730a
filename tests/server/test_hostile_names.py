"""Names that want to be paths, addresses or code, and paths that want to be files."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from server_hostile import DRAWN, IMG2IMG, JOBS, TXT2IMG, Attack, Target, attacked, png, table


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory, models: Path) -> Iterator[Target]:
    with attacked(tmp_path_factory.mktemp("names"), models) as found:
        yield found


NAMES: dict[str, object] = {
    "passwd": "/etc/passwd",
    "up": "../../../../etc/passwd",
    "back": "..\\..\\windows\\system32\\config\\sam",
    "file-url": "file:///etc/passwd",
    "http-url": "http://169.254.169.254/latest/meta-data/",
    "nul": "one\0.safetensors",
    "newline": "one\r\nX-Evil: 1",
    "escape": "\x1b]0;evil\x07one",
    "long": "A" * 100_000,
    "dots": ".",
    "home": "~/.ssh/id_rsa",
    "device": "/dev/zero",
    "format": "{0.__class__.__mro__}%s%n",
    "sql": "one'; DROP TABLE jobs; --",
    "right-to-left": "\u202egpj.one",
    "list": ["one"],
    "object": {"path": "/etc/passwd"},
    "number": 1,
}
# Fields that name something, in bodies that would be sound with a sound name
PLACES: dict[str, tuple[str, tuple[str | int, ...]]] = {
    "model": (JOBS, ("model",)),
    "vae": (JOBS, ("vae",)),
    "sampler": (JOBS, ("sampler",)),
    "schedule": (JOBS, ("schedule",)),
    "lora": (JOBS, ("loras", 0, "file")),
    "embedding": (JOBS, ("embeddings", 0, "file")),
    "refiner": (JOBS, ("refiner", "model")),
    "picture": (JOBS, ("source", "picture")),
    "hires-upscaler": (JOBS, ("hires", "upscaler")),
    "control": (JOBS, ("controls", 0, "net")),
    "a1111-sampler": (TXT2IMG, ("sampler_name",)),
    "a1111-model": (TXT2IMG, ("override_settings", "sd_model_checkpoint")),
    "a1111-script": (TXT2IMG, ("script_name",)),
    "openai-model": (DRAWN, ("model",)),
    "openai-format": (DRAWN, ("output_format",)),
}
QUICK = frozenset({"passwd", "http-url", "nul", "long", "object"})  # of names, at every place


def at(place: tuple[str | int, ...], value: object) -> dict[str, object]:
    """A body that holds a value at a place; a number stands for the items of a list."""
    for step in reversed(place):
        value = [value] if isinstance(step, int) else {step: value}
    assert isinstance(value, dict)
    return {"prompt": "a", "steps": 1} | value


@table(
    *(
        Attack(f"{where}-{label}", path, at(place, name))
        for where, (path, place) in PLACES.items()
        for label, name in NAMES.items()
        if (where == "model" or label in QUICK)
        and not (where == "a1111-model" and label == "object")  # whose name is its text
    )
)
def test_a_name_is_looked_up_and_never_opened(target: Target, attack: Attack) -> None:
    answer = target.refuses(attack)
    assert "root:" not in answer.text


def detect(module: str) -> dict[str, object]:
    return {"controlnet_module": module, "controlnet_input_images": [png()]}


@table(
    *(
        Attack(f"{kind}-{label}", path, body)
        for label, name in NAMES.items()
        if isinstance(name, str) and label in {"passwd", "up", "nul", "long"}
        for kind, path, body in (
            ("use", "/api/model", {"name": name}),
            ("options", "/sdapi/v1/options", {"sd_model_checkpoint": name}),
            ("lora-tag", JOBS, {"prompt": f"a <lora:{name}:1>", "steps": 1}),
            ("hypernet-tag", TXT2IMG, {"prompt": f"a <hypernet:{name}:1>", "steps": 1}),
            ("preprocessor", "/api/preprocess", {"picture": "0" * 64, "preprocessor": name}),
            ("module", "/controlnet/detect", detect(name)),
            ("upscaler", "/sdapi/v1/extra-single-image", {"image": png(), "upscaler_1": name}),
            ("clip", "/api/score", {"pictures": [png()], "texts": ["a"], "clip": name}),
            ("sampler", "/api/prompt", {"text": "a", "sampler": name}),
            ("dialect", "/api/prompt", {"text": "a", "dialect": name}),
            ("hires", TXT2IMG, {"prompt": "a", "enable_hr": True, "hr_upscaler": name}),
            ("init", IMG2IMG, {"prompt": "a", "init_images": [name]}),
        )
    )
)
def test_names_in_other_places_are_looked_up_as_well(target: Target, attack: Attack) -> None:
    assert "root:" not in target.refuses(attack).text


PATHS: dict[str, str] = {
    "up": "/../../../../etc/passwd",
    "assets-up": "/assets/../../../../../../etc/passwd",
    "assets-encoded": "/assets/%2e%2e/%2e%2e/%2e%2e/%2e%2e/etc/passwd",
    "assets-slash": "/assets/..%2f..%2f..%2f..%2fetc%2fpasswd",
    "assets-twice": "/assets/%252e%252e%252fetc/passwd",
    "assets-back": "/assets/..%5c..%5capp.py",
    "assets-nul": "/assets/%00",
    "assets-absolute": "/assets//etc/passwd",
    "assets-long": "/assets/" + "A" * 5000,
    "assets-source": "/assets/../door.py",
    "picture-up": "/api/pictures/..%2f..%2f..%2fetc%2fpasswd",
    "picture-nul": "/api/pictures/%00",
    "picture-bytes": "/api/pictures/%ff%fe%c0%af",
    "picture-long": "/api/pictures/" + "a" * 10_000,
    "picture-64": "/api/pictures/" + "g" * 64,
    "picture-upper": "/api/pictures/" + "A" * 64,
    "picture-dots": "/api/pictures/" + "." * 64,
    "picture-sql": "/api/pictures/'%20OR%201=1%20--",
    "picture-format": "/api/pictures/" + "0" * 16 + "?format=../../etc/passwd",
    "thumbnail-side": "/api/pictures/" + "0" * 16 + "/thumbnail?side=1000000000",
    "thumbnail-nul": "/api/pictures/%00%0a/thumbnail",
    "recipe-up": "/api/pictures/..%2frecipe/recipe",
    "job-sql": "/api/jobs/'%20UNION%20SELECT%201",
    "job-long": "/api/jobs/" + "A" * 10_000,
    "job-nul": "/api/jobs/%00/events",
    "job-preview": "/api/jobs/..%2f..%2fx/preview",
    "model-up": "/v1/models/../../etc/passwd",
    "model-long": "/v1/models/" + "A" * 10_000,
    "model-crlf": "/v1/models/one%0d%0aX-Evil:%201",
    "gallery-limit": "/api/gallery?limit=99999999999999999999999",
    "gallery-search": "/api/gallery?search=" + "A" * 5000,
    "gallery-before": "/api/gallery?before=" + "A" * 500,
    "jobs-state": "/api/jobs?state=" + "A" * 5000,
    "jobs-limit": "/api/jobs?limit=NaN",
    "git": "/.git/config",
    "env": "/.env",
    "file": "/file=/etc/passwd",
    "sqlite": "/.safelight/queue.sqlite3",
    "docs": "/docs",
    "stop": "/sdapi/v1/server-stop",
    "kill": "/sdapi/v1/server-kill",
    "restart": "/sdapi/v1/server-restart",
    "install": "/api/models/install?url=http://evil.example/x.ckpt",
    "userdata": "/userdata/..%2f..%2fconfig.ini",
}


@table(*(Attack(label, path, method="GET") for label, path in PATHS.items()))
def test_no_path_leads_to_a_file(target: Target, attack: Attack) -> None:
    answer = target.refuses(attack)
    assert "root:" not in answer.text and "x-evil" not in answer.headers


@table(
    *(
        Attack(name, f"/sdapi/v1/{name}", {})
        for name in ("server-stop", "server-kill", "server-restart", "create/embedding", "train")
    ),
    Attack("delete-all", "/api/gallery", method="DELETE"),
    Attack("delete-up", "/api/pictures/..%2f..%2fx", method="DELETE"),
    Attack("delete-upload", "/api/pictures/" + "0" * 64, method="DELETE"),
    Attack("trace", "/api/jobs", method="TRACE"),
    Attack("put", "/api/jobs", {}, "PUT"),
    Attack("patch", "/api/model", {"name": "one"}, "PATCH"),
    Attack("made-up", "/api/jobs", {}, "FROBNICATE"),
    Attack("get-to-draw", "/sdapi/v1/txt2img?prompt=a", method="GET"),
    Attack("get-to-cancel", "/sdapi/v1/interrupt", method="GET"),
    Attack("get-to-use", "/api/model?name=one", method="GET"),
)
def test_there_is_nothing_that_stops_installs_or_changes_by_looking(
    target: Target, attack: Attack
) -> None:
    target.refuses(attack)
