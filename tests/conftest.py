"""The order of the tests. Those that start MPI jobs come last, all in one process, one after the other.

The others share the cores (pytest-xdist, see launch/test); a job of nine ranks is to have the machine to itself.
"""

from __future__ import annotations

import pytest


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    jobs = [item for item in items if item.get_closest_marker("mpi")]
    others = [item for item in items if not item.get_closest_marker("mpi")]
    items[:] = [*others, *jobs]
    if config.pluginmanager.hasplugin("xdist"):
        for item in jobs:
            item.add_marker(pytest.mark.xdist_group("mpi"))
