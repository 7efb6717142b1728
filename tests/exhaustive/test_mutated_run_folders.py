"""Run folders with a file cut, altered, swapped or gone: every command on them works, or is refused in one plain line."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

import pytest

from gcdl.config import parse
from gcdl.training.roles import simulate
from gcdl.training.starting_point import StartingPoint
from gcdl.training.watcher import Watcher

pytestmark = [pytest.mark.exhaustive, pytest.mark.timeout(60)]

SHARE = 200
CONFIG = """
workers = 4
steps = 9
[problem]
kind = "linear_regression"
features = 5
samples = 6
[code]
kind = "fractional_repetition"
stragglers = 1
[compressor]
kind = "scaled_sign"
error_feedback = true
[stragglers]
kind = "bernoulli"
p = 0.3
seconds = 1.0
[optimizer]
kind = "adam"
[run]
eval_every = 2
checkpoint_every = 3
"""
COMMANDS = (["resume"], ["resume"], ["replay"], ["trace"], ["plot", "--out", "figure.svg"], ["plot", "--html"])


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "run"
    simulate(StartingPoint(parse(CONFIG), folder), Watcher())
    return folder


def interrupt(folder: Path) -> None:
    """Leave of a finished run what one leaves that was killed in step 7: its checkpoints are of steps 3 and 6."""
    steps = folder / "steps.jsonl"
    steps.write_bytes(b"".join(steps.read_bytes().splitlines(keepends=True)[:7]))
    for name in ("summary.json", "timeline.json", "model.pt", "checkpoint/step-00000009.npz"):
        (folder / name).unlink()


def mutate(folder: Path, draws: random.Random, mutations: Any) -> None:
    """Do one thing to one file."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    path = draws.choice(files)
    match draws.randrange(5):
        case 0:
            path.unlink()
            if draws.random() < 0.3:
                path.mkdir()
        case 1:
            shutil.copyfile(draws.choice([file for file in files if file != path]), path)
        case 2 if path.suffix in (".json", ".jsonl"):
            lines = path.read_text().splitlines(keepends=True) if path.suffix == ".jsonl" else [path.read_text()]
            at = draws.randrange(len(lines))
            lines[at] = json.dumps(mutations("altered")(json.loads(lines[at]), draws)) + "\n"
            path.write_text("".join(lines))
        case _:
            path.write_bytes(mutations("damaged")(path.read_bytes(), draws))


def test_every_command_copes_with_a_mutated_run_folder(
    finished, draws, mutations, verdict, command_line, tmp_path, monkeypatch
):
    # A manifest may come to say that the run was one over MPI: that it is to be started is as far as it goes here.
    monkeypatch.setattr("gcdl.cli.run.launch", lambda *_: 3)
    folder = shutil.copytree(finished, tmp_path / "run")
    if draws.random() < 0.5:
        interrupt(folder)
    mutate(folder, draws, mutations)
    words = draws.choice(COMMANDS)
    more = ["steps=12"] if words == ["resume"] and draws.random() < 0.7 else []
    done = command_line(words[0], str(folder), *words[1:], *more, cwd=tmp_path)
    if words == ["resume"] and done.returncode == 3 and not done.stderr:
        return
    verdict(done)
    if words == ["resume"] and done.returncode == 0:
        # What was gone on with is a run like any other.
        steps = [json.loads(line)["step"] for line in (folder / "steps.jsonl").read_text().splitlines()]
        assert steps == list(range(len(steps)))
        drawn = command_line("plot", str(folder), "--out", "after.svg", cwd=tmp_path)
        assert drawn.returncode == 0, drawn.stderr
        verdict(command_line("replay", str(folder), cwd=tmp_path))
