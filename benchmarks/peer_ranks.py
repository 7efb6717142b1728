"""What a rank of each peer does: DistributedDataParallel, MPI_Allreduce, and the reference gradient-coding protocol.

peers.py starts these; alone they measure nothing. Model, data, batches, optimizer and delays are those of a gcdl config.

    python benchmarks/peer_ranks.py allreduce --config CONFIG --result FILE      # under mpirun
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gcdl.config import Experiment, load
from gcdl.stragglers import delays_at
from gcdl.types import aligned_vector


@dataclass
class Measured:
    """What a peer's first rank saw: seconds of each step, and the model every so many steps, judged when the job is over."""

    experiment: Experiment
    result: Path
    seconds: list[float]
    models: list[tuple[int, np.ndarray]]
    began: float = 0.0

    @classmethod
    def of(cls, config: Path, result: Path) -> Measured:
        """Start measuring a job."""
        loaded = load(config)
        return cls(Experiment.of(loaded, loaded.workers or 0).check(), result, [], [])

    def step(self, step: int, parameters: Callable[[], np.ndarray]) -> None:
        """A step is done; what is kept for later takes no time of it."""
        self.seconds.append(time.perf_counter() - self.began)
        if (step + 1) % self.experiment.config.run.eval_every == 0:
            self.models.append((step + 1, parameters().copy()))
        self.begin()

    def begin(self) -> None:
        """The next step begins."""
        self.began = time.perf_counter()

    def write(self) -> None:
        """The job is over: judge the models, and write."""
        ended = time.time()
        evaluator = self.experiment.problem.evaluator()
        losses = [[step, evaluator.evaluate(model, train=False).test_loss] for step, model in self.models]
        self.result.write_text(json.dumps({"ended": ended, "seconds": self.seconds, "losses": losses}))

    def sleep(self, worker: int, step: int) -> None:
        """Be late, if it is so drawn."""
        delays = delays_at(self.experiment.stragglers, self.experiment.n, self.experiment.config.seed, step)
        time.sleep(float(delays.before_compute[worker]))


def ddp(config: Path, result: Path, rank: int, address: str, hook: list[str]) -> None:
    """Be a rank of DistributedDataParallel."""
    import torch
    import torch.distributed as dist
    from torch.distributed.algorithms.ddp_comm_hooks import default_hooks, powerSGD_hook
    from torch.nn.functional import cross_entropy
    from torch.nn.parallel import DistributedDataParallel

    from gcdl.problems.minibatches import minibatch

    torch.set_num_threads(1)
    measured = Measured.of(config, result)
    experiment, problem = measured.experiment, measured.experiment.problem
    part = problem.load(np.array([rank]))[rank]
    flat = problem.module  # type: ignore[attr-defined]
    dist.init_process_group("gloo", init_method=f"tcp://{address}", rank=rank, world_size=experiment.n)
    # PowerSGD's later collectives start in callbacks; over gloo those of several buckets can come in another order on each
    # rank, and wait for ever: it gets a single bucket.
    model = DistributedDataParallel(flat.module, bucket_cap_mb=1024 if hook[:1] == ["powersgd"] else None)
    if hook[:1] == ["fp16"]:
        model.register_comm_hook(None, default_hooks.fp16_compress_hook)
    elif hook:
        state = powerSGD_hook.PowerSGDState(None, matrix_approximation_rank=int(hook[1]), start_powerSGD_iter=2)
        model.register_comm_hook(state, powerSGD_hook.powerSGD_hook)
    recipe: Any = experiment.optimizer
    optimizer = torch.optim.SGD(model.parameters(), lr=recipe.lr, momentum=recipe.momentum)
    source = problem.source  # type: ignore[attr-defined]
    share = experiment.n * len(part.labels) / source.train_size  # DDP averages over ranks
    dist.barrier()
    measured.begin()
    for step in range(experiment.config.steps):
        measured.sleep(rank, step)
        batch = minibatch(len(part.labels), problem.batch_size, experiment.config.seed, rank, step)  # type: ignore[attr-defined]
        images = part.images[batch].astype(np.float32)[:, None] * (2.0 / source.brightest) - 1.0
        loss = share * cross_entropy(model(torch.from_numpy(images.astype(np.float32))), torch.from_numpy(part.labels[batch]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if rank == 0:
            measured.step(step, flat.gather)
    dist.barrier()
    if rank == 0:
        measured.write()
    dist.destroy_process_group()
    os._exit(0)  # what torch still runs in threads (PowerSGD's hook) at times aborts a process that ends the usual way


def allreduce(config: Path, result: Path) -> None:
    """Be a rank of synchronous SGD with MPI_Allreduce."""
    from mpi4py import MPI

    comm, measured = MPI.COMM_WORLD, Measured.of(config, result)
    experiment, problem, rank = measured.experiment, measured.experiment.problem, comm.rank
    parameters = problem.initial_parameters()
    optimizer = experiment.optimizer.build(parameters)
    gradient = problem.gradient(problem.load(np.array([rank])), np.array([rank]), np.array([1.0]))
    total = aligned_vector(parameters.size)
    one_thread()
    comm.Barrier()
    measured.begin()
    for step in range(experiment.config.steps):
        measured.sleep(rank, step)
        finish(gradient.compute(parameters, step, total))
        comm.Allreduce(MPI.IN_PLACE, total)
        optimizer.step(total)
        if rank == 0:
            measured.step(step, lambda: parameters)
    comm.Barrier()
    if rank == 0:
        measured.write()


def reference(config: Path, result: Path) -> None:
    """Be a rank of the reference gradient-coding protocol: rank 0 the master, the others workers."""
    from mpi4py import MPI

    comm, measured = MPI.COMM_WORLD, Measured.of(config, result)
    experiment, problem = measured.experiment, measured.experiment.problem
    code, n, steps = experiment.code, experiment.n, experiment.config.steps
    parameters = problem.initial_parameters()
    one_thread()
    if comm.rank:
        worker = comm.rank - 1
        shards = code.shards(worker)
        gradient = problem.gradient(problem.load(shards), shards, code.B[worker, shards])
        coded = aligned_vector(parameters.size)
        comm.Barrier()
        for step in range(steps):  # every round, in order, however old it is
            comm.Recv(parameters, 0, tag=step)
            measured.sleep(worker, step)
            finish(gradient.compute(parameters, step, coded))
            comm.Send(coded, 0, tag=step)
        comm.Barrier()
        return
    optimizer = experiment.optimizer.build(parameters)
    decoded = aligned_vector(parameters.size)
    flying: list[tuple[Any, np.ndarray]] = []
    comm.Barrier()
    measured.begin()
    for step in range(steps):
        model = parameters.copy()  # a slow worker is sent it when it comes to this round
        flying += [(comm.Isend(model, i + 1, tag=step), model) for i in range(n)]
        replies = [np.empty_like(parameters) for _ in range(n)]
        requests = [comm.Irecv(replies[i], i + 1, tag=step) for i in range(n)]
        arrived = np.zeros(n, dtype=bool)
        while arrived.sum() < n - code.stragglers:
            arrived[MPI.Request.Waitany(requests)] = True
        a = code.decoding_vector(arrived)
        decoded.fill(0.0)
        for i in np.flatnonzero(arrived):
            decoded += np.float32(a[i]) * replies[i]
        optimizer.step(decoded)
        flying += [(requests[i], replies[i]) for i in np.flatnonzero(~arrived)]
        flying = [(request, buffer) for request, buffer in flying if not request.Test()]
        measured.step(step, lambda: parameters)
    MPI.Request.Waitall([request for request, _ in flying])
    comm.Barrier()
    measured.write()


def finish(stretches: Iterator[float]) -> None:
    """Compute a gradient to its end."""
    for _ in stretches:
        pass


def one_thread() -> None:
    """Hold torch to one thread: the cores are the ranks'."""
    import torch

    torch.set_num_threads(1)


def main() -> None:
    """Be a rank."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("role", choices=["ddp", "allreduce", "reference"])
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--result", type=Path, required=True, help="what the first rank measured, as JSON")
    parser.add_argument("--rank", type=int, default=0, help="ddp: which")
    parser.add_argument("--address", default="", help="ddp: HOST:PORT of the first")
    parser.add_argument("--hook", default="", help="ddp: fp16, or powersgd,RANK; none when left out")
    given = parser.parse_args()
    if given.role == "ddp":
        ddp(given.config, given.result, given.rank, given.address, [part for part in given.hook.split(",") if part])
    else:
        {"allreduce": allreduce, "reference": reference}[given.role](given.config, given.result)


if __name__ == "__main__":
    main()
