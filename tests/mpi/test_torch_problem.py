"""Problems of one's own over MPI: samples that are dicts and drawn ahead; a model that writes its parameters."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import gcdl
from gcdl.launch.mpirun import mpirun

ROOT = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
ENVIRONMENT = {**os.environ, **ROOT, "PYTHONPATH": str(Path(gcdl.__file__).parents[1])}

pytestmark = [pytest.mark.mpi, pytest.mark.slow]


def run(tmp_path, ranks, *words):
    # Without fault tolerance: then mpirun's exit code is that of the ranks.
    launcher = [mpirun(ranks)[0], "--map-by", ":OVERSUBSCRIBE", "--bind-to", "none", "-n", str(ranks)]
    return subprocess.run(
        [*launcher, sys.executable, *words], cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, timeout=120.0
    )


def test_dicts_that_are_drawn_ahead_are_trained_on_and_no_process_is_left(tmp_path):
    words = ["-m", "gcdl.examples.topics", "--out", str(tmp_path / "run"), "--num-workers", "1", "--target", "1.0"]
    done = run(tmp_path, 3, *words, "--steps", "10")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "step 10: loss" in done.stdout
    done = run(tmp_path, 3, *words, "--steps", "12", "--resume")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "step 12: loss" in done.stdout
    assert "step 10: loss" not in done.stdout
    left = [path for path in Path("/proc").glob("[0-9]*/cmdline") if str(tmp_path).encode() in _read(path)]
    assert not left


def _read(path):
    try:
        return path.read_bytes()
    except OSError:
        return b""


SCRIPT = """
import sys, torch, numpy as np, gcdl
from torch import nn

class Writing(nn.Module):
    def __init__(self):
        super().__init__()
        self.head, self.passes = nn.Linear(6, 3), 0

    def forward(self, x):
        self.passes += 1
        if self.passes > int(sys.argv[1]):
            with torch.no_grad():
                self.head.weight.mul_(0.5)
        return self.head(x)

rng = np.random.default_rng(0)
data = rng.standard_normal((61, 6)), rng.integers(0, 3, 61)
gcdl.Trainer(gcdl.TorchProblem(Writing, nn.functional.cross_entropy, data, batch_size=4), out="run").run(10)
"""


def test_a_model_that_writes_its_parameters_is_refused_by_the_layers_name(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    done = run(tmp_path, 3, "script.py", "0")
    assert done.returncode == 2, done.stdout + done.stderr
    assert "layer 'head' (Linear) writes its parameter 'weight'" in done.stderr
    assert "Traceback" not in done.stderr


def test_one_that_begins_to_later_never_trains_on_and_its_line_is_named(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    done = run(tmp_path, 3, "script.py", "3")
    assert done.returncode != 0
    assert re.search(r'script\.py", line \d+ in forward', done.stderr), done.stderr
    assert not (tmp_path / "run" / "summary.json").exists()
