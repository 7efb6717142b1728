"""Configs of every kind, with a value, a name, a line or a byte changed: each runs, or is refused in one plain line."""

from __future__ import annotations

import json
import random
import tomllib
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from gcdl.config import Experiment, load, parse
from gcdl.errors import ConfigError

pytestmark = [pytest.mark.exhaustive, pytest.mark.timeout(60)]

TABLES: dict[str, list[dict[str, Any]]] = {
    "problem": [
        {"kind": "linear_regression", "features": 5, "samples": 6, "test_samples": 7},
        {"kind": "logistic_regression", "features": 4, "samples": 6, "batch_size": 3},
        {"kind": "classifier", "model": "mlp", "hidden": [4], "batch_size": 8},
        {"kind": "classifier", "model": "linear", "batch_size": 4, "shards": 8},
    ],
    "code": [
        {"kind": "uncoded"},
        {"kind": "fractional_repetition", "stragglers": 1},
        {"kind": "cyclic_repetition", "stragglers": 2},
        {"kind": "cyclic_mds", "stragglers": 1},
        {"kind": "sgc", "replication": 2, "stragglers": 1, "decoder": "mmse"},
        {"kind": "bernoulli", "replication": 2},
        {"kind": "graph", "replication": 2, "decoder": "one_step"},
    ],
    "compressor": [
        {"kind": "identity", "dtype": "bfloat16"},
        {"kind": "sign"},
        {"kind": "scaled_sign", "block": 3, "error_feedback": True},
        {"kind": "two_mean"},
        {"kind": "stochastic_sign", "scale": "rms", "clip": 1.5, "dither": "correlated+subtractive"},
        {"kind": "noisy_sign", "noise": 0.5},
    ],
    "wait": [
        {"kind": "first_replies", "count": 3},
        {"kind": "decodable", "tolerance": 1e-6},
        {"kind": "deadline", "seconds": 0.2, "timeout": 5.0},
    ],
    "stragglers": [
        {"kind": "none"},
        {"kind": "fixed", "workers": [1], "seconds": 0.5},
        {"kind": "bernoulli", "p": 0.3, "seconds": 1.0, "at": "send"},
        {"kind": "exponential", "seconds": 0.1},
        {"kind": "pareto", "seconds": 0.1, "alpha": 2.0},
        {"kind": "sum", "models": [{"kind": "exponential", "seconds": 0.1}, {"kind": "speeds", "workers": [0], "factors": 2}]},
        {"kind": "none", "events": [{"fault": "stop", "worker": 1, "step": 1, "seconds": 0.5}]},
        {"kind": "none", "events": [{"fault": "kill", "worker": 1, "step": 1}]},
    ],
    "optimizer": [
        {"kind": "sgd", "lr": 0.05, "momentum": 0.9, "schedule": {"kind": "cosine", "steps": 3, "final": 0.1}},
        {"kind": "adam", "lr": 0.01},
        {"kind": "adamw", "lr": 0.01, "weight_decay": 0.1, "clip_norm": 1.0},
    ],
    "downlink": [{"kind": "model", "dtype": "bfloat16"}, {"kind": "votes"}, {"kind": "replies"}, {"kind": "sign"}],
    "run": [{"eval_every": 1, "checkpoint_every": 2, "keep": 1}],
    "simulate": [{"latency": 1e-4, "bandwidth": 1e9, "master_bandwidth": 1e9, "decode_seconds": 1e-5}],
}  # fmt: skip


def sound(draws: random.Random) -> dict[str, Any]:
    """Return the tables of a config that is valid, every key stated in half of them."""
    while True:
        tables = {name: draws.choice(choices) for name, choices in TABLES.items() if draws.random() < 0.6}
        tables = {"seed": 1, "workers": draws.choice((4, 6)), "steps": 3, **tables}
        tables.setdefault("problem", TABLES["problem"][0])
        try:
            config = parse(tomli_w.dumps(tables))
            Experiment.of(config, config.workers).check()
        except ConfigError:
            continue  # kinds that don't go together
        return tables if draws.random() < 0.5 else tomllib.loads(config.toml())


def mutated(draws: random.Random, mutations: Any) -> bytes:
    """Return the text of a config in which one to three things are wrong, or just other."""
    tables = sound(draws)
    if draws.random() < 0.3:
        return mutations("damaged")(tomli_w.dumps(tables).encode(), draws)
    for _ in range(draws.choice((1, 1, 2, 3))):
        tables = mutations("altered")(tables, draws)
    try:
        return tomli_w.dumps(tables).encode()
    except TypeError:  # TOML has no null
        return b"steps = null"


def steps_of(raw: bytes) -> Any:
    try:
        return tomllib.loads(raw.decode()).get("steps", 300)
    except ValueError:
        return None


def test_a_mutated_config_runs_or_is_refused_in_one_line(draws, mutations, verdict, command_line, tmp_path):
    path, folder = tmp_path / "config.toml", tmp_path / "run"
    raw = mutated(draws, mutations)
    path.write_bytes(raw)
    few = ["steps=3"] if isinstance(steps_of(raw), int) and steps_of(raw) > 3 else []
    refusal = None
    try:
        config = load(path, few)
        if config.workers is not None:
            Experiment.of(config, config.workers).check()
    except ConfigError as error:
        refusal = str(error)
    done = command_line("simulate", str(path), *few, "--out", str(folder), cwd=tmp_path)
    said = verdict(done)
    if refusal is not None:
        assert done.returncode == 2, said
        assert refusal.splitlines()[0] in said
    if done.returncode == 0:
        assert json.loads((folder / "summary.json").read_text())["steps"] <= 3
        assert (folder / "steps.jsonl").read_bytes().count(b"\n") <= 3
    else:
        assert not (folder / "summary.json").exists()
    if done.returncode == 2:
        assert not (folder / "checkpoint").exists(), said


def test_a_mutated_override_runs_or_is_refused_in_one_line(draws, mutations, verdict, command_line, tmp_path):
    path: Path = tmp_path / "config.toml"
    tables = sound(draws)
    path.write_text(tomli_w.dumps(tables))
    full = tomllib.loads(load(path).toml())
    name = draws.choice([name for name, table in full.items() if isinstance(table, dict)])
    key = draws.choice(list(full[name]) or ["kind"])
    value = mutations("altered")({"value": full[name].get(key, 0)}, draws).get("value", "")
    word = f"{name}.{key}={json.dumps(value) if draws.random() < 0.7 else value}"
    if draws.random() < 0.2:
        word = mutations("damaged")(word.encode(), draws).decode("utf-8", "surrogateescape").replace("\0", "")
    done = command_line("simulate", str(path), word, "--out", str(tmp_path / "run"), cwd=tmp_path)
    verdict(done)


SHARE = 500
