"""Which kernels compute: those in machine code where they were built, else numpy's. The numbers are the same, to the bit."""

from __future__ import annotations

import os

from gcdl.compressors.kernels.native import NativeKernels, best_level
from gcdl.compressors.kernels.reference import Kernels
from gcdl.errors import UsageError
from gcdl.host.installation import pip_install

_NAMES = {"numpy": "numpy", "native": "native", "compiled": "native"}
"""What ``GCDL_KERNELS`` may say; ``compiled`` is the name that earlier versions had."""


def kernels_for(d: int) -> Kernels:
    """Return the fastest kernels there are, for vectors of d coordinates.

    ``GCDL_KERNELS`` = numpy or native in the environment decides otherwise.

    Raises
    ------
    UsageError : the environment asks for native kernels where there are none, or for something else.
    """
    return Kernels(d) if chosen() == "numpy" else NativeKernels()


def chosen() -> str:
    """Return the name of the kernels in use: ``numpy``, or ``native`` and the level of the processor they are built for.

    Raises
    ------
    UsageError : as for :func:`kernels_for`.
    """
    wanted = os.environ.get("GCDL_KERNELS", "")
    if wanted and wanted not in _NAMES:
        raise UsageError(f"GCDL_KERNELS={wanted}: must be numpy or native")
    level = best_level()
    if _NAMES.get(wanted) == "native" and level is None:
        raise UsageError(f"GCDL_KERNELS={wanted}: they were not built; with a C compiler, {pip_install('fast')} does it")
    return "numpy" if level is None or wanted == "numpy" else f"native ({level})"
