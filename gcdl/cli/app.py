"""The table of the ``gcdl`` command's commands."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from gcdl.cli import advise, analyse, doctor, run, script, train
from gcdl.errors import Interrupted


class _Commands(TyperGroup):
    """Ends a command that Ctrl-C breaks off as an error of ours, where typer would print "Aborted!" and exit with 1."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise Interrupted("interrupted") from None


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Distributed training over MPI with 1-bit gradient coding, in the presence of stragglers.",
)
for _command in (
    run.run, run.simulate, run.resume, train.train,
    analyse.replay, analyse.trace, analyse.plot, analyse.sweep, analyse.code,
    advise.advise, doctor.doctor,
):  # fmt: skip
    app.command()(_command)
app.command(hidden=True, context_settings={"allow_interspersed_args": False, "ignore_unknown_options": True})(script.script)


def _version(wanted: bool) -> None:
    if wanted:
        import gcdl

        print(f"gcdl {gcdl.__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")] = False,
) -> None:
    """Distributed training over MPI with 1-bit gradient coding, in the presence of stragglers."""
