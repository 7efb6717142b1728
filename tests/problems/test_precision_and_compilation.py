"""autocast computes in bfloat16 and keeps float32 parameters; a compiled model is the model."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import gcdl
from gcdl.errors import ParameterError
from gcdl.problems import Classifier, TorchProblem

RNG = np.random.default_rng(0)
X, Y = RNG.standard_normal((61, 6)), RNG.integers(0, 3, 61)


def mlp():
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))


def gradient(problem, finish, step=1):
    shards = np.array([0, 2])
    coded = problem.gradient(problem.load(shards), shards, np.array([1.0, -0.5]))
    return finish(coded, problem.initial_parameters(), step)


def torch_problem(**more):
    return TorchProblem(mlp, cross_entropy, (X, Y), test=(X, Y), batch_size=4, **more).bind(5, 3)


def classifier(**more):
    return Classifier(5, 3, dataset="small", hidden=(6,), **more)


@pytest.mark.parametrize("make", [torch_problem, classifier])
def test_autocast_rounds_a_little_and_is_the_same_each_time(make, finish):
    exact, rounded = gradient(make(), finish), gradient(make(autocast="bfloat16"), finish)
    assert not np.array_equal(exact[0], rounded[0])
    np.testing.assert_allclose(rounded[0], exact[0], atol=0.02 * np.abs(exact[0]).max())
    assert rounded[0].tobytes() == gradient(make(autocast="bfloat16"), finish)[0].tobytes()
    start = make().initial_parameters()
    losses = [make(**how).evaluator().evaluate(start, train=False).test_loss for how in ({}, {"autocast": "bfloat16"})]
    assert losses[0] != losses[1]
    assert losses[1] == pytest.approx(losses[0], rel=0.02)


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_a_compiled_model_trains_as_the_plain_one_and_its_file_is_the_plain_ones(backend, tmp_path):
    def trained(name, wrap):
        torch.manual_seed(0)
        problem = gcdl.TorchProblem(wrap(mlp()), cross_entropy, (X, Y), test=(X, Y), batch_size=4)
        trainer = gcdl.Trainer(problem, workers=3, optimizer={"lr": 0.1}, out=tmp_path / name)
        trainer.run(5)
        return torch.load(tmp_path / name / "model.pt")

    plain = trained("plain", lambda model: model)
    compiled = trained("compiled", lambda model: torch.compile(model, backend=backend))
    mlp().load_state_dict(compiled)
    for name, value in plain.items():
        torch.testing.assert_close(compiled[name], value, rtol=1e-4, atol=1e-6)


def test_a_compiled_model_is_checked_like_a_plain_one():
    with pytest.raises(gcdl.ConfigError, match=r"layer '1' \(BatchNorm1d\)"):
        torch_problem_of(torch.compile(nn.Sequential(nn.Linear(6, 3), nn.BatchNorm1d(3)), backend="eager"))


def torch_problem_of(model):
    return TorchProblem(model, cross_entropy, (X, Y)).bind(5, 3).layout()


def test_float16_is_refused_with_what_to_take():
    with pytest.raises(ParameterError, match=r"autocast: 'float16': small gradients would become zero; .* take 'bfloat16'"):
        TorchProblem(nn.Linear, cross_entropy, None, autocast="float16")
