"""Where a run starts: at step 0 in a new folder, or from the newest good checkpoint of an earlier one."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gcdl.config import RESUMED, Config, Experiment, parse_resumed
from gcdl.config.factories import Given
from gcdl.errors import DataError, UsageError
from gcdl.protocol.master import Master
from gcdl.protocol.wait_rules import LearnsReplyTimes
from gcdl.training.checkpoint_file import Checkpoint, newest
from gcdl.training.past_run import PastRun
from gcdl.training.provenance import manifest, script_command
from gcdl.training.run_files import CONFIG, SUMMARY
from gcdl.training.run_folder import RunFolder, check_unused


@dataclass(frozen=True)
class StartingPoint:
    """What to run, and from where.

    Attributes
    ----------
    config : the config.
    out : the run folder.
    past : the run to resume; None for a new run.
    checkpoint : where to go on; None: at step 0.
    refused : newer checkpoints that can't be used, and why.
    timing_only : a simulation in which only the clock runs: no gradient is computed, nothing of the model's size is allocated.
    """

    config: Config
    out: Path
    past: PastRun | None = None
    checkpoint: Checkpoint | None = None
    refused: Sequence[tuple[Path, DataError]] = ()
    timing_only: bool = False

    @property
    def step(self) -> int:
        """The number of steps done."""
        return 0 if self.checkpoint is None else self.checkpoint.step

    @property
    def since(self) -> int:
        """The first step that no part of the run has begun yet: injected faults before it have struck."""
        return 0 if self.past is None else self.past.reached + 1

    @property
    def way_on(self) -> str:
        """What to do to go on with this run after it has ended early."""
        if self._is_of_a_script and script_command() is None:
            return f"the same script goes on from there with out={str(self.out)!r} and fit(..., resume=True)"
        also = ", and so does the same script with fit(..., resume=True)" if self._is_of_a_script else ""
        return f"gcdl resume {self.out} goes on{also}"

    @property
    def _is_of_a_script(self) -> bool:
        """Whether only the script that made this run can make it again."""
        return any(isinstance(choice, Given) for choice in self.config.choices.values())

    def check(self, experiment: Experiment) -> None:
        """Check what can be wrong with the folder or the checkpoint before anything is started or written.

        Raises
        ------
        UsageError : there is a run already, or the checkpoint is of another code.
        """
        if self.past is None:
            check_unused(self.out)
        elif self.checkpoint is not None:
            same = np.array_equal(self.checkpoint.B, experiment.code.B)
            if not same or self.checkpoint.decoder != experiment.decoder_name:
                raise UsageError(f"{self.out}: the checkpoint of step {self.step} is of another code than {CONFIG}'s")

    def restore(self, master: Master) -> str | None:
        """Give a master the checkpoint's model and what it says of the workers; without a checkpoint do nothing.

        Returns a warning if the state of some worker's compressor is not in it.

        Raises
        ------
        UsageError : it is of another model, or of another compressor.
        """
        checkpoint = self.checkpoint
        if checkpoint is None:
            return None
        state_bytes = master.states.state_bytes
        same_model = checkpoint.parameters.shape == master.slices.parameters.shape
        same_workers = checkpoint.accepted.shape == master.accepted.shape
        same_compressor = all(saved.size == state_bytes for saved in checkpoint.states.values())
        if not (same_model and same_workers and same_compressor):
            raise UsageError(f"the checkpoint of step {checkpoint.step} is of another model or compressor than the config's")
        fresh = master.resume(
            checkpoint.step,
            checkpoint.accepted,
            checkpoint.states,
            checkpoint.parameters,
            checkpoint.optimizer,
            checkpoint.downlink,
        )
        if not fresh:
            return None
        return (
            f"the checkpoint of step {checkpoint.step} lacks the compressor's state of worker {', '.join(map(str, fresh))}: "
            "it starts afresh, and the run is not the one that was never interrupted"
        )

    def open(
        self,
        experiment: Experiment,
        hosts: list[str] | None,
        say: Callable[[str], None],
        masters: int = 1,
        ran: Mapping[str, Any] = {},
    ) -> RunFolder:
        """Open the run folder; what a resumed run had written after the checkpoint is cut off.

        ``masters``: how many share the model; ``ran``: further fields of the manifest.
        """
        sizes = {"workers": experiment.n, "masters": masters}
        about = manifest(experiment.config.run.ranks(experiment.n), hosts, timing_only=self.timing_only)
        about.update(ran)
        if self._is_of_a_script and (command := script_command()) is not None:
            about["script"] = command
        if self.past is None:
            return RunFolder(self.out, experiment.config.toml(), about, say, **sizes)
        past = self.past.cut(self.step)
        for path, error in self.refused:
            say(f"refused: {error}")
            path.replace(path.with_suffix(".refused"))
        say(f"resumed after {self.step} steps" + ("" if self.checkpoint else ": there is no checkpoint yet"))
        if isinstance(experiment.wait, LearnsReplyTimes):
            say(f"wait.kind = {experiment.config.choices['wait'].kind!r}: reply times are learnt anew")
        return RunFolder.reopen(past, experiment.config.toml(), about, say, **sizes)


def resume(folder: Path, overrides: Sequence[str]) -> StartingPoint:
    """Return where to go on with a run that ended early, or that had fewer steps than are asked for now. Changes nothing.

    Raises
    ------
    UsageError : no run folder, nothing left to do, an override of what can't change, or no checkpoint that can be used.
    """
    past = PastRun.read(folder)
    if past.timing_only:
        raise UsageError(f"{folder}: a timing-only simulation keeps no model to go on with; run it again, with more steps")
    return _after(past, parse_resumed(past.config_toml, overrides))


def go_on(config: Config, folder: Path) -> StartingPoint:
    """As :func:`resume`, with a config that a script makes anew. It must be the run's, except for the tables in RESUMED.

    Raises
    ------
    UsageError : as :func:`resume`; or the config is of another run, with the first key that differs.
    """
    past = PastRun.read(folder)
    was = tomllib.loads(past.config_toml)
    now = tomllib.loads(config.for_workers(config.workers or int(was["workers"])).toml())
    for name in sorted({*was, *now} - {*RESUMED}):
        if was.get(name) != now.get(name):
            raise UsageError(f"{folder}: cannot be resumed: its {name} was {was.get(name)}, the script says {now.get(name)}")
    return _after(past, config)


def _after(past: PastRun, config: Config) -> StartingPoint:
    """Return where to go on with a run: at its newest good checkpoint."""
    folder = past.folder
    checkpoint, refused = newest(folder, past.recorded)
    if checkpoint is None and refused:
        raise DataError(f"{folder}: none of its checkpoints can be used: " + "; ".join(str(error) for _, error in refused))
    start = StartingPoint(config, folder, past, checkpoint, refused)
    if start.step > config.steps or (start.step == config.steps and (folder / SUMMARY).exists()):
        raise UsageError(f"{folder}: all its {start.step} steps are done; steps={2 * start.step} would go on")
    return start
