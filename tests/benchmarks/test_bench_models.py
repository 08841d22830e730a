"""What is timed: shapes, inputs, operations, memory, and where the time of a call goes."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from bench_fake import task
from safelight.benchmarks import peaks
from safelight.benchmarks.alike import apart
from safelight.benchmarks.flops import operations
from safelight.benchmarks.footprint import Need, check_memory, needed, parameters, unet_parameters
from safelight.benchmarks.geometry import GEOMETRIES, enlivened, random_model, small
from safelight.benchmarks.inputs import inputs, write_inputs
from safelight.benchmarks.machine import available_memory, default_threads, facts
from safelight.benchmarks.ours import command, overhead, request
from safelight.benchmarks.peers.profiling import (
    by_kind,
    computes,
    kernels,
    kind_of,
    plain,
    profiled,
    union,
)
from safelight.benchmarks.peers.serving import Work
from safelight.benchmarks.report import KINDS
from safelight.benchmarks.task import WORKS, input_file
from safelight.benchmarks.train_step import training
from safelight.engines.packages import KERNELS_TOLD
from safelight.engines.table import engined
from safelight.errors import RequestError
from safelight.families import SD15, SDXL, Family
from safelight.models.autoencoder import Autoencoder

TINY = small(SD15)


def thinner(family: Family = TINY) -> Family:
    """The small shape without its deeper levels: quick to run."""
    backbone = replace(family.backbone, channels=(16, 32), depths=((1, 1), (0, 0)), heads=(2, 2))
    return replace(family, backbone=backbone, native_size=64)


def test_the_same_seed_gives_the_same_model_and_leaves_other_numbers_alone() -> None:
    torch.manual_seed(3)
    first = random_model(thinner())
    drawn = torch.rand(1)
    torch.manual_seed(3)
    assert torch.equal(torch.rand(1), drawn)
    second, third = random_model(thinner()), random_model(thinner(), seed=1)
    weights = [m.network.unet.conv_in.weight for m in (first, second, third)]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])


def test_a_random_model_answers_with_the_size_of_noise_and_draws_colours() -> None:
    model = enlivened(random_model(thinner()))
    made = inputs(model.family, (64, 64), batch=1, guided=True, seed=1)
    with torch.no_grad():
        predicted = model.network.unet(made["latents"], made["time"], made["context"])
        coder = model.codec.autoencoder
        assert isinstance(coder, Autoencoder)
        decoded = coder.decode(made["coded"])
    assert 0.5 < float(predicted.std()) < 2 and 0.1 < float(decoded.std()) < 1


@pytest.mark.parametrize("name", [n for n, g in GEOMETRIES.items() if g.family])
def test_every_geometry_has_inputs_of_its_shape(name: str) -> None:
    family = GEOMETRIES[name].shape()
    assert family is not None
    made = inputs(family, (64, 32), batch=2, guided=True, seed=5)
    assert made["latents"].shape == (4, 4, 4, 8) and made["coded"].shape == (2, 4, 4, 8)
    assert made["images"].shape == (2, 3, 32, 64) and float(made["images"].abs().max()) <= 1
    assert made["context"].shape == (4, 77, family.backbone.context_width)
    assert torch.equal(made["raw"], made["coded"] / family.codec.scale)  # type: ignore[operator]
    if family.backbone.vector_width is not None:
        assert made["vector"].shape == (4, family.backbone.vector_width)
        assert made["sizes"][0].tolist() == [32, 64, 0, 0, 32, 64]
        assert made["train_pooled"].shape[0] == made["train_latents"].shape[0] == 16


def test_pictures_get_the_noise_that_a_request_draws() -> None:
    """Peers are given this as a file; ours draws it from the seed."""
    from safelight.tasks.plan import first_noise

    asked = request(replace(task(), width=64, height=64, batch=1, seed=7))
    drawn = first_noise(weightless_on_cpu(), [asked])()
    given = inputs(TINY, (64, 64), batch=2, guided=True, seed=7)["noise"]
    assert torch.equal(drawn, given[:1]) and not torch.equal(given[0], given[1])


def weightless_on_cpu() -> object:
    return random_model(thinner())


def test_inputs_are_written_once_for_everybody(tmp_path: Path) -> None:
    write_inputs(tmp_path, TINY, (64, 64), batch=1, guided=False, seed=1)
    read = np.load(input_file(tmp_path, "latents"), allow_pickle=False)
    again = inputs(TINY, (64, 64), batch=1, guided=False, seed=1)["latents"]
    assert read.dtype == np.float32 and np.array_equal(read, again.numpy())


# -- counted ---------------------------------------------------------------------------------------


@pytest.mark.slow
def test_operations_are_those_of_sd15() -> None:
    """1,607 GFLOP a step of SD 1.5 at 512x512 with guidance, 16 % of them in attention."""
    found = operations(SD15, "step", (512, 512), batch=1, guided=True)
    assert sum(found.values()) / 1e9 == pytest.approx(1607, rel=0.01)
    assert set(found) == {"convolution", "linear", "attention"}
    assert found["attention"] / sum(found.values()) == pytest.approx(0.16, abs=0.02)


def test_operations_grow_with_the_picture() -> None:
    thin = thinner()
    one = operations(thin, "decode", (64, 64), batch=1, guided=True)
    four = operations(thin, "decode", (128, 128), batch=1, guided=True)
    assert four["convolution"] == 4 * one["convolution"]
    both, half = (
        operations(thin, "step", (64, 64), batch=1, guided=guided) for guided in (True, False)
    )
    assert sum(half.values()) * 2 == sum(both.values()) and set(both) == {
        "convolution", "linear", "attention",
    }  # fmt: skip
    assert operations(TINY, "picture", (64, 64), batch=1, guided=True) == {}


def test_memory_is_predicted_from_sizes_and_refused_in_words() -> None:
    assert 1.05e9 < parameters(SD15) < 1.08e9 and parameters(SDXL) > 3.4e9
    need = Need("eager", "bf16")
    small_one, large = (needed(SD15, need, side * side, 1) for side in (256, 1024))
    assert 2.1e9 < small_one < large
    check_memory(SD15, [[need], [need]], 512 * 512, 1, 10 * 2**30)
    with pytest.raises(RequestError, match=r"about .* GB of memory .* 10\.7 GB .* --force"):
        check_memory(SDXL, [[need, need]], 1024 * 1024, 1, 10 * 2**30)
    check_memory(SDXL, [[need, need]], 1024 * 1024, 1, None)
    learning = needed(SD15, replace(need, learning=True), 256 * 256, 1)
    assert learning - small_one == 16 * unet_parameters(SD15) > 13e9


def test_facts_name_no_host_and_no_folder() -> None:
    import os
    import socket

    told = facts(2)
    text = repr(told)
    assert told["threads"] == 2 and told["torch"] == str(torch.__version__)
    assert socket.gethostname() not in text and os.path.expanduser("~") not in text
    assert "/" not in str(told["processor"]) or "@" in str(told["processor"])
    assert default_threads() >= 1 and (available_memory() or 1) > 0


def test_peaks_are_of_products_that_run(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"SIDE": 128, "CHANNELS": 16, "PLACES": 8, "SECONDS": 0.01}.items():
        monkeypatch.setattr(peaks, name, value)
    found = peaks.measured_peaks("fp32", "cpu")
    assert {"matmul", "convolution"} <= set(found) and all(value > 1e6 for value in found.values())


def test_products_of_eight_bits_are_right(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peaks, "SIDE", 64)
    for call in peaks.int8_products(torch.device("cpu")):
        assert call().shape == (64, 64) and float(call().float().abs().max()) > 0


# -- profiled --------------------------------------------------------------------------------------


def test_overlapping_kernels_count_once() -> None:
    assert union([(0, 2), (1, 3), (5, 6), (5.5, 5.7)]) == pytest.approx(4)
    assert union([]) == 0


def test_kinds_share_the_time_of_threads_that_work_beside_each_other() -> None:
    found = [("aten::addmm", (0.0, 3.0)), ("aten::convolution_overrideable", (0.0, 1.0))]
    told = by_kind(found, union(span for _, span in found))
    assert told == pytest.approx({"linear": 2.25, "convolution": 0.75})
    assert by_kind([], 0.0) == {}


def test_a_step_is_no_shorter_than_its_kernels() -> None:
    """The calls that say how long kernels take may be disturbed, and the others not."""
    x, late = torch.randn(64, 64), iter([0, 0, 40, 40])

    def call() -> object:
        for _ in range(next(late)):
            x @ x
        return x @ x

    found = profiled(Work(call), {"calls": 2})
    assert found["wall_seconds"] == found["kernel_seconds"]
    assert found["overhead_share"] == found["overhead_seconds"] == 0
    assert sum(found["kinds"].values()) == pytest.approx(found["wall_seconds"])


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("mkldnn_convolution", "convolution"),
        ("_slow_conv2d_forward", "convolution"),
        ("addmm", "linear"),
        ("_linear_pointwise", "linear"),
        ("_scaled_dot_product_flash_attention_for_cpu", "attention"),
        ("bmm", "attention"),
        ("native_group_norm", "norm"),
        ("silu", "activation"),
        ("upsample_nearest2d", "copy"),
        ("sin", "other"),
    ],
)
def test_operators_have_kinds(name: str, kind: str) -> None:
    assert kind_of(name) == kind and plain(f"aten::{name}") == name


def test_kernels_hold_the_time_of_a_call_and_the_rest_is_overhead() -> None:
    net = nn.Sequential(nn.Conv2d(32, 32, 3, padding=1), nn.GroupNorm(4, 32), nn.SiLU())
    x = torch.randn(1, 32, 64, 64)
    with torch.no_grad():
        found = profiled(Work(lambda: net(x)), {"calls": 3})
    assert found["kernels"] == 3 and {"convolution", "norm", "activation"} == set(found["kinds"])
    assert found["kinds"]["convolution"] > found["kinds"]["activation"]
    assert sum(found["kinds"].values()) == pytest.approx(found["kernel_seconds"], rel=0.01)


def test_idle_python_is_overhead() -> None:
    import time

    x = torch.randn(64, 64)

    def call() -> object:
        time.sleep(0.02)
        return x @ x

    found = profiled(Work(call), {"calls": 2})
    assert found["overhead_share"] > 0.8 and found["overhead_seconds"] > 0.015


def test_an_operator_that_only_chooses_another_is_no_kernel() -> None:
    from torch.profiler import ProfilerActivity, profile

    x, w = torch.randn(2, 8), torch.randn(4, 8)
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        torch.nn.functional.linear(x, w)
        x.view(16).reshape(2, 8).t()
    names = {plain(event.name) for event in kernels(profiler.events())}
    assert names <= {"addmm", "mm"} and names


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("aten::addmm", "linear"),
        ("mkldnn::_linear_pointwise", "linear"),
        ("aoti_torch_cpu__linear_pointwise", "linear"),
        ("aoti_torch_cpu_mkldnn__convolution_pointwise_binary", "convolution"),
        ("graph_0_cpp_fused__linear_pointwise_add_gelu_mul_3", "fused"),
    ],
)
def test_kernels_of_modules_and_libraries_are_told_by_kind(name: str, kind: str) -> None:
    assert computes(name)
    assert kind_of(name) == kind


@pytest.mark.parametrize("name", ["aten::view", "aten::linear", "aten::empty", "ProfilerStep#1"])
def test_bookkeeping_is_no_kernel(name: str) -> None:
    assert not computes(name)


@pytest.mark.slow
def test_the_profiler_sees_into_a_compiled_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv(KERNELS_TOLD, "0")
    model = engined(random_model(thinner()), "compiled")
    write_inputs(tmp_path, model.family, (64, 64), batch=1, guided=True, seed=1)
    asked = replace(task("overhead"), how="compiled", inputs=str(tmp_path), width=64, height=64)
    call, _ = overhead(asked, model)
    call()
    found = profiled(Work(call), {"calls": 3})
    assert found["kinds"].keys() >= {"fused", "convolution"}
    assert 0 < found["kernel_seconds"] < found["wall_seconds"]


# -- training --------------------------------------------------------------------------------------


@pytest.mark.parametrize("adapted", [False, True])
def test_a_training_step_is_taken_when_it_is_asked_for(tmp_path: Path, adapted: bool) -> None:
    model = random_model(thinner())
    unet = model.network.unet
    write_inputs(tmp_path, model.family, (64, 64), batch=1, guided=True, seed=1)
    asked = replace(task("train"), inputs=str(tmp_path), width=64, height=64, adapted=adapted)
    before = {name: p.detach().clone() for name, p in unet.named_parameters()}
    step, read = training(asked, model)
    step()
    after = {name: p.detach().clone() for name, p in unet.named_parameters()}
    step()
    moved = {name: not torch.equal(value, after[name]) for name, value in before.items()}
    last = dict(unet.named_parameters())
    further = {name: not torch.equal(value, last[name]) for name, value in after.items()}
    sizes = np.asarray(read(None))
    if adapted:
        learned = [name for name in after if name not in before]
        assert not any(moved.values()) and {n for n, far in further.items() if far} == set(learned)
        # queries, keys, values and outputs of both attentions, two matrices each
        blocks = {name.rpartition(".attn")[0] for name in before if ".attn1." in name}
        assert len(sizes) == len(learned) == 2 * 4 * 2 * len(blocks) > 0
    else:
        assert all(moved.values()) and all(further.values()) and len(sizes) == len(before)
        assert sizes.sum() == sum(p.numel() for p in before.values())
    assert apart(sizes, sizes, 0.0).same


def test_a_run_that_fails_says_why(tmp_path: Path) -> None:
    model = random_model(thinner())
    step, _ = training(replace(task("train"), inputs=str(tmp_path)), model)
    with pytest.raises(AssertionError):
        step()


# -- tables ----------------------------------------------------------------------------------------


def test_works_that_look_inside_have_shares_and_the_rest_has_seconds_or_bytes() -> None:
    assert {work.unit for work in WORKS.values()} == {"s", "B", "%"}
    assert {n for n, w in WORKS.items() if w.fresh} == {"load", "start", "memory"}
    assert len(KINDS) == len(set(KINDS))


def test_start_is_the_command_of_a_user() -> None:
    words = command(replace(task("start"), png="a.png", model="m"), "python")
    assert words[:4] == ["python", "-m", "safelight", "generate"]
    assert (
        words[words.index("--engine") + 1] == "eager" and words[words.index("--out") + 1] == "a.png"
    )
    assert "--negative" not in command(replace(task("start"), guidance=1.0), "python")
