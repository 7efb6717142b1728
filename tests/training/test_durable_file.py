"""A full disk costs nothing but time: entries wait, and no half entry stays in the file."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from gcdl.config import parse
from gcdl.errors import Interrupted, UsageError
from gcdl.training import checkpoint_file as checkpoint
from gcdl.training.durable_file import DurableFile
from gcdl.training.roles import simulate
from gcdl.training.starting_point import StartingPoint, resume
from tests.conftest import Heard


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 256 KB."""
    where = tmp_path / "small"
    where.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(where)], capture_output=True).returncode:
        pytest.skip("mounting a small disk needs root")
    yield where
    subprocess.run(["umount", "-l", str(where)], check=True)


def fill(folder: Path) -> Path:
    path = folder / "ballast"
    with path.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"x" * 4096)
        except OSError:
            return path


def test_entries_wait_for_room_and_none_is_halved(small_disk):
    said: list[str] = []
    journal = DurableFile(small_disk / "lines", said.append)
    journal.write("first\n")
    ballast = fill(small_disk)
    written = ["first\n"]
    for number in range(200):  # more than what is left of the file's last page
        written.append(f"{number} {'y' * 100}\n")
        journal.write(written[-1])
        on_disk = (small_disk / "lines").read_text()
        assert on_disk == "".join(written)[: len(on_disk)]
        assert on_disk.endswith("\n")
    assert len(said) == 1
    assert "No space left" in said[0] or "full" in said[0]
    assert on_disk != "".join(written)
    ballast.unlink()
    journal.write("last\n")
    assert (small_disk / "lines").read_text() == "".join(written) + "last\n"
    assert "nothing is missing" in said[1]
    journal.close()
    journal.close()


def test_what_could_never_be_written_is_said_at_the_end(small_disk):
    said: list[str] = []
    journal = DurableFile(small_disk / "lines", said.append)
    fill(small_disk)
    journal.write("z" * 10_000)
    journal.close()
    assert "10000 bytes could not be written" in said[-1]
    assert (small_disk / "lines").read_bytes() == b""


def test_a_buffered_journal_writes_when_enough_has_come_and_at_the_end(tmp_path):
    journal = DurableFile(tmp_path / "lines", buffered=10)
    journal.write("12345")
    assert (tmp_path / "lines").read_text() == ""
    journal.write("678901")
    assert (tmp_path / "lines").read_text() == "12345678901"
    journal.write("2")
    journal.close()
    assert (tmp_path / "lines").read_text() == "123456789012"


def test_a_journal_appends_and_only_one_process_writes_it(tmp_path):
    (tmp_path / "lines").write_text("old\n")
    journal = DurableFile(tmp_path / "lines")
    with pytest.raises(UsageError, match="a run is writing there now"):
        DurableFile(tmp_path / "lines")
    journal.write("new\n")
    journal.close()
    DurableFile(tmp_path / "lines").close()
    assert (tmp_path / "lines").read_text() == "old\nnew\n"


CONFIG = """
workers = 4
steps = 40
[problem]
kind = "linear_regression"
features = 600
samples = 5
[compressor]
kind = "scaled_sign"
error_feedback = true
[optimizer]
lr = 0.01
[run]
checkpoint_every = 5
"""


class DiskFiller(Heard):
    """Fills the disk after one step, and makes room after another."""

    def __init__(self, disk: Path, full: int, free: int, end: int = -1) -> None:
        super().__init__()
        self.disk, self.full, self.free, self.end = disk, full, free, end

    def step(self, record):
        if record.step == self.full:
            self.ballast = fill(self.disk)
        if record.step == self.free:
            self.ballast.unlink()
        if record.step == self.end:
            raise Interrupted("interrupted")


def test_a_run_goes_on_while_the_disk_is_full(small_disk, tmp_path):
    whole = simulate(StartingPoint(parse(CONFIG), tmp_path / "whole"), DiskFiller(tmp_path, -1, -1))
    watcher = DiskFiller(small_disk, full=11, free=30)
    summary = simulate(StartingPoint(parse(CONFIG), small_disk / "run"), watcher)
    assert summary.model_sha256 == whole.model_sha256
    assert any("checkpoint of step 15 not written" in line for line in watcher.lines)
    assert any("the run goes on" in line for line in watcher.lines)
    lines = (small_disk / "run" / "steps.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == list(range(40))
    assert checkpoint.newest(small_disk / "run")[0].step == 40


def test_a_disk_that_stays_full_has_the_result_all_the_same_in_the_room_that_was_kept_for_it(small_disk, tmp_path):
    whole = simulate(StartingPoint(parse(CONFIG), tmp_path / "whole"), DiskFiller(tmp_path, -1, -1))
    watcher = DiskFiller(small_disk, full=11, free=-1)
    summary = simulate(StartingPoint(parse(CONFIG), small_disk / "run"), watcher)
    assert summary.model_sha256 == whole.model_sha256
    saved = json.loads((small_disk / "run" / "summary.json").read_text())
    assert saved["model_sha256"] == whole.model_sha256
    assert (small_disk / "run" / "model.pt").read_bytes() == (tmp_path / "whole" / "model.pt").read_bytes()
    lines = (small_disk / "run" / "steps.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == list(range(40))
    assert any("checkpoint of step 40 not written" in line for line in watcher.lines)
    assert not (small_disk / "run" / ".reserved").exists()
    watcher.ballast.unlink()


def test_a_result_that_can_not_be_written_is_an_error_that_says_what_is_there(small_disk, tmp_path, monkeypatch):
    monkeypatch.setattr("gcdl.training.loop._result_bytes", lambda layout: 0)
    whole = simulate(StartingPoint(parse(CONFIG), tmp_path / "whole"), DiskFiller(tmp_path, -1, -1))
    watcher = DiskFiller(small_disk, full=11, free=-1)
    with pytest.raises(
        UsageError, match=r"model\.pt: cannot be written: .*; the newest checkpoint is of step 10 of 40: gcdl resume"
    ):
        simulate(StartingPoint(parse(CONFIG), small_disk / "run"), watcher)
    assert not (small_disk / "run" / "summary.json").exists()
    assert checkpoint.newest(small_disk / "run")[0].step == 10
    assert not list((small_disk / "run" / "checkpoint").glob("*.draft"))
    watcher.ballast.unlink()
    resumed = simulate(resume(small_disk / "run", ()), DiskFiller(small_disk, -1, -1))
    assert resumed.model_sha256 == whole.model_sha256


def test_an_interrupted_run_on_a_full_disk_names_the_checkpoint_that_there_is(small_disk):
    watcher = DiskFiller(small_disk, full=11, free=-1, end=20)
    with pytest.raises(Interrupted):
        simulate(StartingPoint(parse(CONFIG), small_disk / "run"), watcher)
    assert any("checkpoint of step 21 not written" in line for line in watcher.lines)
    assert (
        f"checkpoint after 10 steps in {small_disk / 'run' / 'checkpoint'}; gcdl resume {small_disk / 'run'} goes on"
        in watcher.lines
    )


def test_a_disk_without_room_for_the_result_is_said_at_the_start(small_disk):
    (small_disk / "run").mkdir()
    watcher = DiskFiller(small_disk, full=-1, free=-1)
    ballast = fill(small_disk)
    with ballast.open("r+b") as file:
        file.truncate(ballast.stat().st_size - (40 << 10))  # room to begin
    with pytest.raises(UsageError, match="cannot be written"):
        simulate(StartingPoint(parse(CONFIG, ["steps=2"]), small_disk / "run"), watcher)
    assert any("no room for the result, 0.1 MB" in line for line in watcher.lines)
