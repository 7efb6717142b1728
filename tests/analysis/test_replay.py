"""A recorded run can be run again from its record, to the bit; a record that was changed is found out."""

from __future__ import annotations

import json
import re

import pytest

from gcdl.analysis.replay import replay
from gcdl.config import parse
from gcdl.errors import DataError, ReplayDiffers
from gcdl.training.roles import simulate
from gcdl.training.starting_point import StartingPoint
from gcdl.training.watcher import Watcher

RUN = """
workers = 6
steps = 30
[problem]
kind = "linear_regression"
features = 21
samples = 9
batch_size = 5
[code]
kind = "cyclic_repetition"
stragglers = 2
[compressor]
kind = "stochastic_sign"
scale = "max"
dither = "independent"
error_feedback = true
[stragglers]
kind = "exponential"
seconds = 0.02
[wait]
kind = "first_replies"
timeout = 0.03
[optimizer]
momentum = 0.5
[run]
eval_every = 10
seconds_per_shard = 0.001
"""


@pytest.fixture
def recorded(tmp_path):
    simulate(StartingPoint(parse(RUN), tmp_path / "run"), Watcher())
    return tmp_path / "run"


def lines(folder):
    return [json.loads(line) for line in (folder / "steps.jsonl").read_text().splitlines()]


def rewrite(folder, records):
    (folder / "steps.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))


def test_a_run_with_steps_that_timed_out_replays_to_the_bit(recorded):
    records = lines(recorded)
    assert any(record["timed_out"] for record in records)
    assert len({tuple(record["replies"]) for record in records}) > 5
    summary = json.loads((recorded / "summary.json").read_text())
    done = []
    assert replay(recorded, lambda *progress: done.append(progress)) == f"identical: 30 steps, model {summary['model_sha256']}"
    assert done == [(step, 30) for step in range(1, 31)]


@pytest.mark.parametrize(
    "overrides",
    [
        ["code.kind=sgc", "code.decoder=mmse", "compressor.kind=scaled_sign", "wait.kind=deadline", "wait.seconds=0.02"],
        ["code.kind=fractional_repetition", "code.decoder=majority", "compressor.kind=sign", "optimizer.kind=adam"],
        ["code.kind=sgc", "compressor.error_feedback=false", "compressor.dither=correlated+subtractive"],
        ["compressor.kind=sign", "compressor.momentum=lion", "compressor.error_feedback=false", "optimizer.kind=sign"],
        ["compressor.kind=scaled_sign", "compressor.momentum=signum", "downlink.kind=votes"],
        ["wait.kind=decodable", "compressor.kind=identity", "compressor.error_feedback=false", "stragglers.at=send"],
    ],
    ids=lambda overrides: " ".join(overrides),
)
def test_every_kind_of_run_replays(tmp_path, overrides):
    simulate(StartingPoint(parse(RUN, overrides), tmp_path / "run"), Watcher())
    assert replay(tmp_path / "run").startswith("identical: 30 steps")


@pytest.mark.parametrize("step", [0, 13, 29])
def test_a_changed_line_is_found_at_its_step(recorded, step):
    records = lines(recorded)
    for key, value in (
        ("train_loss", records[step]["train_loss"] * (1 + 1e-15)),
        ("noise_gain", 2.0),
        ("gradient_norm", 1.0),
        ("decoding_error", 0.5),
        ("replies", records[step]["replies"][:-1]),
    ):
        rewrite(recorded, [{**record, key: value} if record["step"] == step else record for record in records])
        with pytest.raises(ReplayDiffers, match=rf"run: step {step}: "):
            replay(recorded)


def test_a_reply_that_was_altered_on_its_way_is_found_at_its_step(tmp_path):
    events = 'stragglers.events=[{fault = "corrupt", worker = 2, step = 4}]'
    everyone = ["wait.count=6", "wait.timeout=60.0", "compressor.error_feedback=false"]
    simulate(StartingPoint(parse(RUN, [events, *everyone]), tmp_path / "altered"), Watcher())
    with pytest.raises(ReplayDiffers, match="altered: step 4: gradient_norm was"):
        replay(tmp_path / "altered")
    simulate(StartingPoint(parse(RUN, [events, "run.checksums=true"]), tmp_path / "dropped"), Watcher())
    assert replay(tmp_path / "dropped").startswith("identical")


def test_another_model_at_the_end_is_found(recorded):
    summary = json.loads((recorded / "summary.json").read_text())
    (recorded / "summary.json").write_text(json.dumps({**summary, "model_sha256": "0" * 64}))
    with pytest.raises(ReplayDiffers, match=r"every step is the same, but not the model: [0-9a-f]{64}, the summary says 0000"):
        replay(recorded)
    rewrite(recorded, lines(recorded)[:-1])
    with pytest.raises(ReplayDiffers, match=r"steps\.jsonl has 29 steps, the summary says 30"):
        replay(recorded)


def test_a_run_that_was_killed_replays_as_far_as_it_came(recorded):
    (recorded / "summary.json").unlink()
    with (recorded / "steps.jsonl").open("a") as file:
        file.write('{"step": 30, "tr')
    assert replay(recorded).startswith("30 steps are the same; the run did not end well")


def test_lost_workers_and_weights_of_zero_replay(recorded):
    # As if worker 5 had been lost in step 7: what was used is what counts.
    records = [dict(record, lost=[5] if record["step"] >= 7 else []) for record in lines(recorded)]
    rewrite(recorded, records)
    assert replay(recorded).startswith("identical")


BROKEN = {
    "not JSON": ("{", r"line 5: not JSON$"),
    "another step": ('{"step": 7}', r"line 5: step 7 where step 4 was expected$"),
    "no object": ("[]", r"line 5: step \[\] where step 4"),
    "a worker too many": (
        '{"step": 4, "replies": [0, 6], "lost": [], "fresh": []}',
        r"line 5: replies: \[0, 6\] are not ascending ids of 6",
    ),
    "out of order": ('{"step": 4, "replies": [1, 0], "lost": [], "fresh": []}', r"line 5: replies: \[1, 0\]"),
    "nobody": ('{"step": 4, "replies": [], "lost": [], "fresh": []}', r"line 5: replies: none"),
    "something missing": ('{"step": 4, "replies": [0], "lost": [], "fresh": []}', r"line 5: seconds: missing$"),
    "no loss": (
        '{"step": 4, "replies": [0], "lost": [], "fresh": [], "seconds": 1, "train_loss": "x"}',
        r"line 5: train_loss: 'x' is not a number$",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_line_that_no_run_wrote_is_an_error_that_names_it(recorded, name):
    text, message = BROKEN[name]
    written = (recorded / "steps.jsonl").read_text().splitlines()
    written[4] = text
    (recorded / "steps.jsonl").write_text("\n".join(written) + "\n")
    with pytest.raises(DataError, match=re.escape(str(recorded / "steps.jsonl")) + ", " + message):
        replay(recorded)


def test_what_is_no_run_folder(tmp_path):
    with pytest.raises(DataError, match="not a run folder"):
        replay(tmp_path)
    simulate(StartingPoint(parse(RUN), tmp_path / "clock", timing_only=True), Watcher())
    with pytest.raises(DataError, match="has no model to replay"):
        replay(tmp_path / "clock")
