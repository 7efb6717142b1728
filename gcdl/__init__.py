"""gcdl: distributed training over MPI with 1-bit gradient coding, in the presence of stragglers.

Rank 0 is the master, the other ranks are workers that hold redundantly assigned shards. In each step a worker sends one bit
per coordinate of its coded gradient; the master decodes the fastest n - s replies and steps the optimizer. In the manner of
Li and Skoglund, *Distributed Learning based on 1-Bit Gradient Coding in the Presence of Stragglers*, arXiv 2403.14716.

A script::

    import gcdl, torch
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    model = torch.nn.Sequential(torch.nn.Linear(64, 128), torch.nn.ReLU(), torch.nn.Linear(128, 10))
    problem = gcdl.TorchProblem(model, torch.nn.functional.cross_entropy, (x / 16, y))
    code = {"kind": "fractional_repetition", "stragglers": 1}
    trainer = gcdl.Trainer(problem, code=code, compressor="stochastic_sign", optimizer={"kind": "adam", "lr": 0.01})
    for record in trainer.fit(100):
        print(record.step, record.train_loss)

``python script.py`` simulates four workers, ``mpirun -n 5 python script.py`` has them. :class:`TorchProblem` is what to train,
:class:`Trainer` says how. :class:`TorchOptimizer` brings any ``torch.optim`` optimizer and schedule. A :class:`GradientCode` is
a matrix B and a decoder. A run yields a :class:`StepRecord` after each step, and a :class:`Summary` at its end. :func:`load`
reads a :class:`Config` from TOML, and :class:`Experiment` builds the objects it names. All errors are a :class:`GcdlError`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gcdl.codes import GradientCode
    from gcdl.config import Config, Experiment, load
    from gcdl.errors import (
        ConfigError,
        DataError,
        GcdlError,
        Interrupted,
        NonFiniteLoss,
        ParameterError,
        TooManyLost,
        UsageError,
        WorkerError,
    )
    from gcdl.optimizers import TorchOptimizer
    from gcdl.problems import TorchProblem
    from gcdl.protocol.step_record import StepRecord
    from gcdl.training import loggers
    from gcdl.training.callbacks import Callback
    from gcdl.training.summary import Summary
    from gcdl.training.trainer import Trainer

    __version__: str

_ERRORS = (
    "ConfigError", "DataError", "GcdlError", "Interrupted", "NonFiniteLoss", "ParameterError", "TooManyLost", "UsageError",
    "WorkerError",
)  # fmt: skip
_MODULES = {
    "GradientCode": "gcdl.codes",
    "Config": "gcdl.config",
    "Experiment": "gcdl.config",
    "load": "gcdl.config",
    "TorchOptimizer": "gcdl.optimizers",
    "TorchProblem": "gcdl.problems",
    "StepRecord": "gcdl.protocol.step_record",
    "Callback": "gcdl.training.callbacks",
    "Summary": "gcdl.training.summary",
    "Trainer": "gcdl.training.trainer",
    **dict.fromkeys(_ERRORS, "gcdl.errors"),
}
"""The module of each public name. It is imported when the name is first used: the command line must be there at once, to
answer Ctrl-C, and these take 0.4 s."""

__all__ = [
    "Callback",
    "Config",
    "ConfigError",
    "DataError",
    "Experiment",
    "GcdlError",
    "GradientCode",
    "Interrupted",
    "NonFiniteLoss",
    "ParameterError",
    "StepRecord",
    "Summary",
    "TooManyLost",
    "TorchOptimizer",
    "TorchProblem",
    "Trainer",
    "UsageError",
    "WorkerError",
    "__version__",
    "load",
    "loggers",
]


def __getattr__(name: str) -> Any:
    """Import what a public name stands for."""
    if name == "__version__":
        found: Any = import_module("importlib.metadata").version("gcdl")
    elif name == "loggers":
        found = import_module("gcdl.training.loggers")
    elif name in _MODULES:
        found = getattr(import_module(_MODULES[name]), name)
    else:
        raise AttributeError(f"module 'gcdl' has no attribute {name!r}")
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    """Name the public names too before they are imported."""
    return sorted({*globals(), *__all__})
