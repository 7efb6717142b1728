"""The folder for temporary files: checked before MPI fails in it, and cleared of what killed jobs have left."""

from __future__ import annotations

import os
import platform
import subprocess
import tempfile
from pathlib import Path

import pytest

from gcdl.errors import UsageError
from gcdl.launch.temporary_folder import check_temporary_folder, remove_leftovers

HERE = platform.node()


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def job(folder: Path, pid: int, host: str = HERE, age: float = 100.0) -> Path:
    """Make what an mpirun with this process id leaves, last written to ``age`` seconds ago."""
    path = folder / f"ompi.{pid}"
    (path / "0" / "0").mkdir(parents=True)
    (path / f"pmix.{host}.tool").write_text("")
    then = path.stat().st_mtime - age
    os.utime(path, (then, then))
    return path


def no_process() -> int:
    """Return the id of a process that has ended."""
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


def test_what_a_killed_launcher_has_left_is_removed_and_nothing_else(folder):
    gone = job(folder, no_process())
    elsewhere = job(folder, no_process() + 1, host="another-host")
    other = folder / "ompi.notes"
    other.mkdir()
    mine = job(folder, os.getpid(), age=-5.0)  # written to after this process started, so it may be its
    (folder / f"ompi.{HERE}.{os.getuid()}" / "jf.0" / "123").mkdir(parents=True)
    remove_leftovers()
    assert not gone.exists()
    assert elsewhere.exists()
    assert other.exists()
    assert mine.exists()
    assert (folder / f"ompi.{HERE}.{os.getuid()}" / "jf.0" / "123").exists()  # it may be of the job that is left


def test_a_later_process_with_the_launchers_id_does_not_keep_its_files(folder):
    reused = job(folder, os.getpid(), age=1e6)
    empty = folder / f"ompi.{HERE}.{os.getuid()}" / "jf.0" / "123"
    empty.mkdir(parents=True)
    remove_leftovers()
    assert not reused.exists()
    assert not empty.exists()


def test_those_of_a_launcher_that_was_waited_for_need_not_tell_their_host(folder):
    path = folder / "ompi.4711"
    path.mkdir()
    remove_leftovers()
    assert path.exists()
    remove_leftovers(ended=4711)
    assert not path.exists()


@pytest.mark.skipif(os.getuid() != 0, reason="giving files away needs root")
def test_the_files_of_others_stay(folder):
    theirs = job(folder, no_process())
    os.chown(theirs, 12345, 12345)
    remove_leftovers()
    assert theirs.exists()


def test_a_folder_that_is_not_there_is_said_before_mpi_fails(monkeypatch, tmp_path):
    for name in ("TMPDIR", "TEMP", "TMP"):
        monkeypatch.delenv(name, raising=False)
    check_temporary_folder()
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    check_temporary_folder()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "gone"))
    with pytest.raises(UsageError, match=r"^TMPDIR=.*gone: no folder that can be written to, .*; unset TMPDIR, or"):
        check_temporary_folder()
    assert not (tmp_path / "gone").exists()
