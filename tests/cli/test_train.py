"""`safelight train` as a user runs it, on pictures and networks a thousand times smaller."""

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import training_runs as runs
from cli_tiny import Cli, Ran, files, pixels, process, tiny_model
from safelight.checkpoints.files import open_weights
from safelight.checkpoints.load import load, load_autoencoder, load_clip, load_clip_vision
from safelight.checkpoints.save import save
from safelight.checkpoints.tokenizer_files import read_vocabulary
from safelight.cli.main import run
from safelight.cli.train_display import Lines, duration
from safelight.training import saving
from training_tiny import files_equal

Written = Callable[..., Path]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which autoencoder, CLIP and U-Net were trained one after the other."""
    folder = tmp_path_factory.mktemp("trained")
    runs.write_shapes(folder / "shapes")
    here = Path.cwd()
    os.chdir(folder)
    try:
        for name in ("autoencoder", "clip", "diffusion"):
            config = runs.write_config(folder / f"{name}.toml", getattr(runs, name)())
            assert run(["train", str(config)]) == 0
    finally:
        os.chdir(here)
    return folder


@pytest.fixture
def shapes(place: Path) -> Path:
    return runs.write_shapes(place / "shapes")


@pytest.fixture
def train(safelight: Cli, place: Path) -> Callable[..., Ran]:
    """Writes a config and trains it."""

    def ran(values: dict[str, Any], *args: object) -> Ran:
        return safelight("train", runs.write_config(place / "config.toml", values), *args)

    return ran


def weights(path: Path, player: str = "autoencoder") -> dict[str, torch.Tensor]:
    newest = saving.newest(path)
    assert newest is not None
    return saving.load_tensors(newest, player)


# -- from nothing to pictures ----------------------------------------------------------------------


def test_three_recipes_make_a_model_that_generate_draws_with(
    trained: Path, safelight: Cli, place: Path
) -> None:
    model = trained / "runs/diffusion/model"
    ran = safelight("generate", "a red circle", "-m", model, "--seed", 1, "-o", "a.png")
    assert ran.code == 0, ran.err
    assert pixels(place / "a.png").shape == (32, 32, 3)
    assert "20 steps of DPM++ 2M (karras)" in ran.out  # what the model says of itself


def test_parts_are_those_that_were_trained(trained: Path) -> None:
    model = load(trained / "runs/diffusion/model")
    codec = load_autoencoder(trained / "runs/autoencoder/model")
    tower = load_clip(trained / "runs/clip/model/text_encoder")
    ours = model.codec.autoencoder.state_dict()  # type: ignore[attr-defined]
    for name, tensor in codec.autoencoder.state_dict().items():  # type: ignore[attr-defined]
        assert torch.equal(ours[name], tensor)
    plain = model.text.encoders[0].state_dict()
    assert all(torch.equal(plain[n], t) for n, t in tower.state_dict().items() if n in plain)
    assert read_vocabulary(trained / "runs/clip/model/tokenizer") == model.text.spec.vocabulary
    seen = load_clip_vision(trained / "runs/clip/model")
    assert seen.config.image_size == 32 and seen.config.projection == 16


def test_the_result_holds_the_average_that_was_named(trained: Path) -> None:
    checkpoint = saving.newest(trained / "runs/diffusion")
    assert checkpoint is not None
    unet = load(trained / "runs/diffusion/model").network.unet.state_dict()
    average = saving.load_tensors(checkpoint, "unet", "power:0.1")
    last = saving.load_tensors(checkpoint, "unet")
    assert all(torch.equal(unet[name], tensor) for name, tensor in average.items())
    assert not all(torch.equal(unet[name], tensor) for name, tensor in last.items())


def test_a_folded_autoencoder_has_latents_of_unit_size(trained: Path) -> None:
    codec = load_autoencoder(trained / "runs/autoencoder/model")
    shown = [pixels(path) for path in sorted((trained / "shapes").glob("*.png"))]
    square = [torch.tensor(p).movedim(-1, 0) for p in shown if p.shape == (32, 32, 3)]
    pictures = torch.stack(square).float() / 127.5 - 1
    posterior = codec.encode(pictures)
    moments = posterior.mean.var((0, 2, 3)) + posterior.logvar.exp().mean((0, 2, 3))
    assert torch.allclose(moments.sqrt(), torch.ones(4), atol=0.25)


def test_previews_and_figures_stand_in_the_folder(trained: Path) -> None:
    folder = trained / "runs/diffusion"
    assert (folder / "previews/00000006.png").is_file()
    log = (folder / "log.jsonl").read_text()
    assert "held_out/loss" in log and "held_out/snr_-1_1" in log


def test_vae_of_the_run_serves_generate(trained: Path, safelight: Cli, place: Path) -> None:
    ran = safelight(
        "generate", "x", "-m", trained / "runs/diffusion/model", "--steps", 1, "--seed", 1,
        "--vae", trained / "runs/autoencoder/model", "-o", "a.png",
    )  # fmt: skip
    assert ran.code == 0, ran.err


# -- checking, exporting ---------------------------------------------------------------------------


def test_check_says_what_a_run_needs_and_leaves_nothing_behind(
    train: Callable[..., Ran], shapes: Path, place: Path
) -> None:
    before = files(place)
    ran = train(runs.autoencoder(), "--check")
    assert ran.code == 0, ran.err
    for said in (
        "pictures to learn from and",
        "buckets: 32x32 (18), 40x24 (6)",
        "weights that learn: autoencoder 0.04 million, critic",
        "memory: ",
        "FLOP a step",
        "6 steps of 4, adamw in fp32 on cpu",
        "the config is sound; nothing was trained",
    ):
        assert said in ran.out, said
    assert files(place) == sorted([*before, "config.toml"])


def test_check_of_a_diffusion_run_writes_no_cache(
    trained: Path, train: Callable[..., Ran], place: Path
) -> None:
    shutil.copytree(trained / "shapes", place / "shapes")
    values = runs.diffusion()
    values["model"]["autoencoder"] = str(trained / "runs/autoencoder/model")
    values["model"]["text"] = str(trained / "runs/clip/model")
    ran = train(values, "--check")
    assert ran.code == 0 and "a U-Net from scratch, predicting v" in ran.out, ran.err
    assert not (place / "runs").exists()


def test_export_writes_the_weights_that_are_named(
    trained: Path, safelight: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(trained)
    config = trained / "diffusion.toml"
    for number, named in enumerate(("last", "classic:0.9", "6", "power:0.1@6")):
        ran = safelight("train", config, "--export", named, "--to", tmp_path / str(number))
        assert ran.code == 0, ran.err
    checkpoint = saving.newest(trained / "runs/diffusion")
    assert checkpoint is not None
    for number, part in enumerate(("", "classic:0.9", "power:0.1", "power:0.1")):
        unet = load(tmp_path / str(number)).network.unet.state_dict()
        expected = saving.load_tensors(checkpoint, "unet", part)
        assert all(torch.equal(unet[name], tensor) for name, tensor in expected.items())


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("--export", "best"), "--export takes last, a step, or an average"),
        (("--export", "7"), "has no checkpoint of step 7; there are 6"),
        (("--export", "classic:0.5"), "keeps no average classic:0.5; it has power:0.1"),
        (("--export", "last", "--to", "shapes"), "--to must name a new folder; shapes exists"),
        (("--to", "new"), "--to says where --export writes"),
        (("--until", "soon"), "--until must be a time such as 90s, 8m or 2h; got 'soon'"),
        (("--fresh",), "--fresh: runs/diffusion holds a run already"),
        (("--set", "training.steps"), "--set must be KEY=VALUE"),
        (("--set", "training.batch_size=5"), "training.batch_size was 4 and is 5"),
        (("--set", "noise.caption_dropout=0.5"), "noise.caption_dropout was 0.1 and is 0.5"),
    ],
)
def test_wrong_wishes_are_one_line_and_2(
    trained: Path,
    safelight: Cli,
    monkeypatch: pytest.MonkeyPatch,
    args: tuple[object, ...],
    said: str,
) -> None:
    monkeypatch.chdir(trained)
    ran = safelight("train", "diffusion.toml", *args)
    assert ran.code == 2
    assert said in ran.err.splitlines()[-1], ran.err


# -- stopping and going on -------------------------------------------------------------------------


def test_a_run_that_was_interrupted_goes_on_to_the_same_bits(
    train: Callable[..., Ran], shapes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert train({**runs.autoencoder(), "folder": "whole"}).code == 0
    logged = Lines.logged

    def interrupted(self: Lines, record: Any) -> None:
        logged(self, record)
        if record["step"] == 3:
            os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(Lines, "logged", interrupted)
        ran = train({**runs.autoencoder(), "folder": "parts"})
    assert ran.code == 130
    assert "interrupted after step 3 of 6" in ran.out and "config.toml` goes on" in ran.out
    assert not Path("parts/model").exists()
    ran = train({**runs.autoencoder(), "folder": "parts"})
    assert ran.code == 0 and "going on from step 3" in ran.out
    one, other = saving.newest(Path("whole")), saving.newest(Path("parts"))
    assert one is not None and other is not None and files_equal(one, other)


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_bits(
    train: Callable[..., Ran], shapes: Path, place: Path
) -> None:
    import subprocess

    from cli_tiny import command

    values = runs.autoencoder()
    values["training"] |= {"save_every": 0.0, "steps": 12}
    assert train({**values, "folder": "whole"}).code == 0
    config = runs.write_config(place / "parts.toml", {**values, "folder": "parts"})
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    child = subprocess.Popen(
        command("train", config), stdout=subprocess.PIPE, text=True, env=environment
    )
    assert child.stdout is not None
    for line in child.stdout:
        if "step-00000004" in line:
            child.send_signal(signal.SIGKILL)
            break
    child.wait(60)
    child.stdout.close()
    assert child.returncode == -signal.SIGKILL
    ran = process("train", config)
    assert ran.returncode == 0 and "going on from step" in ran.stdout, ran.stderr
    for name, tensor in weights(Path("whole")).items():
        assert torch.equal(tensor, weights(Path("parts"))[name])


def test_a_deadline_saves_and_ends_with_0(train: Callable[..., Ran], shapes: Path) -> None:
    ran = train(runs.autoencoder(), "--until", "0.001s")
    assert ran.code == 0 and "deadline after step 0 of 6" in ran.out
    assert saving.newest(Path("runs/autoencoder")) is not None


def test_a_finished_run_is_not_written_twice(
    trained: Path, safelight: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(trained)
    before = files(trained / "runs/clip/model")
    ran = safelight("train", "clip.toml")
    assert ran.code == 0 and "was written before" in ran.out
    assert files(trained / "runs/clip/model") == before
    assert not (trained / "runs/clip/model-6").exists()


def test_more_steps_go_on_and_are_written_beside(train: Callable[..., Ran], shapes: Path) -> None:
    assert train(runs.clip()).code == 0
    ran = train(runs.clip(), "--set", "training.steps=8")
    assert ran.code == 0 and "going on from step 6" in ran.out
    assert Path("runs/clip/model-8/text_encoder").is_dir()


# -- fine-tuning -----------------------------------------------------------------------------------


def fine_tuning(model: Path | str) -> dict[str, Any]:
    return {
        "recipe": "diffusion",
        "folder": "runs/tuned",
        "device": "cpu",
        "data": {"path": "shapes", "size": 32, "multiple": 16, "held_out": 0.2},
        "model": {"checkpoint": str(model)},
        "noise": {"offset_noise": 0.1, "weight": {"name": "min_snr", "options": {"gamma": 4.0}}},
        "training": {**runs.TRAINING, "steps": 2},
    }


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_fine_tuning_leaves_the_other_parts_bit_equal(
    train: Callable[..., Ran], safelight: Cli, shapes: Path, place: Path, dtype: torch.dtype
) -> None:
    save(tiny_model(), place / "old.safetensors", "ldm", dtype=dtype)
    ran = train(fine_tuning("old.safetensors"))
    assert ran.code == 0, ran.err
    old, new = (load(place / p, dtype=dtype) for p in ("old.safetensors", "runs/tuned/model"))
    for one, other in (
        (old.text.encoders[0], new.text.encoders[0]),
        (old.codec.autoencoder, new.codec.autoencoder),
    ):
        theirs = other.state_dict()  # type: ignore[attr-defined]
        for name, tensor in one.state_dict().items():  # type: ignore[attr-defined]
            assert torch.equal(tensor, theirs[name]), name
    unet = new.network.unet.state_dict()
    assert any(not torch.equal(t, unet[n]) for n, t in old.network.unet.state_dict().items())
    with open_weights(place / "runs/tuned/model/unet/diffusion_pytorch_model.safetensors") as file:
        assert {info.dtype for info in file.header.values()} == {dtype}
    assert safelight("generate", "x", "-m", "runs/tuned/model", "--steps", 1).code == 0


def test_fine_tuning_may_change_what_is_predicted(
    train: Callable[..., Ran], shapes: Path, place: Path
) -> None:
    save(tiny_model(), place / "old.safetensors", "ldm")
    values = fine_tuning("old.safetensors")
    values["process"] = {"prediction": "v", "zero_terminal_snr": True}
    ran = train(values)
    assert ran.code == 0 and "predicting v, zero terminal SNR" in ran.out, ran.err
    family = load(place / "runs/tuned/model").family
    assert (family.process.prediction, family.process.zero_terminal_snr) == ("v", True)


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ({"checkpoint": "none.safetensors"}, "none.safetensors"),
        ({"checkpoint": "a", "text": "b"}, "model.text cannot be given beside it"),
        ({"text": "b"}, "model.autoencoder is missing: give model.checkpoint to fine-tune"),
        ({"autoencoder": "shapes", "text": "b"}, "shapes holds no autoencoder"),
    ],
)
def test_parts_that_cannot_be_are_named(
    train: Callable[..., Ran], shapes: Path, model: dict[str, str], said: str
) -> None:
    ran = train({**fine_tuning("x"), "model": model})
    assert ran.code == 2 and said in ran.error()


# -- wrong data ------------------------------------------------------------------------------------


def test_a_broken_picture_stops_or_is_left_out_as_told(
    train: Callable[..., Ran], shapes: Path
) -> None:
    (shapes / "03.png").write_bytes(b"broken")
    ran = train(runs.autoencoder())
    assert ran.code == 2 and "1 broken picture (03)" in ran.error()
    assert not Path("runs/autoencoder/checkpoints").exists()
    ran = train(runs.autoencoder(), "--set", "data.on_problem=skip")
    assert ran.code == 0 and "left out: 1 broken picture (03)" in ran.err


def test_a_missing_caption_matters_where_captions_do(
    train: Callable[..., Ran], shapes: Path
) -> None:
    (shapes / "05.txt").unlink()
    ran = train(runs.clip())
    assert ran.code == 2 and "1 missing caption (05)" in ran.error()
    ran = train(runs.clip(), "--set", 'data.on_problem="skip"')
    assert ran.code == 0 and "left out: 1 missing caption (05)" in ran.err
    assert "missing" not in train(runs.autoencoder()).err


def test_an_empty_folder_is_told(train: Callable[..., Ran], place: Path) -> None:
    (place / "shapes").mkdir()
    ran = train(runs.autoencoder())
    assert ran.code == 2 and "there is nothing to train on in shapes" in ran.error()


def test_a_loss_that_is_not_finite_stops_with_1_or_is_counted(
    train: Callable[..., Ran], shapes: Path
) -> None:
    values = runs.autoencoder()
    values["training"] |= {"learning_rate": 1e30, "clip_norm": False, "log_every": 1}
    ran = train(values)
    assert ran.code == 1 and "not finite" in ran.err.splitlines()[-1], ran.err
    assert "set non_finite to skip" in ran.err and "Traceback" not in ran.err
    ran = train({**values, "folder": "other"}, "--set", "training.non_finite=skip")
    assert ran.code == 1 or "left out as not finite" in ran.out
    assert "the step was left out" in ran.err


def test_a_full_disk_is_one_line_and_1_and_older_checkpoints_stay(
    train: Callable[..., Ran], shapes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert train(runs.autoencoder()).code == 0
    before = files(Path("runs/autoencoder/checkpoints"))
    usage = shutil.disk_usage

    def full(path: Any) -> Any:
        inside = "checkpoints" in str(path)
        return usage(path)._replace(free=10) if inside else usage(path)

    monkeypatch.setattr("safelight.writing.shutil.disk_usage", full)
    ran = train(runs.autoencoder(), "--set", "training.steps=8", "--set", "training.save_every=0")
    assert ran.code == 1
    assert "Traceback" not in ran.err and "10 are free" in ran.err.splitlines()[-1]
    assert "no checkpoint of step 8" in ran.err and "the one of step 6 is intact" in ran.err
    assert files(Path("runs/autoencoder/checkpoints")) == before


# -- configs ---------------------------------------------------------------------------------------


def test_mistakes_are_named_all_at_once_with_what_may_stand_there(
    train: Callable[..., Ran], place: Path
) -> None:
    values = runs.autoencoder()
    values["training"] |= {"stpes": 3, "precision": "fp8"}
    values["data"] |= {"flip": 3.0}
    ran = train(values)
    assert ran.code == 2
    said = ran.error()
    assert said.startswith(f"{place / 'config.toml'} has 3 mistakes: ")
    assert "training.stpes is no key here; did you mean steps?" in said
    assert "training.precision must be one of 'fp32', 'tf32', 'bf16'; got \"fp8\"" in said
    assert "data.flip must be from 0 to 1; got 3.0" in said


def test_a_config_that_is_not_there_or_not_toml_is_told(safelight: Cli, place: Path) -> None:
    assert "cannot read the config no.toml" in safelight("train", "no.toml").error()
    (place / "bad.toml").write_text("recipe = \n")
    assert "bad.toml is not TOML" in safelight("train", "bad.toml").error()


def test_set_changes_a_key_before_anything_is_checked(
    train: Callable[..., Ran], shapes: Path
) -> None:
    ran = train(runs.autoencoder(), "--set", "training.steps=2", "--set", "folder=elsewhere")
    assert ran.code == 0 and "finished: 2 steps" in ran.out
    assert Path("elsewhere/model/config.json").is_file()


@pytest.mark.slow
def test_two_processes_of_torchrun_speak_as_one(shapes: Path, place: Path) -> None:
    import subprocess
    import sys

    values = runs.clip()
    values["training"] |= {"batch_size": 4}
    config = runs.write_config(place / "config.toml", values)
    launched = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    ran = subprocess.run(
        [*launched, "-m", "safelight", "train", str(config)],
        capture_output=True, text=True, timeout=200, env=environment, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.count("finished: 6 steps") == 1
    assert Path("runs/clip/model/tokenizer/vocab.json").is_file()


@pytest.mark.parametrize(
    ("given", "said"),
    [(0.4, "0 s"), (89, "89 s"), (100, "2 min"), (5300, "88 min"), (7500, "2 h 5 min")],
)
def test_durations_have_two_units_at_most(given: float, said: str) -> None:
    assert duration(given) == said
