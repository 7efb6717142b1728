"""Optimizers: a decoded gradient becomes new parameters.

A new one is a file with a recipe, and a line in :data:`OPTIMIZERS`. The recipe's parameters are the keys of the config's
``[optimizer]`` table.
"""

from collections.abc import Callable

from gcdl.optimizers.adam import Adam, AdamW
from gcdl.optimizers.flat import Optimizer
from gcdl.optimizers.recipe import OptimizerRecipe, for_layout
from gcdl.optimizers.schedules import SCHEDULES, Schedule
from gcdl.optimizers.sgd import Sgd
from gcdl.optimizers.sign import SignSteps, ties_go_up
from gcdl.optimizers.torch_optimizer import TorchOptimizer
from gcdl.optimizers.tuned import Tuned

OPTIMIZERS: dict[str, Callable[..., OptimizerRecipe]] = {"sgd": Sgd, "adam": Adam, "adamw": AdamW, "sign": SignSteps}

__all__ = [
    "OPTIMIZERS",
    "SCHEDULES",
    "Adam",
    "AdamW",
    "Optimizer",
    "OptimizerRecipe",
    "Schedule",
    "Sgd",
    "SignSteps",
    "TorchOptimizer",
    "Tuned",
    "for_layout",
    "ties_go_up",
]
