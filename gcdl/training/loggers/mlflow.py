"""MLflow. Needs the extra ``mlflow``."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from gcdl.errors import UsageError
from gcdl.host.installation import pip_install

_PARAM_LENGTH = 500
"""Longer values are refused by some servers."""


class MLflow:
    """Logs a run to MLflow.

    Parameters
    ----------
    tracking_uri : of the server or the database: ``sqlite:///runs.db``; when left out, what MLflow itself goes by
        (``MLFLOW_TRACKING_URI``).
    experiment : the experiment's name; made if it is not there.
    name : the run's name; that of the run folder when left out.
    """

    def __init__(self, tracking_uri: str | None = None, experiment: str = "gcdl", name: str | None = None) -> None:
        self._uri = tracking_uri
        self._experiment = experiment
        self._name = name

    def begin(self, config: Mapping[str, Any], folder: Path) -> None:
        """Start a run there.

        Raises
        ------
        UsageError : mlflow is not installed.
        """
        try:
            from mlflow.entities import Metric
            from mlflow.tracking import MlflowClient
        except ImportError:
            raise UsageError(f"MLflow needs the extra: {pip_install('mlflow')}") from None
        self._metric = Metric
        self._client = MlflowClient(tracking_uri=self._uri)
        found = self._client.get_experiment_by_name(self._experiment)
        experiment = found.experiment_id if found is not None else self._client.create_experiment(self._experiment)
        self._run = self._client.create_run(experiment, run_name=self._name or folder.name).info.run_id
        for key, value in _flat(config):
            self._client.log_param(self._run, key, str(value)[:_PARAM_LENGTH])

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        """Log a step."""
        now = int(time.time() * 1000)
        metrics = [self._metric(name, value, now, step) for name, value in figures.items()]
        self._client.log_batch(self._run, metrics=metrics)

    def end(self, summary: Mapping[str, Any] | None) -> None:
        """Hand over the summary's numbers as metrics, and end the run there: as failed if it ended early."""
        for name, value in ({} if summary is None else summary).items():
            if isinstance(value, int | float):
                self._client.log_metric(self._run, f"summary/{name}", value)
        self._client.set_terminated(self._run, "FINISHED" if summary is not None else "FAILED")


def _flat(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the config's keys by their dotted path."""
    for key, value in config.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
