"""What a logger is: a tool that a run's figures go to, step by step, beside the run folder."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

_SCALARS = {
    "train_loss": "loss/train", "test_loss": "loss/test", "test_accuracy": "accuracy/test", "seconds": "step/seconds",
    "lr": "step/learning rate", "decoding_error": "step/decoding error", "noise_gain": "step/noise gain",
    "gradient_norm": "step/gradient norm", "late": "step/late replies", "uplink_bytes": "bytes/up",
    "downlink_bytes": "bytes/down",
}  # fmt: skip
"""Fields of a step's line, and what they are called in a logger."""


class Logger(Protocol):
    """Takes a run's figures. Any object with these methods will do."""

    def begin(self, config: Mapping[str, Any], folder: Path) -> None:
        """The run starts: its config, as tables, and its folder. Called again if the logger is used for another run.

        Raises
        ------
        UsageError : the tool is not installed, or can't be used.
        """
        ...

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        """Take the figures of a step, by name (``loss/train``)."""
        ...

    def end(self, summary: Mapping[str, Any] | None) -> None:
        """The run is over: the fields of ``summary.json``, None if it ended early."""
        ...


def figures_of(line: Mapping[str, Any]) -> dict[str, float]:
    """Return the figures of a line of ``steps.jsonl``, by the names that loggers have for them."""
    found = {tag: line.get(key) for key, tag in _SCALARS.items()}
    found |= {f"metrics/{name}": value for name, value in line.get("metrics", {}).items()}
    found["step/replies"] = len(line["replies"])
    return {tag: float(value) for tag, value in found.items() if value is not None}


class Loggers:
    """All loggers of a run. One that fails later is said, and is not used any more: it does not end the run."""

    def __init__(self, loggers: Iterable[Logger], say: Callable[[str], None]) -> None:
        self._all = list(loggers)
        self._say = say

    def begin(self, config: Mapping[str, Any], folder: Path) -> None:
        """See :class:`Logger`; raises what it raises."""
        for logger in self._all:
            logger.begin(config, folder)

    def log(self, line: Mapping[str, Any]) -> None:
        """Log a step: a line of ``steps.jsonl``."""
        if self._all:
            figures = figures_of(line)
            self._tell_all(lambda logger: logger.log(int(line["step"]), figures))

    def end(self, summary: Mapping[str, Any] | None) -> None:
        """See :class:`Logger`. Idempotent."""
        self._tell_all(lambda logger: logger.end(summary))
        self._all = []

    def _tell_all(self, tell: Callable[[Logger], None]) -> None:
        for logger in list(self._all):
            try:
                tell(logger)
            except Exception as error:  # of any tool, and of the network behind it
                self._all.remove(logger)
                self._say(f"{type(logger).__name__} takes no more figures: {type(error).__name__}: {error}")
