"""Problems: what is trained. A new one is a file with a :class:`Problem`, and a line in :data:`PROBLEMS`.

Constructors take ``k`` (shards) and ``seed``; their keyword-only parameters are the keys of the config's ``[problem]``
table, beside ``shards``, which is k.
"""

from collections.abc import Callable

from gcdl.problems.base import (
    CodedGradient,
    CountsSamples,
    CutsTestSet,
    Evaluation,
    Evaluator,
    LooksAtItself,
    MadeByHand,
    Problem,
    Samples,
)
from gcdl.problems.classifier import Classifier
from gcdl.problems.linear_regression import LinearRegression
from gcdl.problems.logistic_regression import LogisticRegression
from gcdl.problems.torch_problem import TorchProblem

PROBLEMS: dict[str, Callable[..., Problem]] = {
    "linear_regression": LinearRegression,
    "logistic_regression": LogisticRegression,
    "classifier": Classifier,
}

__all__ = [
    "PROBLEMS",
    "Classifier",
    "CodedGradient",
    "CountsSamples",
    "CutsTestSet",
    "Evaluation",
    "Evaluator",
    "LinearRegression",
    "LogisticRegression",
    "LooksAtItself",
    "MadeByHand",
    "Problem",
    "Samples",
    "TorchProblem",
]
