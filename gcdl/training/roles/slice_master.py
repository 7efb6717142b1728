"""A rank that is a slice master: it owns one slice of the model, and does what rank 0 decides."""

from __future__ import annotations

from typing import Any

import numpy as np

from gcdl.codes import DECODERS
from gcdl.config import Experiment
from gcdl.protocol.model_slices import ModelSlice
from gcdl.protocol.task_format import TaskFormat
from gcdl.protocol.wire import HEADER_BYTES
from gcdl.training.build import limit_threads, make_ends, master_threads
from gcdl.training.slices import one_of_the_slices, parts_for, slice_ends, whole_model_bytes
from gcdl.transport.mpi.job import Job
from gcdl.transport.mpi.master_end import MpiTransport
from gcdl.transport.mpi.slice_master_end import SliceMaster, wait_for_end
from gcdl.types import aligned_buffer


def serve_slice(job: Job, experiment: Experiment, shared: dict[str, Any]) -> None:
    """Be the master of this rank's slice until rank 0 says that the run is over. ``shared``: what rank 0 told all ranks.

    Raises
    ------
    MasterGone : rank 0 is gone, or silent for too long.
    """
    layout = experiment.problem.layout()
    codec = experiment.compressor.codec(layout)
    parts = parts_for(codec, layout.size, shared["masters"])
    if parts is None or job.rank >= len(parts):  # the model is too small for so many masters
        wait_for_end(job, shared["run"], shared["master_timeout"])
        return
    part, decoder = parts[job.rank], DECODERS[shared["decoder"]]
    options = experiment.config.run
    master = SliceMaster(
        job,
        run=shared["run"],
        n=experiment.n,
        steps=experiment.config.steps,
        master_timeout=shared["master_timeout"],
        verify=experiment.config.choices["code"].values["verify"],
        noise=decoder.needs_noise,
    )
    transport = MpiTransport(
        job,
        run=shared["run"],
        interrupted=master.stopping,
        say=lambda line: None,  # rank 0 speaks to the user
        spares=options.spares,
        masters=shared["masters"],
        shared_memory=options.shared_memory,
    )

    def build() -> ModelSlice:
        limit_threads(experiment)
        part.codec.threads = master_threads(experiment)
        ends = slice_ends(make_ends(experiment, codec, np.array(shared["shifts"]), decoder), part)
        size = part.where.stop - part.where.start
        parameters = aligned_buffer(4 * size).view(np.float32)
        parameters[:] = ends.initial()
        return one_of_the_slices(experiment, ends, parameters)

    def start() -> None:
        transport.start(
            TaskFormat(0, part.codec.agreed_count, checksums=options.checksums),
            HEADER_BYTES + part.codec.payload_bytes,
            options.start_timeout,
            whole_bytes=whole_model_bytes(experiment, part),
        )

    master.serve(build, transport, start)
