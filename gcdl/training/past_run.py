"""A run that is to be resumed: what its folder says, and how its records are cut back to the step where it goes on."""

from __future__ import annotations

import itertools
import json
import tomllib
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from gcdl.errors import UsageError
from gcdl.training.durable_file import lock
from gcdl.training.run_files import CONFIG, MANIFEST, STEPS, SUMMARY, TIMELINE, whole_lines, writing
from gcdl.training.run_parts import Part, changed, part_at, parts_of
from gcdl.training.run_reader import read_line


@dataclass(frozen=True)
class PastRun:
    """A run that is to be resumed, as its folder has it.

    Attributes
    ----------
    folder : the run folder.
    parts : which steps had which config.
    config_toml : its resolved config.
    simulated : it ran in one process, on a virtual clock.
    timing_only : only the clock ran.
    script : the script that made it, and its arguments; None: a config says it all.
    resumed : an entry for each time it was resumed: ``step`` (where it went on), ``reached`` (the last step begun before
        that), ``at`` (the time); ``config`` (the one before) where workers, code, compressor or downlink are others now.
    """

    folder: Path
    config_toml: str
    simulated: bool
    timing_only: bool
    script: list[str] | None
    resumed: list[dict[str, Any]]
    parts: list[Part]

    @classmethod
    def read(cls, folder: Path) -> PastRun:
        """Read a run folder.

        Raises
        ------
        UsageError : there is no run in this folder, or its files are damaged.
        """
        if not (folder / CONFIG).is_file():
            raise UsageError(f"{folder}: not a run folder: there is no {CONFIG}")
        try:
            config_toml = (folder / CONFIG).read_text(encoding="utf-8")
            if (folder / STEPS).is_dir():
                raise UsageError(f"{folder / STEPS}: a folder, where the record of the steps should be")
            manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
            simulated = manifest["transport"] == "simulated"
            timing_only = bool(manifest["timing_only"])
            script = [str(word) for word in manifest["script"]] if manifest.get("script") else None
            resumed = [
                {"step": int(one["step"]), "reached": int(one["reached"]), "at": str(one["at"])}
                | ({"config": str(one["config"])} if "config" in one else {})
                for one in manifest.get("resumed", [])
            ]
            parts = parts_of(resumed, config_toml)
            for part in parts:
                tomllib.loads(part.config_toml)
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            raise UsageError(f"{folder}: {MANIFEST} or {CONFIG} cannot be read: {error}") from None
        return cls(folder, config_toml, simulated, timing_only, script, resumed, parts)

    @property
    def reached(self) -> int:
        """The last step that had begun, in any part of the run; -1 when none had."""
        lines, _ = self._lines()
        here = lines - 1 if (self.folder / SUMMARY).exists() else lines
        return max(here, *(int(one["reached"]) for one in self.resumed), -1)

    @property
    def recorded(self) -> int:
        """How many steps are recorded: the lines of ``steps.jsonl`` before the first that is damaged.

        Raises
        ------
        UsageError : the config does not say how many workers there are.
        """
        workers = {part.first: self._workers_of(part) for part in self.parts}
        n = steps = 0
        for text in whole_lines(self.folder):
            n = workers.get(steps, n)
            try:
                read_line(text, steps, n)
            except ValueError:
                break
            steps += 1
        return steps

    @property
    def workers(self) -> int:
        """How many workers its last part had."""
        return self._workers_of(self.parts[-1])

    def config_before(self, step: int) -> str:
        """Return the resolved config of the last step before ``step``."""
        return part_at(self.parts, max(0, step - 1)).config_toml

    def was_recoded(self, step: int) -> bool:
        """Say whether the run had another code than its config's in some step before ``step``."""
        return any(b'"recoded"' in line for line in itertools.islice(whole_lines(self.folder), step))

    def _workers_of(self, part: Part) -> int:
        n = tomllib.loads(part.config_toml).get("workers")
        if not isinstance(n, int):
            raise UsageError(f"{self.folder / CONFIG}: says no number of workers; not a resolved config")
        return n

    def cut(self, step: int, config_toml: str) -> PastRun:
        """Cut the records to the first ``step`` steps, and note that the run is resumed there, with this config.

        Raises
        ------
        UsageError : another process writes there, or the folder can't be written.
        """
        reached = self.reached
        with writing(self.folder), (self.folder / STEPS).open("a+b") as file:
            lock(file.fileno(), self.folder / STEPS)
            file.truncate(self._lines(step)[1])
            (self.folder / SUMMARY).unlink(missing_ok=True)
            timeline = self.folder / TIMELINE
            if timeline.exists():
                timeline.replace(self.folder / f"timeline-{len(self.resumed)}.json")
        entry: dict[str, Any] = {"step": step, "reached": reached, "at": datetime.now(UTC).isoformat(timespec="seconds")}
        if changed(self.config_toml, config_toml):
            entry["config"] = self.config_toml
        return replace(self, resumed=[*self.resumed, entry])

    def _lines(self, at_most: int | None = None) -> tuple[int, int]:
        """Return how many whole lines ``steps.jsonl`` has, or the first ``at_most``, and how many bytes they take."""
        found = list(itertools.islice(whole_lines(self.folder), at_most))
        return len(found), sum(map(len, found))
