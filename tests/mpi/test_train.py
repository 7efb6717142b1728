"""Jobs that go well: the contracts of a run, and MPI = simulation to the bit."""

from __future__ import annotations

import itertools
import json

import pytest

from gcdl.analysis.replay import replay
from gcdl.protocol.wire import HEADER_BYTES
from tests.conftest import telling

pytestmark = pytest.mark.mpi

LATE = ("stragglers.kind=fixed", "stragglers.workers=[2]", "stragglers.seconds=30.0")


CASES = {
    "identity": ((), 4 * 37),
    "cyclic, scaled sign, feedback": (
        ("code.kind=cyclic_repetition", "compressor.kind=scaled_sign", "compressor.error_feedback=true"),
        5 + 4,
    ),
    "sgc, dither": (("code.kind=sgc", "code.replication=2", "code.stragglers=1", "compressor.kind=stochastic_sign"), 5 + 4),
    "uncoded, sign, adam, minibatches": (
        ("code.kind=uncoded", "wait.count=3", "compressor.kind=sign", "optimizer.kind=adam", "problem.batch_size=7"),
        5,
    ),
    "lion": (("compressor.kind=sign", "compressor.momentum=lion", "optimizer.kind=sign", "optimizer.weight_decay=0.1"), 5),
    "decodable, dither, feedback": (
        (
            "wait.kind=decodable",
            "stragglers.workers=[1,2]",
            "compressor.kind=stochastic_sign",
            "compressor.error_feedback=true",
        ),
        5 + 4,
    ),
}


@pytest.mark.parametrize("case", telling(CASES, "uncoded, sign, adam, minibatches", "decodable, dither, feedback"))
def test_an_mpi_run_is_the_simulated_run_when_the_delays_decide_who_arrives(start, simulated, case):
    overrides, payload = CASES[case]
    measured = start("train", *LATE, *overrides).end()
    expected = simulated(*LATE, *overrides)
    assert measured.code == 0, measured.output
    assert [line["replies"] for line in measured.steps] == [line["replies"] for line in expected.steps]
    same = ("model_sha256", "final_train_loss", "final_test_loss", "uplink_bytes", "steps")
    assert {k: measured.summary[k] for k in same} == {k: expected.summary[k] for k in same}
    # A task that is superseded before MPI had room for it is not handed over.
    assert measured.summary["downlink_bytes"] <= expected.summary["downlink_bytes"]
    check_bytes(measured, payload)


def check_bytes(job, payload):
    """What was counted is the messages' sizes, to the byte: the formula of gcdl/README.md."""
    for line in job.steps:
        assert line["uplink_bytes"] == (payload + HEADER_BYTES) * (len(line["replies"]) + line["late"])
    assert job.summary["uplink_bytes"] == sum(line["uplink_bytes"] for line in job.steps)
    assert job.summary["downlink_bytes"] == sum(line["downlink_bytes"] for line in job.steps)
    assert job.summary["late_replies"] == sum(line["late"] for line in job.steps)
    assert "of which" not in job.output.replace("of which steps", "")  # no worker sent more than arrived
    task = HEADER_BYTES + 64 + 4 * 37  # header, four steps of acceptance padded to 64, the model
    assert all(line["downlink_bytes"] % task == 0 and line["downlink_bytes"] <= 4 * task for line in job.steps)


@pytest.mark.parametrize("masters", [1, 2])
def test_an_adaptive_wait_leaves_out_the_straggler_and_replays_to_the_bit(start, masters):
    large = ("problem.features=200000", "problem.samples=2", "problem.test_samples=1", "optimizer.lr=1e-7")
    job = start("train", *LATE, *large, "wait.kind=adaptive", f"run.masters={masters}", ranks=4 + masters).end()
    assert job.code == 0, job.output
    assert len(job.steps) == 30
    assert not any(2 in line["replies"] or line["timed_out"] for line in job.steps)
    assert sum(line["seconds"] for line in job.steps) < 30.0  # it never waited for it
    assert "identical" in replay(job.folder)


def test_late_replies_are_dropped_and_counted(start):
    # Worker 1's delay is shorter than a step: its replies come, but to steps that are over.
    job = start("train", "steps=300", "compressor.kind=sign", "stragglers.kind=fixed", "stragglers.workers=[1]",
                "stragglers.seconds=0.0015").end()  # fmt: skip
    assert job.code == 0, job.output
    assert all(len(line["replies"]) == 3 for line in job.steps)
    assert job.summary["late_replies"] > 0
    check_bytes(job, 5)
    # The timeline draws them too, and everyone's row is one thing after the other.
    rows = {worker: [] for worker in range(1, 5)}
    for event in json.loads((job.folder / "timeline.json").read_text())["traceEvents"]:
        if event["ph"] == "X" and event["tid"] > 0:
            rows[event["tid"]].append((event["ts"], event["ts"] + event["dur"], event["name"]))
    assert any(name == "compute (late)" for _, _, name in rows[2])
    for row in rows.values():
        assert all(then[0] >= now[1] - 0.2 for now, then in itertools.pairwise(row))  # microseconds, rounded


def test_the_run_folder_is_what_the_contract_says_and_the_job_does_not_wait_for_the_straggler(start, simulated):
    job = start("run", *LATE).end(60.0)  # waiting for it, or for its sleep at the end, would take a quarter of an hour
    assert job.code == 0, job.output
    assert all(2 not in line["replies"] for line in job.steps)
    assert job.summary["wait_for_all_seconds"] > 30 * 30
    names = {path.name for path in job.folder.iterdir()}
    assert names == {"config.toml", "manifest.json", "steps.jsonl", "summary.json", "timeline.json", "checkpoint", "model.pt"}
    line = {
        "step",
        "seconds",
        "train_loss",
        "replies",
        "late",
        "decoding_error",
        "noise_gain",
        "uplink_bytes",
        "downlink_bytes",
    }
    assert all(line <= set(record) for record in job.steps)
    assert [record["step"] for record in job.steps] == list(range(30))
    manifest = json.loads((job.folder / "manifest.json").read_text())
    assert manifest["ranks"] == 5
    assert len(manifest["hosts"]) == 5
    assert {"gcdl", "numpy", "torch", "mpi4py"} <= set(manifest["versions"])
    timeline = json.loads((job.folder / "timeline.json").read_text())["traceEvents"]
    assert {event["name"] for event in timeline} >= {"send", "wait", "decode", "step", "compute"}
    assert sorted(path.name for path in (job.folder / "checkpoint").iterdir()) == ["step-00000020.npz", "step-00000030.npz"]
    # The resolved config is a config: running it again is the same run.
    again = simulated(config=(job.folder / "config.toml").read_text())
    assert again.summary["model_sha256"] == job.summary["model_sha256"]


def test_a_classifier_trains_over_mpi_as_in_simulation(start, simulated):
    config = """
    steps = 8
    [problem]
    kind = "classifier"
    model = "cnn"
    hidden = [16]
    shards = 6
    batch_size = 50
    [code]
    kind = "fractional_repetition"
    [compressor]
    kind = "stochastic_sign"
    [stragglers]
    kind = "fixed"
    workers = [0]
    seconds = 60
    """
    measured = start("train", config=config).end()
    expected = simulated("workers=4", config=config)
    assert measured.code == 0, measured.output
    assert measured.summary["model_sha256"] == expected.summary["model_sha256"]
    assert measured.summary["final_test_accuracy"] == expected.summary["final_test_accuracy"]


WATCHED = """
import tracemalloc
from gcdl.protocol import master
from gcdl.protocol import worker
def watched(cls, name):
    original = getattr(cls, name)
    def watch(self, given):
        step = given if isinstance(given, int) else given.task.step
        if step == 2:
            tracemalloc.start()
        if step == 19:
            print("peak", *tracemalloc.get_traced_memory(), flush=True)
        return original(self, given)
    setattr(cls, name, watch)
watched(master.Master, "_step")
watched(worker.Worker, "_check_finite")
from gcdl.cli import main
main()
"""


def test_once_it_runs_no_rank_allocates_as_much_as_the_model(start):
    # The first two steps allocate the scratch of the kernels.
    d = 1_000_000
    job = start(
        "train", f"problem.features={d}", "problem.samples=1", "optimizer.lr=1e-9", "steps=20", "workers=2",
        "compressor.kind=stochastic_sign", "compressor.dither=correlated+subtractive", "compressor.error_feedback=true",
        "run.checkpoint_every=0", "run.eval_every=0", script=WATCHED, ranks=3,
    ).end()  # fmt: skip
    assert job.code == 0, job.output
    traced = [tuple(map(int, line.split()[1:])) for line in job.output.splitlines() if line.startswith("peak ")]
    assert len(traced) >= 2  # the master, and at least the worker that answers first
    # Nothing comes and goes. Nothing stays but the master's buffers, one for each model that a slow worker still reads.
    assert all(peak - held < 4 * d / 8 for held, peak in traced)
    assert max(held for held, _ in traced) < 4 * d * 2.1
    assert sorted(held for held, _ in traced)[-2] < 4 * d / 8
