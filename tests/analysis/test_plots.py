"""Figures are drawn from the run folder alone; what they say is what was recorded."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from gcdl.config import parse
from gcdl.errors import DataError, UsageError
from gcdl.training.roles import simulate
from gcdl.training.starting_point import StartingPoint

pytest.importorskip("matplotlib")

from gcdl.analysis.plots import plot
from gcdl.training.watcher import Watcher

RUN = """
workers = 6
steps = 45
[problem]
kind = "linear_regression"
features = 5
samples = 4
[code]
kind = "fractional_repetition"
[stragglers]
kind = "bursts"
p = 0.2
seconds = 0.3
[run]
eval_every = 10
"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two methods with the same seed, one with another seed, and one in which only the clock ran."""
    root = tmp_path_factory.mktemp("runs")
    cases = {
        "one": [], "other": ["compressor.kind=sign", "wait.count=6", "steps=30"], "reseeded": ["seed=1"],
    }  # fmt: skip
    for name, overrides in cases.items():
        simulate(StartingPoint(parse(RUN, overrides), root / name), Watcher())
    simulate(StartingPoint(parse(RUN), root / "clock", timing_only=True), Watcher())
    return root


def text(path: Path) -> str:
    """All that is written in an SVG."""
    return " ".join(part.strip() for part in ET.parse(path).getroot().itertext() if part.strip())


def test_one_run_is_drawn_into_its_folder(runs):
    files = plot([runs / "one"], None)
    assert files == [runs / "one" / "plot.png", runs / "one" / "plot.svg"]
    assert files[0].read_bytes().startswith(b"\x89PNG")
    lines = [json.loads(line) for line in (runs / "one" / "steps.jsonl").read_text().splitlines()]
    used = sum(len(line["replies"]) for line in lines) / (6 * 45)
    shown = text(files[1])
    for words in ("one: fractional_repetition, identity, first_replies, bursts; 6 workers, 45 steps", f"used ({used:.0%})",
                  "late: not used", "training loss", "test loss", "virtual seconds of steps",
                  "MB sent, up and down"):  # fmt: skip
        assert words in shown
    assert "lost" not in shown


def test_lost_workers_are_shown(runs, tmp_path):
    folder = tmp_path / "run"
    simulate(StartingPoint(parse(RUN, ["steps=8"]), folder), Watcher())
    lines = [json.loads(line) for line in (folder / "steps.jsonl").read_text().splitlines()]
    for line in lines[4:]:
        line["lost"], line["replies"] = [5], [worker for worker in line["replies"] if worker != 5]
        line["reply_seconds"] = line["reply_seconds"][: len(line["replies"])]
    (folder / "steps.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (file,) = plot([folder], tmp_path / "a.svg")
    assert "lost" in text(file)


def test_two_methods_with_one_seed_met_the_same_delays_and_it_says_so(runs, tmp_path):
    (same,) = plot([runs / "one", runs / "other"], tmp_path / "same.svg")
    assert "Delays met: the same delays, of every worker in every step" in text(same)
    assert all(name in text(same) for name in ("one", "other", "share of steps that took no longer"))
    (different,) = plot([runs / "one", runs / "reseeded"], tmp_path / "different.svg")
    assert "Delays met: not the same delays" in text(different)


def test_accuracy_and_metrics_of_ones_own_have_panels(runs, tmp_path):
    folders = []
    for name in ("one", "other"):
        folder = tmp_path / name
        shutil.copytree(runs / name, folder)
        lines = [json.loads(line) for line in (folder / "steps.jsonl").read_text().splitlines()]
        for line in lines:
            line["metrics"] = {"largest weight": line["step"] / 10}
            if line["step"] % 10 == 9:
                line["test_accuracy"] = 0.5
        (folder / "steps.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        folders.append(folder)
    for several in (folders[:1], folders):
        shown = text(plot(several, tmp_path / "a.svg")[0])
        assert "largest weight" in shown
        assert "test accuracy" in shown
    assert "largest weight" not in text(plot([runs / "one"], tmp_path / "a.svg")[0])


def test_a_comparison_says_what_differs_and_a_mean_that_it_is_one(runs, tmp_path):
    shown = text(plot([runs / "one", runs / "other"], tmp_path / "a.svg")[0])
    assert "compressor.kind: identity / sign; steps: 45 / 30; wait.count: - / 6" in shown
    shutil.copytree(runs / "one", tmp_path / "one")
    assert "one, other" in shown
    assert "the same config" in text(plot([runs / "one", tmp_path / "one"], tmp_path / "a.svg")[0])
    simulate(StartingPoint(parse(RUN, ["steps=160"]), tmp_path / "long"), Watcher())
    assert "training loss (mean over the last 4 steps)" in text(plot([tmp_path / "long"], tmp_path / "a.svg")[0])


def test_workers_are_whole_numbers(runs, tmp_path, monkeypatch):
    from gcdl.analysis import run_figure

    ticks = []
    original = run_figure._who

    def watched(axes, run):
        original(axes, run)
        ticks.extend([*axes.get_yticks(), *axes.get_xticks()])

    monkeypatch.setattr(run_figure, "_who", watched)
    simulate(StartingPoint(parse(RUN, ["workers=2", "steps=2"]), tmp_path / "two"), Watcher())
    plot([tmp_path / "two"], tmp_path / "a.svg")
    assert ticks
    assert all(tick == round(tick) for tick in ticks)


def test_the_same_runs_give_the_same_file(runs, tmp_path):
    plot([runs / "one", runs / "other"], tmp_path / "a.svg")
    plot([runs / "one", runs / "other"], tmp_path / "b.svg")
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()


def test_a_run_without_losses_is_drawn_too(runs, tmp_path):
    (file,) = plot([runs / "clock"], tmp_path / "clock.svg")
    assert "no losses: timing only" in text(file)
    plot([runs / "clock", runs / "one"], tmp_path / "both.png")


def test_bad_names_and_folders(runs, tmp_path):
    with pytest.raises(UsageError, match=r"--out .*a\.pdf: must end in \.png or \.svg"):
        plot([runs / "one"], tmp_path / "a.pdf")
    with pytest.raises(UsageError, match="cannot be written"):
        plot([runs / "one"], tmp_path / "no" / "a.png")
    with pytest.raises(DataError, match="not a run folder"):
        plot([tmp_path], tmp_path / "a.png")


def test_without_matplotlib_the_error_names_the_extra_and_neither_needs_torch(runs):
    script = (
        "import sys; sys.modules['matplotlib'] = None\n"
        f"sys.argv = ['gcdl', 'plot', {str(runs / 'one')!r}]\n"
        "import gcdl.cli\n"
        "try: gcdl.cli.main()\n"
        "except SystemExit as end: code = end.code\n"
        "assert 'torch' not in sys.modules\n"
        "sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert done.stderr.startswith("gcdl: gcdl plot needs matplotlib: pip install '.[plots]'")


@pytest.mark.parametrize("verb", ["replay", "trace", "plot"])
def test_the_commands_on_what_is_no_run_folder(verb, tmp_path):
    done = subprocess.run([sys.executable, "-m", "gcdl", verb, str(tmp_path)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert (
        done.stderr.strip().replace("\n", "") == f"gcdl: {tmp_path}: not a run folder (it has no config.toml and steps.jsonl)"
    )


def test_trace_and_plot_do_not_import_torch(runs, tmp_path):
    for arguments in (["trace", str(runs / "one")], ["plot", str(runs / "one"), "--out", str(tmp_path / "a.png")]):
        script = (
            f"import sys; sys.argv = ['gcdl', *{arguments!r}]\n"
            "import gcdl.cli\n"
            "try: gcdl.cli.main()\n"
            "except SystemExit as end: code = end.code\n"
            "assert 'torch' not in sys.modules\n"
            "sys.exit(code)"
        )
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stdout + done.stderr
