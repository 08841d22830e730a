"""What a model is drawn with where a request leaves it open is told before it is drawn with."""

from dataclasses import replace
from pathlib import Path

from cli_tiny import tiny_model
from safelight.checkpoints.save import save
from safelight.families import SamplerHint
from safelight.server.furnishing import own_of
from safelight.server.registry import listed
from server_fake import run
from server_http import http

HINT = SamplerHint("euler_ancestral", "karras", 9, 3.5, stated=True)


def test_what_a_model_states_of_itself_stands_before_the_usual(tmp_path: Path) -> None:
    model = tiny_model(0)
    stating = replace(model, family=replace(model.family, hint=HINT))
    save(stating, tmp_path / "stating.safetensors", "ldm")
    save(model, tmp_path / "silent.safetensors", "ldm")
    registry = listed([tmp_path])
    side = model.family.native_size
    assert own_of("silent", registry) == {"width": side, "height": side}
    assert own_of("stating", registry) == {
        "width": side,
        "height": side,
        "sampler": "Euler a",
        "schedule": "Karras",
        "steps": 9,
        "cfg_scale": 3.5,
    }
    (tmp_path / "stating.safetensors").write_bytes(b"cut")
    assert own_of("stating", registry) == {}  # listed before it was cut
    assert own_of("unknown", registry) == own_of(None, registry) == {}


def test_the_settings_of_a_model_are_asked_for_by_its_name(models: Path, tmp_path: Path) -> None:
    async def work() -> None:
        async with http(tmp_path, folders=(models,), model="one") as (client, _):
            own = (await client.get("/api/settings")).json()["own"]
            assert own == (await client.get("/api/settings?model=two")).json()["own"]
            assert own["width"] == own["height"] > 0
            assert (await client.get("/api/settings?model=none")).json()["own"] == {}

    run(work)
