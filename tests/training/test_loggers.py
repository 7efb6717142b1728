"""Loggers get what the run folder has, against the real tools; one that fails does not end a run."""

from __future__ import annotations

import csv
import json
import logging
import sys
import time
from contextlib import suppress

import pytest

import gcdl
from gcdl.errors import UsageError
from gcdl.training.loggers.base import figures_of

PROBLEM = {"kind": "linear_regression", "features": 6, "samples": 8}


def run(folder, logger, steps=5, *, resume=False, **more):
    options = {"run": {"eval_every": 2}, "optimizer": {"lr": 0.05}, **more}
    trainer = gcdl.Trainer(PROBLEM, workers=3, out=folder, loggers=[logger], **options)
    for record in trainer.fit(steps, resume=resume):
        record.metrics["mine"] = 2.0 * record.step
    return trainer


def fail_at(step, trainer):
    with suppress(ZeroDivisionError):
        for record in trainer.fit(9):
            record.metrics["mine"] = 2.0 * record.step
            _ = 1 / (step - record.step)


def lines(folder):
    return [json.loads(line) for line in (folder / "steps.jsonl").read_text().splitlines()]


class Kept:
    """A logger of the user's own."""

    def __init__(self):
        self.config, self.steps, self.summaries = None, {}, []

    def begin(self, config, folder):
        self.config, self.folder = config, folder

    def log(self, step, figures):
        self.steps[step] = dict(figures)

    def end(self, summary):
        self.summaries.append(summary)


def test_a_logger_gets_the_config_each_steps_figures_and_the_summary(tmp_path):
    kept = Kept()
    trainer = run(tmp_path / "run", kept)
    assert kept.folder == tmp_path / "run"
    assert kept.config["optimizer"]["lr"] == 0.05
    assert kept.config["workers"] == 3
    assert kept.steps == {line["step"]: figures_of(line) for line in lines(tmp_path / "run")}
    assert kept.steps[3]["metrics/mine"] == 6.0
    assert kept.steps[3]["step/learning rate"] == 0.05
    assert "loss/test" in kept.steps[3]
    assert "loss/test" not in kept.steps[2]
    assert kept.summaries == [trainer.summary.fields()]


def test_a_run_that_ends_early_has_no_summary_to_log(tmp_path):
    kept = Kept()
    fail_at(2, gcdl.Trainer(PROBLEM, workers=3, out=tmp_path / "run", loggers=[kept]))
    assert sorted(kept.steps) == [0, 1, 2]
    assert kept.summaries == [None]


def test_a_logger_that_fails_is_said_and_does_not_end_the_run(tmp_path, caplog):
    class Failing(Kept):
        def log(self, step, figures):
            super().log(step, figures)
            if step == 1:
                raise ConnectionError("no route")

    failing = Failing()
    caplog.set_level(logging.WARNING, logger="gcdl")
    assert run(tmp_path / "run", failing).summary.steps == 5
    assert sorted(failing.steps) == [0, 1]
    assert caplog.messages.count("Failing takes no more figures: ConnectionError: no route") == 1


# --- CSV


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_csv_has_a_line_a_step_and_goes_on_where_a_run_does(tmp_path):
    options = {"workers": 3, "out": tmp_path / "run", "run": {"eval_every": 2, "checkpoint_every": 3}}
    fail_at(4, gcdl.Trainer(PROBLEM, **options, loggers=[gcdl.loggers.CSV()]))
    assert [row["step"] for row in rows(tmp_path / "run" / "metrics.csv")] == ["0", "1", "2", "3", "4"]
    trainer = gcdl.Trainer(PROBLEM, **options, loggers=[gcdl.loggers.CSV()])
    for record in trainer.fit(8, resume=True):
        record.metrics["late one"] = 1.0
    found = rows(tmp_path / "run" / "metrics.csv")
    assert [int(row["step"]) for row in found] == list(range(8))
    for row, line in zip(found, lines(tmp_path / "run"), strict=True):
        figures = figures_of(line)
        assert {name: float(value) for name, value in row.items() if value and name != "step"} == figures


def test_csv_writes_where_it_is_told(tmp_path):
    run(tmp_path / "run", gcdl.loggers.CSV(tmp_path / "mine.csv"))
    assert len(rows(tmp_path / "mine.csv")) == 5


def test_csv_replaces_steps_that_are_done_again(tmp_path):
    logger = gcdl.loggers.CSV()
    logger.begin({}, tmp_path)
    for step in range(4):
        logger.log(step, {"a": 1.0})
    again = gcdl.loggers.CSV()
    again.begin({}, tmp_path)
    again.log(2, {"a": 2.0})
    again.log(3, {"a": 3.0, "b": 4.0})
    assert [(row["step"], row["a"], row["b"]) for row in rows(tmp_path / "metrics.csv")] == [
        ("0", "1.0", ""), ("1", "1.0", ""), ("2", "2.0", ""), ("3", "3.0", "4.0")
    ]  # fmt: skip


# --- the tools


def test_tensorboard_reads_what_was_logged(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run(tmp_path / "run", gcdl.loggers.TensorBoard())
    found = EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    assert [event.step for event in found.Tensors("loss/train")] == list(range(5))
    assert "metrics/mine" in found.Tags()["tensors"]
    assert "step/learning rate" in found.Tags()["tensors"]


@pytest.mark.filterwarnings("default")
@pytest.mark.slow
def test_weights_and_biases_offline(tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_SILENT", "true")
    for name in ("WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "wandb-home"))
    (tmp_path / "wandb-home").mkdir()
    logger = gcdl.loggers.WandB("tests", mode="offline")
    trainer = run(tmp_path / "run", logger)
    assert wandb.run is None
    (offline,) = (tmp_path / "run" / "wandb").glob("offline-run-*")
    (log,) = offline.glob("*.wandb")
    last = lines(tmp_path / "run")[-1]
    wanted = ("loss/train", "metrics/mine", repr(last["train_loss"])[:12], trainer.summary.model_sha256)
    until = time.monotonic() + 30.0  # another process writes the file
    while not all(text.encode() in log.read_bytes() for text in wanted):
        assert time.monotonic() < until, [text for text in wanted if text.encode() not in log.read_bytes()]
        time.sleep(0.1)
    assert logger._run.config["optimizer"]["lr"] == 0.05


@pytest.mark.filterwarnings("default")
@pytest.mark.slow
def test_mlflow_in_a_folder(tmp_path, monkeypatch):
    pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    from mlflow.tracking import MlflowClient

    uri = (tmp_path / "mlruns").as_uri()
    trainer = run(tmp_path / "run", gcdl.loggers.MLflow(uri, experiment="tests"))
    client = MlflowClient(uri)
    (found,) = client.search_runs([client.get_experiment_by_name("tests").experiment_id])
    assert found.info.status == "FINISHED"
    assert found.info.run_name == "run"
    assert found.data.params["optimizer.lr"] == "0.05"
    history = client.get_metric_history(found.info.run_id, "loss/train")
    assert [metric.value for metric in history] == [line["train_loss"] for line in lines(tmp_path / "run")]
    assert found.data.metrics["summary/final_train_loss"] == pytest.approx(trainer.summary.final_train_loss)


@pytest.mark.parametrize(("logger", "module"), [("WandB", "wandb"), ("MLflow", "mlflow"), ("TensorBoard", "tensorboard")])
def test_a_tool_that_is_not_installed_is_named_with_its_extra(tmp_path, monkeypatch, logger, module):
    for name in (module, f"{module}.entities", f"{module}.summary", f"{module}.tracking"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UsageError, match=rf"need.? the extra: pip install .*\[{module}\]"):
        run(tmp_path / "run", getattr(gcdl.loggers, logger)())
