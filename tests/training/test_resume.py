"""Cut a run anywhere, resume it, and it is the run that was never cut: to the bit, and in its records."""

from __future__ import annotations

import json

import numpy as np
import pytest

from gcdl.analysis.plots import plot
from gcdl.analysis.replay import replay
from gcdl.analysis.reply_times import report
from gcdl.config import parse
from gcdl.errors import DataError, Interrupted, UsageError
from gcdl.protocol.master import Master
from gcdl.stragglers import write_trace
from gcdl.training import checkpoint_file as checkpoint
from gcdl.training.roles import simulate
from gcdl.training.run_folder import RunFolder
from gcdl.training.starting_point import StartingPoint, resume
from tests.conftest import Heard

CONFIG = """
seed = 5
workers = 6
steps = 30
[problem]
kind = "linear_regression"
features = 21
samples = 9
batch_size = 4
[code]
kind = "fractional_repetition"
stragglers = 1
[compressor]
kind = "stochastic_sign"
scale = "max"
dither = "independent"
error_feedback = true
[stragglers]
kind = "bernoulli"
p = 0.3
seconds = 0.05
[optimizer]
lr = 0.02
[run]
eval_every = 7
checkpoint_every = 4
"""


class Interrupting(Heard):
    """Interrupts the run after a step."""

    def __init__(self, interrupt_at: int | None = None) -> None:
        super().__init__()
        self.interrupt_at = interrupt_at

    def step(self, record):
        if record.step == self.interrupt_at:
            raise Interrupted("interrupted")


def run(folder, *overrides):
    return simulate(StartingPoint(parse(CONFIG, overrides), folder), Interrupting())


def go_on(folder, *overrides):
    watcher = Interrupting()
    return simulate(resume(folder, overrides), watcher), watcher


def cut(folder, after, *overrides):
    """Run until ``after`` steps are done; then it is interrupted."""
    with pytest.raises(Interrupted):
        simulate(StartingPoint(parse(CONFIG, overrides), folder), Interrupting(interrupt_at=after - 1))


def lines(folder):
    return [json.loads(line) for line in (folder / "steps.jsonl").read_text().splitlines()]


def kept(folder):
    return sorted(int(path.stem[5:]) for path in (folder / "checkpoint").glob("step-*.npz"))


MINE = ("seconds", "wall_seconds", "wait_for_all_seconds", "control_bytes", "resumed", "warnings", "shard_coverage")


def assert_same(resumed, whole):
    mine, other = resumed.fields(), whole.fields()
    assert {k: v for k, v in mine.items() if k not in MINE} == {k: v for k, v in other.items() if k not in MINE}
    assert mine["seconds"] == pytest.approx(other["seconds"])
    assert mine["shard_coverage"] == pytest.approx(other["shard_coverage"])
    assert mine["warnings"] == other["warnings"]


@pytest.mark.parametrize("downlink", ["kind=votes", "kind=sign", "dtype=bfloat16"])
def test_what_the_downlink_knows_is_resumed_too(tmp_path, downlink):
    overrides = (f"downlink.{downlink}", "compressor.agreed=true", "optimizer.momentum=0.9", "run.checkpoint_every=5")
    whole = run(tmp_path / "whole", *overrides)
    cut(tmp_path / "cut", 10, *overrides)
    resumed, _ = go_on(tmp_path / "cut")
    # All workers are sent the whole model then.
    more = {"downlink_bytes", "downlink_header_bytes"}
    mine, other = ({k: v for k, v in one.fields().items() if k not in (*MINE, *more)} for one in (resumed, whole))
    assert mine == other
    assert replay(tmp_path / "cut").startswith("identical")


OPTIMIZERS = {
    "momentum": ("optimizer.momentum=0.9",),
    "adam": ("optimizer.kind=adam",),
    "sign": ("optimizer.kind=sign", "optimizer.lr=0.01", "optimizer.weight_decay=0.1"),
}
COMPRESSORS = {
    "stochastic_sign": ("compressor.kind=stochastic_sign",),
    "scaled_sign": ("compressor.kind=scaled_sign",),
    "lion": ("compressor.kind=sign", "compressor.momentum=lion", "compressor.error_feedback=false"),
    "signum": ("compressor.kind=scaled_sign", "compressor.momentum=signum", "compressor.beta1=0.8"),
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("compressor", COMPRESSORS)
def test_a_run_resumed_from_a_checkpoint_is_the_run_that_went_through(tmp_path, optimizer, compressor):
    overrides = (*OPTIMIZERS[optimizer], *COMPRESSORS[compressor])
    whole = run(tmp_path / "whole", *overrides)
    folder = tmp_path / "cut"
    cut(folder, 11, *overrides)
    assert kept(folder) == [8, 11]
    # As after kill -9: records beyond the newest checkpoint, the last of them half written.
    (folder / "checkpoint" / "step-00000011.npz").unlink()
    with (folder / "steps.jsonl").open("a") as file:
        file.write('{"step": 11, "sec')
    resumed, watcher = go_on(folder)
    assert watcher.done == 8
    assert_same(resumed, whole)
    assert resumed.resumed == 1
    for key in ("step", "train_loss", "replies", "uplink_bytes", "test_loss"):
        assert [line.get(key) for line in lines(folder)] == [line.get(key) for line in lines(tmp_path / "whole")]


DELAYS = {
    "trace": ["kind=trace", "file={trace}"],
    "bursts": ["kind=bursts", "seconds=0.05", "p=0.3", "length=3.0"],
    "speeds": ["kind=speeds", "factors=[1.0, 1.0, 9.0, 1.0, 1.0, 1.0]"],
    "sum": [
        'models=[{{kind="trace", file="{trace}", at="send"}}, {{kind="speeds", factors=[1.0, 1.0, 2.0, 1.0, 1.0, 1.0]}}]',
        "kind=sum",
    ],
}


@pytest.mark.parametrize("kind", DELAYS)
def test_delays_go_on_where_they_were_and_a_resumed_run_can_be_replayed_traced_and_drawn(tmp_path, kind):
    write_trace(tmp_path / "trace.csv", np.where(np.random.default_rng(1).random((40, 6)) < 0.3, 0.05, 0.0))
    overrides = [f"stragglers.{key}".format(trace=tmp_path / "trace.csv") for key in DELAYS[kind]]
    whole = run(tmp_path / "whole", *overrides)
    folder = tmp_path / "cut"
    cut(folder, 11, *overrides)
    resumed, _ = go_on(folder)
    assert_same(resumed, whole)
    assert len({tuple(line["replies"]) for line in lines(folder)}) >= (1 if kind == "speeds" else 5)
    assert [line["replies"] for line in lines(folder)] == [line["replies"] for line in lines(tmp_path / "whole")]
    assert replay(folder) == f"identical: 30 steps, model {whole.model_sha256}"
    if kind == "trace":
        assert report(folder, None) == report(tmp_path / "whole", None).replace(str(tmp_path / "whole"), str(folder))
        assert all(file.exists() for file in plot([folder, tmp_path / "whole"], tmp_path / "plot.svg"))
        assert all(file.exists() for file in plot([folder], None))


def test_a_run_in_which_compressors_began_afresh_can_be_replayed(tmp_path):
    cut(tmp_path, 11)
    found = checkpoint.load(tmp_path / "checkpoint" / "step-00000011.npz")
    known = {worker: state for worker, state in found.states.items() if worker not in (1, 4)}
    checkpoint.save(tmp_path, checkpoint.Checkpoint(**{**vars(found), "states": known}), keep=2)
    go_on(tmp_path)
    assert [line["fresh"] for line in lines(tmp_path)] == [[]] * 11 + [[1, 4]] + [[]] * 18
    assert replay(tmp_path).startswith("identical: 30 steps")


def test_shares_of_a_simulated_master_are_of_all_parts(tmp_path):
    whole = run(tmp_path / "whole", "simulate.decode_seconds=0.01")
    cut(tmp_path / "cut", 11, "simulate.decode_seconds=0.01")
    resumed, _ = go_on(tmp_path / "cut")
    assert whole.master_share > 0.1
    assert resumed.master_share == pytest.approx(whole.master_share)


def test_a_timing_only_simulation_has_nothing_to_resume(tmp_path):
    simulate(StartingPoint(parse(CONFIG), tmp_path, timing_only=True), Interrupting())
    assert not (tmp_path / "checkpoint").exists()
    with pytest.raises(UsageError, match="timing-only simulation keeps no model"):
        resume(tmp_path, ("steps=60",))


def test_more_steps_are_the_longer_run(tmp_path):
    whole = run(tmp_path / "whole")
    for steps, times in ((13, 0), (14, 1), (30, 2)):
        last = run(tmp_path / "part", f"steps={steps}") if times == 0 else go_on(tmp_path / "part", f"steps={steps}")[0]
        assert last.resumed == times
    assert_same(last, whole)


def test_a_residual_that_is_not_restored_would_show(tmp_path):
    whole = run(tmp_path / "whole")
    cut(tmp_path / "cut", 11)
    path = tmp_path / "cut" / "checkpoint" / "step-00000011.npz"
    found = checkpoint.load(path)
    assert set(found.states) == set(np.flatnonzero(found.accepted >= 0).tolist())
    assert len(set(found.accepted.tolist())) > 1  # residuals of different steps
    checkpoint.save(tmp_path / "cut", checkpoint.Checkpoint(**{**vars(found), "states": {}}), keep=2)
    resumed, watcher = go_on(tmp_path / "cut")
    assert resumed.model_sha256 != whole.model_sha256
    assert any("lacks the compressor's state of worker 0, 1, 2, 3, 4, 5" in warning for warning in resumed.warnings)
    assert any("lacks the compressor's state" in line for line in watcher.lines)


def test_a_damaged_checkpoint_is_refused_by_name_and_the_one_before_it_is_used(tmp_path):
    whole = run(tmp_path / "whole")
    cut(tmp_path / "cut", 11)
    newest = tmp_path / "cut" / "checkpoint" / "step-00000011.npz"
    newest.write_bytes(newest.read_bytes()[:-50])
    resumed, watcher = go_on(tmp_path / "cut")
    assert watcher.done == 8
    assert any(line.startswith("refused: ") and str(newest) in line for line in watcher.lines)
    assert newest.with_suffix(".refused").exists()
    assert_same(resumed, whole)


def test_a_run_without_a_checkpoint_begins_again_but_not_one_whose_checkpoints_are_all_damaged(tmp_path):
    whole = run(tmp_path / "whole")
    cut(tmp_path / "cut", 3)
    only = tmp_path / "cut" / "checkpoint" / "step-00000003.npz"
    good = only.read_bytes()
    only.write_bytes(good[:100])
    before = (tmp_path / "cut" / "steps.jsonl").read_bytes()
    with pytest.raises(DataError, match=r"none of its checkpoints can be used.*step-00000003"):
        resume(tmp_path / "cut", ())
    assert (tmp_path / "cut" / "steps.jsonl").read_bytes() == before
    only.unlink()
    resumed, watcher = go_on(tmp_path / "cut")
    assert watcher.done == 0
    assert_same(resumed, whole)


def test_a_run_killed_after_its_last_step_only_lacks_its_summary(tmp_path):
    whole = run(tmp_path / "run")
    (tmp_path / "run" / "summary.json").unlink()
    resumed, _ = go_on(tmp_path / "run")
    assert_same(resumed, whole)


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        ((), "all its 12 steps are done; steps=24 would go on"),
        (("steps=5",), "all its 12 steps are done"),
        (("steps=20", "optimizer.lr=1.0"), "optimizer.lr: cannot change when a run is resumed"),
        (("steps=20", "seed=1"), "seed: cannot change"),
        (("steps=20", "run.kep=1"), "run.kep: unknown key"),
    ],
)
def test_what_can_not_be_resumed_is_refused_before_anything_changes(tmp_path, overrides, says):
    run(tmp_path, "steps=12")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(UsageError, match=says.replace("(", "\\(")):
        resume(tmp_path, overrides)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_checkpoint_of_another_code_or_model_is_refused(tmp_path):
    run(tmp_path, "steps=12")
    config = tmp_path / "config.toml"
    text = config.read_text()
    config.write_text(text.replace("stragglers = 1", "stragglers = 2"))
    with pytest.raises(UsageError, match="another code"):
        go_on(tmp_path, "steps=20")
    config.write_text(text.replace("features = 21", "features = 22"))
    with pytest.raises(UsageError, match="another model"):
        go_on(tmp_path, "steps=20")


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"transport": 3, "resumed": [1]}'])
def test_a_damaged_manifest_or_no_run_at_all_is_said(tmp_path, damage):
    with pytest.raises(UsageError, match="not a run folder"):
        resume(tmp_path, ())
    run(tmp_path, "steps=2")
    (tmp_path / "manifest.json").write_text(damage)
    with pytest.raises(UsageError, match=r"manifest\.json"):
        resume(tmp_path, ("steps=9",))


def test_a_run_that_is_still_going_is_not_resumed(tmp_path):
    cut(tmp_path, 5)
    start = resume(tmp_path, ())
    with pytest.raises(UsageError, match="a run is writing there now"):
        simulate_while_locked(start, tmp_path)
    assert len(lines(tmp_path)) == 5


def simulate_while_locked(start, folder):
    past = resume(folder, ()).past
    other = RunFolder.reopen(past, "", {}, lambda line: None, workers=6)
    (folder / "config.toml").write_text(past.config_toml)
    try:
        simulate(start, Interrupting())
    finally:
        other.close()


@pytest.mark.parametrize(("bytes_left", "step"), [(-30, 28), (0.5, 12)])
def test_a_shortened_record_is_gone_on_with_where_it_ends(tmp_path, bytes_left, step):
    whole = run(tmp_path / "whole", "run.keep=20")
    run(tmp_path / "cut", "run.keep=20")
    path = tmp_path / "cut" / "steps.jsonl"
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.truncate(size + bytes_left if bytes_left < 0 else int(bytes_left * size))
    resumed, watcher = go_on(tmp_path / "cut")
    assert watcher.done == step
    assert any("good lines" in line for line in watcher.lines)
    assert resumed.model_sha256 == whole.model_sha256
    assert [line["step"] for line in lines(tmp_path / "cut")] == list(range(30))
    assert max(kept(tmp_path / "cut")) == 30
    replay(tmp_path / "cut")


@pytest.mark.parametrize("damage", [b"\x93", b"{}", b'{"step": 20, "replies": [0, "", 3]}', b""])
def test_a_record_with_a_damaged_line_is_gone_on_with_before_it(tmp_path, damage):
    whole = run(tmp_path / "whole", "run.keep=20")
    run(tmp_path / "cut", "run.keep=20")
    path = tmp_path / "cut" / "steps.jsonl"
    before = path.read_bytes().splitlines()
    path.write_bytes(b"\n".join([*before[:20], damage, *before[21:], b""]))
    resumed, watcher = go_on(tmp_path / "cut")
    assert 0 < watcher.done <= 20
    assert resumed.model_sha256 == whole.model_sha256
    replay(tmp_path / "cut")


def test_a_folder_where_the_record_should_be_is_refused(tmp_path):
    run(tmp_path / "run")
    (tmp_path / "run" / "steps.jsonl").unlink()
    (tmp_path / "run" / "steps.jsonl").mkdir()
    with pytest.raises(UsageError, match=r"steps\.jsonl: a folder"):
        resume(tmp_path / "run", ())


def test_a_record_that_no_checkpoint_goes_with_is_refused_by_its_name(tmp_path):
    run(tmp_path / "run")
    (tmp_path / "run" / "steps.jsonl").write_text("")
    with pytest.raises(DataError, match=r"steps\.jsonl, which has 0 good lines"):
        resume(tmp_path / "run", ())


def test_interrupted_while_the_final_states_are_collected_a_run_has_recorded_all_that_it_did(tmp_path, monkeypatch):
    whole = run(tmp_path / "whole", "steps=33")
    collect, asked = Master.collect_states, []

    def interrupted_once(master):
        asked.append(master.steps_done)
        if len(asked) == 1:
            raise Interrupted("interrupted")
        return collect(master)

    monkeypatch.setattr(Master, "collect_states", interrupted_once)
    with pytest.raises(Interrupted):
        run(tmp_path / "cut")
    assert asked == [30, 30]
    assert [line["step"] for line in lines(tmp_path / "cut")] == list(range(30))
    assert max(kept(tmp_path / "cut")) == 30
    assert_same(go_on(tmp_path / "cut", "steps=33")[0], whole)
