"""Which kernels compute: the native ones where they exist and are worth it, else numpy's. The numbers are the same."""

from __future__ import annotations

import os

from gcdl.compressors.kernels.reference import Kernels
from gcdl.errors import UsageError
from gcdl.host.installation import pip_install

_WORTH_COMPILING = 1 << 16


def kernels_for(d: int) -> Kernels:
    """Return the fastest kernels there are for d coordinates: the compiled ones if llvmlite is installed and d is worth it.

    ``GCDL_KERNELS`` = numpy or compiled in the environment decides otherwise; the numbers are the same, to the bit.

    Raises
    ------
    UsageError : the environment asks for compiled kernels where there are none, or for something else.
    """
    wanted = os.environ.get("GCDL_KERNELS", "")
    if wanted not in ("", "numpy", "compiled"):
        raise UsageError(f"GCDL_KERNELS={wanted}: must be numpy or compiled")
    if wanted == "numpy" or (not wanted and d < _WORTH_COMPILING):
        return Kernels(d)
    try:
        from gcdl.compressors.kernels.native import CompiledKernels
    except ImportError:
        if wanted:
            raise UsageError(f"GCDL_KERNELS=compiled: llvmlite is missing; {pip_install('fast')}") from None
        return Kernels(d)
    return CompiledKernels(d)
