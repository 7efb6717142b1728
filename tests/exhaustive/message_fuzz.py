"""message_fuzz.py SIDE SEED COUNT: one side of gcdl hears COUNT messages that no gcdl would send; see test_mutated_messages.py.

SIDE: readers (no MPI needed), or, as a job of two ranks, master or worker. Prints a line for each message after which
something was not as it must be, and at the end OK.
"""

from __future__ import annotations

import json
import random
import sys
import time
import traceback
from contextlib import suppress
from typing import Any

import numpy as np

from gcdl.config import Experiment, parse
from gcdl.downlinks import WholeContent
from gcdl.errors import GcdlError, MessageError
from gcdl.protocol.task_format import TaskFormat
from gcdl.protocol.tasks import Replies, Task
from gcdl.protocol.wire import HEADER_BYTES, Header, Kind, bare, read_json, with_json
from gcdl.types import Buffer, aligned_buffer

RUN = 5
CONFIG = """
workers = 1
[problem]
kind = "linear_regression"
features = 5
samples = 6
[compressor]
kind = "scaled_sign"
error_feedback = true
"""
BODIES: dict[Kind, dict[str, Any]] = {
    Kind.HELLO: {"host": "elsewhere", "pid": 1, "born": 1},
    Kind.READY: {"version": 0, "board": None},
    Kind.LACKING: {"version": 0, "wrong": False, "reads": True},
    Kind.BYE: {"uplink_bytes": 0, "foreign": 0},
    Kind.ERROR: {"message": "a", "traceback": "", "exit_code": 2, "host": "elsewhere"},
}
VALUES: list[Any] = [
    None, True, -1, 3, 2**31, 2**70, 0.5, 1e300, float("inf"), float("nan"), "", "x", "1", "é" * 300, [], [1, 2, 3],
    [1, 2, 3, 4], ["a"] * 4, {}, {"a": 1},
]  # fmt: skip
FLOATS = [0.0, 1.0, -1.0, 4.0, 1e300, float("inf"), float("-inf"), float("nan")]
STEPS = [-(2**31), -2, -1, 0, 1, 2, 5, 7, 2**31 - 1]
FROM_MASTER = [Kind.TASK, Kind.TASK, Kind.LOAD, Kind.SAVE, Kind.POST, Kind.SUPERSEDED, Kind.STOP, Kind.ADOPT, Kind.END]


def experiment() -> Experiment:
    return Experiment.of(parse(CONFIG), 1).check()


def body_of(kind: Kind, draws: random.Random) -> bytes:
    """Return a body that is nearly one of this kind, or not at all."""
    if draws.random() < 0.25:
        return draws.randbytes(draws.choice((0, 1, 8, 64, 100, 1000)))
    if kind not in BODIES:
        sizes = (4 * 5, 4 * 5 + 64, 64 + 4 * 5, 9, 24, 0)
        return draws.choice((bytes, draws.randbytes))(draws.choice(sizes))
    body = dict(BODIES[kind])
    for _ in range(draws.choice((0, 1, 1, 2))):
        key = draws.choice(list(body) or ["a"])
        if draws.random() < 0.3:
            body.pop(key, None)
        else:
            body[key] = draws.choice(VALUES)
    text = json.dumps(body).encode()
    return text[: draws.randrange(len(text))] if draws.random() < 0.1 else text


def hostile(kinds: list[Kind], draws: random.Random) -> Buffer:
    """Return a message; in most its checksums are right, whatever it says."""
    kind = draws.choice(kinds)
    body = body_of(kind, draws)
    message = aligned_buffer(HEADER_BYTES + len(body))
    message[HEADER_BYTES:] = np.frombuffer(body, dtype=np.uint8)
    odd = draws.random() < 0.5
    Header(
        kind,
        RUN,
        worker=draws.choice((0, 0, 0, 1, 2**15)) if odd else 0,
        step=draws.choice(STEPS),
        loss=draws.choice(FLOATS),
        slept=draws.choice(FLOATS[:4]),
        computed=draws.choice(FLOATS[:4]),
        body_bytes=len(body),
    ).write(message, checksum=draws.random() < 0.5)
    if draws.random() < 0.3:
        message[draws.randrange(message.size)] ^= 1 << draws.randrange(8)
    return message[: draws.randrange(message.size)] if draws.random() < 0.1 else message


def read_all(draws: random.Random) -> None:
    """Read a message with every reader there is: a result, or MessageError."""
    message = hostile(list(Kind), draws)
    padded = aligned_buffer(message.size + 64)
    padded[: message.size] = message
    try:
        header = Header.read(padded, message.size, RUN)
        if header.kind in BODIES:
            read_json(header, padded)
        TaskFormat(1).read(header, padded)
    except MessageError:
        return


def send(comm: Any, message: Buffer, to: int) -> Any:
    from gcdl.transport.mpi.job import MPI, TAG

    return comm.Isend([message, MPI.BYTE], dest=to, tag=TAG)


def hear(comm: Any, peer: int, seconds: float) -> tuple[Header, Buffer] | None:
    """Return the next message from the other rank, or None."""
    from gcdl.transport.mpi.job import MPI, TAG

    until, status = time.monotonic() + seconds, MPI.Status()
    while not comm.Iprobe(source=peer, tag=TAG, status=status):
        if time.monotonic() > until:
            return None
        time.sleep(1e-4)
    buffer = aligned_buffer(max(64, status.Get_count(MPI.BYTE)))
    comm.Recv([buffer, MPI.BYTE], source=peer, tag=TAG)
    return Header.read(buffer, status.Get_count(MPI.BYTE), RUN), buffer


def as_master(job: Any, message: Buffer) -> str:
    """gcdl's master hears a hostile message, then a true reply: it must take the reply, or end as gcdl ends."""
    from gcdl.transport.mpi.master_end import MpiTransport

    transport = MpiTransport(job, run=RUN, interrupted=lambda: False, say=lambda line: None)
    found = "no reply"
    try:
        transport.start(TaskFormat(1), HEADER_BYTES + 9, 5.0, 10)
        model = np.zeros(5, dtype=np.float32)
        transport.send(0, Task(0, np.full(1, -1), model, None, WholeContent(model.view(np.uint8))))
        until = time.monotonic() + (0.5 if message.size > 5 and message[5] == Kind.BYE else 5.0)
        while found and time.monotonic() < until:
            received = transport.receive(until, 1)
            found = "" if isinstance(received, Replies) else found
    except GcdlError:
        found = ""
    with suppress(GcdlError):
        transport.close()
    return "" if message.size > 5 and message[5] == Kind.BYE else found


def against_master(job: Any, message: Buffer, draws: random.Random) -> None:
    """The other rank, which serves nothing: the message is its first, or comes while the master waits for a reply."""
    comm, kept = job.comm, []
    early = draws.random() < 0.3
    if early:
        kept.append(send(comm, message, 0))
    for kind in (Kind.HELLO, Kind.READY):
        kept.append(send(comm, with_json(kind, RUN, 0, BODIES[kind]), 0))
    heard = hear(comm, 0, 5.0)
    if not early:
        kept.append(send(comm, message, 0))
    reply = aligned_buffer(HEADER_BYTES + 9)
    reply[:] = 0
    Header(Kind.REPLY, RUN, 0, 0, body_bytes=9).write(reply)
    kept.append(send(comm, reply, 0))
    while heard is not None and heard[0].kind is not Kind.STOP:
        heard = hear(comm, 0, 8.0)
    kept.append(send(comm, with_json(Kind.BYE, RUN, 0, BODIES[Kind.BYE]), 0))


def as_worker(job: Any) -> str:
    """gcdl's worker; what it must do is seen by the other rank."""
    from gcdl.training.build import make_ends, make_workers
    from gcdl.transport.mpi.worker_end import Prepared, serve

    what = experiment()
    (worker,) = make_workers(what)
    codec = what.compressor.codec(what.problem.layout())
    ends = make_ends(what, codec, np.zeros(1, dtype=np.int64), what.code.decoder)
    try:
        prepared = Prepared(worker, [what.downlink.follower(ends, fresh=True)])
        serve(job, run=RUN, n=1, master_timeout=8.0, prepare=lambda *_: prepared)
    except GcdlError as error:
        return f"ended by {error}"
    return ""


def against_worker(job: Any, message: Buffer) -> str:
    """The other rank: after the hostile message a true task must be answered, and STOP with BYE."""
    comm, kept, found = job.comm, [], "no answer to a task"
    while (heard := hear(comm, 1, 8.0)) is not None and heard[0].kind is not Kind.READY:
        pass
    kept.append(send(comm, message, 1))
    model = np.zeros(5, dtype=np.float32)
    task = Task(5, np.full(1, -1), model, None, WholeContent(model.view(np.uint8)))
    ours = TaskFormat(1)
    buffer = aligned_buffer(ours.nbytes(task, -1))
    ours.write(task, RUN, -1, buffer)
    kept.append(send(comm, buffer, 1))
    said_bye = False
    while found and (heard := hear(comm, 1, 3.0)) is not None:
        header, text = heard
        if header.kind is Kind.ERROR:
            found = ""
            if read_json(header, text)["traceback"]:
                found = read_json(header, text)["traceback"]
                break
        elif header.kind is Kind.BYE or (header.kind is Kind.REPLY and header.step == 5):
            found, said_bye = "", header.kind is Kind.BYE
    kept.append(send(comm, bare(Kind.STOP, RUN), 1))
    while not said_bye and (heard := hear(comm, 1, 5.0)) is not None:
        said_bye = heard[0].kind is Kind.BYE
    kept.append(send(comm, bare(Kind.END, RUN, step=0), 1))
    return found or ("" if said_bye else "no goodbye")


def main(side: str, seed: int, count: int) -> None:
    job = None
    if side != "readers":
        from gcdl.transport.mpi.job import Job, world

        job = world()
    for trial in range(count):
        draws = random.Random(f"{seed} {side} {trial}")
        found = ""
        try:
            if job is None:
                read_all(draws)
                continue
            sub = Job(job.comm.Dup())
            if side == "master":
                message = hostile([*BODIES, Kind.REPLY, Kind.STATE, Kind.TASK], draws)
                if job.rank == 0:
                    found = as_master(sub, message)
                else:
                    against_master(sub, message, draws)
            else:
                message = hostile(FROM_MASTER, draws)
                found = against_worker(sub, message) if job.rank == 0 else as_worker(sub)
        except Exception:
            found = traceback.format_exc()
        if found:
            print(f"{side} {trial}: {found}", flush=True)
        if job is not None:
            done = job.comm.Ibarrier()
            while not done.Test():
                time.sleep(1e-4)
    if job is None or job.rank == 0:
        print("OK", flush=True)
    if job is not None:
        job.end(0)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
