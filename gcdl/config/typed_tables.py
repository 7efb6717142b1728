"""The tables that a script gives a :class:`gcdl.Trainer`, as types: editors complete kinds and keys, checkers know them.

A test holds them against the plug-ins. Any other mapping is accepted too; what is in it is checked when the trainer is made.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypedDict

ProblemKind = Literal["linear_regression", "logistic_regression", "classifier", "custom"]


class ProblemTable(TypedDict, total=False):
    """``[problem]``."""

    kind: ProblemKind
    features: int
    samples: int
    noise: float
    batch_size: int
    sampling: Literal["independent", "epoch"]
    test_samples: int
    local_steps: int | Literal["auto"]
    local_optimizer: Mapping[str, Any]
    shards: int
    signal: float
    dataset: Literal["digits", "fashion_mnist"]
    data: str
    model: Literal["linear", "mlp", "cnn"]
    hidden: Sequence[int]
    device: Literal["auto", "cpu", "cuda"]
    autocast: Literal["bfloat16"]
    factory: str
    options: Mapping[str, Any]
    num_workers: int


CodeKind = Literal[
    "uncoded", "fractional_repetition", "cyclic_repetition", "cyclic_mds", "sgc", "bernoulli", "graph", "bibd", "custom"
]  # fmt: skip


class CodeTable(TypedDict, total=False):
    """``[code]``."""

    kind: CodeKind
    decoder: Literal["sum", "one_step", "least_squares", "mmse", "majority"]
    verify: bool
    nearest: bool
    stragglers: int
    replication: int
    p: float | Sequence[float]
    regularised: bool
    factory: str
    options: Mapping[str, Any]


CompressorKind = Literal["identity", "sign", "scaled_sign", "stochastic_sign", "noisy_sign", "two_mean", "eden", "custom"]


class CompressorTable(TypedDict, total=False):
    """``[compressor]``."""

    kind: CompressorKind
    dtype: Literal["float32", "bfloat16", "float16"]
    error_feedback: bool | Mapping[str, Any]
    momentum: Literal["lion", "signum"]
    beta1: float
    beta2: float
    block: int
    agreed: bool
    margin: float
    scale: Literal["max", "l2", "rms"]
    dither: Literal["independent", "correlated", "subtractive", "correlated+subtractive"]
    clip: float
    noise: float
    rotation: Literal["own", "shared"]
    factory: str
    options: Mapping[str, Any]


WaitKind = Literal["first_replies", "decodable", "deadline", "adaptive", "custom"]


class WaitTable(TypedDict, total=False):
    """``[wait]``."""

    kind: WaitKind
    count: int
    timeout: float
    tolerance: float
    seconds: float
    factory: str
    options: Mapping[str, Any]


StragglersKind = Literal[
    "none",
    "fixed",
    "bernoulli",
    "exactly",
    "exponential",
    "shifted_exponential",
    "pareto",
    "bursts",
    "speeds",
    "trace",
    "sum",
    "custom",
]


class StragglersTable(TypedDict, total=False):
    """``[stragglers]``."""

    kind: StragglersKind
    at: Literal["compute", "send"]
    events: Sequence[Mapping[str, Any]]
    workers: Sequence[int]
    seconds: float
    p: float
    count: int
    shift: float
    shape: float
    length: float
    factors: Sequence[float] | float
    file: str
    loop: bool
    models: Sequence[Mapping[str, Any]]
    factory: str
    options: Mapping[str, Any]


OptimizerKind = Literal["sgd", "adam", "adamw", "sign", "custom"]


class OptimizerTable(TypedDict, total=False):
    """``[optimizer]``."""

    kind: OptimizerKind
    lr: float
    momentum: float
    weight_decay: float
    nesterov: bool
    clip_norm: float
    schedule: Mapping[str, Any]
    beta1: float
    beta2: float
    eps: float
    factory: str
    options: Mapping[str, Any]


DownlinkKind = Literal["model", "votes", "replies", "sign"]


class DownlinkTable(TypedDict, total=False):
    """``[downlink]``."""

    kind: DownlinkKind
    dtype: Literal["float32", "bfloat16"]
    check_every: int
    block: int


class RunTable(TypedDict, total=False):
    """``[run]``."""

    eval_every: int
    evaluate: Literal["meanwhile", "between", "workers"]
    checkpoint_every: int
    keep: int
    masters: int
    spares: int
    replace: int
    on_loss: Literal["recode", "stop"]
    rebalance: float
    restart: int
    checksums: bool
    tensorboard: bool
    shared_memory: bool
    threads: int
    master_threads: int
    seconds_per_shard: float
    start_timeout: float
    master_timeout: float


class SimulateTable(TypedDict, total=False):
    """``[simulate]``."""

    compute: str
    parameters: int
    latency: float
    bandwidth: float
    master_bandwidth: float
    decode_seconds: float
    decode_seconds_per_coordinate: float
    step_seconds: float
