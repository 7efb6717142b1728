"""A loop that is left on purpose is a success with a summary; one that an exception leaves is not, and says how to go on."""

from __future__ import annotations

import json
import logging

import numpy as np
import pytest
from torch import nn
from torch.nn.functional import mse_loss

import gcdl
from gcdl.training.display import Display

RNG = np.random.default_rng(0)
X = RNG.standard_normal((40, 5))
Y = (X @ np.arange(5.0)).reshape(-1, 1)
PROBLEM = gcdl.TorchProblem(lambda: nn.Linear(5, 1), mse_loss, (X, Y), test=(X, Y), batch_size=4)


@pytest.fixture
def trainer(tmp_path):
    return gcdl.Trainer(PROBLEM, workers=3, optimizer={"lr": 0.05}, run={"eval_every": 2}, out=tmp_path / "run")


def by_break(trainer, steps=50):
    for record in trainer.fit(steps):
        if record.step == 3:
            break


def by_return(trainer, steps=50):
    for record in trainer.fit(steps):
        if record.step == 3:
            return record
    return None


def by_break_in_a_handler(trainer, steps=50):
    for record in trainer.fit(steps):
        try:
            if record.step == 3:
                raise KeyError
        except KeyError:
            break


def wrapped(steps):
    for record in steps:  # noqa: UP028 - as tqdm does
        yield record


def by_break_around_a_generator(trainer, steps=50):
    for record in wrapped(trainer.fit(steps)):
        if record.step == 3:
            break


def by_break_of_an_enumeration(trainer, steps=50):
    for number, _ in enumerate(trainer.fit(steps)):
        if number == 3:
            break


def by_closing(trainer, steps=50):
    records = trainer.fit(steps)
    for record in records:
        if record.step == 3:
            records.close()
            return


WAYS = [
    by_break, by_return, by_break_in_a_handler, by_break_around_a_generator, by_break_of_an_enumeration, by_closing,
]  # fmt: skip


@pytest.mark.parametrize("leave", WAYS, ids=lambda way: way.__name__)
def test_a_loop_that_is_left_on_purpose_is_a_success(trainer, caplog, leave):
    leave(trainer)
    assert trainer.summary.stopped == "by the loop"
    assert trainer.summary.steps == 4
    assert trainer.summary.final_test_loss is not None
    saved = json.loads((trainer.out / "summary.json").read_text())
    assert saved["stopped"] == "by the loop"
    assert (trainer.out / "model.pt").exists()
    assert (trainer.out / "checkpoint" / "step-00000004.npz").exists()
    assert not [line for line in caplog.messages if "goes on" in line]


def by_an_exception(trainer, steps=50):
    for record in trainer.fit(steps):
        if record.step == 3:
            raise KeyError


def by_an_operation(trainer, steps=50):
    for record in trainer.fit(steps):
        _ = 1 / (3 - record.step)


def by_a_call(trainer, steps=50):
    for record in trainer.fit(steps):
        np.zeros(3)[record.step]


def by_raising_anew(trainer, steps=50):
    for record in trainer.fit(steps):
        try:
            _ = 1 / (3 - record.step)
        except ZeroDivisionError as error:
            raise ValueError from error


def by_raising_on(trainer, steps=50):
    for record in trainer.fit(steps):
        try:
            _ = 1 / (3 - record.step)
        except ZeroDivisionError:
            raise


def by_an_exception_around_a_generator(trainer, steps=50):
    for record in wrapped(trainer.fit(steps)):
        _ = 1 / (3 - record.step)


FAILURES = [
    by_an_exception, by_an_operation, by_a_call, by_raising_anew, by_raising_on, by_an_exception_around_a_generator,
]  # fmt: skip


@pytest.mark.parametrize("fail", FAILURES, ids=lambda way: way.__name__)
def test_a_loop_that_an_exception_leaves_is_no_success_and_says_how_a_script_goes_on(trainer, caplog, fail):
    with pytest.raises((KeyError, ZeroDivisionError, IndexError, ValueError)):
        fail(trainer)
    assert trainer.summary is None
    assert not (trainer.out / "summary.json").exists()
    assert (trainer.out / "checkpoint" / "step-00000004.npz").exists()
    (hint,) = [line for line in caplog.messages if "checkpoint after 4 steps" in line]
    assert "fit(..., resume=True)" in hint
    assert "gcdl resume" not in hint


def test_a_run_that_was_stopped_on_purpose_can_be_gone_on_with(trainer, tmp_path):
    whole = gcdl.Trainer(PROBLEM, workers=3, optimizer={"lr": 0.05}, run={"eval_every": 2}, out=tmp_path / "whole")
    whole.run(10)
    by_break(trainer, 10)
    assert [record.step for record in trainer.fit(10, resume=True)] == list(range(4, 10))
    assert trainer.summary.model_sha256 == whole.summary.model_sha256
    assert trainer.summary.stopped is None


def test_a_break_at_the_last_step_is_a_run_that_was_not_stopped(trainer):
    for record in trainer.fit(4):
        if record.step == 3:
            break
    assert trainer.summary.steps == 4
    assert trainer.summary.stopped is None


def test_the_report_says_that_a_run_was_stopped(trainer, capsys):
    from rich.console import Console

    by_break(trainer)
    Display(Console(width=120), "run").report(trainer.summary.fields(), trainer.out)
    rows = [line for line in capsys.readouterr().out.splitlines() if "stopped" in line]
    assert "by the loop" in rows[0]
    assert "after 4 steps" in rows[0]


def test_the_hint_for_a_run_that_tables_describe_is_the_command(tmp_path, caplog):
    caplog.set_level(logging.WARNING, logger="gcdl")
    trainer = gcdl.Trainer({"kind": "linear_regression", "features": 4}, workers=2, out=tmp_path / "run")
    with pytest.raises(KeyError):
        by_an_exception(trainer, 9)
    assert any(f"gcdl resume {tmp_path / 'run'} goes on" in line for line in caplog.messages)


# --- callbacks


class Heard(gcdl.Callback):
    def __init__(self, stop_at=None):
        self.events, self.stop_at = [], stop_at

    def begin(self, config, folder, done):
        self.events.append(("begin", config.steps, folder.name, done))

    def step(self, record):
        record.metrics["heard"] = 1.0
        self.events.append(("step", record.step))

    def evaluate(self, record):
        assert record.test_loss is not None
        self.events.append(("evaluate", record.step))
        return record.step == self.stop_at

    def checkpoint(self, step, path):
        assert path.exists()
        self.events.append(("checkpoint", step))

    def end(self, summary):
        self.events.append(("end", summary.steps))


def test_callbacks_hear_of_all_that_happens_in_its_order(tmp_path):
    heard = Heard()
    options = {"eval_every": 2, "checkpoint_every": 3}
    trainer = gcdl.Trainer(PROBLEM, workers=3, out=tmp_path / "run", run=options, callbacks=[heard])
    trainer.run(4)
    assert heard.events == [
        ("begin", 4, "run", 0), ("step", 0), ("evaluate", 1), ("step", 1), ("checkpoint", 3), ("step", 2), ("evaluate", 3),
        ("step", 3), ("checkpoint", 4), ("end", 4),
    ]  # fmt: skip
    lines = [json.loads(line) for line in (tmp_path / "run" / "steps.jsonl").read_text().splitlines()]
    assert all(line["metrics"] == {"heard": 1.0} for line in lines)
    trainer.run(6, resume=True)
    assert heard.events[10] == ("begin", 6, "run", 4)


def test_a_callback_may_stop_a_run(tmp_path):
    heard = Heard(stop_at=3)
    trainer = gcdl.Trainer(PROBLEM, workers=3, out=tmp_path / "run", run={"eval_every": 2}, callbacks=[heard])
    assert [record.step for record in trainer.fit(50)] == [0, 1, 2, 3]
    assert trainer.summary.stopped == "by a callback"
    assert heard.events[-1] == ("end", 4)


def test_what_a_callback_raises_ends_the_run(tmp_path):
    class Wrong(gcdl.Callback):
        def step(self, record):
            raise ZeroDivisionError("mine")

    trainer = gcdl.Trainer(PROBLEM, workers=3, out=tmp_path / "run", callbacks=[Wrong()])
    with pytest.raises(ZeroDivisionError, match="mine"):
        trainer.run(3)
    assert not (tmp_path / "run" / "summary.json").exists()


# --- the trainer, day by day


def test_a_second_run_has_a_folder_of_its_own_beside_the_first(trainer, tmp_path):
    trainer.run(3)
    trainer.run(3)
    assert trainer.out == tmp_path / "run-2"
    trainer.run(5, resume=True)
    assert trainer.out == tmp_path / "run-2"
    assert trainer.summary.steps == 5
    trainer.run(2)
    assert trainer.out == tmp_path / "run-3"
    again = gcdl.Trainer(PROBLEM, workers=3, out=tmp_path / "run")
    with pytest.raises(gcdl.UsageError, match="there is a run already"):
        again.run(3)


def test_a_trainer_evaluates_and_predicts_with_the_model_as_it_is(trainer):
    before = trainer.evaluate()
    assert before.train_loss is None
    trainer.run(40)
    after = trainer.evaluate(train=True)
    assert after.test_loss == pytest.approx(trainer.summary.final_test_loss)
    assert after.train_loss == pytest.approx(trainer.summary.final_train_loss)
    assert after.test_loss < before.test_loss
    outputs = trainer.predict(X)
    assert outputs.shape == (40, 1)
    assert not outputs.requires_grad
    assert np.mean((outputs.numpy() - Y) ** 2) == pytest.approx(after.test_loss, rel=1e-5)
    np.testing.assert_array_equal(outputs.numpy(), trainer.predict([(x, 0.0) for x in X.astype(np.float32)]).numpy())
    np.testing.assert_array_equal(outputs.numpy(), trainer.predict({"input": X}).numpy())
    with pytest.raises(gcdl.ParameterError, match="columns of 40, 3 samples"):
        trainer.predict((X, X[:3]))
    tables = gcdl.Trainer({"kind": "linear_regression"}, workers=3)
    for ask in (tables.evaluate, lambda: tables.predict(X), lambda: tables.model):
        with pytest.raises(gcdl.UsageError, match=r"only for a gcdl\.TorchProblem"):
            ask()


def test_the_records_have_the_learning_rate_of_their_step(tmp_path):
    schedule = {"kind": "step", "every": 2, "decay": 0.1}
    trainer = gcdl.Trainer(PROBLEM, workers=3, optimizer={"lr": 0.5, "schedule": schedule}, out=tmp_path / "run")
    rates = [record.lr for record in trainer.fit(5)]
    assert rates == pytest.approx([0.5, 0.5, 0.05, 0.05, 0.005])
    lines = [json.loads(line) for line in (tmp_path / "run" / "steps.jsonl").read_text().splitlines()]
    assert [line["lr"] for line in lines] == rates


def test_what_a_script_prints_of_its_objects_is_three_lines(trainer):
    seen = [trainer, PROBLEM, trainer.config]
    assert "no run yet" in repr(trainer)
    seen += list(trainer.fit(3))
    assert "run: 3 steps, training loss" in repr(trainer)
    for one in [*seen, trainer]:
        assert len(repr(one).splitlines()) == 3, repr(one)
        assert max(map(len, repr(one).splitlines())) < 200
    assert "40 samples; test: 40 samples" in repr(PROBLEM)
