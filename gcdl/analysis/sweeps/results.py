"""What a sweep came to: one tidy table, a row a cell; the learning rates chosen; tables of the methods at those."""

from __future__ import annotations

import csv
import io
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from gcdl.analysis.sweeps.outcome import FIGURES, TO_TARGET, Outcome, read_outcome
from gcdl.analysis.sweeps.paired import above_the_best
from gcdl.analysis.sweeps.suite import Cell, Combination, Suite

RESULTS, TABLES, SUITE = "results.csv", "tables.md", "suite.toml"


@dataclass(frozen=True)
class ResultTable:
    """A table for people. ``note``: a line below it; "" for none."""

    title: str
    header: list[str]
    rows: list[list[str]]
    note: str


@dataclass
class Results:
    """The cells of a suite that are over: ``outcomes`` by combination, then by rate and seed."""

    suite: Suite
    outcomes: dict[tuple[str, ...], dict[tuple[float, int], Outcome]] = field(default_factory=dict)

    @classmethod
    def read(cls, suite: Suite, folder: Path) -> Results:
        """Read what is in a sweep's folder.

        Raises
        ------
        UsageError, DataError : a cell of it is not of this suite, or can't be read.
        """
        results = cls(suite)
        for combination in suite.combinations:
            for rate in combination.rates or (None,):
                for seed in suite.seeds:
                    cell = combination.cell(rate, seed)
                    outcome = read_outcome(folder / cell.folder, cell.config)
                    if outcome is not None:
                        results.add(cell, outcome)
        return results

    def add(self, cell: Cell, outcome: Outcome) -> None:
        """Take in a cell."""
        self.outcomes.setdefault(cell.place, {})[cell.rate, cell.seed] = outcome

    def of(self, cell: Cell) -> Outcome | None:
        """Return what became of a cell; None: it is not over."""
        return self.outcomes.get(cell.place, {}).get((cell.rate, cell.seed))

    def score(self, combination: Combination, rate: float, figure: str) -> float:
        """Return the mean of a figure over the seeds of the tuning, which decides on the rate; inf if one seed has none."""
        seeds = self.suite.seeds[: self.suite.tune_seeds]
        found = [self.outcomes.get(combination.place, {}).get((rate, seed)) for seed in seeds]
        values = [None if outcome is None else outcome.figure(figure, combination.target) for outcome in found]
        return math.inf if any(value is None for value in values) else statistics.fmean(v for v in values if v is not None)

    def chosen(self, combination: Combination) -> dict[str, float]:
        """Return, by figure, the rate with the lowest mean; the lowest of equal ones. A figure without any mean is left out."""
        rates = sorted({rate for rate, _ in self.outcomes.get(combination.place, {})})
        best = {}
        for figure in self.suite.tune:
            scores = {rate: self.score(combination, rate, figure) for rate in rates}
            if scores and min(scores.values()) < math.inf:
                best[figure] = min(rates, key=lambda rate: scores[rate])
        return best

    def at_chosen(self, combination: Combination, figure: str) -> list[Outcome]:
        """Return the outcomes of all seeds at the rate chosen by a figure."""
        rate = self.chosen(combination).get(figure)
        found = self.outcomes.get(combination.place, {})
        return [found[rate, seed] for seed in self.suite.seeds if rate is not None and (rate, seed) in found]

    def on_edge(self, combination: Combination, rate: float) -> str:
        """Say whether a rate is the first or last of the grid: a better one may lie beyond."""
        rates = sorted(combination.rates)
        if len(rates) < 2 or rate not in (rates[0], rates[-1]):
            return ""
        return "lowest" if rate == rates[0] else "highest"

    def csv(self) -> str:
        """Return the tidy table. The order is that of the suite; nothing in it depends on when, or how often, it was run."""
        text = io.StringIO()
        columns = [*self.suite.axes, "lr", "seed", "chosen", "status", "message", "target", *FIGURES, *TO_TARGET]
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(columns)
        for combination in self.suite.combinations:
            found = self.outcomes.get(combination.place, {})
            chosen = self.chosen(combination)
            for rate, seed in sorted(found, key=lambda key: (key[0], self.suite.seeds.index(key[1]))):
                outcome = found[rate, seed]
                by = " ".join(figure for figure, best in chosen.items() if best == rate)
                figures = [outcome.figure(name, combination.target) for name in (*FIGURES, *TO_TARGET)]
                told = [outcome.status, outcome.message, _number(combination.target)]
                writer.writerow([*combination.place, _number(rate), seed, by, *told, *map(_number, figures)])
        return text.getvalue()

    def groups(self) -> list[tuple[str, list[Combination]]]:
        """Return the combinations by all axes but the last, which is what is compared; each group with its title."""
        groups: dict[str, list[Combination]] = {}
        for combination in self.suite.combinations:
            groups.setdefault(self.title(combination), []).append(combination)
        return list(groups.items())

    def title(self, combination: Combination) -> str:
        """Return the title of a combination's group: its axes but the last, say "problem: CNN, p: 0.2"; "" with one axis."""
        return ", ".join(f"{axis}: {value}" for axis, value in zip(self.suite.axes, combination.place[:-1], strict=False))

    def write(self, folder: Path) -> None:
        """Write ``results.csv`` and ``tables.md``."""
        for name, text in ((RESULTS, self.csv()), (TABLES, self.markdown())):
            draft = folder / f".{name}.draft"
            draft.write_text(text, encoding="utf-8")
            draft.replace(folder / name)

    def tables(self) -> list[ResultTable]:
        """Return a table for each group: mean and standard deviation over the seeds."""
        last = list(self.suite.axes)[-1]
        tables = []
        for title, every in self.groups():
            combinations = [combination for combination in every if combination.place in self.outcomes]
            if not combinations:
                continue
            target = next((one.target for one in combinations if one.target is not None), None)
            wanted = [name for name in _COLUMNS if self._known(combinations, name)]
            header = [last, "lr", *(_COLUMNS[name].format(target=_number(target)) for name in wanted)]
            rows = [self._row(combination, wanted) for combination in combinations]
            if _LOSS in wanted and len(self.suite.seeds) > 1 and len(combinations) > 1:
                header.append("test loss above the best")
                above = above_the_best({one.place[-1]: self._by_seed(one, _LOSS) for one in combinations})
                rows = [[*row, above[row[0]]] for row in rows]
            tables.append(ResultTable(title, header, rows, self._note(combinations, wanted)))
        return tables

    def markdown(self) -> str:
        """Return the tables as Markdown."""
        parts = []
        for table in self.tables():
            lines = [f"**{table.title}**", ""] if table.title else []
            for row in (table.header, ["---"] * len(table.header), *table.rows):
                lines.append("| " + " | ".join(row) + " |")
            parts.append("\n".join([*lines, *(["", table.note] if table.note else [])]))
        return "\n\n".join(parts) + "\n"

    @staticmethod
    def _note(combinations: Sequence[Combination], wanted: Sequence[str]) -> str:
        """Say how finely the columns "to the target" are counted; "" without such a column."""
        if not any(name in TO_TARGET for name in wanted):
            return ""
        every = sorted({one.eval_every for one in combinations})
        often = " or ".join(f"every {steps} steps" if steps else "at the end only" for steps in every)
        return f"the target is looked for at evaluations: {often}"

    def _known(self, combinations: Sequence[Combination], name: str) -> bool:
        figures = [outcome.figure(name, one.target) for one in combinations for outcome in self._judged(one, name)]
        return any(value is not None for value in figures)

    def _judged(self, combination: Combination, name: str) -> list[Outcome]:
        """Return the outcomes that a column shows: at the rate chosen by that figure or its like, if rates were tuned by it."""
        alike = [figure for figure in self.suite.tune if (figure in TO_TARGET) == (name in TO_TARGET)]
        return self.at_chosen(combination, name if name in self.suite.tune else [*alike, self.suite.tune[0]][0])

    def _by_seed(self, combination: Combination, name: str) -> dict[int, float]:
        """Return a figure by seed, at the rate that its column shows; without the seeds that have none."""
        judged = {id(outcome) for outcome in self._judged(combination, name)}
        found = self.outcomes.get(combination.place, {})
        values = {seed: one.figure(name, combination.target) for (_, seed), one in found.items() if id(one) in judged}
        return {seed: value for seed, value in values.items() if value is not None}

    def _row(self, combination: Combination, wanted: Sequence[str]) -> list[str]:
        chosen = self.chosen(combination)
        if self.suite.tune[0] not in chosen:
            return [combination.place[-1], "all rates failed", *[""] * len(wanted)]
        rates = dict.fromkeys(chosen.values())
        shown = [f"{rate:g}" + (f" ({edge})" if (edge := self.on_edge(combination, rate)) else "") for rate in rates]
        cells = [spread([one.figure(name, combination.target) for one in self._judged(combination, name)]) for name in wanted]
        return [combination.place[-1], "; ".join(shown), *cells]


_LOSS = "final_test_loss"
_COLUMNS = {
    "final_train_loss": "training loss",
    "final_test_loss": "test loss",
    "final_test_accuracy": "test accuracy",
    "seconds": "seconds of steps",
    "wall_seconds": "seconds of the job",
    "steps_to_target": "steps to {target}",
    "seconds_to_target": "seconds to {target}",
    "payload_bits_to_target": "payload bits to {target}",
    "bytes_to_target": "bytes to {target}",
}


def spread(values: Sequence[float | None]) -> str:
    """Return mean +- standard deviation, in few digits, and how many seeds have a value if not all have."""
    known = [value for value in values if value is not None]
    if not known:
        return "never"
    mean = statistics.fmean(known)
    unit, scale = next(((unit, scale) for unit, scale in _UNITS if abs(mean) >= scale), ("", 1.0))
    shown = _digits(mean / scale)
    if len(known) > 1:
        deviation = statistics.stdev(known)
        shown += f" +- {_digits(deviation / scale, 2) if deviation > _NOTHING * abs(mean) else 0}"
    shown += f" {unit}" if unit else ""
    return shown if len(known) == len(values) else f"{shown} ({len(known)} of {len(values)})"


_UNITS = (("G", 1e9), ("M", 1e6), ("k", 1e3))
_NOTHING = 1e-4
"""A deviation below this part of the mean is shown as 0."""


def _digits(value: float, digits: int = 3) -> str:
    return f"{value:.0f}" if abs(value) >= 10.0**digits else f"{value:.{digits}g}"


def _number(value: float | None) -> str:
    """Return a whole number as it is, and nine digits of any other."""
    return "" if value is None else f"{value:.0f}" if value == round(value) else f"{value:.9g}"


def failures(results: Results) -> Mapping[str, str]:
    """Return what went wrong by the names of cells. Cells of one combination with the same message are named together."""
    alike: dict[tuple[str, str], list[str]] = {}
    for place, found in results.outcomes.items():
        for (rate, seed), outcome in found.items():
            if outcome.status == "failed":
                alike.setdefault((", ".join(place), outcome.message), []).append(f"lr {rate:g} seed {seed}")
    return {f"{place} ({', '.join(cells)})": message for (place, message), cells in alike.items()}
