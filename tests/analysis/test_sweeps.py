"""A sweep: the same results however often it is interrupted, what fails is kept and named, a tuned rate is the grid's best."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console

from gcdl import cli
from gcdl.analysis.figure import _compact
from gcdl.analysis.sweeps import cell as cells
from gcdl.analysis.sweeps import runner as module
from gcdl.analysis.sweeps.display import SweepDisplay
from gcdl.analysis.sweeps.outcome import Outcome
from gcdl.analysis.sweeps.plots import plot_sweep
from gcdl.analysis.sweeps.results import Results, spread
from gcdl.analysis.sweeps.runner import plan, sweep
from gcdl.analysis.sweeps.suite import load_suite, parse_suite
from gcdl.errors import ConfigError, DataError, Interrupted, UsageError

ROOT = Path(__file__).resolve().parents[2]
SUITE = """
seeds = [0, 1, 2]
rates = [0.05, 0.2, 50.0]
tune = ["final_train_loss", "payload_bits_to_target"]
tune_seeds = 1
target = 2.0
[base]
workers = 4
steps = 24
[base.problem]
kind = "linear_regression"
features = 7
samples = 6
test_samples = 50
[base.code]
kind = "sgc"
replication = 2
[base.stragglers]
kind = "bernoulli"
p = 0.2
seconds = 1.0
[base.wait]
kind = "deadline"
seconds = 0.1
[base.run]
eval_every = 4
checkpoint_every = 0
[axes.straggling.none]
stragglers.kind = "none"
[axes.straggling."p = 0.2"]
[axes.method.float32]
compressor.kind = "identity"
[axes.method."1 bit"]
compressor.kind = "stochastic_sign"
compressor.scale = "max"
compressor.dither = "independent"
"""


def run(folder: Path, text: str = SUITE, told=lambda cell, outcome: None, only=(), **options) -> Results:
    suite = parse_suite(text)
    return sweep(suite, folder, plan(suite, only), told, **options)


def rows(folder: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO((folder / "results.csv").read_text())))


@pytest.fixture(scope="module")
def done(tmp_path_factory) -> Path:
    """The suite, run in one go, every file kept."""
    folder = tmp_path_factory.mktemp("sweep") / "whole"
    run(folder, 'keep = "runs"\n' + SUITE)
    return folder


def wait_for_cells(folder: Path, count: int) -> None:
    until = time.monotonic() + 200.0
    while len(list(folder.glob("cells/*/*/*/cell.json"))) < count:
        assert time.monotonic() < until, "no cells"
        time.sleep(0.01)


def test_a_sweep_that_was_killed_comes_to_the_same_table_to_the_byte(done, tmp_path):  # 4 s
    suite, folder = tmp_path / "suite.toml", tmp_path / "killed"
    suite.write_text(SUITE)
    process = subprocess.Popen([sys.executable, "-m", "gcdl", "sweep", str(suite), "--out", str(folder)])
    try:
        wait_for_cells(folder, 5)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait(10.0)
    over = len(list(folder.glob("cells/*/*/*/cell.json")))
    assert 5 <= over < 20
    kept = {path: path.stat().st_mtime_ns for path in folder.glob("cells/*/*/*/cell.json")}
    run(folder)
    assert (folder / "results.csv").read_bytes() == (done / "results.csv").read_bytes()
    assert (folder / "tables.md").read_bytes() == (done / "tables.md").read_bytes()
    assert all(path.stat().st_mtime_ns == when for path, when in kept.items())


def test_a_walk_finds_the_best_rate_of_the_grid_with_fewer_runs(tmp_path):
    rates = "rates = [0.0002, 0.002, 0.02, 0.2, 2.0, 20.0, 200.0, 2000.0, 20000.0]"
    text = SUITE.replace("rates = [0.05, 0.2, 50.0]", rates)
    whole, walk = run(tmp_path / "whole", text), run(tmp_path / "walk", 'search = "walk"\n' + text)
    for combination in whole.suite.combinations:
        assert walk.chosen(combination) == whole.chosen(combination)
        ran = {rate for rate, _ in walk.outcomes[combination.place]}
        assert len(ran) < 9
        places = [sorted(combination.rates).index(rate) for rate in walk.chosen(combination).values()]
        near = {place + side for place in places for side in (-1, 1) if 0 <= place + side < 9}
        assert {sorted(combination.rates)[place] for place in near} <= ran  # a worse one on each side


def test_an_interrupted_sweep_keeps_what_is_over_and_runs_no_cell_twice(done, tmp_path, monkeypatch):
    begun = []

    def counted(config, folder, *rest, **options):
        if len(begun) == 7:
            begun.append(None)
            (folder / "steps.jsonl").parent.mkdir(parents=True)
            (folder / "steps.jsonl").write_text("half a li")  # what an interrupted run leaves
            raise Interrupted("interrupted")
        begun.append(folder)
        return cells.run_cell(config, folder, *rest, **options)

    monkeypatch.setattr(module, "run_cell", counted)
    with pytest.raises(Interrupted):
        run(tmp_path)
    assert len(rows(tmp_path)) == 7
    run(tmp_path)
    assert (tmp_path / "results.csv").read_bytes() == (done / "results.csv").read_bytes()
    ran = [folder for folder in begun if folder is not None]
    assert len(set(ran)) == len(ran) == len(rows(tmp_path))


def test_several_cells_at_a_time_come_to_the_same_table(done, tmp_path):  # 8 s: two processes that import what they need
    run(tmp_path, only=["straggling=none", "method=1 bit"], jobs=2)
    assert rows(tmp_path) == [row for row in rows(done) if (row["straggling"], row["method"]) == ("none", "1 bit")]


@pytest.mark.parametrize("figure", ["final_train_loss", "payload_bits_to_target"])
def test_a_tuned_rate_is_the_best_of_the_grid_and_all_seeds_run_at_it(done, figure):
    for straggling in ("none", "p = 0.2"):
        for method in ("float32", "1 bit"):
            found = [row for row in rows(done) if (row["straggling"], row["method"]) == (straggling, method)]
            score = {
                rate: [float(row[figure] or "inf") for row in found if row["lr"] == rate and row["seed"] == "0"]
                for rate in ("0.05", "0.2", "50")
            }
            assert all(len(values) == 1 for values in score.values())
            best = min(score, key=lambda rate: sum(score[rate]))
            chosen = {row["lr"] for row in found if figure in row["chosen"].split()}
            assert chosen == {best}
            assert [row["seed"] for row in found if row["lr"] == best] == ["0", "1", "2"]


def test_what_it_takes_to_reach_the_target_is_counted_in_the_steps(done):
    row = next(row for row in rows(done) if (row["method"], row["lr"], row["seed"]) == ("1 bit", "0.2", "0"))
    folder = done / "cells" / "none" / "1_bit" / "lr=0.2,seed=0"
    lines = [json.loads(line) for line in (folder / "steps.jsonl").read_text().splitlines()]
    first = next(line["step"] for line in lines if line.get("test_loss", 9.0) <= 2.0)
    until = lines[: first + 1]
    assert 0 < first < 23
    assert int(row["steps_to_target"]) == first + 1
    assert float(row["seconds_to_target"]) == pytest.approx(sum(line["seconds"] for line in until))
    assert int(row["bytes_to_target"]) == sum(line["uplink_bytes"] + line["downlink_bytes"] for line in until)
    # A byte for 7 signs and 4 for their scale, from each worker that replied.
    assert int(row["payload_bits_to_target"]) == 8 * 5 * sum(len(line["replies"]) + line["late"] for line in until)
    assert row["wall_seconds"] == ""


def test_a_cell_that_fails_is_kept_and_named_and_not_run_again_unless_asked(tmp_path, monkeypatch):
    text = SUITE + '[axes.method.impossible]\ncode.kind = "fractional_repetition"\ncode.stragglers = 2\n'
    only = ["straggling=none", "method=impossible"]
    results = run(tmp_path, text, only=only)
    assert [row["status"] for row in rows(tmp_path)] == ["failed"] * 3
    assert all("stragglers + 1 = 3 must divide" in row["message"] for row in rows(tmp_path))
    assert "| impossible | all rates failed |" in results.markdown()
    diverged = run(tmp_path / "other", only=["straggling=none", "method=float32"])
    (message,) = (one.message for place in diverged.outcomes.values() for one in place.values() if one.status == "failed")
    assert "'weight' has a NaN or an infinity" in message
    ran = []
    monkeypatch.setattr(module, "run_cell", lambda *args, **options: ran.append(args) or Outcome("failed", "again"))
    run(tmp_path, text, only=only)
    assert not ran
    run(tmp_path, text, only=only, retry=True)
    assert len(ran) == 3


def test_a_sweep_is_not_mixed_with_another(done, tmp_path):
    with pytest.raises(UsageError, match=r"seed=0: was run with another optimizer\.momentum, steps than the suite says"):
        sweep(parse_suite(SUITE, ["steps=9", "optimizer.momentum=0.5"]), done, [], lambda cell, outcome: None)
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(UsageError, match=r"holds thesis\.tex, and is no sweep's"):
        run(tmp_path)


def test_a_suite_may_grow_and_what_stood_on_the_command_line_is_remembered(tmp_path):
    only = ["straggling=none", "method=float32"]
    suite = parse_suite(SUITE, ["steps=8"])
    sweep(suite, tmp_path, plan(suite, only), lambda cell, outcome: None)
    again = parse_suite((tmp_path / "suite.toml").read_text())
    assert {combination.tables["steps"] for combination in again.combinations} == {8}
    assert len(Results.read(again, tmp_path).outcomes) == 1
    grown = parse_suite(SUITE.replace("rates = [", "rates = [0.01, "), ["steps=8"])
    told = []
    sweep(grown, tmp_path, plan(grown, only), lambda cell, outcome: told.append(cell.rate))
    assert 0.01 in told


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("seeds =", "sedes ="), r"^sedes: unknown key; did you mean 'seeds'\?"),
        (("[0, 1, 2]", "[]"), r"^seeds"),
        (("[0, 1, 2]", "[0, 1, 1]"), r"^seeds: \[0, 1, 1\]: one stands there twice"),
        (("0.05", "-1.0"), r"^rates\.0: -1\.0"),
        (("tune_seeds = 1", "tune_seeds = 4"), r"^tune_seeds: 4, but there are 3 seeds"),
        (("final_train_loss", "final_train_los"), r"^tune\.0: 'final_train_los'"),
        (("target = 2.0", ""), r"^tune: 'payload_bits_to_target' needs a target; none, float32 has none"),
        (("features", "feature"), r"^none, float32: problem\.feature: unknown key of .*did you mean 'features'"),
        (("workers = 4", ""), r"^base\.workers: missing"),
        (("axes.method.float32", 'axes.method."1_bit"'), r"^axes\.method: '1_bit' and '1 bit' are too much alike"),
        (("axes.straggling", "axes.seed"), r"^axes\.seed: an axis is named like a column"),
        (("target = 2.0", 'target = 2.0\nskip = [{metod = "1 bit"}]'), r"^skip\.0\.metod: no such axis"),
        (("target = 2.0", 'target = 2.0\nskip = [{method = "2 bit"}]'), r"^skip\.0\.method: no such value '2 bit'"),
        (('kind = "identity"', 'kind = "identity"\ntarget = "low"'), r"^axes\.method\.float32\.target: 'low'"),
        (
            ('kind = "identity"', 'kind = "identity"\nrates = [0.1]'),
            r"^axes\.method\.float32\.rates: method is what is compared",
        ),
        (('kind = "none"', 'kind = "none"\nrates = [0.1, -0.1]'), r"^axes\.straggling\.none\.rates\.1: -0\.1"),
        (("[0.05, 0.2, 50.0]", "[0.05, 0.2, 0.2]"), r"^rates: \[0\.05, 0\.2, 0\.2\]: one stands there twice"),
        (("[base]", "[base"), r"^suite: not TOML"),
    ],
)
def test_a_bad_suite_is_one_clear_error(change, message):
    assert change[0] in SUITE
    with pytest.raises(ConfigError, match=message):
        parse_suite(SUITE.replace(*change))


@pytest.mark.parametrize("name", ["paper", "stragglers"])
def test_the_suites_of_the_benchmarks_are_valid(name):
    suite = load_suite(ROOT / "benchmarks" / f"{name}.toml")
    assert len(suite.seeds) >= 3


def test_a_part_that_is_skipped_is_not_run():
    suite = parse_suite(SUITE.replace("target = ", 'skip = [{method = "1 bit", straggling = "none"}]\ntarget = '))
    assert [one.place for one in suite.combinations] == [("none", "float32"), ("p = 0.2", "float32"), ("p = 0.2", "1 bit")]
    own = parse_suite(SUITE.replace('kind = "none"', 'kind = "none"\nrates = [0.7]'))
    assert [combination.rates for combination in own.combinations] == [(0.7,), (0.7,), (0.05, 0.2, 50.0), (0.05, 0.2, 50.0)]
    with pytest.raises(UsageError, match=r"--only method=2 bit: method has no such value"):
        plan(suite, ["method=2 bit"])
    with pytest.raises(UsageError, match=r"--only speed=3: looks like AXIS=VALUE; the axes are straggling, method"):
        plan(suite, ["speed=3"])


def test_the_command_says_what_is_wrong_and_exits_with_2_and_reports_otherwise(tmp_path, capsys, monkeypatch):
    suite = tmp_path / "suite.toml"
    suite.write_text(SUITE)
    command = ["gcdl", "sweep", str(suite), "--out", str(tmp_path / "out"), "--only", "straggling=none"]
    for arguments, code in (([*command, "workers=none"], 2), (command, 0), (["gcdl", "plot", str(suite.parent)], 2)):
        monkeypatch.setattr(sys, "argv", arguments)
        with pytest.raises(SystemExit) as ended:
            cli.main()
        shown = capsys.readouterr()
        assert ended.value.code == code, shown
        if code == 2:
            assert len(shown.err.strip().splitlines()) == 1
            assert shown.err.startswith("gcdl: ")
        else:
            assert "float32" in shown.out
            assert "failed: none, float32 (lr 50 seed 0): worker" in shown.out
            assert "results.csv" in shown.out


def test_a_figure_has_five_lines_in_colour_at_most_and_names_the_others(done, tmp_path):
    with pytest.raises(ConfigError, match=r"highlight: 'none' is no value of the last axis \(valid: float32, 1 bit"):
        parse_suite('highlight = ["none"]\n' + SUITE)
    with pytest.raises(ConfigError, match="highlight"):
        parse_suite('highlight = ["float32", "float32", "float32", "float32", "float32", "float32"]\n' + SUITE)
    shutil.copytree(done, tmp_path / "sweep")
    suite = tmp_path / "sweep" / "suite.toml"
    suite.write_text('highlight = ["1 bit"]\n' + suite.read_text())
    text = plot_sweep(tmp_path / "sweep", tmp_path / "a.svg", ["straggling=none"])[0].read_text()
    assert "also run: float32" in text
    assert "#a8a8a8" in text
    assert not re.search(r' d="[^"]*\d\.\d\d', text)  # a tenth of a point is enough


def test_a_compact_figure_says_what_it_said_and_keeps_what_is_no_coordinate():
    drawn = '<g>\n   <path d="M 1.23456 -2 \nL 30.06 4 \nz" style="opacity: 0.15"/>\n  <text x="1.05" y="2">0.42</text>\n</g>'
    assert _compact(drawn) == '<g>\n<path d="M1.2 -2L30.1 4z" style="opacity: 0.15"/>\n<text x="1.1" y="2">0.42</text>\n</g>'


def test_a_plot_is_a_function_of_the_results(done, tmp_path):
    one, other = (plot_sweep(done, tmp_path / name, ["straggling=none"]) for name in ("one.svg", "other.svg"))
    text = one[0].read_text()
    assert text == other[0].read_text()
    assert "1 bit" in text
    assert "payload bits sent up" in text
    assert "p = 0.2" not in text
    run(tmp_path / "part", only=["straggling=none", "method=float32"])
    with pytest.raises(DataError, match="no cell of this is over"):
        plot_sweep(tmp_path / "part", None, ["method=1 bit"])


def test_tables_fit_80_columns_name_their_axes_and_say_how_finely_the_target_is_seen(done):
    suite = parse_suite((done / "suite.toml").read_text())
    file = io.StringIO()
    with SweepDisplay(Console(file=file, width=80), 1) as display:
        display.report(Results.read(suite, done), suite.combinations, done)
    lines = [line.rstrip() for line in file.getvalue().splitlines()]
    tables = lines[: next(number for number, line in enumerate(lines) if line.startswith("failed"))]
    assert max(map(len, tables)) <= 80
    assert sum(line.startswith("straggling: ") for line in tables) == 2
    assert sum(line == "the target is looked for at evaluations: every 4 steps" for line in tables) == 2
    shown = " ".join(" ".join(tables).split())
    assert shown.count("payload") == 2
    assert shown.count("float32") > 2  # every part of a table has the names of the methods
    assert re.search(r"\d \+- \d", shown)
    figures = re.findall(r"[\d.]+(?= \+-)", shown)
    assert all(len(figure.replace(".", "").lstrip("0")) <= 3 for figure in figures), figures


@pytest.mark.parametrize(
    ("values", "shown"),
    [
        ([1.0, 3.0], "2 +- 1.4"), ([12_000.0, 14_000.0], "13 +- 1.4 k"), ([None, 4.0], "4 (1 of 2)"), ([None], "never"),
        ([2_345_678.0], "2.35 M"), ([60.67, 60.67001], "60.7 +- 0"), ([0.5], "0.5"),
    ],
)  # fmt: skip
def test_a_mean_is_shown_with_its_spread(values, shown):
    assert spread(values) == shown


@pytest.mark.mpi
@pytest.mark.mpi
def test_measured_cells_are_jobs_of_their_own(tmp_path):  # 10 s
    text = SUITE.replace("rates = [0.05, 0.2, 50.0]", 'transport = "mpi"\nrates = [0.05]').replace("workers = 4", "workers = 2")
    text = text.replace("seeds = [0, 1, 2]", "seeds = [0]")
    text += '[axes.method.raises]\nstragglers.events = [{fault = "raise", worker = 1, step = 3}]\n'
    run(tmp_path, text, only=["straggling=none", "method=float32", "method=raises"])
    good, bad = rows(tmp_path)
    assert (good["status"], bad["status"]) == ("done", "failed")
    assert float(good["wall_seconds"]) > float(good["seconds"]) > 0.0
    assert "worker 1" in bad["message"]
    assert plot_sweep(tmp_path, tmp_path / "jobs.svg")[0].stat().st_size > 1000
