"""The command line: thin commands, a file a group. :mod:`gcdl.cli.app` puts them together."""

from __future__ import annotations

import atexit
import gc
import os
import signal
import sys
from typing import NoReturn

_INTERRUPTED = 130


def main() -> NoReturn:
    """Entry point of the ``gcdl`` command."""
    # Importing the commands takes most of a second. Ctrl-C in that time is answered too, and no import is torn in two.
    before = signal.signal(signal.SIGINT, _leave)
    # The last garbage collection would look at every object of torch and free memory that goes with the process anyway.
    atexit.register(gc.freeze)
    from gcdl.cli.app import app
    from gcdl.cli.errors import tell

    signal.signal(signal.SIGINT, before)
    try:
        app(prog_name="gcdl")
    except Exception as error:
        sys.exit(tell(error))
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # all is done: Ctrl-C now would only garble the end
    sys.exit(0)


def _leave(number: int, frame: object) -> NoReturn:
    os.write(2, b"gcdl: interrupted\n")
    os._exit(_INTERRUPTED)
