"""Workers that compute on a device: as on the host, to the bit, on PyTorch's CPU device; nearly so on a GPU."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gcdl.config import Experiment, parse
from gcdl.crew import make_crew
from gcdl.errors import ParameterError
from gcdl.launched import Launch
from gcdl.messages import Task
from gcdl.problems import device

CONFIG = """
workers = 2
[problem]
kind = "classifier"
hidden = [16]
batch_size = 8
device = "{device}"
"""


def replies(name: str, *overrides: str, steps: int = 2) -> list[np.ndarray]:
    experiment = Experiment.of(parse(CONFIG.format(device=name), overrides), 2)
    crew = make_crew(experiment)
    model = experiment.problem.initial_parameters()
    tasks = [Task(step, np.array([step - 1] * 2), model) for step in range(steps)]
    return [worker.finish(task).payload.copy() for task in tasks for worker in crew]


@pytest.fixture
def elsewhere(monkeypatch):
    """The CPU, but by the way that leads to a GPU."""

    class Elsewhere:
        type = "elsewhere"

    def placed(flat, place):
        from gcdl.problems.on_device import DeviceModule

        return DeviceModule(flat, torch.device("cpu"))

    vector_for = device.vector_for

    def vectors(gradient, codec):
        if hasattr(codec, "on_device"):
            return torch.zeros(codec.layout.size), codec.on_device(torch.device("cpu"))
        return vector_for(gradient, codec)

    monkeypatch.setattr("gcdl.problems.classifier.placed", placed)
    monkeypatch.setattr("gcdl.crew.vector_for", vectors)


CASES = [
    ("compressor.kind=sign",),
    ("compressor.kind=stochastic_sign",),
    ("compressor.kind=scaled_sign", "compressor.error_feedback=true"),  # compressed on the host
    ("compressor.kind=identity",),
    ("compressor.kind=scaled_sign", "problem.batch_size=500"),  # several passes add up
]


@pytest.mark.parametrize("overrides", CASES, ids=lambda words: " ".join(words))
def test_a_worker_on_a_device_sends_what_one_on_the_host_sends(overrides, request):
    here = replies("cpu", *overrides)
    request.getfixturevalue("elsewhere")
    for ours, theirs in zip(here, replies("cpu", *overrides), strict=True):
        np.testing.assert_array_equal(theirs, ours)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU: not run on one")
@pytest.mark.parametrize("overrides", CASES, ids=lambda words: " ".join(words))
def test_a_worker_on_a_gpu_sends_nearly_what_one_on_the_host_sends(overrides):
    for ours, theirs in zip(replies("cpu", *overrides), replies("cuda", *overrides), strict=True):
        if "identity" in overrides[0]:
            np.testing.assert_allclose(theirs.view(np.float32), ours.view(np.float32), rtol=1e-3, atol=1e-6)
        else:  # gradients are rounded otherwise there: a bit may turn where one is nearly zero
            size = ours.size // 2
            assert np.unpackbits(ours[:size] ^ theirs[:size]).mean() < 0.01


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
