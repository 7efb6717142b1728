"""``gcdl run``: start the ranks with the MPI of this environment, show what they do, and clean up after them.

The ranks run ``gcdl train --control FOLDER`` under mpirun: on this machine, over the nodes of a Slurm allocation, or on the
hosts of a hostfile. Rank 0 reports through the control folder (:mod:`gcdl.launch.control_folder`); its progress is read from
``steps.jsonl`` as that grows.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import psutil

from gcdl.config import Config, load
from gcdl.errors import Interrupted, TooManyLost
from gcdl.host.launcher_environment import SEGMENT_BYTES, SHARED, shared_memory
from gcdl.host.processes import segments, send_signal, with_argument
from gcdl.host.stall_notice import Silence
from gcdl.host.stop_request import SIGNALS
from gcdl.launch.control_folder import ControlFolder
from gcdl.launch.job_output import JobOutput
from gcdl.launch.masters import settle
from gcdl.launch.mpirun import environment, mpirun, with_workers
from gcdl.launch.temporary_folder import check_temporary_folder, remove_leftovers
from gcdl.training.display import Display
from gcdl.training.run_files import CONFIG, STEPS, SUMMARY, write_at_once
from gcdl.training.run_folder import check_writable

MASTER_LOST = 1
"""The exit code when the master ended without a word."""
_POLL_SECONDS = 0.05
_INIT_SECONDS = 120.0
_END_SECONDS = 5.0
_QUICK_END_SECONDS = 0.5
_INTERRUPTED_SECONDS = 60.0


@dataclass(frozen=True)
class Script:
    """A script to run in place of a config: its ranks run ``gcdl script``.

    Attributes
    ----------
    command : the script's path, and its own arguments.
    chosen : whether the run folder is given; else the script may name one.
    options : of ``gcdl script``.
    """

    command: Sequence[str]
    chosen: bool
    options: Sequence[str] = ()

    def program(self, out: Path, control: str, *, resume: bool) -> list[str]:
        """Return what each rank runs after ``python -m gcdl``."""
        folder = ["--out", str(out)] if self.chosen or resume else []
        more = ["--resume"] if resume else []
        return ["script", *folder, "--control", control, *more, *self.options, "--", *self.command]


def launch(
    config: Config,
    arguments: Sequence[str],
    out: Path,
    display: Display,
    hostfile: Path | None = None,
    script: Script | None = None,
) -> int:
    """Run ``gcdl train`` with these arguments on masters + n + spares ranks; return the run's exit code.

    Or run ``script`` on them; of ``config``, which nobody knows before the script makes it, n and [run] are looked at.

    If the config does not say n, the hostfile's slots or those of the Slurm allocation decide. ``run.masters`` = 0 is settled
    here (:mod:`gcdl.launch.masters`). A run that loses too many workers, or its master, is started again from its last
    checkpoint with all its ranks, up to [run] restart times.

    Raises
    ------
    UsageError : nothing says how many workers, there is no MPI in this environment, or a folder that is needed can't be
        written to.
    """
    if config.run.masters == 0:
        config = settle(config, hostfile, display.say)
        arguments = [*arguments, f"run.masters={config.run.masters}"]
    config = with_workers(config, hostfile)
    check_writable(out)
    check_temporary_folder()
    if shared_memory() < SEGMENT_BYTES:
        display.say(
            f"{SHARED} has {shared_memory() >> 10} KiB free and MPI wants {SEGMENT_BYTES >> 20} MiB: the ranks talk over TCP, "
            "which is slower; make it larger (docker run --shm-size=1g; mount -o remount,size=1g /dev/shm)"
        )
    for restart in range(1, config.run.restart + 1):
        code, out = _launch_once(config, arguments, out, display, hostfile, script)
        if code not in (TooManyLost.exit_code, MASTER_LOST):
            return code
        display.say(f"restart {restart} of {config.run.restart}, with all workers, from the last checkpoint")
        if (out / CONFIG).exists():
            arguments = ["--resume"]
    return _launch_once(config, arguments, out, display, hostfile, script)[0]


def _launch_once(
    config: Config,
    arguments: Sequence[str],
    out: Path,
    display: Display,
    hostfile: Path | None,
    script: Script | None,
) -> tuple[int, Path]:
    """Run the ranks once; return the exit code, and the run folder, which a script may have chosen."""
    assert config.workers is not None
    remove_leftovers()
    with tempfile.TemporaryDirectory(prefix="gcdl-") as folder, _caught_signals() as signals:
        control = ControlFolder(Path(folder))
        control.announce_launcher()
        ranks = config.run.ranks(config.workers)
        program = ["train", *arguments, "--out", str(out), "--control", folder]
        if script is not None:
            program = script.program(out, folder, resume="--resume" in arguments)
        launcher = mpirun(ranks, hostfile)
        if script is None:
            display.begin(config.steps, config.workers, out, config.run.masters)
        else:
            display.say(f"{script.command[0]}: starting {ranks} ranks")
        supervisor = _Supervisor([*launcher, sys.executable, "-m", "gcdl", *program], control, out, display, signals)
        return supervisor.wait(), supervisor.out


@contextmanager
def _caught_signals() -> Iterator[list[int]]:
    """Collect SIGNALS, in order of arrival, instead of being ended by them."""
    caught: list[int] = []
    old = {number: signal.signal(number, lambda number, frame: caught.append(number)) for number in SIGNALS}
    try:
        yield caught
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


class _Supervisor:
    """Watches one job until it has ended."""

    def __init__(
        self, command: Sequence[str], control: ControlFolder, out: Path, display: Display, signals: Sequence[int]
    ) -> None:
        self._control = control
        self.out = out
        """The run folder. A script may choose another."""
        self._display = display
        self._signals = signals
        """Of the user, in order; it grows."""
        self._handled = 0
        self._interrupted: float | None = None
        """When the first of them was passed on to the master."""
        self._decided: float | None = None
        """When the master's exit code was first seen."""
        self._steps: IO[str] | None = None
        self._partial = ""
        self._segments: set[Path] = set()
        """The job's files in shared memory. It removes them itself, unless it ends by violence."""
        self._end_seconds = _END_SECONDS
        """How long mpirun may take to end, once it is told to."""
        # In a session of its own: Ctrl-C reaches the master through us, not the ranks through the terminal.
        self._process = subprocess.Popen(
            command,
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        assert self._process.stdout is not None
        self.output = JobOutput(self._process.stdout)

    def wait(self) -> int:
        """Show progress until the job has ended; return its exit code."""
        try:
            code = self._watch()
        finally:
            self._kill()
        self.output.close()
        self._show()
        if self._steps is not None:
            self._steps.close()
        if code == 0 and (self.out / SUMMARY).exists():  # a script need not train
            self._display.report(_counted_to_the_end(self.out / SUMMARY), self.out)
        return code

    def _watch(self) -> int:
        """Poll until the job is over; return its exit code."""
        began = time.monotonic()
        silence = Silence()
        while True:
            ended = self._process.poll() is not None
            decided = self._control.exit_code
            if self._show():
                silence.broken()
            elif decided is None and (news := silence.news(self._control.master)):
                self._display.say(news)
            if decided is not None:
                if ended or self._waited_long_for_mpirun():
                    return decided
            elif ended:
                return self._ended_without_a_word()
            if self._control.master is None and time.monotonic() > began + _INIT_SECONDS:
                self._display.say(f"MPI has not started within {_INIT_SECONDS:.0f} s: rank 0 has not come up")
                return MASTER_LOST
            if self._interrupt(decided):
                return Interrupted.exit_code
            time.sleep(_POLL_SECONDS)

    def _waited_long_for_mpirun(self) -> bool:
        """Return whether mpirun has had its time to end after the master's verdict."""
        self._decided = self._decided or time.monotonic()
        return time.monotonic() > self._decided + _END_SECONDS

    def _ended_without_a_word(self) -> int:
        """Report that mpirun has ended and the master has said nothing; return the exit code."""
        self._display.say(
            f"the ranks ended without a word from the master (rank 0); mpirun's exit code: {self._process.returncode}"
        )
        if (self.out / STEPS).exists():
            self._display.say(f"gcdl resume {self.out} goes on from its last checkpoint")
        return 128 + self._signals[0] if self._signals else MASTER_LOST

    def _interrupt(self, decided: int | None) -> bool:
        """Pass on the user's signals to the master; return whether all has to end at once.

        The first lets the master save what there is. One that comes before the run has begun ends all at once; so does the
        third, and a master that does not end.
        """
        if len(self._signals) > self._handled:
            self._handled += 1
            master = self._control.master
            if master is None or self._control.show_from is None:
                self._display.stop()
                self._display.say("interrupted while the ranks were starting: no step was done, and nothing was changed")
                self._end_seconds = _QUICK_END_SECONDS
                return True
            if self._handled > 2:
                return True
            send_signal(master, signal.SIGINT)
            if self._interrupted is None:
                self._interrupted = time.monotonic()
                self._display.say("interrupted: the master saves what there is; twice more ends all at once")
        if self._interrupted is None or decided is not None or time.monotonic() < self._interrupted + _INTERRUPTED_SECONDS:
            return False
        self._display.say(f"the master (rank 0) has not ended within {_INTERRUPTED_SECONDS:.0f} s of the interrupt")
        return True

    def _show(self) -> bool:
        """Show what is new; return whether there was anything."""
        heard = False
        for line in self.output.new_lines():
            self._display.say(line)
            heard = True
        if self._steps is None:
            show_from = self._control.show_from
            if show_from is None:
                self._display.starting(self._control.ready)
                return heard
            self._segments |= segments(self._control.master)
            if (chosen := self._control.folder) is not None:  # a script's run: what it is like is known now
                self.out = chosen if self.out.resolve() != chosen else self.out
                made = load(self.out / CONFIG)
                self._display.begin(made.steps, made.workers or 0, self.out, made.run.masters)
            self._steps = (self.out / STEPS).open()
            self._steps.seek(show_from)
        while line := self._steps.readline():
            self._partial += line
            if self._partial.endswith("\n"):
                self._display.step(json.loads(self._partial))
                self._partial = ""
                heard = True
        return heard

    def _kill(self) -> None:
        """End mpirun, and every rank of this host that is still there, be it stopped or stuck."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(self._end_seconds)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        # Our ranks, and no others, have the control folder's name on their command line.
        for rank in with_argument(str(self._control.path)):
            with suppress(psutil.Error):
                rank.kill()
        for segment in self._segments:
            segment.unlink(missing_ok=True)
        remove_leftovers(ended=self._process.pid)


def _counted_to_the_end(path: Path) -> dict[str, Any]:
    """Add to a summary the seconds that the ranks took to end after the master wrote it; write and return it."""
    written = path.stat().st_mtime
    summary: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".") as now:  # its time is by the clock of the same file system
        late = max(0.0, os.stat(now.name).st_mtime - written)
    for key in ("wall_seconds", "wait_for_all_seconds"):
        if summary[key] is not None:
            summary[key] += late
    write_at_once(path, json.dumps(summary, indent=2) + "\n")
    return summary
