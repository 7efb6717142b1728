"""The straggler lab over MPI: delays are those drawn, simulated seconds are real ones, and a record runs again."""

from __future__ import annotations

import json
import shutil

import pytest

from gcdl.analysis.replay import replay
from gcdl.config import load
from gcdl.errors import ReplayDiffers
from gcdl.stragglers import delays_at
from gcdl.training.roles import simulate
from gcdl.training.starting_point import StartingPoint
from gcdl.training.watcher import Watcher
from tests.conftest import telling

pytestmark = [pytest.mark.mpi, pytest.mark.alone]


@pytest.mark.exhaustive
def test_an_mpi_run_of_200_steps_with_error_feedback_replays_to_the_bit(start, tmp_path):
    job = start(
        "train", "steps=200", "compressor.kind=scaled_sign", "compressor.error_feedback=true", "problem.batch_size=7",
        "stragglers.kind=bernoulli", "stragglers.p=0.3", "stragglers.seconds=0.003", "wait.count=3",
    ).end()  # fmt: skip
    assert job.code == 0, job.output
    assert len({tuple(line["replies"]) for line in job.steps}) > 1
    assert replay(job.folder) == f"identical: 200 steps, model {job.summary['model_sha256']}"
    tampered = shutil.copytree(job.folder, tmp_path / "tampered")
    lines = [dict(line) for line in job.steps]
    others = [line["replies"] for line in job.steps if line["replies"] != lines[137]["replies"]]
    lines[137]["replies"] = others[0]
    (tampered / "steps.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(ReplayDiffers, match="step 137: "):
        replay(tampered)


CODES = {
    "fractional_repetition": ["code.stragglers=1"],
    "cyclic_repetition": ["code.kind=cyclic_repetition", "code.stragglers=2"],
    "uncoded": ["code.kind=uncoded", "wait.count=6"],
}


@pytest.mark.parametrize("kind", telling(CODES, "cyclic_repetition"))
def test_simulated_seconds_and_arrivals_are_those_measured(start, tmp_path, kind):
    # Delays that are far longer than anything else, and far from each other: a busy machine changes no order.
    rows = [[0.05 + 0.15 * ((3 * worker + 5 * step) % 8) for worker in range(8)] for step in range(8)]
    trace = tmp_path / "trace.csv"
    table = "\n".join(",".join(map(str, [step, *row])) for step, row in enumerate(rows))
    trace.write_text("step,0,1,2,3,4,5,6,7\n" + table)
    delays = ["stragglers.kind=trace", f"stragglers.file='{trace}'", "workers=8", "steps=4", *CODES[kind]]
    job = start("train", *delays, ranks=9).end()
    assert job.code == 0, job.output
    config = load(job.folder / "config.toml", ["run.seconds_per_shard=0"])
    summary = simulate(StartingPoint(config, tmp_path / "simulated"), Watcher())
    simulated = [json.loads(line) for line in (tmp_path / "simulated" / "steps.jsonl").read_text().splitlines()]
    assert [line["replies"] for line in simulated] == [line["replies"] for line in job.steps]
    assert summary.model_sha256 == job.summary["model_sha256"]
    assert summary.seconds == pytest.approx(job.summary["seconds"], rel=0.1)


def test_ranks_sleep_as_drawn_before_computing_and_before_sending_and_slow_ones_longer(start):
    overrides = [
        "stragglers.kind=sum",
        "stragglers.models=[{kind='exponential', seconds=0.03}, {kind='exponential', seconds=0.02, at='send'},"
        " {kind='speeds', workers=[3], factors=20.0}]",
        "wait.count=4", "steps=15",
    ]  # fmt: skip
    job = start("train", *overrides).end()
    assert job.code == 0, job.output
    from gcdl.config import Experiment

    experiment = Experiment.of(load(job.folder / "config.toml"), 4)
    spent: dict[tuple[int, int], dict[str, float]] = {}
    for event in json.loads((job.folder / "timeline.json").read_text())["traceEvents"]:
        if event["ph"] == "X" and event["tid"] > 0:
            spent.setdefault((event["tid"] - 1, event["args"]["step"]), {})[event["name"]] = event["dur"] / 1e6
    assert len(spent) == 15 * 4
    for (worker, step), seconds in spent.items():
        drawn = delays_at(experiment.stragglers, 4, experiment.config.seed, step)
        assert seconds["injected sleep"] == pytest.approx(drawn.before_compute[worker], rel=1e-5, abs=2e-6)
        held = drawn.before_send[worker] + (drawn.factor[worker] - 1.0) * seconds["compute"]
        # What little a worker computes after its sleep counts as computing too, and nobody slows that down.
        slack = 0.01 if drawn.factor[worker] == 1.0 else 0.25
        assert seconds["injected sleep (sending)"] == pytest.approx(held, rel=slack, abs=3e-3)
    assert all(line["seconds"] >= max(
        float(delays_at(experiment.stragglers, 4, experiment.config.seed, line["step"]).seconds[w]) for w in line["replies"]
    ) for line in job.steps)  # fmt: skip
