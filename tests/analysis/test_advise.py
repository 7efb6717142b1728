"""``gcdl advise``: it finds what was put into a run, predicts what was measured, and recommends what helps."""

import json
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch

import gcdl
from gcdl.analysis.advise.advice import advise
from gcdl.analysis.advise.as_json import as_json
from gcdl.analysis.advise.candidates import Candidate
from gcdl.analysis.advise.choice_of_rows import name_of
from gcdl.analysis.advise.laboratory import Laboratory
from gcdl.analysis.advise.observed import observe
from gcdl.analysis.advise.pilot import pilot_toml
from gcdl.analysis.advise.screen import screen
from gcdl.analysis.advise.second_shard import second_shard
from gcdl.analysis.advise.who_is_slow import who_is_slow
from gcdl.config import load, parse
from gcdl.errors import DataError
from gcdl.training.roles import simulate
from gcdl.training.starting_point import StartingPoint
from gcdl.training.watcher import Watcher

RUN = """
workers = 6
steps = 60
[problem]
kind = "linear_regression"
features = 4
samples = 5
[run]
seconds_per_shard = 0.1
"""
SLOW_LINK = ("simulate.parameters=100000", "simulate.bandwidth=1e7", "simulate.master_bandwidth=1e7", "simulate.latency=0.001")


def run(folder: Path, *overrides: str, timing_only: bool = True) -> Path:
    simulate(StartingPoint(parse(RUN, overrides), folder, timing_only=timing_only), Watcher())
    return folder


def slowness(folder: Path):
    observed = observe(folder)
    return who_is_slow(observed, Laboratory.of(observed).trace)


@pytest.fixture(scope="module")
def persistent(tmp_path_factory):
    folder = tmp_path_factory.mktemp("advise") / "persistent"
    return advise(run(folder, "stragglers.kind=fixed", "stragglers.workers=[4]", "stragglers.seconds=1.0"))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    return advise(run(tmp_path_factory.mktemp("advise") / "undisturbed"))


@pytest.fixture(scope="module")
def slow_link(tmp_path_factory):
    return advise(run(tmp_path_factory.mktemp("advise") / "slow-link", *SLOW_LINK))


def test_a_worker_that_is_always_late_is_named(persistent):
    assert persistent.slowness.kind == "persistent"
    assert persistent.slowness.workers == [4]
    assert "worker 4" in screen(persistent)


def test_waiting_for_it_is_where_the_time_went(persistent):
    parts = {part.key: part.seconds for part in persistent.shares.parts}
    assert parts["straggling"] == pytest.approx(1.0, rel=0.01)
    assert parts["computing"] == pytest.approx(0.1, rel=0.01)
    assert sum(parts.values()) == pytest.approx(persistent.measured_seconds)


def test_against_it_a_code_is_recommended_whose_gradient_is_whole(persistent):
    best = persistent.recommendation.best
    assert best.candidate.kind("code") != "uncoded"
    assert best.exact
    assert best.prediction.seconds == pytest.approx(0.2, rel=0.01)  # two shards a worker
    assert not persistent.recommendation.nothing_wrong
    assert "without worker 4 at all" in screen(persistent)


def test_where_nothing_is_wrong_no_coding_is_recommended(undisturbed):
    found = undisturbed.recommendation
    assert undisturbed.slowness.kind == "nobody"
    assert found.nothing_wrong
    assert found.keep
    assert found.best.candidate.kind("code") == "uncoded"
    assert "nothing is wrong: no coding" in screen(undisturbed)
    assert "one bit gains 1.00 times here: stay with float32" in screen(undisturbed)


def test_over_a_slow_link_one_bit_and_another_downlink_are_recommended(slow_link):
    best = slow_link.recommendation.best
    assert best.one_bit
    assert best.candidate.kind("downlink") != "model"
    assert slow_link.recommendation.one_bit_gain > 1.5
    parts = {part.key: part.seconds for part in slow_link.shares.parts}
    # Six models of 400 kB leave at 10 MB/s. The first replies follow at once, and fill the link on its way back.
    assert parts["uplink"] + parts["downlink"] == pytest.approx(slow_link.measured_seconds - 0.1, rel=0.02)
    assert best.prediction.seconds < 0.7 * slow_link.measured_seconds


DELAYS = {
    "exponential": ("stragglers.kind=exponential", "stragglers.seconds=0.2"),
    "pareto": ("stragglers.kind=pareto",),
    "bernoulli": ("stragglers.kind=bernoulli", "stragglers.p=0.2", "stragglers.seconds=0.5"),
    "speeds": ("stragglers.kind=speeds", "stragglers.factors=3.0", "stragglers.workers=[1]"),
    "late in sending": ("stragglers.kind=exponential", "stragglers.seconds=0.2", "stragglers.at=send"),
    "a link": ("stragglers.kind=exponential", "stragglers.seconds=0.1", *SLOW_LINK),
}


@pytest.mark.parametrize("delays", DELAYS.values(), ids=DELAYS)
def test_a_run_that_waited_for_all_is_predicted_as_it_was(tmp_path, delays):
    observed = observe(run(tmp_path / "run", *delays, "steps=103"))
    lab = Laboratory.of(observed)
    assert lab.simulate(lab.own).seconds == pytest.approx(observed.seconds.mean(), rel=0.03)


OTHERS = {
    "coded": ("code.kind=fractional_repetition", "code.stragglers=1"),
    "decodable": ("code.kind=fractional_repetition", "code.stragglers=2", "wait.kind=decodable"),
    "one bit": ("compressor.kind=stochastic_sign",),
    "replies down": ("compressor.kind=stochastic_sign", "downlink.kind=replies"),
    "masters": ("run.masters=2",),
}


@pytest.mark.parametrize("delays", ["exponential", "bernoulli", "speeds", "a link"])
@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS)
def test_another_config_is_predicted_as_it_would_be(tmp_path, delays, other):
    """The run that was predicted meets the same delays, for they depend on the step alone."""
    observed = observe(run(tmp_path / "run", *DELAYS[delays], "steps=103"))
    lab = Laboratory.of(observed)
    tables: dict[str, dict[str, object]] = {}
    for word in other:
        key, value = word.split("=")
        tables.setdefault(key.split(".")[0], {})[key.split(".")[1]] = int(value) if value.isdecimal() else value
    found = lab.simulate(Candidate(observed.config).with_changes(**{"wait": {"kind": "first_replies"}, **tables}))
    truth = observe(run(tmp_path / "other", *DELAYS[delays], "steps=103", *other))
    assert found.seconds == pytest.approx(truth.seconds.mean(), rel=0.05)


def test_bursts_a_host_and_rare_stragglers_are_told_apart(tmp_path):
    bursts = ("stragglers.kind=bursts", "stragglers.p=0.15", "stragglers.length=12.0", "stragglers.seconds=1.0", "steps=300")
    assert slowness(run(tmp_path / "bursts", *bursts)).kind == "bursts"
    rare = ("stragglers.kind=bernoulli", "stragglers.p=0.1", "stragglers.seconds=1.0", "steps=300")
    assert slowness(run(tmp_path / "rare", *rare)).kind == "everyone"
    host = run(tmp_path / "host", "stragglers.kind=fixed", "stragglers.workers=[2, 3]", "stragglers.seconds=1.0")
    manifest = json.loads((host / "manifest.json").read_text())
    (host / "manifest.json").write_text(json.dumps(manifest | {"hosts": ["a", "a", "a", "b", "b", "c", "c"]}))
    found = slowness(host)
    assert (found.kind, found.hosts, found.workers) == ("host", ["b"], [2, 3])


def test_a_slow_link_makes_nobody_slow(tmp_path):
    """The models leave one after the other: the last worker's reply comes long after the first one's."""
    assert slowness(run(tmp_path / "run", *SLOW_LINK, "workers=16", "run.seconds_per_shard=0.01")).kind == "nobody"


def test_a_straggler_whom_the_master_did_not_wait_for_is_found_too(tmp_path):
    coded = ("code.kind=fractional_repetition", "code.stragglers=1", "stragglers.kind=fixed", "stragglers.workers=[4]")
    found = slowness(run(tmp_path / "run", *coded, "stragglers.seconds=1.0"))
    assert (found.kind, found.workers) == ("persistent", [4])
    assert "not among the replies used in 100% of the steps" in found.evidence[0]


def test_guesses_of_delays_that_nobody_saw_lie_beyond_the_steps_wait(tmp_path):
    coded = ("code.kind=fractional_repetition", "code.stragglers=1", *DELAYS["exponential"])
    observed = observe(run(tmp_path / "run", *coded))
    trace = Laboratory.of(observed).trace
    assert trace.unseen.sum() == len(observed.seconds)
    total = trace.delay + trace.one_shard * observed.loads
    assert (total >= observed.waited[:, None] - 1e-6)[trace.unseen].all()
    assert np.isfinite(total).all()


def test_a_second_shard_costs_less_than_the_first_where_a_pass_costs_something_by_itself(tmp_path):
    small, large = (parse(RUN, ["problem.features=1000", f"problem.samples={samples}"]).for_workers(6) for samples in (1, 4000))
    assert 0.0 <= second_shard(small) < 0.6 < second_shard(large) <= 1.0
    assert second_shard(parse(RUN, ["problem.kind=custom", "problem.factory=no.such:thing"]).for_workers(6)) is None
    observed = observe(run(tmp_path / "run"))
    lab = Laboratory.of(observed)
    coded = lab.own.with_changes(code={"kind": "fractional_repetition", "stragglers": 1})
    whole = lab.simulate(coded).seconds
    lab.costs.further_shard = 0.25
    assert lab.simulate(coded).seconds == pytest.approx(1.25 / 2.0 * whole)


def test_of_a_pilot_the_config_asked_about_is_judged(tmp_path):
    wanted = parse(RUN, ["code.kind=cyclic_repetition", "code.stragglers=1", "stragglers.kind=exponential", "steps=77"])
    simulate(StartingPoint(parse(pilot_toml(wanted), ["steps=60"]), tmp_path / "pilot"), Watcher())
    advice = advise(tmp_path / "pilot", wanted=wanted)
    assert name_of(advice.run) == "uncoded"
    assert name_of(advice.own) == "cyclic rep. s=1"
    assert "your config: cyclic rep. s=1" in screen(advice)
    assert parse(advice.recommendation.best.candidate.resolved).steps == 77


def test_no_line_is_longer_than_80_columns(persistent, undisturbed, slow_link):
    for advice in (persistent, undisturbed, slow_link):
        text = screen(advice)
        long = [line for line in text.splitlines() if len(line) > 80 and str(advice.observed.history.path) not in line]
        assert not long
        assert text.isascii()


KEYS = {
    "run", "clock", "steps", "workers", "hosts", "links", "step_seconds", "outside_seconds", "startup_seconds", "time", "slow",
    "predicted", "own", "without_stragglers", "candidates", "sizes", "tried", "recommended", "target_loss", "to_loss",
    "unsure",
}  # fmt: skip


def test_json_has_plain_keys_that_stay(persistent):
    found = json.loads(json.dumps(as_json(persistent), allow_nan=False))
    assert set(found) == KEYS
    assert set(found["time"]) == {"computing", "straggling", "uplink", "downlink", "master", "rest"}
    assert set(found["slow"]) == {"kind", "workers", "hosts", "share", "factor", "evidence"}
    for one in (*found["candidates"], *found["sizes"], found["recommended"]):
        assert {"code", "stragglers", "wait", "compressor", "downlink", "masters", "workers", "seconds", "plus_minus"} <= set(
            one
        )
    assert found["recommended"]["toml"] == persistent.recommendation.best.candidate.snippet
    tomllib.loads(found["recommended"]["toml"])


def test_the_config_written_is_the_recommended_one_and_runs(tmp_path, command_line):
    folder = run(tmp_path / "run", "stragglers.kind=fixed", "stragglers.workers=[4]", "stragglers.seconds=1.0")
    done = command_line("advise", str(folder), "--json", "--write", str(tmp_path / "advised.toml"))
    assert done.returncode == 0, done.stderr
    recommended = json.loads(done.stdout)["recommended"]
    config = load(tmp_path / "advised.toml")
    assert config.choices["code"].kind == recommended["code"] != "uncoded"
    simulate(StartingPoint(config, tmp_path / "again"), Watcher())
    summary = json.loads((tmp_path / "again" / "summary.json").read_text())
    assert summary["seconds"] / summary["steps"] == pytest.approx(recommended["seconds"], rel=0.05)
    message = command_line("advise", str(folder), "--write", str(tmp_path / "advised.toml")).message
    assert "advised.toml: is there already" in message


def test_a_target_loss_weighs_what_a_step_is_worth(tmp_path):
    """Gradients of half the shards are there sooner; steps with them lead less far."""
    config = ("problem.features=20", "problem.samples=50", "optimizer.lr=0.05", "steps=100", *DELAYS["exponential"])
    folder = run(tmp_path / "run", *config, "run.seconds_per_shard=0.02", timing_only=False)
    advice = advise(folder, target_loss=0.5)
    reached = {name_of(one.tried): one for one in advice.to_loss}
    assert len(reached) > 2
    soonest = advice.to_loss[0]
    assert advice.recommendation.best is soonest.tried
    assert all(steps <= 100 for steps in soonest.steps)
    assert soonest.seconds == pytest.approx(np.mean(soonest.steps) * soonest.tried.prediction.seconds)
    assert "TO TRAINING LOSS 0.5" in screen(advice)
    none = advise(folder, target_loss=1e-30, seconds=5.0)
    assert "no candidate reached the training loss 1e-30" in none.recommendation.reason


def test_a_scripts_run_is_advised_on_and_the_script_is_where_to_change_it(tmp_path, command_line):
    data = torch.arange(60.0).reshape(20, 3) / 60.0
    problem = gcdl.TorchProblem(lambda: torch.nn.Linear(3, 1), torch.nn.functional.mse_loss, (data, data[:, :1]), batch_size=2)
    late = {"kind": "fixed", "workers": [1], "seconds": 1.0}
    trainer = gcdl.Trainer(problem, workers=4, stragglers=late, out=tmp_path / "run", optimizer=torch.optim.SGD)
    list(trainer.fit(30))
    done = command_line("advise", str(tmp_path / "run"), "--json")
    found = json.loads(done.stdout)
    assert found["slow"]["workers"] == [1]
    assert found["recommended"]["code"] != "uncoded"
    refused = command_line("advise", str(tmp_path / "run"), "--write", str(tmp_path / "c.toml"))
    assert refused.returncode == 2
    assert "a script made this run" in refused.stderr


def test_what_is_no_run_with_enough_steps_is_one_line(tmp_path, command_line):
    assert "not a run folder" in command_line("advise", str(tmp_path)).message
    few = run(tmp_path / "few", "steps=19")
    assert command_line("advise", str(few)).message.endswith("19 steps are too few to advise on; 20 at least")
    recoded = run(tmp_path / "recoded")
    lines = (recoded / "steps.jsonl").read_text().splitlines()
    other = {"workers": list(range(6)), "assignment": [[i] for i in range(6)], "weights": [[1.0]] * 6}
    change = {"recoded": {"code": "uncoded", "number": 1, "stragglers": 0, **other}}
    lines[7] = json.dumps(json.loads(lines[7]) | change)
    (recoded / "steps.jsonl").write_text("\n".join(lines) + "\n")
    assert "7 steps with the config's code are too few" in command_line("advise", str(recoded)).message
    damaged = run(tmp_path / "damaged")
    lines = (damaged / "steps.jsonl").read_text().splitlines()
    lines[7] = lines[7][:30]
    (damaged / "steps.jsonl").write_text("\n".join(lines) + "\n")
    assert "steps.jsonl, line 8: not JSON" in command_line("advise", str(damaged)).message
    (damaged / "manifest.json").write_text("[]")
    with pytest.raises(DataError):
        observe(damaged)
