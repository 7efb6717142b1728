"""``gcdl doctor``: alone it looks at this machine and at three ranks it starts; under mpirun or srun, at that job."""

from __future__ import annotations

import json
import os
from typing import Annotated, NoReturn

import typer
from rich.console import Console

from gcdl.errors import UsageError
from gcdl.host.launcher_environment import Launch
from gcdl.launch import diagnosis, job_checks
from gcdl.launch import doctor as machine
from gcdl.launch.join import join


def doctor(as_json: Annotated[bool, typer.Option("--json", help="For scripts.")] = False) -> None:
    """Look at what a run stands on, and say what to do about what is wrong. Under mpirun or srun: look at that job."""
    launch = Launch.read()
    job = None
    if job_checks.PROBE in os.environ:
        _measure_for_another_doctor()
    findings = machine.local(launch) if launch.rank == 0 else []
    if not machine.fits(launch) or (launch.launcher and launch.size < 2):
        if launch.rank > 0:
            raise typer.Exit(0)
    elif launch.size > 1:
        from gcdl.transport.mpi.probe import answer, probe

        job = join()
        if job.rank > 0:
            answer(job)
            job.end(0)
        findings += job_checks.ranks(probe(job))
    else:
        findings += job_checks.start_probe()
    if as_json:
        print(diagnosis.as_json(findings), flush=True)
    else:
        Console().print(diagnosis.table(findings))
    code = 0 if diagnosis.healthy(findings) else UsageError.exit_code
    if job is not None:
        job.end(code)
    raise typer.Exit(code)


def _measure_for_another_doctor() -> NoReturn:
    """Be one of the three ranks: measure, and let rank 0 print what was measured."""
    from gcdl.transport.mpi.probe import answer, probe

    job = join()
    if job.rank == 0:
        print(json.dumps(probe(job).plain()), flush=True)
    else:
        answer(job)
    job.end(0)
