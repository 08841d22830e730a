"""What a benchmark says of memory: of a part alone, of whole pictures, of ours in several ways."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from bench_fake import contender, task
from cli_tiny import tiny_model
from safelight.benchmarks import ours
from safelight.benchmarks.contenders import check_offloads, contenders
from safelight.benchmarks.inputs import write_inputs
from safelight.benchmarks.players import Hall, seated
from safelight.benchmarks.processes import Pool
from safelight.benchmarks.task import Task
from safelight.checkpoints.load import load
from safelight.checkpoints.save import save
from safelight.engines.int8_weights import int8_weights
from safelight.engines.table import sink_of
from safelight.errors import RequestError
from safelight.model import Model
from safelight.tasks import placing

LARGE = 200  # megabytes that one fake takes, and another does not
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="asks Linux for its peak")


@LINUX
def test_a_process_that_is_kept_forgets_the_peak_of_its_last_work(tmp_path: Path) -> None:
    with Pool() as pool:
        hall = Hall(sys.executable, tmp_path, pool)
        one = contender(tmp_path, "one")
        script = tmp_path / "one.pyw"
        taking = 'def call():\n        taken = b"x" * (10**6 * task["steps"])'
        script.write_text(script.read_text().replace("def call():", taking))
        peaks = []
        for megabytes in (0, LARGE, 0):
            with seated(one, replace(task(), steps=megabytes), hall) as player:
                peaks.append(player.facts["peak_bytes"])
    little, much, again = peaks
    assert much - little > 0.9e6 * LARGE and abs(again - little) < 0.1e6 * LARGE


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model as a Diffusers folder, and the inputs of pictures of 64 x 64."""
    folder = tmp_path_factory.mktemp("bench memory")
    save(tiny_model(), folder / "model", "diffusers", dtype=torch.float16)
    write_inputs(folder, tiny_model().family, (64, 64), batch=1, guided=True, seed=1)
    return folder


def asked(place: Path, **changes: object) -> Task:
    told = {
        "model": str(place / "model"),
        "inputs": str(place),
        "width": 64,
        "height": 64,
        "precision": "bf16",
        **changes,
    }
    return replace(task(), **told)  # type: ignore[arg-type]


def modules(model: Model) -> dict[str, nn.Module]:
    coder = model.codec.autoencoder
    assert isinstance(coder, nn.Module)
    return {"unet": model.network.unet, "vae": coder, "text": model.text.encoders[0]}


@pytest.mark.parametrize("how", ["eager", "int8-weights"])
@pytest.mark.parametrize(("work", "part"), [("step", "unet"), ("decode", "vae"), ("encode", "vae")])
def test_of_a_work_on_one_part_only_that_part_is_read(
    place: Path, how: str, work: str, part: str
) -> None:
    one = asked(place, work=work, how=how)
    made = ours.opened(one)
    for name, module in modules(made).items():
        first = next(module.parameters())
        assert bool(first.isnan().all()) == (name != part), name
    whole = load(place / "model", dtype=torch.bfloat16, sink=sink_of(how))
    whole = int8_weights(whole) if how == "int8-weights" else whole
    results = []
    for model in (made, whole):
        call, read = ours.MAKERS[work](one, model)
        with torch.no_grad():
            results.append(read(call()))
    assert np.array_equal(*results) and np.isfinite(results[0]).all()


@pytest.mark.parametrize(
    ("work", "offload", "kind"),
    [
        ("memory", "auto", "parts"),
        ("memory", "none", None),
        ("memory", "sequential", "sequential"),
        ("picture", "auto", None),
        ("picture", "parts", "parts"),
    ],
)
def test_parts_come_and_go_as_told_or_for_the_one_picture_of_memory(
    place: Path, monkeypatch: pytest.MonkeyPatch, work: str, offload: str, kind: str | None
) -> None:
    monkeypatch.setattr(placing, "LEAST", 0)
    placement = ours.opened(asked(place, work=work, offload=offload)).placement
    assert (None if placement is None else placement.kind) == kind


def test_ways_to_have_parts_in_memory_are_contenders_of_their_own() -> None:
    ways = ("auto", "parts")
    who = contenders("memory", "bf16", ("eager", "int8-weights"), ("diffusers",), ways)
    assert [one.name for one in who] == [
        "safelight eager bf16",
        "safelight eager parts bf16",
        "safelight int8-weights bf16",
        "safelight int8-weights parts bf16",
        "diffusers bf16",
    ]
    assert len(contenders("decode", "bf16", ("eager",), (), ways)) == 1
    words = ours.command(replace(task("start"), offload="parts"), "python")
    assert words[words.index("--offload") + 1] == "parts"
    assert "--offload" not in ours.command(task("start"), "python")


def test_what_an_engine_cannot_do_is_refused_beforehand() -> None:
    check_offloads(("none", "parts"), ("eager", "int8-weights"), "cpu")
    with pytest.raises(RequestError, match="no offload 'half'; choose from auto, none, parts"):
        check_offloads(("half",), ("eager",), "cpu")
    with pytest.raises(RequestError, match="engine openvino keeps its own"):
        check_offloads(("parts",), ("eager", "openvino"), "cpu")
