"""A run folder with a damaged summary: the commands that read it name the file, and what to do helps."""

from __future__ import annotations

import json

import pytest

from gcdl.config import parse
from gcdl.training.roles.simulation import simulate
from gcdl.training.starting_point import StartingPoint
from gcdl.training.watcher import Watcher

DAMAGES = {
    "cut": lambda text: text[:-30],
    "empty": lambda text: "",
    "no summary": lambda text: "[1, 2]",
    "without its model": lambda text: text.replace('"model_sha256"', '"model"'),
    "bytes": lambda text: "\x00\xff" * 10,
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):

    folder = tmp_path_factory.mktemp("damaged") / "run"
    text = 'workers = 2\nsteps = 3\n[problem]\nkind = "linear_regression"\nfeatures = 3\n[code]\nkind = "uncoded"\n'
    simulate(StartingPoint(parse(text), folder), Watcher())
    return folder


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("verb", ["replay", "plot", "trace"])
def test_the_damaged_file_is_named(run, command_line, damage, verb):
    summary = run / "summary.json"
    whole = summary.read_text()
    try:
        summary.write_bytes(DAMAGES[damage](whole).encode("latin-1"))
        assert f"gcdl: {summary}: damaged: " in command_line(verb, str(run)).message
    finally:
        summary.write_text(whole)


def test_what_the_message_says_to_do_helps(run, command_line):
    summary = run / "summary.json"
    before = json.loads(summary.read_text())["model_sha256"]
    summary.unlink()
    assert command_line("resume", str(run)).returncode == 0
    assert json.loads(summary.read_text())["model_sha256"] == before
    assert "identical: 3 steps" in command_line("replay", str(run)).stdout
