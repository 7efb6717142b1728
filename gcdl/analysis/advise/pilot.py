"""A short run of a config, to advise on: uncoded, uncompressed, waiting for all, in the allocation at hand."""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import tomli_w

from gcdl.analysis.advise.observed import LEAST_STEPS
from gcdl.config import Config
from gcdl.errors import Interrupted, UsageError
from gcdl.training.run_files import STEPS

STEPS_ENOUGH = 200
"""Steps after which a pilot ends by itself."""
_POLL_SECONDS = 0.2
_END_SECONDS = 90.0
"""How long an interrupted pilot may take to end."""
_PLAIN: Mapping[str, Any] = {
    "steps": STEPS_ENOUGH,
    "code": {"kind": "uncoded"},
    "compressor": {"kind": "identity"},
    "downlink": {"kind": "model"},
    "wait": {"kind": "first_replies"},
}
_OPTIONS = {"masters": 1, "spares": 0, "eval_every": 0, "checkpoint_every": 0}


def pilot(config: Config, out: Path, seconds: float, hostfile: Path | None, progress: Callable[[int, int], None]) -> None:
    """Run a config's pilot in the folder ``out``, for ``seconds`` at most once its steps have begun.

    ``progress`` is told how many steps are done, of how many.

    Raises
    ------
    UsageError : it ended early, with too few steps; says what it printed last.
    """
    with tempfile.TemporaryDirectory(prefix="gcdl-pilot-") as folder:
        path, log = Path(folder) / "pilot.toml", Path(folder) / "log"
        path.write_text(pilot_toml(config), encoding="utf-8")
        command = [sys.executable, "-m", "gcdl", "run", str(path), "--out", str(out)]
        command += [] if hostfile is None else ["--hostfile", str(hostfile)]
        with log.open("w") as said:
            # In a session of its own: Ctrl-C reaches it through us.
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=said, stderr=said, start_new_session=True)
        try:
            _watch(process, out / STEPS, seconds, progress)
            process.wait(_END_SECONDS)
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
                with suppress(subprocess.TimeoutExpired):
                    process.wait(_END_SECONDS)
                process.kill()
                process.wait()
        done = _steps(out / STEPS)
        if process.returncode not in (0, Interrupted.exit_code) or done < LEAST_STEPS:
            lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
            last = (lines or [f"exit code {process.returncode}"])[-1].removeprefix("gcdl: ")
            raise UsageError(f"the pilot run came to {done} steps, of {LEAST_STEPS} that an advice needs: {last}")


def pilot_toml(config: Config) -> str:
    """Return the config of a config's pilot run."""
    tables = {**tomllib.loads(config.toml()), **_PLAIN}
    return tomli_w.dumps({**tables, "run": {**tables["run"], **_OPTIONS}})


def _watch(process: subprocess.Popen[bytes], steps: Path, seconds: float, progress: Callable[[int, int], None]) -> None:
    """Wait until the pilot ends, or until its time is up; then interrupt it."""
    until: float | None = None
    while process.poll() is None:
        done = _steps(steps)
        if done and until is None:
            until = time.monotonic() + seconds
        progress(done, STEPS_ENOUGH)
        if until is not None and time.monotonic() > until:
            process.send_signal(signal.SIGINT)
            return
        time.sleep(_POLL_SECONDS)


def _steps(path: Path) -> int:
    try:
        return path.read_bytes().count(b"\n")
    except OSError:
        return 0
