"""``gcdl advise CONFIG``: the pilot run is a real one, and the config that is written runs."""

import json

import pytest

from gcdl.config import load

pytestmark = pytest.mark.mpi

CONFIG = """
workers = 3
steps = 25
[problem]
kind = "linear_regression"
features = 50
samples = 10
[code]
kind = "cyclic_repetition"
stragglers = 1
[wait]
kind = "first_replies"
count = 2
[stragglers]
kind = "fixed"
workers = [1]
seconds = 0.2
[run]
eval_every = 0
"""


def test_a_pilot_is_run_and_what_is_advised_on_it_is_written_and_runs(tmp_path, process):
    (tmp_path / "config.toml").write_text(CONFIG)
    done = process("advise", "config.toml", "--seconds", "8", "--json", "--write", "advised.toml", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout)
    assert found["predicted"]["config"] == "uncoded"  # the pilot
    assert found["own"]["config"] == "cyclic rep. s=1"
    assert (found["clock"], found["slow"]["workers"]) == ("real", [1])
    assert found["predicted"]["seconds"] == pytest.approx(found["step_seconds"], rel=0.15)
    assert found["startup_seconds"] > 0.0
    (pilot,) = (tmp_path / "runs").iterdir()
    assert pilot.name.startswith("pilot-config-")
    assert 20 <= len((pilot / "steps.jsonl").read_text().splitlines()) < 60  # 0.2 s each, for 8 s
    config = load(tmp_path / "advised.toml")
    assert (config.steps, config.workers) == (25, 3)
    again = process("run", "advised.toml", "--out", "again", cwd=tmp_path)
    assert again.returncode == 0, again.stdout + again.stderr
    summary = json.loads((tmp_path / "again" / "summary.json").read_text())
    assert summary["seconds"] / 25 < 0.1  # nobody waits for worker 1


def test_a_pilot_that_can_not_run_is_one_line(tmp_path, process):
    fault = 'events = [{fault = "raise", worker = 1, step = 4}]'
    (tmp_path / "config.toml").write_text(CONFIG.replace('kind = "fixed"\nworkers = [1]\nseconds = 0.2', fault))
    done = process("advise", "config.toml", cwd=tmp_path)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "gcdl: the pilot run came to 4 steps, of 20 that an advice needs: " in done.stderr.splitlines()[-1]
