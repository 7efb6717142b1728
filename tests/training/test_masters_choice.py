"""``run.masters = 0``: as many masters as pay, by a prediction that the simulation keeps."""

from __future__ import annotations

import json

import pytest

from gcdl.compressors.kernels import BLOCK
from gcdl.config import Experiment, parse
from gcdl.launch.masters import settle
from gcdl.training.masters_choice import StepCosts, choose_masters, masters_that_pay, network_of, step_costs
from gcdl.training.roles import simulate
from gcdl.training.starting_point import StartingPoint
from gcdl.transport.simulated.network import Network
from gcdl.types import Layout
from tests.conftest import Heard
from tests.training.conftest import LARGE

RUN = (
    "workers = 32\n"
    + LARGE
    + """bandwidth = 1.25e8
master_bandwidth = 1.25e8
"""
)
FREE = ["simulate.bandwidth=inf", "simulate.master_bandwidth=inf", "simulate.decode_seconds_per_coordinate=0"]
LAYOUT = Layout(("w",), ((25_000_000,),))


def experiment(*overrides, n=32):
    return Experiment.of(parse(RUN, [f"workers={n}", *overrides]), n).check()


def steady(folder, *overrides):
    """The seconds of a step late in a simulation in which only the clock runs, and what was said before it."""
    heard = Heard()
    simulate(StartingPoint(parse(RUN, overrides), folder, timing_only=True), heard)
    return json.loads((folder / "steps.jsonl").read_text().splitlines()[-1])["seconds"], heard.lines


def costs(n, d=25_000_000, rate=1.25e8, compute=0.05):
    return StepCosts(d, n, d // 8, d // 8, compute, Network(1e-4, rate, rate, 1.3e-4, 2e-10))


@pytest.mark.parametrize("n", [2, 8, 64, 1000])
@pytest.mark.parametrize("rate", [1e7, 1.25e9])
@pytest.mark.parametrize("most", [1, 3, 40])
def test_the_fewest_masters_within_a_tenth_of_the_best_are_chosen(n, rate, most):
    seconds = [costs(n, rate=rate).seconds(masters) for masters in range(1, most + 1)]
    chosen = choose_masters(costs(n, rate=rate), most)
    assert seconds[chosen - 1] <= 1.1 * min(seconds)
    assert all(fewer > 1.1 * min(seconds) for fewer in seconds[: chosen - 1])


def test_there_are_no_more_masters_than_blocks():
    assert choose_masters(costs(10_000, d=3 * BLOCK, rate=1e5), 50) == 3
    assert choose_masters(costs(10_000, d=100, rate=1.0), 50) == 1


@pytest.mark.parametrize("masters", [1, 2, 7, 16])
@pytest.mark.parametrize("n", [4, 100])
@pytest.mark.parametrize("downlink", ["model", "sign", "votes"])
def test_the_prediction_is_what_the_simulation_takes(tmp_path, masters, n, downlink):
    method = [f"downlink.kind={downlink}", f"workers={n}", "simulate.step_seconds=0.01", "simulate.master_bandwidth=3e8"]
    took, _ = steady(tmp_path / "a", *method, f"run.masters={masters}")
    one = experiment(*method, n=n)
    assert step_costs(one, LAYOUT, network_of(one)).seconds(masters) == pytest.approx(took, rel=0.03)


def test_a_simulation_chooses_by_its_own_links_and_says_so(tmp_path):
    took, said = steady(tmp_path / "chosen", "run.masters=0")
    assert said[0].startswith("run.masters = 0: 24 masters, ")
    assert "1 master: 1.14 s (25,000,000 parameters, 32 workers, simulated, links as [simulate] states them)" in said[0]
    assert took == steady(tmp_path / "stated", "run.masters=24")[0]
    assert parse((tmp_path / "chosen" / "config.toml").read_text()).run.masters == 24
    _, said = steady(tmp_path / "free", "run.masters=0", *FREE)
    assert said[0].startswith("run.masters = 0: 1 master, 0.0544 s a step predicted (")


def test_one_machine_has_one_master_unless_a_link_is_stated():
    said = []
    open_link = experiment("simulate.master_bandwidth=inf")
    assert masters_that_pay(open_link, LAYOUT, said.append, hosts=1) == 1
    assert "1 host, links of 1 Gbit/s assumed; simulate.master_bandwidth states others" in said[0]
    assert masters_that_pay(open_link, LAYOUT, said.append, hosts=5) == 5
    assert masters_that_pay(experiment(), LAYOUT, said.append, hosts=1) == 24
    assert masters_that_pay(experiment("simulate.master_bandwidth=1e12", *FREE[:1]), LAYOUT, said.append, hosts=5) < 5


def test_masters_are_settled_before_the_ranks_are_started(tmp_path, monkeypatch):
    hostfile = tmp_path / "hosts"
    hostfile.write_text("a slots=3\nb slots=3\nc slots=3\na slots=1\n")
    wide = [f"problem.features={20 * BLOCK}", "simulate.master_bandwidth=1e6", "problem.samples=1", "run.masters=0"]
    said = []
    config = settle(parse(RUN, ["workers=6", *wide]), hostfile, said.append)
    assert (config.run.masters, config.workers) == (3, 6)
    assert "3 hosts, links as [simulate] states them" in said[0]
    without = RUN.replace("workers = 32\n", "")
    config = settle(parse(without, wide), hostfile, said.append)
    assert (config.run.masters, config.workers) == (3, 7)
    monkeypatch.setenv("SLURM_NTASKS", "9")
    monkeypatch.setenv("SLURM_JOB_NUM_NODES", "2")
    config = settle(parse(without, wide), None, said.append)
    assert (config.run.masters, config.workers) == (2, 7)
