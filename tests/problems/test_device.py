"""Workers that compute on a device: as on the host, to the bit, on PyTorch's CPU device; nearly so on a GPU."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

import gcdl
from gcdl.compressors.to_device import to_device
from gcdl.config import Experiment, parse
from gcdl.errors import ConfigError, ParameterError
from gcdl.host.launcher_environment import Launch
from gcdl.problems import device
from gcdl.protocol.tasks import Task
from gcdl.training.build import make_workers

CONFIG = """
workers = 2
[problem]
kind = "classifier"
hidden = [16]
batch_size = 8
device = "{device}"
"""
CUSTOM = """
workers = 2
[problem]
kind = "custom"
factory = "tests.problems.test_device:own_problem"
device = "{device}"
"""


def own_problem(dropout: float = 0.0, chunk: int = 256) -> gcdl.TorchProblem:
    """A user's: a module of two types, a loss with a buffer, two inputs."""

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = torch.nn.Linear(6, 8), torch.nn.Linear(8, 3).double()
            self.drop = torch.nn.Dropout(dropout)
            self.register_buffer("offset", torch.tensor(0.5))

        def forward(self, x, y):
            return self.second(self.drop(torch.tanh(self.first(x + y + self.offset))).double())

    rng = np.random.default_rng(2)
    x, y = rng.standard_normal((2, 60, 6)).astype(np.float32)
    data = (x, y, rng.integers(3, size=60))
    loss = torch.nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 0.5]).double())
    return gcdl.TorchProblem(Model, loss, data, data, batch_size=9, chunk=chunk)


def other_problem(k: int, seed: int):
    return gcdl.problems.LinearRegression(k, seed, features=3)


def replies(name: str, *overrides: str, steps: int = 3, config: str = CONFIG) -> list[np.ndarray]:
    experiment = Experiment.of(parse(config.format(device=name), overrides), 2)
    crew = make_workers(experiment)
    model = experiment.problem.initial_parameters()
    tasks = [Task(step, np.array([step - 1] * 2), model) for step in range(steps)]
    return [worker.finish(task).payload.copy() for task in tasks for worker in crew]


@pytest.fixture
def elsewhere(monkeypatch):
    """The CPU, but by the way that leads to a GPU."""

    def placed(flat, place):
        from gcdl.problems.device_module import DeviceModule

        return DeviceModule(flat, torch.device("cpu"))

    def vectors(gradient, codec, d):
        return torch.zeros(d), to_device(codec, gradient.device)

    monkeypatch.setattr("gcdl.problems.classifier.placed", placed)
    monkeypatch.setattr("gcdl.problems.torch_problem.placed", placed)
    monkeypatch.setattr("gcdl.training.build.vector_and_codec", vectors)
    monkeypatch.setattr("gcdl.training.build.on_host", lambda gradient: not hasattr(gradient, "device"))


CASES = [
    (CONFIG, "compressor.kind=sign"),
    (CONFIG, "compressor.kind=stochastic_sign"),
    (CONFIG, "compressor.kind=scaled_sign", "compressor.error_feedback=true"),
    (CONFIG, "compressor.kind=stochastic_sign", "compressor.dither=correlated+subtractive", "compressor.error_feedback=true"),
    (CONFIG, "compressor.kind=identity"),
    (CONFIG, "compressor.kind=scaled_sign", "problem.batch_size=500"),  # several passes add up
    (CUSTOM, "compressor.kind=identity"),
    (CUSTOM, "compressor.kind=sign", "problem.options={chunk=4}"),
    (CUSTOM, "compressor.kind=scaled_sign", "problem.options={dropout=0.5}"),
]
EACH = pytest.mark.parametrize("case", CASES, ids=lambda case: " ".join(("custom" if case[0] is CUSTOM else "own", *case[1:])))
ON_A_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU: not run on one")


@EACH
def test_a_worker_on_a_device_sends_what_one_on_the_host_sends(case, request):
    config, *overrides = case
    here = replies("cpu", *overrides, config=config)
    request.getfixturevalue("elsewhere")
    for ours, theirs in zip(here, replies("cpu", *overrides, config=config), strict=True):
        np.testing.assert_array_equal(theirs, ours)


@ON_A_GPU
@EACH
def test_a_worker_on_a_gpu_sends_nearly_what_one_on_the_host_sends(case):
    config, *overrides = case
    if any("dropout" in word for word in overrides):
        pytest.skip("a GPU draws other numbers")
    here, there = replies("cpu", *overrides, config=config), replies("cuda", *overrides, config=config)
    for ours, theirs in zip(here, there, strict=True):
        if "identity" in overrides[0]:
            np.testing.assert_allclose(theirs.view(np.float32), ours.view(np.float32), rtol=1e-3, atol=1e-6)
        else:  # gradients are rounded otherwise there: a bit may turn where one is nearly zero
            size = ours.size // 2
            assert np.unpackbits(ours[:size] ^ theirs[:size]).mean() < 0.01


@pytest.mark.parametrize("name", ["cpu", pytest.param("cuda", marks=ON_A_GPU)])
def test_a_module_trains_where_it_is_put_and_is_saved_for_any_machine(name, tmp_path, request):
    if name == "cpu":
        request.getfixturevalue("elsewhere")
    problem = own_problem(dropout=0.5)
    trainer = gcdl.Trainer(
        replace(problem, device=name), workers=2, optimizer={"lr": 0.5}, run={"eval_every": 10}, out=tmp_path / "run"
    )
    records = list(trainer.fit(30))
    losses = [record.train_loss for record in records]
    assert losses[-1] < losses[0]
    assert records[-1].test_accuracy is not None
    state = torch.load(tmp_path / "run" / "model.pt", weights_only=True)
    assert all(value.device.type == "cpu" for value in state.values())
    assert not torch.equal(state["second.weight"], problem.model().state_dict()["second.weight"])
    model = trainer.model
    again = gcdl.Trainer(replace(problem, model=model, device="cpu"), workers=2, optimizer={"lr": 0.5}, out=tmp_path / "again")
    first = next(iter(again.fit(1)))
    assert first.train_loss < losses[0]  # it has been on a device, and goes on from there


def test_a_problem_of_the_users_own_class_places_itself():
    with pytest.raises(ConfigError, match=r"device: tests\.problems\.test_device:other_problem returns a LinearRegression"):
        replies("cpu", 'problem.factory="tests.problems.test_device:other_problem"', config=CUSTOM)
    with pytest.raises(ParameterError, match="device: 'gpu'; there are: auto, cpu, cuda"):
        replace(own_problem(), device="gpu")


def test_the_device_is_chosen_and_shared(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(Launch, "read", classmethod(lambda cls: Launch("Open MPI 5", 5, 9, 9, local_rank=5)))
    assert device.choose("cpu") == torch.device("cpu")
    assert device.choose("auto") == device.choose("cuda") == torch.device("cuda", 1)


def test_a_gpu_that_is_not_there_is_said():
    if torch.cuda.is_available():
        pytest.skip("there is one")
    assert device.choose("auto") == torch.device("cpu")
    with pytest.raises(ParameterError, match=r"problem\.device: cuda, but PyTorch sees no GPU"):
        device.choose("cuda")
