"""The benchmarks still fit the code they measure: each imports, and the one with a loop of runs runs."""

import importlib.util
import math
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parent.parent / "benchmarks"
SCRIPTS = sorted(path.name for path in FOLDER.glob("*.py"))


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_benchmark_says_how_it_is_used(script):
    done = subprocess.run(
        [sys.executable, str(FOLDER / script), "--help"], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "usage" in done.stdout
    assert script in (FOLDER / "README.md").read_text()


def test_the_accuracy_benchmark_runs_and_keeps_what_it_ran(tmp_path):
    spec = importlib.util.spec_from_file_location("accuracy", FOLDER / "accuracy.py")
    accuracy = importlib.util.module_from_spec(spec)
    sys.modules["accuracy"] = accuracy
    try:
        spec.loader.exec_module(accuracy)
        text = accuracy.LINEAR.format(p=0.2).replace("workers = 100\nsteps = 300", "workers = 5\nsteps = 30")
        text = text.replace("features = 100", "features = 10").replace("replication = 5", "replication = 2")
        rate, curves = accuracy.tuned(text, tmp_path, 11, "stochastic rms (correlated+subtractive)")
        assert len(curves) == accuracy.SEEDS
        assert all(curve.steps == [10, 20, 30] and 0.0 < curve.final < 10.0 for curve in curves)
        last = sum(curve.loss[-1] for curve in curves) / len(curves)
        assert accuracy.bytes_to(last, curves) <= curves[0].bytes_up[-1]
        assert math.isnan(accuracy.bytes_to(last / 1e3, curves))
        before = sorted(path.name for path in tmp_path.iterdir())
        again = accuracy.tuned(text, tmp_path, rate, "stochastic rms (correlated+subtractive)")[1]
        assert [curve.loss for curve in again] == [curve.loss for curve in curves]
        assert sorted(path.name for path in tmp_path.iterdir()) == before
    finally:
        del sys.modules["accuracy"]
