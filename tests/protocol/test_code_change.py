"""A code is loaded while the old one goes on: who is told what, who is sent tasks, and what holds when, with late news."""

from __future__ import annotations

import numpy as np
import pytest

from gcdl.codes import fractional_repetition
from gcdl.compressors import Identity
from gcdl.errors import TooManyLost, WorkerLost
from gcdl.optimizers import Sgd
from gcdl.protocol.coding import Coding, among, code_of, spread
from gcdl.protocol.master import Master
from gcdl.protocol.model_slices import one_slice
from gcdl.protocol.recoding import RecodeOnLoss
from gcdl.protocol.tasks import Joined, Loaded, Replies, Reply
from gcdl.protocol.wait_rules import FirstReplies
from gcdl.protocol.wire import HEADER_BYTES
from gcdl.types import Layout, aligned_buffer, aligned_vector
from tests.protocol.test_master import D, Script


class Loading(Script):
    """As told: replies (worker, step, value), exceptions, or anything else that a transport hands over."""

    def __init__(self, n, answers):
        super().__init__(n, answers)
        self.told = []

    def send(self, worker, task):
        super().send(worker, task)
        self.tasks[-1]["coding"] = task.coding

    def recode(self, worker, number, row, *, fresh):
        self.told.append((worker, number, row.shards.tolist(), fresh))
        return False

    def receive(self, until, at_most):
        pending = self.answers.get(self.tasks[-1]["step"], [])
        if pending and isinstance(pending[0], (Joined, Loaded)):
            return pending.pop(0)
        if pending and not isinstance(pending[0], Exception):
            worker, step, value = pending.pop(0)
            message = aligned_buffer(HEADER_BYTES + 4 * D)
            message[HEADER_BYTES:].view(np.float32)[:] = value
            return Replies.of([Reply(worker, step, float(value), message)], self.clock)
        return super().receive(until, at_most)


def uncoded_for(workers, number):
    """Three shards for those workers, each on one, with s = 0."""
    B = np.zeros((3, 3))
    for shard in range(3):
        B[workers[shard % len(workers)], shard] = 1.0
    code = code_of(B, fractional_repetition(3, 3, stragglers=0).decoder, 0)
    compact = code_of(B[workers], code.decoder, 0)
    return Coding(number, code, among(FirstReplies(compact, timeout=5.0), workers), name=f"for {workers}")


def master_of(answers):
    code = fractional_repetition(3, 3, stragglers=0)
    transport = Loading(3, answers)
    slices = one_slice(
        code=code, codec=Identity().codec(Layout(("w",), ((D,),))), optimizer=Sgd(lr=1.0).build(aligned_vector(D)), seed=0
    )
    rule = FirstReplies(code, timeout=5.0)
    return Master(transport, code=code, slices=slices, wait=rule, recoder=RecodeOnLoss(uncoded_for)), transport


def replies(step, *workers):
    return [(worker, step, 1.0) for worker in workers]


GONE = WorkerLost(2, "killed")


def test_the_old_code_goes_on_until_all_have_loaded():
    master, transport = master_of(
        {
            0: [GONE, *replies(0, 0, 1)],
            1: [Loaded(0, 1), *replies(1, 0, 1)],  # worker 1 is still loading
            2: [*replies(2, 0), Loaded(1, 1), *replies(2, 1)],
            3: replies(3, 0, 1),
        }
    )
    records = list(master.run(4))
    assert transport.told == [(0, 1, [0, 2], True), (1, 1, [1], False)]
    assert [task["coding"] for task in transport.tasks] == [0, 0, 0, 1]
    assert [record.decoding_error for record in records] == pytest.approx([1.0, 1.0, 1.0, 0.0])
    assert [record.recoded and record.recoded["number"] for record in records] == [None, None, None, 1]
    assert [record.fresh for record in records] == [[], [], [], [0]]
    # Worker 1's row has stayed, and with it its residual; worker 0 begins afresh.
    assert transport.tasks[3]["accepted"].tolist() == [-1, 2, -1]


def test_another_loss_meanwhile_makes_another_code_and_what_was_loaded_for_the_first_is_not_mistaken_for_it():
    master, transport = master_of(
        {
            0: [GONE, *replies(0, 0, 1)],
            1: [Loaded(0, 1), WorkerLost(1, "killed"), *replies(1, 0)],
            2: [Loaded(0, 1), *replies(2, 0)],
            3: [Loaded(0, 2), *replies(3, 0)],
            4: replies(4, 0),
        }
    )
    records = list(master.run(5))
    assert [entry[:3] for entry in transport.told] == [(0, 1, [0, 2]), (1, 1, [1]), (0, 2, [0, 1, 2])]
    assert [task["coding"] for task in transport.tasks] == [0, 0, 0, 0, 2]
    assert records[-1].recoded["workers"] == [0]
    assert records[-1].decoding_error == pytest.approx(0.0)


def test_who_joins_after_a_re_coding_loads_its_row_before_it_is_sent_a_task():
    master, transport = master_of(
        {
            0: [GONE, *replies(0, 0, 1)],
            1: [Loaded(0, 1), Loaded(1, 1), *replies(1, 0, 1)],
            2: [
                WorkerLost(1, "killed", replaced="a spare"),
                *replies(2, 0),
                Joined(1, "worker 1"),
                Loaded(1, 1),
                *replies(2, 1),
            ],
            3: replies(3, 0, 1),
        }
    )
    records = list(master.run(4))
    assert transport.told[-1] == (1, 1, [1], True)
    assert [task["to"] for task in transport.tasks] == [[0, 1, 2], [0, 1], [0, 1, 1], [0, 1]]
    assert [record.replies for record in records] == [[0, 1]] * 4
    assert records[2].fresh == [0, 1]


def test_where_nobody_of_the_old_code_is_left_the_step_waits_for_those_who_load():
    master, transport = master_of({0: replies(0, 0, 1, 2), 1: [Loaded(1, 1), *replies(1, 1)]})
    steps = master.run(2)
    next(steps)
    # As if workers 0 and 2 had gone, and 1 were a newcomer: it has no row of the code that holds.
    for worker in (0, 2):
        master.members.alive[worker] = False
    for worker in range(3):
        master.coding.lost(worker)
    transport.tasks.append({"step": 1, "to": [], "accepted": None, "coding": 0})
    assert next(steps).replies == [1]
    assert transport.tasks[-1]["coding"] == 1


def test_and_not_for_ever():
    master, _ = master_of({0: replies(0, 0, 1, 2), 1: []})
    steps = master.run(2)
    next(steps)
    master.members.alive[[0, 2]] = False
    for worker in range(3):
        master.coding.lost(worker)
    with pytest.raises(TooManyLost, match="nobody has loaded the shards of those lost within 5 s"):
        next(steps)


def test_rows_are_dealt_over_the_places_that_are_there():
    compact = fractional_repetition(4, 6, stragglers=1)
    code, places = spread(compact, [1, 3, 4, 7], np.arange(8) << 13)
    assert sorted(places) == [1, 3, 4, 7]
    assert not code.B[[0, 2, 5, 6]].any()
    for row, place in enumerate(places):
        assert np.array_equal(code.B[place], compact.B[row])
