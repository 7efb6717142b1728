"""Weights & Biases. Needs the extra ``wandb``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gcdl.errors import UsageError
from gcdl.host.installation import pip_install


class WandB:
    """Logs a run to Weights & Biases; its local files lie in the run folder.

    Parameters
    ----------
    project : the project's name.
    name : the run's name; that of the run folder when left out.
    settings : further arguments of ``wandb.init``: ``mode="offline"``, ``entity="me"``.
    """

    def __init__(self, project: str = "gcdl", name: str | None = None, **settings: Any) -> None:
        self._project = project
        self._name = name
        self._settings = settings

    def begin(self, config: Mapping[str, Any], folder: Path) -> None:
        """Start a run there.

        Raises
        ------
        UsageError : wandb is not installed.
        """
        try:
            import wandb
        except ImportError:
            raise UsageError(f"Weights & Biases needs the extra: {pip_install('wandb')}") from None
        self._run = wandb.init(
            project=self._project, name=self._name or folder.name, dir=str(folder), config=dict(config), **self._settings
        )

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        """Log a step."""
        self._run.log(dict(figures), step=step)

    def end(self, summary: Mapping[str, Any] | None) -> None:
        """Hand over the summary, and end the run there: as failed if it ended early."""
        if summary is not None:
            self._run.summary.update({name: value for name, value in summary.items() if isinstance(value, int | float | str)})
        self._run.finish(exit_code=0 if summary is not None else 1)
