"""`safelight download` against a hub that lives in a dictionary: no test uses the network."""

import hashlib
import sys
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import httpx2
import huggingface_hub
import pytest
from huggingface_hub import errors

from safelight.cli.download import Source, parse_source
from safelight.cli.main import run
from safelight.cli.remote_files import MAX_TEXT, Remote, chosen
from safelight.errors import FileError, RequestError

# -- which repository ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "source"),
    [
        ("owner/name", Source("owner/name")),
        (" owner/na.me_1-2\n", Source("owner/na.me_1-2")),
        ("gpt2", Source("gpt2")),
        ("https://huggingface.co/owner/name", Source("owner/name")),
        ("https://huggingface.co/owner/name/", Source("owner/name")),
        ("https://hf.co/owner/name?library=diffusers", Source("owner/name")),
        ("https://huggingface.co/owner/name/tree/fp16", Source("owner/name", "fp16")),
        ("https://huggingface.co/owner/name/tree/main/unet", Source("owner/name", "main", "unet")),
        (
            "https://huggingface.co/owner/name/blob/main/a/b%20c.safetensors",
            Source("owner/name", "main", "a/b c.safetensors"),
        ),
        (
            "https://huggingface.co/owner/name/resolve/main/a.ckpt?download=true",
            Source("owner/name", "main", "a.ckpt"),
        ),
    ],
)
def test_names_and_urls_of_the_hub_are_understood(text: str, source: Source) -> None:
    assert parse_source(text) == source


@pytest.mark.parametrize(
    "text",
    [
        "",
        "..",
        "../name",
        "owner/../name",
        "owner/na me",
        "/etc/passwd",
        "-x/name",
        "http://huggingface.co/owner/name",
        "file:///etc/passwd",
        "https://example.com/owner/name",
        "https://huggingface.co.example.com/owner/name",
        "https://user@huggingface.co/owner/name",
        "https://huggingface.co/owner/name/discussions/1",
        "https://huggingface.co/owner/name/tree",
        "owner--x/name",
    ],
)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(RequestError):
        parse_source(text)


def test_a_mirror_may_be_named_by_the_variable_of_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "https://mirror.example")
    assert parse_source("https://mirror.example/owner/name") == Source("owner/name")


# -- which files -----------------------------------------------------------------------------------


def pick(*names: str, include: tuple[str, ...] = ()) -> tuple[list[str], str]:
    choice = chosen([Remote(name, 1, "sha256:") for name in names], include)
    return [file.name for file in choice.files], " ".join(choice.remarks)


PARTS = ("model_index.json", "unet/config.json", "tokenizer/vocab.json", "tokenizer/merges.txt")
UNET = "unet/diffusion_pytorch_model"


def test_only_weights_settings_and_texts_are_taken() -> None:
    other = ("run.py", "a.exe", "x.onnx", "x.msgpack", "x.h5", "x.gguf", ".gitattributes", "p.png")
    picked, _ = pick(*PARTS, f"{UNET}.safetensors", *other, "unet/hook.py", ".x/a.json", "LICENSE")
    assert picked == sorted([*PARTS, f"{UNET}.safetensors", "LICENSE"])


def test_no_pattern_fetches_another_kind() -> None:
    with pytest.raises(RequestError, match=r"no file to fetch matches \*\.py"):
        pick(*PARTS, f"{UNET}.safetensors", "unet/hook.py", include=("*.py",))


def test_a_huge_text_is_not_a_text() -> None:
    files = [Remote("a.safetensors", 1, ""), Remote("a.json", MAX_TEXT + 1, "")]
    assert [f.name for f in chosen(files).files] == ["a.safetensors"]


def test_safetensors_come_before_pickles() -> None:
    picked, said = pick(*PARTS, f"{UNET}.safetensors", f"{UNET}.bin", f"{UNET}.fp16.bin")
    assert f"{UNET}.safetensors" in picked
    assert not any(name.endswith(".bin") for name in picked)
    assert "left out 2 pickles" in said


def test_pickles_are_taken_where_there_is_nothing_else_and_said() -> None:
    picked, said = pick(*PARTS, f"{UNET}.safetensors", "vae/diffusion_pytorch_model.bin")
    assert "vae/diffusion_pytorch_model.bin" in picked
    assert "no safetensors of vae/diffusion_pytorch_model.bin; these pickles are taken" in said
    assert pick("v1-5.ckpt")[0] == ["v1-5.ckpt"]
    with pytest.raises(RequestError, match="no file to fetch"):
        pick("a.safetensors", "a.ckpt", include=("*.ckpt",))


def test_one_variant_is_taken() -> None:
    names = (f"{UNET}.safetensors", f"{UNET}.fp16.safetensors", f"{UNET}.non_ema.safetensors")
    picked, said = pick(*PARTS, *names)
    assert [n for n in picked if n.startswith(UNET)] == [f"{UNET}.safetensors"]
    assert "left out variants: fp16, non_ema" in said
    assert f"{UNET}.fp16.safetensors" in pick(*PARTS, f"{UNET}.fp16.safetensors")[0]
    picked, _ = pick(*PARTS, *names, include=("*.fp16.*", "*.json", "*.txt"))
    assert picked == sorted([*PARTS, f"{UNET}.fp16.safetensors"])


def test_shards_come_with_their_index_or_not_at_all() -> None:
    shards = [f"{UNET}-0000{i}-of-00002.safetensors" for i in (1, 2)]
    index = f"{UNET}.safetensors.index.json"
    picked, _ = pick(*PARTS, *shards, index, f"{UNET}.safetensors.index.fp16.json")
    assert picked == sorted([*PARTS, *shards, index])
    picked, _ = pick(*PARTS, *shards, index, f"{UNET}.safetensors")
    assert picked == sorted([*PARTS, f"{UNET}.safetensors"])


def test_single_files_beside_the_parts_are_left_out() -> None:
    picked, said = pick(*PARTS, f"{UNET}.safetensors", "v1-5.safetensors", "v1-5.ckpt")
    assert "v1-5.safetensors" not in picked
    assert "the same model as single files: v1-5.safetensors" in said
    picked, _ = pick("xl_1.0.safetensors", "xl_1.0_0.9vae.safetensors", "README.md")
    assert picked == ["README.md", "xl_1.0.safetensors", "xl_1.0_0.9vae.safetensors"]


def test_parts_that_are_never_read_are_left_out_and_said() -> None:
    picked, said = pick(*PARTS, f"{UNET}.safetensors", "safety_checker/model.safetensors")
    assert "safety_checker/model.safetensors" not in picked
    assert "not needed: safety_checker" in said


@pytest.mark.parametrize(
    "name", ["../a.safetensors", "/a.safetensors", "a/../../b.json", "a\\b.json", "c:x.json", ""]
)
def test_a_name_that_leads_outside_is_refused(name: str) -> None:
    with pytest.raises(FileError, match="outside"):
        pick("a.safetensors", name)


def test_a_repository_without_weights_is_refused() -> None:
    with pytest.raises(RequestError, match="no weights"):
        pick("README.md", "model.gguf")


# -- the whole command -----------------------------------------------------------------------------


@dataclass
class Hub:
    """Stands for huggingface_hub: files by name, and what to do wrong."""

    files: dict[str, bytes]
    damaged: str = ""
    error: Exception | None = None
    commit: str = "c0ffee"
    fetched: list[str] | None = None

    def model_info(self, repository: str, **options: object) -> SimpleNamespace:
        assert options["files_metadata"] is True
        if self.error:
            raise self.error
        self.asked = (repository, options["revision"])
        return SimpleNamespace(
            sha=self.commit, siblings=[self.sibling(n, c) for n, c in self.files.items()]
        )

    def sibling(self, name: str, content: bytes) -> SimpleNamespace:
        large = name.endswith((".safetensors", ".ckpt", ".bin"))
        digest = SimpleNamespace(sha256=hashlib.sha256(content).hexdigest()) if large else None
        blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
        return SimpleNamespace(rfilename=name, size=len(content), blob_id=blob, lfs=digest)

    def download(self, repository: str, filename: str, *, revision: str, local_dir: Path) -> str:
        assert revision == self.commit, "all files are of one commit"
        self.fetched = [*(self.fetched or []), filename]
        path = local_dir / filename
        path.parent.mkdir(parents=True, exist_ok=True)
        content = self.files[filename]
        path.write_bytes(content[:-1] + b"?" if filename == self.damaged else content)
        return str(path)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SAFELIGHT_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("SAFELIGHT_CACHE", str(tmp_path / "cache"))
    return tmp_path


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Hub:
    files = {
        "model_index.json": b"{}",
        "unet/config.json": b'{"a": 1}',
        f"{UNET}.safetensors": b"weights",
        f"{UNET}.fp16.safetensors": b"half",
        "run.py": b"import os",
    }
    made = Hub(files)
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda **options: made)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", made.download)
    return made


def test_a_model_lands_in_the_library_under_its_name(
    hub: Hub, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["download", "owner/name"]) == 0
    folder = home / "home" / "models" / "owner" / "name"
    out, err = capsys.readouterr()
    assert out.strip() == str(folder)
    assert "owner/name: 3 files" in err
    assert "left out variants: fp16" in err
    there = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    assert there == ["model_index.json", "unet/config.json", f"{UNET}.safetensors"]


def test_revision_folder_and_patterns_are_followed(hub: Hub, home: Path) -> None:
    to = str(home / "here")
    asked = ["download", "owner/name", "--revision", "fp16", "--to", to, "--include", "*.fp16.*"]
    assert run(asked) == 0
    assert hub.asked == ("owner/name", "fp16")
    assert hub.fetched == [f"{UNET}.fp16.safetensors"]
    assert (home / "here" / f"{UNET}.fp16.safetensors").read_bytes() == b"half"


def test_a_url_of_a_file_fetches_that_file(hub: Hub, home: Path) -> None:
    url = f"https://huggingface.co/owner/name/blob/v2/{UNET}.fp16.safetensors"
    assert run(["download", url]) == 0
    assert hub.asked == ("owner/name", "v2")
    assert hub.fetched == [f"{UNET}.fp16.safetensors"]


@pytest.mark.parametrize("name", ["unet/config.json", f"{UNET}.safetensors"])
def test_a_file_with_a_wrong_hash_is_deleted(
    hub: Hub, home: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.damaged = name
    assert run(["download", "owner/name"]) == 2
    assert "arrived damaged" in capsys.readouterr().err
    assert not (home / "home" / "models" / "owner" / "name" / name).exists()


def test_a_full_disk_is_said_before_anything_is_fetched(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=10))
    assert run(["download", "owner/name"]) == 1
    assert "10 bytes free; make room" in capsys.readouterr().err
    assert hub.fetched is None


def test_files_that_are_there_need_no_space(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(["download", "owner/name"]) == 0
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=0))
    assert run(["download", "owner/name"]) == 0


def answer(status: int) -> httpx2.Response:
    return httpx2.Response(status, request=httpx2.Request("GET", "https://huggingface.co"))


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (errors.GatedRepoError("x", response=answer(403)), 2, "accept its terms"),
        (errors.RepositoryNotFoundError("x", response=answer(404)), 2, "has no model owner/name"),
        (errors.RevisionNotFoundError("x", response=answer(404)), 2, "no such revision"),
        (errors.HFValidationError("x"), 2, "has no model"),
        (errors.OfflineModeIsEnabled("x"), 1, "HF_HUB_OFFLINE"),
        (errors.LocalEntryNotFoundError("cut off"), 1, "run the same command again"),
        (ConnectionError("cut\noff"), 1, "could not be downloaded: cut. What has arrived"),
        (PermissionError(13, "Permission denied", "/there"), 1, "/there cannot be written"),
        (ValueError(), 1, "could not be downloaded: ValueError"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
def test_every_failure_is_one_line_that_says_what_to_do(
    hub: Hub, error: Exception, code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.error = error
    assert run(["download", "owner/name"]) == code
    err = capsys.readouterr().err
    assert said in err
    assert len(err.strip().splitlines()) == 1


def test_a_failure_in_the_middle_keeps_what_has_arrived(
    hub: Hub, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut(repository: str, filename: str, **options: object) -> str:
        if filename.endswith(".safetensors"):
            raise ConnectionError("cut off")
        return hub.download(repository, filename, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", cut)
    assert run(["download", "owner/name"]) == 1
    folder = home / "home" / "models" / "owner" / "name"
    assert (folder / "model_index.json").exists()
    assert not (folder / f"{UNET}.safetensors").exists()


def test_without_huggingface_hub_the_error_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert run(["download", "owner/name"]) == 1
    assert "pip install 'safelight[download]'" in capsys.readouterr().err


def test_nothing_is_fetched_for_a_wrong_name(hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["download", "https://example.com/a/b"]) == 2
    assert "not on the Hugging Face hub" in capsys.readouterr().err
    assert hub.fetched is None
