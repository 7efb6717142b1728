"""Runs over three hosts with their own addresses and names, Open MPI over TCP between them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import hosts as lab
import pytest
from hosts import Hosts

pytestmark = [
    pytest.mark.hosts,
    pytest.mark.mpi,
    pytest.mark.skipif(lab.why_not() is not None, reason=f"no hosts: {lab.why_not()}"),
]

CONFIG = """
seed = 3
workers = 4
steps = {steps}
[problem]
kind = "linear_regression"
features = {features}
samples = 20
[compressor]
kind = "scaled_sign"
[optimizer]
lr = {lr}
[run]
eval_every = 0
checkpoint_every = 0
"""
"""Without code and waiting for all: over whatever network, one model comes out."""
GCDL = [sys.executable, "-m", "gcdl"]


class Run:
    """A run over the hosts."""

    def __init__(self, hosts: Hosts, path: Path, *overrides: str, steps: int, features: int = 100, lr: float = 0.05) -> None:
        (path / "config.toml").write_text(CONFIG.format(steps=steps, features=features, lr=lr))
        self.folder = path / "run"
        self.log = path / "log"
        command = [*hosts.mpirun(5), *GCDL, "train", str(path / "config.toml"), *overrides, "--out", str(self.folder)]
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                command, env=hosts.environment(), stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True
            )

    def steps(self) -> int:
        steps = self.folder / "steps.jsonl"
        return steps.read_bytes().count(b"\n") if steps.exists() else 0

    def until(self, step: int, seconds: float = 120.0) -> None:
        end = time.monotonic() + seconds
        while self.steps() < step:
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < end, self.log.read_text()
            time.sleep(0.02)

    def end(self, seconds: float = 150.0) -> dict[str, Any]:
        self.process.wait(seconds)
        assert (self.folder / "summary.json").exists(), self.log.read_text()
        return json.loads((self.folder / "summary.json").read_text())


@contextmanager
def running(hosts: Hosts, path: Path, *overrides: str, steps: int, features: int = 100, lr: float = 0.05) -> Iterator[Run]:
    run = Run(hosts, path, *overrides, steps=steps, features=features, lr=lr)
    try:
        yield run
    finally:
        if run.process.poll() is None:
            os.killpg(run.process.pid, signal.SIGKILL)
        run.process.wait()


def alone(path: Path, *overrides: str) -> str:
    """Return the model of the same run in one process."""
    command = [*GCDL, "simulate", str(path / "config.toml"), *overrides, "--out", str(path / "alone")]
    subprocess.run(command, check=True, timeout=150, stdout=subprocess.DEVNULL)
    return json.loads((path / "alone" / "summary.json").read_text())["model_sha256"]


def test_a_run_over_links_of_100_mbit_is_that_of_one_process_and_survives_a_cable_that_is_out_for_two_seconds(tmp_path):
    with Hosts(3, rate_mbit=100) as hosts, running(hosts, tmp_path, steps=40, features=50_000, lr=1e-6) as run:
        run.until(5)
        hosts.cut("host3")
        before = time.monotonic()
        time.sleep(2.0)
        hosts.mend("host3")
        summary = run.end()
        assert time.monotonic() - before > 2.0
        assert summary["model_sha256"] == alone(tmp_path)
        assert summary["lost_workers"] == []
        manifest = json.loads((run.folder / "manifest.json").read_text())
        assert manifest["hosts"] == ["host1", "host1", "host2", "host2", "host3"]
        links = {link["host"]: link["bytes_per_second"] for link in manifest["links"]}
        assert set(links) == {"host1", "host2", "host3"}
        assert 6e6 < links["host2"] < 20e6  # a bucket of 64 kB goes out at once
        assert links["host1"] > 50e6
        assert 0.0 < manifest["startup_seconds"] < summary["wall_seconds"]
        # Two hosts are elsewhere, with three of four workers: a model a host crossed the link, and a reply a worker, with some
        # percent of TCP around them.
        traffic = hosts.traffic()["host1"]
        assert 0.5 * summary["downlink_bytes"] < traffic.sent < 0.6 * summary["downlink_bytes"]
        assert 0.75 * summary["uplink_bytes"] < traffic.received


def test_launch_hosts_runs_over_a_hostfile_and_five_milliseconds_of_delay_change_nothing_but_the_time(tmp_path):
    config, folder = tmp_path / "config.toml", tmp_path / "run"
    config.write_text(CONFIG.format(steps=20, features=100, lr=0.05).replace("workers = 4\n", ""))  # the slots say so
    script = Path(__file__).resolve().parents[2] / "launch" / "hosts"
    with Hosts(3, rate_mbit=100, delay_ms=5.0) as hosts:
        command = [*hosts.on("host1"), str(script), str(hosts.hostfile(5)), str(config), "--out", str(folder)]
        here = {**hosts.ssh(), "GCDL": str(Path(sys.executable).parent / "gcdl")}
        done = subprocess.run(
            command,
            env=hosts.environment(**here),
            capture_output=True,
            text=True,
            timeout=90,
            stdin=subprocess.DEVNULL,
            check=False,
        )
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads((folder / "manifest.json").read_text())["hosts"] == ["host1", "host1", "host2", "host2", "host3"]
    assert json.loads((folder / "summary.json").read_text())["model_sha256"] == alone(tmp_path, "workers=4")
    steps = [json.loads(line)["seconds"] for line in (folder / "steps.jsonl").read_text().splitlines()]
    assert sorted(steps)[len(steps) // 2] > 0.010  # a round trip


def test_the_doctor_measures_the_links_between_hosts():
    with Hosts(2, rate_mbit=50) as hosts:
        done = subprocess.run(
            [*hosts.mpirun(3), *GCDL, "doctor", "--json"], env=hosts.environment(), capture_output=True, text=True, timeout=60,
            check=False,
        )  # fmt: skip
    told = json.loads(done.stdout)
    found = {finding["what"]: finding for finding in told["findings"]}
    assert "by host: host1 2, host2 1" in found["ranks"]["says"]
    between = found["links, other hosts"]
    assert between["level"] == "note"
    rate = float(between["says"].partition(" at most")[2].partition("Mbit/s")[0].rpartition(", ")[2])
    assert 25.0 < rate < 60.0
    assert "downlink" in between["do"]


def test_a_host_that_is_lost_with_its_daemon_ends_the_job_and_the_run_goes_on_from_its_checkpoint(tmp_path):
    """What happens, not what one would like: Open MPI's launcher gives the job up when a daemon of it is gone."""
    with Hosts(3) as hosts, running(hosts, tmp_path, "run.checkpoint_every=20", "wait.count=2", steps=100_000) as run:
        run.until(50)
        for pid in hosts.pids("host3"):
            os.kill(pid, signal.SIGKILL)
        run.process.wait(60.0)
        assert not (run.folder / "summary.json").exists()
    checkpoints = sorted(int(path.stem.removeprefix("step-")) for path in (run.folder / "checkpoint").glob("step-*.npz"))
    assert checkpoints[-1] >= 40


def rank(hosts: Hosts, host: str, number: int) -> int:
    """Return the process id of a rank on a host."""
    for pid in hosts.pids(host):
        with suppress(OSError):  # a process that is gone by now
            if f"OMPI_COMM_WORLD_RANK={number}".encode() in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
                return pid
    raise AssertionError(f"no rank {number} on {host}")


def test_a_worker_that_carries_the_model_to_its_host_may_die_and_the_other_there_still_gets_it(tmp_path):
    """A model takes 80 ms over the link, most of a step: worker 1 is likely to be posting it for worker 2 when it is killed."""
    coded = ("code.kind=fractional_repetition", "code.stragglers=1")
    with Hosts(3, rate_mbit=100) as hosts, running(hosts, tmp_path, *coded, steps=60, features=250_000, lr=1e-7) as run:
        run.until(10)
        before = hosts.traffic()["host1"].sent
        os.kill(rank(hosts, "host2", 2), signal.SIGKILL)
        summary = run.end()
        sent = hosts.traffic()["host1"].sent - before
    assert summary["steps"] == 60
    assert summary["lost_workers"] == [1]
    lines = [json.loads(line) for line in (run.folder / "steps.jsonl").read_text().splitlines()]
    assert all(line["replies"] == [0, 2, 3] for line in lines[-20:])
    assert max(line["seconds"] for line in lines) < 10.0  # it asks again after a moment
    assert sent < 2.6 * 50 * 1e6  # still once a host, of which two are elsewhere
