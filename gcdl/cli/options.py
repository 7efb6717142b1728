"""Arguments and options that several commands take, and what follows from them."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from gcdl.cli.completion import complete_override

ConfigPath = Annotated[Path, typer.Argument(metavar="CONFIG", help="A TOML file; see configs/README.md.", show_default=False)]
ConfigOrScript = Annotated[
    Path, typer.Argument(metavar="CONFIG|SCRIPT.py", help="A TOML file, or a script with a gcdl.Trainer.", show_default=False)
]
Workers = Annotated[
    int | None,
    typer.Option("-n", "--workers", metavar="N", min=1, help="How many workers to start for a script.", show_default=False),
]
OptionalConfig = Annotated[
    Path | None, typer.Argument(metavar="[CONFIG]", help="A TOML file; see configs/README.md.", show_default=False)
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[KEY=VALUE]...",
        help="Override keys, e.g. code.stragglers=2",
        show_default=False,
        autocompletion=complete_override,
    ),
]
Out = Annotated[
    Path | None, typer.Option(metavar="DIR", help="The run folder; runs/NAME-TIME when left out.", show_default=False)
]
Hostfile = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Start the ranks on these hosts: lines of HOST slots=N.", show_default=False),
]
RunPath = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.", show_default=False)]
Only = Annotated[
    list[str] | None,
    typer.Option(metavar="AXIS=VALUE", help="Of a sweep: only this part; may be given several times.", show_default=False),
]


def run_folder(out: Path | None, config: Path) -> Path:
    """Return the folder of a new run: ``--out``, or one under ``runs`` named for the config and the time."""
    return out if out is not None else Path("runs") / f"{config.stem}-{datetime.now():%Y%m%d-%H%M%S}"
