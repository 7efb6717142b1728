"""How a script ends that does not catch gcdl's errors: one message, from rank 0, and the exit code of the error."""

from __future__ import annotations

import os
import sys
from functools import cache
from types import TracebackType

from gcdl.errors import GcdlError, WorkerError

_RANKS = ("OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK", "SLURM_PROCID")


@cache
def install() -> None:
    """From now on an uncaught :class:`GcdlError` ends this process with its exit code, and without a traceback."""
    before = sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, where: TracebackType | None) -> None:
        if not isinstance(error, GcdlError):
            before(kind, error, where)
            return
        if all(os.environ.get(name, "0") == "0" for name in _RANKS):
            traceback = error.traceback.rstrip() if isinstance(error, WorkerError) else ""
            print(*([traceback] if traceback else []), f"gcdl: {error}", sep="\n", file=sys.stderr)
        sys.stderr.flush()
        raise SystemExit(error.exit_code)  # Python ends the process with it

    sys.excepthook = hook
