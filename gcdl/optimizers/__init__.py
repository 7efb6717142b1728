"""Optimizers: a decoded gradient becomes new parameters. A new one is a recipe, and a line in :data:`OPTIMIZERS`."""

from gcdl.optimizers.flat import OPTIMIZERS, Adam, AdamW, Optimizer, OptimizerRecipe, Sgd, TorchOptimizer, Tuned
from gcdl.optimizers.schedules import SCHEDULES, Schedule

__all__ = [
    "OPTIMIZERS",
    "SCHEDULES",
    "Adam",
    "AdamW",
    "Optimizer",
    "OptimizerRecipe",
    "Schedule",
    "Sgd",
    "TorchOptimizer",
    "Tuned",
]
