"""What a run ran on: versions, hosts, the commit of the source; ``manifest.json``."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from gcdl.compressors.kernels.select import chosen


def manifest(ranks: int, hosts: list[str] | None, *, timing_only: bool = False) -> dict[str, Any]:
    """Return what runs where, JSON-ready; ``hosts``: of each worker, None when all are simulated here."""
    versions = {name: version(name) for name in ("gcdl", "numpy", "torch")}
    manifest: dict[str, Any] = {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": sys.argv,
        "python": platform.python_version(),
        "versions": versions,
        "platform": platform.platform(),
        "host": platform.node(),
        "processors": len(os.sched_getaffinity(0)),
        "commit": _commit(),
        "kernels": chosen(),
        "timing_only": timing_only,
    }
    if hosts is None:
        return {**manifest, "transport": "simulated", "ranks": ranks}
    from mpi4py import MPI

    versions["mpi4py"] = version("mpi4py")
    library = MPI.Get_library_version().rstrip("\0").splitlines()[0]
    return {
        **manifest,
        "transport": "mpi",
        "mpi": library,
        "ranks": ranks,
        "hosts": [platform.node(), *hosts],
    }


def script_command() -> list[str] | None:
    """Return the script that this process runs, and its arguments; None: it runs none (a module, a notebook, a prompt)."""
    main = sys.modules.get("__main__")
    path = getattr(main, "__file__", None)
    if path is None or getattr(main, "__spec__", None) is not None or not path.endswith(".py"):
        return None
    return [str(Path(path).resolve()), *sys.argv[1:]]


@cache
def _commit() -> str | None:
    """Return the commit of the source tree gcdl runs from, marked if changed; None when it is installed."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    try:
        described = subprocess.run(
            ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            capture_output=True, text=True, timeout=10, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return described.stdout.strip() or None
