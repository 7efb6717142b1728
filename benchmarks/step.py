"""Where does a step's time go at the master, and how far is that from the bytes that must be moved?

Master and transport are the real ones. The ranks are not there: this process makes the replies in their place, while the clock
stands still. So the times are what the master itself needs. Nothing waits for computing, for a link, or for a core.

*send*: the model put into shared memory, and a task for each worker. *gather*: taking in n replies. *decode*. *update*: the
optimizer's step, and the next version of the model. *record*: the step's line in ``steps.jsonl``, and the timeline. The floor:
the bytes that all of that but the record must read and write, at the speed of a copy of as many bytes as the model has. With
``--checkpoint`` also how much longer a step takes in which a checkpoint is due, and the five steps after it.

    python benchmarks/step.py [--sizes 100000,1000000,10000000] [--workers 8,64,512] [--steps 20]          # 3 minutes
    python benchmarks/step.py --beside TREE      # "before": the gcdl of another working tree, by turns
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from gcdl.compressors import Codec, Draw
from gcdl.config import Experiment, parse
from gcdl.protocol.master import Master
from gcdl.protocol.task_format import TaskFormat
from gcdl.protocol.wire import HEADER_BYTES, Header, Kind, with_json
from gcdl.training.build import limit_threads
from gcdl.training.checkpoint_writer import CheckpointWriter
from gcdl.training.run_folder import RunFolder
from gcdl.training.slices import local_slices
from gcdl.transport.mpi.job import MPI, Job, world
from gcdl.transport.mpi.master_end import MpiTransport
from gcdl.types import Buffer, aligned_buffer

CONFIG = """
steps = 1000000
[problem]
kind = "linear_regression"
features = {parameters}
samples = 1
[code]
kind = "uncoded"
[compressor]
kind = "sign"
[optimizer]
lr = 1e-6
[run]
threads = 1
eval_every = 0
checkpoint_every = 0
"""
PARTS = ("send", "gather", "decode", "update", "record")
_RUN = 5
_FIRST = 3
"""Steps that are not counted: they allocate."""
_REST = 5
"""Steps after one with a checkpoint."""
_MOST_BYTES = 2 << 30
"""Of replies: beyond that a pair of sizes is left out."""


class Loop:
    """A communicator of n + 1 ranks, all of them this process. Each rank has a tag for either direction."""

    rank = 0

    def __init__(self, n: int) -> None:
        self.size = n + 1
        self._comm = MPI.COMM_SELF

    def Set_errhandler(self, handler: object) -> None:
        """Do nothing."""

    def Irecv(self, what: Any, source: int, tag: int) -> Any:
        """Receive at the master."""
        return self._comm.Irecv(what, source=0, tag=2 * source)

    def Isend(self, what: Any, dest: int, tag: int) -> Any:
        """Send from the master."""
        return self._comm.Isend(what, dest=0, tag=2 * dest + 1)

    def Issend(self, what: Any, dest: int, tag: int) -> Any:
        """Send a task from the master."""
        return self._comm.Issend(what, dest=0, tag=2 * dest + 1)

    def receive_as(self, rank: int, into: Any) -> Any:
        """Receive as another rank."""
        return self._comm.Irecv([into, MPI.BYTE], source=0, tag=2 * rank + 1)

    def send_as(self, rank: int, message: Any) -> Any:
        """Send as another rank."""
        return self._comm.Isend([message, MPI.BYTE], dest=0, tag=2 * rank)


class PlayedTransport(MpiTransport):
    """The master's end, and workers that answer when the master begins to wait. ``played``: how many seconds that took."""

    def __init__(self, loop: Loop, replies: list[Buffer]) -> None:
        super().__init__(Job(loop), run=_RUN, interrupted=lambda: False, say=print, shared_memory=True)  # type: ignore[arg-type]
        self._loop = loop
        self._asked, self._answered = -1, -1
        self.played = 0.0
        self._replies = replies
        self._received = aligned_buffer(1 << 16)
        self._sends: list[Any] = []

    def say_ready(self) -> None:
        """Let all workers say who they are, and that they are ready."""
        told = {"host": os.uname().nodename, "pid": 0, "born": 0, "version": -1, "board": None}
        for worker in range(self.n):
            for kind in (Kind.HELLO, Kind.READY):
                message = with_json(kind, _RUN, worker, told)
                self._sends.append((self._loop.send_as(worker + 1, message), message))

    def send(self, worker: int, task: Any) -> None:
        """Hand over a task."""
        self._asked = task.step
        super().send(worker, task)

    def receive(self, until: float, at_most: int = 1) -> Any:
        """Return the next replies."""
        if self._answered < self._asked:
            began = time.perf_counter()
            self._answer(self._asked)
            self._answered = self._asked
            self.played += time.perf_counter() - began
        return super().receive(until, at_most)

    def _answer(self, step: int) -> None:
        """Take all tasks of a step, and send all replies to it."""
        for worker in range(self.n):
            request = self._loop.receive_as(worker + 1, self._received)
            while not request.Test():
                pass
        self._sends.clear()
        for worker, message in enumerate(self._replies):
            Header(Kind.REPLY, _RUN, worker, step, message.size - HEADER_BYTES, loss=1.0).write(message)
            self._sends.append(self._loop.send_as(worker + 1, message))


def make_replies(experiment: Experiment, codec: Codec, d: int) -> list[Buffer]:
    """Return a reply of each worker; its header is not written."""
    x, made = np.random.default_rng(0).standard_normal(d, dtype=np.float32), []
    for worker in range(experiment.n):
        message = aligned_buffer(HEADER_BYTES + codec.payload_bytes)
        draw = Draw(experiment.config.seed, 0, worker, int(experiment.code.shifts[worker]))
        codec.compress(np.roll(x, 8 * worker), codec.init(), draw, message[HEADER_BYTES:])
        made.append(message)
    return made


def measure(given: argparse.Namespace, d: int, n: int, folder: Path) -> dict[str, float]:
    """Return the median seconds of each part of a step."""
    experiment = Experiment.of(parse(CONFIG.format(parameters=d), given.overrides), n).check()
    codec = experiment.compressor.codec(experiment.problem.layout())
    codec.threads = given.threads
    world()
    transport = PlayedTransport(Loop(n), make_replies(experiment, codec, d))
    transport.say_ready()
    transport.start(TaskFormat(n), HEADER_BYTES + codec.payload_bytes, 60.0, whole_bytes=4 * d)
    master = Master(transport, code=experiment.code, slices=local_slices(experiment, codec), wait=experiment.wait)
    limit_threads(experiment)  # now that torch is loaded
    records = RunFolder(folder / "run", "", {}, workers=n)
    writer = CheckpointWriter(folder, keep=2, master=master, progress=dict, decoder="", say=print)
    parts: dict[str, list[float]] = {name: [] for name in (*PARTS, "due", "after", "else")}
    since = _REST + 1
    for count, record in enumerate(itertools.islice(master.run(1_000_000), _FIRST + given.steps)):
        timing = record.timing
        records.write_step(record)
        written = transport.now()
        due = given.checkpoint and count >= _FIRST and count % (4 * _REST) == _REST
        if due:
            if hasattr(writer, "ask"):
                writer.ask()
            writer.begin()
        since = 0 if due else since + 1
        played, transport.played = transport.played, 0.0
        seconds = (
            timing.sent - timing.began, timing.waited - timing.sent - played, timing.decoded - timing.waited,
            timing.ended - timing.decoded, written - timing.ended,
        )  # fmt: skip
        if count >= _FIRST:
            for name, value in zip(PARTS, seconds, strict=True):
                parts[name].append(value)
            whole = sum(seconds) + transport.now() - written
            parts["due" if since == 0 else "after" if since <= _REST else "else"].append(whole)
    if hasattr(writer, "settle"):
        writer.settle()
    return {name: statistics.median(values) for name, values in parts.items() if values}


def floor(d: int, n: int, overrides: list[str]) -> float:
    """Return the seconds in which this machine moves the bytes of a step."""
    source, target = np.zeros(d, dtype=np.float32), np.ones(d, dtype=np.float32)
    copies = []
    for _ in range(9):
        began = time.perf_counter()
        np.copyto(target, source)
        copies.append(time.perf_counter() - began)
    bytes_a_second = 8.0 * d / statistics.median(copies)
    optimizer = 28 * d if "optimizer.kind=adam" in overrides else 12 * d
    return (8 * d + 3 * n * (d / 8) + 4 * d + optimizer) / bytes_a_second


def run(tree: Path, given: argparse.Namespace, d: int, n: int) -> dict[str, float]:
    """Measure in a process of its own, with the gcdl of this tree."""
    command = [sys.executable, __file__, "--one", f"{d},{n}", "--steps", str(given.steps), "--threads", str(given.threads)]
    command += ["--checkpoint"] if given.checkpoint else []
    environment = {**os.environ, "PYTHONPATH": str(tree)}
    done = subprocess.run([*command, *given.overrides], env=environment, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    numbers = lambda text: [int(word) for word in text.split(",")]  # noqa: E731
    parser.add_argument("--sizes", type=numbers, default=[100_000, 1_000_000, 10_000_000], help="parameters")
    parser.add_argument("--workers", type=numbers, default=[8, 64, 512])
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1, help="that decode")
    parser.add_argument("--beside", type=Path, help="a working tree whose gcdl is measured too")
    parser.add_argument("--checkpoint", action="store_true", help="write some")
    parser.add_argument("--one", type=numbers, help=argparse.SUPPRESS)
    parser.add_argument("overrides", nargs="*", help="of the config: optimizer.kind=adam")
    given = parser.parse_args()
    if given.one:
        with tempfile.TemporaryDirectory() as scratch:
            print(json.dumps(measure(given, *given.one, Path(scratch))), flush=True)
        os._exit(0)  # nobody has said goodbye
    here = Path(__file__).resolve().parent.parent
    trees = {"before": given.beside, "now": here} if given.beside else {"now": here}
    table = Table(title="milliseconds of the master in a step")
    for column in (
        "parameters",
        "workers",
        "",
        *PARTS,
        "step",
        "floor",
        *(["checkpoint due", "after"] if given.checkpoint else []),
    ):
        table.add_column(column)
    for d, n in itertools.product(given.sizes, given.workers):
        if n * d // 8 > _MOST_BYTES:
            continue
        least = floor(d, n, given.overrides)
        for name, tree in trees.items():
            found = run(tree, given, d, n)
            whole = sum(found[part] for part in PARTS)
            row = [f"{1e3 * value:.3g}" for value in (*(found[part] for part in PARTS), whole, least)]
            more = [f"{found[key] / found['else']:.2f} times" for key in ("due", "after")] if given.checkpoint else []
            table.add_row(f"{d:,}", str(n), name, *row, *more)
            print(f"{d:,} parameters, {n} workers, {name}: {1e3 * whole:.3g} ms, floor {1e3 * least:.3g}", flush=True)
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
