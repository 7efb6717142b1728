"""Where a run starts: at step 0 in a new folder, or from the newest good checkpoint of an earlier one."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from gcdl.config import RESUMED, Config, Experiment, parse_resumed
from gcdl.config.factories import Given
from gcdl.errors import DataError, UsageError
from gcdl.protocol.master import Master
from gcdl.protocol.wait_rules import LearnsReplyTimes
from gcdl.training.carried_over import carry_over, downlink_arrays
from gcdl.training.checkpoint_file import Checkpoint, newest
from gcdl.training.past_run import PastRun
from gcdl.training.provenance import manifest, script_command
from gcdl.training.run_files import CONFIG, SUMMARY
from gcdl.training.run_folder import RunFolder, check_unused
from gcdl.training.run_parts import changed


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
    stated : keys of the config that the user has overridden to resume the run.
    adapted : values of the config, by table, that follow from the run that is resumed.
    chosen : what the run has chosen by itself, and why, for the manifest.
    """

    config: Config
    out: Path
    past: PastRun | None = None
    checkpoint: Checkpoint | None = None
    refused: Sequence[tuple[Path, DataError]] = ()
    timing_only: bool = False
    stated: Sequence[str] = ()
    adapted: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    chosen: Mapping[str, Any] = field(default_factory=dict)

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

    def for_workers(self, n: int) -> StartingPoint:
        """Return the same for n workers. A new run's config says itself for how many it is.

        A run that is resumed with another number keeps its shards. Its code becomes the nearest that there is
        (``code.nearest``), and the number of replies to wait for (``wait.count``) leaves out as many workers as before, unless
        the user has stated another code, or another number.
        """
        if self.past is None:
            return self
        was, adapted = self.past.workers, dict(self.adapted)
        tables = {key.partition(".")[0] for key in self.stated}
        if n != was and "code" not in tables:
            adapted["code"] = {"nearest": True}
        count = self.config.choices["wait"].values.get("count")
        if n < was and count is not None and "wait" not in tables:
            adapted["wait"] = {"count": min(count, max(1, n - (was - count)))}
        config = replace(self.config, workers=n)
        for table, values in adapted.items():
            config = config.with_values(table, **values)
        return replace(self, config=config, adapted=adapted)

    def check(self, experiment: Experiment) -> None:
        """Check what can be wrong with the folder or the checkpoint before anything is started or written.

        Raises
        ------
        UsageError : there is a run already, or the checkpoint is of other shards; or of another code, though nothing says that
            it may be.
        """
        if self.past is None:
            check_unused(self.out)
        elif self.checkpoint is not None:
            of, B, code = f"{self.out}: the checkpoint of step {self.step} is of", self.checkpoint.B, experiment.code
            if B.shape[1] != code.k:
                raise UsageError(f"{of} {B.shape[1]} shards, {CONFIG} of {code.k}")
            same = np.array_equal(B, code.B) and self.checkpoint.decoder == experiment.decoder_name
            if (
                not same
                and not changed(self.past.config_toml, experiment.config.toml())
                and not self.past.was_recoded(self.step)
            ):
                raise UsageError(f"{of} another code than {CONFIG}'s")

    def restore(self, master: Master, experiment: Experiment) -> list[str]:
        """Give a master the checkpoint's model and what it says of the workers; without a checkpoint do nothing.

        Returns warnings: of workers whose compressor's state is not in it, or is of another code or compressor.

        Raises
        ------
        UsageError : it is of another model, or of another compressor.
        """
        checkpoint = self.checkpoint
        if checkpoint is None:
            return []
        assert self.past is not None
        state_bytes = master.states.state_bytes
        tables = changed(self.past.config_before(checkpoint.step), experiment.config.toml())
        carried = carry_over(checkpoint.B, experiment.code.B, checkpoint.accepted, same_compressor="compressor" not in tables)
        states = carried.states(checkpoint.states)
        same_model = checkpoint.parameters.shape == master.slices.parameters.shape
        if not same_model or any(saved.size != state_bytes for saved in states.values()):
            raise UsageError(f"the checkpoint of step {checkpoint.step} is of another model or compressor than the config's")
        missing = master.resume(
            checkpoint.step,
            carried.accepted,
            states,
            checkpoint.parameters,
            checkpoint.optimizer,
            downlink_arrays(checkpoint.downlink, tables),
            fresh=carried.fresh,
            recoded=bool(tables) or not np.array_equal(checkpoint.B, experiment.code.B),
        )
        warnings = []
        if carried.fresh and state_bytes:
            warnings.append(
                f"resumed with {experiment.n} workers and another code or compressor: the compressor's state of worker "
                f"{', '.join(map(str, carried.fresh))} starts afresh"
            )
        if missing:
            warnings.append(
                f"the checkpoint of step {checkpoint.step} lacks the compressor's state of worker "
                f"{', '.join(map(str, missing))}: it starts afresh, and the run is not the one that was never interrupted"
            )
        return warnings

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
        about.update(self.chosen)
        about.update(ran)
        if self._is_of_a_script and (command := script_command()) is not None:
            about["script"] = command
        if self.past is None:
            return RunFolder(self.out, experiment.config.toml(), about, say, **sizes)
        past = self.past.cut(self.step, experiment.config.toml())
        for path, error in self.refused:
            say(f"refused: {error}")
            path.replace(path.with_suffix(".refused"))
        say(f"resumed after {self.step} steps" + ("" if self.checkpoint else ": there is no checkpoint yet"))
        if isinstance(experiment.wait, LearnsReplyTimes):
            say(f"wait.kind = {experiment.config.choices['wait'].kind!r}: reply times are learnt anew")
        return RunFolder.reopen(past, experiment.config.toml(), about, say, **sizes)


def resume(folder: Path, overrides: Sequence[str]) -> StartingPoint:
    """Return where to go on with a run that ended early, or that had fewer steps than are asked for now. Changes nothing.

    Where ``overrides`` do not say how many workers there are, its config does not either: then the launcher decides
    (:meth:`StartingPoint.for_workers`).

    Raises
    ------
    UsageError : no run folder, nothing left to do, an override of what can't change, or no checkpoint that can be used.
    """
    past = PastRun.read(folder)
    if past.timing_only:
        raise UsageError(f"{folder}: a timing-only simulation keeps no model to go on with; run it again, with more steps")
    stated = [override.partition("=")[0].strip() for override in overrides]
    config = parse_resumed(past.config_toml, overrides)
    if "workers" not in stated:
        config = replace(config, workers=None)
    return _after(past, config, stated)


def go_on(config: Config, folder: Path) -> StartingPoint:
    """As :func:`resume`, with a config that a script makes anew. It must be the run's, except for the tables in RESUMED.

    Raises
    ------
    UsageError : as :func:`resume`; or the config is of another run, with the first key that differs.
    """
    past = PastRun.read(folder)
    was = tomllib.loads(past.config_toml)
    adapted: dict[str, dict[str, Any]] = {}
    if config.choices["problem"].values["shards"] is None:
        adapted["problem"] = {"shards": was["problem"]["shards"]}
    if config.leaves_local_steps_open and "local_steps" in was["problem"]:
        adapted.setdefault("problem", {})["local_steps"] = was["problem"]["local_steps"]
    if "nearest" in was["code"] and config.choices["code"].values.get("nearest") is None:
        adapted["code"] = {"nearest": was["code"]["nearest"]}
    for table, values in adapted.items():
        config = config.with_values(table, **values)
    now = tomllib.loads(config.for_workers(config.workers or int(was["workers"])).toml())
    for name in sorted({*was, *now} - {*RESUMED, "workers"}):
        if was.get(name) != now.get(name):
            raise UsageError(f"{folder}: cannot be resumed: its {name} was {was.get(name)}, the script says {now.get(name)}")
    return replace(_after(past, config), adapted=adapted)


def _after(past: PastRun, config: Config, stated: Sequence[str] = ()) -> StartingPoint:
    """Return where to go on with a run: at its newest good checkpoint."""
    folder = past.folder
    checkpoint, refused = newest(folder, past.recorded)
    if checkpoint is None and refused:
        raise DataError(f"{folder}: none of its checkpoints can be used: " + "; ".join(str(error) for _, error in refused))
    start = StartingPoint(config, folder, past, checkpoint, refused, stated=stated)
    if start.step > config.steps or (start.step == config.steps and (folder / SUMMARY).exists()):
        raise UsageError(f"{folder}: all its {start.step} steps are done; steps={2 * start.step} would go on")
    return start
