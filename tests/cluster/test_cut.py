"""A host behind a cable that is pulled: silent workers are stragglers, used again when they answer; no end waits for them."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import hosts as lab
import pytest
from hosts import Hosts

pytestmark = [
    pytest.mark.hosts,
    pytest.mark.skipif(lab.why_not() is not None, reason=f"no hosts: {lab.why_not()}"),
]

CONFIG = """
workers = 4
steps = 120
[problem]
kind = "linear_regression"
features = 30
samples = 10
[wait]
kind = "deadline"
seconds = 0.1
[stragglers]
kind = "fixed"
workers = [0, 1, 2, 3]
seconds = 0.02
[optimizer]
lr = 0.01
[run]
eval_every = 0
"""


def test_a_host_that_is_cut_off_is_a_straggler_and_the_end_does_not_wait_for_it(tmp_path):
    (tmp_path / "config.toml").write_text(CONFIG)
    folder = tmp_path / "run"

    def replies():
        path = folder / "steps.jsonl"
        whole = path.read_text().splitlines(keepends=True) if path.exists() else []
        return [json.loads(line)["replies"] for line in whole if line.endswith("\n")]

    def until(ready):
        end = time.monotonic() + 60.0
        while not ready():
            assert job.poll() is None, (tmp_path / "log").read_text()
            assert time.monotonic() < end, (tmp_path / "log").read_text()
            time.sleep(0.02)

    command = [sys.executable, "-m", "gcdl", "train", str(tmp_path / "config.toml"), "--out", str(folder)]
    with Hosts(2, slots=[3, 2]) as hosts, (tmp_path / "log").open("w") as log:
        job = subprocess.Popen([*hosts.mpirun(5), *command], env=hosts.environment(), stdout=log, stderr=subprocess.STDOUT)
        until(lambda: {2, 3} <= {worker for line in replies() for worker in line})
        hosts.cut("host2")
        cut = len(replies())
        until(lambda: len(replies()) > cut + 15)
        hosts.mend("host2")
        mended = len(replies())
        until(lambda: {2, 3} <= {worker for line in replies()[mended:] for worker in line})
        hosts.cut("host2")
        job.wait(60.0)
        assert hosts.pids("host1") == []
    used = replies()
    assert used[cut + 2 : mended - 1] == [[0, 1]] * (mended - cut - 3)
    assert used[-1] == [0, 1]
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["steps"] == 120
    assert summary["lost_workers"] == []
    said = (tmp_path / "log").read_text()
    assert "not waiting any longer for workers that have not stopped: worker 2 (rank 3, host host2); worker 3" in said
    assert "some are on other hosts: mpirun is killed if it has not ended in 5 s" in said
