"""A simulation says which of its seconds are virtual, adds none of them to real ones, and hides no default behind a figure."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from gcdl.config import parse
from gcdl.training.display import Display
from gcdl.training.roles import simulate
from gcdl.training.starting_point import StartingPoint

CONFIG = """
workers = 4
steps = 10
[problem]
kind = "linear_regression"
features = 8
[code]
kind = "fractional_repetition"
stragglers = 1
[stragglers]
kind = "fixed"
workers = [2]
seconds = 30.0
[run]
seconds_per_shard = 4.0
"""


class Shown:
    def __init__(self):
        self.console = Console(file=io.StringIO(), width=200, force_terminal=False)
        self.display = Display(self.console, "run")

    def begin(self, config, folder, done):
        self.display.begin(config.steps, config.workers, folder)

    def step(self, record):
        self.display.step(record.line())

    def say(self, line):
        self.display.say(line)

    @property
    def text(self):
        return self.console.file.getvalue()


def run(folder, *overrides, timing_only=False):
    shown = Shown()
    summary = simulate(StartingPoint(parse(CONFIG, overrides), folder, timing_only=timing_only), shown)
    shown.display.report(summary.fields(), folder)
    return summary, shown.text


@pytest.mark.parametrize("timing_only", [False, True])
def test_virtual_seconds_are_called_so_and_stand_apart(tmp_path, timing_only):
    summary, text = run(tmp_path / "run", timing_only=timing_only)
    assert summary.clock == "virtual"
    assert summary.seconds == pytest.approx(80.0)  # 10 steps, 2 shards a worker, 4 s each
    assert summary.wall_seconds < 60.0
    assert summary.wait_for_all_seconds == pytest.approx(10 * 38.0)
    rows = {line.split("│")[1].strip(): line for line in text.splitlines() if line.startswith("│")}
    assert "80.0 s" in rows["steps"]
    assert "virtual" in rows["steps"]
    assert "real" in rows["simulated in"]
    assert "380.0 s" in rows["waiting for all"]
    assert "virtual" in rows["waiting for all"]
    assert "job" not in rows


def test_where_only_the_clock_runs_there_is_no_loss_to_call_infinite(tmp_path):
    _, text = run(tmp_path / "run", timing_only=True)
    assert "finite" not in text
    assert "loss" not in text


@pytest.mark.parametrize("timing_only", [False, True])
def test_a_default_timeout_that_decides_is_said(tmp_path, timing_only):
    slow = ("run.seconds_per_shard=20.0", "stragglers.seconds=300.0", "wait.count=4")
    summary, text = run(tmp_path / "default", *slow, timing_only=timing_only)
    assert summary.timed_out_steps == 10
    (warning,) = [line for line in summary.warnings if "timeout" in line]
    assert warning.startswith("step 0 ended with 3 of 4 replies at [wait] timeout = 60 s, the default")
    assert f"warning: {warning}" in text
    chosen, _ = run(tmp_path / "chosen", *slow, "wait.timeout=50.0", timing_only=timing_only)
    assert chosen.timed_out_steps == 10
    assert not [line for line in chosen.warnings if "timeout" in line]
