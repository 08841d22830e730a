"""Compiled code is taken only from where nobody else can put it."""

import os
import stat
import sys
from pathlib import Path

import pytest

from safelight.engines.private_folder import check_private, digest, private_folder, workshop
from safelight.errors import FileError

MODES = pytest.mark.skipif(sys.platform == "win32", reason="modes say nothing there")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SAFELIGHT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@MODES
def test_the_folder_is_its_users_alone_whatever_the_umask(cache: Path) -> None:
    before = os.umask(0)
    try:
        folder = private_folder("some")
    finally:
        os.umask(before)
    assert folder == cache / "some" and mode(folder) == 0o700
    assert private_folder("some") == folder


@MODES
@pytest.mark.parametrize("extra", [0o010, 0o001, 0o040, 0o020, 0o002])
def test_a_folder_or_file_that_others_may_use_is_refused(extra: int) -> None:
    folder = private_folder("some")
    file = folder / "code.so"
    file.write_bytes(b"x")
    file.chmod(0o600 | extra)
    with pytest.raises(FileError, match="open to other users"):
        check_private(file)
    file.chmod(0o600)
    check_private(file)
    folder.chmod(0o700 | extra)
    with pytest.raises(FileError, match=r"open to other users.*chmod go= .*SAFELIGHT_CACHE"):
        private_folder("some")


@MODES
def test_what_belongs_to_another_user_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = private_folder("some")
    monkeypatch.setattr(os, "geteuid", lambda: folder.stat().st_uid + 1)
    with pytest.raises(FileError, match="belongs to another user"):
        private_folder("some")


@MODES
def test_a_link_is_refused_even_to_a_private_place(cache: Path, tmp_path: Path) -> None:
    other = private_folder("other")
    link = cache / "link"
    link.symlink_to(other)
    with pytest.raises(FileError, match="neither a folder nor a plain file"):
        private_folder("link")
    with pytest.raises(FileError, match="cannot read"):
        check_private(tmp_path / "gone")


def test_a_workshop_is_inside_and_gone_afterwards() -> None:
    folder = private_folder("some")
    with workshop(folder) as room:
        assert room.parent == folder
        (room / "half.so").write_bytes(b"x")
    assert list(folder.iterdir()) == []


def test_a_digest_is_of_the_bytes() -> None:
    assert digest(b"a") == digest(b"a") != digest(b"b") and len(digest(b"")) == 64
