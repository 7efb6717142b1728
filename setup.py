"""The kernels in machine code: an optional part of the build. Everything else about the package is in pyproject.toml."""

from setuptools import Extension, setup

setup(
    ext_modules=[
        Extension(
            "gcdl.compressors.kernels._native",
            ["gcdl/compressors/kernels/native.c"],
            # A product and a sum stay two operations, as numpy does them; see native.c.
            extra_compile_args=["-std=gnu11", "-O3", "-ffp-contract=off", "-fvisibility=hidden", "-Wno-psabi"],
            optional=True,  # without a compiler numpy computes, the same numbers
        )
    ]
)
