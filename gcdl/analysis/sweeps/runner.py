"""``gcdl sweep``: runs the cells of a suite that are not over yet, tunes the learning rates, and writes the results.

The folder of a sweep::

    suite.toml      the suite
    cells/          a folder for each cell, by axes, rate and seed; cell.json says that it is over
    results.csv     a row a cell
    tables.md       the methods at their chosen rates, mean and standard deviation over the seeds
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from gcdl.analysis.sweeps.cell import run_cell
from gcdl.analysis.sweeps.outcome import CELL, Outcome
from gcdl.analysis.sweeps.results import SUITE, Results
from gcdl.analysis.sweeps.suite import Cell, Combination, Suite
from gcdl.errors import Interrupted, UsageError
from gcdl.training.durable_file import lock

Told = Callable[[Cell, Outcome], None]

_BEGIN = 3  # rates that a walk begins with
_WALK = 5  # and those that it takes, as a rule


def plan(suite: Suite, only: Sequence[str]) -> list[Combination]:
    """Return the combinations to run: those with all of ``only``, AXIS=VALUE.

    Raises
    ------
    UsageError : no such axis, or no such value.
    """
    wanted: dict[int, set[str]] = {}
    for word in only:
        axis, equals, value = word.partition("=")
        if not equals or axis not in suite.axes:
            raise UsageError(f"--only {word}: looks like AXIS=VALUE; the axes are {', '.join(suite.axes)}")
        if value not in suite.axes[axis]:
            raise UsageError(f"--only {word}: {axis} has no such value (valid: {', '.join(suite.axes[axis])})")
        wanted.setdefault(list(suite.axes).index(axis), set()).add(value)
    return [one for one in suite.combinations if all(one.place[axis] in values for axis, values in wanted.items())]


def cells_expected(suite: Suite, combinations: Sequence[Combination]) -> int:
    """Return how many runs these combinations take, if all figures choose the same rate."""
    walk = suite.search == "walk"
    rates = [one.rates[:_WALK] if walk else one.rates for one in combinations]
    tuning = [len(suite.tuning(one, some)) for one, some in zip(combinations, rates, strict=True)]
    return sum(tuning) + sum(len(suite.others(one, [0.1])) for one in combinations)


def sweep(
    suite: Suite,
    folder: Path,
    combinations: Sequence[Combination],
    told: Told,
    *,
    jobs: int = 1,
    retry: bool = False,
) -> Results:
    """Run what is not over; return all results, which are written after each combination.

    Parameters
    ----------
    folder : of the sweep: new, or of an earlier one of this suite.
    combinations : to run; see :func:`plan`.
    told : called with each cell that is over.
    jobs : cells simulated at a time.
    retry : run failed cells again.

    Raises
    ------
    UsageError : the folder is another suite's, another sweep's at this moment, or can't be written.
    Interrupted : by the user; the same command goes on.
    """
    if suite.transport == "mpi" and jobs > 1:
        raise UsageError("--jobs: cells that are measured run one after the other (transport = 'mpi')")
    with _opened(folder), _runner(suite, folder, jobs) as run:
        results = Results.read(suite, folder)
        (folder / SUITE).write_text(suite.text, encoding="utf-8")
        try:
            for combination in combinations:
                _tune(suite, combination, results, run, told, retry)
                rates = list(dict.fromkeys(results.chosen(combination).values()))
                _all(suite.others(combination, rates), results, run, told, retry)
                results.write(folder)
        except KeyboardInterrupt:
            raise Interrupted("interrupted") from None
        finally:
            results.write(folder)
    return results


Run = Callable[[Sequence[Cell]], Iterator[Outcome]]


def _tune(suite: Suite, combination: Combination, results: Results, run: Run, told: Told, retry: bool) -> None:
    """Run what decides a combination's rate: every rate, or from the grid's middle on those next to the best so far."""
    grid = sorted(combination.rates)
    if suite.search == "grid" or len(grid) <= _BEGIN:
        _all(suite.tuning(combination), results, run, told, retry)
        return
    begin = (len(grid) - _BEGIN) // 2
    wanted, ran = grid[begin : begin + _BEGIN], set[float]()
    while wanted:
        _all(suite.tuning(combination, wanted), results, run, told, retry)
        ran.update(wanted)
        chosen = [grid.index(rate) for rate in results.chosen(combination).values()]
        if not chosen:  # all of them diverged
            chosen = [grid.index(min(ran))]
        near = {place + side for place in chosen for side in (-1, 0, 1) if 0 <= place + side < len(grid)}
        wanted = [grid[place] for place in sorted(near) if grid[place] not in ran]


def _all(cells: Sequence[Cell], results: Results, run: Run, told: Told, retry: bool) -> None:
    """Run those cells that are not over."""
    left = []
    for cell in cells:
        outcome = results.of(cell)
        if outcome is None or (retry and outcome.status == "failed"):
            left.append(cell)
        else:
            told(cell, outcome)
    for cell, outcome in zip(left, run(left), strict=True):
        results.add(cell, outcome)
        told(cell, outcome)


@contextmanager
def _runner(suite: Suite, folder: Path, jobs: int) -> Iterator[Run]:
    """Yield a function that runs cells: one after the other here, or ``jobs`` at a time in other processes."""

    def arguments(cell: Cell) -> tuple[str, Path]:
        return cell.config.toml(), folder / cell.folder

    keep = suite.keep == "runs"
    if jobs == 1:
        yield lambda cells: (run_cell(*arguments(cell), suite.transport, keep_runs=keep) for cell in cells)
        return
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:

        def submit(cells: Sequence[Cell]) -> Iterator[Outcome]:
            futures = [pool.submit(run_cell, *arguments(cell), suite.transport, keep_runs=keep) for cell in cells]
            return (future.result() for future in futures)

        try:
            yield submit
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


@contextmanager
def _opened(folder: Path) -> Iterator[None]:
    """Make the folder, and hold it while the sweep runs."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        strangers = [path.name for path in folder.iterdir() if path.name not in (SUITE, ".lock")]
        if strangers and not (folder / SUITE).exists():
            raise UsageError(f"--out {folder}: holds {strangers[0]}, and is no sweep's: name another folder")
        with (folder / ".lock").open("w") as file:
            lock(file.fileno(), folder / CELL)
            yield
    except OSError as error:
        raise UsageError(f"{folder}: cannot be written: {error.strerror or error}") from error
