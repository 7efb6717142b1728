"""How a script ends that does not catch one of gcdl's errors: rank 0 prints the message; the exit code is the error's."""

from __future__ import annotations

import sys
import time
from functools import cache
from types import TracebackType

from gcdl.errors import GcdlError, WorkerError
from gcdl.host.launcher_environment import Launch

_SECONDS_FOR_RANK_0 = 10.0


@cache
def install() -> None:
    """Make an uncaught :class:`GcdlError` end this process with the error's exit code and without a traceback."""
    before = sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, where: TracebackType | None) -> None:
        if not isinstance(error, GcdlError):
            before(kind, error, where)
            return
        launch = Launch.read()
        if launch.rank == 0:
            traceback = error.traceback.rstrip() if isinstance(error, WorkerError) else ""
            print(*([traceback] if traceback else []), f"gcdl: {error}", sep="\n", file=sys.stderr)
        elif launch.launcher != "srun" and not _mpi_started():
            # mpirun ends all ranks when one has failed. The same error is about to end rank 0, which must speak before that;
            # its end then ends this rank, too. Once MPI has started, ranks end together (see gcdl.transport.mpi.job).
            time.sleep(_SECONDS_FOR_RANK_0)
        sys.stderr.flush()
        raise SystemExit(error.exit_code)  # the way to set the exit code from a hook

    sys.excepthook = hook


def _mpi_started() -> bool:
    """Say whether MPI was started in this process, without loading it."""
    mpi = sys.modules.get("mpi4py.MPI")
    return mpi is not None and bool(mpi.Is_initialized())
