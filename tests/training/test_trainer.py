"""A script alone: objects, tables and functions make the same run as the config; its folder is one like all others."""

import json
import sys

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, mse_loss

import gcdl
from gcdl.analysis.plots import plot
from gcdl.analysis.replay import replay
from gcdl.codes import CODES
from gcdl.compressors import COMPRESSORS
from gcdl.config import parse
from gcdl.errors import ConfigError, NonFiniteLoss, UsageError
from gcdl.protocol.wait_rules import FirstReplies
from gcdl.stragglers import STRAGGLERS

RNG = np.random.default_rng(0)
X = RNG.standard_normal((40, 5))
Y = (X @ np.arange(5.0)).reshape(-1, 1)


def linear():
    return nn.Linear(5, 1)


PROBLEM = gcdl.TorchProblem(linear, mse_loss, (X, Y), test=(X, Y), batch_size=4)


def losses(records):
    return [record.train_loss for record in records]


def test_objects_functions_and_tables_are_the_same_run(tmp_path):
    tables = gcdl.Trainer(
        PROBLEM,
        workers=4,
        code={"kind": "fractional_repetition", "stragglers": 1},
        compressor={"kind": "stochastic_sign", "scale": "rms"},
        stragglers={"kind": "bernoulli", "p": 0.3, "seconds": 0.5},
        wait={"kind": "first_replies", "count": 3},
        optimizer={"kind": "sgd", "lr": 0.02, "momentum": 0.5},
        out=tmp_path / "tables",
    )
    objects = gcdl.Trainer(
        PROBLEM,
        workers=4,
        code=CODES["fractional_repetition"](4, 4, stragglers=1),
        compressor=COMPRESSORS["stochastic_sign"](scale="rms"),
        stragglers=STRAGGLERS["bernoulli"](p=0.3, seconds=0.5),
        wait=lambda code: FirstReplies(code, count=3),
        optimizer=lambda p: torch.optim.SGD(p, lr=0.02, momentum=0.5),
        out=tmp_path / "objects",
    )
    first, second = losses(tables.fit(12)), losses(objects.fit(12))
    assert first == second
    assert tables.summary.model_sha256 == objects.summary.model_sha256
    assert plot([tmp_path / "objects"], tmp_path / "plot.svg") == [tmp_path / "plot.svg"]
    with pytest.raises(ConfigError, match="made by a script"):
        replay(tmp_path / "objects")


def test_a_finished_run_leaves_its_model_for_torch_alone(tmp_path):
    trainer = gcdl.Trainer(PROBLEM, workers=3, out=tmp_path / "run", optimizer={"lr": 0.05}, run={"eval_every": 5})
    records = list(trainer.fit(30))
    fresh = nn.Linear(5, 1)
    fresh.load_state_dict(torch.load(tmp_path / "run" / "model.pt"))
    loss = mse_loss(fresh(torch.from_numpy(X).float()), torch.from_numpy(Y).float()).item()
    assert loss == pytest.approx(trainer.summary.final_test_loss, rel=1e-5)
    assert loss < 0.1 * records[0].train_loss
    assert torch.equal(trainer.model.weight, fresh.weight)
    assert [r.step for r in records if r.test_loss is not None] == [4, 9, 14, 19, 24, 29]


def test_a_run_is_left_and_gone_on_with_to_the_bit(tmp_path):
    def trainer(name):
        return gcdl.Trainer(
            PROBLEM, workers=4, code="fractional_repetition" and {"kind": "fractional_repetition", "stragglers": 1},
            compressor={"kind": "scaled_sign", "error_feedback": True},
            optimizer={"kind": "adamw", "clip_norm": 1.0, "schedule": {"kind": "cosine", "warmup": 3}},
            out=tmp_path / name, seed=2,
        )  # fmt: skip

    whole = trainer("whole")
    whole.run(20)
    part = trainer("part")
    for record in part.fit(20):
        record.metrics["seen"] = float(record.step)
        if record.step == 7:
            break
    assert (part.summary.steps, part.summary.stopped) == (8, "by the loop")
    assert json.loads((tmp_path / "part" / "summary.json").read_text())["stopped"] == "by the loop"
    assert (tmp_path / "part" / "model.pt").exists()
    rest = trainer("part")
    assert [record.step for record in rest.fit(20, resume=True)] == list(range(8, 20))
    assert rest.summary.model_sha256 == whole.summary.model_sha256
    assert rest.summary.stopped is None
    lines = [json.loads(line) for line in (tmp_path / "part" / "steps.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(20))
    assert lines[7]["metrics"] == {"seen": 7.0}
    other = gcdl.Trainer(PROBLEM, workers=4, out=tmp_path / "part", seed=3)
    with pytest.raises(UsageError, match="cannot be resumed: its"):
        list(other.fit(30, resume=True))


def test_a_schedule_spans_the_run_and_is_stated(tmp_path):
    trainer = gcdl.Trainer(PROBLEM, workers=2, optimizer={"lr": 0.1, "schedule": {"kind": "linear"}}, out=tmp_path / "run")
    trainer.run(5)
    assert parse((tmp_path / "run" / "config.toml").read_text()).choices["optimizer"].values["schedule"].values["steps"] == 5


def test_a_loss_that_is_no_number_stops_the_run_and_keeps_the_last_good_checkpoint(tmp_path):
    class Exploding(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.calls = nn.Linear(5, 1), 0

        def forward(self, x):
            self.calls += 1
            return self.layer(x) + (float("inf") if self.calls > 20 else 0.0)

    problem = gcdl.TorchProblem(Exploding, lambda o, t: torch.nan_to_num(mse_loss(o, t), nan=1.0), (X, Y))
    trainer = gcdl.Trainer(problem, workers=2, out=tmp_path / "run", run={"checkpoint_every": 4})
    with pytest.raises(gcdl.GcdlError, match=r"step \d+") as caught:
        trainer.run(30)
    assert caught.value.exit_code == 4
    assert (tmp_path / "run" / "checkpoint" / "step-00000008.npz").exists()
    assert not (tmp_path / "run" / "summary.json").exists()

    infinite = gcdl.TorchProblem(linear, lambda o, t: mse_loss(o, t) + float("inf") * (o.mean().detach() > -1e9), (X, Y))
    with pytest.raises(NonFiniteLoss, match=r"step 0: .*no checkpoint yet"):
        gcdl.Trainer(infinite, workers=2, out=tmp_path / "infinite").run(3)
    assert len((tmp_path / "infinite" / "steps.jsonl").read_text().splitlines()) == 1


def test_a_function_makes_a_fresh_model_for_each_run_and_a_module_goes_on(tmp_path):
    module = linear()
    for model, same in ((linear, True), (module, False)):
        problem = gcdl.TorchProblem(model, mse_loss, (X, Y), batch_size=0)
        trainer = gcdl.Trainer(problem, workers=2, out=None)
        first, second = (losses(_in(tmp_path, trainer).fit(5)) for _ in range(2))
        assert (first == second) == same
        assert same or second[0] < first[-1]


def _in(path, trainer):
    trainer.out, trainer._named = path / str(len(list(path.iterdir()))), True
    return trainer


def test_a_config_is_trained_by_name_of_its_factory(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(
        "import gcdl, torch, numpy as np\n"
        "def problem(k, width=3):\n"
        "    x = np.random.default_rng(0).standard_normal((40, width))\n"
        "    return gcdl.TorchProblem(lambda: torch.nn.Linear(width, 1), torch.nn.functional.mse_loss, (x, x[:, :1]))\n"
        "def broken():\n"
        "    raise RuntimeError('not today')\n"
        "number = 7\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    text = 'workers = 2\nsteps = 4\n[problem]\nkind = "custom"\nfactory = "mine:problem"\noptions = {width = 4}\n'
    trainer = gcdl.Trainer.of(parse(text), out="run")
    assert trainer.run().parameters == 5
    assert "identical: 4 steps" in replay(tmp_path / "run")
    for factory, says in {
        "mine:broken": "mine:broken raised RuntimeError: not today .*mine.py, line 6",
        "mine:absent": "mine has no 'absent'",
        "nowhere.at:all": "there is no module 'nowhere'",
        "mine:number": "number is a int",
        "mine": "must look like package.module:function",
        "mine:problem": "unexpected keyword argument.*it takes width",
    }.items():
        options = "{height = 4}" if factory == "mine:problem" else "{}"
        config = parse(f'workers = 2\n[problem]\nkind = "custom"\nfactory = "{factory}"\noptions = {options}\n')
        with pytest.raises(ConfigError, match=f"problem.(factory|options): .*{says}"):
            gcdl.Experiment.of(config, 2)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"code": {"kind": "sgd"}}, r"^code.kind: unknown kind 'sgd'; did you mean 'sgc'"),
        ({"code": 3}, "^code: a int"),
        ({"workers": 0}, "^workers: 0"),
        ({"seed": 0.5}, "^seed: 0.5"),
        ({"run": {"eval_evry": 3}}, "^run.eval_evry: unknown key"),
        ({"code": CODES["uncoded"](3, 3)}, "3 x 3; there are 2 workers"),
        ({"optimizer": {"schedule": {"kind": "cosin"}}}, "^optimizer.schedule.kind: unknown kind 'cosin'"),
        ({"optimizer": {"schedule": {"kind": "step"}}}, "^optimizer.schedule.every: missing"),
        ({"optimizer": {"clip_norm": -1.0}}, "^optimizer.clip_norm: -1.0"),
    ],
)
def test_wrong_arguments_are_named(tmp_path, arguments, says):
    def run():
        gcdl.Trainer(PROBLEM, **{"workers": 2, "out": tmp_path / "run", **arguments}).run(2)

    with pytest.raises(ConfigError, match=says):
        run()
    assert not (tmp_path / "run").exists()


def test_batchnorm_is_refused_by_the_layers_name(tmp_path):
    problem = gcdl.TorchProblem(lambda: nn.Sequential(nn.Linear(5, 2), nn.BatchNorm1d(2)), cross_entropy, (X, Y[:, 0] > 0))
    with pytest.raises(ConfigError, match=r"layer '1' \(BatchNorm1d\)"):
        gcdl.Trainer(problem, workers=2, out=tmp_path / "run").run(2)


def test_a_loss_that_is_a_sum_is_warned_of_in_the_summary(tmp_path):
    problem = gcdl.TorchProblem(linear, nn.MSELoss(reduction="sum"), (X, Y), batch_size=4)
    trainer = gcdl.Trainer(problem, workers=2, optimizer={"lr": 1e-4}, out=tmp_path / "run")
    trainer.run(2)
    assert any("it is a sum over the samples" in warning for warning in trainer.summary.warnings)
