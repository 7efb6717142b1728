"""The master's laws, on the simulated transport and on a scripted one."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest

from gcdl.codes import fractional_repetition, majority, mmse
from gcdl.compressors import Identity
from gcdl.config import Experiment, parse
from gcdl.errors import TooManyLost, WorkerLost
from gcdl.optimizers import Sgd
from gcdl.protocol.ledger import Traffic
from gcdl.protocol.master import Master
from gcdl.protocol.model_slices import one_slice
from gcdl.protocol.tasks import Replies, Reply
from gcdl.protocol.wait_rules import Deadline, Decodable, FirstReplies
from gcdl.protocol.wire import HEADER_BYTES
from gcdl.protocol.worker import Worker
from gcdl.training.build import make_pace
from gcdl.transport.simulated.virtual_clock import SimulatedTransport
from gcdl.types import Layout, aligned_buffer, aligned_vector

D = 5


def build(text: str, n: int) -> tuple[Master, SimulatedTransport, Experiment]:
    experiment = Experiment.of(parse(text), n).check()
    problem, layout = experiment.problem, experiment.problem.layout()
    samples = problem.load(np.arange(problem.k))
    workers = []
    for i in range(n):
        shards = experiment.code.shards(i)
        gradient = problem.gradient(samples, shards, experiment.code.B[i, shards])
        codec = experiment.compressor.codec(layout)
        workers.append(Worker(i, n, gradient=gradient, codec=codec, layout=layout, stragglers=experiment.stragglers, seed=0))
    transport = SimulatedTransport(make_pace(experiment, layout), workers)
    master = Master(
        transport,
        code=experiment.code,
        slices=one_slice(
            code=experiment.code,
            codec=experiment.compressor.codec(layout),
            optimizer=experiment.optimizer.build(problem.initial_parameters()),
            seed=0,
        ),
        wait=experiment.wait,
    )
    return master, transport, experiment


CODED = """
[problem]
kind = "linear_regression"
features = 11
samples = 13
[code]
kind = "{kind}"
stragglers = {s}
[stragglers]
kind = "fixed"
workers = {late}
seconds = 9.0
[optimizer]
lr = 0.1
momentum = 0.5
"""


@pytest.mark.parametrize(("kind", "n", "s"), [("fractional_repetition", 6, 2), ("cyclic_repetition", 5, 2)])
def test_identity_and_an_exact_code_are_gradient_descent_whoever_is_late(kind, n, s):
    _, _, experiment = build(CODED.format(kind=kind, s=s, late=[]), n)
    problem = experiment.problem
    w, v = np.zeros(11), np.zeros(11)
    X = np.concatenate([problem.shard(j).X for j in range(n)]).astype(np.float64)
    y = np.concatenate([problem.shard(j).y for j in range(n)]).astype(np.float64)
    losses = []
    for _ in range(15):
        losses.append(0.5 * np.mean((X @ w - y) ** 2))
        v = 0.5 * v + X.T @ (X @ w - y) / len(y)
        w = w - 0.1 * v
    for late in itertools.combinations(range(n), s):
        master, transport, _ = build(CODED.format(kind=kind, s=s, late=list(late)), n)
        records = list(master.run(15))
        assert all(record.replies == [i for i in range(n) if i not in late] for record in records)
        np.testing.assert_allclose(master.slices.parameters, w, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose([record.train_loss for record in records], losses, rtol=1e-4)
        # n - s workers, s + 1 shards each, and nobody waits for the late ones
        assert transport.now() == pytest.approx(15 * 0.01 * (s + 1))


def test_steps_take_as_long_as_the_workers_that_are_waited_for():
    text = CODED.format(kind="fractional_repetition", s=1, late=[0]).replace("seconds = 9.0", "seconds = 0.5")
    master, _, _ = build(text, 4)
    assert [record.seconds for record in master.run(4)] == pytest.approx([0.02] * 4)
    text += "[wait]\ncount = 4\n"
    master, _, _ = build(text, 4)
    assert [record.seconds for record in master.run(4)] == pytest.approx([0.52] * 4)


def test_a_sleeping_worker_takes_up_the_newest_task_at_once_and_never_answers_an_old_one():
    # Late by 0.05 s only in some steps: where it is not late, it answers with everybody else.
    text = CODED.format(kind="fractional_repetition", s=1, late=[]).replace('kind = "fixed"', 'kind = "bernoulli"')
    text = text.replace("workers = []", "p = 0.3").replace("seconds = 9.0", "seconds = 0.05")
    master, _, experiment = build(text + "[wait]\nkind = 'decodable'\n", 4)
    from gcdl.stragglers import delays_at

    for record in master.run(40):
        delays = delays_at(experiment.stragglers, 4, 0, record.step).seconds
        on_time = [i for i in range(4) if delays[i] == 0.0]
        if {i // 2 for i in on_time} == {0, 1}:
            assert set(record.replies) <= set(on_time)
            assert record.seconds == pytest.approx(0.02)
        else:
            assert record.seconds == pytest.approx(0.07)
        assert record.late == 0


class Script:
    """A transport that says what it is told to: replies, None, or exceptions."""

    def __init__(self, n: int, answers: dict[int, list]) -> None:
        self.n = n
        self.traffic = Traffic(n)
        self.clock = 0.0
        self.answers = answers
        self.tasks: list[dict[int, object]] = []
        self.closed = 0

    def now(self) -> float:
        return self.clock

    def send(self, worker, task):
        if not self.tasks or self.tasks[-1]["step"] != task.step:
            self.tasks.append({"step": task.step, "to": [], "accepted": task.accepted.copy()})
        self.tasks[-1]["to"].append(worker)
        self.traffic.sent(worker, task.step + 1, HEADER_BYTES)

    def decoded(self, replies):
        pass

    def stepped(self):
        pass

    def receive(self, until, at_most):
        pending = self.answers.get(self.tasks[-1]["step"], [])
        if not pending:
            self.clock = until
            return None
        answer = pending.pop(0)
        if isinstance(answer, Exception):
            raise answer
        worker, step, value = answer
        message = aligned_buffer(HEADER_BYTES + 4 * D)
        message[HEADER_BYTES:].view(np.float32)[:] = value
        self.traffic.received(worker, message.size - HEADER_BYTES, HEADER_BYTES)
        return Replies.of([Reply(worker, step, float(value), message)], self.clock)

    def close(self) -> int:
        self.closed += 1
        return 0


def scripted(answers: dict[int, list], wait=None, n: int = 4, decoder=None, **more) -> tuple[Master, Script]:
    code = fractional_repetition(n, n, stragglers=1)
    code = code if decoder is None else replace(code, decoder=decoder)
    transport = Script(n, answers)
    layout = Layout(("w",), ((D,),))
    rule = FirstReplies(code) if wait is None else wait(code)
    optimizer = Sgd(lr=1.0).build(aligned_vector(D))
    slices = one_slice(code=code, codec=Identity().codec(layout), optimizer=optimizer, seed=0)
    return Master(transport, code=code, slices=slices, wait=rule, **more), transport


def test_replies_are_decoded_in_worker_order_whatever_the_order_of_arrival():
    values = {0: 2.0, 1: 2e8, 3: -1e8}  # in float32 (1 + 1e8) - 1e8 is 0, 1e8 - 1e8 + 1 is 1
    models = []
    for order in itertools.permutations(values):
        master, _ = scripted({0: [(i, 0, values[i]) for i in order]})
        list(master.run(1))
        models.append(master.slices.parameters.tobytes())
    assert len(set(models)) == 1


def test_stale_and_repeated_replies_are_dropped_and_counted():
    answers = {
        0: [(0, 0, 1.0), (1, 0, 1.0), (2, 0, 1.0)],
        1: [(3, 0, 99.0), (0, 1, 1.0), (0, 1, 99.0), (1, 1, 1.0), (2, 1, 1.0)],
    }
    master, _ = scripted(answers)
    first, second = master.run(2)
    assert (first.late, second.late) == (0, 2)
    assert second.replies == [0, 1, 2]
    assert second.ledger.uplink_bytes == 5 * (HEADER_BYTES + 4 * D)
    # each step subtracts the mean of group 0, and worker 2's own: 1 + 1
    np.testing.assert_allclose(master.slices.parameters, -4.0)


def test_tasks_tell_each_worker_the_step_of_its_last_reply_that_was_used():
    answers = {t: [(i, t, 1.0) for i in who] for t, who in enumerate([[0, 1, 2], [1, 2, 3], [0, 2, 3], [0, 1, 3]])}
    master, transport = scripted(answers)
    list(master.run(4))
    assert [task["accepted"].tolist() for task in transport.tasks] == [
        [-1, -1, -1, -1], [0, 0, 0, -1], [0, 1, 1, 1], [2, 1, 2, 2],
    ]  # fmt: skip


def test_a_lost_worker_gets_no_more_tasks_and_too_many_end_the_run():
    answers = {
        0: [(0, 0, 1.0), WorkerLost(3, "killed"), (1, 0, 1.0), (2, 0, 1.0)],
        1: [(0, 1, 1.0), (1, 1, 1.0), WorkerLost(2, "killed")],
    }
    master, transport = scripted(answers)
    steps = master.run(3)
    assert next(steps).lost == [3]
    with pytest.raises(TooManyLost, match="lost: 2, 3"):
        next(steps)
    assert transport.tasks[1]["to"] == [0, 1, 2]


def test_a_step_without_any_reply_names_the_workers_it_waited_for():
    said: list[str] = []
    master, transport = scripted({}, lambda code: FirstReplies(code, timeout=25.0), say=said.append)
    with pytest.raises(TooManyLost, match="workers 0, 1, 2, 3"):
        list(master.run(1))
    assert transport.clock == 25.0
    assert [line.split(":")[0] for line in said] == ["step 0", "step 0"]  # after 10 and 20 seconds


def test_a_step_times_out_with_what_is_there():
    master, _ = scripted({0: [(0, 0, 1.0)]}, lambda code: FirstReplies(code, timeout=5.0))
    record = next(master.run(1))
    assert record.timed_out
    assert record.replies == [0]
    assert record.decoding_error == pytest.approx(math.sqrt(2))


def test_a_deadline_waits_for_the_first_reply_and_is_no_timeout():
    master, _ = scripted({0: [(0, 0, 1.0)]}, lambda code: Deadline(seconds=2.0, timeout=5.0))
    record = next(master.run(1))
    assert not record.timed_out
    assert record.seconds == 2.0
    assert record.replies == [0]


def test_decodable_stops_as_soon_as_each_group_has_answered():
    master, _ = scripted({0: [(0, 0, 1.0), (1, 0, 1.0), (2, 0, 1.0), (3, 0, 1.0)]}, Decodable)
    assert next(master.run(1)).replies == [0, 1, 2]


def test_the_last_record_comes_after_the_shutdown_and_counts_what_was_drained():
    master, transport = scripted({0: [(0, 0, 1.0), (1, 0, 1.0), (2, 0, 1.0)]})

    def close() -> int:
        transport.traffic.received(3, 36, HEADER_BYTES)
        return 2

    transport.close = close
    (record,) = master.run(1)
    assert record.late == 2
    ledger = record.ledger
    assert ledger.uplink_bytes == 3 * (HEADER_BYTES + 4 * D) + 100
    assert ledger.up.tolist() == [[4 * D, HEADER_BYTES]] * 3 + [[36, HEADER_BYTES]]


def sent_to(decoder, values: dict[int, float]) -> tuple[Master, Script]:
    return scripted({0: [(i, 0, value) for i, value in values.items()]}, decoder=decoder)


def test_a_majority_steps_by_the_sign_of_the_vote():
    master, _ = sent_to(majority, {0: 5.0, 1: -1.0, 2: -1.0})
    list(master.run(1))
    np.testing.assert_array_equal(master.slices.parameters, -1.0)  # minus the sign of +3


def test_an_mmse_decoder_is_told_the_noise_of_each_message():
    master, _ = sent_to(mmse, {0: 1.0, 1: 1.0, 3: 2.0})
    master.slices.energies = lambda step, payloads: {
        worker: np.array([[1.0, 0.0], [3.0, 6.0 if payload.view(np.float32)[0] == 2.0 else 0.0]])
        for worker, payload in payloads.items()
    }
    list(master.run(1))
    # Group 0 is without noise, so it is averaged. Group 1: minimise 2 (a - 1)^2 + lambda a^2 v; lambda = 3 rows of 2 ones,
    # v = 6 of 3 * 4.
    a = 2.0 / (2.0 + 6.0 * 6.0 / 12.0)
    np.testing.assert_allclose(master.slices.parameters, -(1.0 + 2.0 * a), rtol=1e-6)


@pytest.mark.parametrize("ahead", [False, True])
def test_tasks_go_out_before_a_record_is_yielded_where_that_is_wanted_and_nothing_else_changes(ahead):
    answers = {t: [(i, t, 1.0) for i in range(3)] for t in range(4)}
    master, transport = scripted(answers)
    asked: list[int] = []

    def send_ahead(record):
        assert len(transport.tasks) == record.step + 1, "asked after the tasks had gone out"
        asked.append(record.step)
        return ahead

    for record in master.run(4, send_ahead):
        assert len(transport.tasks) == min(record.step + 1 + ahead, 4)
        assert record.ledger.uplink_bytes == 3 * (HEADER_BYTES + 4 * D)
        assert record.ledger.downlink_bytes == 4 * (HEADER_BYTES + record.step + 1)
    assert asked == [0, 1, 2]
    assert [task["accepted"].tolist() for task in transport.tasks] == [[t - 1] * 3 + [-1] for t in range(4)]
    np.testing.assert_allclose(master.slices.parameters, -8.0)
