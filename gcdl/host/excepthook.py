"""How a script ends that does not catch gcdl's errors: one message, from rank 0, and the exit code of the error."""

from __future__ import annotations

import sys
from functools import cache
from types import TracebackType

from gcdl.errors import GcdlError, WorkerError
from gcdl.host.launcher_environment import Launch


@cache
def install() -> None:
    """From now on an uncaught :class:`GcdlError` ends this process with its exit code, and without a traceback."""
    before = sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, where: TracebackType | None) -> None:
        if not isinstance(error, GcdlError):
            before(kind, error, where)
            return
        if Launch.read().rank == 0:
            traceback = error.traceback.rstrip() if isinstance(error, WorkerError) else ""
            print(*([traceback] if traceback else []), f"gcdl: {error}", sep="\n", file=sys.stderr)
        sys.stderr.flush()
        raise SystemExit(error.exit_code)  # Python ends the process with it

    sys.excepthook = hook
