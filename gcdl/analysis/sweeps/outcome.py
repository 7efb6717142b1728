"""What a cell of a sweep came to: its figures, and its curve at the steps with an evaluation; ``cell.json``.

*Payload bits* are what the workers sent up, without the headers of the messages: at d = 100 a header is most of a message, and
says nothing of a method. *Bytes* are all that was handed to MPI, in both directions.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from gcdl.config import Config, load
from gcdl.errors import DataError, UsageError
from gcdl.protocol.wire import HEADER_BYTES
from gcdl.training.run_files import CONFIG
from gcdl.training.run_reader import History

CELL = "cell.json"
FIGURES = (
    "steps", "seconds", "wall_seconds", "final_train_loss", "final_test_loss", "final_test_accuracy", "payload_bits",
    "uplink_bytes", "downlink_bytes", "late_replies",
)  # fmt: skip
"""Of a whole run. ``wall_seconds`` only where they were measured: those of a simulation say nothing of a job."""
TO_TARGET = ("steps_to_target", "seconds_to_target", "payload_bits_to_target", "bytes_to_target")
"""Until the first evaluation with a test loss at or below the target."""
_SUMS = {"steps": "steps", "seconds": "seconds", "payload_bits": "payload_bits", "bytes": "bytes"}


@dataclass(frozen=True)
class Outcome:
    """``curve``: lists of equal length, sums since the start but for ``test_loss`` and ``test_accuracy``."""

    status: Literal["done", "failed"]
    message: str = ""
    figures: Mapping[str, float | None] = field(default_factory=dict)
    curve: Mapping[str, Sequence[float | None]] = field(default_factory=dict)

    def figure(self, name: str, target: float | None) -> float | None:
        """Return a figure of :data:`FIGURES` or :data:`TO_TARGET`; None where there is none, or it is not finite."""
        if name not in TO_TARGET:
            return self.figures.get(name)
        if target is None:
            return None
        for place, loss in enumerate(self.curve.get("test_loss", ())):
            if loss is not None and loss <= target:
                return self.curve[name.removesuffix("_to_target")][place]
        return None

    @classmethod
    def of(cls, run: History) -> Outcome:
        """Return that of a finished run."""
        assert run.summary is not None
        curve: dict[str, list[float | None]] = {name: [] for name in (*_SUMS, "test_loss", "test_accuracy")}
        sums = dict.fromkeys(_SUMS, 0.0)
        for line in run.steps:
            sums["steps"] += 1
            sums["seconds"] += line["seconds"]
            headers = HEADER_BYTES * (len(line["replies"]) + line["late"])
            sums["payload_bits"] += 8 * (line["uplink_bytes"] - headers)
            sums["bytes"] += line["uplink_bytes"] + line["downlink_bytes"]
            if "test_loss" in line:
                for name, value in {**sums, **{name: line.get(name) for name in ("test_loss", "test_accuracy")}}.items():
                    curve[name].append(value)
        figures = {name: run.summary.get(name) for name in FIGURES}
        figures["payload_bits"] = sums["payload_bits"]
        return cls("done", figures={name: _finite(value) for name, value in figures.items()}, curve=curve)

    def write(self, folder: Path) -> None:
        """Write ``cell.json``: a cell that has one is over."""
        draft = folder / f".{CELL}.draft"
        draft.write_text(json.dumps(asdict(self)) + "\n", encoding="utf-8")
        draft.replace(folder / CELL)


def read_outcome(folder: Path, config: Config) -> Outcome | None:
    """Return what became of a cell; None: it is not over.

    Raises
    ------
    UsageError : it was run with another config than ``config``; names the keys.
    DataError : its files can't be read.
    """
    if not (folder / CELL).exists():
        return None
    if (folder / CONFIG).exists():
        before = load(folder / CONFIG)
        if config.leaves_local_steps_open:  # the run has chosen a number
            config = config.with_values("problem", local_steps=before.choices["problem"].values.get("local_steps"))
        old, new = _flat(before), _flat(config)
        other = sorted(key for key in old.keys() | new.keys() if old.get(key) != new.get(key))
        if other:
            raise UsageError(
                f"{folder}: was run with another {', '.join(other)} than the suite says now; "
                "name another folder with --out, or remove this one"
            )
    try:
        return Outcome(**json.loads((folder / CELL).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise DataError(f"{folder / CELL}: cannot be read: {error}") from None


def _flat(config: Config) -> dict[str, Any]:
    """Return a config's values by dotted key, k among them."""
    assert config.workers is not None
    config = config.for_workers(config.workers)
    tables = {name: choice.table() for name, choice in config.choices.items()}
    tables |= {"run": config.run.model_dump(), "simulate": config.simulate.model_dump()}
    flat = {f"{name}.{key}": value for name, table in tables.items() for key, value in table.items()}
    return {**flat, "seed": config.seed, "workers": config.workers, "steps": config.steps}


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
