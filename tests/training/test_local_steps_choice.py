"""``problem.local_steps = "auto"``: as few as keep exchanging to a tenth of a step, settled before the run."""

from __future__ import annotations

import json
import tomllib

import numpy as np
import pytest
import torch

import gcdl
from gcdl.analysis.replay import replay
from gcdl.analysis.sweeps.outcome import Outcome, read_outcome
from gcdl.config import parse
from gcdl.errors import ConfigError, ParameterError, UsageError
from gcdl.problems import TorchProblem
from gcdl.training.local_steps_choice import SHARE
from gcdl.training.roles import simulate
from gcdl.training.starting_point import StartingPoint

RUN = """
seed = 1
workers = 6
steps = 7
[problem]
kind = "linear_regression"
features = 40000
samples = 4
local_steps = "auto"
local_optimizer = {kind = "sgd", lr = 1e-5}
[code]
kind = "fractional_repetition"
stragglers = 1
[compressor]
kind = "stochastic_sign"
[stragglers]
kind = "exactly"
count = 1
seconds = 50.0
[run]
seconds_per_shard = 0.02
[simulate]
latency = 1e-3
bandwidth = 1.25e6
master_bandwidth = 1.25e7
decode_seconds = 1e-4
"""


class Heard:
    def __init__(self):
        self.lines = []

    def begin(self, config, folder, done): ...

    def step(self, record): ...

    def say(self, line):
        self.lines.append(line)


def ran(folder, *overrides, timing_only=False):
    """What was said, and the run's summary, config, manifest and steps."""
    heard = Heard()
    summary = simulate(StartingPoint(parse(RUN, overrides), folder, timing_only=timing_only), heard)
    config = tomllib.loads((folder / "config.toml").read_text())
    manifest = json.loads((folder / "manifest.json").read_text())
    steps = [json.loads(line) for line in (folder / "steps.jsonl").read_text().splitlines()]
    return heard.lines, summary, config, manifest, steps


@pytest.mark.parametrize("masters", [1, 2])
@pytest.mark.parametrize("link", [1.25e6, 1.25e7])
def test_it_is_the_fewest_for_which_exchanging_takes_a_tenth(tmp_path, masters, link):
    more = [f"simulate.bandwidth={link}", f"run.masters={masters}", "stragglers.kind=none"]
    lines, _, config, manifest, _ = ran(tmp_path / "auto", *more)
    chosen = config["problem"]["local_steps"]
    assert 1 < chosen < 64
    assert f'problem.local_steps = "auto": {chosen} (' in lines[-1]
    assert manifest["local_steps"]["chosen"] == chosen
    assert manifest["local_steps"]["compute_seconds"] == pytest.approx(2 * 0.02)

    def share(steps):
        records = ran(tmp_path / str(steps), f"problem.local_steps={steps}", *more)[-1]
        taken = np.median([record["seconds"] for record in records[2:]])
        return 1.0 - steps * 2 * 0.02 / taken

    assert share(chosen) <= SHARE + 1e-6
    assert share(chosen - 1) > SHARE


def test_the_run_is_the_one_in_which_the_number_is_stated(tmp_path):
    _, summary, config, _, steps = ran(tmp_path / "auto")
    number = config["problem"]["local_steps"]
    _, same, _, _, same_steps = ran(tmp_path / "stated", f"problem.local_steps={number}")
    assert summary.model_sha256 == same.model_sha256
    assert [line["seconds"] for line in steps] == [line["seconds"] for line in same_steps]
    assert "identical" in replay(tmp_path / "auto")
    timing_only = ran(tmp_path / "timing", timing_only=True)
    assert timing_only[2]["problem"]["local_steps"] == number


def test_injected_delays_are_no_part_of_it(tmp_path):
    assert ran(tmp_path / "late")[2]["problem"] == ran(tmp_path / "none", "stragglers.kind=none")[2]["problem"]


@pytest.mark.parametrize(("link", "chosen", "more"), [(1e12, 1, ""), (2e4, 64, "more than a tenth: 64 is the most")])
def test_it_is_1_to_64(tmp_path, link, chosen, more):
    free = [
        f"simulate.bandwidth={link}",
        f"simulate.master_bandwidth={link}",
        "simulate.latency=0",
        "simulate.decode_seconds=0",
    ]
    lines, _, config, _, _ = ran(tmp_path / "run", *free)
    assert config["problem"]["local_steps"] == chosen
    assert more in lines[0]


X = np.random.default_rng(0).standard_normal((60, 4))
Y = X @ np.arange(4.0)


def loss(output, target):
    return torch.nn.functional.mse_loss(output.squeeze(1), target)


def script(out, local_steps, **more):
    problem = TorchProblem(lambda: torch.nn.Linear(4, 1), loss, (X, Y), local_steps=local_steps, local_optimizer={"lr": 0.01})
    simulated = {"latency": 0.05}
    return gcdl.Trainer(problem, workers=3, optimizer={"lr": 1.0}, simulate=simulated, out=out, **more)


def test_a_script_leaves_it_open_and_goes_on_with_the_number_chosen(tmp_path):
    trainer = script(tmp_path / "auto", "auto")
    assert trainer.predict(X).shape == (60, 1)
    whole = trainer.run(8)
    chosen = tomllib.loads((tmp_path / "auto" / "config.toml").read_text())["problem"]["local_steps"]
    assert chosen > 1
    assert script(tmp_path / "stated", chosen).run(8).model_sha256 == whole.model_sha256
    script(tmp_path / "half", "auto").run(4)
    assert script(tmp_path / "half", "auto").run(8, resume=True).model_sha256 == whole.model_sha256


def test_a_problem_that_has_none_is_named(tmp_path):
    table = '[problem]\nkind = "custom"\nfactory = "tests_no_local_steps:make"\nlocal_steps = "auto"\n'
    (tmp_path / "tests_no_local_steps.py").write_text("def make(k): return object()\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(tmp_path))
        config = parse(f"workers = 2\nsteps = 1\n{table}")
        with pytest.raises(ConfigError, match=r"problem.local_steps: tests_no_local_steps:make returns a object"):
            simulate(StartingPoint(config, tmp_path / "run"), Heard())


def test_another_word_is_refused():
    with pytest.raises(ConfigError, match=r"problem.local_steps: 'many'"):
        parse(RUN, ['problem.local_steps="many"'])
    with pytest.raises(ParameterError, match="local_steps: 'many'; a number, or 'auto'"):
        TorchProblem(lambda: torch.nn.Linear(4, 1), loss, (X, Y), local_steps="many")
    with pytest.raises(ParameterError, match="a run chooses the number"):
        TorchProblem(lambda: torch.nn.Linear(4, 1), loss, (X, Y), local_steps="auto").bind(2, 0)


def test_a_sweep_knows_a_cell_whose_run_has_chosen(tmp_path):
    config = parse(RUN)
    simulate(StartingPoint(config, tmp_path / "cell"), Heard())
    Outcome("done").write(tmp_path / "cell")
    assert read_outcome(tmp_path / "cell", config).status == "done"
    with pytest.raises(UsageError, match="another seed"):
        read_outcome(tmp_path / "cell", parse(RUN, ["seed=2"]))
