"""``run.evaluate = "workers"``: whoever evaluates a piece of the test set, the figures are the master's, to the bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import gcdl
from gcdl.config import Experiment, parse
from gcdl.errors import ConfigError, MessageError
from gcdl.problems import TorchProblem
from gcdl.protocol.evaluation_share import EvaluationShare
from gcdl.training.worker_evaluations import WorkerEvaluations, make_evaluator, worker_evaluations

N = 3
CLASSIFIER = """
workers = 3
[problem]
kind = "classifier"
dataset = "digits"
hidden = [8]
[run]
evaluate = "workers"
eval_every = 5
"""
RNG = np.random.default_rng(0)
X, Y = RNG.standard_normal((70, 4)), RNG.integers(0, 3, 70)


def torch_evaluator():
    problem = TorchProblem(
        lambda: torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Dropout(0.5)),
        torch.nn.functional.cross_entropy,
        (X, Y),
        (X, Y),
        chunk=9,
        metrics={"accuracy": lambda o, t: (o.argmax(1) == t).float().mean(), "spread": lambda o, t: o.std()},
    )
    bound = problem.bind(2, 0)
    return bound.evaluator(), bound.initial_parameters()


def classifier_evaluator():
    problem = Experiment.of(parse(CLASSIFIER), N).problem
    return problem.evaluator(), problem.initial_parameters()


def body(sums):
    return np.array(list(sums)).reshape(-1).view(np.uint8)


@pytest.mark.parametrize("make", [torch_evaluator, classifier_evaluator])
@pytest.mark.parametrize("sent", [range(N), [1], []])
def test_the_figures_are_those_of_the_master_alone(make, sent, monkeypatch):
    evaluator, parameters = make()
    monkeypatch.setattr("gcdl.problems.classifier._EVALUATION_BATCH", 50)
    parameters += RNG.standard_normal(parameters.size).astype(np.float32)
    together = WorkerEvaluations(evaluator, N)
    for worker in sent:
        share = EvaluationShare(evaluator, worker, N, 5)
        assert share.due(10)
        assert not share.due(0)
        assert not share.due(12)
        together.take(worker, 10, body(share.sums(parameters)))
    assert together.finish(10, parameters) == evaluator.evaluate(parameters, train=False)


def test_what_comes_for_another_model_or_too_late_is_not_used():
    evaluator, parameters = torch_evaluator()
    other = parameters + np.float32(1.0)
    together = WorkerEvaluations(evaluator, N)
    share = EvaluationShare(evaluator, 0, N, 5)
    together.take(0, 10, body(share.sums(other)))
    together.take(0, 5, body(share.sums(parameters)))
    assert together.finish(5, parameters) == evaluator.evaluate(parameters, train=False)
    assert together.finish(10, other) == evaluator.evaluate(other, train=False)
    together.take(0, 10, body(share.sums(parameters)))
    assert not together._found


def test_a_message_of_another_size_is_refused():
    evaluator, _ = torch_evaluator()
    together = WorkerEvaluations(evaluator, N)
    assert together.most_bytes == 8 * 3 * 3
    with pytest.raises(MessageError, match="an evaluation of 8 bytes where 72 were expected"):
        together.take(0, 10, np.zeros(8, dtype=np.uint8))


def test_without_a_test_set_nobody_has_anything_to_do():
    problem = TorchProblem(lambda: torch.nn.Linear(4, 3), torch.nn.functional.cross_entropy, (X, Y))
    bound = problem.bind(2, 0)
    together = WorkerEvaluations(bound.evaluator(), N)
    assert not EvaluationShare(bound.evaluator(), 0, N, 5).due(5)
    assert together.finish(5, bound.initial_parameters()).test_loss is None


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            CLASSIFIER + '[downlink]\ndtype = "bfloat16"\n',
            "rounded model",
        ),
        (
            'workers = 3\n[problem]\nkind = "linear_regression"\n[run]\nevaluate = "workers"\n',
            "run.evaluate: 'workers': a problem of kind 'linear_regression' can't cut its test set; take 'meanwhile'",
        ),
    ],
)
def test_what_workers_cannot_evaluate_is_refused(text, says):
    experiment = Experiment.of(parse(text), 3)
    with pytest.raises(ConfigError, match=says):
        make_evaluator(experiment)


def test_a_simulated_run_has_the_same_figures(tmp_path):
    def losses(evaluate):
        trainer = gcdl.Trainer.of(parse(CLASSIFIER, [f"run.evaluate={evaluate}"]), out=tmp_path / evaluate)
        return [record.test_loss for record in trainer.fit(12)]

    assert losses("workers") == losses("between")
    experiment = Experiment.of(parse(CLASSIFIER, ["run.evaluate=between"]), N)
    assert worker_evaluations(experiment, make_evaluator(experiment)) is None
