"""Batches that processes draw ahead are those that the worker would draw itself, to the bit."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import gcdl
from gcdl.errors import DataError, ParameterError
from gcdl.problems import TorchProblem

RNG = np.random.default_rng(0)
X, Y = RNG.standard_normal((61, 6)), RNG.integers(0, 3, 61)


class Noisy(torch.utils.data.Dataset):
    """A random transform; it can't be pickled."""

    def __init__(self):
        self.unpicklable = lambda: None

    def __len__(self):
        return 61

    def __getitem__(self, i):
        return torch.from_numpy(X[i]).float() + 0.1 * torch.randn(6), int(Y[i])


class Failing(Noisy):
    def __getitem__(self, i):
        raise OSError(f"sample {i} is on a broken disk")


class Dying(Noisy):
    def __getitem__(self, i):
        os.kill(os.getpid(), signal.SIGKILL)


def mlp():
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))


def bind(num_workers, data, **more):
    return TorchProblem(mlp, cross_entropy, data, batch_size=4, num_workers=num_workers, **more).bind(5, 3)


def gradient(problem):
    shards = np.array([0, 2])
    return problem.gradient(problem.load(shards), shards, np.array([1.0, -0.5]))


@pytest.mark.parametrize("data", [Noisy(), (X, Y)], ids=["data set", "arrays"])
@pytest.mark.parametrize("chunk", [256, 3])
def test_batches_are_the_same_also_when_steps_are_skipped(data, chunk, finish):
    plain, ahead = (bind(number, data, chunk=chunk) for number in (0, 2))
    one, other = gradient(plain), gradient(ahead)
    start = plain.initial_parameters()
    for step in (0, 1, 2, 7, 8, 3):
        assert finish(one, start, step)[0].tobytes() == finish(other, start, step)[0].tobytes()


def test_the_next_steps_batches_are_drawn_meanwhile_and_no_others_are_kept(finish):
    problem = bind(2, Noisy())
    loaded, start = gradient(problem), problem.initial_parameters()
    for step in (0, 1, 6):
        finish(loaded, start, step)
        assert set(loaded.loader._asked) == {(0, step + 1, 0), (2, step + 1, 0)}
        for future in loaded.loader._asked.values():
            future.result(timeout=30)  # nobody asks for it in between


def test_shards_that_are_loaded_later_are_drawn_from_too(finish):
    problem = bind(1, Noisy())
    start = problem.initial_parameters()
    finish(gradient(problem), start, 0)
    later = np.array([4])
    found = finish(problem.gradient(problem.load(later), later, np.ones(1)), start, 1)[0]
    plain = bind(0, Noisy())
    expected = finish(plain.gradient(plain.load(later), later, np.ones(1)), start, 1)[0]
    assert found.tobytes() == expected.tobytes()


def test_an_error_of_the_data_set_is_its_own(finish):
    problem = bind(1, Failing())
    with pytest.raises(OSError, match="is on a broken disk"):
        finish(gradient(problem), problem.initial_parameters(), 0)


def test_a_process_that_is_killed_is_said(finish):
    problem = bind(1, Dying())
    with pytest.raises(DataError, match=r"num_workers: a process that draws batches has ended.*num_workers = 0"):
        finish(gradient(problem), problem.initial_parameters(), 0)


def test_a_number_is_checked():
    with pytest.raises(ParameterError, match="num_workers: -1; at least 0"):
        bind(-1, (X, Y))


def test_a_run_is_the_same(tmp_path):
    def trained(number):
        problem = gcdl.TorchProblem(mlp, cross_entropy, Noisy(), batch_size=4, num_workers=number)
        return gcdl.Trainer(problem, workers=3, out=tmp_path / str(number)).run(5).model_sha256

    assert trained(0) == trained(2)


SCRIPT = """
import os, sys, time
sys.path.insert(0, {folder!r})
import numpy as np
from test_batch_loader import Noisy, bind, gradient
problem = bind(2, Noisy())
for _ in gradient(problem).compute(problem.initial_parameters(), 0, problem.initial_parameters()):
    pass
print(*problem._processes._executor._processes, flush=True)
{then}
"""


@pytest.mark.parametrize("then", ["", "os.kill(os.getpid(), 9)"], ids=["ended", "killed"])
def test_no_process_is_left_behind(then):
    code = SCRIPT.format(folder=str(Path(__file__).parent), then=then)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stderr == ""
    processes = [int(pid) for pid in done.stdout.split()]
    assert len(processes) == 2
    end = time.monotonic() + 10.0
    while any(Path(f"/proc/{pid}/stat").exists() for pid in processes) and time.monotonic() < end:
        time.sleep(0.05)
    assert not any(Path(f"/proc/{pid}/stat").exists() for pid in processes)
