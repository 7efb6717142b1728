"""Which configs are tried: a run's own, with other tables for the code, the wait rule, the compressor, the downlink.

The tables are those of the plug-ins (:data:`gcdl.config.SECTIONS`), so a new code or wait rule is tried without a line here.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import tomli_w

from gcdl.codes import CODES
from gcdl.config import SECTIONS, Config, of_tables
from gcdl.downlinks import DOWNLINKS
from gcdl.protocol.wait_rules import WAIT_RULES

ONE_BIT = "stochastic_sign"
"""The compressor that stands for one bit where the run has none: unbiased, with the dithers that lose least."""
EXACT = "identity"
DEADLINES = (0.5, 0.9)
"""Quantiles of the seconds of a reply at which a deadline is tried."""


@dataclass(frozen=True)
class Candidate:
    """A run's config with some tables replaced.

    Attributes
    ----------
    base : the run's config.
    changes : top-level keys, and whole tables, in place of the run's; of ``run``, single keys.
    """

    base: Config
    changes: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def config(self) -> Config:
        """The config.

        Raises
        ------
        ConfigError : it says what can't be together.
        """
        return of_tables(self.tables)

    @cached_property
    def tables(self) -> dict[str, Any]:
        """The tables of the config."""
        tables = tomllib.loads(self.base.toml())
        for name, value in self.changes.items():
            tables[name] = {**tables[name], **value} if name in ("run", "problem") else value
        if self.changes.keys() & {"downlink", "compressor"}:
            tables["compressor"].pop("agreed", None)  # whether scales are agreed on follows from the downlink
        return tables

    @cached_property
    def resolved(self) -> str:
        """The config with every value stated, as TOML: what ``gcdl run`` takes."""
        return self.config.for_workers(self.config.workers or 1).toml()

    @property
    def snippet(self) -> str:
        """The tables that differ from the run's, as TOML."""
        own, now = tomllib.loads(self.base.toml()), tomllib.loads(self.resolved)
        differing = {name: value for name, value in self.changes.items() if own.get(name) != now[name]}
        return tomli_w.dumps(dict(sorted(differing.items(), key=lambda item: isinstance(item[1], dict))))

    def with_changes(self, **changes: Any) -> Candidate:
        """Return this candidate with further tables replaced."""
        return Candidate(self.base, {**self.changes, **changes})

    def kind(self, section: str) -> str:
        """Return the kind of a table."""
        return self.config.choices[section].kind

    @property
    def stragglers(self) -> int:
        """How many stragglers the code plans for; of the uncoded scheme, how many workers the master does not wait for."""
        values = self.config.choices["code"].values
        if "stragglers" in values:
            return int(values["stragglers"])
        count = self.config.choices["wait"].values.get("count")
        return 0 if count is None else (self.config.workers or 0) - int(count)


def stragglers_to_try(n: int) -> list[int]:
    """Return the s that are tried with n workers."""
    return [s for s in (0, 1, 2, 3, 4, 6, 8, 12, 16) if s <= n // 2 and s < n]


def codes_and_waits(base: Candidate, reply_seconds: Mapping[float, float]) -> Iterator[Candidate]:
    """Yield candidates with each code, each number of stragglers, and each wait rule, that there are.

    ``reply_seconds``: quantiles of the seconds of a reply, at which deadlines are tried.
    """
    n = base.base.workers or 1
    for s in stragglers_to_try(n):
        yield base.with_changes(code={"kind": "uncoded"}, wait={"kind": "first_replies", "count": n - s})
        for kind in CODES if s else ():
            if kind == "uncoded":
                continue
            wanted = {"stragglers": s, "replication": s + 1}
            keys = SECTIONS["code"].keys(kind)
            coded = base.with_changes(code={"kind": kind, **{key: value for key, value in wanted.items() if key in keys}})
            for rule in WAIT_RULES:
                for table in _waits(rule, reply_seconds if s == 1 else {}):
                    yield coded.with_changes(wait=table)
    for rule in WAIT_RULES:
        for table in _waits(rule, reply_seconds):
            if rule != "first_replies":
                yield base.with_changes(code={"kind": "uncoded"}, wait=table)


def _waits(rule: str, reply_seconds: Mapping[float, float]) -> list[dict[str, Any]]:
    """Return the tables of a wait rule that are tried; a rule that needs a deadline gets each of ``reply_seconds``."""
    if "seconds" not in SECTIONS["wait"].keys(rule):
        return [{"kind": rule}]
    return [{"kind": rule, "seconds": float(f"{seconds:.3g}")} for seconds in reply_seconds.values() if seconds > 0.0]


def bits_and_downlinks(found: Candidate, one_bit: Mapping[str, Any]) -> Iterator[Candidate]:
    """Yield a candidate with each compressor and downlink; ``one_bit``: the table of the one that stands for one bit."""
    for compressor in ({"kind": EXACT}, dict(one_bit)):
        for kind in DOWNLINKS:
            yield found.with_changes(compressor=compressor, downlink={"kind": kind})


def more_masters(found: Candidate, most: int) -> Iterator[Candidate]:
    """Yield a candidate with 1, 2, 4, ... masters, of ``most`` at most."""
    for masters in (1, 2, 4, 8):
        if masters <= most:
            yield found.with_changes(run={"masters": masters})
