"""What can go wrong, and the exit code each error ends the program with.

::

    GcdlError                1   anything below
    ├── UsageError           2   a wrong command line, launch, or number of ranks
    │   ├── ConfigError      2   a wrong key or value in the config; names its path
    │   │   └── ParameterError   a value no object can be built from (also a ValueError)
    │   ├── DataError        2   a data file that is missing, truncated or not what it should be
    │   └── ReplayDiffers    2   a replayed run is not the recorded one; names the first step that differs
    ├── MessageError         1   bytes that are not a message of this run (the transports drop and count them)
    ├── WorkerLost           -   one worker is gone; the master goes on without it if it can
    ├── TooManyLost          3   too few workers are left, or none answers
    │   └── MasterLost       3   a slice master is gone, and with it a part of the model
    ├── NonFiniteLoss        4   the training loss has become NaN or infinite; names the step
    ├── WorkerError          4   a worker raised; carries its traceback
    │   └── NonFiniteGradient    a NaN or an infinity in a gradient; names worker, step and tensor
    ├── MasterGone           1   a worker has lost the master
    └── Interrupted        130   Ctrl-C, SIGTERM or SIGUSR1
"""

from __future__ import annotations


class GcdlError(Exception):
    """Base of every error gcdl raises on purpose. ``exit_code``: what a command ends with; 1 where nothing else is said."""

    exit_code = 1


class UsageError(GcdlError):
    """A wrong command line, launch, or number of ranks. Exit code 2."""

    exit_code = 2


class ConfigError(UsageError):
    """A wrong key or value in the config. The message starts with the key's dotted path. Exit code 2."""


class ParameterError(ConfigError, ValueError):
    """Parameters no code, compressor, problem or wait rule can be built from. Says what is possible. Exit code 2."""


class DataError(UsageError):
    """A data file or folder that is missing, truncated, or not of its format. Names the file. Exit code 2."""


class ReplayDiffers(UsageError):
    """A replayed run is not the run that was recorded: the record was changed, or the code or the machine is another."""


class MessageError(GcdlError):
    """Bytes that are no message of this run: foreign, truncated or altered."""


class WorkerLost(GcdlError):
    """The process of one worker is gone. ``replaced``: what is about to take its place; "" if nothing is."""

    def __init__(self, worker: int, why: str, *, rank: int | None = None, replaced: str = "") -> None:
        super().__init__(f"worker {worker} (rank {worker + 1 if rank is None else rank}) is lost: {why}")
        self.worker = worker
        self.replaced = replaced


class TooManyLost(GcdlError):
    """So few workers are left, or answer, that no step can be decoded. Exit code 3."""

    exit_code = 3


class MasterLost(TooManyLost):
    """The process of a slice master is gone, and with it a part of the newest model. Exit code 3.

    The run can go on from its last checkpoint.
    """


class WorkerError(GcdlError):
    """A worker raised. ``traceback`` is the text it sent home; ``""`` when the message says all. Exit code 4 as a rule."""

    exit_code = 4

    def __init__(self, message: str, *, worker: int, traceback: str = "", exit_code: int = 4) -> None:
        super().__init__(message)
        self.worker = worker
        self.traceback = traceback
        self.exit_code = exit_code


class NonFiniteGradient(WorkerError):
    """A NaN or an infinity in a coded gradient: one bit could not say so, hence it is never sent."""

    def __init__(self, worker: int, step: int, tensor: str) -> None:
        super().__init__(
            f"worker {worker}, step {step}: the gradient of {tensor!r} has a NaN or an infinity; "
            "lower optimizer.lr, or look at the data",
            worker=worker,
        )


class NonFiniteLoss(GcdlError):
    """The training loss is NaN or infinite. Checkpoints written before are kept, and none is written after. Exit code 4."""

    exit_code = 4


class MasterGone(GcdlError):
    """A worker's view: the master's process is gone, or has been silent for too long."""


class Interrupted(GcdlError):
    """Ctrl-C, SIGTERM or SIGUSR1 reached the master. Exit code 130."""

    exit_code = 130
