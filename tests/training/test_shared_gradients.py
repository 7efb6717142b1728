"""A simulation computes the coded gradient of equal rows once a step, and nobody can tell from the bits."""

import pytest

from gcdl.config import Experiment, parse
from gcdl.problems.linear_model import _CodedGradient
from gcdl.training import build
from gcdl.training.build import make_worker, make_workers, row_of

CONFIG = """
workers = 6
[problem]
kind = "linear_regression"
features = 9
samples = 8
batch_size = 3
[code]
kind = "fractional_repetition"
stragglers = 2
[compressor]
kind = "stochastic_sign"
error_feedback = true
"""


@pytest.mark.parametrize(("overrides", "passes"), [((), 2), (("code.kind=cyclic_repetition",), 6)], ids=["equal", "unlike"])
def test_equal_rows_are_computed_once_a_step_and_every_reply_is_the_same(monkeypatch, overrides, passes):
    computed = []
    compute = _CodedGradient.compute
    monkeypatch.setattr(_CodedGradient, "compute", lambda self, *given: computed.append(given[1]) or compute(self, *given))
    experiment = Experiment.of(parse(CONFIG, overrides), 6)
    samples = experiment.problem.load(range(6))
    together = make_workers(experiment)
    alone = [make_worker(experiment, i, row_of(experiment, i), samples) for i in range(6)]
    model = experiment.problem.initial_parameters()
    for step in range(4):
        model = model + 0.1
        task = build.Task(step, [step - 1] * 6, model, None, None)
        computed.clear()
        replies = [worker.finish(task) for worker in together]
        assert computed == [step] * passes
        for reply, worker in zip(replies, alone, strict=True):
            expected = worker.finish(task)
            assert reply.payload.tobytes() == expected.payload.tobytes()
            assert reply.loss == expected.loss
