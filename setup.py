"""The kernels in machine code: an optional part of the build. Everything else about the package is in pyproject.toml."""

from pathlib import Path
from zlib import crc32

from setuptools import Extension, setup

SOURCE = "gcdl/compressors/kernels/native.c"

setup(
    ext_modules=[
        Extension(
            "gcdl.compressors.kernels._native",
            [SOURCE],
            # So that a library of an older source is noticed, and not called.
            define_macros=[("SOURCE_CRC", f"{crc32(Path(SOURCE).read_bytes())}u")],
            # A product and a sum stay two operations, as numpy does them; see native.c.
            extra_compile_args=["-std=gnu11", "-O3", "-ffp-contract=off", "-fvisibility=hidden", "-Wno-psabi"],
            optional=True,  # without a compiler numpy computes, the same numbers
        )
    ]
)
