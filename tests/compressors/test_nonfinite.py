"""A NaN or an infinity has no sign to send: every compressor's worker raises, naming itself, the step and the tensor."""

import numpy as np
import pytest

from gcdl.errors import NonFiniteGradient
from gcdl.protocol.tasks import Task
from gcdl.protocol.worker import Worker
from gcdl.stragglers import NoDelays

SIZES = (5, 70, 6)


class Gradient:
    def __init__(self, values):
        self.values = values

    def compute(self, model, step, out):
        yield 1.0
        out[:] = self.values
        return 0.0


def worker_with(compressor, values, plain):
    layout = plain.layout_of([(size,) for size in SIZES])
    codec = compressor.codec(layout)
    return Worker(3, 4, gradient=Gradient(values), codec=codec, layout=layout, stragglers=NoDelays(), seed=0)


def task(step, accepted=-1):
    return Task(step, np.full(4, accepted), np.zeros(sum(SIZES), dtype=np.float32))


@pytest.mark.parametrize("bad", [[np.nan], [np.inf], [-np.inf], [np.inf, -np.inf]], ids=str)
def test_it_is_an_error_that_names_worker_step_and_tensor(compressor, bad, plain):
    good = plain.normal(sum(SIZES))
    worker = worker_with(compressor, good, plain)
    worker.finish(task(0))
    for step, (place, tensor) in enumerate([(0, "tensor0"), (5, "tensor1"), (74, "tensor1"), (79, "tensor2")], start=1):
        values = good.copy()
        values[place : place + len(bad)] = bad
        worker._gradient.values = values
        with pytest.raises(NonFiniteGradient, match=rf"^worker 3, step {step}: the gradient of '{tensor}' has a NaN"):
            worker.finish(task(step, accepted=0))
    # What the compressor keeps is what it kept before.
    worker._gradient.values = good
    untouched = worker_with(compressor, good, plain)
    untouched.finish(task(0))
    assert worker.finish(task(9, accepted=0)).payload.tobytes() == untouched.finish(task(9, accepted=0)).payload.tobytes()


def test_a_sum_that_overflows_is_no_gradient_that_did(compressor, plain):
    values = np.full(sum(SIZES), 3e37, dtype=np.float32)
    worker_with(compressor, values, plain).finish(task(0))
