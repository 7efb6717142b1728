"""What a process can be in a run: the master, a worker, or both ends of a simulation."""

from gcdl.training.roles.master import run_master
from gcdl.training.roles.simulation import simulate
from gcdl.training.roles.worker import run_worker

__all__ = ["run_master", "run_worker", "simulate"]
