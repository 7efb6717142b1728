"""The ``gcdl`` command: the table of its commands, and how it ends."""

from __future__ import annotations

import signal
import sys
from typing import NoReturn

import typer

from gcdl.cli import analyse, doctor, run, train
from gcdl.cli.errors import tell
from gcdl.errors import GcdlError

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Distributed training over MPI with 1-bit gradient coding, in the presence of stragglers.",
)
for _command in (
    run.run, run.simulate, run.resume, train.train,
    analyse.replay, analyse.trace, analyse.plot, analyse.sweep, analyse.code,
    doctor.doctor,
):  # fmt: skip
    app.command()(_command)


@app.callback()
def _root() -> None:
    """Distributed training over MPI with 1-bit gradient coding, in the presence of stragglers."""


def main() -> NoReturn:
    """Entry point of the ``gcdl`` command."""
    try:
        app()
    except GcdlError as error:
        sys.exit(tell(error))
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # all is done: Ctrl-C now would only garble the end
    sys.exit(0)
