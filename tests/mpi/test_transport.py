"""The MPI transport by itself: supersession, buffers that live as long as MPI reads them, foreign messages, shutdown."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from gcdl.launch.mpirun import mpirun

pytestmark = pytest.mark.mpi

ROOT = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}

PRELUDE = """
import sys, time
from types import SimpleNamespace
import numpy as np
from gcdl.downlinks import WholeContent, WholeModel
from gcdl.errors import *
from gcdl.protocol.task_format import TaskFormat
from gcdl.protocol.tasks import *
from gcdl.protocol.wire import *
from gcdl.transport.mpi.job import MPI, TAG, world
from gcdl.transport.mpi.master_end import MpiTransport
from gcdl.transport.mpi.worker_end import Prepared, serve
from gcdl.types import Layout, aligned_buffer
from gcdl.protocol.worker import Encode, Sleep, Work

D, RUN = {d}, 5
job = world()

class Echo:
    # Replies with the ends of its model, read after a while, and the number of tasks it has begun. In the steps named
    # it sleeps for ever. A model that changes while it is worked on is an error.
    layout = Layout(("w",), ((D,),))
    worker = job.rank - 1
    state_bytes = agreed_count = 0
    asleep = {asleep}
    begun = 0
    def __init__(self, worker, since):
        pass
    def handle(self, task):
        self.begun += 1
        if task.step in self.asleep:
            yield Sleep(float("inf"))
        for look in range({looks}):
            yield Work(1.0)
            time.sleep({seconds})
            assert (task.model == task.step).all(), "the model changed under the worker's hands"
        yield Encode()
        message = aligned_buffer(HEADER_BYTES + 12)
        message[HEADER_BYTES:].view(np.float32)[:] = *task.model[[0, -1]], self.begun
        return Reply(self.worker, task.step, 0.0, message)

def values(reply):
    return reply.payload.view(np.float32).tolist()[:2]
def begun(reply):
    return reply.payload.view(np.float32).tolist()[2]

follower = WholeModel().follower(SimpleNamespace(layout=Echo.layout, memory=None), fresh=True)
if job.rank > 0:
    {before}
    prepare = lambda worker, since: Prepared(Echo(worker, since), [follower])
    serve(job, run=RUN, n=job.workers, master_timeout=30.0, prepare=prepare)
    job.end(0)

said = []
transport = MpiTransport(job, run=RUN, interrupted=lambda: False, say=said.append, shared_memory={shared})
transport.start(TaskFormat(job.workers), HEADER_BYTES + 12, 30.0, 10, whole_bytes=4 * D)
model = np.zeros(D, dtype=np.float32)
def send(step, worker=None):
    model[:] = step
    task = Task(step, np.full(job.workers, -1), model, None, WholeContent(model.view(np.uint8)))
    for w in range(job.workers) if worker is None else [worker]:
        transport.send(w, task)
def receive(seconds=10.0):
    found = transport.receive(transport.now() + seconds)
    if found is None:
        return None
    (row,), (message,) = found.rows, found.messages
    return Reply(int(row["worker"]), int(row["step"]), float(row["loss"]), message)
"""


def check(
    body: str,
    *,
    d: int = 10,
    seconds: float = 0.0,
    looks: int = 1,
    asleep: str = "()",
    before: str = "pass",
    tcp: bool = False,
    shared: bool = False,
) -> None:
    """Run PRELUDE on three ranks and, on rank 0, ``body``; prints OK after its last assertion. ``tcp``: no shared memory."""
    script = PRELUDE.format(d=d, seconds=seconds, looks=looks, asleep=asleep, before=before, shared=shared) + body
    script += "\ntransport.close()\nprint('OK', flush=True)\njob.end(0)\n"
    launcher = [word.replace("self,sm,tcp", "self,tcp") if tcp else word for word in mpirun(3)]
    done = subprocess.run(
        [*launcher, sys.executable, "-c", script], env={**os.environ, **ROOT}, capture_output=True, text=True, timeout=180,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.stdout.strip() == "OK", done.stdout + done.stderr


@pytest.mark.parametrize("d", [10, 1_000_000])
def test_each_worker_answers_each_task_with_the_model_of_that_step(d):
    check(
        """
for step in range(20):
    send(step)
    replies = sorted((receive() for _ in range(2)), key=lambda reply: reply.worker)
    assert [(r.worker, r.step, values(r)) for r in replies] == [(w, step, [step, step]) for w in range(2)], replies
assert receive(0.05) is None
assert transport.close() == 0
assert transport.traffic.downlink == 40 * (TaskFormat(2).overhead_bytes + 4 * D)
assert transport.traffic.uplink == 40 * (HEADER_BYTES + 12)
""",
        d=d,
    )


def test_a_newer_task_ends_an_endless_sleep():
    check(
        """
send(0)
assert receive(0.3) is None
send(1)
assert [receive().step for _ in range(2)] == [1, 1]
assert receive(0.05) is None
""",
        asleep="(0,)",
    )


@pytest.mark.parametrize("d", [10, 1_000_000])
def test_a_busy_worker_skips_to_the_newest_task_and_models_are_never_mixed(d):
    # The workers compute for 1.5 s without looking up; the master writes forty models meanwhile.
    check(
        """
send(0)
time.sleep(0.1)
for step in range(1, 41):
    send(step)
    receive(0.002)
replies = []
while not replies or replies[-1].step != 40 or len([s for w, s, v in seen if s == 40]) < 2:
    reply = receive()
    assert reply is not None, seen
    replies.append(reply)
    seen = [(r.worker, r.step, None) for r in replies]
    assert values(reply) == [reply.step, reply.step], (reply.step, values(reply))
# Not even begun: the task that was on its way when the newer ones came, nor any of those but the newest.
assert [begun(reply) for reply in replies if reply.step == 40] == [2, 2], seen
# A version's buffer goes back to the pool once, when nobody reads it any more.
receive(0.1)
pool, (newest,) = transport._lanes.spare, transport._lanes._parcels.values()
assert newest.whole.users == 1
assert len({id(buffer) for buffer in [*pool, newest.whole.buffer]}) == len(pool) + 1 <= 4
# Far fewer models were handed to MPI than were made.
assert transport.traffic.downlink <= 8 * (TaskFormat(2).overhead_bytes + 4 * D)
""".replace("replies = []", "replies, seen = [], []"),
        d=d,
        seconds=1.5,
    )


def test_a_model_does_not_change_while_the_next_one_arrives():
    # Over TCP a large message arrives bit by bit, while the worker computes at the one before.
    check(
        """
for step in range(12):
    send(step)
    receive(0.03)
for _ in range(2):
    reply = receive()
    assert reply is not None and (reply.step < 11 or values(reply) == [11, 11])
""",
        d=4_000_000,
        seconds=0.002,
        looks=20,
        tcp=True,
    )


def test_a_state_comes_although_a_reply_that_nobody_waits_for_any_more_came_first():
    check(
        """
send(0)
time.sleep(0.3)
for worker in range(2):
    transport.save(worker, -1)
received = [transport.receive(transport.now() + 5.0) for _ in range(4)]
assert sorted(type(r).__name__ for r in received) == ["Replies", "Replies", "WorkerState", "WorkerState"], received
""",
        before="Echo.save = lambda self, accepted: aligned_buffer(HEADER_BYTES + 10)",
    )


def test_damaged_and_repeated_replies_are_dropped_and_counted():
    # A reply to a step that was not asked for; then, behind the true reply to step 0, the same again; 60 with bits flipped or
    # cut off. All have a valid header unless that is what was damaged.
    junk = """
    import random
    draws = random.Random(job.rank)
    def reply(step):
        message = aligned_buffer(HEADER_BYTES + 12)
        message[HEADER_BYTES:] = 0
        Header(Kind.REPLY, RUN, job.rank - 1, step, body_bytes=12).write(message, checksum=True)
        return message
    def say(message):
        job.comm.Send([np.ascontiguousarray(message), MPI.BYTE], dest=0, tag=TAG)
    say(reply(7))
    for trial in range(60):
        message = reply(0)
        message[draws.randrange(message.size)] ^= 1 << draws.randrange(8)
        say(message[: draws.randrange(message.size)] if trial % 3 == 0 else message)
    class Echo(Echo):
        def handle(self, task):
            answer = yield from super().handle(task)
            if task.step == 1:
                say(reply(0))
            return answer
"""
    check(
        """
send(0)
assert [receive().step for _ in range(2)] == [0, 0]
assert transport.traffic.foreign == 2 * 61, said
send(1)
assert [receive().step for _ in range(2)] == [1, 1]
assert transport.traffic.foreign == 2 * 62, said
assert len(said) == 2 * 62 and sum("answered before" in line for line in said) == 4
""",
        before=junk.strip(),
    )


def test_foreign_messages_are_dropped_and_counted():
    junk = """
    for message in (b"x", b"GET / HTTP/1.1" * 20, bytes(bare(Kind.BYE, 6, worker=job.rank - 1)),
                    bytes(bare(Kind.BYE, RUN, worker=77)), bytes(bare(Kind.TASK, RUN, worker=job.rank - 1))):
        job.comm.Send([np.frombuffer(message, dtype=np.uint8).copy(), MPI.BYTE], dest=0, tag=TAG)
"""
    check(
        """
send(0)
assert [receive().step for _ in range(2)] == [0, 0]
assert transport.traffic.foreign == 10, said
assert len(said) == 10
""",
        before=junk.strip().replace("\n", "\n    "),
    )


def test_the_shutdown_drains_replies_that_nobody_waits_for():
    check(
        """
send(0)
time.sleep(0.5)
assert transport.close() == 2
assert transport.traffic.uplink == 2 * (HEADER_BYTES + 12)
assert transport.close() == 0
"""
    )


def test_the_shutdown_gives_up_on_a_worker_that_does_not_stop():
    check(
        """
send(0)
time.sleep(0.5)
began = time.monotonic()
transport.close()
assert time.monotonic() - began < 8.0
assert transport.abandoned == [0, 1]
assert "not waiting any longer" in said[0]
""",
        seconds=12.0,
    )
