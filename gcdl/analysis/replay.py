"""``gcdl replay``: run a recorded run again in this process, from the arrived sets of ``steps.jsonl``, and compare.

The arrived sets decide the model: they are in the record, and everything else follows from the config. So each step's loss,
decoding error, noise gain and gradient norm must be those recorded, and at the end the SHA-256 of the model.

A run that was re-coded changes its code in the same steps. One that was resumed with another number of workers, another code,
compressor or downlink is replayed part by part: each goes on from the model of the part before, as the resumed run did.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from gcdl.config import Codings, Experiment
from gcdl.errors import DataError, GcdlError, Interrupted, ReplayDiffers
from gcdl.host.stop_request import StopRequest
from gcdl.protocol.master import Master
from gcdl.protocol.recoding import RecodeAsRecorded
from gcdl.protocol.step_record import StepRecord
from gcdl.protocol.wire import HEADER_BYTES
from gcdl.protocol.worker import Worker
from gcdl.training.build import limit_threads, make_workers
from gcdl.training.carried_over import carry_over, downlink_arrays
from gcdl.training.run_files import STEPS
from gcdl.training.run_parts import changed
from gcdl.training.run_reader import History, read_run
from gcdl.training.slices import local_slices
from gcdl.training.summary import model_sha256
from gcdl.transport.recorded import AsRecorded, ReplayTransport

_COMPARED = ("replies", "train_loss", "decoding_error", "noise_gain", "gradient_norm")


def replay(path: Path, progress: Callable[[int, int], None] = lambda done, total: None) -> str:
    """Replay a run folder; return the sentence that it is the same run. ``progress`` is called with (steps done, steps).

    Raises
    ------
    DataError, ConfigError : no run folder, or one that no run wrote; a missing data file.
    ReplayDiffers : the first step that differs, or the model at the end.
    Interrupted : by Ctrl-C.
    """
    history = read_run(path)
    if not history.steps:
        raise DataError(f"{path / STEPS}: no step was recorded")
    if history.summary is not None and history.summary.get("model_sha256") is None:
        raise DataError(f"{path}: a timing-only simulation has no model to replay")
    stop = StopRequest()
    total = len(history.steps)
    part: _Part | None = None
    with stop.listening():
        for first, end in _stretches(history):
            part = _Part.begin(history, first, part, stop)
            try:
                for record in part.master.run(end):
                    _compare(history, record)
                    progress(record.step + 1, total)
            except (ReplayDiffers, DataError, Interrupted):
                raise
            except GcdlError as error:
                where = f"{path}: step {part.master.steps_done}"
                raise ReplayDiffers(f"{where}: the replay fails where the run went on: {error}") from error
    assert part is not None
    found = model_sha256(part.master.slices.parameters)
    if history.summary is None:
        return f"{total} steps are the same; the run did not end well, so there is no fingerprint to compare {found} with"
    expected, steps = history.summary["model_sha256"], history.summary.get("steps")
    if steps != total:
        raise ReplayDiffers(f"{path}: {STEPS} has {total} steps, the summary says {steps}")
    if found != expected:
        raise ReplayDiffers(f"{path}: every step is the same, but not the model: {found}, the summary says {expected}")
    return f"identical: {total} steps, model {found}"


def _stretches(history: History) -> list[tuple[int, int]]:
    """Return (first step, step after the last) of the parts of a run that are replayed by an experiment each."""
    again = {line["step"] for line in history.steps if (line.get("recoded") or {}).get("configured")}
    begins = sorted({0, *again, *(first for first, _ in history.parts if 0 < first < len(history.steps))})
    return list(itertools.pairwise([*begins, len(history.steps)]))


@dataclass(frozen=True)
class _Part:
    """One part of a run, being replayed."""

    experiment: Experiment
    workers: Sequence[Worker]
    master: Master

    @classmethod
    def begin(cls, history: History, first: int, before: _Part | None, stop: StopRequest) -> _Part:
        """Return the part that begins at step ``first``; ``before``: the part before it, at its end."""
        config = history.config_at(first)
        experiment = Experiment.of(config, config.workers or history.workers).check()
        workers = make_workers(experiment)
        codec = experiment.compressor.codec(experiment.problem.layout())
        replies, fresh = ([line[key] for line in history.steps] for key in ("replies", "fresh"))
        master = Master(
            ReplayTransport(workers, replies, fresh, stop),
            code=experiment.code,
            slices=local_slices(experiment, codec),
            wait=AsRecorded(),
            recoder=_recoder(experiment, history),
        )
        limit_threads(experiment)
        part = cls(experiment, workers, master)
        if before is not None:
            part._go_on(before)
        return part

    def _go_on(self, before: _Part) -> None:
        """Begin with the model of the part before, and the compressors' states that it hands over."""
        tables = changed(before.experiment.config.toml(), self.experiment.config.toml())
        master, same = before.master, "compressor" not in tables
        carried = carry_over(master.code.B, self.experiment.code.B, master.accepted, same_compressor=same)
        if self.workers[0].state_bytes:
            for worker, source in carried.sources.items():
                if (accepted := int(master.accepted[source])) >= 0:
                    self.workers[worker].load(before.workers[source].save(accepted)[HEADER_BYTES:])
        slices = master.slices
        downlink = downlink_arrays(slices.downlink_state(), tables)
        self.master.resume(master.steps_done, carried.accepted, {}, slices.parameters, slices.optimizer_state(), downlink)


def _recoder(experiment: Experiment, history: History) -> RecodeAsRecorded:
    """Return what changes the code in the steps in which the run did. An experiment begins with its own code.

    Raises
    ------
    DataError : a line describes no code for the run's workers and shards.
    """
    codings = {}
    for line in history.steps:
        recoded = line.get("recoded")
        if recoded is None or recoded.get("configured") or history.config_at(line["step"]).workers != experiment.n:
            continue
        try:
            codings[line["step"]] = Codings(experiment).of_record(recoded, AsRecorded())
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"{history.path / STEPS}, line {line['step'] + 1}: {error}") from None
    return RecodeAsRecorded(codings)


def _compare(history: History, record: StepRecord) -> None:
    """Raise ReplayDiffers if a step is not as recorded."""
    line, again = history.steps[record.step], record.line()
    for key in _COMPARED:
        if line[key] != again[key]:
            raise ReplayDiffers(f"{history.path}: step {record.step}: {key} was {line[key]!r}, replayed it is {again[key]!r}")
