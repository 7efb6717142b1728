"""``gcdl replay``: run a recorded run again in this process, from the arrived sets of ``steps.jsonl``, and compare.

The arrived sets decide the model: they are in the record, and everything else follows from the config. So each step's loss,
decoding error, noise gain and gradient norm must be those recorded, and at the end the SHA-256 of the model.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from gcdl.config import Codings, Experiment
from gcdl.errors import DataError, GcdlError, Interrupted, ReplayDiffers
from gcdl.host.stop_request import StopRequest
from gcdl.protocol.master import Master
from gcdl.protocol.recoding import RecodeAsRecorded
from gcdl.protocol.step_record import StepRecord
from gcdl.training.build import limit_threads, make_workers
from gcdl.training.run_files import STEPS
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
    experiment = Experiment.of(history.config, history.workers).check()
    stop = StopRequest()
    crew = make_workers(experiment)
    codec = experiment.compressor.codec(experiment.problem.layout())
    master = Master(
        ReplayTransport(crew, [line["replies"] for line in history.steps], [line["fresh"] for line in history.steps], stop),
        code=experiment.code,
        slices=local_slices(experiment, codec),
        wait=AsRecorded(),
        recoder=_recoder(experiment, history),
    )
    limit_threads(experiment)
    total = len(history.steps)
    with stop.listening():
        try:
            for record in master.run(total):
                _compare(history, record)
                progress(record.step + 1, total)
        except (ReplayDiffers, DataError, Interrupted):
            raise
        except GcdlError as error:
            raise ReplayDiffers(f"{path}: step {master.steps_done}: the replay fails where the run went on: {error}") from error
    found = model_sha256(master.slices.parameters)
    if history.summary is None:
        return f"{total} steps are the same; the run did not end well, so there is no fingerprint to compare {found} with"
    expected, steps = history.summary["model_sha256"], history.summary.get("steps")
    if steps != total:
        raise ReplayDiffers(f"{path}: {STEPS} has {total} steps, the summary says {steps}")
    if found != expected:
        raise ReplayDiffers(f"{path}: every step is the same, but not the model: {found}, the summary says {expected}")
    return f"identical: {total} steps, model {found}"


def _recoder(experiment: Experiment, history: History) -> RecodeAsRecorded:
    """Return what changes the code in the steps in which the run did.

    Raises
    ------
    DataError : a line describes no code for the run's workers and shards.
    """
    codings = {}
    for line in history.steps:
        if line.get("recoded") is not None:
            try:
                codings[line["step"]] = Codings(experiment).of_record(line["recoded"], AsRecorded())
            except (KeyError, TypeError, ValueError) as error:
                raise DataError(f"{history.path / STEPS}, line {line['step'] + 1}: {error}") from None
    return RecodeAsRecorded(codings)


def _compare(history: History, record: StepRecord) -> None:
    """Raise ReplayDiffers if a step is not as recorded."""
    line, again = history.steps[record.step], record.line()
    for key in _COMPARED:
        if line[key] != again[key]:
            raise ReplayDiffers(f"{history.path}: step {record.step}: {key} was {line[key]!r}, replayed it is {again[key]!r}")
