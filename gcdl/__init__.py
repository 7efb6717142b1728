"""gcdl: distributed training over MPI with 1-bit gradient coding, in the presence of stragglers.

Rank 0 is the master, the other ranks are workers that hold redundantly assigned shards. In each step a worker sends one bit
per coordinate of its coded gradient; the master decodes the fastest n - s replies and steps the optimizer. In the manner of
Li and Skoglund, *Distributed Learning based on 1-Bit Gradient Coding in the Presence of Stragglers*, arXiv 2403.14716.
"""

from importlib.metadata import version

from gcdl.codes import GradientCode
from gcdl.config import Config, Experiment, load
from gcdl.errors import ConfigError, DataError, GcdlError, TooManyLost, UsageError, WorkerError

__version__ = version("gcdl")

__all__ = [
    "Config",
    "ConfigError",
    "DataError",
    "Experiment",
    "GcdlError",
    "GradientCode",
    "TooManyLost",
    "UsageError",
    "WorkerError",
    "__version__",
    "load",
]
