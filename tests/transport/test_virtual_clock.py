"""The virtual clock: against a plain event loop, against what the network's formulas say, and at scale."""

from __future__ import annotations

import heapq
import json
import resource
import time
from dataclasses import replace

import numpy as np
import pytest

from gcdl.config import Experiment, parse
from gcdl.protocol.master import Master
from gcdl.protocol.model_slices import one_slice
from gcdl.protocol.task_format import TaskFormat
from gcdl.protocol.wait_rules import Deadline, FirstReplies
from gcdl.protocol.wire import HEADER_BYTES
from gcdl.stragglers import Delays
from gcdl.training.build import make_pace, make_workers
from gcdl.training.roles import simulate
from gcdl.training.starting_point import StartingPoint
from gcdl.training.timing_only import NoCodec, NoOptimizer
from gcdl.training.watcher import Watcher
from gcdl.transport.simulated.network import Masters, Network, Sizes
from gcdl.transport.simulated.virtual_clock import Pace, SimulatedTransport
from gcdl.types import Layout

TASK, REPLY = 6400, 320


def pace(n, network=None, *, delays=None, loads=None, unit=0.01, d=0):
    return Pace(
        loads=np.ones(n, dtype=np.int64) if loads is None else np.array(loads),
        delays=(lambda step: Delays.of(n)) if delays is None else delays,
        seconds_per_shard=lambda step: np.full(n, unit),
        d=d,
        task_bytes=lambda task, base: Sizes(TASK, TASK),
        task_overhead=HEADER_BYTES,
        reply_bytes=Sizes(REPLY, REPLY),
        network=Network() if network is None else network,
    )


def run(pace, steps, count=None, code="uncoded", timeout=1e6, wait=None):
    """The records of a run in which only the clock runs, and its transport."""
    n = len(pace.loads)
    code = Experiment.of(parse(f'[problem]\nkind = "linear_regression"\n[code]\nkind = "{code}"'), n).code
    transport = SimulatedTransport(pace, None)
    master = Master(
        transport, code=code, slices=one_slice(code=code, codec=NoCodec(), optimizer=NoOptimizer(), seed=0),
        wait=wait or FirstReplies(code, count=count, timeout=timeout),
    )  # fmt: skip
    return list(master.run(steps)), transport


# --- against a plain event loop -----------------------------------------------------------------------------------------


def reference(pace, steps, count):
    """The same simulation, an event at a time: yields (replies, seconds, late) of each step. Only for small n."""
    net, n, masters = pace.network, len(pace.loads), pace.masters
    task, reply = pace.task_bytes(None, 0), pace.reply_bytes
    down, up = task.largest / net.master_bandwidth, reply.largest / net.master_bandwidth
    note = net.latency if masters.count > 1 else 0.0
    told = (masters.count - 1) * (masters.decision_bytes + masters.answer_bytes) / net.master_bandwidth + 2 * note
    now = link_out = link_in = 0.0
    events: list = []  # (when, order, worker, kind, step)
    newest, leaves, busy, job = [-1] * n, [-1.0] * n, [0.0] * n, [None] * n
    inbound: list = []
    for step in range(steps):
        began = now
        delays = pace.delays(step)
        waiting = sorted((w for w in range(n) if leaves[w] > now), key=lambda w: leaves[w])
        events = [e for e in events if not (e[3] == "task" and leaves[e[2]] > now)]
        started = [leaves[w] + down for w in range(n) if 0.0 <= leaves[w] <= now]
        link_out = max([now, *started])
        for w in [*waiting, *(w for w in range(n) if w not in waiting)]:
            leaves[w], newest[w] = link_out, step
            arrives = link_out + max(task.together / net.bandwidth, down) + net.latency
            # A task that another one overtakes is never begun.
            events = [e for e in events if not (e[3] == "task" and e[2] == w)]
            events.append((arrives, 0, w, "task", step))
            link_out += down
        heapq.heapify(events)
        arrived, late = [], 0
        while len(arrived) < count:
            next_event = events[0][0] if events else np.inf
            inbound.sort()
            done = np.inf
            if inbound:
                sent, w, s = inbound[0]
                end = max(sent + net.latency, link_in) + up
                done = max(end, sent + net.latency + reply.together / net.bandwidth) + note
            # A reply that is on its way first goes before one that is sent at the same instant.
            if done <= next_event and (done < next_event or not any(e[0] == done and e[3] != "task" for e in events)):
                inbound.pop(0)
                link_in = end
                now = max(now, done)
                if s == step:
                    arrived.append(w)
                else:
                    late += 1
                continue
            when, _, w, kind, s = heapq.heappop(events)
            if kind == "task":
                if job[w] is not None:
                    start, wake, computed, unit, ready = job[w]
                    if start < when <= ready and wake <= when < computed:
                        busy[w] = wake + np.ceil((when - wake) / unit - 1e-9) * unit
                    events = [e for e in events if not (e[2] == w and e[3] == "sent")]
                    heapq.heapify(events)
                start = max(when, busy[w])
                wake = start + delays.before_compute[w]
                unit = pace.seconds_per_shard(s)[w]
                work = pace.loads[w] * unit
                ready = wake + work + ((delays.factor[w] - 1.0) * work + delays.before_send[w])
                job[w] = (start, wake, wake + work, unit, ready)
                heapq.heappush(events, (ready, 1, w, "sent", s))
            else:
                inbound.append((when, w, s))
        now += told
        yield sorted(arrived), now - began, late


def random_delays(n, seed):
    def draw(step):
        rng = np.random.default_rng([seed, step])
        pick = rng.random((3, n))
        return Delays.of(
            n, compute=0.05 * pick[0] * (pick[1] < 0.5), send=0.03 * pick[1] * (pick[2] < 0.5), factor=1.0 + pick[2]
        )

    return draw


NETWORKS = {
    "none": Network(),
    "latency": Network(latency=0.004),
    "worker links": Network(bandwidth=2e6),
    "the master's link": Network(master_bandwidth=3e6, latency=0.001),
    "all, congested": Network(master_bandwidth=5e5, bandwidth=2e6, latency=0.002),
}


FOUR = {
    "task_bytes": lambda task, base: Sizes(TASK, TASK // 3),
    "reply_bytes": Sizes(REPLY, REPLY // 3),
    "masters": Masters(4, 1 / 3, decision_bytes=500, answer_bytes=90),
}


@pytest.mark.parametrize("shared", [{}, FOUR], ids=["one master", "four masters"])
@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("seed", range(3))
def test_events_found_in_arrays_are_those_of_an_event_loop(network, seed, shared):
    n, count = 7, 5
    loads = np.random.default_rng(seed).integers(1, 5, n)
    ours = replace(pace(n, NETWORKS[network], delays=random_delays(n, seed), loads=loads), **shared)
    records, _ = run(ours, 40, count)
    expected = list(reference(ours, 40, count))
    assert [record.replies for record in records] == [replies for replies, _, _ in expected]
    assert [record.seconds for record in records] == pytest.approx([seconds for _, seconds, _ in expected])
    assert [record.late for record in records[:-1]] == [late for _, _, late in expected[:-1]]
    if network == "all, congested" and not shared:
        assert sum(record.late for record in records) > 0


# --- the network's formulas ---------------------------------------------------------------------------------------------


def test_the_model_leaves_the_master_one_worker_after_the_other():
    n = 5
    network = Network(latency=0.5, bandwidth=1e3, master_bandwidth=2e3)
    (record,), _ = run(pace(n, network, unit=0.0), 1)
    last_task = (n - 1) * TASK / 2e3 + TASK / 1e3 + 0.5
    assert record.seconds == pytest.approx(last_task + 0.5 + REPLY / 1e3)
    assert np.diff(record.timing.replies["received"]) == pytest.approx(TASK / 2e3)


def test_replies_enter_the_master_one_after_the_other():
    n = 6
    delays = Delays.of(n, compute=np.full(n, 100.0) - np.arange(n) * 1e-3)
    network = Network(master_bandwidth=100.0, latency=0.0)
    (record,), _ = run(pace(n, network, delays=lambda step: delays, unit=0.0), 1)
    first = 100.0 - 5e-3 + n * TASK / 100.0  # the last task out belongs to the worker that is the first to wake
    received = np.sort(record.timing.replies["received"])
    assert np.diff(received).min() >= REPLY / 100.0 - 1e-9
    assert received[0] <= first + REPLY / 100.0


def test_the_masters_own_work_takes_its_seconds():
    network = Network(decode_seconds=0.25, decode_seconds_per_coordinate=1e-6, step_seconds=3.0)
    records, transport = run(pace(4, network, d=1_000_000, unit=0.5), 2, 3)
    for record in records:
        timing = record.timing
        assert timing.decoded - timing.waited == pytest.approx(3 * (0.25 + 1.0))
        assert timing.ended - timing.decoded == pytest.approx(3.0)
        assert record.seconds == pytest.approx(0.5 + 3.75 + 3.0)
    assert transport.master_seconds == pytest.approx(2 * 6.75)


def test_the_links_share_is_the_time_it_carries_something():
    network = Network(master_bandwidth=1e4)
    records, transport = run(pace(4, network, unit=10.0), 3)
    # Four tasks out; the first reply comes when the last task has long left.
    assert transport.link_seconds == pytest.approx(3 * (4 * TASK + 4 * REPLY) / 1e4, rel=1e-6)
    assert sum(record.seconds for record in records) > 30.0


def test_a_task_that_has_not_left_keeps_its_place_so_nobody_starves():
    # The step ends with the first reply, long before the last task has left.
    # (In each step one task is on its way when the next step begins: with an odd number it is another one each round.)
    records, transport = run(pace(7, Network(master_bandwidth=TASK / 1.0), unit=0.0), 14, 1)
    assert {record.replies[0] for record in records} == set(range(7))
    # What was replaced before it left was never handed over.
    assert transport.traffic.downlink < 14 * 7 * TASK


# --- as a run -----------------------------------------------------------------------------------------------------------

RUN = """
workers = 6
steps = 12
[problem]
kind = "linear_regression"
features = 40
[code]
kind = "fractional_repetition"
[compressor]
kind = "scaled_sign"
[stragglers]
kind = "exponential"
seconds = 0.02
[simulate]
latency = 0.001
master_bandwidth = 2e5
decode_seconds = 0.0001
"""


def steps(folder):
    return [json.loads(line) for line in (folder / "steps.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("downlink", ["model", "sign"])
def test_timing_only_is_the_same_run_without_its_numbers(tmp_path, downlink):
    config = parse(RUN, [f"downlink.kind={downlink}"])
    real = simulate(StartingPoint(config, tmp_path / "real"), Watcher())
    clock = simulate(StartingPoint(config, tmp_path / "clock", timing_only=True), Watcher())
    for one, other in zip(steps(tmp_path / "real"), steps(tmp_path / "clock"), strict=True):
        assert other["train_loss"] is None
        one["train_loss"] = None

        assert other["gradient_norm"] is None
        for key in ("test_loss", "test_accuracy", "gradient_norm", "samples", "lr"):
            one.pop(key, None)
            other.pop(key, None)
        assert one == other
    assert clock.model_sha256 is None
    assert clock.final_train_loss is None
    assert not (tmp_path / "clock" / "checkpoint").exists()
    same = ("seconds", "uplink_bytes", "downlink_bytes", "late_replies", "parameters", "link_share", "master_share")
    assert {key: getattr(real, key) for key in same} == {key: getattr(clock, key) for key in same}


def test_the_limit_is_named(tmp_path):
    slow = simulate(StartingPoint(parse(RUN, ["simulate.master_bandwidth=1e4"]), tmp_path / "a", timing_only=True), Watcher())
    assert slow.link_share == pytest.approx(1.0, abs=0.1)
    assert any(warning.startswith("the master's link is the limit: ") for warning in slow.warnings)
    busy = simulate(StartingPoint(parse(RUN, ["simulate.decode_seconds=0.1"]), tmp_path / "b", timing_only=True), Watcher())
    assert any(warning.startswith("the master's decoding and stepping is the limit: ") for warning in busy.warnings)
    fast = simulate(StartingPoint(parse(RUN, ["simulate.master_bandwidth=inf"]), tmp_path / "c", timing_only=True), Watcher())
    assert fast.link_share == 0.0
    assert not any("is the limit" in warning for warning in fast.warnings)


def test_bytes_are_those_of_the_messages(tmp_path):
    summary = simulate(StartingPoint(parse(RUN, ["simulate.parameters=1000003"]), tmp_path / "a", timing_only=True), Watcher())
    replies = sum(len(line["replies"]) + line["late"] for line in steps(tmp_path / "a"))
    assert summary.uplink_bytes == replies * (HEADER_BYTES + 125001 + 4)
    assert summary.downlink_bytes % (TaskFormat(6).overhead_bytes + 4 * 1000003) == 0
    assert summary.parameters == 1000003


def test_compute_times_of_a_measured_run_are_drawn_anew(tmp_path):
    base = ["simulate.master_bandwidth=inf", "simulate.latency=0", "stragglers.kind=none", "code.stragglers=0"]
    simulate(StartingPoint(parse(RUN, [*base, "run.seconds_per_shard=0.375"]), tmp_path / "measured"), Watcher())
    again = parse(RUN, [*base, f"simulate.compute={tmp_path / 'measured'}"])
    pace = make_pace(Experiment.of(again, 6), Layout(("w",), ((40,),)))
    assert pace.seconds_per_shard(3) == pytest.approx(np.full(6, 0.375))
    records = simulate(StartingPoint(again, tmp_path / "again"), Watcher())
    assert records.seconds == pytest.approx(12 * 0.375 + 12 * 6 * 1e-4)


@pytest.mark.parametrize("wait", [[], ["wait.kind=deadline", "wait.seconds=0.1"], ["wait.kind=decodable"]], ids=str)
def test_batches_of_replies_are_the_replies_one_by_one(wait):
    experiment = Experiment.of(parse(RUN, wait), 6).check()
    models = []
    for one_by_one in (False, True):
        transport = SimulatedTransport(make_pace(experiment, experiment.problem.layout()), make_workers(experiment))
        if one_by_one:
            experiment.wait.lacking = lambda arrived: 1
        codec = experiment.compressor.codec(experiment.problem.layout())
        optimizer = experiment.optimizer.build(experiment.problem.initial_parameters())
        slices = one_slice(code=experiment.code, codec=codec, optimizer=optimizer, seed=0)
        master = Master(transport, code=experiment.code, slices=slices, wait=experiment.wait)
        models.append(([record.line() for record in master.run(12)], optimizer.parameters.tobytes()))
    assert models[0] == models[1]


def test_a_step_ends_at_its_deadline_whatever_would_come_later():
    delays = Delays.of(4, compute=np.array([0.0, 1.0, 0.0, 2.0]))
    records, _ = run(pace(4, delays=lambda step: delays), 5, wait=Deadline(seconds=0.1))
    assert [record.replies for record in records] == [[0, 2]] * 5
    assert [record.seconds for record in records] == pytest.approx([0.1] * 5)


def test_thousands_of_workers_with_hundreds_of_millions_of_parameters_are_quick_and_small(tmp_path):
    config = parse(
        RUN,
        ["workers=4000", "steps=25", "problem.shards=400", "code.stragglers=9", "simulate.parameters=300000000",
         "simulate.master_bandwidth=inf", "wait.count=3600"],
    )  # fmt: skip
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.process_time()
    summary = simulate(StartingPoint(config, tmp_path / "run", timing_only=True), Watcher())
    assert time.process_time() - began < 20.0  # about 1
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000  # kB; one vector of d is 1.2 GB
    assert summary.uplink_bytes > 25 * 3600 * 37_500_000
