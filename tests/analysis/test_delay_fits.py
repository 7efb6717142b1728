"""Fits find the parameters that data were drawn with, and say when the model is another."""

import json
import math

import numpy as np
import pytest

from gcdl.analysis.delay_fits import gilbert_elliott, kolmogorov, shifted_exponential, survivors
from gcdl.analysis.reply_times import measured, report
from gcdl.config import Experiment, load, parse
from gcdl.errors import DataError, UsageError
from gcdl.stragglers import BurstDelays, delays_at, read_trace
from gcdl.training.roles import simulate
from gcdl.training.run_reader import read_run
from gcdl.training.starting_point import StartingPoint
from gcdl.training.watcher import Watcher

NOTHING = np.zeros(0)


def test_kolmogorovs_distribution():
    # Values of the limiting distribution, as tabulated: P(K > 1.3581) = 0.05, P(K > 1.6276) = 0.01.
    for scaled, p in ((1.3581, 0.05), (1.6276, 0.01), (0.8276, 0.5)):
        size = 10**8
        assert kolmogorov(scaled / math.sqrt(size), size) == pytest.approx(p, rel=2e-3)
    assert kolmogorov(0.0, 10) == 1.0
    assert kolmogorov(1.0, 1000) == 0.0


def test_p_values_are_uniform_when_the_model_is_right():
    rng = np.random.default_rng(0)
    found = []
    for _ in range(400):
        ordered = np.sort(rng.random(200))
        grid = np.arange(201) / 200
        found.append(kolmogorov(max((grid[1:] - ordered).max(), (ordered - grid[:-1]).max()), 200))
    for level in (0.05, 0.25, 0.5):
        assert np.mean(np.array(found) < level) == pytest.approx(level, abs=4 * math.sqrt(level * (1 - level) / 400))


def test_a_shifted_exponential_is_found_with_and_without_censoring():
    times = 0.2 + 0.3 * np.random.default_rng(1).standard_exponential(4000)
    fit = shifted_exponential(times, NOTHING)
    assert fit.keys["shift"] == pytest.approx(0.2, abs=1e-3)
    assert fit.keys["seconds"] == pytest.approx(0.5, rel=0.05)
    assert fit.p_value > 0.05
    # The slow half of them never seen: the same parameters, where a fit to what was seen would find a third of the scale.
    limit = np.median(times)
    fit = shifted_exponential(times[times <= limit], np.full(2000, limit))
    assert fit.keys["seconds"] == pytest.approx(0.5, rel=0.05)
    assert fit.p_value > 0.05
    assert times[times <= limit].mean() < 0.35


@pytest.mark.parametrize("draw", [lambda rng: rng.random(2000), lambda rng: np.exp(rng.standard_normal(2000))])
def test_another_distribution_is_refuted(draw):
    assert shifted_exponential(1.0 + draw(np.random.default_rng(2)), NOTHING).p_value < 1e-6


def test_equal_times_are_no_distribution_to_judge():
    fit = shifted_exponential(np.full(20, 0.5), NOTHING)
    assert fit.keys == {"shift": 0.5, "seconds": 0.5}
    assert fit.statistic is None


def test_kaplan_and_meier_by_hand():
    times, survival = survivors(np.array([1.0, 2.0, 2.0, 5.0]), np.array([1.5, 4.0]))
    assert times.tolist() == [1.0, 2.0, 5.0]
    assert survival == pytest.approx([5 / 6, 5 / 6 * 2 / 4, 0.0])


def test_bursts_are_found():
    model = BurstDelays(p=0.25, length=6.0, seconds=0.5)
    late = np.array([delays_at(model, 40, 0, step).seconds for step in range(800)])
    noise = np.random.default_rng(0).random(late.shape)
    fit = gilbert_elliott(late + 0.01 + 0.01 * noise)
    assert fit.kind == "bursts"
    assert fit.keys["p"] == pytest.approx(0.25, rel=0.1)
    assert fit.keys["length"] == pytest.approx(6.0, rel=0.1)
    assert fit.keys["seconds"] == pytest.approx(0.5, rel=0.02)
    assert fit.p_value > 0.01
    # Slow workers that were never waited for: their times are missing.
    unseen = gilbert_elliott(np.where(late > 0, np.inf, 0.01 + 0.01 * noise))
    assert unseen.keys["length"] == pytest.approx(6.0, rel=0.1)
    assert unseen.keys["seconds"] == math.inf


def test_bursts_of_one_length_are_refuted():
    cycle = np.array([0.5] * 5 + [0.01] * 15)
    seconds = np.array([np.roll(cycle, 3 * worker)[np.arange(400) % 20] for worker in range(10)]).T
    fit = gilbert_elliott(seconds * (1 + 1e-3 * np.random.default_rng(0).random(seconds.shape)))
    assert fit.keys["length"] == pytest.approx(5.0, rel=0.01)
    assert fit.p_value < 1e-6


def test_a_lost_worker_is_not_slow():
    late = np.array([delays_at(BurstDelays(p=0.25, length=6.0), 40, 0, step).seconds for step in range(800)]) + 0.01
    late[400:, :20] = np.nan
    fit = gilbert_elliott(late)
    assert fit.keys["length"] == pytest.approx(6.0, rel=0.1)
    assert fit.keys["p"] == pytest.approx(0.25, rel=0.15)


def test_one_kind_of_times_has_no_bursts():
    assert gilbert_elliott(1.0 + 0.1 * np.random.default_rng(0).standard_normal((200, 8))) is None
    assert gilbert_elliott(np.full((200, 8), 0.5)) is None


def test_too_few_times_are_an_error():
    with pytest.raises(DataError, match="7 reply times are too few"):
        shifted_exponential(np.arange(1.0, 8.0), NOTHING)
    with pytest.raises(DataError, match="7 reply times are too few"):
        gilbert_elliott(np.arange(1.0, 8.0)[None])


RUN = """
workers = 6
steps = 60
[problem]
kind = "linear_regression"
features = 4
samples = 5
[code]
kind = "fractional_repetition"
[stragglers]
kind = "shifted_exponential"
shift = 0.1
seconds = 0.4
[run]
seconds_per_shard = 0.0
"""


def steps(folder):
    return [json.loads(line) for line in (folder / "steps.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("name", ["t.csv", "t.npz"])
def test_a_runs_trace_replays_the_run(tmp_path, name):
    simulate(StartingPoint(parse(RUN), tmp_path / "run"), Watcher())
    told = report(tmp_path / "run", tmp_path / name)
    assert "60 steps, 6 workers: 300 reply times" in told
    assert "60 censored" in told
    table = read_trace(tmp_path / name, 6)
    assert np.isinf(table).sum() == 60
    experiment = Experiment.of(load(tmp_path / "run" / "config.toml"), 6)
    for step, row in enumerate(table):
        drawn = delays_at(experiment.stragglers, 6, 0, step).seconds
        used = steps(tmp_path / "run")[step]["replies"]
        assert row[used] == pytest.approx(drawn[used], abs=1e-6)
    simulate(
        StartingPoint(parse(RUN, ["stragglers.kind=trace", f"stragglers.file={tmp_path / name}"]), tmp_path / "again"),
        Watcher(),
    )
    same = ("replies", "train_loss", "reply_seconds")
    assert [{k: line[k] for k in same} for line in steps(tmp_path / "run")] == [
        {k: line[k] for k in same} for line in steps(tmp_path / "again")
    ]


def test_the_fit_of_a_run_finds_the_model_it_was_run_with_in_spite_of_censoring(tmp_path):
    simulate(StartingPoint(parse(RUN, ["steps=400"]), tmp_path / "run"), Watcher())
    found = measured(read_run(tmp_path / "run"))
    fit = shifted_exponential(found.seconds[np.isfinite(found.seconds)], found.censored)
    assert fit.keys["seconds"] == pytest.approx(0.4, rel=0.05)
    assert fit.keys["shift"] == pytest.approx(0.1, abs=0.005)


def test_bad_output_names(tmp_path):
    simulate(StartingPoint(parse(RUN, ["steps=5"]), tmp_path / "run"), Watcher())
    with pytest.raises(UsageError, match=r"neither \.csv nor \.npz"):
        report(tmp_path / "run", tmp_path / "t.txt")
    with pytest.raises(UsageError, match="cannot be written"):
        report(tmp_path / "run", tmp_path / "no" / "t.csv")


def test_a_run_without_reply_times_is_an_error_that_names_the_line(tmp_path):
    simulate(StartingPoint(parse(RUN, ["steps=5"]), tmp_path / "run"), Watcher())
    lines = steps(tmp_path / "run")
    del lines[3]["reply_seconds"]
    (tmp_path / "run" / "steps.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(DataError, match=r"steps\.jsonl, line 4: has no reply_seconds beside its replies$"):
        report(tmp_path / "run", None)


def test_a_poor_fit_is_called_one_and_the_times_themselves_are_offered(tmp_path):
    two_kinds = "stragglers.kind=bernoulli", "stragglers.p=0.3", "stragglers.seconds=1.0", "wait.count=6"
    simulate(StartingPoint(parse(RUN, two_kinds), tmp_path / "poor"), Watcher())
    told = report(tmp_path / "poor", None)
    assert "\npoor fit: Kolmogorov-Smirnov" in told
    assert f"gcdl trace {tmp_path / 'poor'} --out trace.csv" in told
    simulate(StartingPoint(parse(RUN), tmp_path / "good"), Watcher())
    assert "poor fit" not in report(tmp_path / "good", None)
