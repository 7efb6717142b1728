"""Imports only go down: the layers of the design, and no way around them."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import gcdl

ROOT = Path(gcdl.__file__).parent

# From the top. A module may import from the layers below its own, and, where the layer says so, within it.
LAYERS: list[tuple[set[str], bool]] = [
    ({"gcdl.examples"}, True),
    ({"gcdl", "gcdl.__main__"}, True),
    ({"gcdl.cli.commands"}, False),
    ({"gcdl.training.trainer", "gcdl.analysis.sweeps.plots"}, False),
    ({"gcdl.analysis.sweeps.runner"}, False),
    ({"gcdl.analysis.sweeps.cell", "gcdl.analysis.sweeps.display"}, False),
    ({"gcdl.launch.doctor"}, False),
    ({"gcdl.launch.supervisor", "gcdl.analysis.sweeps.results", "gcdl.analysis.html_report"}, False),
    ({"gcdl.analysis.sweeps.suite", "gcdl.analysis.sweeps.outcome"}, False),
    ({"gcdl.training.roles", "gcdl.analysis.replay", "gcdl.analysis.reply_times", "gcdl.analysis.plots", "gcdl.training.display", "gcdl.analysis.code_report"}, False),
    ({"gcdl.training.loop"}, False),
    ({"gcdl.training.run_warnings", "gcdl.training.build", "gcdl.training.timing_only", "gcdl.training.starting_point", "gcdl.training.checkpoint_writer", "gcdl.training.evaluation", "gcdl.config.script_arguments",
      "gcdl.host.cores"}, False),
    ({"gcdl.training.run_reader"}, False),
    ({"gcdl.config.experiment"}, False),
    ({"gcdl.config.schema", "gcdl.config.factories"}, False),
    ({"gcdl.protocol.master", "gcdl.transport.mpi.master_end", "gcdl.transport.mpi.worker_end", "gcdl.transport.simulated.virtual_clock",
      "gcdl.transport.recorded"}, False),
    ({"gcdl.protocol.worker", "gcdl.transport.mpi.task_sender", "gcdl.transport.mpi.model_receiver", "gcdl.transport.simulated.network", "gcdl.transport.simulated.faults",
      "gcdl.transport.mpi.fault_injection", "gcdl.transport.mpi.respawn", "gcdl.transport.mpi.probe", "gcdl.protocol.compressor_states", "gcdl.protocol.replica_check"}, False),
    ({"gcdl.transport.mpi.job", "gcdl.transport.mpi.shared_memory"}, False),
    ({"gcdl.protocol.wait_rules", "gcdl.protocol.transport", "gcdl.downlinks"}, False),
    (
        {"gcdl.codes", "gcdl.compressors", "gcdl.stragglers", "gcdl.problems", "gcdl.optimizers.flat", "gcdl.protocol.wire",
         "gcdl.training.run_folder", "gcdl.training.checkpoint_file", "gcdl.training.provenance", "gcdl.analysis.delay_fits"},
        False,
    ),
    ({"gcdl.training.durable_file", "gcdl.protocol.ledger", "gcdl.optimizers.schedules", "gcdl.host.excepthook", "gcdl.training.tensorboard"}, False),
    ({"gcdl.types", "gcdl.errors", "gcdl.training.trace_events", "gcdl.host.stop_request", "gcdl.host.processes", "gcdl.host.launcher_environment",
      "gcdl.host.stall_notice", "gcdl.host.probe_report", "gcdl.launch.diagnosis"}, False),
]  # fmt: skip
PACKAGES = {"gcdl.examples", "gcdl.codes", "gcdl.compressors", "gcdl.downlinks", "gcdl.stragglers", "gcdl.problems"}
# The only modules that import torch when they are imported.
TORCH = {
    "gcdl.problems.models", "gcdl.problems.flat", "gcdl.problems.layer_checks", "gcdl.problems.device_module",
    "gcdl.compressors.to_device",
}  # fmt: skip


def modules() -> dict[str, Path]:
    found = {}
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(path: Path, *, top_level_only: bool = False) -> set[str]:
    tree = ast.parse(path.read_text())
    names: set[str] = set()
    for node in tree.body if top_level_only else ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names} | {str(node.module)}
    return names


def unit(name: str) -> str:
    """The package or module that a layer lists."""
    for package in PACKAGES:
        if name == package or name.startswith(f"{package}."):
            return package
    return name


def layer(name: str) -> int:
    for number, (members, _) in enumerate(LAYERS):
        if unit(name) in members:
            return number
    raise AssertionError(f"{name} is in no layer: add it to the table, and to the design")


def test_every_module_has_a_layer_and_imports_only_go_down():
    known = modules()
    for name, path in known.items():
        if name == "gcdl.transport":
            continue  # an empty package
        for imported in imports(path):
            target = imported if imported in known else imported.rpartition(".")[0]
            if target not in known or target in ("gcdl.transport", name) or unit(target) == unit(name):
                continue
            if imported == "gcdl" or (target == "gcdl" and imported not in known):
                continue
            within = LAYERS[layer(name)][1]
            assert layer(name) < layer(target) or (within and layer(name) == layer(target)), f"{name} imports {imported}"


def test_only_problems_and_optimizers_know_torch_and_nobody_imports_it_before_it_is_needed():
    for name, path in modules().items():
        if unit(name) == "gcdl.examples":
            continue  # scripts of users
        if any(imported.split(".")[0] == "torch" for imported in imports(path)):
            allowed = ("gcdl.optimizers.flat", "gcdl.training.trainer", "gcdl.compressors.to_device")
            assert name in allowed or name.startswith("gcdl.problems."), name
        if any(imported.split(".")[0] == "torch" for imported in imports(path, top_level_only=True)):
            assert name in TORCH, name


def test_only_the_mpi_transport_knows_mpi():
    for name, path in modules().items():
        if any(imported.split(".")[0] == "mpi4py" for imported in imports(path)):
            assert name.startswith("gcdl.transport.") or name == "gcdl.training.provenance", name


@pytest.mark.parametrize("heavy", ["torch", "mpi4py", "sklearn"])
def test_a_config_is_checked_without_loading_what_it_does_not_need(heavy):
    code = f"import sys, gcdl.cli.commands; sys.exit({heavy!r} in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
