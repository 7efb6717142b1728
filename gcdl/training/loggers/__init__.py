"""Where a run's figures go beside its folder, step by step: ``gcdl.Trainer(loggers=[gcdl.loggers.CSV()])``.

A logger is any object with the methods of :class:`Logger`.
"""

from gcdl.training.loggers.base import Logger
from gcdl.training.loggers.csv import CSV
from gcdl.training.loggers.mlflow import MLflow
from gcdl.training.loggers.tensorboard import TensorBoard
from gcdl.training.loggers.wandb import WandB

__all__ = ["CSV", "Logger", "MLflow", "TensorBoard", "WandB"]
