"""The examples in docstrings are true."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import pytest

import gcdl

ROOT = Path(gcdl.__file__).parent
SHOWN = sorted(path.relative_to(ROOT) for path in ROOT.rglob("*.py") if ">>> " in path.read_text())


@pytest.mark.parametrize("path", SHOWN, ids=str)
def test_doctest(path):
    name = ".".join(("gcdl", *path.with_suffix("").parts)).removesuffix(".__init__")
    result = doctest.testmod(importlib.import_module(name))
    assert result.attempted
    assert not result.failed


def test_every_public_name_has_a_docstring_and_help_reads():
    for name in gcdl.__all__:
        if name != "__version__":
            assert (getattr(gcdl, name).__doc__ or "").strip(), name
