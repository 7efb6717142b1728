"""H local steps: the difference that torch's own loop makes, keyed by step and local step, weighted by the code."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import gcdl
from gcdl.analysis.replay import replay
from gcdl.config import Experiment, parse
from gcdl.errors import ConfigError, ParameterError
from gcdl.problems import TorchProblem
from gcdl.problems.minibatches import minibatch
from gcdl.training.build import make_pace

RNG = np.random.default_rng(0)
X, Y = RNG.standard_normal((61, 6)), RNG.integers(0, 3, 61)
OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.5),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1),
}
TABLES = {
    "linear_regression": 'kind = "linear_regression"\nsamples = 20\nbatch_size = 6\nfeatures = 7',
    "logistic_regression": 'kind = "logistic_regression"\nsamples = 20\nbatch_size = 6\nfeatures = 7',
    "classifier": 'kind = "classifier"\nmodel = "mlp"\nhidden = [6]\nbatch_size = 16',
}


def mlp():
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))


def dropping():
    return nn.Sequential(nn.Linear(6, 8), nn.Dropout(0.5), nn.Linear(8, 3))


def bind(local_steps, make=OPTIMIZERS["sgd"], model=mlp, **more):
    problem = TorchProblem(model, cross_entropy, (X, Y), batch_size=4, local_steps=local_steps, local_optimizer=make, **more)
    return problem.bind(5, 3)


def of_table(kind, extra=""):
    return Experiment.of(parse(f"[problem]\n{TABLES[kind]}\n{extra}"), 4).problem


def coded(problem, shards, weights):
    shards = np.array(shards)
    return problem.gradient(problem.load(shards), shards, np.array(weights, dtype=float))


def point(problem):
    start = problem.initial_parameters()
    return start + np.random.default_rng(1).standard_normal(start.size).astype(np.float32) / 10


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
@pytest.mark.parametrize("steps", [2, 7])
def test_a_difference_is_that_of_torchs_own_loop(make, steps, finish):
    problem = bind(steps, make)
    start = point(problem)
    shards, weights = [0, 2, 3], [1.25, 0.75, -0.1]
    found, loss, yielded = finish(coded(problem, shards, weights), start, 4)
    expected, expected_loss = 0.0, 0.0
    for j, weight in zip(shards, weights, strict=True):
        module = copy.deepcopy(problem.module.module)
        for parameter in module.parameters():
            parameter.data = parameter.data.clone()
        nn.utils.vector_to_parameters(torch.from_numpy(start.copy()), module.parameters())
        optimizer = make(module.parameters())
        size = len(problem.partition[j])
        for h in range(steps):
            rows = problem.partition[j][minibatch(size, 4, 3, j, 4 * steps + h)]
            value = cross_entropy(module(torch.from_numpy(X[rows]).float()), torch.from_numpy(Y[rows]))
            if h == 0:
                expected_loss += weight * size / 61 * value.item()
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
        led = nn.utils.parameters_to_vector(module.parameters()).detach().numpy()
        expected = expected + weight * size / 61 * (start - led)
    np.testing.assert_allclose(found, expected, atol=2e-5)
    assert loss == pytest.approx(expected_loss, rel=1e-4)
    assert len(yielded) == steps * len(shards)  # a worker can give up between local steps
    assert sum(yielded) == pytest.approx(steps * len(shards))


@pytest.mark.parametrize("kind", TABLES)
def test_a_problem_of_a_config_takes_sgds_own_steps(kind, finish):
    """Plain SGD's difference is lr times the sum of the gradients on the way."""
    single = of_table(kind)
    problem = of_table(kind, 'local_steps = 3\nlocal_optimizer = {kind = "sgd", lr = 0.05}')
    start = point(problem)
    found, loss, _ = finish(coded(problem, [1], [1.5]), start, 2)
    here, expected, losses = start.copy(), 0.0, []
    for h in range(3):
        gradient, value, _ = finish(coded(single, [1], [1.0]), here, 2 * 3 + h)
        mean = gradient * (1437 / len(single.partition[1]) if kind == "classifier" else single.k)
        expected = expected + 0.05 * gradient
        here = here - np.float32(0.05) * mean
        losses.append(value)
    np.testing.assert_allclose(found, 1.5 * expected, rtol=1e-3, atol=1e-6)
    assert loss == pytest.approx(1.5 * losses[0], rel=1e-5)


@pytest.mark.parametrize("model", [mlp, dropping])
@pytest.mark.parametrize("make", [OPTIMIZERS["sgd"], OPTIMIZERS["adam"]], ids=["sgd", "adam"])
def test_holders_agree_to_the_bit_whatever_they_did_before(model, make, finish):
    one, other = bind(4, make, model), bind(4, make, model)
    start = point(one)
    first, second = coded(one, [2], [1.0]), coded(other, [1, 2], [0.0, 1.0])
    for step in range(3):
        finish(first, start, step)
    a, b = finish(first, start, 9)[0], finish(second, start.copy(), 9)[0]
    assert a.tobytes() == b.tobytes()
    assert not np.array_equal(a, finish(first, start, 10)[0])


def test_the_model_that_a_worker_was_sent_is_left_alone(finish):
    problem = bind(3)
    start = point(problem)
    start.setflags(write=False)
    finish(coded(problem, [0, 1], [1.0, 1.0]), start, 0)


@pytest.mark.parametrize("kind", TABLES)
def test_one_local_step_is_the_gradient_to_the_bit(kind, finish):
    plain, one = of_table(kind), of_table(kind, 'local_steps = 1\nlocal_optimizer = {kind = "adam", lr = 0.3}')
    start = point(plain)
    assert (
        finish(coded(plain, [0, 1], [1.0, 2.0]), start, 3)[0].tobytes()
        == finish(coded(one, [0, 1], [1.0, 2.0]), start, 3)[0].tobytes()
    )


RUN = """
seed = 1
workers = 4
steps = 6
[problem]
{table}
local_steps = {steps}
local_optimizer = {{kind = "adamw", lr = 0.01}}
[code]
kind = "fractional_repetition"
stragglers = 1
[compressor]
kind = "stochastic_sign"
[stragglers]
kind = "exactly"
count = 1
[optimizer]
lr = 0.7
momentum = 0.9
nesterov = true
"""


@pytest.mark.parametrize("kind", TABLES)
def test_a_run_is_replayed_to_the_bit_and_says_its_steps(kind, tmp_path):
    config = parse(RUN.format(table=TABLES[kind], steps=7))
    trainer = gcdl.Trainer.of(config, out=tmp_path / "run")
    records = list(trainer.fit())
    assert records[-1].train_loss < records[0].train_loss
    batch = 16 if kind == "classifier" else 6
    assert [record.samples for record in records] == [4 * 7 * batch] * 6
    assert "identical" in replay(tmp_path / "run")
    assert "local_optimizer" in (tmp_path / "run" / "config.toml").read_text()


def test_the_virtual_clock_counts_local_steps():
    experiments = [Experiment.of(parse(RUN.format(table=TABLES["linear_regression"], steps=h)), 4) for h in (1, 7)]
    one, seven = [make_pace(experiment, experiment.problem.layout()).loads for experiment in experiments]
    assert seven.tolist() == (7 * one).tolist()


def test_a_script_states_them_as_a_config_does(tmp_path):
    def trainer(name, **local):
        problem = TorchProblem(mlp, cross_entropy, (X, Y), batch_size=4, **local)
        return gcdl.Trainer(problem, workers=3, optimizer={"lr": 1.0}, out=tmp_path / name)

    table = trainer("table", local_steps=5, local_optimizer={"kind": "adam", "lr": 0.02})
    assert table.predict(X).shape == (61, 3)
    made = trainer("made", local_steps=5, local_optimizer=lambda p: torch.optim.Adam(p, lr=0.02, fused=True))
    assert table.run(4).model_sha256 == made.run(4).model_sha256
    one, plain = trainer("one", local_steps=1, local_optimizer="adam"), trainer("plain")
    assert one.run(4).model_sha256 == plain.run(4).model_sha256


@pytest.mark.parametrize(
    ("extra", "says"),
    [
        ("local_steps = 0", "problem.local_steps: 0"),
        ('local_optimizer = {kind = "adm"}', r"problem.local_optimizer.kind: unknown kind 'adm'; did you mean 'adam'"),
        ("local_optimizer = {lr = -1.0}", r"problem.local_optimizer.lr: -1.0"),
        ("local_optimizer = {rate = 1.0}", r"problem.local_optimizer.rate: unknown key"),
        ("local_optimizer = {nesterov = true}", "nesterov: needs momentum"),
    ],
)
def test_a_wrong_key_is_named(extra, says):
    with pytest.raises(ConfigError, match=says):
        of_table("classifier", extra)


def test_what_a_script_states_wrongly_is_named():
    with pytest.raises(ParameterError, match="local_steps: 0; at least 1"):
        bind(0)
    with pytest.raises(ParameterError, match="local_optimizer: a int; take a table"):
        bind(2, 3)
