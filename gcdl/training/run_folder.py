"""What a step measured, what a run came to, and the folder both are written to.

::

    config.toml     the resolved config: running it again is the same run
    manifest.json   versions, host, ranks, commit
    steps.jsonl     a line a step
    timeline.json   Trace Event format: open it in Perfetto (ui.perfetto.dev)
    summary.json    written last: its presence says that the run ended well
    checkpoint/     see gcdl.training.checkpoint_file
    model.pt        the trained model, for torch.load
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from gcdl.errors import GcdlError, UsageError
from gcdl.protocol.ledger import Ledger
from gcdl.training.durable_file import Journal, lock
from gcdl.training.trace_events import StepTiming, Timeline
from gcdl.types import Vector, Weights

CONFIG, MANIFEST, STEPS, SUMMARY, TIMELINE, MODEL = (
    "config.toml",
    "manifest.json",
    "steps.jsonl",
    "summary.json",
    "timeline.json",
    "model.pt",
)


@dataclass(slots=True)
class StepRecord:
    """What one step measured.

    A line of ``steps.jsonl`` has the same fields, but for ``coverage``, ``timing`` and ``ledger``. In their place it has the
    bytes of :meth:`gcdl.protocol.ledger.Ledger.fields`. It also has two times for each of ``replies``: ``reply_seconds`` (from
    the step's beginning until the reply came) and ``compute_seconds`` (computing and encoding).

    Attributes
    ----------
    step : from 0.
    seconds : of the step, from its task to the new model; evaluation left out.
    train_loss : of the minibatches of the replies decoded, estimated by the same weights a; before the step.
    replies : ids of the workers decoded, ascending.
    late : stale replies dropped during the step (in the last step: and while shutting down).
    decoding_error : ||a B - 1||; 0: the decoded gradient is the sum over all shards, but for compression (Tandon et al. 2017).
    noise_gain : ||a||, what decoding does to compression noise that is independent from worker to worker.
    gradient_norm : Euclidean norm of the decoded gradient; NaN where there is none (timing only).
    timed_out : the step ended at [wait] timeout, with fewer replies than the rule asks for.
    lost : ids of all workers lost so far.
    disagreed : ids of workers whose replies were not those of their replicas; see :mod:`gcdl.protocol.replica_check`.
    clipped : coordinates of the replies used that lay beyond the scale agreed on (``compressor.agreed``).
    fresh : ids of workers whose compressor had begun afresh since the last step: a successor's, or one a checkpoint lacked.
    coverage : (k,) a B, the weight each shard entered with; 1 is right.
    timing : seconds of each part of the step, as the timeline has them.
    ledger : bytes by worker and kind.
    test_loss, test_accuracy : of the model after the step; None in steps without an evaluation. An accuracy is 0 to 1.
    metrics : the user's own figures, by name; what is added before the next step is asked for is written too.
    """

    step: int
    seconds: float
    train_loss: float
    replies: list[int]
    late: int
    decoding_error: float
    noise_gain: float
    gradient_norm: float
    timed_out: bool
    lost: list[int]
    disagreed: list[int]
    clipped: int
    fresh: list[int]
    coverage: Weights
    timing: StepTiming
    ledger: Ledger = field(default_factory=Ledger)
    test_loss: float | None = None
    test_accuracy: float | None = None
    metrics: dict[str, float] = field(default_factory=dict)

    @property
    def uplink_bytes(self) -> int:
        """Bytes of the replies that came in during the step, headers included."""
        return int(self.ledger.up.sum())

    @property
    def downlink_bytes(self) -> int:
        """Bytes of the tasks that went out during the step, headers included."""
        return int(self.ledger.down.sum())

    def line(self) -> dict[str, Any]:
        """Return the record as JSON-ready fields, evaluation only where there was one."""
        fields = {name: getattr(self, name) for name in self.__slots__ if name not in ("coverage", "timing", "ledger")}
        if self.test_loss is None and self.test_accuracy is None:
            del fields["test_loss"], fields["test_accuracy"]
        fields |= self.ledger.fields()
        if self.metrics:
            fields["metrics"] = _finite(self.metrics)
        else:
            del fields["metrics"]
        replies = self.timing.replies
        fields["reply_seconds"] = np.round(replies["received"] - self.timing.began, 6).tolist()
        fields["compute_seconds"] = np.round(replies["computed"] + replies["encoded"], 6).tolist()
        return _finite(fields)


@dataclass(frozen=True)
class Summary:
    """What a run came to; ``summary.json``. Seconds, and bytes of tasks and replies handed to MPI, headers included.

    Attributes
    ----------
    steps : done.
    seconds : sum of the steps' seconds: evaluation, start-up and shutdown left out.
    wall_seconds : the whole job: from the launch to the end of the shutdown.
    wait_for_all_seconds : estimate of the wall_seconds of a run that waits for every worker in each step; None: it would
        never end.
    final_train_loss, final_test_loss, final_test_accuracy : of the last evaluation; None where there was none.
    final_metrics : the problem's own figures of the test set, by name.
    uplink_bytes : of replies.
    downlink_bytes : delivered to workers: also what they read in the master's memory.
    uplink_header_bytes : of ``uplink_bytes``, the headers.
    downlink_header_bytes : of ``downlink_bytes``, all that is neither model nor update.
    shared_bytes : of ``downlink_bytes``, what was read in the master's memory and crossed no link.
    float32_uplink_bytes : what the same replies would have taken uncompressed.
    control_bytes : start-up, shutdown and flow control, both ways; not in the figures above.
    clipped_coordinates : of the replies used, beyond the scale agreed on; see ``compressor.agreed``.
    resent_models : how often which worker's copy of the model was found to be wrong, and was sent anew.
    late_replies : stale ones, dropped.
    timed_out_steps : steps that ended at [wait] timeout.
    foreign_messages : messages that were none of this run's, dropped.
    lost_workers : ids.
    replaced_workers : ids of workers whose place a spare or a new process took, in the order of it; of a resumed run: in its
        last part.
    losses_left : how many more workers could have been lost, whoever they are.
    disagreeing_workers : in how many steps which worker's reply was not that of its replicas; only if [code] verify is on.
    model_sha256 : of the trained parameters, (d,) float32; None: no model was trained (timing only).
    parameters : d.
    workers : n.
    shard_coverage : (k,) the weight each shard entered with, mean over the steps; 1 is right, 0 means that it was never seen.
    link_share : share of ``seconds`` in which the master's link was occupied; None: real, not simulated.
    master_share : share of ``seconds`` in which the master decoded and stepped; None: real, not simulated.
    resumed : how often the run was resumed. The seconds and bytes are those of all its parts, up to the checkpoints used.
    warnings : what makes this run's figures worse than they need be.
    """

    steps: int
    seconds: float
    wall_seconds: float
    wait_for_all_seconds: float | None
    final_train_loss: float | None
    final_test_loss: float | None
    final_test_accuracy: float | None
    final_metrics: dict[str, float]
    uplink_bytes: int
    downlink_bytes: int
    uplink_header_bytes: int
    downlink_header_bytes: int
    shared_bytes: int
    float32_uplink_bytes: int
    control_bytes: int
    clipped_coordinates: int
    resent_models: dict[str, int]
    late_replies: int
    timed_out_steps: int
    foreign_messages: int
    lost_workers: list[int]
    replaced_workers: list[int]
    losses_left: int
    disagreeing_workers: dict[str, int]
    model_sha256: str | None
    parameters: int
    workers: int
    shard_coverage: list[float]
    link_share: float | None
    master_share: float | None
    resumed: int
    warnings: list[str]

    def fields(self) -> dict[str, Any]:
        """Return the summary as JSON-ready fields."""
        return _finite(asdict(self))


@dataclass
class Totals:
    """Running sums over a run's records."""

    steps: int = 0
    seconds: float = 0.0
    extra_seconds: float = 0.0
    """How much longer waiting for all would have taken (estimate), inf: for ever."""
    replies: int = 0
    late: int = 0
    timed_out: int = 0
    uplink_bytes: int = 0
    downlink_bytes: int = 0
    uplink_header_bytes: int = 0
    downlink_header_bytes: int = 0
    shared_bytes: int = 0
    clipped: int = 0
    resent: dict[str, int] = field(default_factory=dict)
    lost: list[int] = field(default_factory=list)
    disagreed: dict[str, int] = field(default_factory=dict)
    coverage: Weights | float = 0.0
    """(k,): sum over the steps of the weight each shard entered with."""

    def add(self, record: StepRecord, delays: Weights) -> None:
        """Take in a step, whose injected delays were ``delays``, (n,) seconds."""
        self.steps += 1
        self.seconds += record.seconds
        self.replies += len(record.replies)
        self.late += record.late
        self.timed_out += record.timed_out
        self.uplink_bytes += record.ledger.uplink_bytes
        self.downlink_bytes += record.ledger.downlink_bytes
        self.uplink_header_bytes += int(record.ledger.up[:, 1].sum())
        self.downlink_header_bytes += int(record.ledger.down[:, 1].sum())
        self.shared_bytes += record.ledger.shared
        self.clipped += record.clipped
        for place in np.flatnonzero(record.ledger.resent).tolist():
            self.resent[str(place)] = self.resent.get(str(place), 0) + int(record.ledger.resent[place])
        self.lost = record.lost
        for worker in map(str, record.disagreed):
            self.disagreed[worker] = self.disagreed.get(worker, 0) + 1
        self.coverage = self.coverage + record.coverage
        self.extra_seconds += _extra_seconds(record, delays)

    def dump(self) -> dict[str, Any]:
        """Return the sums, JSON-ready."""
        coverage = self.coverage.tolist() if isinstance(self.coverage, np.ndarray) else self.coverage
        return {**asdict(self), "coverage": coverage}

    @classmethod
    def load(cls, dumped: Mapping[str, Any]) -> Totals:
        """Return the sums that were dumped."""
        return cls(**{**dumped, "coverage": np.asarray(dumped["coverage"])})

    def mean_coverage(self) -> Weights:
        """Return the weight each shard entered with, (k,), mean over the steps."""
        return np.atleast_1d(self.coverage / max(self.steps, 1))


def _extra_seconds(record: StepRecord, delays: Weights) -> float:
    """Estimate how much later the last worker's reply would have come: its delay, and a typical reply's other seconds."""
    timing = record.timing
    missing = np.ones(len(delays), dtype=bool)
    missing[record.replies] = False
    missing[record.lost] = False
    if not missing.any() or not len(timing.replies):
        return 0.0
    replies = timing.replies
    typical = float(np.mean(replies["received"] - timing.began - replies["slept"] - replies["held"]))
    return max(0.0, float(delays[missing].max()) + typical - (timing.waited - timing.began))


def model_sha256(parameters: Vector) -> str:
    """Return the SHA-256 of the (d,) float32 parameters, little-endian."""
    return hashlib.sha256(np.ascontiguousarray(parameters, dtype="<f4").tobytes()).hexdigest()


def check_unused(path: Path) -> None:
    """Raise UsageError if ``path`` holds a run already, or is no folder: a run never overwrites another."""
    if path.exists() and not path.is_dir():
        raise UsageError(f"--out {path}: not a folder")
    for name in (CONFIG, STEPS, SUMMARY):
        if (path / name).exists():
            raise UsageError(f"--out {path}: there is a run already ({name}); name another folder, or remove it")


class RunFolder:
    """Writes a run's files. Each line is on disk as soon as it is known, so that a killed run leaves what it did.

    Made for a new run, or by :meth:`reopen` for one that is resumed. A disk that fills up later does not end the run.
    ``workers``: how many rows the timeline has from the beginning.

    Raises
    ------
    UsageError : there is a run already, or the folder can't be written.
    """

    def __init__(
        self,
        path: Path,
        config_toml: str,
        manifest: dict[str, Any],
        say: Callable[[str], None] = lambda line: None,
        *,
        workers: int = 0,
    ) -> None:
        check_unused(path)
        with _writing(path):
            path.mkdir(parents=True, exist_ok=True)
        self._open(path, config_toml, manifest, say, workers)

    @classmethod
    def reopen(
        cls, past: Past, config_toml: str, manifest: dict[str, Any], say: Callable[[str], None], *, workers: int = 0
    ) -> RunFolder:
        """Go on in the folder of a run that was cut (:meth:`Past.cut`) to the step it is resumed from."""
        folder = cls.__new__(cls)
        folder._open(past.folder, config_toml, {**manifest, "resumed": past.resumed}, say, workers)
        return folder

    def _open(self, path: Path, config_toml: str, manifest: dict[str, Any], say: Callable[[str], None], workers: int) -> None:
        with _writing(path):
            self._steps = Journal(path / STEPS, say)
            _replace(path / CONFIG, config_toml)
            _replace(path / MANIFEST, json.dumps(manifest, indent=2) + "\n")
            self._timeline = Timeline(Journal(path / TIMELINE, say, buffered=1 << 16), workers)
        self.path = path

    def write_step(self, record: StepRecord) -> None:
        """Append a step."""
        self._steps.write(json.dumps(record.line()) + "\n")
        self._timeline.add(record.step, record.timing)

    def write_summary(self, summary: Summary) -> None:
        """Write the summary, the last file of a run.

        Raises
        ------
        GcdlError : it can't be written.
        """
        try:
            _replace(self.path / SUMMARY, json.dumps(summary.fields(), indent=2) + "\n")
        except OSError as error:
            raise GcdlError(f"{self.path / SUMMARY}: cannot be written: {error.strerror or error}") from error

    def close(self) -> None:
        """Close the files. Idempotent."""
        self._steps.close()
        self._timeline.close()


@dataclass(frozen=True)
class Past:
    """What a run folder says of a run that is to be resumed.

    Attributes
    ----------
    folder : the run folder.
    config_toml : its resolved config.
    simulated : it ran in one process, on a virtual clock.
    timing_only : only the clock ran.
    resumed : of each time it was resumed: ``step`` (where it went on), ``reached`` (the last step begun before that), when.
    """

    folder: Path
    config_toml: str
    simulated: bool
    timing_only: bool
    resumed: list[dict[str, Any]]

    @classmethod
    def read(cls, folder: Path) -> Past:
        """Read it.

        Raises
        ------
        UsageError : there is no run in this folder, or its files are damaged.
        """
        if not (folder / CONFIG).is_file():
            raise UsageError(f"{folder}: not a run folder: there is no {CONFIG}")
        try:
            config_toml = (folder / CONFIG).read_text(encoding="utf-8")
            manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
            simulated = manifest["transport"] == "simulated"
            timing_only = bool(manifest["timing_only"])
            resumed = [{"step": int(one["step"]), "reached": int(one["reached"]), "at": str(one["at"])}
                       for one in manifest.get("resumed", [])]  # fmt: skip
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            raise UsageError(f"{folder}: {MANIFEST} or {CONFIG} cannot be read: {error}") from None
        return cls(folder, config_toml, simulated, timing_only, resumed)

    @property
    def reached(self) -> int:
        """The last step that had begun, in any part of the run; -1 when none had."""
        lines, _ = self._lines()
        here = lines - 1 if (self.folder / SUMMARY).exists() else lines
        return max(here, *(int(one["reached"]) for one in self.resumed), -1)

    def cut(self, step: int) -> Past:
        """Cut the records to the first ``step`` steps, and note that the run is resumed there.

        Raises
        ------
        UsageError : another process writes there, or the folder can't be written.
        """
        reached = self.reached
        with _writing(self.folder), (self.folder / STEPS).open("a+b") as file:
            lock(file.fileno(), self.folder / STEPS)
            file.truncate(self._lines(step)[1])
            (self.folder / SUMMARY).unlink(missing_ok=True)
            timeline = self.folder / TIMELINE
            if timeline.exists():
                timeline.replace(self.folder / f"timeline-{len(self.resumed)}.json")
        entry = {"step": step, "reached": reached, "at": datetime.now(UTC).isoformat(timespec="seconds")}
        return replace(self, resumed=[*self.resumed, entry])

    def _lines(self, at_most: int | None = None) -> tuple[int, int]:
        """Return how many whole lines ``steps.jsonl`` has, or the first ``at_most``, and how many bytes they take."""
        found = list(itertools.islice(whole_lines(self.folder), at_most))
        return len(found), sum(map(len, found))


def whole_lines(folder: Path) -> Iterator[bytes]:
    """Yield the lines of ``steps.jsonl``, without the one that a killed run was writing, if there is such a one."""
    with suppress(FileNotFoundError), (folder / STEPS).open("rb") as file:
        for line in file:
            if line.endswith(b"\n"):
                yield line


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Turn an OSError of this block into a UsageError."""
    try:
        yield
    except OSError as error:
        raise UsageError(f"{path}: cannot be written: {error.strerror or error}") from error


def _replace(path: Path, text: str) -> None:
    """Write a small file so that there is never half of it."""
    draft = path.with_name(f".{path.name}.draft")
    try:
        draft.write_text(text, encoding="utf-8")
        draft.replace(path)
    finally:
        with suppress(OSError):
            draft.unlink(missing_ok=True)


def _finite(fields: dict[str, Any]) -> dict[str, Any]:
    """Replace NaN and infinities, which JSON does not have, by None."""
    return {name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in fields.items()}
