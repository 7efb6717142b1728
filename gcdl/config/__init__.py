"""A run's config: TOML and ``key=value`` overrides -> checked values -> the objects they name. The only reader of strings."""

from gcdl.config.codings import Codings
from gcdl.config.experiment import Experiment
from gcdl.config.reading import laid_over, load, nested, of_tables, parse, parse_resumed, read_toml
from gcdl.config.values import RECODED, RESUMED, SECTIONS, Config, RunOptions, SimulateOptions

__all__ = [
    "RECODED",
    "RESUMED",
    "SECTIONS",
    "Codings",
    "Config",
    "Experiment",
    "RunOptions",
    "SimulateOptions",
    "laid_over",
    "load",
    "nested",
    "of_tables",
    "parse",
    "parse_resumed",
    "read_toml",
]
