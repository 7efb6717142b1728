"""The types of a script's tables have the kinds and the keys that there are."""

from __future__ import annotations

from typing import get_args, get_type_hints

import pytest

from gcdl.config import SECTIONS, RunOptions, SimulateOptions, typed_tables


@pytest.mark.parametrize("name", SECTIONS)
def test_a_tables_type_has_the_kinds_and_the_keys_of_its_plug_ins(name):
    section = SECTIONS[name]
    assert get_args(getattr(typed_tables, f"{name.capitalize()}Kind")) == tuple(section.kinds)
    keys = {key for kind in section.kinds for key in section.keys(kind)}
    assert set(get_type_hints(getattr(typed_tables, f"{name.capitalize()}Table"))) == {"kind", *keys}


@pytest.mark.parametrize(("table", "options"), [("RunTable", RunOptions), ("SimulateTable", SimulateOptions)])
def test_the_types_of_options_have_their_keys(table, options):
    assert set(get_type_hints(getattr(typed_tables, table))) == set(options.model_fields)
