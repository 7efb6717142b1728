"""The examples in docstrings are true."""

from __future__ import annotations

import dataclasses
import doctest
import importlib
import inspect
import re
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


def public_classes():
    return [value for name in gcdl.__all__ if isinstance(value := getattr(gcdl, name), type)]


@pytest.mark.parametrize("found", public_classes(), ids=lambda found: found.__name__)
def test_every_parameter_and_attribute_of_a_public_class_is_said(found):
    doc = found.__doc__ or ""
    said = {name.strip() for line in doc.splitlines() if " : " in line for name in line.split(" : ")[0].split(",")}
    names = [field.name for field in dataclasses.fields(found)] if dataclasses.is_dataclass(found) else []
    if not names and not issubclass(found, Exception):
        names = [name for name in inspect.signature(found).parameters if name != "self"]
    assert {name for name in names if not name.startswith("_")} <= said
    for name, member in vars(found).items():
        if not name.startswith("_") and (callable(member) or isinstance(member, property | classmethod | staticmethod)):
            assert (inspect.getdoc(getattr(found, name)) or "").strip(), name


def test_every_error_says_its_exit_code():
    for found in public_classes():
        if issubclass(found, gcdl.GcdlError) and found is not gcdl.GcdlError:
            assert re.search(rf"[Ee]xit code {found.exit_code}\b", found.__doc__ or ""), found
