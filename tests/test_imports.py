"""Imports only go down: between the folders, as the design has them, and inside each of them."""

from __future__ import annotations

import ast
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import gcdl

ROOT = Path(gcdl.__file__).parent

# From the ground up. A folder imports from those below its line; modules inside a folder form no circle.
LAYERS = [
    {"types", "errors"},
    {"host"},
    {"codes", "compressors", "stragglers", "problems", "optimizers"},
    {"downlinks"},
    {"protocol"},
    {"transport", "config"},
    {"training"},
    {"launch"},
    {"analysis"},
    {"cli"},
    {"gcdl", "__main__"},
    {"examples"},
]
# The only modules that import torch when they are imported.
TORCH = {
    "gcdl.problems.models", "gcdl.problems.flat", "gcdl.problems.layer_checks", "gcdl.problems.device_module",
    "gcdl.compressors.kernels.torch_ops",
}  # fmt: skip


def modules() -> dict[str, Path]:
    found = {}
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(path: Path, *, top_level_only: bool = False) -> set[str]:
    """The modules that a file imports, and the names it takes from them, also inside functions."""
    tree = ast.parse(path.read_text())
    names: set[str] = set()
    for node in tree.body if top_level_only else ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def graph() -> dict[str, set[str]]:
    """Which module of gcdl imports which others. The package itself (its version, its public names) is left out."""
    known = modules()
    return {
        name: {target for target in (i if i in known else i.rpartition(".")[0] for i in imports(path)) if target in known}
        - {name, "gcdl"}
        for name, path in known.items()
    }


def folder(name: str) -> str:
    return [*name.split("."), "gcdl"][1]


def layer(name: str) -> int:
    for number, members in enumerate(LAYERS):
        if folder(name) in members:
            return number
    raise AssertionError(f"{name} is in no layer: add it to the table, and to the design")


def test_imports_between_folders_only_go_down():
    for name, targets in graph().items():
        for target in targets:
            if folder(target) != folder(name):
                assert layer(target) < layer(name), f"{name} imports {target}"


def test_no_modules_import_each_other_in_a_circle():
    try:
        TopologicalSorter(graph()).prepare()
    except CycleError as error:
        raise AssertionError(f"a circle: {' <- '.join(error.args[1])}") from None


def test_only_problems_and_optimizers_know_torch_and_nobody_imports_it_before_it_is_needed():
    allowed = ("gcdl.optimizers.", "gcdl.problems.", "gcdl.compressors.kernels.torch_ops", "gcdl.compressors.to_device",
               "gcdl.compressors.device_codecs")  # fmt: skip
    for name, path in modules().items():
        if folder(name) == "examples":
            continue  # scripts of users
        if any(imported.split(".")[0] == "torch" for imported in imports(path)):
            assert name.startswith(allowed) or name == "gcdl.training.trainer", name
        if any(imported.split(".")[0] == "torch" for imported in imports(path, top_level_only=True)):
            assert name in TORCH, name


def test_only_the_mpi_transport_knows_mpi():
    for name, path in modules().items():
        if any(imported.split(".")[0] == "mpi4py" for imported in imports(path)):
            assert name.startswith("gcdl.transport.mpi.") or name == "gcdl.training.provenance", name


@pytest.mark.parametrize("heavy", ["torch", "mpi4py", "sklearn"])
def test_a_config_is_checked_without_loading_what_it_does_not_need(heavy):
    code = f"import sys, gcdl.cli.app; sys.exit({heavy!r} in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
