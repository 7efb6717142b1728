"""A run's config: TOML and ``key=value`` overrides -> checked values -> the objects they name. The only reader of strings."""

from gcdl.config.experiment import (
    RESUMED,
    SECTIONS,
    Config,
    Experiment,
    RunOptions,
    SimulateOptions,
    laid_over,
    load,
    nested,
    of_tables,
    parse,
    parse_resumed,
    read_toml,
)

__all__ = [
    "RESUMED",
    "SECTIONS",
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
