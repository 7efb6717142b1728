"""How a script ends that does not catch one of gcdl's errors: rank 0 prints the message; the exit code is the error's."""

from __future__ import annotations

import sys
from functools import cache
from types import TracebackType

from gcdl.errors import GcdlError, WorkerError
from gcdl.host.launcher_environment import Launch


@cache
def install() -> None:
    """Make an uncaught :class:`GcdlError` end this process with the error's exit code and without a traceback."""
    before = sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, where: TracebackType | None) -> None:
        if not isinstance(error, GcdlError):
            before(kind, error, where)
            return
        if Launch.read().rank == 0:
            traceback = error.traceback.rstrip() if isinstance(error, WorkerError) else ""
            print(*([traceback] if traceback else []), f"gcdl: {error}", sep="\n", file=sys.stderr)
        sys.stderr.flush()
        raise SystemExit(error.exit_code)  # the way to set the exit code from a hook

    sys.excepthook = hook
